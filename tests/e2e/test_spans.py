"""Continuous training: spans arrive, and one that has drifted is detected and named."""

import io

import numpy as np
import pytest
from PIL import Image
from rich.console import Console

from pipeline.cli import run_summary
from pipeline.cli.json_output import run_output
from pipeline.config import loading
from pipeline.execution import dataset, local_run
from pipeline.history import run_history

COLORS = {"blue": (40, 60, 160), "green": (50, 150, 70), "red": (170, 60, 50)}


def deliver(folder, seed, *, brightness=1.0, num=60, prefix="", **more):
    """Writes a span: noisy images of three classes, 60 of each, or as many as `more` sets for one."""
    rng = np.random.default_rng(seed)
    for name, color in COLORS.items():
        for index in range(more.get(name, num)):
            level = rng.normal(1.0, 0.12) * brightness
            pixels = np.array(color) * level + rng.normal(0, 25, (16, 16, 3))
            path = folder / name / f"{prefix}{index}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(np.clip(pixels, 0, 255).astype(np.uint8)).save(path)


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """Runs one of the spans up to ExampleValidator."""
    root = tmp_path_factory.mktemp("spans")
    deliver(root / "data" / "day-1", 1)
    deliver(root / "data" / "day-2", 2)
    deliver(root / "data" / "day-3", 3, brightness=0.6)
    deliver(root / "data" / "day-4", 4)
    deliver(root / "data" / "day-5", 5, red=300)
    deliver(root / "data" / "day-6", 6)
    deliver(root / "data" / "day-6", 6, brightness=0.6, num=40, prefix="night-")

    def load(span, *overrides):
        overrides = [f"pipeline.root={root / 'runs'}", f"data.spans={span}", "data.splits.by=class", *overrides]
        return loading.load("images", data=f"{root}/data/day-{{SPAN}}", overrides=overrides)

    def execute(span, *overrides, to_node="ExampleValidator"):
        loaded = load(span, *overrides)
        return local_run.execute(loaded, dataset.prepare(loaded), to_node=to_node)

    execute.load = load

    return execute


def test_the_first_span_is_not_compared(run):
    outcome = run("1")
    assert outcome.status == "done"
    assert run.load("1").pipeline.name == "data-day"
    assert run_output(outcome).model_dump()["drift"] == {"previous_span": None, "found": [], "skew": []}
    assert run_output(outcome).model_dump()["span"] == 1


def test_a_span_similar_to_the_previous_one_passes(run):
    outcome = run("2")
    assert outcome.status == "done"
    assert run_output(outcome).model_dump()["drift"] == {"previous_span": 1, "found": [], "skew": []}


def test_a_darker_span_is_refused(run):
    outcome = run("3", to_node="Transform")
    assert (outcome.status, outcome.exit_code, outcome.error) == ("refused", 3, None)
    text = str(outcome.refusal)
    assert "drifted from those of span 2" in text
    assert "image/mean/luma" in text and "image/mean/red" in text
    assert "image/class/text" not in text and "image/height" not in text
    assert (outcome.nodes[-1].id, outcome.nodes[-1].state) == ("ExampleValidator", "refused")
    rows = {row["figure"]: row for row in run_output(outcome).model_dump()["refusals"]}
    luma = rows["drift of image/mean/luma"]
    assert (luma["gate"], luma["whom"]) == ("ExampleValidator", "train split")
    assert luma["value"] > luma["bound"] > 0.1 and luma["missed_by"] == pytest.approx(luma["value"] - luma["bound"])
    assert "image/mean/luma" in luma["detail"]
    assert [str(entry.verdict) for entry in run_history.read(run.load("3")).newest(2)] == [
        "refused by ExampleValidator",
        "stopped after ExampleValidator",
    ]
    shown = io.StringIO()
    run_summary.summary(Console(file=shown, width=80), outcome, run.load("3"))
    assert "ExampleValidator refused the images. The images have drifted from those of span 2." in shown.getvalue()
    assert "nothing pushed" in shown.getvalue() and max(map(len, table_of(shown.getvalue()))) <= 80


def table_of(text):
    """The lines of the table of refusals."""
    lines = text.splitlines()
    start = next(number for number, line in enumerate(lines) if line.startswith("Refused:"))
    return lines[start : lines.index("", start + 2)] if "" in lines[start + 2 :] else lines[start:]


def test_another_class_balance_is_refused(run):
    outcome = run("5")
    assert (outcome.status, outcome.exit_code) == ("refused", 3)
    row, *_ = run_output(outcome).model_dump()["refusals"]  # the colours of the images change with their classes
    assert (row["figure"], row["whom"]) == ("drift of image/class/text", "train split, red")
    assert "33.3% before, 71.4% now" in str(outcome.refusal)


def test_a_refused_span_is_not_the_reference(run):
    assert run_output(run("4")).model_dump()["drift"] == {"previous_span": 2, "found": [], "skew": []}


def test_accepted_drift_becomes_the_reference(run):
    accepted = run("3", "validation.on_drift=warn")
    assert accepted.status == "done"
    drift = run_output(accepted).model_dump()["drift"]
    assert drift["previous_span"] == 2 and any("image/mean/luma" in line for line in drift["found"])
    assert "drifted from those of span 3" in str(run("4").refusal)


def test_several_spans_are_read_together(run):
    outcome = run("1-2")
    assert run_output(outcome).model_dump()["examples"] == 360
    assert run_output(outcome).model_dump()["span"] == 2


HELD_OUT = ("pipeline.name=held-out", "data.split_pattern=(?P<test>night-)")


def test_skew_is_refused_if_configured(run):
    outcome = run("6", *HELD_OUT, "validation.on_skew=stop", to_node="Transform")
    assert (outcome.status, outcome.exit_code) == ("refused", 3)
    assert outcome.nodes[-1].id == "ExampleValidator"
    assert "The splits differ." in str(outcome.refusal) and 'validation.on_skew="warn"' in str(outcome.refusal)
    assert {row["whom"] for row in run_output(outcome).model_dump()["refusals"]} == {"test split"}
    assert "skew of image/mean/luma" in {row["figure"] for row in run_output(outcome).model_dump()["refusals"]}


def test_skew_is_reported(run):
    outcome = run("6", *HELD_OUT)
    assert outcome.status == "done"
    assert any("image/mean/luma" in line for line in run_output(outcome).model_dump()["drift"]["skew"])
    shown = io.StringIO()
    run_summary.summary(Console(file=shown, width=80), outcome, run.load("6", *HELD_OUT))
    assert "The splits differ:\n  test split, image/" in shown.getvalue()
