"""Masks for people: colours of classes, and where a prediction differs from the truth."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from PIL import Image

from components.model_report import pictures
from components.model_report.pictures import Picture
from trainer_module.mask_drawing import IGNORED_COLOR as IGNORED_COLOR
from trainer_module.mask_drawing import WRONG_COLOR as WRONG_COLOR
from trainer_module.mask_drawing import palette as palette
from trainer_module.mask_drawing import pixel_accuracy as pixel_accuracy

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
