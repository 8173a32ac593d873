"""The disk of a run: whether a run fits on it, and the message if it is full."""

from __future__ import annotations

import shutil
from pathlib import Path

from components.image_example_gen.dataset import Dataset
from pipeline.config.messages import ConfigError
from pipeline.config.sections import PipelineConfig
from trainer_module.locations import is_remote

# ImageExampleGen writes every example twice before it deletes the first copy; a tf.Example adds little to its image.
_COPIES_OF_DATASET = 2.1
# Model, checkpoints, pushed copy, statistics and report: 17 MB with the preset `digits`; larger models need more.
_OTHER_BYTES = 50_000_000


def check(config: PipelineConfig, dataset: Dataset, *, examples_exist: bool = False) -> None:
    """Refuses a run that would fill the disk.

    Args:
      config: The whole configuration.
      dataset: The inspected dataset; the sizes of its files are known.
      examples_exist: Whether an earlier run has written the examples of this dataset.

    Raises:
      ConfigError: If the folder of the run, or the local folder of the artifacts, has too little space.
    """
    examples = 0 if examples_exist else round(_COPIES_OF_DATASET * dataset.num_bytes)
    remote = is_remote(config.artifacts_location)
    _require(config.run_dir, _OTHER_BYTES if remote else examples + _OTHER_BYTES, "pipeline.root")
    if not remote and config.pipeline.artifacts is not None:
        _require(Path(config.artifacts_location), examples + _OTHER_BYTES, "pipeline.artifacts")


def _require(folder: Path, num_bytes: int, key: str) -> None:
    free = free_bytes(folder)
    if free is not None and free < num_bytes:
        raise ConfigError(
            f"{folder}: the run needs about {format_bytes(num_bytes)}, and the disk has {format_bytes(free)} free. "
            f"Free some space, or use another disk: --set {key}=DIR."
        )


def free_bytes(path: Path) -> int | None:
    """Returns the free space of the disk of a path, which need not exist; None if that is unknown."""
    for folder in (path, *path.parents):
        try:
            return shutil.disk_usage(folder).free
        except FileNotFoundError:
            continue
        except OSError:
            return None
    return None


def format_bytes(num_bytes: int) -> str:
    """`1234567` → `1.2 MB`."""
    for unit, size in (("TB", 1e12), ("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if num_bytes >= size:
            return f"{num_bytes / size:.3g} {unit}"
    return f"{num_bytes} bytes"


def full_message(path: str | Path) -> str:
    """The message for a disk that has become full.

    Args:
      path: What could not be written.
    """
    return (
        f"the disk is full: {path} could not be written. Free some space, or use another disk (--set "
        "pipeline.root=DIR; TMPDIR for temporary files)."
    )
