"""Measures Evaluator on many images: images per second, CPU time and peak memory, compared with TFMA's own metrics.

python tests/bench/evaluation.py IMAGES [--num 10000] [--num 20000] [--form ours|intervals|canonical] ...

IMAGES contains class folders of PNG or JPEG files; the first `num` are used, in turn from each class. Each measurement
runs in a separate process: an untrained network of the preset `cifar10`, three families of slices (brightness, a column
of five values, two groups of classes), metrics per class. `canonical` computes the same with TFMA's own metrics
(cross-entropy, top-k, confusion matrix; precision, recall, F1 and AUC of every class) in two families. Prints one JSON
object per measurement; loading the network and starting Beam are part of the time.
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

FORMS = ("ours", "intervals", "canonical")
SLICES = ("brightness", "camera", "label_group")
BEAM = ["--runner=FnApiRunner", "--tfxio_use_byte_size_batching=true"]  # as the pipeline says


def write_examples(files: list[Path], path: Path) -> None:
    """Writes raw examples, as ImageExampleGen does, in shards of 5,000; a camera of five for each."""
    import tensorflow as tf

    from components.image_example_gen import image_file, raw_examples
    from components.image_example_gen.options import DataOptions
    from trainer_module import features

    for shard in range(0, len(files), 5000):
        with tf.io.TFRecordWriter(str(path / f"data_{shard:07d}.gz"), "GZIP") as writer:
            for index, file in enumerate(files[shard : shard + 5000]):
                encoded = file.read_bytes()
                properties = image_file.examine(image_file.prepare(encoded, DataOptions(max_pixels=10**6)))
                slices = properties.slices() | {"camera": f"camera {index % 5}"}
                name = file.parent.name
                label = {features.CLASS_TEXT: [name]}
                example = raw_examples.serialize(f"{name}/{file.name}", encoded, properties, label=label, slices=slices)
                writer.write(example)


def export_model(classes: list[str], root: Path) -> None:
    """Exports the preset's network with random weights."""
    import numpy as np
    import tensorflow as tf

    from pipeline.config import loading
    from trainer_module import export, features
    from trainer_module.input_pipeline import PixelStatistics
    from trainer_module.network import build as build_network

    class Labels(tf.Module):
        """Class name → label, as Transform's graph."""

        def __init__(self) -> None:
            super().__init__()
            ids = tf.lookup.KeyValueTensorInitializer(tf.constant(classes), tf.range(len(classes), dtype=tf.int64))
            self.table = tf.lookup.StaticHashTable(ids, -1)

        def __call__(self, raw: dict[str, Any]) -> dict[str, Any]:
            return {features.LABEL: self.table.lookup(raw[features.CLASS_TEXT])}

    options = loading.load("cifar10", data="unused").trainer_options(tuple(classes))
    model = build_network(options, PixelStatistics(np.full(3, 120.0, "f"), np.full(3, 4000.0, "f")))
    export.export(
        model,
        options,
        tft_layer=Labels(),
        raw_feature_spec={features.CLASS_TEXT: tf.io.FixedLenFeature([], tf.string)},
        serving_dir=str(root / "model/Format-Serving"),
        run_dir=str(root / "run"),
    )


def canonical(config: Any, num_classes: int) -> Any:
    """Replaces the metrics by TFMA's own."""
    from tensorflow_model_analysis.proto import config_pb2

    def metrics(*names: str, **configs: dict[str, Any]) -> list[Any]:
        return [
            config_pb2.MetricConfig(class_name=name, config=json.dumps(configs[name]) if name in configs else "")
            for name in names
        ]

    config.model_specs[0].prediction_key = "probabilities"
    del config.metrics_specs[:]
    config.metrics_specs.add(
        metrics=metrics(
            "ExampleCount",
            "SparseCategoricalAccuracy",
            "SparseCategoricalCrossentropy",
            "SparseTopKCategoricalAccuracy",
            "MultiClassConfusionMatrixPlot",
            SparseTopKCategoricalAccuracy={"k": 3},
        )
    )
    spec = config.metrics_specs.add(metrics=metrics("Precision", "Recall", "F1Score", "AUC"))
    spec.binarize.class_ids.values.extend(range(num_classes))
    return config


def measure(files: list[Path], classes: list[str], form: str) -> dict[str, Any]:
    """Evaluates in this process."""
    import logging

    logging.disable(logging.WARNING)
    import pandas as pd
    import tensorflow_data_validation as tfdv
    from google.protobuf import json_format
    from tensorflow_metadata.proto.v0 import schema_pb2
    from tfx.components.evaluator import executor as tfx_executor
    from tfx.types import standard_artifacts

    from components.evaluator import executor
    from components.evaluator.options import EvaluationOptions
    from components.image_example_gen.artifact import ClassNames
    from pipeline.eval_config import batch_size, eval_config
    from trainer_module import features

    options = EvaluationOptions(
        thresholds={"accuracy": 0.0},
        confidence_intervals="jackknife" if form == "intervals" else "none",
        label_groups={"first": tuple(classes[: len(classes) // 2]), "second": tuple(classes[len(classes) // 2 :])},
    ).with_task_defaults("classification")
    with tempfile.TemporaryDirectory() as temporary:
        root = Path(temporary)
        (root / "examples/Split-test").mkdir(parents=True)
        (root / "schema").mkdir()
        write_examples(files, root / "examples/Split-test")
        export_model(classes, root)
        schema = schema_pb2.Schema()
        bytes_, integer, real = schema_pb2.BYTES, schema_pb2.INT, schema_pb2.FLOAT
        kinds = {key: bytes_ for key in (features.IMAGE_ENCODED, features.CLASS_TEXT, features.IMAGE_FILENAME)}
        kinds |= {features.SLICE_BRIGHTNESS: bytes_, "slice/camera": bytes_, features.IMAGE_HEIGHT: integer}
        kinds |= {features.mean_key("luma"): real}
        for name, kind in kinds.items():
            entry = schema.feature.add(name=name, type=kind)
            entry.presence.min_fraction = 1.0
            entry.shape.dim.add(size=1)
        (root / "schema/schema.pbtxt").write_text(str(schema))
        inputs = {
            "examples": standard_artifacts.Examples(),
            "model": standard_artifacts.Model(),
            "schema": standard_artifacts.Schema(),
        }
        outputs = {"evaluation": standard_artifacts.ModelEvaluation(), "blessing": standard_artifacts.ModelBlessing()}
        for name, artifact in (inputs | outputs).items():
            artifact.uri = str(root / name)
        inputs["examples"].split_names = '["test"]'
        ClassNames(names=tuple(classes)).write(inputs["examples"].uri)
        if form != "canonical":
            inputs["statistics"] = standard_artifacts.ExampleStatistics()
            inputs["statistics"].uri = str(root / "statistics")
            inputs["statistics"].split_names = '["train"]'
            (root / "statistics/Split-train").mkdir(parents=True)
            frame = pd.DataFrame({features.CLASS_TEXT: classes})
            statistics = tfdv.generate_statistics_from_dataframe(frame).SerializeToString()
            (root / "statistics/Split-train/FeatureStats.pb").write_bytes(statistics)
        slices = SLICES if form != "canonical" else SLICES[:2]
        config = eval_config(options, "classification", classes, slices)
        properties: dict[str, Any]
        if form == "canonical":
            config, chosen = canonical(config, len(classes)), tfx_executor.Executor
            properties = {"example_splits": '["test"]', "fairness_indicator_thresholds": "null"}
        else:
            chosen = executor.Executor
            properties = {
                "split": "test",
                "batch_size": batch_size(32),
                "task": "classification",
                "options": options.model_dump_json(),
            }
        properties["eval_config"] = json_format.MessageToJson(config)
        context = chosen.Context(beam_pipeline_args=BEAM, tmp_dir=str(root), unique_id="1")
        used = resource.getrusage(resource.RUSAGE_SELF)
        start = time.perf_counter()
        chosen(context).Do(
            {name: [artifact] for name, artifact in inputs.items()},
            {name: [artifact] for name, artifact in outputs.items()},
            properties,
        )
        seconds = time.perf_counter() - start
    usage = resource.getrusage(resource.RUSAGE_SELF)
    return {
        "form": form,
        "images": len(files),
        "seconds": round(seconds, 1),
        "cpu_seconds": round(usage.ru_utime + usage.ru_stime - used.ru_utime - used.ru_stime, 1),
        "images_per_second": round(len(files) / seconds),
        "peak_mib": usage.ru_maxrss // 1024,
        "peak_before_mib": used.ru_maxrss // 1024,
    }


def main() -> None:
    """Measures every size and form, each in a process of its own."""
    parser = argparse.ArgumentParser()
    parser.add_argument("images", type=Path)
    parser.add_argument("--num", type=int, action="append")
    parser.add_argument("--form", choices=FORMS, action="append")
    parser.add_argument("--here", action="store_true", help="one measurement, in this process")
    arguments = parser.parse_args()
    sizes, forms = arguments.num or [5000, 10000, 20000], arguments.form or ["ours"]
    if not arguments.here:
        for form, num in itertools.product(forms, sizes):
            command = [sys.executable, __file__, str(arguments.images), "--here", f"--num={num}", f"--form={form}"]
            quiet = os.environ | {"TF_CPP_MIN_LOG_LEVEL": "3"}
            done = subprocess.run(command, check=False, env=quiet, capture_output=True, text=True)
            print(done.stdout.strip() or done.stderr[-2000:], flush=True)
        return
    classes = sorted(path.name for path in arguments.images.iterdir() if path.is_dir())
    by_class = [sorted((arguments.images / name).iterdir()) for name in classes]
    files = list(itertools.islice((f for row in itertools.zip_longest(*by_class) for f in row if f), sizes[0]))
    print(json.dumps(measure(files, classes, forms[0])))


if __name__ == "__main__":
    main()
