"""What a run came to, as people read it."""

import io
import math
from types import SimpleNamespace

from rich.console import Console

from components.evaluator.figures import Evaluation, SliceFigures
from pipeline.cli import json_output, run_summary
from pipeline.execution.results import Refusal


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
    Refusal("Evaluator", "recall", "class lion", math.nan, 0.8, math.nan, "recall of lion does not exist"),
)


def test_refusals_are_a_table_and_what_is_no_number_a_line():
    lines = [line.rstrip() for line in refused(120, *ROWS).splitlines()]
    assert lines[1] == "Refused: what failed, for whom and by how much"
    cells = [[cell.strip() for cell in line.split("  ") if cell.strip()] for line in lines]
    assert ["gate", "figure", "for", "value", "allowed", "missed by"] in cells
    assert ["Evaluator", "recall", "brightness = dark, class tabby", "0.6235", "≥ 0.8", "0.1765"] in cells
    assert ["ServingValidator", "latency in ms, 95th percentile", "all", "1,234", "≤ 100", "1,134"] in cells
    assert lines[-2:] == [
        "  ✗ ServingValidator: WriteFile in signature `[x]`",
        "  ✗ Evaluator: recall of lion does not exist",
    ]


def test_refusals_fit_into_a_narrow_terminal():
    text = refused(80, *ROWS[:2])
    assert max(map(len, text.splitlines())) <= 80
    for number in ("0.6235", "≥ 0.8", "0.1765", "1,234", "≤ 100", "1,134"):
        assert number in text
    assert "…" not in text


def test_nothing_refused_says_nothing():
    assert refused(80) == ""


def test_refusals_as_json_have_no_nan():
    assert json_output.Refusal.model_validate(ROWS[3]._asdict()).model_dump() == ROWS[3]._asdict() | {
        "value": None,
        "missed_by": None,
    }


def shown(part, *arguments):
    out = io.StringIO()
    part(Console(file=out, width=120), *arguments)
    return out.getvalue()


def test_drift_and_skew_are_told_where_they_were_looked_for():
    def told(**drift):
        return shown(
            run_summary._drift, SimpleNamespace(drift={"previous_span": None, "found": [], "skew": None} | drift)
        )

    assert told() == told(skew=[]) == ""
    assert told(skew=["test split, image/width: differs"]) == "The splits differ:\n  test split, image/width: differs\n"
    assert told(previous_span=3) == "No drift against span 3\n"


def test_slices_show_the_figures_that_there_are():
    def row(name, **metrics):
        return SliceFigures(name=name, metrics={"examples": 7, "accuracy": 0.9} | metrics, per_class={}, confusion=[])

    for metrics, heads in (({}, ["accuracy"]), ({"macro_auc": 0.8, "other": 1}, ["accuracy", "macro AUC"])):
        evaluation = Evaluation(
            task="classification",
            split="test",
            classes=["a", "b"],
            candidate=[row("all", **metrics), row("camera = b", **metrics)],
        )
        lines = [line.split("  ") for line in shown(run_summary._slices, evaluation).splitlines()]
        assert [cell.strip() for cell in lines[2] if cell.strip()] == ["slice", *heads, "examples"]
