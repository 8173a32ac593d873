"""Ten kinds of clothes: the preset, the same network from random weights, and the textbook's transfer learning.

python tests/bench/clothing.py IMAGES --recipe preset|textbook [--weights FILE] [--set model.weights=none] ...

A stratified fifth is held out and chooses nothing: a tenth of the rest is the validation split that decides which epoch
is kept. `--checkpoint FILE` goes on with an interrupted run of the preset's. Prints one line an epoch and, last, one
JSON object.
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
from trainer_module.options import TrainerOptions

SPLIT_SEED = 17
Arrays = tuple[np.ndarray, np.ndarray]


def read(folder: Path, geometry: Geometry) -> tuple[tuple[str, ...], Arrays]:
    """Reads class names, all images, uint8 [n, h, w, 3], and their class ids, int64 [n]."""
    classes = tuple(sorted(path.name for path in folder.iterdir() if path.is_dir()))
    files = [path for name in classes for path in sorted((folder / name).iterdir())]
    images = [
        preprocessing.decode_and_resize(tf.constant([path.read_bytes()]), geometry, 3)[0].numpy() for path in files
    ]
    return classes, (np.stack(images), np.array([classes.index(path.parent.name) for path in files], np.int64))


def split(labels: np.ndarray) -> dict[str, np.ndarray]:
    """Indices of the stratified splits: a held-out fifth, a tenth of the rest for validation, and the others."""
    random = np.random.default_rng(SPLIT_SEED)
    parts: dict[str, list[int]] = {"test": [], "validation": [], "train": []}
    for class_id in np.unique(labels):
        indices = random.permutation(np.flatnonzero(labels == class_id))
        fifth = round(len(indices) / 5)
        tenth = round((len(indices) - fifth) / 10)
        parts["test"] += list(indices[:fifth])
        parts["validation"] += list(indices[fifth : fifth + tenth])
        parts["train"] += list(indices[fifth + tenth :])
    return {name: np.array(indices) for name, indices in parts.items()}


def textbook(train: Arrays, validation: Arrays, weights: str, seed: int) -> tuple[keras.Model, dict[str, list[float]]]:
    """Transfer learning as the guide of Keras shows it: frozen base, then all but batch normalisation at a low rate."""
    keras.utils.set_random_seed(seed)
    layers = keras.layers
    size, classes = train[0].shape[1], int(train[1].max()) + 1
    named = weights in ("imagenet", "none")
    base = keras.applications.MobileNetV2(
        input_shape=(size, size, 3), include_top=False, weights={"none": None}.get(weights, weights) if named else None
    )
    if not named:  # a file of the whole network: its layers up to the last map are ours
        whole = keras.applications.MobileNetV2(weights=None)
        whole.load_weights(weights)
        base.set_weights(whole.get_weights()[: len(base.get_weights())])
    base.trainable = False
    inputs = keras.Input((size, size, 3))
    x = layers.RandomFlip("horizontal")(inputs)
    x = layers.RandomRotation(0.1)(x)
    x = layers.Rescaling(1 / 127.5, -1)(x)
    x = base(x, training=False)
    x = layers.GlobalAveragePooling2D()(x)
    x = layers.Dropout(0.2)(x)
    model = keras.Model(inputs, layers.Dense(classes)(x))
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    history: dict[str, list[float]] = {}
    for rate, epochs, trainable in ((1e-3, 20, False), (1e-5, 10, True)):
        base.trainable = trainable
        for layer in base.layers:  # Keras 3.15 hands training=True down, whatever the base was called with
            layer.trainable = trainable and not isinstance(layer, layers.BatchNormalization)
        model.compile(keras.optimizers.Adam(rate), loss, metrics=["accuracy"])
        stopping = keras.callbacks.EarlyStopping(patience=5, restore_best_weights=True)
        fit = model.fit(
            *train, batch_size=32, epochs=epochs, validation_data=validation, callbacks=[stopping], verbose=2
        )
        for name, values in fit.history.items():
            history.setdefault(name, []).extend(values)
    return model, history


def preset(
    options: TrainerOptions, train: Arrays, validation: Arrays, checkpoint: CheckpointFile
) -> tuple[keras.Model, dict[str, list[float]]]:
    """The preset, trained by the code that the pipeline's Trainer calls."""
    images = TrainingData(
        PixelStatistics(np.zeros(3, np.float32), np.ones(3, np.float32)),  # the backbone normalises
        tf.data.Dataset.from_tensor_slices(train),
        tf.data.Dataset.from_tensor_slices(validation),
    )
    with tempfile.TemporaryDirectory() as folder:
        model, history = fitting.fit(options, images, folder, checkpoint=checkpoint)
    return model, history.history


def main() -> None:
    """Trains, measures and prints."""
    parser = argparse.ArgumentParser()
    parser.add_argument("images", type=Path)
    parser.add_argument("--recipe", choices=["preset", "textbook"], required=True)
    parser.add_argument("--weights", default="imagenet", help="imagenet, none, or a file")
    parser.add_argument("--set", action="append", default=[], help="as for tfx-vision run; of the preset")
    parser.add_argument("--checkpoint", help="file to go on from")
    parser.add_argument("--seed", type=int, default=17, help="of the textbook's")
    arguments = parser.parse_args()
    logging.basicConfig(level=logging.INFO, stream=sys.stderr, format="%(asctime)s %(message)s")

    overrides = [f"model.weights={arguments.weights}", *arguments.set]
    chosen = loading.load("clothing", data=str(arguments.images), overrides=overrides)
    classes, (images, labels) = read(arguments.images, chosen.transform.geometry)
    indices = split(labels)
    train, validation, test = (
        (images[indices[part]], labels[indices[part]]) for part in ("train", "validation", "test")
    )
    start, cpu_start = time.perf_counter(), time.process_time()
    if arguments.recipe == "textbook":
        model, history = textbook(train, validation, arguments.weights, arguments.seed)
    else:
        checkpoint = CheckpointFile(arguments.checkpoint, key=json.dumps(overrides))
        model, history = preset(chosen.trainer_options(classes), train, validation, checkpoint)
    minutes, cpu_minutes = (time.perf_counter() - start) / 60, (time.process_time() - cpu_start) / 60

    def logits(images: np.ndarray) -> np.ndarray:
        return np.concatenate([model(images[i : i + 32], training=False) for i in range(0, len(images), 32)])

    def accuracy(values: np.ndarray) -> float:
        return round(float(np.mean(values.argmax(axis=1) == test[1])), 4)

    upright, mirrored = logits(test[0]), logits(test[0][:, :, ::-1])
    print(
        json.dumps(
            {
                "recipe": arguments.recipe,
                "weights": Path(arguments.weights).name,
                "set": arguments.set,
                **{f"{part}_images": len(chosen) for part, chosen in indices.items()},
                "test_accuracy": accuracy(upright),
                "test_accuracy_with_mirrored_images": accuracy(upright + mirrored),
                "minutes": round(minutes, 1),
                "cpu_minutes": round(cpu_minutes, 1),
                "val_accuracy": [round(value, 3) for value in history["val_accuracy"]],
                "val_loss": [round(value, 3) for value in history["val_loss"]],
            }
        )
    )


if __name__ == "__main__":
    main()
