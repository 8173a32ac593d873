"""A table of the selected images, in which a person writes the classes. Masks and boxes need a labelling program."""

from __future__ import annotations

import csv
from collections.abc import Collection, Sequence
from pathlib import Path

from components.image_example_gen import labels, tables
from components.image_example_gen.errors import UnusableImageError
from components.image_example_gen.label_sets import SEPARATOR, split
from pipeline.labeling.confirmed import Label
from pipeline.labeling.formats import _regions
from pipeline.labeling.formats._spec import Annotated, Annotations, LabelFormat, LabelProject, ProposedImage
from trainer_module import features

TABLE_FILE = "selected.csv"
FILENAME, LABEL, REQUEST_ID, SOURCE = "filename", "label", "request_id", "source"
COLUMNS = (FILENAME, "reason", "uncertainty", "novelty", "proposed_label", LABEL, REQUEST_ID, SOURCE)


def _has_labels_of(label_features: Collection[str]) -> bool:
    return not labels.has_boxes(label_features) and not labels.has_class_ids(label_features)


def _export(folder: Path, images: Sequence[ProposedImage], project: LabelProject) -> None:
    # Also without labels: the table says why an image was chosen, and where it comes from.
    columns = [name for name in COLUMNS if name != LABEL or _has_labels_of(project.label_features)]
    with (folder / TABLE_FILE).open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, columns, extrasaction="ignore", lineterminator="\n")
        writer.writeheader()
        for image in images:
            scores = f"{image.uncertainty:.4f}", f"{image.novelty:.4f}"
            proposal = describe(image.proposal) if image.proposal is not None else ""
            row = (image.path, image.reason, *scores, proposal, "", image.request_id, image.source)
            writer.writerow(dict(zip(COLUMNS, row, strict=True)))


def describe(label: Label) -> str:
    """Returns the class names of a label, as `cat|dog`; of boxes each once, and of a mask nothing."""
    names = label.get(features.CLASS_TEXT, label.get(features.BOX_CLASSES, ()))
    return SEPARATOR.join(dict.fromkeys(map(str, names)))


def _is_one(name: str, head: bytes) -> bool:
    first_line = head.removeprefix(b"\xef\xbb\xbf").split(b"\n", 1)[0].decode("utf-8", "replace")
    return name.lower().endswith(".csv") and {FILENAME, LABEL} <= set(first_line.strip().replace(";", ",").split(","))


def _read(path: Path, project: LabelProject) -> Annotations:
    table = tables.read(str(path.absolute()))
    images, skipped = list[Annotated](), list[tuple[str, str]]()
    for row in table.rows:
        name, text = row.values[FILENAME], row.values[LABEL]
        try:
            if not text:
                raise UnusableImageError("no label")
            names = split(text, SEPARATOR) if project.has_sets else [text]
            images.append(Annotated(name, _regions.class_label(names, project)))
        except UnusableImageError as error:
            skipped.append((name or f"line {row.line}", str(error)))
    return Annotations(tuple(images), tuple(skipped))


def origins(folder: Path) -> dict[str, tuple[str, str]]:
    """Reads the request id and the source of every image of a selection: by path; empty without a table."""
    path = folder / TABLE_FILE
    if not path.is_file():
        return {}
    table = tables.read(str(path.absolute()))
    return {
        row.values.get(FILENAME, ""): (row.values.get(REQUEST_ID, ""), row.values.get(SOURCE, "")) for row in table.rows
    }


FORMAT = LabelFormat(
    name="table",
    description=f"{TABLE_FILE} with the classes in the column `{LABEL}`",
    is_one=_is_one,
    files=(TABLE_FILE,),
    export=_export,
    read=_read,
    has_labels_of=_has_labels_of,
)
