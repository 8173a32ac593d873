"""ModelReport: the page shows the content of the artifacts, and the worst masks."""

import html
import os
import re
import shutil
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf
from tensorflow_metadata.proto.v0 import statistics_pb2
from tfx.types import standard_artifacts

import components
from components.evaluator.artifact import EvaluationResult, GateReport, GateResult, SliceMetrics
from components.example_validator.artifact import DriftReport, Finding
from components.grad_cam import executor as grad_cam
from components.grad_cam.artifact import ExplanationIndex
from components.image_example_gen import image_file, raw_examples
from components.image_example_gen.artifact import (
    ClassNames,
    DuplicateCounts,
    Quarantine,
    QuarantinedFile,
    SplitCounts,
    Summary,
)
from components.image_example_gen.options import DataOptions
from components.model_report import executor, reading
from components.model_report.artifact import REPORT_FILE, Report
from components.serving_validator.artifact import ServingCheck, ServingCheckReport
from trainer_module import features, mask_drawing, preprocessing, tasks
from trainer_module.input_pipeline import PixelStatistics
from trainer_module.model_input import Geometry
from trainer_module.network import build as build_network
from trainer_module.options import TrainerOptions, TransformOptions

HISTORY = "epoch,phase,seconds,learning_rate,loss,val_loss\n0,whole,1.5,0.001,1.0,0.9\n1,whole,1.5,0.001,0.5,0.4\n"
PROPERTIES = {
    "name": "tiny",
    "configuration": '[pipeline]\nname = "tiny"\n',
    "data_fingerprint": "f00d" * 16,
    "source_hash": "0123456789abcdef",
}


def png(pixels):
    return tf.io.encode_png(pixels if pixels.ndim == 3 else pixels[..., np.newaxis]).numpy()


def artifact(type_, folder, *, id_=1, **properties):
    made = type_()
    made.uri, made.id = str(folder), id_
    os.makedirs(folder, exist_ok=True)
    for name, value in properties.items():
        setter = made.set_int_custom_property if isinstance(value, int) else made.set_string_custom_property
        setter(name, value)
    return made


@pytest.fixture
def inputs_of(tmp_path):
    """Writes the artifacts of a run: (evaluation, gates, examples, options, Keras file) → inputs of the executor."""

    def make(evaluation, gates, records, options, keras_path, *, pushed=True):
        artifacts = {
            "model": artifact(standard_artifacts.Model, tmp_path / "model", id_=7),
            "model_run": artifact(standard_artifacts.ModelRun, tmp_path / "model_run"),
            "examples": artifact(standard_artifacts.Examples, tmp_path / "examples"),
            "statistics": artifact(standard_artifacts.ExampleStatistics, tmp_path / "statistics"),
            "quarantine": artifact(components.Quarantine, tmp_path / "quarantine"),
            "anomalies": artifact(standard_artifacts.ExampleAnomalies, tmp_path / "anomalies"),
            "evaluation": artifact(standard_artifacts.ModelEvaluation, tmp_path / "evaluation"),
            "blessing": artifact(standard_artifacts.ModelBlessing, tmp_path / "blessing", blessed=int(pushed)),
            "infra_blessing": artifact(standard_artifacts.InfraBlessing, tmp_path / "infra", blessed=1),
            "pushed_model": artifact(standard_artifacts.PushedModel, tmp_path / "pushed", pushed=int(pushed)),
        }
        if pushed:
            artifacts["pushed_model"].set_string_custom_property("pushed_version", "1795346754")
            artifacts["pushed_model"].set_string_custom_property("pushed_destination", "/models/tiny/1795346754")
        for key in ("examples", "statistics"):
            artifacts[key].split_names = '["test"]'
            (tmp_path / key / "Split-test").mkdir()
        with tf.io.TFRecordWriter(str(tmp_path / "examples" / "Split-test" / "data-00000-of-00001")) as writer:
            for record in records:
                writer.write(record)
        counted = statistics_pb2.DatasetFeatureStatisticsList()
        dataset = counted.datasets.add()
        for key, low, median, high in ((features.IMAGE_WIDTH, 24, 24, 24), (features.IMAGE_HEIGHT, 20, 26, 31)):
            feature = dataset.features.add()
            feature.path.step.append(key)
            feature.num_stats.min, feature.num_stats.median, feature.num_stats.max = low, median, high
        formats = dataset.features.add()
        formats.path.step.append(features.IMAGE_FORMAT)
        formats.string_stats.rank_histogram.buckets.add(label="PNG", sample_count=len(records))
        files = {
            "statistics/Split-test/FeatureStats.pb": counted.SerializeToString(),
            f"model_run/{features.OPTIONS_FILE}": options.model_dump_json(),
            f"model_run/{features.HISTORY_FILE}": HISTORY,
        }
        drift = DriftReport(
            previous_span=3,
            drift=(Finding(kind="drift", split="train", feature="image/width", detail="drifted"),),
            skew=(Finding(kind="skew", split="test", feature="image/height", detail="differs"),),
        )
        drift.write(str(tmp_path / "anomalies"))
        for stored in (evaluation, gates):
            stored.write(str(tmp_path / "evaluation"))
        check = ServingCheck(name="loads in a session", passed=True, detail="yes")
        ServingCheckReport(checks=(check,)).write(str(tmp_path / "infra"))
        Quarantine(
            Summary(
                examples=len(records),
                quarantined=1,
                reasons={"empty": 1},
                splits={"test": SplitCounts(examples=len(records), classes={})},
                duplicates={"exact": DuplicateCounts(groups=0, duplicates=0, leaking_groups=0)},
            ),
            (QuarantinedFile(path="lost.png", reason="empty"),),
        ).write(str(tmp_path / "quarantine"))
        for path, content in files.items():
            (tmp_path / path).write_bytes(content if isinstance(content, bytes) else content.encode())
        shutil.copy(keras_path, tmp_path / "model_run" / features.KERAS_FILE)
        return {key: [value] for key, value in artifacts.items()}

    return make


def run(inputs, folder):
    report = artifact(components.ModelReport, folder)
    executor.Executor().Do(inputs, {"report": [report]}, PROPERTIES)
    assert [path.name for path in Path(folder).iterdir()] == [REPORT_FILE]
    return Report.read(str(folder)).html


def gates_of(**values):
    defaults = {"setting": "evaluation.thresholds", "metric": "accuracy", "title": "accuracy", "slice": "all"}
    defaults |= {"value": 0.75, "bound": 0.9, "higher_is_better": True, "examples": 12, "passed": False}
    return GateReport(has_baseline=False, results=[GateResult(**defaults | {"detail": "too low"} | values)])


def captions(text):
    return [html.unescape(name) for name in re.findall(r"<figcaption>.*?<small>(.*?)</small>", text, re.DOTALL)]


def test_the_report_of_a_classifier(tiny_model, evaluation_of, inputs_of, tmp_path):
    labels = np.array([0, 1, 2] * 4)
    shares = np.eye(3)[labels] * 0.7 + 0.1
    evaluation = evaluation_of(list(tiny_model.options.classes), labels, shares, {"camera = b": labels == 1})
    keras_path = os.path.join(tiny_model.run_dir, features.KERAS_FILE)
    inputs = inputs_of(evaluation, gates_of(), tiny_model.examples, tiny_model.options, keras_path, pushed=False)
    explanations = artifact(components.GradCamExplanations, tmp_path / "explanations")
    ClassNames(names=tiny_model.options.classes).write(inputs["examples"][0].uri)
    grad_cam.Executor().Do(
        {key: inputs[key] for key in ("examples", "model", "model_run")},
        {"explanations": [explanations]},
        {"options": tiny_model.options.model_dump_json(exclude={"classes"}), "split": "test", "slices": "[]"},
    )
    inputs["explanations"] = [explanations]
    inputs["baseline_model"] = [artifact(standard_artifacts.Model, tmp_path / "older", id_=3)]
    text = run(inputs, tmp_path / "report")
    assert "Refused by Evaluator" in text and "too low (missed by 0.1500)" in text
    entries = ExplanationIndex.read(explanations.uri).predictions
    incorrect, correct = (
        [entry.filename for entry in sorted(entries, key=lambda entry: -entry.score) if entry.correct == is_correct]
        for is_correct in (False, True)
    )
    assert captions(text) == incorrect[:12] + correct[:6] and incorrect and correct
    assert text.count('src="data:image/') == 2 * len(captions(text))
    for content in (
        "lost.png",
        "image/width: drifted",
        "test split, image/height: differs",
        "20 to 31",
        "PNG 12",
        "f00d" * 16,
        "0123456789abcdef",
        "camera = b",
    ):
        assert content in text, content
    assert f"artifact 3: {tmp_path / 'older'}" in text and f"artifact 7: {tmp_path / 'model'}" in text
    assert f"<dd>{tf.__version__}</dd>" in text and "2 epochs in 3 s" in text


@pytest.fixture(scope="module")
def mask_model(tmp_path_factory):
    """An untrained network, and forty images with masks; all pixels of the last one are ignored."""
    options = TrainerOptions(
        classes=("sky", "road"),
        ignore_id=255,
        transform=TransformOptions(image_size=16),
        model={"name": "unet", "depth": 1, "filters": 4},
        task={"name": "segmentation"},
    )
    model = build_network(options, PixelStatistics(np.full(3, 100.0, np.float32), np.full(3, 900.0, np.float32)))
    path = str(tmp_path_factory.mktemp("masks") / "model.keras")
    model.save(path)
    random = np.random.default_rng(5)
    records, masks, encoded = [], [], []
    for index in range(40):
        mask = (random.random((16, 16)) < random.random()).astype(np.uint8)
        mask[: random.integers(0, 4)] = 255
        if index == 39:
            mask[:] = 255
        encoded.append(png(random.integers(0, 256, (16, 16, 3), dtype=np.uint8)))
        masks.append(mask)
        example = raw_examples.serialize(
            f"{index}.png",
            encoded[-1],
            image_file.examine(image_file.prepare(encoded[-1], DataOptions(max_pixels=10_000))),
            label={features.MASK_ENCODED: [png(mask)], features.MASK_CLASSES: options.classes},
            slices={},
        )
        records.append(example)
    pixels = preprocessing.decode_and_resize(tf.constant(encoded), Geometry.of(16), 3)
    predictions = tasks.get("segmentation").decode(model(pixels, training=False), options).numpy()
    accuracies = {
        f"{index}.png": np.mean(mask[mask != 255] == predicted[mask != 255])
        for index, (mask, predicted) in enumerate(zip(masks[:39], predictions, strict=False))
    }
    return options, path, records, accuracies


def test_the_worst_masks_are_shown_worst_first(mask_model, inputs_of, tmp_path):
    options, path, records, accuracies = mask_model
    task = tasks.get("segmentation").evaluation
    overall = SliceMetrics(
        name="all",
        examples=40,
        metrics={"mean_iou": 0.3, "pixel_accuracy": 0.5},
        support=dict.fromkeys(options.classes, 100),
        class_metrics={name: {"iou": 0.3} for name in options.classes},
        confusion_matrix=[[50, 50], [50, 50]],
    )
    evaluation = EvaluationResult(
        task="segmentation",
        split="test",
        classes=options.classes,
        count_unit=task.count_unit,
        metrics=task.metrics(3),
        candidate=(overall,),
    )
    gates = gates_of(metric="mean_iou", title="mean IoU", value=0.3, bound=0.2, passed=True)
    text = run(inputs_of(evaluation, gates, records, options, path), tmp_path / "report")
    expected = sorted(accuracies, key=lambda name: (accuracies[name], name))[:12]
    assert captions(text) == expected and "39.png" not in accuracies
    scores = [float(score) for score in re.findall(r"<figcaption>Pixel accuracy <strong>(.*?)</strong>", text)]
    np.testing.assert_allclose(scores, [accuracies[name] for name in expected], atol=1e-4)
    assert text.count('src="data:image/') == 4 * 12
    assert "Pushed as version 1795346754" in text and "ignored" in text
    for color in (*mask_drawing.palette(2), mask_drawing.IGNORED_COLOR):
        assert "#{:02x}{:02x}{:02x}".format(*color) in text


def test_the_worst_detections_are_shown_by_their_type_of_error(inputs_of, tmp_path, rng):
    """An untrained detector finds something everywhere; images without a detection miss their object."""
    options = TrainerOptions(
        classes=("cat", "dog"),
        transform=TransformOptions(image_size=32),
        model={"name": "scratch_cnn", "blocks": [[4], [4], [4], [4], [4]]},
        task={"name": "detection", "score_threshold": 0.0, "served_threshold": 0.0, "max_detections": 3},
    )
    model = build_network(options, PixelStatistics(np.full(3, 100.0, np.float32), np.full(3, 900.0, np.float32)))
    path, task = str(tmp_path / "model.keras"), tasks.get("detection")
    model.save(path)
    records, expected = [], []
    for index in range(14):
        encoded = png(rng.integers(0, 256, (32, 32, 3), dtype=np.uint8))
        label = task.example_label([index % 2] if index else [], options.classes, 32)
        properties = image_file.examine(image_file.prepare(encoded, DataOptions(max_pixels=10_000)))
        example = raw_examples.serialize(f"{index}.png", encoded, properties, label=label, slices={})
        records.append(example)
        (predicted,) = task.predict(model, options, [encoded])
        (truth,) = task.labels([label], [(32, 32)], options).numpy()
        expected.append(task.drawing.comparison.error_type(truth, predicted, None))
    overall = SliceMetrics(
        name="all",
        examples=14,
        metrics={"average_precision": 0.3},
        class_metrics={name: {"class_ap": 0.3} for name in options.classes},
        support=dict.fromkeys(options.classes, 7),
        confusion_matrix=[[1, 1, 1]] * 3,
    )
    evaluation = EvaluationResult(
        task="detection",
        split="test",
        classes=options.classes,
        count_unit="boxes",
        metrics=task.evaluation.metrics(3),
        candidate=(overall,),
    )
    gates = gates_of(metric="average_precision", title="AP", value=0.3, bound=0.2, passed=True)
    text = run(inputs_of(evaluation, gates, records, options, path), tmp_path / "report")
    assert len(captions(text)) == len(set(captions(text))) == 12 and "" not in expected
    assert text.count('src="data:image/') == 3 * 12
    for name in set(expected):
        number = expected.count(name)
        noun = "1 image" if number == 1 else f"{number} images"
        assert f"<h3>{name.capitalize()}</h3>" in text and f"The most frequent error of {noun}." in text
    assert "from the served threshold, 0." in text


def test_the_values_that_tuner_chose_are_those_of_the_options(mask_model):
    options = mask_model[0]
    trials = [{"rank": "1", "objective": "val_loss", "value": "0.1", "training.learning_rate": "0.5"}]
    assert reading.tuned_values(trials, options) == {"training.learning_rate": options.training.learning_rate}
    assert reading.tuned_values([], options) == {}
