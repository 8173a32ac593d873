"""Datasets that are generated from installed packages: no network and no other files are needed."""

from __future__ import annotations

import csv
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from components.image_example_gen import tables
from components.image_example_gen.class_list import CLASSES_FILE
from components.image_example_gen.layouts import mask_pairs
from trainer_module import features

# Written last: a folder without this file is incomplete.
_COMPLETE = ".complete"

# Number of scenes per split, and the share of the split in the digits and in the width of the photographs.
SCENES = {features.TRAIN: (600, 0.7), features.VALIDATION: (100, 0.15), features.TEST: (100, 0.15)}
SCENE_SIDE = 64

# Class names by source: known before the dataset is written.
_DIGITS = tuple(map(str, range(10)))
CLASSES = {"digits": _DIGITS, "digit_scenes": ("background", *_DIGITS)}


def write_digits(data_dir: Path) -> None:
    """Writes scikit-learn's 1,797 handwritten digits as `<digit>/<index>.png`, 8x8 grey, with `metadata.csv`.

    The column `slant` of the metadata is the slant of the handwriting (`left`, `upright`, `right`), from the second
    moments of the strokes. A complete folder is not written again: its files keep their modification times.

    Reference: E. Alpaydin & C. Kaynak, Optical Recognition of Handwritten Digits, UCI Machine Learning Repository,
    https://doi.org/10.24432/C50P49; scikit-learn ships the test part.
    """
    _write_once(data_dir, _digits_into)


def write_digit_scenes(data_dir: Path) -> None:
    """Writes 800 scenes of 64x64 pixels: handwritten digits on photographs, with exact masks.

    `images/<split>/<index>.png`, `masks/<split>/<index>.png` and `classes.txt`: 0 is the background, 1 to 10 are the
    digits 0 to 9. A scene is a crop of one of scikit-learn's two sample photographs with some of its 8x8 digits on top,
    enlarged to 16 to 32 pixels, each in one colour that differs from the background. No digit and no part of a
    photograph occurs in two splits. Every call writes the same scenes; a complete folder is not written again.

    Reference: See `write_digits`; the photographs are china.jpg and flower.jpg of scikit-learn (CC BY, their authors
    are named in its `sklearn/datasets/images/README.txt`).
    """
    _write_once(data_dir, _digit_scenes_into)


def _write_once(data_dir: Path, write_into: Callable[[Path], None]) -> None:
    if (data_dir / _COMPLETE).exists():
        return
    staging = data_dir.with_name(data_dir.name + ".partial")
    shutil.rmtree(staging, ignore_errors=True)
    shutil.rmtree(data_dir, ignore_errors=True)
    staging.mkdir(parents=True)
    write_into(staging)
    (staging / _COMPLETE).touch()
    os.replace(staging, data_dir)


def _digits_into(staging: Path) -> None:
    from sklearn.datasets import load_digits

    digits = load_digits()
    rows = []
    for index, (ink, digit) in enumerate(zip(digits.images, digits.target, strict=True)):
        name = f"{digit}/{index:04d}.png"
        path = staging / name
        path.parent.mkdir(parents=True, exist_ok=True)
        # 17 levels of ink, 0 to 16.
        Image.fromarray(np.round(ink * 255.0 / 16.0).astype(np.uint8)).save(path)
        rows.append((name, slant(ink)))
    with (staging / tables.METADATA_FILE).open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow([tables.FILENAME_COLUMN, "slant"])
        writer.writerows(rows)


def _digit_scenes_into(staging: Path) -> None:
    from sklearn.datasets import load_digits, load_sample_images

    digits = load_digits()
    photographs = load_sample_images().images
    (staging / CLASSES_FILE).write_text("\n".join(CLASSES["digit_scenes"]) + "\n")
    random = np.random.default_rng(0)
    begin = 0.0
    for split, (count, share) in SCENES.items():
        end = begin + share
        own = slice(round(begin * len(digits.images)), round(end * len(digits.images)))
        parts = [photo[:, round(begin * photo.shape[1]) : round(end * photo.shape[1])] for photo in photographs]
        for folder in (mask_pairs.IMAGES_FOLDER, mask_pairs.MASKS_FOLDER):
            (staging / folder / split).mkdir(parents=True)
        for index in range(count):
            part = parts[index % len(parts)]
            image, mask = scene(part, digits.images[own], digits.target[own], random)
            Image.fromarray(image).save(staging / mask_pairs.IMAGES_FOLDER / split / f"{index:04d}.png")
            Image.fromarray(mask).save(staging / mask_pairs.MASKS_FOLDER / split / f"{index:04d}.png")
        begin = end


def scene(
    photograph: np.ndarray, inks: np.ndarray, targets: np.ndarray, random: np.random.Generator
) -> tuple[np.ndarray, np.ndarray]:
    """Places digits on a crop of a photograph.

    A pixel belongs to a digit if its enlarged ink (bicubic) is at least half of the maximum; exactly these pixels take
    the colour of the digit, so the mask is exact. A digit whose square overlaps that of another one is skipped.

    Args:
      photograph: uint8 [height, width, 3], at least 64 x 64.
      inks: float [n, 8, 8], range [0, 16].
      targets: int [n], the digits.
      random: Source of all random choices.

    Returns:
      Image uint8 [64, 64, 3] and mask uint8 [64, 64], 0 for the background and 1 + digit.
    """
    top, left = (random.integers(0, size - SCENE_SIDE + 1) for size in photograph.shape[:2])
    image = photograph[top : top + SCENE_SIDE, left : left + SCENE_SIDE].copy()
    mask = np.zeros((SCENE_SIDE, SCENE_SIDE), np.uint8)
    occupied = np.zeros_like(mask, bool)
    for _ in range(random.integers(3, 13)):
        chosen, side = random.integers(len(inks)), int(random.integers(16, 33))
        row, column = random.integers(0, SCENE_SIDE - side + 1, 2)
        place: Any = np.s_[row : row + side, column : column + side]
        if occupied[place].any():
            continue
        occupied[place] = True
        enlarged = Image.fromarray(inks[chosen].astype(np.float32)).resize((side, side), Image.Resampling.BICUBIC)
        is_ink = np.asarray(enlarged) >= inks[chosen].max() / 2
        # About half of the range away from the mean of the background, in every channel: always visible.
        background = image[place].reshape(-1, 3).mean(axis=0)
        image[place][is_ink] = ((background + random.uniform(96, 160, 3)) % 256).astype(np.uint8)
        mask[place][is_ink] = 1 + targets[chosen]
    return image, mask


def slant(ink: np.ndarray) -> str:
    """Slant of the strokes: `left`, `upright` or `right`.

    The horizontal shift per row of the best-fitting axis is cov(x, y) / var(y), weighted by ink; y points down, so a
    slant to the right is negative. Below a tenth of a pixel per row, it counts as upright.

    Args:
      ink: [height, width], non-negative, not all zero.
    """
    y, x = np.mgrid[: ink.shape[0], : ink.shape[1]]
    weights = ink / ink.sum()
    dx, dy = x - (weights * x).sum(), y - (weights * y).sum()
    variance = (weights * dy * dy).sum()
    shift = (weights * dx * dy).sum() / variance if variance > 0 else 0.0
    return "right" if shift < -0.1 else "left" if shift > 0.1 else "upright"


WRITERS = {"digits": write_digits, "digit_scenes": write_digit_scenes}
