"""Images a second of every random change, and of Keras's layers that do the same.

python tests/bench/augmentation.py [--threads 2]

Ours and Keras's take turns, so that other work on the machine slows both; the fastest of many calls counts.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable
from typing import Any

import keras
import numpy as np
import tensorflow as tf
from keras import layers

from trainer_module import augmentation
from trainer_module.options import AugmentationOptions

SIZES = ((32, 128), (96, 32))  # side, images a batch
REPEATS = 40

MOVES = {"rotation": 0.05, "zoom": 0.15, "translation": 0.1}
KERAS = {
    "horizontal_flip": lambda _: layers.RandomFlip("horizontal"),
    "rotation": lambda most: layers.RandomRotation(most, fill_mode="nearest"),
    "zoom": lambda most: layers.RandomZoom(most, fill_mode="nearest"),
    "translation": lambda most: layers.RandomTranslation(most, most, fill_mode="nearest"),
    "contrast": layers.RandomContrast,
    "brightness": layers.RandomBrightness,
    # 0.5 changes nothing.
    "saturation": lambda most: layers.RandomSaturation((0.5 - most / 2, 0.5 + most / 2)),
    "hue": layers.RandomHue,
    "random_erasing": layers.RandomErasing,
}
CHOICES: dict[str, dict[str, bool | float]] = {
    "flip": {"horizontal_flip": True},
    **{key: {key: value} for key, value in MOVES.items()},
    "rotation, zoom": {key: MOVES[key] for key in ("rotation", "zoom")},
    "rotation, zoom, translation": MOVES,
    "flip, rotation, zoom, translation": {"horizontal_flip": True} | MOVES,
    "contrast": {"contrast": 0.3},
    "brightness": {"brightness": 0.2},
    "saturation": {"saturation": 0.3},
    "hue": {"hue": 0.05},
    "saturation, hue": {"saturation": 0.3, "hue": 0.05},
    "random_erasing": {"random_erasing": 0.5},
}
QUALITIES: dict[str, dict[str, float]] = {"blur": {"blur": 1.0}, "noise": {"noise": 0.1}, "JPEG": {"jpeg_quality": 30}}
MIXES = {"mixup": {"mixup": 0.2}, "cutmix": {"cutmix": 1.0}}


def rates(calls: dict[str, Callable[[], tf.Tensor]], batch_size: int) -> dict[str, int]:
    """Images a second of calls that take turns."""
    best = dict.fromkeys(calls, float("inf"))
    for _ in range(REPEATS):
        for name, call in calls.items():
            start = time.perf_counter()
            call().numpy()
            best[name] = min(best[name], time.perf_counter() - start)
    return {name: round(batch_size / seconds) for name, seconds in best.items()}


def main() -> None:
    """Measures and prints one JSON object."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--only", nargs="+", help="names of augmentations")
    arguments = parser.parse_args()
    tf.config.threading.set_intra_op_parallelism_threads(arguments.threads)

    def chosen(settings: dict[str, Any]) -> dict[str, Any]:
        return {name: entry for name, entry in settings.items() if not arguments.only or name in arguments.only}

    random, seed = np.random.default_rng(1), tf.constant([1, 2], tf.int64)
    report: dict[str, dict[str, dict[str, int]]] = {}
    for size, batch_size in SIZES:
        images = tf.constant(random.uniform(0, 255, (batch_size, size, size, 3)).astype(np.float32))
        labels = tf.one_hot(tf.range(batch_size) % 10, 10)
        measured = report[f"{size} px, batches of {batch_size}"] = {}
        for name, settings in chosen(CHOICES | QUALITIES).items():
            options = AugmentationOptions(**settings)
            calls = {
                "ours": tf.function(
                    lambda images=images, options=options: augmentation.augment_images(images, options, seed)
                )
            }
            if settings.keys() <= KERAS.keys():
                theirs = keras.Sequential([KERAS[key](value) for key, value in settings.items()])
                calls["keras"] = tf.function(lambda images=images, theirs=theirs: theirs(images, training=True))
            measured[name] = rates(calls, batch_size)
        for name, settings in chosen(MIXES).items():
            options = AugmentationOptions(**settings)
            mixed = tf.function(
                lambda images=images, labels=labels, options=options: augmentation.mix(
                    images, (labels,), options, seed
                )[0]
            )
            measured[name] = rates({"ours": mixed}, batch_size)
    print(json.dumps(report, indent=2))


if __name__ == "__main__":
    main()
