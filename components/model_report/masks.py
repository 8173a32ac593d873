"""Masks for people: colours of classes, and where a prediction differs from the truth."""

from __future__ import annotations

import colorsys
import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from PIL import Image

from components.model_report import pictures
from components.model_report.pictures import Picture

# Colours that people with every kind of colour blindness tell apart: Okabe & Ito's but black, then Tol's darker ones.
# Reference: M. Okabe & K. Ito, Color Universal Design, 2008, https://jfly.uni-koeln.de/color/; P. Tol, Colour Schemes,
# SRON/EPS/TN/09-002, 2021, figure 4 ("muted").
_COLORS = (
    (0, 114, 178),
    (230, 159, 0),
    (0, 158, 115),
    (204, 121, 167),
    (86, 180, 233),
    (213, 94, 0),
    (240, 228, 66),
    (51, 34, 136),
    (136, 34, 85),
    (17, 119, 51),
    (153, 153, 51),
    (102, 17, 0),
)
IGNORED_COLOR = (128, 128, 128)
# Of a wrong pixel: on grey, the lightness alone tells it.
WRONG_COLOR = (255, 176, 0)
_GOLDEN_ANGLE = 0.381966
# Of a difference: the picture in greys from black to the middle, so that what is wrong is lightest.
_NUM_SHADES = 16
_DIFFERENCE_PALETTE = [shade * 9 for shade in range(_NUM_SHADES) for _ in "rgb"] + list(WRONG_COLOR)


@dataclass(frozen=True)
class Comparison:
    """One picture with its masks.

    Attributes:
      filename: As in the data.
      accuracy: Share of its pixels that are right; those that count for nothing are left out.
      confusion: The most frequent mistake, in words.
      picture: As the model saw it.
      truth: The mask of the data.
      predicted: The model's mask.
      difference: The picture in grey, wrong pixels in one bright colour.
    """

    filename: str
    accuracy: float
    confusion: str
    picture: Picture
    truth: Picture
    predicted: Picture
    difference: Picture


def to_json(comparison: Comparison) -> dict[str, Any]:
    """Plain values, for the way through a file."""
    return dataclasses.asdict(comparison)


def from_json(values: dict[str, Any]) -> Comparison:
    """The inverse of `to_json`."""
    drawn = {name: Picture(**values[name]) for name in ("picture", "truth", "predicted", "difference")}
    return Comparison(**values | drawn)


def palette(num_classes: int) -> list[tuple[int, int, int]]:
    """A colour for every class: those made for it first, then hues a golden angle apart in three lightnesses.

    Args:
      num_classes: How many.

    Returns:
      Red, green and blue, range [0, 255]; the same for the same class, however many there are.
    """
    colors = list(_COLORS[:num_classes])
    for index in range(num_classes - len(colors)):
        lightness = (0.75, 0.35, 0.55)[index % 3]
        red, green, blue = colorsys.hls_to_rgb((index + 0.5) * _GOLDEN_ANGLE % 1.0, lightness, 0.6)
        colors.append((round(red * 255), round(green * 255), round(blue * 255)))
    return colors


def pixel_accuracy(truth: np.ndarray, predicted: np.ndarray, ignore_id: int | None) -> float:
    """Share of right pixels.

    Args:
      truth: uint8 [..., h, w], class ids.
      predicted: The same shape.
      ignore_id: Id of pixels that count for nothing, if there is one.

    Returns:
      In [0, 1]; NaN where no pixel counts.
    """
    counted = np.ones(truth.shape, bool) if ignore_id is None else truth != ignore_id
    return float(np.mean(truth[counted] == predicted[counted])) if counted.any() else float("nan")


def compare(
    filename: str,
    pixels: np.ndarray,
    truth: np.ndarray,
    predicted: np.ndarray,
    classes: Sequence[str],
    ignore_id: int | None,
) -> Comparison:
    """Draws a picture with its masks.

    Args:
      filename: As in the data.
      pixels: uint8 [h, w, 1 or 3].
      truth: uint8 [h, w], class ids and `ignore_id`.
      predicted: uint8 [h, w], class ids.
      classes: Class names; the index is the id.
      ignore_id: Id of pixels that count for nothing, if there is one.
    """
    image = Image.fromarray(pixels[..., 0] if pixels.shape[-1] == 1 else pixels)
    accuracy = pixel_accuracy(truth, predicted, ignore_id)
    wrong = truth != predicted
    if ignore_id is not None:
        wrong &= truth != ignore_id
    confusion = _most_frequent_mistake(truth[wrong], predicted[wrong], wrong.size, classes)
    difference = Image.fromarray(np.where(wrong, _NUM_SHADES, np.asarray(image.convert("L")) // 16).astype(np.uint8))
    difference.putpalette(_DIFFERENCE_PALETTE)
    return Comparison(
        filename=filename,
        accuracy=accuracy,
        confusion=confusion,
        picture=pictures.photograph(image, f"{filename}, as the model saw it"),
        truth=_colored(truth, classes, ignore_id, f"The mask of the data for {filename}"),
        predicted=_colored(predicted, classes, ignore_id, f"The model's mask for {filename}"),
        difference=pictures.drawing(
            difference,
            f"Wrong pixels of {filename}, highlighted: {wrong.mean():.1%} of it; {confusion or 'none'}",
        ),
    )


def _most_frequent_mistake(truth: np.ndarray, predicted: np.ndarray, total: int, classes: Sequence[str]) -> str:
    if not truth.size:
        return ""
    pairs = np.bincount(truth.astype(int) * len(classes) + predicted, minlength=len(classes) ** 2)
    actual, taken_for = divmod(int(pairs.argmax()), len(classes))
    return f"mostly {classes[actual]} taken for {classes[taken_for]} ({pairs.max() / total:.1%} of the picture)"


def _colored(ids: np.ndarray, classes: Sequence[str], ignore_id: int | None, what: str) -> Picture:
    colors = palette(len(classes)) + [IGNORED_COLOR] * (256 - len(classes))
    counts = np.bincount(ids.reshape(-1), minlength=256)[: len(classes)]
    shares = sorted(((count / ids.size, classes[index]) for index, count in enumerate(counts) if count), reverse=True)
    described = ", ".join(f"{name} {share:.0%}" for share, name in shares[:4]) or "nothing that counts"
    image = Image.fromarray(ids)
    image.putpalette([channel for color in colors for channel in color])
    return pictures.drawing(image, f"{what}: {described}")
