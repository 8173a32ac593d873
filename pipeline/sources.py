"""Data sets that the product writes itself, from packages it depends on: no network, no files of ours."""

from __future__ import annotations

import csv
import os
import shutil
from pathlib import Path

import numpy as np
from PIL import Image

from components.image_example_gen import layout

# Written last: a folder without it was left by an interrupted call.
_COMPLETE = ".complete"


def write_digits(data_dir: Path) -> None:
    """Writes scikit-learn's 1,797 handwritten digits as `<digit>/<index>.png`, 8x8 grey, with `metadata.csv`.

    The metadata's column `slant` says how the writer's hand leant (`left`, `upright`, `right`), from the strokes'
    second moments. A folder that is complete is left as it is, so that its files keep their time of change.

    Reference: E. Alpaydin & C. Kaynak, Optical Recognition of Handwritten Digits, UCI Machine Learning Repository,
    https://doi.org/10.24432/C50P49; scikit-learn ships the test part.
    """
    if (data_dir / _COMPLETE).exists():
        return
    from sklearn.datasets import load_digits

    digits = load_digits()
    staging = data_dir.with_name(data_dir.name + ".partial")
    shutil.rmtree(staging, ignore_errors=True)
    shutil.rmtree(data_dir, ignore_errors=True)
    rows = []
    for index, (ink, digit) in enumerate(zip(digits.images, digits.target, strict=True)):
        name = f"{digit}/{index:04d}.png"
        path = staging / name
        path.parent.mkdir(parents=True, exist_ok=True)
        # 17 levels of ink, 0 to 16.
        Image.fromarray(np.round(ink * 255.0 / 16.0).astype(np.uint8)).save(path)
        rows.append((name, slant(ink)))
    with (staging / layout.METADATA_FILE).open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow([layout.FILENAME_COLUMN, "slant"])
        writer.writerows(rows)
    (staging / _COMPLETE).touch()
    os.replace(staging, data_dir)


def slant(ink: np.ndarray) -> str:
    """How far the strokes lean: `left`, `upright` or `right`.

    The horizontal shift per row of the best-fitting axis is cov(x, y) / var(y), weighted by ink; y points down, so a
    hand that leans to the right has a negative one. Below a tenth of a pixel a row it counts as upright.

    Args:
      ink: [height, width], non-negative, not all zero.
    """
    y, x = np.mgrid[: ink.shape[0], : ink.shape[1]]
    weights = ink / ink.sum()
    dx, dy = x - (weights * x).sum(), y - (weights * y).sum()
    variance = (weights * dy * dy).sum()
    shift = (weights * dx * dy).sum() / variance if variance > 0 else 0.0
    return "right" if shift < -0.1 else "left" if shift > 0.1 else "upright"


WRITERS = {"digits": write_digits}
