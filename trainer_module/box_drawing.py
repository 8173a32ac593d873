"""Draws boxes: objects and detections over images, and detections beside the ground truth.

Labels are float32 [M, 6] as in `box_labels`; detections have the score as a seventh column. All of them are drawn
except padding: whoever calls a function decides which detections count, with `at_least`.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from trainer_module import box_labels, drawing_font
from trainer_module.evaluation import box_matching
from trainer_module.evaluation.box_matching import CLASSIFICATION, CORRECT, ERROR_TYPES, MISSED, BoxErrors
from trainer_module.image_drawing import enlarged_rgb
from trainer_module.mask_drawing import palette
from trainer_module.tasks._spec import Color, Panel

if TYPE_CHECKING:
    from PIL import ImageDraw, ImageFont

# Images whose longer side is shorter are enlarged before boxes are drawn: lines and names need pixels.
READABLE_SIDE = 320
# Below this side of a drawing, names would cover it; the legend has the colours.
_SMALLEST_SIDE_WITH_NAMES = 192
# Of a drawing's shorter side. Lines have an edge of one more pixel in a contrasting colour.
_THINNEST_LINE, _LINE_SHARE, _TEXT_SHARE = 1.8, 1 / 300, 1 / 26
_TEXT_SIZES = (12, 32)  # pixels
_DASH = 4  # length of a dash and of a gap, in widths of the line
_PADDING = 2  # pixels around a name
# A name that would cover more than this share of another one is left out.
_MOST_COVERED = 0.25
_DARK, _LIGHT = (0, 0, 0), (255, 255, 255)


class _Box(NamedTuple):
    corners: tuple[float, float, float, float]  # ymin, xmin, ymax, xmax in [0, 1]
    class_id: int
    text: str
    dashed: bool


class _Rectangle(NamedTuple):
    """Pixels from (left, top) to, but not including, (right, bottom)."""

    left: int
    top: int
    right: int
    bottom: int

    def overlap(self, other: _Rectangle) -> int:
        """Number of common pixels."""
        width = min(self.right, other.right) - max(self.left, other.left)
        height = min(self.bottom, other.bottom) - max(self.top, other.top)
        return max(0, width) * max(0, height)

    @property
    def area(self) -> int:
        """Number of pixels."""
        return (self.right - self.left) * (self.bottom - self.top)


def at_least(detections: np.ndarray, score: float) -> np.ndarray:
    """Returns the detections of an image, float32 [M, 7], with padding in the place of those with a lower score."""
    kept = detections.copy()
    kept[detections[:, 6] < score, 4] = box_labels.PADDING
    return kept


def readable_scale(height: int, width: int) -> int:
    """Returns the smallest whole factor that makes the longer side of an image at least `READABLE_SIDE` pixels."""
    return max(1, math.ceil(READABLE_SIDE / max(height, width)))


def draw(
    image: np.ndarray, label: np.ndarray, classes: Sequence[str], ignore_id: int | None = None, scale: int = 1
) -> np.ndarray:
    """Draws objects or detections with the names of their classes; detections with a high score cover those with a low.

    Difficult objects and crowds are dashed.

    Args:
      image: uint8 [h, w, 1 or 3].
      label: float32 [M, 6], or detections, float32 [M, 7].
      classes: Class names; the index is the id.
      ignore_id: Unused: boxes have no ignored id.
      scale: Factor by which the image is enlarged, without smoothing.

    Returns:
      uint8 [scale * h, scale * w, 3].
    """
    rows = _without_padding(label)
    return _draw(image, rows, [_box(row, classes, row[5] != box_labels.OBJECT) for row in rows], classes, scale)


def legend(
    classes: Sequence[str], ignore_id: int | None, labels: Sequence[np.ndarray] | None = None
) -> list[tuple[str, Color]]:
    """Lists names and colours of all classes, or of those of these labels or detections."""
    shown = None if labels is None else {int(row[4]) for label in labels for row in _without_padding(label)}
    entries = enumerate(zip(classes, palette(len(classes)), strict=True))
    return [entry for class_id, entry in entries if shown is None or class_id in shown]


# === Comparison ===


def f1(label: np.ndarray, detections: np.ndarray, ignore_id: int | None) -> float:
    """Computes the F1 of detections: the harmonic mean of precision and recall at IoU 0.5, range [0, 1].

    Returns:
      NaN if there is neither an object that counts nor a detection.
    """
    errors = _compare(label, detections)
    correct, false = int((errors.types == CORRECT).sum()), int((errors.types >= 0).sum())
    total = 2 * correct + false + int(_undetected(label, errors).sum())
    return 2 * correct / total if total else float("nan")


def panels(
    image: np.ndarray, label: np.ndarray, detections: np.ndarray, classes: Sequence[str], ignore_id: int | None
) -> tuple[Panel, ...]:
    """Draws the objects, those that are not detected dashed, and the detections, those with an error dashed.

    Small images are enlarged by a whole factor (`readable_scale`).
    """
    errors, scale = _compare(label, detections), readable_scale(*image.shape[:2])
    drawn = []
    for title, rows, dashed in (
        ("Ground truth", _without_padding(label), _undetected(label, errors)),
        ("Detections", _without_padding(detections), errors.types >= 0),
    ):
        boxes = [_box(row, classes, is_dashed) for row, is_dashed in zip(rows, dashed, strict=True)]
        drawn.append(Panel(title, _draw(image, rows, boxes, classes, scale), _describe(boxes, classes)))
    return tuple(drawn)


def main_error(label: np.ndarray, detections: np.ndarray, classes: Sequence[str], ignore_id: int | None) -> str:
    """Counts the errors of every type, with the most frequent class of each; empty if there are none."""
    objects, predicted = _without_padding(label), _without_padding(detections)
    errors = _compare(label, detections)
    names: dict[int, list[str]] = {}
    for row, kind, target in zip(predicted, errors.types.tolist(), errors.targets.tolist(), strict=True):
        name = classes[int(row[4])]
        if kind == CLASSIFICATION and target >= 0:
            name = f"{classes[int(objects[target, 4])]} as {name}"
        names.setdefault(kind, []).append(name)
    names[MISSED] = [classes[int(class_id)] for class_id in objects[errors.missed, 4]]
    parts = []
    for kind, error_type in enumerate(ERROR_TYPES):
        if listed := names.get(kind):
            (name, _), *others = Counter(listed).most_common(2)
            parts.append(f"{len(listed)} {error_type} ({'mostly ' if others else ''}{name})")
    return ", ".join(parts)


def error_type(label: np.ndarray, detections: np.ndarray, ignore_id: int | None) -> str:
    """Returns the most frequent type of error, the first of `ERROR_TYPES` if several are; empty if there is none."""
    errors = _compare(label, detections)
    counts = np.bincount(errors.types[errors.types >= 0], minlength=len(ERROR_TYPES))
    counts[MISSED] = errors.missed.sum()
    return ERROR_TYPES[int(counts.argmax())] if counts.any() else ""


def _compare(label: np.ndarray, detections: np.ndarray) -> BoxErrors:
    objects, predicted = _without_padding(label), _without_padding(detections)
    return box_matching.box_errors(
        box_matching.Objects(
            objects[:, :4].astype(np.float64),
            objects[:, 4].astype(np.int64),
            objects[:, 5] == box_labels.DIFFICULT,
            objects[:, 5] == box_labels.CROWD,
        ),
        box_matching.Detections(
            predicted[:, :4].astype(np.float64), predicted[:, 4].astype(np.int64), predicted[:, 6].astype(np.float32)
        ),
    )


def _undetected(label: np.ndarray, errors: BoxErrors) -> np.ndarray:
    """Objects that have to be detected and have no correct detection, bool [G]."""
    counted = _without_padding(label)[:, 5] == box_labels.OBJECT
    return np.asarray(counted & ~errors.detected)


def _without_padding(label: np.ndarray) -> np.ndarray:
    return np.asarray(label[label[:, 4] >= 0])


# === Drawing ===


def _box(row: np.ndarray, classes: Sequence[str], dashed: bool) -> _Box:
    name = classes[int(row[4])]
    text = f"{name} {row[6]:.0%}" if len(row) > box_labels.NUM_COLUMNS else name
    ymin, xmin, ymax, xmax = map(float, row[:4])
    return _Box((ymin, xmin, ymax, xmax), int(row[4]), text, bool(dashed))


def _describe(boxes: Sequence[_Box], classes: Sequence[str]) -> str:
    counts = Counter(classes[box.class_id] for box in boxes)
    return ", ".join(f"{number} {name}" for name, number in counts.most_common(4)) or "nothing"


def _draw(image: np.ndarray, rows: np.ndarray, boxes: Sequence[_Box], classes: Sequence[str], scale: int) -> np.ndarray:
    from PIL import Image, ImageDraw

    canvas = Image.fromarray(enlarged_rgb(image, scale))
    drawing, colors = ImageDraw.Draw(canvas), palette(len(classes))
    side = min(canvas.size)
    line = round(_THINNEST_LINE + side * _LINE_SHARE)
    frames = [_frame(box, canvas.size, line + 1) for box in boxes]
    importance = _importance(rows)
    for index in reversed(importance):
        color, frame = colors[boxes[index].class_id], frames[index]
        for edge, part in ((0, _contrast(color)), (1, color)):
            inner = _Rectangle(frame.left + edge, frame.top + edge, frame.right - edge, frame.bottom - edge)
            dash = _DASH * line if boxes[index].dashed else 0
            for piece in _outline(inner, line + 1 - edge, dash):
                _fill(drawing, piece, part)
    if max(canvas.size) >= _SMALLEST_SIDE_WITH_NAMES:
        font = drawing_font.load(min(max(round(side * _TEXT_SHARE), _TEXT_SIZES[0]), _TEXT_SIZES[1]))
        taken: list[_Rectangle] = []
        for index in importance:
            place = _place(frames[index], _size(boxes[index].text, font), canvas.size, taken)
            if place is not None:
                taken.append(place)
                _write(drawing, boxes[index].text, place, colors[boxes[index].class_id], font)
    return np.asarray(canvas)


def _importance(rows: np.ndarray) -> list[int]:
    """Indices of boxes, the last to draw first: detections by falling score, objects by rising area."""
    if rows.shape[-1] > box_labels.NUM_COLUMNS:
        keys = -rows[:, 6]
    else:
        keys = (rows[:, 2] - rows[:, 0]) * (rows[:, 3] - rows[:, 1])
    order: list[int] = np.argsort(keys, kind="stable").tolist()
    return order


def _frame(box: _Box, size: tuple[int, int], line: int) -> _Rectangle:
    """Returns the outer edge of a line around a box, inside the drawing: the box itself stays visible."""
    width, height = size
    ymin, xmin, ymax, xmax = box.corners
    return _Rectangle(
        max(0, round(xmin * width) - line),
        max(0, round(ymin * height) - line),
        min(width, round(xmax * width) + line),
        min(height, round(ymax * height) + line),
    )


def _outline(frame: _Rectangle, line: int, dash: int) -> Iterator[_Rectangle]:
    """Yields the four sides of a frame, or their dashes if these have a length."""
    left, top, right, bottom = frame
    for y in (top, bottom - line):
        for start, end in _dashes(left, right, dash):
            yield _Rectangle(start, y, end, y + line)
    for x in (left, right - line):
        for start, end in _dashes(top, bottom, dash):
            yield _Rectangle(x, start, x + line, end)


def _dashes(start: int, end: int, dash: int) -> Iterable[tuple[int, int]]:
    if not dash or end - start < 3 * dash:
        return [(start, end)]
    return [(position, min(position + dash, end)) for position in range(start, end, 2 * dash)]


def _size(text: str, font: ImageFont.FreeTypeFont) -> tuple[int, int]:
    """Width and height of a name with its background, pixels."""
    ascent, descent = font.getmetrics()
    return math.ceil(font.getlength(text)) + 2 * _PADDING + 2, ascent + descent + _PADDING


def _place(
    frame: _Rectangle, size: tuple[int, int], canvas: tuple[int, int], taken: Sequence[_Rectangle]
) -> _Rectangle | None:
    """Finds a place for a name near its frame that covers no other name; None if there is none.

    It is above or below the frame, at its left or its right end, or else inside it.
    """
    width, height = size
    rows = (frame.top - height, frame.bottom, frame.top, frame.bottom - height)
    places = []
    for top in rows:
        for left in (frame.left, frame.right - width):
            left = max(0, min(left, canvas[0] - width))
            place = _Rectangle(left, top, left + width, top + height)
            if top >= 0 and place.bottom <= canvas[1]:
                places.append(place)
    covered = [max((place.overlap(other) for other in taken), default=0) for place in places]
    if not places or min(covered) > _MOST_COVERED * width * height:
        return None
    return places[covered.index(min(covered))]


def _write(
    drawing: ImageDraw.ImageDraw, text: str, place: _Rectangle, color: Color, font: ImageFont.FreeTypeFont
) -> None:
    """Writes a name on its colour."""
    _fill(drawing, place, color)
    baseline = place.top + _PADDING // 2 + font.getmetrics()[0]
    drawing.text((place.left + _PADDING + 1, baseline), text, fill=_contrast(color), font=font, anchor="ls")


def _fill(drawing: ImageDraw.ImageDraw, area: _Rectangle, color: Color) -> None:
    if area.right > area.left and area.bottom > area.top:
        drawing.rectangle((area.left, area.top, area.right - 1, area.bottom - 1), fill=color)


def _contrast(color: Color) -> Color:
    """Returns black or white, whichever has the higher contrast with a colour.

    Reference: WCAG 2.2, https://www.w3.org/TR/WCAG22/#dfn-relative-luminance.
    """
    linear = [
        (value / 255 / 12.92) if value <= 10 else ((value / 255 + 0.055) / 1.055) ** 2.4 for value in map(float, color)
    ]
    luminance = 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]
    return _DARK if (luminance + 0.05) / 0.05 >= 1.05 / (luminance + 0.05) else _LIGHT
