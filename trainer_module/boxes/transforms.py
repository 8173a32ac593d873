"""Geometric transforms of boxes: they follow the pixels of flips, crops and rotation.

All functions compute on NumPy arrays and on tensors; shapes and units: `trainer_module.boxes.arrays`. Coordinates are
continuous: pixel i of a row covers [i, i + 1], and a box that covers the whole image is (0, 0, height, width).

Which boxes are dropped: a crop, a shift or a zoom can move a box partly out of the image. It is clipped to the image,
and dropped if less than `min_visibility` of its area remains. Functions that clip return the boxes and which of them
remain; they drop none themselves, so that shapes do not change inside a batch.
"""

from __future__ import annotations

import functools
from typing import Any, NamedTuple

from trainer_module.boxes.arrays import Array, as_array, corners, divide, library
from trainer_module.boxes.overlap import area

# The smallest visible share of a box that still shows its object, as for random crops in the TF Object Detection API.
MIN_VISIBILITY = 0.3

_NORMALIZED = (1.0, 1.0)  # height and width of an image whose boxes are normalised


class VisibleBoxes(NamedTuple):
    """Boxes after they were clipped.

    Attributes:
      boxes: float [..., M, 4], inside the image.
      visible: bool [..., M], whether enough of a box remains; the others are to be dropped.
    """

    boxes: Array
    visible: Array


# === Clipping ===


def clip(boxes: Array, size: Any = _NORMALIZED) -> Array:
    """Limits coordinates to the image: float [..., M, 4], (height, width) [..., 2] → float [..., M, 4]."""
    lib = library(boxes)
    return lib.minimum(lib.maximum(boxes, 0.0), _for_corners(size, boxes))


def visibility(boxes: Array, clipped: Array) -> Array:
    """Computes the share of the area that remains: boxes before and after, float [..., 4] → float [...], [0, 1].

    It is 0 for empty boxes.
    """
    return divide(area(clipped), area(boxes))


def clip_visible(boxes: Array, size: Any = _NORMALIZED, min_visibility: float = MIN_VISIBILITY) -> VisibleBoxes:
    """Limits boxes to the image and finds those of which enough remains.

    Args:
      boxes: float [..., M, 4].
      size: (height, width) [..., 2], in units of the boxes.
      min_visibility: Smallest share of the area that has to remain, range [0, 1]. With 0 every box remains that has any
        area inside the image; empty boxes never remain.
    """
    clipped = clip(boxes, size)
    remaining = area(clipped)
    return VisibleBoxes(clipped, (remaining > 0.0) & (remaining >= min_visibility * area(boxes)))


# === Moves ===


def flip_horizontally(boxes: Array, width: Any = 1.0) -> Array:
    """Mirrors left and right: float [..., M, 4], width [...] of the image → float [..., M, 4]."""
    ymin, xmin, ymax, xmax = corners(boxes)
    width = as_array(width, boxes)[..., None]
    return library(boxes).stack([ymin, width - xmax, ymax, width - xmin], axis=-1)


def flip_vertically(boxes: Array, height: Any = 1.0) -> Array:
    """Mirrors top and bottom: float [..., M, 4], height [...] of the image → float [..., M, 4]."""
    ymin, xmin, ymax, xmax = corners(boxes)
    height = as_array(height, boxes)[..., None]
    return library(boxes).stack([height - ymax, xmin, height - ymin, xmax], axis=-1)


def scale(boxes: Array, factors: Any) -> Array:
    """Multiplies coordinates: float [..., M, 4], factors (y, x) [..., 2] → float [..., M, 4].

    The size of the image as factors makes pixels of normalised boxes, its inverse makes normalised boxes of pixels.
    """
    return boxes * _for_corners(factors, boxes)


def shift(boxes: Array, offset: Any) -> Array:
    """Adds an offset: float [..., M, 4], (y, x) [..., 2] in units of the boxes → float [..., M, 4], not clipped."""
    return boxes + _for_corners(offset, boxes)


def crop(boxes: Array, window: Any, min_visibility: float = MIN_VISIBILITY) -> VisibleBoxes:
    """Moves boxes with a crop of the image.

    Args:
      boxes: float [..., M, 4].
      window: (ymin, xmin, ymax, xmax) [..., 4] of the crop, in units of the boxes. It may extend beyond the image.
      min_visibility: Smallest share of the area that has to remain, as in `clip_visible`.

    Returns:
      Boxes relative to the upper left corner of the window, in the same units: normalised boxes are not normalised to
      the window; `scale` them by the inverse of its size.
    """
    window = as_array(window, boxes)
    top_left, bottom_right = window[..., :2], window[..., 2:]
    return clip_visible(shift(boxes, -top_left), bottom_right - top_left, min_visibility)


def orient(boxes: Array, orientation: Any, size: Any = _NORMALIZED) -> Array:
    """Rotates and flips boxes as `trainer_module.orientation.upright` does with pixels.

    Args:
      boxes: float [..., M, 4], in the image as it is stored.
      orientation: int [...], EXIF orientation 1 to 8.
      size: (height, width) [..., 2] of the image as it is stored, in units of the boxes.

    Returns:
      float [..., M, 4], in the upright image, whose height and width are exchanged for orientations 5 to 8.

    Reference: CIPA DC-008 (Exif 2.32), 4.6.4 A, tag 274.
    """
    lib = library(boxes)
    size = as_array(size, boxes)
    tag = as_array(orientation, boxes)

    def is_one_of(*tags: int) -> Array:
        flags = [lib.equal(tag, value)[..., None, None] for value in tags]
        return flags[0] | flags[1] | flags[2] | flags[3]

    transposed = is_one_of(5, 6, 7, 8)
    ymin, xmin, ymax, xmax = corners(boxes)
    boxes = lib.where(transposed, lib.stack([xmin, ymin, xmax, ymax], axis=-1), boxes)
    size = lib.where(transposed[..., 0], size[..., ::-1], size)
    boxes = lib.where(is_one_of(2, 3, 6, 7), flip_horizontally(boxes, size[..., 1]), boxes)
    return lib.where(is_one_of(3, 4, 7, 8), flip_vertically(boxes, size[..., 0]), boxes)


def rotate(boxes: Array, quarter_turns: int, size: Any = _NORMALIZED) -> Array:
    """Rotates boxes counter-clockwise by multiples of 90°, as `tf.image.rot90` does with pixels.

    Args:
      boxes: float [..., M, 4].
      quarter_turns: Number of turns by 90°; may be negative.
      size: (height, width) [..., 2] of the image before the rotation, in units of the boxes.

    Returns:
      float [..., M, 4], in the rotated image, whose height and width are exchanged for odd numbers of turns.
    """
    return orient(boxes, (1, 8, 3, 6)[quarter_turns % 4], size)


def project(boxes: Array, transforms: Array) -> Array:
    """Moves boxes as `ImageProjectiveTransformV3` moves pixels, for affine transforms.

    A rotation by other angles than multiples of 90° turns a box into the smallest box around its four rotated corners,
    which is larger than the object.

    Args:
      boxes: float [..., M, 4], pixels.
      transforms: float [..., 8], from a pixel (x, y) of the result to its source, as that operation takes them: rows
        (a0, a1, a2), (b0, b1, b2), and two zeros. Pixel centres have integer coordinates.

    Returns:
      float [..., M, 4], pixels, not clipped.
    """
    lib = library(boxes, transforms)
    a0, a1, a2, b0, b1, b2 = (transforms[..., index, None] for index in range(6))
    determinant = a0 * b1 - a1 * b0
    ymin, xmin, ymax, xmax = corners(boxes)
    sources = [(y - 0.5 - b2, x - 0.5 - a2) for y in (ymin, ymax) for x in (xmin, xmax)]
    ys = [(a0 * y - b0 * x) / determinant + 0.5 for y, x in sources]
    xs = [(b1 * x - a1 * y) / determinant + 0.5 for y, x in sources]
    edges = [functools.reduce(limit, values) for limit in (lib.minimum, lib.maximum) for values in (ys, xs)]
    return lib.stack(edges, axis=-1)


def _for_corners(values: Any, boxes: Array) -> Array:
    """(y, x) [..., 2] of an image → (y, x, y, x) [..., 1, 4] for its boxes."""
    pair = as_array(values, boxes)[..., None, :]
    return library(boxes).concat([pair, pair], -1)
