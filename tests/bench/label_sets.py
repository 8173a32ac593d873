"""Several classes per image: a configuration, and the sigmoid network of a textbook with the same processor time.

python tests/bench/label_sets.py CONFIG [--weights FILE] [--set KEY=VALUE] ...

CONFIG is a preset or a TOML file of the task `multi_label`; the dataset must have a test split of its own, which
chooses nothing. First the configuration is trained by the code that Trainer calls. Then a Keras network with a sigmoid
output and binary cross-entropy is trained until it has used as much processor time: with `--weights` (a MobileNetV2
file) on that network, frozen, otherwise three convolutions from random weights. Both keep the epoch with the lowest
validation loss. Prints one JSON object: average precision of the test split, macro and by class, processor seconds.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import keras
import numpy as np
import tensorflow as tf
from sklearn.metrics import average_precision_score

from components.image_example_gen import layouts
from components.image_example_gen.labels import class_names
from pipeline.config import loading
from pipeline.config.sections import PipelineConfig
from pipeline.execution import dataset as datasets
from trainer_module import features, fitting, preprocessing, tasks
from trainer_module.input_pipeline import PixelStatistics
from trainer_module.options import TrainerOptions

Arrays = tuple[np.ndarray, np.ndarray]


def read(config: PipelineConfig) -> tuple[tuple[str, ...], dict[str, Arrays]]:
    """Reads class names, and images uint8 [n, s, s, c] and labels float32 [n, C] of every split."""
    dataset = datasets.prepare(config)
    options = datasets.example_gen_options(config, dataset)
    geometry, channels = config.transform.geometry, config.transform.channels
    parts: dict[str, tuple[list[np.ndarray], list[np.ndarray]]] = {split: ([], []) for split in features.SPLITS}
    for candidate in layouts.get(dataset.layout).read(dataset.root, dataset.entries, options):
        images, labels = parts[candidate.split]
        images.append(preprocessing.decode_and_resize(tf.constant([candidate.encoded]), geometry, channels)[0].numpy())
        labels.append(np.isin(dataset.classes, class_names(candidate.label.items())).astype(np.float32))
    return dataset.classes, {split: (np.stack(images), np.stack(labels)) for split, (images, labels) in parts.items()}


def ours(options: TrainerOptions, train: Arrays, validation: Arrays) -> keras.Model:
    """Trains the configuration."""
    pixels = train[0].astype(np.float32).reshape(-1, train[0].shape[-1])
    data = fitting.TrainingData(
        PixelStatistics(pixels.mean(axis=0), pixels.var(axis=0)),
        tf.data.Dataset.from_tensor_slices(train),
        tf.data.Dataset.from_tensor_slices(validation),
    )
    with tempfile.TemporaryDirectory() as folder:
        model, _ = fitting.fit(options, data, folder)
    return model


class _Stop(keras.callbacks.Callback):
    """Ends the training once it has used its processor time."""

    def __init__(self, seconds: float) -> None:
        super().__init__()
        self._end = time.process_time() + seconds

    def on_epoch_end(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        self.model.stop_training |= time.process_time() >= self._end


def textbook(train: Arrays, validation: Arrays, weights: str | None, seconds: float) -> tuple[keras.Model, int]:
    """Trains the network of a textbook; returns it and the number of its epochs."""
    keras.utils.set_random_seed(17)
    layers = keras.layers
    inputs = keras.Input(train[0].shape[1:])
    if weights:
        x = layers.Rescaling(1 / 127.5, -1)(inputs)
        whole = keras.applications.MobileNetV2(weights=None)
        whole.load_weights(weights)
        base = keras.applications.MobileNetV2(input_shape=train[0].shape[1:], include_top=False, weights=None)
        base.set_weights(whole.get_weights()[: len(base.get_weights())])
        base.trainable = False
        x = base(x, training=False)
    else:
        x = layers.Rescaling(1 / 255)(inputs)
        for filters in (32, 64, 128):
            x = layers.MaxPooling2D()(layers.Conv2D(filters, 3, activation="relu", padding="same")(x))
    x = layers.Dropout(0.2)(layers.GlobalAveragePooling2D()(x))
    model = keras.Model(inputs, layers.Dense(train[1].shape[1], activation="sigmoid")(x))
    model.compile(keras.optimizers.Adam(1e-3), "binary_crossentropy")
    best = keras.callbacks.EarlyStopping(patience=10_000, restore_best_weights=True)
    fit = model.fit(
        *train, batch_size=32, epochs=10_000, validation_data=validation, callbacks=[best, _Stop(seconds)], verbose=0
    )
    model.set_weights(best.best_weights)
    return model, len(fit.epoch)


def average_precisions(model: keras.Model, test: Arrays, classes: Sequence[str]) -> dict[str, Any]:
    """Computes them for the classes that occur, and their mean; logits and probabilities have the same order."""
    scores = np.concatenate([model(test[0][i : i + 32], training=False) for i in range(0, len(test[0]), 32)])
    by_class = {
        name: round(float(average_precision_score(test[1][:, index], scores[:, index])), 4)
        for index, name in enumerate(classes)
        if test[1][:, index].any()
    }
    return {"macro_ap": round(float(np.mean(list(by_class.values()))), 4), "class_ap": by_class}


def main(arguments: Sequence[str] | None = None) -> None:
    """Trains both, measures and prints."""
    parser = argparse.ArgumentParser()
    parser.add_argument("config")
    parser.add_argument("--weights", help="file of MobileNetV2 with its head, for the textbook")
    parser.add_argument("--set", action="append", default=[], help="as for tfx-vision run")
    parsed = parser.parse_args(arguments)
    config = loading.load(parsed.config, overrides=parsed.set)
    assert tasks.get(config.task.name).takes_label_sets
    classes, parts = read(config)
    train, validation, test = (parts[split] for split in features.SPLITS)
    start = time.process_time()
    model = ours(config.trainer_options(classes), train, validation)
    seconds = time.process_time() - start
    result: dict[str, Any] = {
        "config": Path(parsed.config).name,
        "images": {split: len(images) for split, (images, _) in parts.items()},
        "ours": average_precisions(model, test, classes) | {"cpu_seconds": round(seconds, 1)},
    }
    start = time.process_time()
    model, epochs = textbook(train, validation, parsed.weights, seconds)
    spent = round(time.process_time() - start, 1)
    result["textbook"] = average_precisions(model, test, classes) | {"cpu_seconds": spent, "epochs": epochs}
    print(json.dumps(result, indent=2))


if __name__ == "__main__":
    main()
