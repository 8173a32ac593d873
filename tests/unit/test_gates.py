"""Every bound refuses a model when it should, says by how much and for which class and slice, and else passes."""

import math

import pytest

from components.evaluator import gates, options
from components.evaluator.artifact import EvaluationResult, SliceMetrics
from components.evaluator.options import EvaluationOptions
from trainer_module import tasks

CLASSES = ["cat", "dog"]


def metrics_of(key=(), accuracy=0.9, examples=100, recall=(0.95, 0.85), entropy=0.3, support=(50, 50), **more):
    class_metrics = {
        name: {"precision": 0.9, "recall": value, "f1": value, "auc": 0.9}
        for name, value in zip(CLASSES, recall, strict=True)
    }
    metrics = {"accuracy": accuracy, "cross_entropy": entropy, **more}
    name = options.slice_name(key)
    counts = dict(zip(CLASSES, support, strict=True))
    return SliceMetrics(
        name=name, key=key, examples=examples, metrics=metrics, support=counts, class_metrics=class_metrics
    )


NORMAL = metrics_of([("brightness", "normal")])
DARK = metrics_of([("brightness", "dark")], accuracy=0.6, examples=40)
NIGHT = metrics_of([("brightness", "dark"), ("camera", "b")], accuracy=0.2, examples=5)


def apply_gates(configured, candidate=None, baseline=None):
    evaluation = EvaluationResult(
        task="classification",
        split="test",
        classes=CLASSES,
        count_unit="images",
        metrics=tasks.get("classification").evaluation.metrics(3),
        candidate=candidate or [metrics_of(), NORMAL, DARK, NIGHT],
        baseline=baseline,
    )
    # Only the bounds of the test apply.
    chosen = EvaluationOptions.model_validate({"thresholds": {"accuracy": 0.0}, "change_thresholds": {}} | configured)
    options.check_bounds(chosen, "classification")
    return gates.apply_gates(evaluation, chosen)


@pytest.mark.parametrize(
    ("failing", "passing", "subject", "missed_by", "detail"),
    [
        (
            {"thresholds": {"accuracy": 0.95}},
            {"thresholds": {"accuracy": 0.9}},
            ("accuracy", "all", None),
            0.05,
            "is 0.9000; it must be at least 0.95",
        ),
        (
            {"thresholds": {"cross_entropy": 0.2}},
            {"thresholds": {"cross_entropy": 0.3}},
            ("cross_entropy", "all", None),
            0.1,
            "is 0.3000; it must be at most 0.2",
        ),
        (
            {"class_thresholds": {"recall": 0.9}},
            {"class_thresholds": {"recall": 0.85}},
            ("recall", "all", "dog"),
            0.05,
            "is 0.8500; it must be at least 0.9",
        ),
        (
            {"class_thresholds": {"recall": {"dog": 0.99}}},
            {"class_thresholds": {"recall": {"cat": 0.9}}},
            ("recall", "all", "dog"),
            0.14,
            "is 0.8500; it must be at least 0.99",
        ),
        (
            {"slice_thresholds": {"accuracy": 0.7}},
            {"slice_thresholds": {"accuracy": 0.6}},
            ("accuracy", "brightness = dark", None),
            0.1,
            "is 0.6000; it must be at least 0.7",
        ),
        (
            {"slice_thresholds": {"accuracy": {"brightness = dark": 0.7}}},
            {"slice_thresholds": {"accuracy": {"brightness = normal": 0.7}}},
            ("accuracy", "brightness = dark", None),
            0.1,
            "is 0.6000; it must be at least 0.7",
        ),
        (
            {"slice_thresholds": {"accuracy": {"brightness": 0.7, "brightness = normal": 0.8}}},
            {"slice_thresholds": {"accuracy": {"brightness": 0.7, "brightness = dark": 0.5}}},
            ("accuracy", "brightness = dark", None),
            0.1,
            "is 0.6000; it must be at least 0.7",
        ),
        (
            {"slice_thresholds": {"accuracy": {"camera = b, brightness = dark": 0.3}}, "min_slice_examples": 5},
            {"slice_thresholds": {"accuracy": {"camera, brightness": 0.2}}, "min_slice_examples": 5},
            ("accuracy", "brightness = dark, camera = b", None),
            0.1,
            "is 0.2000; it must be at least 0.3",
        ),
        (
            {"slice_gaps": {"accuracy": 0.25}},
            {"slice_gaps": {"accuracy": 0.3}},
            ("accuracy", "brightness = dark", None),
            0.05,
            "is 0.6000; it may be at most 0.25 worse than the 0.9000 of all examples",
        ),
    ],
)
def test_every_bound_refuses_and_passes(failing, passing, subject, missed_by, detail):
    report = apply_gates(failing)
    (failure,) = report.failures
    assert not report.blessed
    assert (failure.metric, failure.slice, failure.class_name) == subject
    assert failure.setting == f"evaluation.{next(iter(failing))}"
    assert failure.missed_by == pytest.approx(missed_by)
    assert failure.detail == detail
    assert apply_gates(passing).blessed


def test_a_worse_model_is_refused_overall_and_by_class():
    baseline = [metrics_of(accuracy=0.95, recall=(0.95, 0.99), entropy=0.1)]
    report = apply_gates(
        {
            "change_thresholds": {"accuracy": 0.02, "cross_entropy": 0.1},
            "class_change_thresholds": {"recall": 0.1},
        },
        baseline=baseline,
    )
    assert report.has_baseline
    assert [(gate.setting, gate.metric, gate.class_name, round(gate.missed_by, 6)) for gate in report.failures] == [
        ("evaluation.change_thresholds", "accuracy", None, 0.03),
        ("evaluation.change_thresholds", "cross_entropy", None, 0.1),
        ("evaluation.class_change_thresholds", "recall", "dog", 0.04),
    ]
    assert report.failures[0].detail == "is 0.9000; it may be at most 0.02 worse than the last blessed model's 0.9500"
    allowed = {
        "change_thresholds": {"accuracy": 0.06, "cross_entropy": 0.3},
        "class_change_thresholds": {"recall": {"cat": 0.0, "dog": 0.2}},
    }
    assert apply_gates(allowed, baseline=baseline).blessed


def test_a_first_run_has_no_baseline_and_reports_it():
    report = apply_gates({"change_thresholds": {"accuracy": 0.0}, "class_change_thresholds": {"f1": 0.0}})
    assert report.blessed and not report.has_baseline
    skipped = [gate for gate in report.results if gate.passed is None]
    assert [gate.class_name for gate in skipped] == [None, "cat", "dog"]
    assert {gate.detail for gate in skipped} == {"is not compared: there is no earlier blessed model"}
    assert report.not_compared == []


def test_a_small_slice_is_reported_and_not_compared():
    report = apply_gates({"slice_thresholds": {"accuracy": 0.5}, "slice_gaps": {"accuracy": 0.5}})
    assert report.blessed
    (small,) = [gate for gate in report.results if gate.passed is None]
    assert (small.slice, small.examples, small.value) == ("brightness = dark, camera = b", 5, 0.2)
    assert "5 examples, fewer than evaluation.min_slice_examples = 30" in small.detail
    assert not apply_gates({"slice_thresholds": {"accuracy": 0.5}, "min_slice_examples": 5}).blessed
    assert not apply_gates({"slice_gaps": {"accuracy": 0.5}, "min_slice_examples": 5}).blessed


@pytest.mark.parametrize(
    ("bounds", "failures"),
    [
        (0.5, [("brightness = dark", "dog")]),
        ({"brightness": 0.5}, [("brightness = dark", "dog")]),
        ({"brightness = normal": 0.9}, [("brightness = normal", "dog")]),
        ({"brightness = dark": 0.3}, []),
        (0.3, []),
    ],
)
def test_a_class_has_bounds_in_slices(bounds, failures):
    dark = metrics_of([("brightness", "dark")], examples=80, recall=(0.7, 0.4), support=(40, 40))
    few = metrics_of([("camera", "a")], examples=40, recall=(0.9, 0.0), support=(35, 5))
    report = apply_gates({"slice_class_thresholds": {"recall": bounds}}, [metrics_of(), NORMAL, dark, few, NIGHT])
    assert [(gate.slice, gate.class_name) for gate in report.failures] == failures
    compared = {
        (gate.slice, gate.class_name) for gate in report.results if gate.setting.endswith("slice_class_thresholds")
    }
    if isinstance(bounds, float):
        # The class with five examples is not compared, and neither is the slice with five.
        assert compared == {
            *((f"brightness = {value}", name) for value in ("normal", "dark") for name in CLASSES),
            ("camera = a", "cat"),
            ("brightness = dark, camera = b", None),
        }


def test_a_slice_without_a_large_class_is_reported():
    spread = metrics_of([("camera", "a")], examples=40, support=(20, 20))
    report = apply_gates({"slice_class_thresholds": {"recall": 0.5}}, [metrics_of(), spread])
    (gate,) = [gate for gate in report.results if gate.passed is None]
    assert (gate.slice, gate.class_name) == ("camera = a", None) and report.blessed
    assert gate.detail == "is not compared: no class is in it 30 times (evaluation.min_slice_examples)"
    (absent,) = apply_gates({"slice_class_thresholds": {"recall": {"camera = z": 0.5}}}).not_compared
    assert (absent.slice, absent.detail) == ("camera = z", "is not compared: the slice has no examples")
    with pytest.raises(ValueError, match="classification has no metric `accuracy`"):
        apply_gates({"slice_class_thresholds": {"accuracy": 0.5}})


def test_a_slice_without_examples_is_reported():
    (gate,) = [
        g for g in apply_gates({"slice_thresholds": {"accuracy": {"camera = z": 0.5}}}).results if g.passed is None
    ]
    assert (gate.slice, gate.examples) == ("camera = z", 0)
    assert gate.detail == "is not compared: the slice has no examples"


def test_a_class_without_examples_fails():
    candidate = [metrics_of(recall=(math.nan, 0.9))]
    (failure,) = apply_gates({"class_thresholds": {"recall": 0.0}}, candidate).failures
    assert failure.class_name == "cat"
    assert failure.detail == "is undefined because the class has no examples; it must be at least 0"
    # The last blessed model, evaluated on the same examples, has no value either.
    assert apply_gates({"class_change_thresholds": {"recall": 0.0}}, candidate, candidate).blessed


def test_a_gap_without_a_large_enough_slice_is_reported():
    (gate,) = [
        g for g in apply_gates({"slice_gaps": {"accuracy": 0.1}}, [metrics_of(), NIGHT]).results if g.passed is None
    ]
    assert gate.detail == "is not compared: no slice has 30 examples"


def test_names_with_commas_and_equal_signs():
    odd = metrics_of([("site", "x, y = z")], accuracy=0.1)
    cross = metrics_of([("brightness", "dark"), ("u, v", "x, y = z")], accuracy=0.2)
    for name, slice_ in (
        ("site", odd),
        ("site = x, y = z", odd),
        ("u, v, brightness", cross),
        ("u, v = x, y = z, brightness = dark", cross),
    ):
        (failure,) = apply_gates({"slice_thresholds": {"accuracy": {name: 0.8}}}, [metrics_of(), slice_]).failures
        assert failure.slice == slice_.name
        assert options.may_name(name, ["site", ("brightness", "u, v")])
    assert not options.may_name("brightness = dark", ["site", ("brightness", "u, v")])
    assert not options.may_name("u, v", ["site", ("brightness", "u, v")])


def test_a_slice_of_one_class_has_no_auc_and_does_not_fail():
    warm = metrics_of([("label_group", "warm")], macro_auc=math.nan)
    for rule in ("slice_thresholds", "slice_gaps"):
        report = apply_gates({rule: {"macro_auc": 0.1}}, [metrics_of(macro_auc=0.9), warm])
        assert report.blessed
        (skipped,) = report.not_compared
        assert skipped.detail == "is not compared: there are no examples, or all belong to one class"
    # Of all examples it has to exist.
    (failure,) = apply_gates({"thresholds": {"macro_auc": 0.1}}, [metrics_of(macro_auc=math.nan)]).failures
    assert failure.detail.startswith("is undefined because there are no examples, or all belong to one class")


@pytest.mark.parametrize(
    ("configured", "message"),
    [
        ({"thresholds": {}}, "at least one is required"),
        ({"thresholds": {"acuracy": 0.9}}, r"classification has no metric `acuracy`\. Did you mean `accuracy`\?"),
        (
            {"thresholds": {"mean_iou": 0.9}},
            "classification has no metric `mean_iou`. It has: accuracy, top_3_accuracy",
        ),
        ({"thresholds": {"top_5_accuracy": 0.9}}, r"Did you mean `top_3_accuracy`\?"),
        (
            {"class_thresholds": {"accuracy": 0.9}},
            "evaluation.class_thresholds: classification has no metric `accuracy`",
        ),
        ({"class_thresholds": {"recall": {"cat": 7}}}, "`recall` must be between 0 and 1, not 7"),
        ({"class_thresholds": {"recall": {}}}, "the table of `recall` is empty"),
        ({"slice_gaps": {"cross_entropy": -1}}, "`cross_entropy` must be 0 or more, not -1"),
    ],
)
def test_impossible_bounds_are_rejected(configured, message):
    with pytest.raises(ValueError, match=message):
        apply_gates(configured)


def test_default_bounds_are_those_of_the_task():
    configured = EvaluationOptions()
    assert configured.with_task_defaults("classification").thresholds == {"accuracy": 0.5}
    assert configured.with_task_defaults("segmentation").change_thresholds == {"mean_iou": 0.02}
    assert EvaluationOptions(thresholds={"macro_f1": 0.1}).with_task_defaults("classification").thresholds == {
        "macro_f1": 0.1
    }


def test_negative_bounds_and_changes_above_1_of_a_metric_between_minus_1_and_1(kappa):
    for setting, allowed, refused, message in (
        ("thresholds", -0.5, -1.5, "between -1 and 1, not -1.5"),
        ("slice_thresholds", -1.0, 1.01, "between -1 and 1, not 1.01"),
        ("change_thresholds", 1.5, -0.1, "between 0 and 2, not -0.1"),
        ("slice_gaps", 2.0, 2.1, "between 0 and 2, not 2.1"),
    ):
        candidate = [metrics_of(cohen_kappa=-0.2), metrics_of([("camera", "a")], cohen_kappa=-0.7)]
        baseline = [metrics_of(cohen_kappa=1.0)]
        report = apply_gates({"thresholds": {kappa.name: -0.6}, setting: {kappa.name: allowed}}, candidate, baseline)
        assert report.blessed, report.failures
        with pytest.raises(ValueError, match=f"evaluation.{setting}: `cohen_kappa` must be {message}"):
            apply_gates({setting: {kappa.name: refused}}, candidate)
    (failure,) = apply_gates({"thresholds": {kappa.name: -0.1}}, candidate).failures
    assert failure.subject == "Cohen's kappa" and failure.missed_by == pytest.approx(0.1)
    assert failure.detail == "is -0.2000; it must be at least -0.1"
    (failure,) = apply_gates({"thresholds": {kappa.name: -1.0}}, [metrics_of(cohen_kappa=math.nan)]).failures
    assert failure.detail == f"is undefined because {kappa.undefined_when}; it must be at least -1"
