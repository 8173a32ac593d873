"""The columns of a table with one row per box."""

from __future__ import annotations

import re
from collections.abc import Collection, Sequence

CORNERS = ("xmin", "ymin", "xmax", "ymax")
ADVICE = f"write their corners into the columns {', '.join(CORNERS)}"
# Other names of these, in lower case and without separators.
_OTHER_CORNERS = (("x1", "y1", "x2", "y2"), ("left", "top", "right", "bottom"), ("xtl", "ytl", "xbr", "ybr"))
_SIZE = ("width", "height")  # of the annotated image, pixels
_OTHER_SIZE = ("imagewidth", "imageheight")
# Columns of boxes that are not corners.
_OTHER_BOXES = (
    *({"bbox"}, {"boundingbox"}, {"x", "y", "w", "h"}, {"x", "y", "width", "height"}),
    *({"xmin", "ymin", "width", "height"}, {"cx", "cy"}, {"xcenter", "ycenter"}, {"centerx", "centery"}),
    {"regionshapeattributes"},  # of VGG Image Annotator
)
FLAGS = ("difficult", "is_crowd")


def has_boxes(columns: Collection[str]) -> bool:
    """Whether a table has one row per box."""
    return corners_of(columns) is not None


def box_columns(columns: Collection[str]) -> tuple[str, ...]:
    """Returns the columns of corners, as they are written, and those that only tables of boxes have; empty without."""
    corners = corners_of(columns)
    return (*corners, *size_of(columns), *FLAGS) if corners else ()


def other_boxes(columns: Collection[str]) -> str:
    """Explains that a table has boxes in another form than corners; empty if it has not."""
    written = {_plain(column): column for column in columns}
    form = next((names for names in _OTHER_BOXES if names <= written.keys()), None)
    if form is None or has_boxes(columns):
        return ""
    shown = ", ".join(f"`{written[name]}`" for name in sorted(form))
    return f"has boxes in the columns {shown}; {ADVICE}"


def header_for(first_line: Sequence[str]) -> str:
    """Suggests a header for a table that has none, from its first line: of boxes, as RetinaNet's tables have them."""
    try:
        corners = [float(value) for value in first_line[1:5]]
    except ValueError:
        corners = []
    names = ("path", *CORNERS, "label") if len(corners) == len(CORNERS) and len(first_line) == 6 else ("path", "label")
    return ",".join(names)


def _plain(column: str) -> str:
    name = re.sub(r"[\W_]+", "", column.lower())
    return name.removeprefix("bbox") or name


def corners_of(columns: Collection[str]) -> tuple[str, str, str, str] | None:
    """Returns the columns of xmin, ymin, xmax and ymax; None if they are not all there."""
    if set(CORNERS) <= set(columns):
        return CORNERS
    written = {_plain(column): column for column in columns}
    for first, second, third, fourth in (CORNERS, *_OTHER_CORNERS):
        if {first, second, third, fourth} <= written.keys():
            return written[first], written[second], written[third], written[fourth]
    return None


def size_of(columns: Collection[str]) -> tuple[str, str]:
    """Returns the columns of width and height of the annotated image, as they are written or as they would be."""
    written = {re.sub(r"[\W_]+", "", column.lower()): column for column in columns}
    names = _OTHER_SIZE if set(_OTHER_SIZE) <= written.keys() else _SIZE
    return written.get(names[0], names[0]), written.get(names[1], names[1])
