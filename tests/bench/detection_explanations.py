"""Faithfulness of the methods that explain detections, on the same detections of a trained model.

python tests/bench/detection_explanations.py runs/bccd/artifacts/Trainer/model_run/7 \
    runs/bccd/artifacts/ImageExampleGen/examples/1/Split-validation

The first folder holds the Keras file of the run and its options, the second one raw examples. The detections are drawn
as GradCam draws them: one of every image first. Prints a line per method: the mean of every metric.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import get_args

import numpy as np
import tensorflow as tf

from components.grad_cam import predictions, selection
from trainer_module import faithfulness, features, grad_cam, keras_file, tasks
from trainer_module.options import TrainerOptions
from trainer_module.tasks import ExplanationMethod


def main() -> None:
    """Predicts once, then explains and measures with every method."""
    parser = argparse.ArgumentParser()
    parser.add_argument("model_run", type=Path)
    parser.add_argument("examples", type=Path)
    parser.add_argument("--num", type=int, default=64, help="number of detections")
    parser.add_argument("--steps", type=int, default=10, help="in which pixels are deleted and inserted")
    arguments = parser.parse_args()
    options = TrainerOptions.model_validate_json((arguments.model_run / "options.json").read_text())
    explanation = tasks.get(options.task.name).explanation
    model = keras_file.load(str(arguments.model_run / features.KERAS_FILE))
    files = sorted(map(str, arguments.examples.iterdir()))
    serialized = [record.numpy() for record in tf.data.TFRecordDataset(files)]

    read = [predictions.read_images([example], options, ()) for example in serialized]
    outputs = [grad_cam.as_float32(model(tf.cast(images.pixels, tf.float32), training=False)) for images in read]
    ranked = []
    for output, images in zip(outputs, read, strict=True):
        (source,) = images.sources
        batches = predictions.batches(images, options, output)
        ids = [each for batch in batches for each in batch.prediction_ids(batch.subject.class_ids)]
        ranked += [
            (number, source.sha256, source.filename, each)
            for number, each in enumerate(selection.measuring_order(source.sha256, ids))
        ]
    sample = {row[2:] for row in sorted(ranked)[: arguments.num]}
    measure = faithfulness.measurer(model, explanation, arguments.steps)
    for method in get_args(ExplanationMethod):
        explain = grad_cam.explainer(model, explanation, method, options.grad_cam.layer)
        values: dict[str, list[float]] = {}
        for output, images in zip(outputs, read, strict=True):
            for batch in predictions.batches(images, options, output, lambda *name: name in sample):
                explained = explain(batch.pixels, batch.subject)
                truth = None
                if explanation.true_regions:
                    truth = tf.constant(explanation.true_regions(batch.ground_truth, explained.subject))
                for name, tensor in measure(batch.pixels, explained, truth).items():
                    values.setdefault(name, []).extend(tensor.numpy().tolist())
        means = {name: round(float(np.nanmean(row)), 3) for name, row in values.items()}
        print(json.dumps({"method": method, "detections": len(sample), **means}), flush=True)


if __name__ == "__main__":
    main()
