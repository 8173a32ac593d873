"""Every rule refuses when it should, says by how much and for whom, and passes when the failure is removed."""

import math

import pytest

from components.evaluator import gates, options
from components.evaluator.figures import Evaluation, SliceFigures
from components.evaluator.options import EvaluationOptions

CLASSES = ["cat", "dog"]


def figures(key=(), accuracy=0.9, examples=100, recall=(0.95, 0.85), entropy=0.3, **more):
    per_class = {
        name: {"precision": 0.9, "recall": value, "f1": value, "auc": 0.9, "support": 50.0}
        for name, value in zip(CLASSES, recall, strict=True)
    }
    metrics = {"accuracy": accuracy, "cross_entropy": entropy, "examples": float(examples), **more}
    return SliceFigures(name=options.slice_name(key), key=key, metrics=metrics, per_class=per_class)


NORMAL = figures([("brightness", "normal")])
DARK = figures([("brightness", "dark")], accuracy=0.6, examples=40)
NIGHT = figures([("brightness", "dark"), ("camera", "b")], accuracy=0.2, examples=5)


def judge(said, candidate=None, baseline=None):
    evaluation = Evaluation(
        task="classification",
        split="test",
        classes=CLASSES,
        candidate=candidate or [figures(), NORMAL, DARK, NIGHT],
        baseline=baseline,
    )
    # Only what a test says is demanded.
    chosen = EvaluationOptions.model_validate({"thresholds": {"accuracy": 0.0}, "change_thresholds": {}} | said)
    options.check(chosen, "classification")
    return gates.judge(evaluation, chosen)


@pytest.mark.parametrize(
    ("failing", "passing", "whom", "missed_by", "detail"),
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
            "is 0.6000; it may be 0.25 worse than the 0.9000 of all examples",
        ),
    ],
)
def test_every_rule_refuses_and_passes(failing, passing, whom, missed_by, detail):
    found = judge(failing)
    (failure,) = found.failures()
    assert not found.blessed
    assert (failure.metric, failure.slice, failure.class_name) == whom
    assert failure.rule == f"evaluation.{next(iter(failing))}"
    assert failure.missed_by == pytest.approx(missed_by)
    assert failure.detail == detail
    assert judge(passing).blessed


def test_a_worse_model_is_refused_overall_and_by_class():
    before = [figures(accuracy=0.95, recall=(0.95, 0.99), entropy=0.1)]
    found = judge(
        {
            "change_thresholds": {"accuracy": 0.02, "cross_entropy": 0.1},
            "class_change_thresholds": {"recall": 0.1},
        },
        baseline=before,
    )
    assert found.has_baseline
    assert [(gate.rule, gate.metric, gate.class_name, round(gate.missed_by, 6)) for gate in found.failures()] == [
        ("evaluation.change_thresholds", "accuracy", None, 0.03),
        ("evaluation.change_thresholds", "cross_entropy", None, 0.1),
        ("evaluation.class_change_thresholds", "recall", "dog", 0.04),
    ]
    assert found.failures()[0].detail == "is 0.9000; it may be 0.02 worse than the last blessed model's 0.9500"
    allowed = {
        "change_thresholds": {"accuracy": 0.06, "cross_entropy": 0.3},
        "class_change_thresholds": {"recall": {"cat": 0.0, "dog": 0.2}},
    }
    assert judge(allowed, baseline=before).blessed


def test_a_first_run_has_nothing_to_be_compared_with_and_says_so():
    found = judge({"change_thresholds": {"accuracy": 0.0}, "class_change_thresholds": {"f1": 0.0}})
    assert found.blessed and not found.has_baseline
    unheld = [gate for gate in found.gates if gate.passed is None]
    assert [gate.class_name for gate in unheld] == [None, "cat", "dog"]
    assert {gate.detail for gate in unheld} == {"is not held against anything: no model was blessed before"}
    assert found.not_held() == []


def test_a_small_slice_is_told_and_not_held_against_anything():
    found = judge({"slice_thresholds": {"accuracy": 0.5}, "slice_gaps": {"accuracy": 0.5}})
    assert found.blessed
    (small,) = [gate for gate in found.gates if gate.passed is None]
    assert (small.slice, small.examples, small.value) == ("brightness = dark, camera = b", 5, 0.2)
    assert "5 examples, fewer than evaluation.min_slice_examples = 30" in small.detail
    assert not judge({"slice_thresholds": {"accuracy": 0.5}, "min_slice_examples": 5}).blessed
    assert not judge({"slice_gaps": {"accuracy": 0.5}, "min_slice_examples": 5}).blessed


def test_a_slice_that_does_not_occur_is_told():
    (gate,) = [g for g in judge({"slice_thresholds": {"accuracy": {"camera = z": 0.5}}}).gates if g.passed is None]
    assert (gate.slice, gate.examples) == ("camera = z", 0)
    assert gate.detail == "is not held against anything: no example belongs to this slice"


def test_a_class_without_examples_cannot_pass():
    candidate = [figures(recall=(math.nan, 0.9))]
    (failure,) = judge({"class_thresholds": {"recall": 0.0}}, candidate).failures()
    assert failure.class_name == "cat"
    assert failure.detail == "does not exist: there are no examples for it; it must be at least 0"
    # The last blessed model, evaluated on the same examples, has no such figure either.
    assert judge({"class_change_thresholds": {"recall": 0.0}}, candidate, candidate).blessed


def test_all_slices_too_small_for_a_gap_is_told():
    (gate,) = [g for g in judge({"slice_gaps": {"accuracy": 0.1}}, [figures(), NIGHT]).gates if g.passed is None]
    assert gate.detail == "is not held against anything: no slice has 30 examples"


def test_odd_names_are_names_all_the_same():
    odd = figures([("site", "x, y = z")], accuracy=0.1)
    cross = figures([("brightness", "dark"), ("u, v", "x, y = z")], accuracy=0.2)
    for name, slice_ in (
        ("site", odd),
        ("site = x, y = z", odd),
        ("u, v, brightness", cross),
        ("u, v = x, y = z, brightness = dark", cross),
    ):
        (failure,) = judge({"slice_thresholds": {"accuracy": {name: 0.8}}}, [figures(), slice_]).failures()
        assert failure.slice == slice_.name
        assert options.could_name(name, ["site", ("brightness", "u, v")])
    assert not options.could_name("brightness = dark", ["site", ("brightness", "u, v")])
    assert not options.could_name("u, v", ["site", ("brightness", "u, v")])


def test_a_slice_of_one_class_has_no_auc_and_is_not_blamed_for_it():
    warm = figures([("label_group", "warm")], macro_auc=math.nan)
    for rule in ("slice_thresholds", "slice_gaps"):
        found = judge({rule: {"macro_auc": 0.1}}, [figures(macro_auc=0.9), warm])
        assert found.blessed
        (unheld,) = found.not_held()
        assert unheld.detail == "is not held against anything: it needs examples of the class and of others"
    # Of all examples it has to exist.
    (failure,) = judge({"thresholds": {"macro_auc": 0.1}}, [figures(macro_auc=math.nan)]).failures()
    assert failure.detail.startswith("does not exist: it needs examples of the class and of others")


@pytest.mark.parametrize(
    ("said", "message"),
    [
        ({"thresholds": {}}, "at least one is needed"),
        ({"thresholds": {"acuracy": 0.9}}, r"classification has no `acuracy`\. Did you mean `accuracy`\?"),
        ({"thresholds": {"mean_iou": 0.9}}, "classification has no `mean_iou`. It has: accuracy, top_3_accuracy"),
        ({"thresholds": {"top_5_accuracy": 0.9}}, r"Did you mean `top_3_accuracy`\?"),
        ({"class_thresholds": {"accuracy": 0.9}}, "evaluation.class_thresholds: classification has no `accuracy`"),
        ({"class_thresholds": {"recall": {"cat": 7}}}, "`recall` must be between 0 and 1, not 7"),
        ({"class_thresholds": {"recall": {}}}, "`recall` is given an empty table, which demands nothing"),
        ({"slice_gaps": {"cross_entropy": -1}}, "`cross_entropy` must be 0 or more, not -1"),
    ],
)
def test_impossible_rules_are_refused(said, message):
    with pytest.raises(ValueError, match=message):
        judge(said)


def test_what_is_demanded_by_default_is_the_tasks():
    said = EvaluationOptions()
    assert said.of_task("classification").thresholds == {"accuracy": 0.5}
    assert said.of_task("segmentation").change_thresholds == {"mean_iou": 0.02}
    assert EvaluationOptions(thresholds={"macro_f1": 0.1}).of_task("classification").thresholds == {"macro_f1": 0.1}
