"""Datasets that are generated from installed packages: no network and no other files are needed."""

from __future__ import annotations

import csv
import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

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
# The same for sets of digits.
SETS = {features.TRAIN: (1800, 0.7), features.VALIDATION: (400, 0.15), features.TEST: (400, 0.15)}
SET_SIDE, MOST_DIGITS = 32, 4
_NOISE = 48  # largest gray value of the background: without noise, all images without a digit would be duplicates

# Class names by source: known before the dataset is written.
_DIGITS = tuple(map(str, range(10)))
CLASSES = {"digits": _DIGITS, "digit_scenes": ("background", *_DIGITS), "digit_boxes": _DIGITS, "digit_sets": _DIGITS}


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


def write_digit_boxes(data_dir: Path) -> None:
    """Writes the scenes of `write_digit_scenes` with a box around every digit, as Pascal VOC does.

    `JPEGImages/<split>_<index>.png` (lossless in spite of the folder's name), `Annotations/` and `ImageSets/Main/`. A
    box surrounds exactly the pixels of its digit.

    Reference: Everingham et al. 2010, https://doi.org/10.1007/s11263-009-0275-4 (the format: pixels count from 1, and
    those of `xmax` and `ymax` belong to the box).
    """
    _write_once(data_dir, _digit_boxes_into)


def write_digit_sets(data_dir: Path) -> None:
    """Writes 2,600 gray images of 32x32 pixels with up to four handwritten digits each, and the set of their classes.

    `images/<split>_<index>.png` and `manifest.csv` with `labels` such as `3|7`; an image without a digit has none. The
    digits are 8 to 12 pixels high and do not overlap. No digit occurs in two splits. Every call writes the same images;
    a complete folder is not written again.

    Reference: See `write_digits`.
    """
    _write_once(data_dir, _digit_sets_into)


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
    (staging / CLASSES_FILE).write_text("\n".join(CLASSES["digit_scenes"]) + "\n")
    for split, index, made in _scenes():
        for folder, pixels in ((mask_pairs.IMAGES_FOLDER, made.image), (mask_pairs.MASKS_FOLDER, made.mask)):
            path = staging / folder / split / f"{index:04d}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(pixels).save(path)


def _digit_boxes_into(staging: Path) -> None:
    images, annotations, lists = (staging / name for name in ("JPEGImages", "Annotations", "ImageSets/Main"))
    for folder in (images, annotations, lists):
        folder.mkdir(parents=True)
    names: dict[str, list[str]] = {}
    for split, index, made in _scenes():
        name = f"{split}_{index:04d}"
        names.setdefault(split, []).append(name)
        Image.fromarray(made.image).save(images / f"{name}.png")
        (annotations / f"{name}.xml").write_text(_voc_annotation(name, made))
    for split, listed in names.items():
        (lists / f"{split}.txt").write_text("\n".join(listed) + "\n")


def _digit_sets_into(staging: Path) -> None:
    from sklearn.datasets import load_digits

    digits = load_digits()
    random = np.random.default_rng(0)
    (staging / "images").mkdir()
    rows, begin = [], 0.0
    for split, (count, share) in SETS.items():
        end = begin + share
        own = slice(round(begin * len(digits.images)), round(end * len(digits.images)))
        for index in range(count):
            name = f"images/{split}_{index:04d}.png"
            image, present = digit_set(digits.images[own], digits.target[own], random)
            Image.fromarray(image).save(staging / name)
            rows.append((name, "|".join(map(str, present)), split))
        begin = end
    with (staging / "manifest.csv").open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(["path", "labels", "split"])
        writer.writerows(rows)


def digit_set(inks: np.ndarray, targets: np.ndarray, random: np.random.Generator) -> tuple[np.ndarray, tuple[int, ...]]:
    """Places up to `MOST_DIGITS` digits on dark noise; one that would overlap another is skipped.

    Args:
      inks: float [n, 8, 8], range [0, 16].
      targets: int [n], the digits.
      random: Source of all random choices.

    Returns:
      uint8 [32, 32] and the digits that occur, ascending.
    """
    image = random.integers(0, _NOISE, (SET_SIDE, SET_SIDE), dtype=np.uint8)
    occupied = np.zeros_like(image, bool)
    present = set()
    for _ in range(random.integers(0, MOST_DIGITS + 1)):
        chosen, side = random.integers(len(inks)), int(random.integers(8, 13))
        row, column = random.integers(0, SET_SIDE - side + 1, 2)
        place: Any = np.s_[row : row + side, column : column + side]
        if occupied[place].any():
            continue
        occupied[place] = True
        enlarged = Image.fromarray(inks[chosen].astype(np.float32)).resize((side, side), Image.Resampling.BICUBIC)
        ink = np.clip(np.asarray(enlarged) * 255.0 / 16.0, 0.0, 255.0).astype(np.uint8)
        image[place] = np.maximum(image[place], ink)
        present.add(int(targets[chosen]))
    return image, tuple(sorted(present))


def _voc_annotation(name: str, made: Scene) -> str:
    objects = [
        f"<object><name>{digit}</name><difficult>0</difficult><bndbox><xmin>{xmin + 1}</xmin><ymin>{ymin + 1}</ymin>"
        f"<xmax>{xmax}</xmax><ymax>{ymax}</ymax></bndbox></object>"
        for (ymin, xmin, ymax, xmax), digit in zip(made.boxes, made.digits, strict=True)
    ]
    size = f"<size><width>{SCENE_SIDE}</width><height>{SCENE_SIDE}</height><depth>3</depth></size>"
    return f"<annotation><filename>{name}.png</filename>{size}{''.join(objects)}</annotation>\n"


def _scenes() -> Iterator[tuple[str, int, Scene]]:
    """Yields split, index and scene; the same ones in every call."""
    from sklearn.datasets import load_digits, load_sample_images

    digits = load_digits()
    photographs = load_sample_images().images
    random = np.random.default_rng(0)
    begin = 0.0
    for split, (count, share) in SCENES.items():
        end = begin + share
        own = slice(round(begin * len(digits.images)), round(end * len(digits.images)))
        parts = [photo[:, round(begin * photo.shape[1]) : round(end * photo.shape[1])] for photo in photographs]
        for index in range(count):
            yield split, index, scene(parts[index % len(parts)], digits.images[own], digits.target[own], random)
        begin = end


class Scene(NamedTuple):
    """Digits on a photograph.

    Attributes:
      image: uint8 [64, 64, 3].
      mask: uint8 [64, 64], 0 for the background and 1 + digit.
      boxes: (ymin, xmin, ymax, xmax) of every digit, pixels; ymax and xmax are exclusive.
      digits: The digit in each box.
    """

    image: np.ndarray
    mask: np.ndarray
    boxes: tuple[tuple[int, int, int, int], ...]
    digits: tuple[int, ...]


def scene(photograph: np.ndarray, inks: np.ndarray, targets: np.ndarray, random: np.random.Generator) -> Scene:
    """Places digits on a crop of a photograph.

    A pixel belongs to a digit if its enlarged ink (bicubic) is at least half of the maximum; exactly these pixels take
    the colour of the digit, so the mask is exact. A digit whose square overlaps that of another one is skipped.

    Args:
      photograph: uint8 [height, width, 3], at least 64 x 64.
      inks: float [n, 8, 8], range [0, 16].
      targets: int [n], the digits.
      random: Source of all random choices.
    """
    top, left = (random.integers(0, size - SCENE_SIDE + 1) for size in photograph.shape[:2])
    image = photograph[top : top + SCENE_SIDE, left : left + SCENE_SIDE].copy()
    mask = np.zeros((SCENE_SIDE, SCENE_SIDE), np.uint8)
    occupied = np.zeros_like(mask, bool)
    boxes, present = [], []
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
        y, x = np.nonzero(is_ink)
        first_row, first_column = int(row), int(column)
        boxes.append(
            (
                first_row + int(y.min()),
                first_column + int(x.min()),
                first_row + int(y.max()) + 1,
                first_column + int(x.max()) + 1,
            )
        )
        present.append(int(targets[chosen]))
    return Scene(image, mask, tuple(boxes), tuple(present))


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


WRITERS = {
    "digits": write_digits,
    "digit_scenes": write_digit_scenes,
    "digit_boxes": write_digit_boxes,
    "digit_sets": write_digit_sets,
}
