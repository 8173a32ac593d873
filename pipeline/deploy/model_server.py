"""Writes out what it takes to run TF Serving in production, for the model of one configuration."""

from __future__ import annotations

from pathlib import Path

import serving
from pipeline.config.sections import PipelineConfig

# The files as they are shipped are whole, and for this model.
_SHIPPED_MODEL = "digits"
_FOLDER = Path(serving.__path__[0]) / "deploy"


class NotEmptyError(Exception):
    """The folder holds something already, which may be somebody's work; the message says so."""


def write(config: PipelineConfig, output: Path) -> list[Path]:
    """Writes the compose file, the Kubernetes manifests, and the server's own configuration.

    Args:
      config: Names the model, and the folder of its versions.
      output: A folder; created if it is missing.

    Returns:
      The files, in alphabetical order.

    Raises:
      NotEmptyError: If there is something in the folder.
      OSError: If it cannot be written.
    """
    if output.is_dir() and any(output.iterdir()):
        raise NotEmptyError(f"{output} is not empty. Name another folder, or empty it.")
    written = []
    for path in sorted(path for path in _FOLDER.rglob("*") if path.is_file()):
        target = output / path.relative_to(_FOLDER)
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_text(path.read_text().replace(_SHIPPED_MODEL, config.model_name))
        written.append(target)
    # Compose reads it by itself.
    environment = output / ".env"
    environment.write_text(f"MODELS_DIR='{config.model_base_path}'\n")
    return sorted([*written, environment])
