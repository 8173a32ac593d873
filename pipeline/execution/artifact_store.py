"""Ownership of `pipeline.artifacts`: a folder of artifacts outside the run's folder belongs to one metadata store.

TFX names the folders of artifacts by the ids of the executions. A second metadata store would count from one again, and
mix its files with the existing ones.
"""

from __future__ import annotations

import uuid

from pipeline.config.messages import ConfigError
from pipeline.config.sections import PipelineConfig
from trainer_module import locations

MARKER = "record.id"


def claim(config: PipelineConfig) -> None:
    """Marks the folder as that of this metadata store, or checks the mark; does nothing without `pipeline.artifacts`.

    Raises:
      ConfigError: If the folder is not writable, or belongs to another metadata store.
    """
    if config.pipeline.artifacts is None:
        return
    location = config.artifacts_location
    own_path = config.run_dir / MARKER
    # A new metadata store has no id yet; the file keeps the id of the previous one, in case that is restored.
    own = own_path.read_text() if own_path.exists() and config.metadata_path.exists() else ""
    marker = locations.join(location, MARKER)
    try:
        with locations.os_errors(location):
            files = locations.file_system(location)
            files.makedirs(location)
            names = {name.rstrip("/") for name in files.listdir(location)}
            if names <= {MARKER}:  # the folder is new
                own = own or uuid.uuid4().hex
                own_path.parent.mkdir(parents=True, exist_ok=True)
                own_path.write_text(own)
                with files.GFile(marker, "w") as file:
                    file.write(own)
                return
        owner = locations.read(marker).decode() if MARKER in names else ""
    except OSError as error:
        raise ConfigError(
            f"pipeline.artifacts: cannot write to {error.filename or location}: {error.strerror}. Check the name "
            "and the permissions."
        ) from None
    if not own or owner != own:
        raise ConfigError(
            f"pipeline.artifacts: {location} contains artifacts of another metadata store than {config.metadata_path}. "
            "Give this pipeline another name (--set pipeline.name=NAME) or another folder, or restore that metadata "
            "store."
        )
