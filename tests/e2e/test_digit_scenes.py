"""The preset of masks the whole way: generated scenes in, a judged, served and reported model out."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from pipeline.cli.json_output import run_output
from pipeline.config import loading
from pipeline.execution import dataset, local_run

# A network that trains in seconds, and finds only the background: the default rules would refuse it.
SMALL = (
    "training.epochs=2",
    "model.depth=2",
    "model.filters=4",
    "evaluation.disabled_rules=['beats_constant','beats_chance','classes_predicted','classes_correct']",
)


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    overrides = [
        *SMALL,
        f"pipeline.root={tmp_path_factory.mktemp('runs')}",
        "evaluation.thresholds={pixel_accuracy=0.8}",
    ]
    loaded = loading.load("digit_scenes", overrides=overrides)
    return loaded, local_run.execute(loaded, dataset.prepare(loaded))


def test_every_node_runs_and_the_model_is_pushed(run):
    _, outcome = run
    assert (outcome.error, outcome.status, outcome.exit_code) == (None, "done", 0)
    nodes = [node.id for node in outcome.nodes]
    assert {"ServingValidator", "Evaluator", "GradCam"} == set(nodes[-6:-3])
    assert nodes[-3:] == ["Pusher", "ModelReport", "MonitoringReference"]
    assert outcome.result.num_explained and "energy_inside" in run_output(outcome).model_dump()["faithfulness"]
    overall = outcome.result.evaluation.overall
    assert overall.examples == 100
    assert sum(overall.support.values()) == 100 * 64 * 64
    assert {"brightness = dark", "brightness = bright"} <= {figures.name for figures in outcome.result.slices}


def test_masks_are_served_as_png(run, running_server, both_clients):
    loaded, outcome = run
    image = (Path(loaded.data_location) / "images/test/0000.png").read_bytes()
    with running_server("scenes", Path(loaded.model_base_path)) as server, both_clients(server, "scenes") as clients:
        masks = []
        for client in clients:
            assert client.status() == [(outcome.result.pushed_version, "AVAILABLE")]
            (mask,) = client.segment([image])
            masks.append(np.asarray(Image.open(io.BytesIO(mask.png))))
            assert np.bincount(masks[-1].ravel(), minlength=11).tolist() == list(mask.class_pixels)
    assert masks[0].shape == (64, 64)
    np.testing.assert_array_equal(*masks)


def test_a_model_that_falls_short_is_refused(run):
    loaded, first = run
    refused = loading.load(
        "digit_scenes",
        overrides=[
            *SMALL,
            f"pipeline.root={loaded.pipeline.root}",
            "evaluation.thresholds={mean_iou=0.99}",
            "evaluation.class_thresholds={iou={background=0.999}}",
        ],
    )
    outcome = local_run.execute(refused, dataset.prepare(refused))
    assert outcome.exit_code == 3
    assert [(row.metric, row.applies_to) for row in outcome.refusals] == [
        ("mean_iou", "all"),
        ("iou", "class background"),
    ]
    assert {node.id: node.state for node in outcome.nodes}["Trainer"] == "cached"
    versions = [path.name for path in Path(refused.model_base_path).iterdir()]
    assert versions == [str(first.result.pushed_version)]


def test_the_report_shows_the_weakest_masks(run):
    _, outcome = run
    page = Path(outcome.result.report).read_text(encoding="utf-8")
    assert "Worst predictions" in page and page.count("data:image/") >= 12
    assert len(page) < 5_000_000
