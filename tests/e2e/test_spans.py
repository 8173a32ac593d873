"""Continuous training: deliveries come in, and one that has drifted is caught and named."""

import numpy as np
import pytest
from PIL import Image

from pipeline import config, execution

COLORS = {"blue": (40, 60, 160), "green": (50, 150, 70), "red": (170, 60, 50)}


def deliver(folder, seed, *, brightness=1.0, num=60):
    """Writes a delivery: noisy pictures of three classes, 60 of each."""
    rng = np.random.default_rng(seed)
    for name, color in COLORS.items():
        for index in range(num):
            level = rng.normal(1.0, 0.12) * brightness
            pixels = np.array(color) * level + rng.normal(0, 25, (16, 16, 3))
            path = folder / name / f"{index}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(np.clip(pixels, 0, 255).astype(np.uint8)).save(path)


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """Runs a span of the deliveries as far as ExampleValidator."""
    root = tmp_path_factory.mktemp("spans")
    deliver(root / "data" / "day-1", 1)
    deliver(root / "data" / "day-2", 2)
    deliver(root / "data" / "day-3", 3, brightness=0.6)
    deliver(root / "data" / "day-4", 4)

    def execute(span, *overrides, to_node="ExampleValidator"):
        overrides = [f"pipeline.root={root / 'runs'}", f"data.spans={span}", "data.splits.by=class", *overrides]
        loaded = config.load("pictures", data=f"{root}/data/day-{{SPAN}}", overrides=overrides)
        assert loaded.pipeline.name == "data-day"
        return execution.execute(loaded, execution.prepare(loaded), to_node=to_node)

    return execute


def test_a_first_span_has_nothing_to_be_compared_with(run):
    outcome = run("1")
    assert outcome.status == "done"
    assert outcome.as_json()["drift"] == {"previous_span": None, "found": []}
    assert outcome.as_json()["span"] == 1


def test_a_span_like_the_one_before_passes(run):
    outcome = run("2")
    assert outcome.status == "done"
    assert outcome.as_json()["drift"] == {"previous_span": 1, "found": []}


def test_a_darker_span_is_caught_and_named(run):
    outcome = run("3", to_node="Transform")
    assert (outcome.status, outcome.exit_code) == ("failed", 1)
    node, error = outcome.error
    assert node == "ExampleValidator"
    assert "drifted from those of span 2" in str(error)
    assert "image/mean/luma" in str(error) and "image/mean/red" in str(error)
    assert "image/class/text" not in str(error) and "image/height" not in str(error)
    assert [entry.id for entry in outcome.nodes][-1] == "ExampleValidator"


def test_a_span_that_did_not_pass_is_no_reference(run):
    assert run("4").as_json()["drift"] == {"previous_span": 2, "found": []}


def test_a_wanted_change_is_accepted_and_becomes_the_reference(run):
    accepted = run("3", "validation.on_drift=warn")
    assert accepted.status == "done"
    drift = accepted.as_json()["drift"]
    assert drift["previous_span"] == 2 and any("image/mean/luma" in line for line in drift["found"])
    assert "drifted from those of span 3" in str(run("4").error[1])


def test_several_spans_are_read_together(run):
    outcome = run("1-2")
    assert outcome.as_json()["examples"] == 360
    assert outcome.as_json()["span"] == 2
