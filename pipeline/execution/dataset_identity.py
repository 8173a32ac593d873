"""The dataset that a pipeline belongs to: a run on another dataset must not continue its history or replace its model.

The folder of the pipeline contains the identity of its dataset in `dataset.json`, and every pushed version has it in
its manifest, since several pipelines can push to one folder of served models.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import re
from collections.abc import Iterable, Mapping
from typing import ClassVar, Literal, NamedTuple, Self

from pydantic import Field, ValidationError

from components.image_example_gen import files
from components.image_example_gen.dataset import Dataset
from components.image_example_gen.stored_entries import SKETCH_SIZE, sketch
from components.stored import IncompatibleArtifactError, Stored
from pipeline.config.messages import ConfigError
from pipeline.config.names import name_of_data
from pipeline.config.sections import PipelineConfig
from pipeline.nodes import NODE_IDS
from trainer_module import features, locations, model_versions
from trainer_module.locations import join

_HEAD_BYTES = 65_536
# A folder with at least this share of the files of another one is that folder, moved.
_MOVED = 0.5
_SHOWN_CLASSES = 5


class DatasetIdentity(Stored):
    """Identity of a dataset.

    Attributes:
      root: Location of the dataset, as `data.path` with an absolute path; empty if unknown.
      classes: Class names.
      files: Digest of the path → digest of size and content, for some files: those whose paths have the smallest
        digests, so that two datasets with common files have common entries (a MinHash sketch; Broder 1997,
        https://doi.org/10.1109/SEQUEN.1997.666900).
      fingerprint: That of the last run.
      adopted: Roots of the datasets that this one replaced by `--adopt`.
    """

    FILE: ClassVar[str] = "dataset.json"

    format: Literal[1] = 1
    root: str
    classes: tuple[str, ...]
    files: dict[str, str] = Field(default_factory=dict)
    fingerprint: str = ""
    adopted: tuple[str, ...] = ()

    @classmethod
    def of(cls, config: PipelineConfig, dataset: Dataset) -> Self:
        """Returns the identity of the dataset of a run."""
        return cls(
            root=config.data_location,
            classes=dataset.classes,
            files=_sketch(dataset),
            fingerprint=dataset.fingerprint,
        )

    def provenance(self) -> str:
        """Returns what Pusher stores, as JSON, with the classes of the model: the same for every run on the dataset."""
        return self.model_dump_json(exclude={"classes", "fingerprint", "adopted"})


class Relation(NamedTuple):
    """How a dataset relates to an earlier one.

    Attributes:
      is_other: Whether it is another dataset.
      note: What has changed, if it is the same dataset; may be empty.
    """

    is_other: bool
    note: str = ""


def compare(earlier: DatasetIdentity, current: DatasetIdentity) -> Relation:
    """Decides whether a dataset is the earlier one.

    In the same location, it is, unless the two have no class in common. In another location, it is if they have at
    least half of their files and a class in common: then the folder was moved. Equal class names are
    not enough: many datasets have the classes `good` and `bad`.
    """
    added = [name for name in current.classes if name not in earlier.classes]
    removed = [name for name in earlier.classes if name not in current.classes]
    has_common_classes = len(removed) < len(earlier.classes) or not earlier.classes
    moved = bool(earlier.root) and earlier.root != current.root
    if not has_common_classes or (moved and _common_files(earlier.files, current.files) < _MOVED):
        return Relation(is_other=True)
    changes = [f"the dataset moved from {earlier.root}"] if moved else []
    changes += [f"new classes: {_listed(added)}"] if added else []
    changes += [f"classes that are gone: {_listed(removed)}"] if removed else []
    return Relation(is_other=False, note="; ".join(changes))


def check(config: PipelineConfig, dataset: Dataset, *, to_node: str, adopt: bool) -> tuple[Dataset, DatasetIdentity]:
    """Refuses a dataset that does not belong to this pipeline, or that would replace the served model of another one.

    Args:
      config: The whole configuration.
      dataset: The inspected dataset.
      to_node: Last node of the run.
      adopt: Whether the dataset replaces that of the earlier runs.

    Returns:
      The dataset, with a note if it has moved or has other classes; and its identity, to be stored when the run has
      read it.

    Raises:
      ConfigError: If it is another dataset.
    """
    current = DatasetIdentity.of(config, dataset)
    earlier = read(config)
    relation = compare(earlier, current) if earlier else Relation(is_other=False)
    if earlier and relation.is_other and not adopt:
        raise ConfigError(
            f"Pipeline `{config.pipeline.name}` in {config.run_dir} belongs to another dataset: {_described(earlier)}. "
            f"This run has {_described(current)}. Give it another name (--set pipeline.name={free_name(config)}), or "
            "continue the pipeline with the new dataset (--adopt)."
        )
    adopted = earlier.adopted if earlier else ()
    if earlier and relation.is_other:
        adopted = tuple(dict.fromkeys((*adopted, earlier.root)))
    current = current.model_copy(update={"adopted": adopted})
    if NODE_IDS.index(to_node) >= NODE_IDS.index("Pusher"):
        current = _check_served(config, current, adopt=adopt)
    notes = (*dataset.notes, relation.note) if relation.note else dataset.notes
    return dataclasses.replace(dataset, notes=notes), current


def read(config: PipelineConfig) -> DatasetIdentity | None:
    """Reads the identity of the dataset that the pipeline belongs to; None if no run has stored one.

    Raises:
      ConfigError: If the file is damaged.
    """
    try:
        return DatasetIdentity.read(str(config.run_dir))
    except FileNotFoundError:
        return None
    except IncompatibleArtifactError as error:
        path = config.run_dir / DatasetIdentity.FILE
        raise ConfigError(f"{error} Or delete {path}: the next run stores its dataset.") from None


def store(config: PipelineConfig, identity: DatasetIdentity) -> None:
    """Stores the identity in the folder of the pipeline.

    Raises:
      OSError: If it cannot be written.
    """
    config.run_dir.mkdir(parents=True, exist_ok=True)
    identity.write(str(config.run_dir))


def free_name(config: PipelineConfig) -> str:
    """Proposes a name for a pipeline on this dataset that has no runs yet."""
    path = config.data_location
    above = re.sub(r"[^a-z0-9]+", "-", "-".join(path.partition("{")[0].rstrip("/").split("/")[-2:]).lower()).strip("-")
    names = [name_of_data(path, default=""), above[-60:].strip("-"), config.pipeline.name[:60]]
    candidates = [*filter(None, names), *(f"{config.pipeline.name[:58]}-{number}" for number in range(2, 1000))]
    return next(
        (name for name in candidates if not (config.pipeline.root.expanduser() / name).exists()), candidates[-1]
    )


# === The served model ===


def _check_served(config: PipelineConfig, current: DatasetIdentity, *, adopt: bool) -> DatasetIdentity:
    """Refuses to replace a served model of another dataset; returns the identity, with what it adopts."""
    base = config.model_base_path
    try:
        with locations.os_errors(base):
            served = _served_dataset(base)
    except OSError:  # the store cannot be read from here; Pusher reports it if it is needed
        return current
    if served is None or served.root in current.adopted or not compare(served, current).is_other:
        return current
    if adopt:
        return current.model_copy(update={"adopted": (*current.adopted, served.root)})
    key = "serving.model_name" if config.serving.model_name else "pipeline.name"
    raise ConfigError(
        f"The served model `{config.model_name}` in {base} belongs to another dataset: {_described(served)}. This "
        f"run has {_described(current)}, and would replace the model. Give it another name (--set "
        f"{key}={free_name(config)}), or continue with the new dataset (--adopt)."
    )


def _served_dataset(base: str) -> DatasetIdentity | None:
    """Returns the dataset of the newest served version; None if there is no version or nothing is known about it."""
    versions = model_versions.list_versions(base).served
    if not versions:
        return None
    version = join(base, str(versions[0]))
    try:
        manifest = json.loads(locations.read(join(version, model_versions.MANIFEST_FILE)))
        return DatasetIdentity.model_validate(manifest["dataset"])
    except (FileNotFoundError, ValueError, KeyError, TypeError, ValidationError):
        pass  # pushed by an earlier release, or by another program
    try:
        classes = json.loads(locations.read(join(version, features.LABELS_FILE)))
    except (FileNotFoundError, ValueError):
        return None
    if not isinstance(classes, list):
        return None
    # Without a location and files, only the classes can differ.
    return DatasetIdentity(root="", classes=tuple(map(str, classes)))


# === Describing ===


def _described(identity: DatasetIdentity) -> str:
    place = f"{identity.root} " if identity.root else ""
    return f"{place}({len(identity.classes)} classes: {_listed(identity.classes)})"


def _listed(names: Iterable[str]) -> str:
    names = list(names)
    rest = f" and {len(names) - _SHOWN_CLASSES} more" if len(names) > _SHOWN_CLASSES else ""
    return ", ".join(names[:_SHOWN_CLASSES]) + rest


# === Files ===


def _sketch(dataset: Dataset) -> dict[str, str]:
    chosen = dict(dataset.sketch or sketch(dataset.entries))
    # Names and sizes are not enough: uncompressed images of one size are equally large, and often just numbered.
    heads = files.read_all(dataset.root, [entry.path for entry in chosen.values()], _HEAD_BYTES)
    return {
        digest: _digest(b"%d %b" % (entry.size, b"" if isinstance(head, files.UnreadableFileError) else head))
        for (digest, entry), head in zip(chosen.items(), heads, strict=True)
    }


def _digest(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()[:16]


def _common_files(first: Mapping[str, str], second: Mapping[str, str]) -> float:
    """Estimates the share of the files of one dataset that the other contains, whichever share is larger."""
    return max(_share_inside(first, second), _share_inside(second, first))


def _share_inside(inner: Mapping[str, str], outer: Mapping[str, str]) -> float:
    """Estimates the share of the inner dataset's files that the outer one contains.

    A path of the inner dataset whose digest is not above the largest one of the outer sketch would be in that sketch if
    the outer dataset contained it.
    """
    complete = len(outer) < SKETCH_SIZE
    comparable = [digest for digest in inner if complete or digest <= max(outer)]
    return sum(outer.get(digest) == inner[digest] for digest in comparable) / len(comparable) if comparable else 0.0
