"""Mean IoU on a held-out sequence of CamVid: the plain U-Net, the one with a pre-trained encoder, a textbook's.

python tests/bench/segmentation.py CAMVID --weights FILE [--only pretrained] [--options '{"training": {"epochs": 5}}']

CAMVID holds `images/` and `masks/`, whose file names begin with the sequence. The held-out sequence chooses nothing:
blocks of consecutive frames of the others decide when to stop and which epoch is kept. The textbook's form gets as much
processor time as the pre-trained one took. Prints one line an epoch and, for every form, one JSON object.
"""

from __future__ import annotations

import argparse
import json
import logging
import re
import sys
import tempfile
import time
from pathlib import Path
from typing import Any, NamedTuple

import keras
import numpy as np
import segmentation_textbook
import tensorflow as tf

from pipeline.config import loading
from trainer_module import fitting, preprocessing, tasks, test_time_augmentation
from trainer_module.checkpoints import CheckpointFile
from trainer_module.fitting import TrainingData
from trainer_module.input_pipeline import PixelStatistics
from trainer_module.mask_labels import PADDING_ID
from trainer_module.model_input import Geometry
from trainer_module.options import TrainerOptions
from trainer_module.pixel_metrics import compute_metrics, confusion_matrix

_BATCH_SIZE = 8  # of the measurement
PLAIN, PRETRAINED, TEXTBOOK = "plain", "pretrained", "textbook"


class Part(NamedTuple):
    """Images uint8 [n, h, w, 3], their masks uint8 [n, h, w], and the masks in the size of the frames."""

    images: np.ndarray
    masks: np.ndarray
    full_masks: np.ndarray

    def examples(self) -> tf.data.Dataset:
        """Image and mask, one by one."""
        return tf.data.Dataset.from_tensor_slices((self.images, self.masks))


def read(folder: Path, geometry: Geometry, held_out: str, validation: str) -> dict[str, Part]:
    """Reads and divides the images by what their names begin with (regular expressions)."""
    parts: dict[str, list[tuple[np.ndarray, ...]]] = {"train": [], "validation": [], "test": []}
    for path in sorted((folder / "images").iterdir()):
        mask = tf.constant([(folder / "masks" / path.name).read_bytes()])
        pixels = preprocessing.decode_and_resize(tf.constant([path.read_bytes()]), geometry, 3)
        ids = preprocessing.decode_masks(mask, geometry, PADDING_ID)
        frame = (pixels[0].numpy(), ids[0].numpy(), tf.io.decode_png(mask[0]).numpy()[..., 0])
        part = "test" if re.match(held_out, path.name) else "validation" if re.match(validation, path.name) else "train"
        parts[part].append(frame)
    return {part: Part(*map(np.stack, zip(*frames, strict=True))) for part, frames in parts.items()}


def options_of(form: str, arguments: argparse.Namespace) -> TrainerOptions:
    """The preset's, for the plain form with an encoder from random weights in as many epochs."""
    chosen = loading.load(
        "camvid", data=str(arguments.camvid), overrides=[f"model.encoder_weights='{arguments.weights}'"]
    )
    table = json.loads(chosen.trainer_options(chosen.data.classes or ()).model_dump_json())
    if form == PLAIN:
        table["model"] = {"name": "unet", "filters": table["model"]["filters"]}
        table["transform"]["normalization"] = "dataset"
        table["training"]["epochs"] += table["fine_tuning"]["epochs"]
        table["fine_tuning"] = {}
    for section, keys in json.loads(arguments.options).items():
        table[section] |= keys
    return TrainerOptions.model_validate(table)


def train(options: TrainerOptions, parts: dict[str, Part], run_dir: str, checkpoint: CheckpointFile) -> keras.Model:
    """Trains by the code that the pipeline's Trainer calls."""
    pixels = parts["train"].images.reshape(-1, 3).astype(np.float64)
    statistics = PixelStatistics(pixels.mean(axis=0).astype(np.float32), pixels.var(axis=0).astype(np.float32))
    model, _ = fitting.fit(
        options,
        TrainingData(statistics, parts["train"].examples(), parts["validation"].examples()),
        run_dir,
        checkpoint=checkpoint,
    )
    return model


def measure(model: keras.Model, part: Part, options: TrainerOptions) -> dict[str, float]:
    """All metrics over the pixels of the frames, as the pipeline's Evaluator counts them.

    Logits of further classes are ignored.
    """
    num_classes, matrix = len(options.classes), 0
    decode = tasks.get("segmentation").decode
    # Outside of a graph, Keras keeps the outputs of all layers.
    apply = tf.function(lambda images: model(images, training=False), reduce_retracing=True, autograph=False)
    for first in range(0, len(part.images), _BATCH_SIZE):
        batch = slice(first, first + _BATCH_SIZE)
        logits = apply(tf.cast(part.images[batch], tf.float32))[..., :num_classes]
        masks = part.full_masks[batch]
        predicted = decode(logits, options, tf.constant([masks.shape[1:]] * len(masks)))
        matrix += confusion_matrix(masks, predicted, num_classes, options.ignore_id)
    metrics = compute_metrics(matrix, options.classes, options.ignore_id)
    return {name: round(float(value), 4) for name, value in metrics.items()}


def main() -> None:
    """Trains, measures and prints."""
    parser = argparse.ArgumentParser()
    parser.add_argument("camvid", type=Path)
    parser.add_argument("--weights", default="imagenet", help="of the encoder")
    parser.add_argument("--held-out", default="0006R0", help="what the names of the frames to be judged on begin with")
    parser.add_argument("--validation", default="0016E5_0[28]", help="the same of those that decide when to stop")
    parser.add_argument("--only", choices=(PLAIN, PRETRAINED, TEXTBOOK))
    parser.add_argument("--options", default="{}", help="JSON: sections and keys that differ from the preset's")
    parser.add_argument("--cpu-minutes", type=float, default=40.0, help="of the textbook's, where it is the only one")
    parser.add_argument("--checkpoint", help="file from which an interrupted training goes on; for one form")
    parser.add_argument("--keep", type=Path, help="folder that receives histories and weights")
    arguments = parser.parse_args()
    logging.basicConfig(level=logging.INFO, stream=sys.stderr, format="%(asctime)s %(message)s")

    budget = arguments.cpu_minutes
    for form in (PRETRAINED, PLAIN, TEXTBOOK) if arguments.only is None else (arguments.only,):
        options = options_of(PRETRAINED if form == TEXTBOOK else form, arguments)
        parts = read(arguments.camvid, options.transform.geometry, arguments.held_out, arguments.validation)
        with tempfile.TemporaryDirectory() as temporary:
            run_dir = str(arguments.keep / form if arguments.keep else temporary)
            start, cpu_start = time.perf_counter(), time.process_time()
            if form == TEXTBOOK:
                model = predictor = segmentation_textbook.train(parts["train"], parts["validation"], budget)
            else:
                checkpoint = CheckpointFile(arguments.checkpoint, key=options.model_dump_json())
                model = train(options, parts, run_dir, checkpoint)
                predictor = test_time_augmentation.averaged(model, options)
        taken, cpu_taken = (time.perf_counter() - start) / 60, (time.process_time() - cpu_start) / 60
        budget = cpu_taken if form == PRETRAINED else budget
        if arguments.keep:
            model.save_weights(arguments.keep / f"{form}.weights.h5")
        report: dict[str, Any] = {"form": form, "parameters": model.count_params()}
        report |= {"minutes": round(taken, 1), "cpu_minutes": round(cpu_taken, 1)}
        report |= {f"{name}_images": len(part.images) for name, part in parts.items()}
        for name in ("validation", "test"):
            report[name] = measure(predictor, parts[name], options)
        print(json.dumps(report), flush=True)


if __name__ == "__main__":
    main()
