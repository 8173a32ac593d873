"""The folder is the registry: one file per labelling program, which exports its `FORMAT`, a `LabelFormat`."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from pathlib import Path

from components.image_example_gen.errors import DatasetError
from pipeline.labeling.formats._spec import Annotated as Annotated
from pipeline.labeling.formats._spec import Annotations as Annotations
from pipeline.labeling.formats._spec import LabelFormat as LabelFormat
from pipeline.labeling.formats._spec import LabelProject as LabelProject
from pipeline.labeling.formats._spec import ProposedImage as ProposedImage
from trainer_module.registry import Registry

_REGISTRY = Registry(__name__, "format", LabelFormat)
names, get = _REGISTRY.names, _REGISTRY.get


def export(folder: Path, images: Sequence[ProposedImage], project: LabelProject) -> None:
    """Writes the files of all formats into a folder with images."""
    for name in names():
        get(name).export(folder, images, project)


def files() -> list[str]:
    """Returns the names of the files that `export` writes."""
    return [file for name in names() for file in get(name).files]


def of_labels(label_features: Collection[str]) -> list[LabelFormat]:
    """Returns the formats whose files can contain the labels of a dataset."""
    return [entry for entry in map(get, names()) if entry.has_labels_of(label_features)]


def files_for(label_features: Collection[str]) -> list[str]:
    """Returns the names of the files of these formats."""
    return [file for entry in of_labels(label_features) for file in entry.files]


def of_file(path: Path, project: LabelProject) -> LabelFormat:
    """Returns the format of a file with annotations, by its name and first bytes.

    Raises:
      DatasetError: If no format reads it, or if its files cannot contain the labels of the project.
    """
    with path.open("rb") as file:
        head = file.read(2**16)
    shown = "; ".join(entry.description for entry in of_labels(project.label_features))
    for entry in map(get, names()):
        if entry.is_one(path.name, head):
            if not entry.has_labels_of(project.label_features):
                raise DatasetError(
                    f"{path}: {entry.description} cannot contain masks or boxes. Files that can: {shown}."
                )
            return entry
    raise DatasetError(f"{path}: not a file with annotations that is read here: {shown}.")
