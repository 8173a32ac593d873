"""The printed results of a run."""

import io
import math
from types import SimpleNamespace

import pytest
from rich.console import Console

from components.evaluator.artifact import EvaluationResult, GateReport, GateResult, SliceMetrics
from components.example_validator.artifact import DriftReport, Finding
from components.image_example_gen.artifact import QuarantinedFile, SplitCounts, Summary
from components.image_example_gen.dataset import Dataset
from components.image_example_gen.entries import Entry
from pipeline.cli import json_output, run_summary
from pipeline.config import loading
from pipeline.execution.results import Refusal, RunResult, of_gate
from trainer_module import tasks
from trainer_module.evaluation.spec import MetricSpec


def test_tuned_integers_are_shown_whole():
    values = {"training.batch_size": 65535, "training.learning_rate": 0.0001234567}
    tuning = {"trials": 2, "failed": 0, "objective": "val_loss", "value": 0.5, "values": values, "table": "trials.csv"}
    out = io.StringIO()
    run_summary._tuning(Console(file=out), SimpleNamespace(tuning=tuning))
    assert "  training.batch_size = 65535\n  training.learning_rate = 0.0001235\n" in out.getvalue()


def refused(width, *rows):
    out = io.StringIO()
    run_summary.refusals(Console(file=out, width=width), rows)
    return out.getvalue()


ROWS = (
    Refusal("Evaluator", "recall", "brightness = dark, class tabby", 0.6234567, 0.8, 0.1765433, "recall is 0.6235"),
    Refusal("ServingValidator", "latency in ms, 95th percentile", "all", 1234.5, 100.0, 1134.5, "too slow"),
    Refusal("ServingValidator", "only allowed operations", "all", None, None, None, "WriteFile in signature `[x]`"),
    Refusal("Evaluator", "recall", "class lion", math.nan, 0.8, math.nan, "recall of lion is undefined"),
)


def test_refusals_are_a_table_and_those_without_a_number_a_line_each():
    lines = [line.rstrip() for line in refused(120, *ROWS).splitlines()]
    assert lines[1] == "Refused: failed checks"
    cells = [[cell.strip() for cell in line.split("  ") if cell.strip()] for line in lines]
    assert ["gate", "metric", "class or slice", "value", "bound", "missed by"] in cells
    assert ["Evaluator", "recall", "brightness = dark, class tabby", "0.6235", "≥ 0.8", "0.1765"] in cells
    assert ["ServingValidator", "latency in ms, 95th percentile", "all", "1,234", "≤ 100", "1,134"] in cells
    assert lines[-2:] == [
        "  ✗ ServingValidator: WriteFile in signature `[x]`",
        "  ✗ Evaluator: recall of lion is undefined",
    ]


def test_a_value_within_its_bound_is_explained_by_the_whole_line():
    tested = (
        "balanced accuracy is 0.58; it must be above 0.5, and a class must differ from chance (p = 0.02, level 0.01)"
    )
    lines = refused(200, Refusal("Evaluator", "beats_constant", "all", 0.58, 0.5, 0.0, tested)).splitlines()
    assert lines[-1].strip() == f"✗ Evaluator: {tested}" and not any("missed by" in line for line in lines)


def test_refusals_fit_into_a_narrow_terminal():
    text = refused(80, *ROWS[:2])
    assert max(map(len, text.splitlines())) <= 80
    for number in ("0.6235", "≥ 0.8", "0.1765", "1,234", "≤ 100", "1,134"):
        assert number in text
    assert "…" not in text


def test_without_refusals_nothing_is_printed():
    assert refused(80) == ""


def test_refusals_as_json_have_no_nan():
    assert json_output.Refusal.model_validate(ROWS[3]._asdict()).model_dump(by_alias=False) == ROWS[3]._asdict() | {
        "value": None,
        "missed_by": None,
    }


def shown(part, *arguments):
    out = io.StringIO()
    part(Console(file=out, width=120), *arguments)
    return out.getvalue()


def rule(name, passed, value=0.5, bound=0.5):
    return GateResult(
        setting="evaluation.disabled_rules",
        rule=name,
        metric=name,
        title="balanced accuracy",
        slice="all",
        value=value,
        bound=bound,
        higher_is_better=True,
        examples=40,
        passed=passed,
        detail="is 0.5",
    )


def test_quarantined_files_are_one_line_per_reason():
    files = [QuarantinedFile(path=f"a/{number}.png", reason="empty file") for number in range(30)]
    files += [QuarantinedFile(path="b/1.png", reason="damaged PNG: invalid data")]
    splits = {"train": SplitCounts(examples=9, classes={})}
    data = Summary(examples=9, quarantined=31, reasons={}, splits=splits, duplicates={})
    lines = shown(run_summary._data, RunResult(data=data, quarantined=files)).splitlines()
    assert lines[2:5] == [
        "31 quarantined:",
        "  30 files: empty file (a/0.png, a/1.png, …)",
        "  b/1.png: damaged PNG: invalid data",
    ]


RULES = (rule("beats_constant", False), rule("beats_chance", True, 0.9), rule("classes_correct", None, math.nan))


def test_every_default_rule_and_every_warning_has_a_line():
    result = RunResult(gates=GateReport(has_baseline=False, results=RULES, warnings=("accuracy = 0.5 is chance.",)))
    assert shown(run_summary._verdict, result).splitlines() == [
        "Evaluator         refused by its rules and thresholds (no earlier blessed model)",
        "  ✗ beats_constant: balanced accuracy is 0.5",
        "  ✓ beats_chance: balanced accuracy is 0.5",
        "  · classes_correct: balanced accuracy is 0.5",
        "  ! accuracy = 0.5 is chance.",
    ]
    # A value equal to a bound that it must exceed.
    assert "≥ 0.5" in refused(100, of_gate(RULES[0])) and "beats_constant" in refused(100, of_gate(RULES[0]))


@pytest.mark.parametrize(
    ("has_baseline", "text"),
    [(True, "and compared with the last blessed model"), (False, "(not compared with the last blessed model)")],
)
def test_a_comparison_on_shared_classes_has_a_line(has_baseline, text):
    gates = GateReport(has_baseline=has_baseline, comparison="Compared on 2 classes.", results=RULES)
    lines = shown(run_summary._verdict, RunResult(gates=gates)).splitlines()
    assert lines[:2] == [f"Evaluator         refused by its rules and thresholds {text}", "  · Compared on 2 classes."]


def test_default_rules_as_json():
    rows = [json_output._rule(gate).model_dump() for gate in RULES]
    assert [(row["name"], row["result"]) for row in rows] == [
        ("beats_constant", "failed"),
        ("beats_chance", "passed"),
        ("classes_correct", "not compared"),
    ]
    assert rows[0] | rows[2] == rows[2] and rows[2]["value"] is None
    assert rows[0]["detail"] == "balanced accuracy is 0.5"


def test_drift_and_skew_are_shown_if_they_were_checked():
    def drift_lines(**drift):
        return shown(
            run_summary._drift, SimpleNamespace(drift=DriftReport(**{"previous_span": None, "skew": None} | drift))
        )

    assert drift_lines() == drift_lines(skew=[]) == ""
    assert (
        drift_lines(skew=[Finding(kind="skew", split="test", feature="image/width", detail="differs")])
        == "The splits differ:\n  test split, image/width: differs\n"
    )
    assert drift_lines(previous_span=3) == "No drift from span 3\n"


def test_tables_list_the_metrics_of_the_evaluation(kappa):
    metrics = tasks.get("classification").evaluation.metrics(3)
    rows = {"all": (0.9, 0.2, 0.1), "camera = a": (0.95, -0.3, 0.2), "camera = b": (0.8, -0.1, math.nan)}
    candidate = [
        SliceMetrics(
            name=name,
            examples=7,
            metrics={"accuracy": accuracy, kappa.name: value, "macro_auc": auc, "macro_f1": 0.7, "macro_recall": 0.6},
            support={"a": 4, "b": 3, "c": 0},
            class_metrics={"a": {"f1": 0.9}, "b": {"f1": 0.5, "recall": 0.6}, "c": {}},
        )
        for name, (accuracy, value, auc) in rows.items()
    ]
    evaluation = EvaluationResult(
        task="classification",
        split="test",
        classes=["a", "b", "c"],
        count_unit="images",
        metrics=metrics,
        candidate=candidate,
    )

    def cells(part):
        lines = shown(part, evaluation).splitlines()
        return [[cell.strip() for cell in line.split("  ") if cell.strip()] for line in lines if line.strip()]

    slices = cells(run_summary._slices)
    assert slices[0] == ["Slices, worst accuracy first"]
    assert slices[1] == ["slice", "accuracy", "macro F1", "macro AUC", "cross-entropy", "Cohen's kappa", "examples"]
    assert slices[3:] == [
        ["all", "0.9000", "0.7000", "0.1000", "-", "0.2000", "7"],
        ["camera = b", "0.8000", "0.7000", "-", "-", "-0.1000", "7"],
        ["camera = a", "0.9500", "0.7000", "0.2000", "-", "-0.3000", "7"],
    ]
    classes = cells(run_summary._classes)
    assert classes[:2] == [["Classes, worst F1 first"], ["class", "precision", "recall", "F1", "AUC", "images"]]
    assert classes[3:6] == [
        ["b", "-", "0.6000", "0.5000", "-", "3"],
        ["a", "-", "-", "0.9000", "-", "4"],
        ["c", "-", "-", "-", "-", "0"],
    ]
    assert classes[-1] == ["mean", "-", "0.6000", "0.7000", "0.1000", "7"]


def test_metrics_of_which_less_is_better_are_ranked_by_the_highest():
    metric = MetricSpec(
        name="error",
        description="A metric of this test.",
        undefined_when="there are no examples",
        direction="lower_is_better",
        main=True,
    )
    rows = {"all": 0.3, "camera = a": 0.1, "camera = b": 0.5}
    evaluation = EvaluationResult(
        task="classification",
        split="test",
        classes=["a"],
        count_unit="images",
        metrics=[metric, metric.model_copy(update={"scope": "per_class"})],
        candidate=[SliceMetrics(name=name, examples=7, metrics={"error": value}) for name, value in rows.items()],
    )
    text = shown(run_summary._slices, evaluation)
    assert text.index("camera = b") < text.index("camera = a")


def test_the_first_line_names_task_layout_and_classes():
    def lines(*classes):
        dataset = Dataset(
            "class_folders", "/images", (), entries=(Entry("a.png"),) * 1200, classes=classes, notes=("n",)
        )
        config = loading.load("images", data="/images")
        return shown(run_summary.start, config, dataset).splitlines()

    assert lines("cat", "dog") == [
        "images  task classification, layout class_folders, 2 classes: cat, dog",
        "  1,200 images, /images",
        "note: n",
    ]
    assert lines(*map(str, range(10)))[0].endswith("10 classes: 0, 1, 2, 3, 4, 5, 6, 7, 8, 9")
    assert lines(*map(str, range(1000)))[0].endswith("1,000 classes: 0, 1, 2, 3, 4, 5, 6, 7, 8, 9 and 990 more")
