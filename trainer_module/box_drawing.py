"""Draws boxes: objects and detections over images, and detections beside the ground truth.

Labels are float32 [M, 6] as in `box_labels`; detections have the score as a seventh column.
"""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from trainer_module import box_labels
from trainer_module.mask_drawing import palette
from trainer_module.tasks._spec import Color, Panel

if TYPE_CHECKING:
    from PIL import ImageDraw

# Detections with a lower score are not drawn: most models return many that are only of use for precision-recall curves.
MIN_SCORE = 0.3
# Smallest IoU of a detection and the object that it detects.
MIN_IOU = 0.5
# Below this side of an image, names would cover it; the legend has the colours.
_SMALLEST_SIDE_WITH_NAMES = 128
_DASH = 4  # pixels


class _Box(NamedTuple):
    corners: tuple[float, float, float, float]  # ymin, xmin, ymax, xmax in [0, 1]
    class_id: int
    text: str
    dashed: bool


def draw(
    image: np.ndarray,
    label: np.ndarray,
    classes: Sequence[str],
    ignore_id: int | None = None,
    min_score: float = MIN_SCORE,
) -> np.ndarray:
    """Draws objects, or detections with a score of at least `min_score`, with the names of their classes.

    Difficult objects and crowds are dashed.

    Args:
      image: uint8 [h, w, 1 or 3].
      label: float32 [M, 6], or detections, float32 [M, 7].
      classes: Class names; the index is the id.
      ignore_id: Unused: boxes have no ignored id.
      min_score: Smallest score of the detections that are drawn.

    Returns:
      uint8 [h, w, 3].
    """
    boxes = [_box(row, classes, row[5] != box_labels.OBJECT) for row in _shown(label, min_score)]
    return _draw(image, boxes, len(classes))


def legend(
    classes: Sequence[str], ignore_id: int | None, labels: Sequence[np.ndarray] | None = None
) -> list[tuple[str, Color]]:
    """Lists names and colours of all classes, or of those that are drawn of these labels or detections."""
    shown = None if labels is None else {int(row[4]) for label in labels for row in _shown(label)}
    entries = enumerate(zip(classes, palette(len(classes)), strict=True))
    return [entry for class_id, entry in entries if shown is None or class_id in shown]


def f1(label: np.ndarray, detections: np.ndarray, ignore_id: int | None) -> float:
    """Computes the F1 of the drawn detections: the harmonic mean of precision and recall, range [0, 1].

    Returns:
      NaN if there is neither an object nor a drawn detection.
    """
    errors = _compare(label, detections)
    total = 2 * errors.correct + len(errors.false) + len(errors.missed)
    return 2 * errors.correct / total if total else float("nan")


def panels(
    image: np.ndarray, label: np.ndarray, detections: np.ndarray, classes: Sequence[str], ignore_id: int | None
) -> tuple[Panel, ...]:
    """Draws the objects, those that are missed dashed, and the detections, those that are false dashed."""
    errors = _compare(label, detections)
    objects = [_box(row, classes, index in errors.missed) for index, row in enumerate(_shown(label))]
    predicted = [_box(row, classes, index in errors.false) for index, row in enumerate(_shown(detections))]
    return (
        Panel("Ground truth", _draw(image, objects, len(classes)), _describe(objects, classes)),
        Panel("Detections", _draw(image, predicted, len(classes)), _describe(predicted, classes)),
    )


def main_error(label: np.ndarray, detections: np.ndarray, classes: Sequence[str], ignore_id: int | None) -> str:
    """Counts missed objects and false detections, with the most frequent class of each; empty if there are none."""
    errors = _compare(label, detections)
    parts = []
    for rows, noun, indices in (
        (_shown(label), "missed", errors.missed),
        (_shown(detections), "false", errors.false),
    ):
        if indices:
            counts = Counter(classes[int(rows[index][4])] for index in indices)
            (name, _), *others = counts.most_common(2)
            parts.append(f"{len(indices)} {noun}" + (f" (mostly {name})" if others else f" ({name})"))
    return ", ".join(parts)


# === Comparison ===


class _Errors(NamedTuple):
    """Number of correct detections; indices of missed objects and false detections, as `_shown` lists them."""

    correct: int
    missed: set[int]
    false: set[int]


def _compare(label: np.ndarray, detections: np.ndarray) -> _Errors:
    """Matches every detection, best first, with the object of its class with the largest IoU that is not matched yet.

    Difficult objects and crowds are never missed, and a detection of them is not false.
    """
    from trainer_module.boxes.overlap import pairwise_iou

    objects, predicted = _shown(label), _shown(detections)
    overlaps = pairwise_iou(predicted[:, :4], objects[:, :4])
    matched: set[int] = set()
    false: set[int] = set()
    correct = 0
    for index in np.argsort(-predicted[:, 6], kind="stable"):
        same = (objects[:, 4] == predicted[index, 4]) & (overlaps[index] >= MIN_IOU)
        usable = [int(other) for other in np.flatnonzero(same) if other not in matched]
        counted = [other for other in usable if objects[other, 5] == box_labels.OBJECT]
        if counted:
            matched.add(max(counted, key=lambda other: overlaps[index, other]))
            correct += 1
        elif not usable:
            false.add(int(index))
    missed = {i for i, row in enumerate(objects) if row[5] == box_labels.OBJECT and i not in matched}
    return _Errors(correct, missed, false)


def _shown(label: np.ndarray, min_score: float = MIN_SCORE) -> np.ndarray:
    """Returns the objects, or the detections that are drawn, without padding."""
    shown = label[:, 4] >= 0
    if label.shape[-1] > box_labels.NUM_COLUMNS:
        shown &= label[:, 6] >= min_score
    return label[shown]


# === Drawing ===


def _box(row: np.ndarray, classes: Sequence[str], dashed: bool) -> _Box:
    name = classes[int(row[4])]
    text = f"{name} {row[6]:.0%}" if len(row) > box_labels.NUM_COLUMNS else name
    ymin, xmin, ymax, xmax = map(float, row[:4])
    return _Box((ymin, xmin, ymax, xmax), int(row[4]), text, bool(dashed))


def _describe(boxes: Sequence[_Box], classes: Sequence[str]) -> str:
    counts = Counter(classes[box.class_id] for box in boxes)
    return ", ".join(f"{number} {name}" for name, number in counts.most_common(4)) or "nothing"


def _draw(image: np.ndarray, boxes: Sequence[_Box], num_classes: int) -> np.ndarray:
    from PIL import Image, ImageDraw, ImageFont

    canvas = Image.fromarray(np.repeat(image, 3, axis=-1) if image.shape[-1] == 1 else image)
    drawing = ImageDraw.Draw(canvas)
    colors = palette(num_classes)
    width, height = canvas.size
    line = max(1, round(min(width, height) / 200))
    font = ImageFont.load_default(max(10, min(width, height) // 28))
    for box in boxes:
        ymin, xmin, ymax, xmax = box.corners
        frame = (xmin * (width - 1), ymin * (height - 1), xmax * (width - 1), ymax * (height - 1))
        for start, end in _sides(frame, box.dashed):
            drawing.line([start, end], fill=colors[box.class_id], width=line)
    if min(width, height) >= _SMALLEST_SIDE_WITH_NAMES:
        for box in boxes:
            ymin, xmin, *_ = box.corners
            _name(drawing, box.text, (xmin * (width - 1), ymin * (height - 1)), colors[box.class_id], font)
    drawn: np.ndarray = np.asarray(canvas)
    return drawn


def _sides(
    frame: tuple[float, float, float, float], dashed: bool
) -> Iterator[tuple[tuple[float, float], tuple[float, float]]]:
    """Yields the lines of a frame (left, top, right, bottom); of each side, or of its dashes."""
    left, top, right, bottom = frame
    corners = [(left, top), (right, top), (right, bottom), (left, bottom), (left, top)]
    for (x0, y0), (x1, y1) in itertools.pairwise(corners):
        length = max(abs(x1 - x0), abs(y1 - y0))
        if not dashed or length < 2 * _DASH:
            yield (x0, y0), (x1, y1)
            continue
        for start in np.arange(0.0, length, 2 * _DASH):
            a, b = start / length, min(start + _DASH, length) / length
            yield (x0 + a * (x1 - x0), y0 + a * (y1 - y0)), (x0 + b * (x1 - x0), y0 + b * (y1 - y0))


def _name(drawing: ImageDraw.ImageDraw, text: str, corner: tuple[float, float], color: Color, font: Any) -> None:
    """Writes a name on its colour, above the corner of the box, or below it at the upper edge of the image."""
    left, top, right, bottom = drawing.textbbox((0, 0), text, font=font)
    x = max(0.0, min(corner[0], drawing.im.size[0] - (right - left) - 4))
    y = corner[1] - (bottom - top) - 4
    y = y if y >= 0 else corner[1]
    drawing.rectangle((x, y, x + right - left + 3, y + bottom - top + 3), fill=color)
    luma = 0.299 * color[0] + 0.587 * color[1] + 0.114 * color[2]
    drawing.text((x + 2 - left, y + 2 - top), text, fill=(0, 0, 0) if luma > 140 else (255, 255, 255), font=font)
