"""How often the default rules for boxes and masks pass models that have learned nothing, and models that have.

python tests/bench/default_rules.py [--datasets 500] [--images 8 15 30 100] [--only NAME] [--seed 1]

Draws datasets of objects with boxes and masks, and models: worthless ones, whose predictions ignore the image, and
useful ones. Prints, for every model and number of images, the share of the datasets in which each rule and all of
them pass it. Needs no data, TensorFlow or TFX; the rules for classes are not applied.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

from trainer_module.evaluation import box_baselines, pixels
from trainer_module.evaluation.baselines import ImageSample
from trainer_module.evaluation.box_matching import Detections, Objects
from trainer_module.evaluation.spec import Parameters

NUM_CLASSES = 2
SIZE = (480.0, 640.0)

# === Boxes ===

Scene = np.ndarray  # float64 [G, 5]: box in shares of the image, and class id
Model = Callable[[np.random.Generator, list[Scene]], list[np.ndarray]]  # scenes → detections, float64 [D, 6] each


def centred(random: np.random.Generator) -> Scene:
    """One large object near the middle, as in photographs of animals."""
    center, half = random.normal(0.5, 0.08, 2), random.uniform(0.15, 0.4, 2)
    return np.array([[*(center - half), *(center + half), random.integers(NUM_CLASSES)]])


def left(random: np.random.Generator) -> Scene:
    """An object on the left, of about the same place and size in all images: a camera that does not move."""
    center, half = random.normal([0.5, 0.3], 0.03), random.normal(0.15, 0.02, 2)
    return np.array([[*(center - half), *(center + half), 0]])


def scattered(random: np.random.Generator) -> Scene:
    """One to four objects anywhere."""
    num = random.integers(1, 5)
    half = random.uniform(0.04, 0.2, (num, 2))
    center = random.uniform(half, 1.0 - half)
    return np.column_stack([center - half, center + half, random.integers(NUM_CLASSES, size=num)])


def crowded(random: np.random.Generator) -> Scene:
    """Ten to twenty objects of one size anywhere, as cells under a microscope."""
    num = random.integers(10, 21)
    half = random.normal(0.08, 0.008, (num, 2))
    center = random.uniform(half, 1.0 - half)
    return np.column_stack([center - half, center + half, random.random(num) < 0.1])


SCENES = {"centred": centred, "left": left, "scattered": scattered, "crowded": crowded}


def _with_scores(random: np.random.Generator, detected: np.ndarray, low: float = 0.05) -> np.ndarray:
    return np.column_stack([detected, random.uniform(low, 1.0, len(detected))])


def _random_boxes(random: np.random.Generator, num: int) -> np.ndarray:
    corners = np.sort(random.random((num, 2, 2)), axis=1).reshape(-1, 4)
    return _with_scores(random, np.column_stack([corners, random.integers(NUM_CLASSES, size=num)]))


def _constant(detected: np.ndarray) -> Model:
    return lambda random, scenes: [_with_scores(random, detected) for _ in scenes]


def _like_training_data(random: np.random.Generator, scenes: list[Scene]) -> list[np.ndarray]:
    """One box per class, with its mean place and size: what an image-independent model learns at best."""
    joined = np.concatenate(scenes)
    means = [joined[joined[:, 4] == class_id].mean(axis=0) for class_id in np.unique(joined[:, 4])]
    return [_with_scores(random, np.array(means)) for _ in scenes]


def _of_other_images(random: np.random.Generator, scenes: list[Scene]) -> list[np.ndarray]:
    """A perfect detector whose results are attributed to the wrong images, or that learned from noise."""
    return [_with_scores(random, scenes[index]) for index in random.permutation(len(scenes))]


_GRID = np.array(
    [[y, x, y + 0.2, x + 0.2, c] for y in np.arange(0, 1, 0.15) for x in np.arange(0, 1, 0.15) for c in (0, 1)]
)

WORTHLESS_BOXES: dict[str, Model] = {
    "one huge box": _constant(np.array([[0.0, 0.0, 1.0, 1.0, 0.0]])),
    "one centred box": _constant(np.array([[0.2, 0.2, 0.8, 0.8, 0.0]])),
    "mean boxes of the classes": _like_training_data,
    "a grid of boxes": _constant(_GRID),
    "three random boxes": lambda random, scenes: [_random_boxes(random, 3) for _ in scenes],
    "a hundred random boxes": lambda random, scenes: [_random_boxes(random, 100) for _ in scenes],
    "boxes of other images": _of_other_images,
}


def _detector(recall: float, noise: float, false_positives: float) -> Model:
    """Finds a share of the objects, with a noise in shares of their sides, besides wrong boxes of lower score."""

    def detect(random: np.random.Generator, scenes: list[Scene]) -> list[np.ndarray]:
        results = []
        for scene in scenes:
            detected = scene[random.random(len(scene)) < recall]
            sides = np.tile(detected[:, 2:4] - detected[:, :2], 2)
            moved = np.column_stack(
                [detected[:, :4] + random.normal(0.0, noise, (len(detected), 4)) * sides, detected[:, 4]]
            )
            wrong = _random_boxes(random, random.poisson(false_positives))
            wrong[:, 5] *= 0.7
            results.append(np.concatenate([_with_scores(random, moved, 0.3), wrong]))
        return results

    return detect


USEFUL_BOXES: dict[str, Model] = {
    "recall 0.9, precise": _detector(0.9, 0.03, 1.0),
    "recall 0.8, imprecise": _detector(0.8, 0.1, 2.0),
    "recall 0.4, imprecise": _detector(0.4, 0.1, 4.0),
    "recall 0.2, imprecise": _detector(0.2, 0.1, 4.0),
}


def _detection_evidence(scenes: list[Scene], detections: list[np.ndarray]) -> Any:
    scale, sample = np.array(SIZE * 2), ImageSample()
    for scene, detected in zip(scenes, detections, strict=True):
        none = np.zeros(len(scene), bool)
        objects = Objects(scene[:, :4] * scale, scene[:, 4].astype(np.int64), none, none)
        predictions = Detections(
            detected[:, :4] * scale, detected[:, 4].astype(np.int64), detected[:, 5].astype(np.float32)
        )
        sample.add(box_baselines.sampled_image(objects, predictions, SIZE))
    return box_baselines.evidence(sample)


def _box_cases() -> Iterator[tuple[str, str, Callable[[np.random.Generator, int], Any]]]:
    for kind, models in (("worthless", WORTHLESS_BOXES), ("useful", USEFUL_BOXES)):
        for scenes_name, draw in SCENES.items():
            for name, model in models.items():

                def evidence(random: np.random.Generator, num: int, draw: Any = draw, model: Any = model) -> Any:
                    scenes = [draw(random) for _ in range(num)]
                    return _detection_evidence(scenes, model(random, scenes))

                yield kind, f"boxes, {scenes_name}: {name}", evidence


# === Masks ===


def _blobs(random: np.random.Generator, num: int) -> np.ndarray:
    masks = np.zeros((num, 24, 24), np.int64)
    for mask in masks:
        (row, column), (height, width) = random.integers(0, 18, 2), random.integers(2, 12, 2)
        mask[row : row + height, column : column + width] = 1
    return masks


def _spoiled(share: float) -> Callable[[np.random.Generator, np.ndarray], np.ndarray]:
    """Moves the object of most images to the place of another one, and keeps that of a share."""

    def predict(random: np.random.Generator, masks: np.ndarray) -> np.ndarray:
        kept = random.random(len(masks)) < share
        return np.where(kept[:, np.newaxis, np.newaxis], masks, _blobs(random, len(masks)))

    return predict


MASKS: dict[str, tuple[str, Callable[[np.random.Generator, np.ndarray], np.ndarray]]] = {
    "background": ("worthless", lambda random, masks: np.zeros_like(masks)),
    "object": ("worthless", lambda random, masks: np.ones_like(masks)),
    "noise": ("worthless", lambda random, masks: random.integers(0, 2, masks.shape)),
    "blobs anywhere": ("worthless", lambda random, masks: _blobs(random, len(masks))),
    "a third is correct": ("useful", _spoiled(0.33)),
    "half is correct": ("useful", _spoiled(0.5)),
    "four fifths are correct": ("useful", _spoiled(0.8)),
}


def _mask_cases() -> Iterator[tuple[str, str, Callable[[np.random.Generator, int], Any]]]:
    for name, (kind, predict) in MASKS.items():

        def evidence(random: np.random.Generator, num: int, predict: Any = predict) -> Any:
            masks = _blobs(random, num)
            accumulator = pixels.PixelAccumulator(Parameters(NUM_CLASSES, 1))
            for truth, predicted in zip(masks, predict(random, masks), strict=True):
                accumulator.add(pixels.count_pixels(truth, predicted, NUM_CLASSES, None))
            return accumulator.summarize().images

        yield kind, f"masks: {name}", evidence


def main() -> None:
    """Simulates and prints one JSON object per model and number of images."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--datasets", type=int, default=500, help="number of simulated datasets per row")
    parser.add_argument("--images", type=int, nargs="+", default=[8, 15, 30, 100])
    parser.add_argument("--only", default="", help="rows whose name contains this")
    parser.add_argument("--seed", type=int, default=1)
    arguments = parser.parse_args()
    classes = [f"class {index}" for index in range(NUM_CLASSES)]
    tasks = ((box_baselines.CONSTANT_BASELINES, _box_cases()), (pixels.CONSTANT_BASELINES, _mask_cases()))
    for rules, cases in tasks:
        for kind, name, draw in cases:
            if arguments.only not in name:
                continue
            random, row = np.random.default_rng(arguments.seed), {}
            for num in arguments.images:
                passed = np.array(
                    [
                        [rule.compare(evidence, classes).passed is True for rule in rules]
                        for evidence in (draw(random, num) for _ in range(arguments.datasets))
                    ]
                )
                shares = [*passed.mean(axis=0), passed.all(axis=1).mean()]
                row[num] = dict(zip(["constant", "chance", "both"], np.round(shares, 4).tolist(), strict=True))
            print(json.dumps({"model": name, "kind": kind, "passed": row}), flush=True)


if __name__ == "__main__":
    main()
