"""Regions of labelling programs → labels: masks of class ids, and boxes that fit their image."""

from __future__ import annotations

import io
from collections.abc import Iterable, Sequence
from typing import NamedTuple

import numpy as np

from components.image_example_gen import boxes
from components.image_example_gen.boxes import Annotation
from components.image_example_gen.errors import UnusableImageError
from pipeline.labeling.confirmed import Label
from pipeline.labeling.formats._spec import LabelProject
from pipeline.labeling.image_files import mask_ids
from trainer_module import features
from trainer_module.error_text import did_you_mean

_MOST_PIXELS = 2**28


class Region(NamedTuple):
    """The pixels of one object or area.

    Attributes:
      name: Class name.
      inside: bool [height, width].
    """

    name: str
    inside: np.ndarray


def empty(width: int, height: int) -> np.ndarray:
    """Returns no pixels: bool [height, width].

    Raises:
      UnusableImageError: If the size is not that of an image.
    """
    if not 0 < width * height <= _MOST_PIXELS:
        raise UnusableImageError(f"a mask of {width} x {height} pixels")
    return np.zeros((height, width), bool)


def polygon(points: Sequence[tuple[float, float]], width: int, height: int) -> np.ndarray:
    """Returns the pixels whose centre is inside a polygon, given by x and y in pixels: bool [height, width].

    Pillow's polygon also draws the pixels that its border touches.
    """
    inside = empty(width, height)
    centers = np.arange(width) + 0.5
    corners = np.array(points, float)
    starts, ends = corners, np.roll(corners, -1, axis=0)
    for row in range(height):
        crosses = (starts[:, 1] <= row + 0.5) != (ends[:, 1] <= row + 0.5)
        (x, y), (end_x, end_y) = starts[crosses].T, ends[crosses].T
        at = np.sort(x + (row + 0.5 - y) * (end_x - x) / (end_y - y))
        inside[row] = np.searchsorted(at, centers, side="right") % 2 == 1
    return inside


def rectangle(corners: Sequence[float], width: int, height: int) -> np.ndarray:
    """Returns the pixels inside a box, given by xmin, ymin, xmax and ymax in pixels: bool [height, width]."""
    inside = empty(width, height)
    left, top, right, bottom = (round(value) for value in corners)
    inside[max(top, 0) : max(bottom, 0), max(left, 0) : max(right, 0)] = True
    return inside


def class_id(name: str, project: LabelProject) -> int:
    """Returns the id of a class.

    Raises:
      UnusableImageError: If the dataset has no such class.
    """
    if name not in project.classes:
        raise UnusableImageError(f"unknown class `{name}`{did_you_mean(name, project.classes) or ''}")
    return project.classes.index(name)


def mask_regions(label: Label, project: LabelProject) -> list[Region]:
    """Returns a region for every class of a mask, except that of pixels without a region."""
    ids = mask_ids(label)
    return [
        Region(project.classes[number], ids == number)
        for number in np.unique(ids).tolist()
        if number != project.fill_id and number < len(project.classes)
    ]


def mask_label(regions: Iterable[Region], width: int, height: int, project: LabelProject) -> Label:
    """Draws regions over each other, the last one on top.

    Raises:
      UnusableImageError: If a class is unknown, or if pixels have no class and `project.fill_id` is None.
    """
    ids = np.zeros((height, width), np.uint8)
    covered = empty(width, height)
    for region in regions:
        if region.inside.shape != covered.shape:
            raise UnusableImageError(f"a region of another size than {width} x {height} pixels")
        ids[region.inside] = class_id(region.name, project)
        covered |= region.inside
    if not covered.all():
        if project.fill_id is None:
            raise UnusableImageError(
                f"{int((~covered).sum()):,} pixels without a class; label them, or set the class of such pixels "
                "(--fill-class)"
            )
        ids[~covered] = project.fill_id
    return {features.MASK_ENCODED: [png_of(ids)]}


def png_of(ids: np.ndarray) -> bytes:
    """Writes class ids as a PNG: uint8 [height, width]."""
    from PIL import Image

    buffer = io.BytesIO()
    Image.fromarray(ids).save(buffer, "PNG")
    return buffer.getvalue()


def box_label(annotation: Annotation, width: int, height: int) -> Label:
    """Fits boxes to the upright image, as ImageExampleGen does.

    Raises:
      UnusableImageError: If a box is outside of the image.
    """
    fitted = boxes.normalize(annotation, height=height, width=width, drawn_on="upright").boxes
    keys = (*features.BOX_CORNERS, features.BOX_CLASSES, features.BOX_DIFFICULT, features.BOX_IS_CROWD)
    label = boxes.raw_label(fitted, height=height, width=width)
    return {key: label[key] for key in keys}


def class_label(names: Sequence[str], project: LabelProject) -> Label:
    """Returns the classes of an image as a label.

    Raises:
      UnusableImageError: If the dataset has one class per image, and these are not exactly one.
    """
    distinct = sorted(set(names))
    if not project.has_sets and len(distinct) != 1:
        raise UnusableImageError(f"{len(distinct)} classes instead of one" if distinct else "no class")
    return {features.CLASS_TEXT: distinct}
