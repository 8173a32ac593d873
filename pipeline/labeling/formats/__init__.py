"""The folder is the registry: one file per labelling program, which exports its `FORMAT`, a `LabelFormat`."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from components.image_example_gen.errors import DatasetError
from pipeline.labeling.formats._spec import Annotated as Annotated
from pipeline.labeling.formats._spec import Annotations as Annotations
from pipeline.labeling.formats._spec import LabelFormat as LabelFormat
from pipeline.labeling.formats._spec import LabelProject as LabelProject
from pipeline.labeling.formats._spec import ProposedImage as ProposedImage
from trainer_module.registry import Registry

_REGISTRY = Registry(__name__, "format", LabelFormat)
names, get = _REGISTRY.names, _REGISTRY.get


class ExportedFiles(NamedTuple):
    """The files that were written beside the images.

    Attributes:
      names: All.
      for_labels: Those of the formats that can contain the labels of the project.
    """

    names: tuple[str, ...]
    for_labels: tuple[str, ...]


def export(folder: Path, images: Sequence[ProposedImage], project: LabelProject) -> ExportedFiles:
    """Writes the files of all formats into a folder with images."""
    written = [(name, entry) for entry in map(get, names()) for name in entry.export(folder, images, project)]
    for_labels = tuple(name for name, entry in written if entry.has_labels_of(project))
    return ExportedFiles(tuple(name for name, _ in written), for_labels)


def of_project(project: LabelProject) -> list[LabelFormat]:
    """Returns the formats whose files can contain the labels of a project."""
    return [entry for entry in map(get, names()) if entry.has_labels_of(project)]


def of_file(path: Path, project: LabelProject) -> LabelFormat:
    """Returns the format of a file with annotations, by its name and first bytes.

    Raises:
      DatasetError: If no format reads it, or if its files cannot contain the labels of the project.
    """
    with path.open("rb") as file:
        head = file.read(2**16)
    shown = "; ".join(entry.description for entry in of_project(project))
    for entry in map(get, names()):
        if entry.is_one(path.name, head):
            if not entry.has_labels_of(project):
                raise DatasetError(
                    f"{path}: {entry.description} cannot contain masks or boxes. Files that can: {shown}."
                )
            return entry
    raise DatasetError(f"{path}: not a file with annotations that is read here: {shown}.")
