"""Boxes: an annotation in the units of its file → normalised boxes of the upright image. Pure functions.

The layouts read annotations, and nothing else does; what a box means for its image is decided here, for all of them.

globox 2.9 (PyPI) was evaluated as the reader and is not used. It drops `difficult` and `iscrowd`, keeps boxes without
area or outside of the image, and stops at the first swapped corner, missing tag, unknown id or blank line, so that one
bad box loses the dataset. It parses XML with entities, JSON of any depth, and local files only, and does not read Label
Studio.
"""

from __future__ import annotations

import base64
import math
import statistics
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple, Self

import numpy as np

from components.image_example_gen.errors import UnusableImageError
from components.image_example_gen.mask_encoding import Orientation
from components.image_example_gen.observations import Observations, Occurrences
from trainer_module import features
from trainer_module.boxes.overlap import pairwise_iou

# Observations of single boxes (or, where the text says so, images) that were corrected or need attention.
CLIPPED = "boxes exceeded their image and were clipped"
SWAPPED = "boxes had swapped corners, which were exchanged"
EMPTY = "boxes without area were removed"
DUPLICATE = "duplicate boxes were removed"
POLYGON = "polygons or regions were replaced by their bounding boxes"
SEVERAL_CLASSES = "boxes equal another box of the same image with another class; both are used"
OTHER_CLASS = "boxes of classes that data.classes does not name were removed"
SCALED = "images have another size than their annotations, of the same aspect ratio; their boxes were scaled"
UNDECIDED = (
    "images are rotated by their EXIF orientation, and the sizes in their annotations do not show which pixels the "
    'boxes refer to. They are taken as drawn on the upright image; set data.box_orientation to "upright" to confirm, '
    'or "stored"'
)
SIMILAR = "images are exact duplicates of each other with boxes that differ slightly; all of them are used"
CORRECTIONS = (CLIPPED, SWAPPED, EMPTY, DUPLICATE, POLYGON, SEVERAL_CLASSES, OTHER_CLASS, SCALED, UNDECIDED)

# Values of slices: see `slices`. COCO's limits of small and large objects are areas of 32 x 32 and 96 x 96 pixels.
_SMALL, _LARGE = 32.0, 96.0
_MANY = 10

# Steps of a coordinate in `encode`, and the IoU of two boxes of the same object.
_STEPS, _SAME_OBJECT = 2**16 - 1, 0.5

# Pixels. Less than that beyond the border is a rounding error, and a smaller side is not an object.
_ROUNDING = 0.5
_FRAME = "annotation/frame"  # key of a label before it is checked: size, unit and corrections of the annotation


class Box(NamedTuple):
    """One object.

    Attributes:
      xmin: Left side, in the unit of the annotation; the origin is the corner of the image, not the centre of a pixel.
      ymin: Upper side.
      xmax: Right side.
      ymax: Lower side.
      name: Class name.
      difficult: Whether it is hard to recognise, and optional in evaluation.
      is_crowd: Whether it contains many objects of the class.
    """

    xmin: float
    ymin: float
    xmax: float
    ymax: float
    name: str
    difficult: bool = False
    is_crowd: bool = False


class Annotation(NamedTuple):
    """All boxes of one image, as its file describes them.

    Attributes:
      boxes: The boxes; none for a negative.
      width: Width of the annotated image, pixels; 0 if the file does not tell.
      height: Height of the annotated image, pixels; 0 if the file does not tell.
      is_relative: Whether coordinates are fractions of the image instead of pixels.
      corrections: What the layout has corrected already.
    """

    boxes: tuple[Box, ...] = ()
    width: float = 0.0
    height: float = 0.0
    is_relative: bool = False
    corrections: tuple[str, ...] = ()

    def to_label(self) -> tuple[tuple[str, tuple[str | int | float, ...]], ...]:
        """Returns the features of a label that is not checked yet: coordinates are in the unit of the annotation."""
        columns = list(zip(*self.boxes, strict=True)) or [()] * len(Box._fields)
        xmin, ymin, xmax, ymax, names, difficult, is_crowd = columns
        return (
            (features.BOX_CLASSES, names),
            (features.BOX_YMIN, ymin),
            (features.BOX_XMIN, xmin),
            (features.BOX_YMAX, ymax),
            (features.BOX_XMAX, xmax),
            (features.BOX_DIFFICULT, tuple(map(int, difficult))),
            (features.BOX_IS_CROWD, tuple(map(int, is_crowd))),
            (_FRAME, (self.width, self.height, int(self.is_relative), *self.corrections)),
        )

    @classmethod
    def from_label(cls, label: Mapping[str, Sequence[Any]]) -> Self:
        """Restores an annotation from `to_label`."""
        width, height, is_relative, *corrections = label[_FRAME]
        ymin, xmin, ymax, xmax = (map(float, label[key]) for key in features.BOX_CORNERS)
        names = map(str, label[features.BOX_CLASSES])
        flags = (map(bool, label[key]) for key in (features.BOX_DIFFICULT, features.BOX_IS_CROWD))
        boxes = tuple(map(Box, xmin, ymin, xmax, ymax, names, *flags))
        return cls(boxes, float(width), float(height), bool(is_relative), tuple(map(str, corrections)))


def is_unchecked(label: Mapping[str, object]) -> bool:
    """Whether a label is the result of `Annotation.to_label`."""
    return _FRAME in label


class NormalizedBoxes(NamedTuple):
    """Boxes that fit their image, sorted.

    Attributes:
      boxes: Coordinates in [0, 1], exact in float32, relative to the upright image; with positive height and width.
      corrections: What was corrected, by the constants of this module.
    """

    boxes: tuple[Box, ...]
    corrections: Counter[str]


class _Frame(NamedTuple):
    """The image that an annotation refers to.

    Attributes:
      width: Pixels.
      height: Pixels.
      orientation: The EXIF orientation that still has to be applied to boxes.
    """

    width: int
    height: int
    orientation: int


def normalize(
    annotation: Annotation, *, height: int, width: int, orientation: int = 1, drawn_on: Orientation = "auto"
) -> NormalizedBoxes:
    """Fits boxes to their image.

    Swapped corners are exchanged, boxes that exceed the image are clipped, boxes without area and duplicates removed;
    all of these are counted. If the annotated size differs from the image's, boxes are scaled if the aspect ratio is
    the same.

    Args:
      annotation: From a layout.
      height: Height of the upright image, pixels.
      width: Width of the upright image, pixels.
      orientation: EXIF orientation of the stored pixels, 1 to 8.
      drawn_on: The pixels that boxes refer to where the annotated size does not decide: `data.box_orientation`.

    Raises:
      UnusableImageError: If a box is not a number or outside of the image, if the unit cannot be right, or if the
        annotation belongs to an image of another shape.
    """
    corrections = Counter(annotation.corrections)
    frame = _frame(annotation, height, width, orientation, drawn_on, corrections)
    scale_x, scale_y = _scale(annotation, frame, corrections)
    fitted: dict[tuple[object, ...], Box] = {}
    for number, box in enumerate(annotation.boxes, start=1):
        fit = _fit(box, number, frame, scale_x, scale_y, corrections)
        if fit is None:
            continue
        fit = _as_float32(_upright(fit, frame.orientation))
        if fit.xmin >= fit.xmax or fit.ymin >= fit.ymax:  # half a pixel of an image with millions of pixels per side
            corrections[EMPTY] += 1
            continue
        key = (*fit[:4], fit.name, fit.is_crowd)
        if key in fitted:
            corrections[DUPLICATE] += 1
            fit = fit._replace(difficult=fit.difficult and fitted[key].difficult)
        fitted[key] = fit
    places = Counter(box[:4] for box in fitted.values() if not box.is_crowd)
    if several := sum(count - 1 for count in places.values()):
        corrections[SEVERAL_CLASSES] += several
    boxes = sorted(fitted.values(), key=lambda box: (box.ymin, box.xmin, *box[2:]))
    return NormalizedBoxes(tuple(boxes), corrections)


def _frame(
    annotation: Annotation, height: int, width: int, orientation: int, drawn_on: Orientation, corrections: Counter[str]
) -> _Frame:
    """Decides whether boxes refer to the upright image or to the stored pixels."""
    upright = _Frame(width, height, 1)
    if orientation == 1:
        return upright
    stored = _Frame(height, width, orientation) if orientation > 4 else _Frame(width, height, orientation)
    if annotation.width and _same_shape(annotation, upright) != _same_shape(annotation, stored):
        return upright if _same_shape(annotation, upright) else stored
    if drawn_on == "auto" and annotation.boxes:
        corrections[UNDECIDED] += 1
    return stored if drawn_on == "stored" else upright


def _same_shape(annotation: Annotation, frame: _Frame) -> bool:
    """Whether the annotated size has the aspect ratio of the image, up to one pixel of rounding."""
    difference = abs(annotation.width * frame.height - annotation.height * frame.width)
    return difference <= max(annotation.width, annotation.height, frame.width, frame.height)


def _scale(annotation: Annotation, frame: _Frame, corrections: Counter[str]) -> tuple[float, float]:
    """Returns the factors from the unit of the annotation to pixels of the frame."""
    size = annotation.width, annotation.height
    has_size = all(size) and size != (frame.width, frame.height)
    if has_size and not _same_shape(annotation, frame):
        raise UnusableImageError(
            f"annotated for another image: {size[0]:g} x {size[1]:g} pixels, the image has {frame.width} x "
            f"{frame.height}"
        )
    if annotation.is_relative:
        return float(frame.width), float(frame.height)
    if not has_size:
        return 1.0, 1.0
    if annotation.boxes:
        corrections[SCALED] += 1
    return frame.width / size[0], frame.height / size[1]


def _fit(box: Box, number: int, frame: _Frame, scale_x: float, scale_y: float, corrections: Counter[str]) -> Box | None:
    """Scales and clips one box to fractions of the frame; None if it has no area."""
    place = f"box {number} (`{box.name}`)"
    if not all(map(math.isfinite, box[:4])):
        raise UnusableImageError(f"a coordinate is not a number: {place} is {_coordinates(box)}")
    xmin, ymin, xmax, ymax = box.xmin * scale_x, box.ymin * scale_y, box.xmax * scale_x, box.ymax * scale_y
    if xmin > xmax or ymin > ymax:
        corrections[SWAPPED] += 1
        xmin, xmax = sorted((xmin, xmax))
        ymin, ymax = sorted((ymin, ymax))
    if xmax - xmin < _ROUNDING or ymax - ymin < _ROUNDING:
        corrections[EMPTY] += 1
        return None
    left, top, right, bottom = max(xmin, 0.0), max(ymin, 0.0), min(xmax, frame.width), min(ymax, frame.height)
    if right <= left or bottom <= top:
        raise UnusableImageError(
            f"a box outside of the image: {place} is {_coordinates(box)} (xmin, ymin, xmax, ymax), the image has "
            f"{frame.width} x {frame.height} pixels"
        )
    if max(left - xmin, top - ymin, xmax - right, ymax - bottom) > _ROUNDING:
        corrections[CLIPPED] += 1
    if right - left < _ROUNDING or bottom - top < _ROUNDING:
        corrections[EMPTY] += 1
        return None
    return box._replace(
        xmin=left / frame.width, ymin=top / frame.height, xmax=right / frame.width, ymax=bottom / frame.height
    )


def _coordinates(box: Box) -> str:
    return ", ".join(f"{value:g}" for value in box[:4])


def _upright(box: Box, orientation: int) -> Box:
    """Moves a box from the stored pixels to the upright image: transposes (5 to 8), then flips, as the pixels."""
    xmin, ymin, xmax, ymax = box[:4]
    if orientation > 4:
        xmin, ymin, xmax, ymax = ymin, xmin, ymax, xmax
    if orientation in (2, 3, 6, 7):
        xmin, xmax = 1.0 - xmax, 1.0 - xmin
    if orientation in (3, 4, 7, 8):
        ymin, ymax = 1.0 - ymax, 1.0 - ymin
    return box._replace(xmin=xmin, ymin=ymin, xmax=xmax, ymax=ymax)


def _as_float32(box: Box) -> Box:
    xmin, ymin, xmax, ymax = np.clip(np.array(box[:4], np.float32), 0.0, 1.0).tolist()
    return box._replace(xmin=xmin, ymin=ymin, xmax=xmax, ymax=ymax)


def warnings(observations: Observations, similar: Occurrences) -> list[str]:
    """Reports what was corrected, with a count and two file names each.

    Args:
      observations: From all images.
      similar: Identical images with similar boxes.
    """
    totals = [(text, observations.total(text)) for text in CORRECTIONS]
    totals.append((SIMILAR, similar))
    return [f"{occurrences.num:,} {text}: {occurrences}." for text, occurrences in totals if occurrences.num]


# === Raw examples ===


def raw_label(boxes: Sequence[Box], *, height: int, width: int) -> dict[str, list[str] | list[int] | list[float]]:
    """Returns the raw example features of normalised boxes, with those that are derived from them.

    Args:
      boxes: From `normalize`.
      height: Height of the upright image, pixels.
      width: Width of the upright image, pixels.
    """
    return {
        features.BOX_CLASSES: [box.name for box in boxes],
        features.BOX_YMIN: [box.ymin for box in boxes],
        features.BOX_XMIN: [box.xmin for box in boxes],
        features.BOX_YMAX: [box.ymax for box in boxes],
        features.BOX_XMAX: [box.xmax for box in boxes],
        features.BOX_DIFFICULT: [int(box.difficult) for box in boxes],
        features.BOX_IS_CROWD: [int(box.is_crowd) for box in boxes],
        features.BOX_COUNT: [len(boxes)],
        features.BOX_SIZE: [math.sqrt((box.xmax - box.xmin) * (box.ymax - box.ymin)) for box in boxes],
        features.BOX_ASPECT_RATIO: [(box.xmax - box.xmin) * width / ((box.ymax - box.ymin) * height) for box in boxes],
    }


# === Duplicates ===


def encode(boxes: Sequence[Box], classes: Sequence[str]) -> str:
    """Encodes normalised boxes compactly: one process has those of all images in memory.

    Args:
      boxes: From `normalize`.
      classes: Class names; those of the boxes are among them.
    """
    numbers = {name: number for number, name in enumerate(classes)}
    rows = [[numbers[box.name] / _STEPS, box.ymin, box.xmin, box.ymax, box.xmax] for box in boxes]
    return base64.b64encode(np.rint(np.array(rows) * _STEPS).astype("<u2").tobytes()).decode()


def agree(encoded: str, other: str) -> bool:
    """Whether two annotations of the same image mean the same: their boxes correspond one to one.

    Corresponding boxes have the same class and an IoU of at least 0.5, the lowest at which COCO counts a detection as
    correct. Two people, or the same person twice, never draw exactly the same boxes.

    Args:
      encoded: From `encode`.
      other: From `encode`, with the same class names.
    """
    (classes, corners), (other_classes, other_corners) = _decode(encoded), _decode(other)
    if sorted(classes) != sorted(other_classes):
        return False
    overlaps = pairwise_iou(corners, other_corners) * (classes[:, np.newaxis] == other_classes)
    for _ in range(len(classes)):
        row, column = np.unravel_index(np.argmax(overlaps), overlaps.shape)
        if overlaps[row, column] < _SAME_OBJECT:
            return False
        overlaps[row], overlaps[:, column] = 0.0, 0.0
    return True


def _decode(encoded: str) -> tuple[np.ndarray, np.ndarray]:
    """Returns class numbers [n] and corners [n, 4]."""
    rows = np.frombuffer(base64.b64decode(encoded), "<u2").reshape(-1, 5)
    return rows[:, 0], rows[:, 1:] / _STEPS


def slices(boxes: Sequence[Box], *, height: int, width: int) -> dict[str, str]:
    """Returns the built-in slice values of an image with boxes, by slice name.

    object_count: none, one, few (2 to 9) or many boxes. object_size: small if the median area of the boxes is below
    32 x 32 pixels of the upright image, large from 96 x 96, none without boxes.

    Reference: Lin et al. 2014, https://arxiv.org/abs/1405.0312, and https://cocodataset.org/#detection-eval (areas).
    """
    count = len(boxes)
    values = {"object_count": "many" if count >= _MANY else "few" if count > 1 else "one" if count else "none"}
    areas = [(box.xmax - box.xmin) * width * (box.ymax - box.ymin) * height for box in boxes]
    area = statistics.median(areas) if areas else 0.0
    size = "small" if area < _SMALL**2 else "large" if area >= _LARGE**2 else "medium"
    return {**values, "object_size": size if areas else "none"}
