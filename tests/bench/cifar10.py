"""CIFAR-10: the textbook's recipe and the preset's, the same layers, split and script.

python tests/bench/cifar10.py IMAGES --recipe textbook|preset [--epochs 50] [--set training.learning_rate=0.1] ...

IMAGES holds `<class>/<index>.png`, 50,000 in all; those with an index from 45,000 are held out. Both recipes watch
the held-out images and keep the epoch whose loss on them is lowest, which favours neither. `--checkpoint FILE` goes
on with an interrupted run of the preset's. Prints one line an epoch and, last, one JSON object.
"""

from __future__ import annotations

import argparse
import json
import logging
import sys
import tempfile
import time
from pathlib import Path

import keras
import numpy as np
import tensorflow as tf

from pipeline.config import loading
from trainer_module import fitting, preprocessing
from trainer_module.checkpoints import CheckpointFile
from trainer_module.fitting import TrainingData
from trainer_module.input_pipeline import PixelStatistics
from trainer_module.model_input import Geometry

NUM_TRAIN = 45_000
Arrays = tuple[np.ndarray, np.ndarray]


def read(folder: Path) -> tuple[tuple[str, ...], Arrays, Arrays]:
    """Reads class names and, for training and held-out images, uint8 [n, 32, 32, 3] and int64 [n]."""
    classes = tuple(sorted(path.name for path in folder.iterdir() if path.is_dir()))
    files = sorted(folder.glob("*/*.png"), key=lambda path: path.stem)
    labels = np.array([classes.index(path.parent.name) for path in files], np.int64)
    images = np.empty((len(files), 32, 32, 3), np.uint8)
    for start in range(0, len(files), 500):
        encoded = tf.constant([path.read_bytes() for path in files[start : start + 500]])
        images[start : start + 500] = preprocessing.decode_and_resize(encoded, Geometry.of(32), 3)
    held_out = np.array([int(path.stem) >= NUM_TRAIN for path in files])
    return classes, (images[~held_out], labels[~held_out]), (images[held_out], labels[held_out])


def textbook(train: Arrays, held_out: Arrays, epochs: int, seed: int) -> keras.callbacks.History:
    """The same layers as a tutorial writes them: Adam, batch 128, plateau, early stopping, nothing else."""
    keras.utils.set_random_seed(seed)
    layers = keras.layers
    model = keras.Sequential([keras.Input((32, 32, 3)), layers.Rescaling(1 / 255)])
    for filters in (32, 32, 0, 64, 64, 0, 128):
        if filters:
            model.add(layers.Conv2D(filters, 3, padding="same", use_bias=False))
            model.add(layers.BatchNormalization())
            model.add(layers.ReLU())
        else:
            model.add(layers.MaxPooling2D())
            model.add(layers.Dropout(0.25))
    model.add(layers.GlobalAveragePooling2D())
    model.add(layers.Dense(256, activation="relu"))
    model.add(layers.Dropout(0.5))
    model.add(layers.Dense(10))
    model.compile(
        optimizer=keras.optimizers.Adam(1e-3),
        loss=keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        metrics=["accuracy"],
    )
    return model.fit(
        *train,
        batch_size=128,
        epochs=epochs,
        validation_data=held_out,
        callbacks=[
            keras.callbacks.ReduceLROnPlateau(factor=0.5, patience=3),
            keras.callbacks.EarlyStopping(patience=8, restore_best_weights=True),
        ],
        verbose=2,
    )


def preset(
    classes: tuple[str, ...],
    train: Arrays,
    held_out: Arrays,
    epochs: int | None,
    overrides: list[str],
    checkpoint: CheckpointFile,
) -> tuple[keras.Model, keras.callbacks.History]:
    """The preset `cifar10`, trained by the code that the pipeline's Trainer calls."""
    overrides = overrides + ([f"training.epochs={epochs}"] if epochs else [])
    options = loading.load("cifar10", data="unused", overrides=overrides).trainer_options(classes)
    pixels = train[0].reshape(-1, 3).astype(np.float64)
    images = TrainingData(
        PixelStatistics(pixels.mean(0).astype(np.float32), pixels.var(0).astype(np.float32)),
        tf.data.Dataset.from_tensor_slices(train),
        tf.data.Dataset.from_tensor_slices(held_out),
    )
    with tempfile.TemporaryDirectory() as folder:
        return fitting.fit(options, images, folder, checkpoint=checkpoint)


def main() -> None:
    """Trains, measures and prints."""
    parser = argparse.ArgumentParser()
    parser.add_argument("images", type=Path)
    parser.add_argument("--recipe", choices=["textbook", "preset"], required=True)
    parser.add_argument("--epochs", type=int, help="50 for the textbook, the preset's own otherwise")
    parser.add_argument("--set", action="append", default=[], help="as for tfx-vision run; of the preset")
    parser.add_argument("--checkpoint", help="file to go on from")
    parser.add_argument("--seed", type=int, default=17, help="of the textbook's")
    arguments = parser.parse_args()
    logging.basicConfig(level=logging.INFO, stream=sys.stderr, format="%(asctime)s %(message)s")

    classes, train, held_out = read(arguments.images)
    start, cpu_start = time.perf_counter(), time.process_time()
    if arguments.recipe == "textbook":
        history = textbook(train, held_out, arguments.epochs or 50, arguments.seed)
    else:
        checkpoint = CheckpointFile(arguments.checkpoint, key=json.dumps([arguments.epochs, arguments.set]))
        _, history = preset(classes, train, held_out, arguments.epochs, arguments.set, checkpoint)
    figures = history.history
    kept = int(np.argmin(figures["val_loss"]))
    print(
        json.dumps(
            {
                "recipe": arguments.recipe,
                "set": arguments.set,
                "epochs": len(figures["val_loss"]),
                "minutes": round((time.perf_counter() - start) / 60, 1),
                "cpu_minutes": round((time.process_time() - cpu_start) / 60, 1),
                "kept_epoch": kept + 1,
                "held_out_accuracy": round(figures["val_accuracy"][kept], 4),
                "curve": [round(value, 4) for value in figures["val_accuracy"]],
                "training_accuracy": [round(value, 3) for value in figures["accuracy"]],
            }
        )
    )


if __name__ == "__main__":
    main()
