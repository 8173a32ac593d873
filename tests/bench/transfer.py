"""Accuracy of transfer learning in two phases on a stratified held-out fifth, from a folder of class folders.

python tests/bench/transfer.py PICTURES --backbone mobilenet_v2 --weights FILE [--size 192] [--unfreeze 60] ...

The held-out fifth chooses nothing: a tenth of the rest is the validation split that decides when to stop and which
epoch is kept. Prints one line an epoch and, last, one JSON object.
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

from trainer_module import preprocessing, training
from trainer_module.input_pipeline import PixelStatistics
from trainer_module.options import TrainerOptions
from trainer_module.tasks import classification


def read(folder: Path, size: int) -> tuple[tuple[str, ...], np.ndarray, np.ndarray]:
    """Reads all pictures, uint8 [n, size, size, 3], and their class ids."""
    classes = tuple(sorted(path.name for path in folder.iterdir() if path.is_dir()))
    images, labels = [], []
    for class_id, name in enumerate(classes):
        for path in sorted((folder / name).iterdir()):
            images.append(preprocessing.decode_and_resize(tf.constant([path.read_bytes()]), size, 3)[0].numpy())
            labels.append(class_id)
    return classes, np.stack(images), np.array(labels, np.int64)


def main() -> None:
    """Trains, measures and prints."""
    parser = argparse.ArgumentParser()
    parser.add_argument("pictures", type=Path)
    parser.add_argument("--backbone", default="mobilenet_v2")
    parser.add_argument("--weights", default="imagenet")
    parser.add_argument("--size", type=int, default=192)
    parser.add_argument("--epochs", type=int, default=40)
    parser.add_argument("--rate", type=float, default=1e-3)
    parser.add_argument("--dropout", type=float, default=0.2)
    parser.add_argument("--tuning-epochs", type=int, default=6)
    parser.add_argument("--tuning-rate", type=float, default=1e-4)
    parser.add_argument("--unfreeze", type=int, default=60)
    parser.add_argument("--flip", action="store_true", help="mirror half of the pictures; nothing is kept then")
    parser.add_argument("--seed", type=int, default=17)
    arguments = parser.parse_args()
    logging.basicConfig(level=logging.INFO, stream=sys.stderr, format="%(asctime)s %(message)s")

    classes, images, labels = read(arguments.pictures, arguments.size)
    random = np.random.default_rng(arguments.seed)
    parts: dict[str, list[int]] = {"test": [], "validation": [], "train": []}
    for class_id in range(len(classes)):
        indices = random.permutation(np.flatnonzero(labels == class_id))
        fifth = round(len(indices) / 5)
        tenth = round((len(indices) - fifth) / 10)
        parts["test"] += list(indices[:fifth])
        parts["validation"] += list(indices[fifth : fifth + tenth])
        parts["train"] += list(indices[fifth + tenth :])

    def data(part: str) -> tf.data.Dataset:
        chosen = np.array(parts[part])
        pictures = tf.data.Dataset.from_tensor_slices((images[chosen], labels[chosen]))
        return pictures.shuffle(len(chosen), arguments.seed).batch(32) if part == "train" else pictures.batch(32)

    options = TrainerOptions(
        classes=classes,
        transform={"image_size": arguments.size, "normalization": "backbone"},
        model={
            "name": "transfer",
            "backbone": arguments.backbone,
            "weights": arguments.weights,
            "head_dropout": arguments.dropout,
        },
        augmentation={"horizontal_flip": arguments.flip},
        training={"epochs": arguments.epochs, "learning_rate": arguments.rate, "seed": arguments.seed},
        fine_tuning={
            "epochs": arguments.tuning_epochs,
            "learning_rate": arguments.tuning_rate,
            "unfreeze_layers": arguments.unfreeze,
        },
    )
    keras.utils.set_random_seed(arguments.seed)
    start = time.perf_counter()
    model = classification.build_model(options, PixelStatistics(np.zeros(3, np.float32), np.ones(3, np.float32)))
    with tempfile.TemporaryDirectory() as folder:
        history = training.train(
            model, options, train_data=data("train"), validation_data=data("validation"), run_dir=folder
        )
    minutes = (time.perf_counter() - start) / 60
    logits = np.concatenate([model(pictures, training=False) for pictures, _ in data("test")])
    print(
        json.dumps(
            {
                **{key: str(value) for key, value in vars(arguments).items() if key != "pictures"},
                **{f"{part}_pictures": len(indices) for part, indices in parts.items()},
                "test_accuracy": round(float(np.mean(logits.argmax(axis=1) == labels[parts["test"]])), 4),
                "minutes": round(minutes, 1),
                "phases": history.history["phase"],
                "val_accuracy": [round(value, 3) for value in history.history["val_accuracy"]],
                "val_loss": [round(value, 3) for value in history.history["val_loss"]],
            }
        )
    )


if __name__ == "__main__":
    main()
