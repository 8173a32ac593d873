"""The folder is the registry: one file per labelling program, which exports its `FORMAT`, a `LabelFormat`."""

from __future__ import annotations

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


def of_file(path: Path) -> LabelFormat:
    """Returns the format of a file with annotations, by its name and first bytes.

    Raises:
      DatasetError: If no format reads it.
    """
    with path.open("rb") as file:
        head = file.read(2**16)
    for name in names():
        entry = get(name)
        if entry.is_one(path.name, head):
            return entry
    shown = "; ".join(get(name).description for name in names())
    raise DatasetError(f"{path}: not a file with annotations that is read here: {shown}.")
