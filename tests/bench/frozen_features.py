"""Ten epochs of a head on a frozen base: cached features compared with features computed in every epoch.

python tests/bench/frozen_features.py IMAGES WEIGHTS [--epochs 10] [--limit 400]

IMAGES holds one folder a class; WEIGHTS is a file of MobileNetV2. The uncached way is what a textbook does: `fit` of
the whole model, the base frozen. Both start from the same weights and see the same images. The uncached time is
measured over `--measured` epochs and multiplied, the first apart, since it compiles.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from pathlib import Path
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from trainer_module import preprocessing, training
from trainer_module.input_pipeline import PixelStatistics
from trainer_module.model_input import Geometry
from trainer_module.network import build as build_network
from trainer_module.options import TrainerOptions
from trainer_module.tasks import classification


class _Times(keras.callbacks.Callback):
    def on_train_begin(self, logs: Any = None) -> None:
        self.seconds: list[float] = []

    def on_epoch_begin(self, epoch: int, logs: Any = None) -> None:
        self._start = time.perf_counter()

    def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
        self.seconds.append(time.perf_counter() - self._start)


def read_images(folder: Path, size: int, limit: int) -> tuple[tuple[str, ...], np.ndarray, np.ndarray]:
    """Reads the first images of every class, uint8 [n, size, size, 3], and their class ids."""
    classes = tuple(sorted(path.name for path in folder.iterdir() if path.is_dir()))
    images, labels = [], []
    for class_id, name in enumerate(classes):
        for path in sorted((folder / name).iterdir())[: limit // len(classes)]:
            images.append(
                preprocessing.decode_and_resize(tf.constant([path.read_bytes()]), Geometry.of(size), 3)[0].numpy()
            )
            labels.append(class_id)
    order = np.random.default_rng(17).permutation(len(labels))
    return classes, np.stack(images)[order], np.array(labels, np.int64)[order]


def main() -> None:
    """Measures and prints one JSON object."""
    parser = argparse.ArgumentParser()
    parser.add_argument("images", type=Path)
    parser.add_argument("weights")
    parser.add_argument("--size", type=int, default=160)
    parser.add_argument("--epochs", type=int, default=10)
    parser.add_argument("--measured", type=int, default=3)
    parser.add_argument("--limit", type=int, default=400)
    arguments = parser.parse_args()

    classes, images, labels = read_images(arguments.images, arguments.size, arguments.limit)
    held_out = len(labels) // 5
    options = TrainerOptions(
        classes=classes,
        transform={"image_size": arguments.size, "normalization": "backbone"},
        model={"name": "transfer", "backbone": "mobilenet_v2", "weights": arguments.weights},
        training={"epochs": arguments.epochs, "early_stopping_patience": arguments.epochs},
    )

    def data(begin: int, end: int) -> tf.data.Dataset:
        return tf.data.Dataset.from_tensor_slices((images[begin:end], labels[begin:end])).batch(32)

    train_data, validation_data = data(held_out, len(labels)), data(0, held_out)
    statistics = PixelStatistics(np.zeros(3, np.float32), np.ones(3, np.float32))
    keras.utils.set_random_seed(17)
    model = build_network(options, statistics)
    first = model.get_weights()

    start = time.perf_counter()
    with tempfile.TemporaryDirectory() as folder:
        history = training.train(model, options, train_data=train_data, validation_data=validation_data, run_dir=folder)
    cached = time.perf_counter() - start

    model.set_weights(first)
    model.compile(
        keras.optimizers.Adam(1e-3),
        classification.TASK.loss(options),
        metrics=classification.TASK.training_metrics(options),
    )
    times = _Times()
    model.fit(train_data, validation_data=validation_data, epochs=arguments.measured, callbacks=[times], verbose=0)
    later = float(np.mean(times.seconds[1:]))
    uncached = times.seconds[0] + later * (arguments.epochs - 1)
    print(
        json.dumps(
            {
                "images": len(labels),
                "cached_s": round(cached, 1),
                "uncached_s": round(uncached, 1),
                "uncached_epochs_s": [round(seconds, 1) for seconds in times.seconds],
                "speed_up": round(uncached / cached, 1),
                "accuracy_cached": history.history["val_accuracy"][-1],
            }
        )
    )


if __name__ == "__main__":
    main()
