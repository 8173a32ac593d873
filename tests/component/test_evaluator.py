"""The Evaluator's executor: its values compared with independent implementations, and which models it blesses."""

import json
import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import sklearn.metrics
import tensorflow as tf
import tensorflow_data_validation as tfdv
from google.protobuf import json_format
from tensorflow_metadata.proto.v0 import schema_pb2
from tfx.types import standard_artifacts

from components.evaluator import executor, gates
from components.evaluator.artifact import EvaluationResult, GateReport
from components.evaluator.options import EvaluationOptions
from components.image_example_gen.artifact import ClassNames
from pipeline.eval_config import batch_size, eval_config
from pipeline.execution.beam_options import BeamSection
from trainer_module import features

SLICES = ("brightness", "camera", ("brightness", "camera"), "label_group")
GROUPS = {"warm": ("red",), "cold": ("blue", "green"), "sea": ("blue",)}


@pytest.fixture(scope="module")
def examples(tiny_model):
    """Twelve dozen raw examples: the tiny model's, each with other noise, from one of three cameras."""
    random = np.random.default_rng(5)
    made = []
    for index in range(144):
        example = tf.train.Example.FromString(tiny_model.examples[index % 12])
        pixels = tf.io.decode_image(example.features.feature[features.IMAGE_ENCODED].bytes_list.value[0]).numpy()
        noisy = np.clip(pixels + random.normal(0, 60, pixels.shape), 0, 255).astype(np.uint8)
        feature = example.features.feature
        feature[features.IMAGE_ENCODED].bytes_list.value[0] = tf.io.encode_png(noisy).numpy()
        feature["slice/camera"].bytes_list.value.append(b"abb"[index % 3 : index % 3 + 1])
        feature[features.SLICE_BRIGHTNESS].bytes_list.value[0] = b"dark" if index % 5 == 0 else b"normal"
        made.append(example)
    return made


@pytest.fixture(scope="module")
def schema(examples):
    built = schema_pb2.Schema()
    kinds = {"bytes_list": schema_pb2.BYTES, "float_list": schema_pb2.FLOAT, "int64_list": schema_pb2.INT}
    for name, feature in sorted(examples[0].features.feature.items()):
        entry = built.feature.add(name=name, type=kinds[feature.WhichOneof("kind")])
        entry.presence.min_fraction = 1.0
        entry.shape.dim.add(size=1)
    return built


# The model of these tests predicts one class for all images.
BEATEN_RULES = ("beats_constant", "beats_chance", "classes_predicted", "classes_correct")


def train_statistics(path, classes):
    """Statistics of a train split with nine images per class."""
    artifact = standard_artifacts.ExampleStatistics()
    artifact.uri, artifact.split_names = str(path), '["train"]'
    statistics = tfdv.generate_statistics_from_dataframe(pd.DataFrame({features.CLASS_TEXT: list(classes) * 9}))
    (path / "Split-train").mkdir(parents=True)
    (path / "Split-train" / "FeatureStats.pb").write_bytes(statistics.SerializeToString())
    return artifact


@pytest.fixture(scope="module")
def evaluate(tiny_model, examples, schema, tmp_path_factory):
    """Runs the executor on temporary artifacts: options, with or without baseline → result, gates, blessing."""

    def run(options, *, baseline=False, slices=SLICES, baseline_classes=None):
        root = tmp_path_factory.mktemp("evaluator")
        options = EvaluationOptions.model_validate(options).with_task_defaults("classification")
        inputs = {"examples": standard_artifacts.Examples(), "model": standard_artifacts.Model()}
        inputs["examples"].uri = str(root / "examples")
        inputs["examples"].split_names = '["test"]'
        inputs["model"].uri = str(Path(tiny_model.serving_dir).parent)
        inputs["model"].id = 4
        inputs["schema"] = standard_artifacts.Schema()
        inputs["schema"].uri = str(root / "schema")
        inputs["statistics"] = train_statistics(root / "statistics", tiny_model.options.classes)
        if baseline:
            inputs["baseline_model"] = standard_artifacts.Model()
            inputs["baseline_model"].uri = inputs["model"].uri
            inputs["baseline_model"].id = 3
        if baseline_classes:
            inputs["baseline_model"].uri = str(root / "baseline")
            shutil.copytree(tiny_model.serving_dir, root / "baseline" / "Format-Serving")
            (root / "baseline/Format-Serving" / features.LABELS_FILE).write_text(json.dumps(baseline_classes))
        (root / "schema").mkdir()
        (root / "schema" / "schema.pbtxt").write_text(str(schema))
        (root / "examples" / "Split-test").mkdir(parents=True)
        ClassNames(names=tiny_model.options.classes).write(inputs["examples"].uri)
        with tf.io.TFRecordWriter(str(root / "examples/Split-test/data.gz"), "GZIP") as writer:
            for example in examples:
                writer.write(example.SerializeToString())
        outputs = {"evaluation": standard_artifacts.ModelEvaluation(), "blessing": standard_artifacts.ModelBlessing()}
        for name, artifact in outputs.items():
            artifact.uri = str(root / name)
        config = eval_config(options, "classification", tiny_model.options.classes, slices)
        context = executor.Executor.Context(
            beam_pipeline_args=BeamSection().arguments(), tmp_dir=str(root), unique_id="1"
        )
        executor.Executor(context).Do(
            {name: [artifact] for name, artifact in inputs.items()},
            {name: [artifact] for name, artifact in outputs.items()},
            {
                "eval_config": json_format.MessageToJson(config),
                "split": "test",
                "batch_size": 50,
                "image_size": 8,
                "task": "classification",
                "options": options.model_dump_json(),
            },
        )
        uri = outputs["evaluation"].uri
        return EvaluationResult.read(uri), GateReport.read(uri), outputs["blessing"]

    return run


@pytest.fixture(scope="module")
def results(evaluate):
    options = {"label_groups": GROUPS, "top_k": 2, "thresholds": {"accuracy": 0.0}}
    return evaluate(options | {"disabled_rules": BEATEN_RULES})


@pytest.fixture(scope="module")
def predictions(tiny_model, examples):
    """Class ids and the exported model's own probabilities."""
    serialized = tf.constant([example.SerializeToString() for example in examples])
    probabilities = tf.saved_model.load(tiny_model.serving_dir).signatures["examples"](examples=serialized)
    names = [text(example, features.CLASS_TEXT) for example in examples]
    return np.array(list(map(tiny_model.options.classes.index, names))), probabilities["probabilities"].numpy()


def text(example, key):
    return example.features.feature[key].bytes_list.value[0].decode()


def chosen(name, examples):
    """Whether each example belongs to a slice."""
    if name == "all":
        return np.full(len(examples), True)
    inside = np.full(len(examples), True)
    for part in name.split(", "):
        feature, value = part.split(" = ")
        if feature == "label_group":
            inside &= [text(example, features.CLASS_TEXT) in GROUPS[value] for example in examples]
        else:
            inside &= [text(example, f"slice/{feature}") == value for example in examples]
    return inside


@pytest.mark.parametrize(("image_size", "expected"), [(32, 256), (224, 20), (2000, 1)])
def test_large_images_reach_the_model_in_small_batches(image_size, expected):
    assert batch_size((image_size, image_size)) == expected
    assert batch_size((image_size, 2 * image_size)) == max(1, expected // 2) or expected == 256


def test_every_slice_is_evaluated(results):
    names = [slice_.name for slice_ in results[0].candidate]
    crosses = [f"brightness = {b}, camera = {c}" for b in ("dark", "normal") for c in "ab"]
    assert names[0] == "all" and set(names[1:]) == {
        *("brightness = dark", "brightness = normal", "camera = a", "camera = b"),
        *crosses,
        *(f"label_group = {group}" for group in GROUPS),
    }


def test_values_equal_those_of_scikit_learn(results, predictions, examples, tiny_model):
    evaluation, _, _ = results
    ids = [0, 1, 2]
    for slice_ in evaluation.candidate:
        inside = chosen(slice_.name, examples)
        labels, probabilities = predictions[0][inside], predictions[1][inside].astype(float)
        guesses = probabilities.argmax(axis=1)
        expected = {
            "accuracy": sklearn.metrics.accuracy_score(labels, guesses),
            "top_2_accuracy": sklearn.metrics.top_k_accuracy_score(labels, probabilities, k=2, labels=ids),
            "cross_entropy": sklearn.metrics.log_loss(
                labels, probabilities / probabilities.sum(axis=1, keepdims=True), labels=ids
            ),
        }
        for average in ("macro", "weighted"):
            averages = sklearn.metrics.precision_recall_fscore_support(
                labels, guesses, average=average, zero_division=0.0
            )
            expected |= {
                f"{average}_{name}": value
                for name, value in zip(("precision", "recall", "f1"), averages[:3], strict=True)
            }
        areas = [
            sklearn.metrics.roc_auc_score(labels == i, probabilities[:, i])
            if 0 < (labels == i).sum() < len(labels)
            else np.nan
            for i in ids
        ]
        expected["macro_auc"] = np.nanmean(areas) if not np.isnan(areas).all() else np.nan
        assert slice_.examples == inside.sum()
        for name, value in expected.items():
            assert slice_.metrics[name] == pytest.approx(value, abs=1e-6, nan_ok=True), (slice_.name, name)
        matrix = sklearn.metrics.confusion_matrix(labels, guesses, labels=ids).tolist()
        assert slice_.confusion_matrix == (matrix if slice_.name == "all" else [])
        per_class = sklearn.metrics.precision_recall_fscore_support(labels, guesses, labels=ids, zero_division=0.0)
        for index, name in enumerate(tiny_model.options.classes):
            values = slice_.class_metrics[name]
            assert values["auc"] == pytest.approx(areas[index], abs=1e-6, nan_ok=True)
            assert slice_.support[name] == per_class[3][index]
            for column, metric in enumerate(("precision", "recall", "f1")):
                defined = per_class[3][index] or (index in guesses and metric != "recall")
                value = per_class[column][index] if defined else np.nan
                assert values[metric] == pytest.approx(value, abs=1e-6, nan_ok=True)


def test_calibration_equals_a_direct_count(results, predictions):
    evaluation, _, _ = results
    labels, probabilities = predictions
    confidence, right = probabilities.max(axis=1), probabilities.argmax(axis=1) == labels
    error = 0.0
    for bin_ in evaluation.overall.reliability:
        inside = (confidence > bin_.lower) & (confidence <= bin_.upper)
        assert bin_.count == inside.sum()
        if inside.any():
            assert bin_.accuracy == pytest.approx(right[inside].mean(), abs=1e-6)
            assert bin_.confidence == pytest.approx(confidence[inside].mean(), abs=1e-6)
            error += inside.mean() * abs(right[inside].mean() - confidence[inside].mean())
    assert evaluation.overall.metrics["expected_calibration_error"] == pytest.approx(error, abs=1e-6)


@pytest.fixture(scope="module")
def refused(evaluate):
    """A model that is its own baseline, without slices, whose metrics have intervals."""
    options = {"confidence_intervals": "jackknife", "thresholds": {"accuracy": 0.0, "macro_f1": 0.99}}
    return evaluate(options, baseline=True, slices=())


def test_confidence_intervals(refused, results):
    evaluation = refused[0]
    assert results[0].overall.intervals == {}
    low, high = evaluation.overall.intervals["accuracy"]
    value = evaluation.overall.metrics["accuracy"]
    # The normal approximation of a share of 144.
    width = 2 * 1.96 * np.sqrt(value * (1 - value) / 144)
    assert low < value < high and 0.5 * width < high - low < 2 * width
    assert value == pytest.approx(results[0].overall.metrics["accuracy"], abs=1e-9)
    assert set(evaluation.overall.class_intervals) == {"blue", "green", "red"}


def test_a_model_that_predicts_one_class_is_refused_by_the_default_rules(refused):
    _, gates, _ = refused
    assert [gate.rule for gate in gates.failures if gate.rule] == list(BEATEN_RULES)
    assert [(gate.rule, gate.passed, gate.value) for gate in gates.rules][2] == ("classes_in_train", True, 3)
    assert gates.warnings == (
        "evaluation.thresholds: accuracy = 0 is not above chance: on the test split, 0.3333 is reached without reading "
        "the image. Set a bound above it.",
    )


def test_a_blessing_names_its_model_and_baseline(results, refused):
    _, gates, blessing = results
    assert gates.blessed and not gates.has_baseline
    assert blessing.get_int_custom_property("blessed") == 1
    assert blessing.get_int_custom_property("current_model_id") == 4
    assert not blessing.has_custom_property("baseline_model_id")
    assert [path.name for path in Path(blessing.uri).iterdir()] == ["BLESSED"]

    evaluation, gates, blessing = refused
    assert not gates.blessed and gates.has_baseline
    assert blessing.get_int_custom_property("blessed") == 0
    assert blessing.get_int_custom_property("baseline_model_id") == 3
    assert [path.name for path in Path(blessing.uri).iterdir()] == ["NOT_BLESSED"]
    # The baseline is the same model here.
    assert evaluation.baseline == evaluation.candidate
    (failure,) = (gate for gate in gates.failures if not gate.rule)
    assert (failure.metric, failure.setting, failure.bound) == ("macro_f1", "evaluation.thresholds", 0.99)


def test_a_model_with_another_class_list_is_compared_on_the_shared_classes(evaluate, predictions):
    options = {
        "thresholds": {"accuracy": 0.0},
        "change_thresholds": {"accuracy": 0.0, "cross_entropy": 0.0},
        "class_change_thresholds": {"recall": 0.0},
        "disabled_rules": BEATEN_RULES,
    }
    evaluation, report, blessing = evaluate(
        options, baseline=True, baseline_classes=["blue", "green", "crimson"], slices=()
    )
    sentence = (
        "Compared with the last blessed model on the 2 classes that both have (added: `red`; removed: `crimson`)."
    )
    assert report.has_baseline and report.comparison == sentence
    assert blessing.get_int_custom_property("baseline_model_id") == 3
    labels, probabilities = predictions
    inside = labels < 2
    chosen = probabilities[inside][:, :2].argmax(axis=1)
    compared = evaluation.shared.candidate[0]
    assert compared.value("accuracy") == pytest.approx(sklearn.metrics.accuracy_score(labels[inside], chosen))
    assert (compared.examples, compared.support) == (inside.sum(), {"blue": 48, "green": 48})
    # Both models are the same.
    assert evaluation.baseline == evaluation.shared.candidate
    # Without a baseline, the values over all classes are as before.
    assert evaluation.overall.examples == 144 and set(evaluation.overall.support) == {"blue", "green", "red"}
    rows = [(gate.metric, gate.class_name, gate.passed) for gate in report.results if gate.needs_baseline]
    assert rows == [
        ("accuracy", None, True),
        ("cross_entropy", None, True),
        ("recall", "blue", True),
        ("recall", "green", True),
        ("recall", "red", None),
    ]
    assert "the last blessed model does not have the class" in report.results[-1].detail


def test_a_new_metric_is_one_entry(kappa, evaluate, predictions, examples):
    labels, guesses = predictions[0], predictions[1].argmax(axis=1)
    expected = sklearn.metrics.cohen_kappa_score(labels, guesses)
    options = {
        "confidence_intervals": "bootstrap",
        "thresholds": {kappa.name: -0.5},
        "change_thresholds": {kappa.name: 1.5},
        "slice_thresholds": {kappa.name: {"brightness": -1.0}},
        "min_slice_examples": 20,
        "disabled_rules": BEATEN_RULES,
    }
    evaluation, report, blessing = evaluate(options, baseline=True, slices=("brightness",))
    assert evaluation.overall.metrics[kappa.name] == pytest.approx(expected, abs=1e-9)
    for slice_ in evaluation.candidate:
        inside = chosen(slice_.name, examples)
        by_slice = sklearn.metrics.cohen_kappa_score(labels[inside], guesses[inside])
        assert slice_.value(kappa.name) == pytest.approx(by_slice, abs=1e-9)
    counts = [[support, None] for support in evaluation.overall.support.values()]
    assert json.loads(evaluation.model_dump_json())["candidate"][0]["details"] == {"support": counts}
    assert not any(slice_.details for slice_ in evaluation.candidate[1:])
    low, high = evaluation.overall.intervals[kappa.name]
    assert -1.0 <= low <= expected <= high <= 1.0
    # The artifact describes the metric.
    (stored,) = [metric for metric in evaluation.metrics if metric.name == kappa.name]
    assert stored == kappa.model_copy(update={"compute": None}) and stored in evaluation.slice_columns
    assert report.blessed and blessing.get_int_custom_property("blessed") == 1
    settings = ["evaluation.thresholds", *["evaluation.slice_thresholds"] * 2, "evaluation.change_thresholds"]
    configured = [result for result in report.results if not result.rule]
    assert [(result.setting, result.title, result.passed) for result in configured] == [
        (setting, "Cohen's kappa", True) for setting in settings
    ]
    assert [result.bound for result in configured] == pytest.approx([-0.5, -1.0, -1.0, expected - 1.5])
    stricter = EvaluationOptions(thresholds={kappa.name: 1.0}).with_task_defaults("classification")
    assert not gates.apply_gates(evaluation, stricter).blessed


def test_corrupted_images_are_slices_with_gates(evaluate, predictions, examples, tiny_model):
    options = {
        "corruptions": ["dark", "noise"],
        "thresholds": {"accuracy": 0.0},
        "slice_thresholds": {"accuracy": {"corruption = noise": 1.0, "corruption = dark, severity = 5": 0.0}},
        "slice_gaps": {"accuracy": 1.0},
        "disabled_rules": BEATEN_RULES,
    }
    evaluation, gates, _ = evaluate(options, slices=())
    labels, probabilities = predictions
    clean = evaluation.overall
    assert clean.examples == 144 and clean.value("accuracy") == pytest.approx(
        np.mean(probabilities.argmax(1) == labels)
    )
    assert len(evaluation.candidate) == 1  # corrupted images are not part of the other results
    examples_by_name = {row.name: row.examples for row in evaluation.corrupted}
    assert len(examples_by_name) == 2 + 2 * 5
    assert examples_by_name["corruption = noise"] == 5 * 144
    assert examples_by_name["corruption = dark, severity = 5"] == 144
    expected = {("corruption = noise", 1.0), ("corruption = dark, severity = 5", 0.0)}
    assert {(gate.slice, gate.bound) for gate in gates.results if gate.setting.endswith("slice_thresholds")} == expected


def test_a_corrupted_example_equals_the_corrupted_pixels(examples):
    from components.evaluator import corrupted_examples
    from components.evaluator.corruptions import CorruptibleImage

    serialized = examples[0].SerializeToString()
    corrupted = list(corrupted_examples.CorruptImages(["jpeg", "dark"], 96).process(serialized))
    assert len(corrupted) == 2 * 5
    example = tf.train.Example.FromString(corrupted[7])
    assert text(example, "slice/corruption") == "dark" and text(example, "slice/severity") == "3"
    assert text(example, features.CLASS_TEXT) == text(examples[0], features.CLASS_TEXT)
    encoded = examples[0].features.feature[features.IMAGE_ENCODED].bytes_list.value[0]
    pixels = tf.io.decode_image(encoded, channels=3).numpy()
    decoded = tf.io.decode_image(example.features.feature[features.IMAGE_ENCODED].bytes_list.value[0]).numpy()
    np.testing.assert_array_equal(decoded, CorruptibleImage(pixels, 96).corrupt("dark", 3))
