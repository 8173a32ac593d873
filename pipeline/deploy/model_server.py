"""Writes the files to run TF Serving in production, for the model of one configuration."""

from __future__ import annotations

from pathlib import Path

import serving
from pipeline.config.sections import PipelineConfig

# The shipped files are complete; they name this model.
_SHIPPED_MODEL = "digits"
_FOLDER = Path(serving.__path__[0]) / "deploy"


class NotEmptyError(Exception):
    """The output folder is not empty."""


def write(config: PipelineConfig, output: Path) -> list[Path]:
    """Writes the compose file, the Kubernetes manifests and the configuration of the server.

    Args:
      config: The name of the model and the folder of its versions are read.
      output: Folder; created if it is missing.

    Returns:
      The files, in alphabetical order.

    Raises:
      NotEmptyError: If the folder is not empty.
      OSError: If a file cannot be written.
    """
    if output.is_dir() and any(output.iterdir()):
        raise NotEmptyError(f"{output} is not empty. Choose another folder, or empty it.")
    written = []
    for path in sorted(path for path in _FOLDER.rglob("*") if path.is_file()):
        target = output / path.relative_to(_FOLDER)
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_text(path.read_text().replace(_SHIPPED_MODEL, config.model_name))
        written.append(target)
    # Docker Compose reads this file by default.
    environment = output / ".env"
    environment.write_text(f"MODELS_DIR='{config.model_base_path}'\n")
    return sorted([*written, environment])
