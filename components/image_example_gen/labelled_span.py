"""The folder of a span that was labelled after the push: a manifest of its images, and where each comes from.

It is read in the same way whatever layout the other spans have, so that a dataset in any layout can grow. The labels
are those that a person or a later measurement has confirmed, never predictions of a model.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping, Sequence
from typing import ClassVar, Literal, NamedTuple

import numpy as np

from components.image_example_gen import class_list, files, label_sets, labels
from components.image_example_gen.labels import Value
from components.image_example_gen.mask_encoding import MaskEncoding
from components.image_example_gen.options import DataOptions
from components.stored import Stored, StoredPart
from trainer_module import features
from trainer_module.locations import join

IMAGES_FOLDER, MASKS_FOLDER, MANIFEST_FILE = "images", "masks", "manifest.csv"
_BOX_COLUMNS = ("xmin", "ymin", "xmax", "ymax")
_CORNERS = (features.BOX_XMIN, features.BOX_YMIN, features.BOX_XMAX, features.BOX_YMAX)


class ImageOrigin(StoredPart):
    """The origin of an image and its label.

    Attributes:
      source: The image: a path, or the request log.
      request_id: Of the request that contained the image; empty if there is none.
      confirmed_by: Who or what confirmed the label: `feedback`, `label_studio`, `cvat`, `table`, `studio`.
      sha256: Hex digest of the image file.
    """

    source: str = ""
    request_id: str = ""
    confirmed_by: str
    sha256: str


class Provenance(Stored):
    """The origins of the images and labels of a span; the file shows that tfx-vision wrote the span.

    Attributes:
      created: When the span was written, ISO 8601 in UTC.
      origins: By the path of the image in the span.
    """

    FILE: ClassVar[str] = "provenance.json"

    format: Literal[1] = 1
    created: str
    origins: dict[str, ImageOrigin]


def is_one(root: str) -> bool:
    """Whether tfx-vision wrote the folder."""
    return files.is_file(join(root, Provenance.FILE))


def options_of(options: DataOptions) -> DataOptions:
    """Returns the options that read such a folder in a dataset that is read with the given ones."""
    has_sets = options.allows_label_sets or options.labels_from == "boxes"
    return options.model_copy(
        update={
            "layout": "manifest",
            **dict.fromkeys(("manifest", "path_column", "label_column", "label_columns", "metadata_csv")),
            **dict.fromkeys(("images_folder", "masks_folder", "group_column")),
            "label_separator": label_sets.SEPARATOR if has_sets else None,
            "labels_from": "auto",
        }
    )


class Row(NamedTuple):
    """One image of the manifest.

    Attributes:
      path: Relative to the folder of the span.
      label: Raw example features of the label; boxes relative to the upright image, masks as a path.
      width: Of the upright image, pixels.
      height: Of the upright image, pixels.
      split: Split that the label was given for; empty if it is drawn.
    """

    path: str
    label: Mapping[str, Sequence[Value]]
    width: int
    height: int
    split: str = ""


def manifest(rows: Sequence[Row], label_features: Sequence[str]) -> str:
    """Returns the manifest as CSV.

    Args:
      rows: The images.
      label_features: Raw example features of the dataset's label.
    """
    if labels.has_boxes(label_features):
        columns, lines = _box_lines(rows)
    elif labels.has_class_ids(label_features):
        columns, lines = ["path", "mask"], [[row.path, row.label[features.MASK_ENCODED][0]] for row in rows]
    else:
        columns = ["path", "label"]
        lines = [
            [row.path, label_sets.SEPARATOR.join(map(str, row.label.get(features.CLASS_TEXT, ())))] for row in rows
        ]
    if any(row.split for row in rows):
        columns.append("split")
        splits = {row.path: row.split for row in rows}
        lines = [[*line, splits[str(line[0])]] for line in lines]
    buffer = io.StringIO()
    writer = csv.writer(buffer, lineterminator="\n")
    writer.writerow(columns)
    writer.writerows(lines)
    return buffer.getvalue()


def _box_lines(rows: Sequence[Row]) -> tuple[list[str], list[list[Value]]]:
    """Writes fractions, and the size that shows which pixels they refer to; an image without boxes has a row too."""
    lines: list[list[Value]] = []
    for row in rows:
        size: list[Value] = [row.width, row.height]
        names = row.label.get(features.BOX_CLASSES, ())
        corners = zip(*(row.label.get(key, ()) for key in _CORNERS), strict=True)
        flags = (row.label.get(key) or [0] * len(names) for key in (features.BOX_DIFFICULT, features.BOX_IS_CROWD))
        boxes: list[list[Value]] = [
            [*(float(value) for value in box), name, *flag]
            for box, name, *flag in zip(corners, names, *flags, strict=True)
        ]
        lines += [[row.path, *box, *size] for box in boxes or [[""] * 7]]
    return ["path", *_BOX_COLUMNS, "label", "difficult", "is_crowd", "width", "height"], lines


def encode_mask(ids: np.ndarray, encoding: MaskEncoding) -> bytes:
    """Writes a mask as those of the dataset are written.

    Args:
      ids: uint8 [height, width], class ids and the ignored id.
      encoding: Of the dataset.

    Returns:
      A PNG file.
    """
    from PIL import Image

    if encoding.colors:
        table = np.zeros((256, 3), np.uint8)
        table[: len(encoding.colors)] = encoding.colors
        if encoding.ignore_id is not None and encoding.ignored_colors:
            table[encoding.ignore_id] = encoding.ignored_colors[0]
        image = Image.fromarray(table[ids])
    else:
        values = np.arange(256, dtype=np.uint16)
        values[: len(encoding.class_values)] = encoding.class_values
        if encoding.source == "alpha":
            alpha = values[ids].astype(np.uint8)
            image = Image.fromarray(np.stack([np.zeros_like(alpha), alpha], axis=-1), "LA")
        else:
            wide = int(values[ids].max(initial=0)) > 255
            image = Image.fromarray(values[ids] if wide else values[ids].astype(np.uint8))
    buffer = io.BytesIO()
    image.save(buffer, "PNG")
    return buffer.getvalue()


def class_file(previous: str) -> bytes | None:
    """Returns the list of classes of an earlier span, which every span with masks needs; None if it has none."""
    location = join(previous, class_list.CLASSES_FILE)
    return files.read(previous, class_list.CLASSES_FILE) if files.is_file(location) else None
