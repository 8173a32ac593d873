"""Draws masks: the colours of classes, masks over images, and predictions beside the ground truth.

In all functions `image` is uint8 [h, w, 1 or 3], `mask` the ground truth, uint8 [h, w] with class ids and `ignore_id`,
`predicted` uint8 [h, w] with class ids, `classes` the class names by id, and `ignore_id` the id of pixels without a
class, if there is one. Padding of the ground truth (`mask_labels`) counts as little as ignored pixels.
"""

from __future__ import annotations

import colorsys
from collections.abc import Sequence

import numpy as np

from trainer_module import mask_labels
from trainer_module.image_drawing import enlarged_rgb
from trainer_module.tasks._spec import Color, Panel

# Distinguishable with every kind of colour blindness: Okabe & Ito's colours except black, then Tol's darker ones.
# Reference: M. Okabe & K. Ito, Color Universal Design, 2008, https://jfly.uni-koeln.de/color/; P. Tol, Colour Schemes,
# SRON/EPS/TN/09-002, 2021, figure 4 ("muted").
_COLORS: tuple[Color, ...] = (
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
IGNORED_COLOR: Color = (128, 128, 128)
# Wrong pixels of a difference; all others are grey and darker, so that the lightness alone shows them.
WRONG_COLOR: Color = (255, 176, 0)
_NUM_SHADES = 16  # of grey in a difference, from black to the middle; few, so that its PNG is small
_GOLDEN_ANGLE = 0.381966

# Weight of the colours of a mask over its image.
ALPHA = 0.6
# A class of this name is not painted over an image.
BACKGROUND = "background"


def palette(num_classes: int) -> list[Color]:
    """Assigns a colour to every class: designed ones first, then hues a golden angle apart in three lightnesses.

    Returns:
      One colour per class; the same for the same class id, however many classes there are.
    """
    colors = list(_COLORS[:num_classes])
    for index in range(num_classes - len(colors)):
        lightness = (0.75, 0.35, 0.55)[index % 3]
        red, green, blue = colorsys.hls_to_rgb((index + 0.5) * _GOLDEN_ANGLE % 1.0, lightness, 0.6)
        colors.append((round(red * 255), round(green * 255), round(blue * 255)))
    return colors


def color(mask: np.ndarray, num_classes: int) -> np.ndarray:
    """Replaces class ids by colours: uint8 [h, w] → uint8 [h, w, 3]; ids of no class are grey."""
    table = palette(num_classes) + [IGNORED_COLOR] * (256 - num_classes)
    colored: np.ndarray = np.array(table, np.uint8)[mask]
    return colored


def draw(
    image: np.ndarray, mask: np.ndarray, classes: Sequence[str], ignore_id: int | None, scale: int = 1
) -> np.ndarray:
    """Paints a mask over its image, except a class named `background`; ignored pixels are grey.

    Returns:
      uint8 [scale * h, scale * w, 3].
    """
    blended = (1 - ALPHA) * image + ALPHA * color(mask, len(classes))
    painted = ~np.isin(mask, [index for index, name in enumerate(classes) if name == BACKGROUND])
    drawn: np.ndarray = np.where(painted[..., np.newaxis], np.round(blended), image).astype(np.uint8)
    return enlarged_rgb(drawn, scale)


def legend(
    classes: Sequence[str], ignore_id: int | None, masks: Sequence[np.ndarray] | None = None
) -> list[tuple[str, Color]]:
    """Lists names and colours: all, or if masks are given, those that `draw` paints of them."""
    entries = list(enumerate(zip(classes, palette(len(classes)), strict=True)))
    if ignore_id is not None:
        entries.append((ignore_id, ("ignored", IGNORED_COLOR)))
    if masks is None:
        return [entry for _, entry in entries]
    shown = {int(class_id) for mask in masks for class_id in np.unique(mask)}
    return [entry for class_id, entry in entries if class_id in shown and entry[0] != BACKGROUND]


def pixel_accuracy(mask: np.ndarray, predicted: np.ndarray, ignore_id: int | None) -> float:
    """Computes the share of correct pixels, range [0, 1]; NaN if all pixels are ignored."""
    counted = mask_labels.counted(mask, ignore_id)
    return float(np.mean(mask[counted] == predicted[counted])) if counted.any() else float("nan")


def panels(
    image: np.ndarray, mask: np.ndarray, predicted: np.ndarray, classes: Sequence[str], ignore_id: int | None
) -> tuple[Panel, ...]:
    """Draws ground truth, prediction and the pixels in which they differ."""
    from PIL import Image

    wrong = _wrong(mask, predicted, len(classes), ignore_id)
    luma = np.asarray(Image.fromarray(image).convert("L")) if image.shape[-1] == 3 else image[..., 0]
    grey = luma // (256 // _NUM_SHADES) * 9
    difference = np.where(wrong[..., np.newaxis], np.array(WRONG_COLOR, np.uint8), grey[..., np.newaxis])
    errors = main_error(mask, predicted, classes, ignore_id)
    return (
        Panel("Ground truth", color(mask, len(classes)), _describe(mask, classes)),
        Panel("Prediction", color(predicted, len(classes)), _describe(predicted, classes)),
        Panel("Difference", difference, f"{wrong.mean():.1%} of the pixels are wrong; {errors or 'none'}"),
    )


def main_error(mask: np.ndarray, predicted: np.ndarray, classes: Sequence[str], ignore_id: int | None) -> str:
    """Describes the most frequent error; empty if there is none."""
    wrong = _wrong(mask, predicted, len(classes), ignore_id)
    if not wrong.any():
        return ""
    pairs = np.bincount(mask[wrong].astype(int) * len(classes) + predicted[wrong], minlength=len(classes) ** 2)
    actual, other = divmod(int(pairs.argmax()), len(classes))
    return f"mostly {classes[actual]} predicted as {classes[other]} ({pairs.max() / wrong.size:.1%} of the image)"


def _wrong(mask: np.ndarray, predicted: np.ndarray, num_classes: int, ignore_id: int | None) -> np.ndarray:
    wrong: np.ndarray = (mask != predicted) & mask_labels.counted(mask, ignore_id, num_classes)
    return wrong


def _describe(mask: np.ndarray, classes: Sequence[str]) -> str:
    counts = np.bincount(mask.reshape(-1), minlength=256)[: len(classes)]
    shares = sorted(((count / mask.size, classes[index]) for index, count in enumerate(counts) if count), reverse=True)
    return ", ".join(f"{name} {share:.0%}" for share, name in shares[:4]) or "ignored pixels only"
