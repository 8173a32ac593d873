"""AP of object detection on a held-out part of a dataset, trained by a preset, without TFX.

python tests/bench/detection.py DATA --preset bccd --measure validation|1/5 [--seed 1] [--set training.epochs=5]

DATA is a dataset with boxes in any layout. `--measure validation` (or `test`) trains on all images outside that split
of the dataset. `--measure 1/5` divides the images by the hash of their bytes, and measures on the first fifth; images
that the dataset assigns to `validation` or `test` are not used then, so that settings can be selected without them.
With `--select 0.1`, a tenth of the training images selects the epoch if `training.kept_epoch` is `best`. Without, all
are trained on, the last epoch is kept, and the losses that are printed are those of a few measured images. Prints one
line per epoch and, last, one JSON object.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import logging
import sys
import tempfile
import time
from pathlib import Path
from typing import Any, NamedTuple

import keras
import numpy as np
import tensorflow as tf

from components.image_example_gen import boxes
from components.image_example_gen.columns import digests
from components.image_example_gen.dataset import inspect_dataset
from components.image_example_gen.options import DataOptions
from components.image_example_gen.splits import positions_of
from pipeline.config import loading
from trainer_module import box_labels, features, fitting, preprocessing, tasks
from trainer_module.evaluation.boxes import EVALUATION
from trainer_module.evaluation.spec import Parameters
from trainer_module.fitting import TrainingData
from trainer_module.geometry import resize_pixels
from trainer_module.input_pipeline import PixelStatistics
from trainer_module.model_input import Geometry
from trainer_module.options import TrainerOptions, TransformOptions

_BATCH_SIZE = 8  # of the measurement


class Part(NamedTuple):
    """Images with boxes.

    Attributes:
      images: uint8 [n, h, w, 3].
      labels: float32 [n, MAX_OBJECTS, 6], see `box_labels`.
      sizes: int [n, 2], height and width of the original images, pixels.
      positions: float [n], range [0, 1): from the hash of the bytes.
      splits: str [n], the split that the dataset assigns; empty if it assigns none.
    """

    images: np.ndarray
    labels: np.ndarray
    sizes: np.ndarray
    positions: np.ndarray
    splits: np.ndarray

    def take(self, indices: np.ndarray) -> Part:
        """The images with these indices, or where a mask is true."""
        return Part(*(values[indices] for values in self))

    def examples(self, options: TransformOptions) -> tf.data.Dataset:
        """(pixels, label), one by one; labels are relative to the model input."""
        options = options.model_copy(update={"max_objects": self.labels.shape[1]})
        heights, widths = self.sizes.T
        transformed = {
            features.LABEL: self.labels,
            features.IMAGE_HEIGHT: heights,
            features.IMAGE_WIDTH: widths,
        }
        labels = tasks.get("detection").read_label(transformed, options)
        return tf.data.Dataset.from_tensor_slices((self.images, labels))


def read_dataset(root: Path, geometry: Geometry, options: DataOptions | None = None) -> tuple[tuple[str, ...], Part]:
    """Reads the class names, and all images with their boxes, by the layouts and checks of the pipeline."""
    dataset = inspect_dataset(str(root), options or DataOptions())
    rows: list[tuple[Any, ...]] = []
    for entry in dataset.entries:
        encoded = (root / entry.path).read_bytes()
        image = preprocessing.decode(tf.constant(encoded), 3)
        height, width = image.shape[:2]
        annotation = boxes.Annotation.from_label(dict(entry.label))
        label = np.zeros((box_labels.MAX_OBJECTS, box_labels.NUM_COLUMNS), np.float32)
        label[:, 4] = box_labels.PADDING
        for index, box in enumerate(boxes.normalize(annotation, height=height, width=width).boxes):
            kind = box_labels.CROWD if box.is_crowd else box_labels.DIFFICULT if box.difficult else box_labels.OBJECT
            label[index] = [box.ymin, box.xmin, box.ymax, box.xmax, dataset.classes.index(box.name), kind]
        pixels = resize_pixels(image, geometry).numpy()
        (position,) = positions_of(digests([hashlib.sha256(encoded).hexdigest()])[:, 0])
        rows.append((pixels, label, (height, width), position, entry.split))
    # The own training split may be drawn from: its images have no split then.
    return dataset.classes, Part(*map(np.array, zip(*rows, strict=True)))


def divide(images: Part, measure: str) -> tuple[Part, Part]:
    """Divides the images into those for training and those that are measured on, see the module's docstring."""
    if "/" not in measure:
        measured = images.splits == measure
        return images.take(~measured), images.take(measured)
    number, count = map(int, measure.split("/"))
    images = images.take(~np.isin(images.splits, [features.VALIDATION, features.TEST]))
    # Ranks instead of positions: the folds have equal sizes.
    folds = np.argsort(np.argsort(images.positions)) * count // len(images.positions)
    return images.take(folds != number - 1), images.take(folds == number - 1)


def evaluate(model: keras.Model, options: TrainerOptions, part: Part) -> dict[str, Any]:
    """COCO's metrics, as the pipeline's Evaluator computes them."""
    decode = tasks.get("detection").decode
    parameters = Parameters(len(options.classes), top_k=1)
    counts = EVALUATION.accumulator(parameters)
    for first in range(0, len(part.images), _BATCH_SIZE):
        batch = slice(first, first + _BATCH_SIZE)
        outputs = model(tf.cast(part.images[batch], tf.float32), training=False)
        for detections, label, size in zip(
            decode(outputs, options, part.sizes[batch]).numpy(), part.labels[batch], part.sizes[batch], strict=True
        ):
            counts.add(EVALUATION.element(*to_example(detections, label, size), parameters))
    return summarize(counts, options.classes)


def to_example(
    detections: np.ndarray, label: np.ndarray, size: np.ndarray
) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray]]:
    """Returns the arguments of `EVALUATION.element`.

    Args:
      detections: float32 [M, 7]: the columns of `box_labels` and the score, padded at the end.
      label: float32 [MAX_OBJECTS, 6].
      size: Height and width of the original image.
    """
    kept = detections[detections[:, 4] >= 0]
    return (
        {features.LABEL: label, features.IMAGE_HEIGHT: size[0], features.IMAGE_WIDTH: size[1]},
        {
            "detection_boxes": kept[:, :4],
            "detection_scores": kept[:, 6],
            "detection_classes": kept[:, 4] + 1,
            "num_detections": np.array(len(kept)),
        },
    )


def summarize(counts: Any, classes: tuple[str, ...]) -> dict[str, Any]:
    """Computes AP, AP50, AP75 and AP50 per class."""
    summary = counts.summarize()
    computed = {metric.name: (metric.scope, metric.compute(summary)) for metric in EVALUATION.metrics(1)}
    chosen = {"ap50", "average_precision", "ap75", "ap_small", "ap_medium", "ap_large", "class_ap50"}
    result: dict[str, Any] = {}
    for name, (scope, values) in computed.items():
        if name not in chosen and not name.startswith("ap_lost"):
            continue
        if scope == "per_class":
            result[name] = {label: round(float(value), 4) for label, value in zip(classes, values, strict=True)}
        elif scope == "overall":
            result[name] = round(float(values), 4)
    return result


def train(options: TrainerOptions, part: Part, validation: Part) -> keras.Model:
    """Trains by the code that the pipeline's Trainer calls."""
    # The backbone normalises.
    statistics = PixelStatistics(np.zeros(3, np.float32), np.ones(3, np.float32))
    with tempfile.TemporaryDirectory() as folder:
        model, _ = fitting.fit(
            options,
            TrainingData(statistics, part.examples(options.transform), validation.examples(options.transform)),
            folder,
        )
    return model


def main() -> None:
    """Trains, measures and prints."""
    parser = argparse.ArgumentParser()
    parser.add_argument("data", type=Path)
    parser.add_argument("--preset", default="bccd", help="or a TOML file")
    parser.add_argument("--measure", default="1/5", help="a split of the dataset, or NUMBER/FOLDS")
    parser.add_argument("--select", type=float, default=0.0, help="share of the training images that selects the epoch")
    parser.add_argument("--weights", help="of the backbone")
    parser.add_argument("--seed", type=int, default=17)
    parser.add_argument("--set", action="append", default=[], help="as for tfx-vision run")
    parser.add_argument("--keep", type=Path, help="Keras file that receives the model")
    arguments = parser.parse_args()
    logging.basicConfig(level=logging.INFO, stream=sys.stderr, format="%(asctime)s %(message)s")

    overrides = [f"training.seed={arguments.seed}", *arguments.set]
    if arguments.weights:
        overrides.append(f"model.weights='{arguments.weights}'")
    chosen = loading.load(arguments.preset, data=str(arguments.data), overrides=overrides)
    # All splits that the dataset assigns stay: no test split is drawn.
    data = chosen.data.options()
    data = data.model_copy(update={"splits": data.splits.model_copy(update={"test": 0.0})})
    classes, images = read_dataset(arguments.data, chosen.transform.geometry, data)
    options = chosen.trainer_options(classes)
    part, measured = divide(images, arguments.measure)
    if not arguments.select and options.training.kept_epoch == "best":
        parser.error('training.kept_epoch = "best" requires --select: the measured images must not select the epoch')
    validation = measured.take(np.arange(min(_BATCH_SIZE, len(measured.images))))
    if arguments.select:
        selects = part.positions * 1000 % 1 < arguments.select
        part, validation = part.take(~selects), part.take(selects)
    start, cpu_start = time.perf_counter(), time.process_time()
    model = train(options, part, validation)
    minutes, cpu_minutes = (time.perf_counter() - start) / 60, (time.process_time() - cpu_start) / 60
    if arguments.keep:
        model.save(arguments.keep)
    report = {
        "data": arguments.data.name,
        "preset": arguments.preset,
        "measure": arguments.measure,
        "seed": arguments.seed,
        "set": arguments.set,
        "images": [len(part.images), len(measured.images)],
        "parameters": model.count_params(),
        "minutes": round(minutes, 1),
        "cpu_minutes": round(cpu_minutes, 1),
        **evaluate(model, options, measured),
    }
    print(json.dumps(report), flush=True)


if __name__ == "__main__":
    main()
