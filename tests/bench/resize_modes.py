"""Accuracy of `transform.resize` = stretch, crop and pad.

python tests/bench/resize_modes.py classification CLOTHING --weights FILE [--size 192]
python tests/bench/resize_modes.py segmentation CAMVID --weights FILE --mode pad [--size 256x256] [--epochs 12]

`classification`: CLOTHING contains a folder per class. Mean features of a frozen MobileNetV2 and a logistic regression,
in five folds; every mode sees the same images in the same folds. Prints one JSON object per mode, with the accuracy of
landscape and of portrait images.

`segmentation`: CAMVID contains `images/` and `masks/`. Trains the preset `camvid` in few epochs, and measures the
held-out sequence in pixels of the frames (480 x 360). Sizes of about the same number of pixels take the same time.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import segmentation
import tensorflow as tf
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import StratifiedKFold, cross_val_predict
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from trainer_module import backbones, geometry, preprocessing
from trainer_module.checkpoints import CheckpointFile
from trainer_module.model_input import Geometry

_MODES = ("stretch", "crop", "pad")
_FOLDS = 5
_BATCH_SIZE = 32


def classify(arguments: argparse.Namespace) -> None:
    """Measures all modes on the same images."""
    files = sorted(arguments.data.glob("*/*.*"))
    labels = np.array([path.parent.name for path in files])
    network = backbones.get("mobilenet_v2").build(image_size=arguments.size, weights=str(arguments.weights))
    if arguments.padding_color is not None:
        geometry.PADDING_COLOR = arguments.padding_color
    for mode in [arguments.mode] if arguments.mode else _MODES:
        start = time.process_time()
        features, sizes = [], []
        for first in range(0, len(files), _BATCH_SIZE):
            encoded = tf.constant([path.read_bytes() for path in files[first : first + _BATCH_SIZE]])
            images = preprocessing.decode_images(encoded, Geometry.of(arguments.size, mode), 3)
            maps = network(tf.cast(images.pixels, tf.float32), training=False)
            features.append(tf.reduce_mean(maps, axis=[1, 2]).numpy())
            sizes.append(images.sizes.numpy())
        heights, widths = np.concatenate(sizes).T
        classifier = make_pipeline(StandardScaler(), LogisticRegression(C=0.003, max_iter=1000))
        folds = StratifiedKFold(_FOLDS, shuffle=True, random_state=17)
        correct = cross_val_predict(classifier, np.concatenate(features), labels, cv=folds) == labels
        shapes = {"landscape": widths > heights, "portrait": widths < heights, "square": widths == heights}
        print(
            json.dumps(
                {
                    "resize": mode,
                    "accuracy": round(float(correct.mean()), 4),
                    **{name: round(float(correct[part].mean()), 4) for name, part in shapes.items() if part.any()},
                    "images": {name: int(part.sum()) for name, part in shapes.items()},
                    "cpu_minutes": round((time.process_time() - start) / 60, 2),
                }
            ),
            flush=True,
        )


def segment(arguments: argparse.Namespace) -> None:
    """Trains and measures one mode."""
    epochs = {"training": {"epochs": 2}, "fine_tuning": {"epochs": arguments.epochs - 2}}
    size = [int(side) for side in arguments.size.split("x")]
    changes: dict[str, Any] = {"transform": {"image_size": size, "resize": arguments.mode or "stretch"}, **epochs}
    if arguments.precision:
        changes["training"]["precision"] = arguments.precision
    options = segmentation.options_of(
        segmentation.PRETRAINED,
        argparse.Namespace(camvid=arguments.data, weights=arguments.weights, options=json.dumps(changes)),
    )
    parts = segmentation.read(arguments.data, options.transform.geometry, "0006R0", "0016E5_0[28]")
    start = time.process_time()
    with tempfile.TemporaryDirectory() as folder:
        model = segmentation.train(options, parts, folder, CheckpointFile(None, key=""))
    minutes = (time.process_time() - start) / 60
    report = {"resize": arguments.mode or "stretch", "size": size, "cpu_minutes": round(minutes, 1)}
    measured = {name: segmentation.measure(model, parts[name], options) for name in ("validation", "test")}
    print(json.dumps(report | measured), flush=True)


def main() -> None:
    """Measures and prints."""
    parser = argparse.ArgumentParser()
    commands = parser.add_subparsers(required=True)
    classification = commands.add_parser("classification")
    classification.add_argument("--size", type=int, default=192)
    classification.add_argument("--padding-color", type=float, help="value of the padding, range [0, 255]")
    classification.set_defaults(measure=classify)
    camvid = commands.add_parser("segmentation")
    camvid.add_argument("--size", default="256x256", help="height x width")
    camvid.add_argument("--epochs", type=int, default=12)
    camvid.add_argument("--precision", help="training.precision")
    camvid.set_defaults(measure=segment)
    for command in (classification, camvid):
        command.add_argument("data", type=Path)
        command.add_argument("--weights", type=Path, required=True, help="of MobileNetV2")
        command.add_argument("--mode", choices=_MODES)
    arguments = parser.parse_args()
    arguments.measure(arguments)


if __name__ == "__main__":
    main()
