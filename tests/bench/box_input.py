"""Images per second of the input pipeline with boxes, and of the same images with one class each.

python tests/bench/box_input.py DATA [--image-size 320] [--repeats 3]

DATA is a dataset with boxes in any layout. Both kinds of raw examples contain the same files; reading, decoding,
shuffling and augmentation (flips, zoom, shifts, contrast, brightness) are the code that Trainer runs. `decoded` decodes
every image in every epoch, `cached` takes the pixels from memory, as later epochs do. Both kinds take turns. The share
is that of processor time: other programs change the wall time of the kinds by chance. Prints one JSON object per line.
"""

from __future__ import annotations

import argparse
import contextlib
import itertools
import json
import statistics
import tempfile
import time
import unittest.mock
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import tensorflow as tf

from components.image_example_gen import boxes, image_file, raw_examples
from components.image_example_gen.dataset import inspect_dataset
from components.image_example_gen.options import DataOptions
from trainer_module import augmentation, features, input_pipeline, preprocessing, tasks
from trainer_module.model_input import Geometry
from trainer_module.options import TrainerOptions
from trainer_module.tasks import TaskSpec

BOXES, CLASSES = "detection", "classification"
_MODELS = {BOXES: {"name": "detector", "weights": "none"}, CLASSES: {"name": "scratch_cnn"}}
_AUGMENTATION = {
    "horizontal_flip": True,
    "vertical_flip": True,
    "zoom": 0.3,
    "translation": 0.15,
    "contrast": 0.3,
    "brightness": 0.1,
    "placement": "in_dataset",
}
_BATCH_SIZE = 8


def write_examples(root: Path, folder: Path) -> tuple[tuple[str, ...], int]:
    """Writes the examples of both kinds, one file per kind; returns the class names and the number of images."""
    options = DataOptions()
    dataset = inspect_dataset(str(root), options)
    count = 0
    with (
        tf.io.TFRecordWriter(str(folder / BOXES)) as with_boxes,
        tf.io.TFRecordWriter(str(folder / CLASSES)) as with_classes,
    ):
        for entry in dataset.entries:
            prepared = image_file.prepare((root / entry.path).read_bytes(), options)
            properties = image_file.examine(prepared)
            size = {"height": properties.height, "width": properties.width}
            fitted = boxes.normalize(boxes.Annotation.from_label(dict(entry.label)), **size).boxes
            if not fitted:
                continue
            labels = {
                with_boxes: boxes.raw_label(fitted, **size),
                with_classes: {features.CLASS_TEXT: [fitted[0].name]},
            }
            for writer, label in labels.items():
                example = raw_examples.serialize(entry.path, prepared.encoded, properties, label=label, slices={})
                writer.write(example)
            count += 1
    return dataset.classes, count


class Kind:
    """The input pipeline of one kind of labels."""

    def __init__(self, name: str, classes: tuple[str, ...], image_size: int, folder: Path, count: int) -> None:
        """Builds the datasets, `decoded` and `cached`."""
        task = tasks.get(name)
        options = TrainerOptions(
            classes=classes,
            transform={"image_size": image_size, "normalization": "backbone" if name == BOXES else "rescale"},
            task={"name": name},
            model=_MODELS[name],
            augmentation=_AUGMENTATION,
        )
        spec = {
            key: tf.io.FixedLenFeature([1], tf.as_dtype(dtype))
            if key in task.single_valued_features
            else tf.io.VarLenFeature(tf.as_dtype(dtype))
            for key, dtype in task.label_features.items()
        }
        sizes = (features.IMAGE_HEIGHT, features.IMAGE_WIDTH)
        spec |= dict.fromkeys(sizes, tf.io.FixedLenFeature([], tf.int64))
        spec[features.IMAGE_ENCODED] = tf.io.FixedLenFeature([], tf.string)

        def transform(serialized: tf.Tensor) -> dict[str, tf.Tensor]:
            raw = tf.io.parse_example(serialized, spec)
            pixels = preprocessing.decode_and_resize(raw[features.IMAGE_ENCODED], Geometry.of(image_size), 3)
            label = task.transform_label(raw, classes, options.transform)
            sizes_of = {key: raw[key] for key in sizes}
            return {features.IMAGE_PIXELS: preprocessing.pack(pixels), features.LABEL: label, **sizes_of}

        self.batches = {}
        self._tables: list[Any] = []
        for mode, cache in (("decoded", "none"), ("cached", "memory")):
            with tables_of(task, options) as tables:
                self._tables += tables
                examples = input_pipeline.read_examples(
                    [str(folder / name)],
                    transform,
                    options.transform,
                    num_examples=count,
                    cache_dir=str(folder / "cache"),
                    cache=cache,
                    read_label=task.read_label,
                )
            batches = input_pipeline.batch_examples(examples, _BATCH_SIZE, shuffle_seed=1)
            augment = task.augment(options)
            self.batches[mode] = augmentation.in_dataset(batches, augment, options.augmentation, seed=1)

    def epoch(self, mode: str) -> tuple[float, float]:
        """Reads all images once: seconds of wall time and of processor time."""
        start, cpu_start = time.perf_counter(), time.process_time()
        for _ in self.batches[mode]:
            pass
        return time.perf_counter() - start, time.process_time() - cpu_start


@contextlib.contextmanager
def tables_of(task: TaskSpec, options: TrainerOptions) -> Iterator[list[Any]]:
    """Creates the task's lookup tables of class names once, as a transform graph does, for all functions inside.

    The caller keeps them for as long as it uses the functions.
    """
    tables: list[Any] = []
    create = tf.lookup.StaticHashTable

    def record(*arguments: Any, **keywords: Any) -> Any:
        tables.append(create(*arguments, **keywords))
        return tables[-1]

    with unittest.mock.patch.object(tf.lookup, "StaticHashTable", record):
        task.labels([task.example_label([0], options.classes, 64)], [(64, 64)], options)
    created = itertools.cycle(tables)
    with unittest.mock.patch.object(tf.lookup, "StaticHashTable", lambda *arguments, **keywords: next(created)):
        yield tables


def main() -> None:
    """Measures and prints."""
    parser = argparse.ArgumentParser()
    parser.add_argument("data", type=Path)
    parser.add_argument("--image-size", type=int, default=320)
    parser.add_argument("--repeats", type=int, default=3)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as root:
        folder = Path(root)
        classes, count = write_examples(arguments.data, folder)
        kinds = {name: Kind(name, classes, arguments.image_size, folder, count) for name in (CLASSES, BOXES)}
        for mode in ("decoded", "cached"):
            times: dict[str, list[tuple[float, float]]] = {name: [] for name in kinds}
            for kind in kinds.values():
                kind.epoch(mode)  # traces, fills the cache
            for _ in range(arguments.repeats):
                for name, kind in kinds.items():
                    times[name].append(kind.epoch(mode))
            report: dict[str, Any] = {"mode": mode, "images": count, "image_size": arguments.image_size}
            cpu = {}
            for name, measured in times.items():
                wall_s, cpu[name] = (statistics.median(values) for values in zip(*measured, strict=True))
                report[f"{name}_images_per_s"] = round(count / wall_s, 1)
                report[f"{name}_images_per_cpu_s"] = round(count / cpu[name], 1)
            report["share_of_boxes"] = round(1 - cpu[CLASSES] / cpu[BOXES], 4)
            print(json.dumps(report), flush=True)


if __name__ == "__main__":
    main()
