"""Latency of non-maximum suppression inside the export, per batch of images.

python tests/bench/suppression.py IMAGES --model FILE.keras [--preset bccd] [--set transform.image_size=320]

FILE is a trained detector, as `detection.py --keep` stores it; preset and settings are those of its training. From the
bytes of JPEG files, with batches of 1 and 16: the outputs of the network alone, the same with suppression, and
suppression alone on stored outputs. The forms take turns; every time is the median of the calls. Prints one JSON object
per batch size.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import keras
import tensorflow as tf

from pipeline.config import loading
from trainer_module import box_anchors, box_grid, box_losses, tasks  # noqa: F401 (what the file refers to)
from trainer_module.options import TrainerOptions
from trainer_module.tasks._signatures import read_images

TASK = tasks.get("detection")


def load(arguments: argparse.Namespace) -> tuple[keras.Model, TrainerOptions, list[Path]]:
    """Returns the model, its options and the paths of the images."""
    overrides = ["model.weights='none'", "fine_tuning.epochs=0", *arguments.set]  # nothing is trained
    chosen = loading.load(arguments.preset, data=str(arguments.images), overrides=overrides)
    model = keras.models.load_model(arguments.model, compile=False)
    num_classes = model.output_shape[-1] - 4
    options = chosen.trainer_options(tuple(arguments.classes or map(str, range(num_classes))))
    assert model.input_shape[1:3] == options.transform.image_size, "set transform.image_size"
    return model, options, sorted(path for path in arguments.images.rglob("*") if path.suffix in (".jpg", ".jpeg"))


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The arguments that `load` reads."""
    parser.add_argument("images", type=Path, help="a folder of JPEG files")
    parser.add_argument("--model", required=True, help="a Keras file")
    parser.add_argument("--preset", default="bccd")
    parser.add_argument("--set", action="append", default=[], help="as for tfx-vision run")
    parser.add_argument("--classes", nargs="*", help="names, in the order of their ids; numbers by default")


def milliseconds(call: Callable[[], Any]) -> float:
    """Time of one call."""
    start = time.perf_counter()
    call()
    return 1000 * (time.perf_counter() - start)


def main() -> None:
    """Measures and prints."""
    parser = argparse.ArgumentParser()
    add_arguments(parser)
    parser.add_argument("--batch-sizes", type=int, nargs="+", default=[1, 16])
    parser.add_argument("--calls", type=int, default=60)
    arguments = parser.parse_args()
    model, options, paths = load(arguments)

    def function(compute: Callable[[tf.Tensor], Any], dtype: tf.DType = tf.string) -> Callable[..., Any]:
        shape = [None] if dtype == tf.string else [None, *model.output_shape[1:]]
        traced: Callable[..., Any] = tf.function(compute, input_signature=[tf.TensorSpec(shape, dtype)])
        return traced

    network = function(lambda encoded: model(read_images(encoded, options).pixels, training=False))
    whole = function(lambda encoded: TASK.decode(model(read_images(encoded, options).pixels, training=False), options))
    suppress = function(lambda outputs: TASK.decode(outputs, options), tf.float32)
    for size in arguments.batch_sizes:
        batches = [
            tf.constant([path.read_bytes() for path in paths[first : first + size]])
            for first in range(0, min(len(paths) - size + 1, 8 * size), size)
        ]
        stored = [network(batch) for batch in batches]
        times: dict[str, list[float]] = {"network": [], "with_suppression": [], "suppression": []}
        for call in range(-len(batches), arguments.calls):
            index = call % len(batches)
            batch, outputs = batches[index], stored[index]
            measured = {
                "network": milliseconds(lambda batch=batch: network(batch)),
                "with_suppression": milliseconds(lambda batch=batch: whole(batch)),
                "suppression": milliseconds(lambda outputs=outputs: suppress(outputs)),
            }
            if call >= 0:
                for name, value in measured.items():
                    times[name].append(value)
        report: dict[str, Any] = {"image_size": options.transform.image_size, "batch_size": size}
        report["positions"] = stored[0].shape[1]
        above = [
            tf.reduce_sum(tf.cast(tf.sigmoid(o[..., :-4]) > options.task.score_threshold, tf.int32)) for o in stored
        ]
        report["candidates_per_image"] = round(sum(map(int, above)) / (size * len(above)), 1)
        kept = [tf.reduce_sum(tf.cast(suppress(outputs)[..., 4] >= 0, tf.int32)) for outputs in stored]
        report["detections_per_image"] = round(sum(map(int, kept)) / (size * len(kept)), 1)
        report |= {f"{name}_ms": round(statistics.median(values), 2) for name, values in times.items()}
        print(json.dumps(report), flush=True)


if __name__ == "__main__":
    main()
