"""The folder of artifacts, where it is not in the run's own: it belongs to one record of runs.

TFX counts a record's executions, and the folders of artifacts are called by these numbers. A second record would count
from one again, and mix its files with those that are there.
"""

from __future__ import annotations

import uuid

from pipeline.config.messages import ConfigError
from pipeline.config.sections import PipelineConfig
from trainer_module import locations

MARKER = "record.id"


def claim(config: PipelineConfig) -> None:
    """Marks the folder as that of this record, or sees that it is; does nothing where `pipeline.artifacts` is not said.

    Raises:
      ConfigError: If nothing can be written there, or if it is another record's.
    """
    if config.pipeline.artifacts is None:
        return
    location = config.artifacts_location
    own_path = config.run_dir / MARKER
    # A record that was begun anew is another one; the id of the one before is left for who puts that back.
    own = own_path.read_text() if own_path.exists() and config.metadata_path.exists() else ""
    marker = locations.join(location, MARKER)
    try:
        with locations.os_errors(location):
            files = locations.file_system(location)
            files.makedirs(location)
            names = {name.rstrip("/") for name in files.listdir(location)}
            if names <= {MARKER}:  # nothing else is there yet
                own = own or uuid.uuid4().hex
                own_path.parent.mkdir(parents=True, exist_ok=True)
                own_path.write_text(own)
                with files.GFile(marker, "w") as file:
                    file.write(own)
                return
        found = locations.read(marker).decode() if MARKER in names else ""
    except OSError as error:
        raise ConfigError(
            f"pipeline.artifacts: nothing can be written to {error.filename or location}: {error.strerror}. Look at "
            "its name, and at who may write there."
        ) from None
    if not own or found != own:
        raise ConfigError(
            f"pipeline.artifacts: {location} holds what another record of runs knows, not {config.metadata_path}. Give "
            "this pipeline another name (--set pipeline.name=NAME) or another folder, or put that record back."
        )
