"""The preset of masks: scenes are generated, a model is trained and refused. The other nodes run in test_masks."""

from __future__ import annotations

import pytest

from pipeline.config import loading
from pipeline.execution import dataset, generated_datasets, local_run
from trainer_module import features


@pytest.fixture(scope="module")
def outcome(tmp_path_factory):
    """Trains a network that finds only the background."""
    overrides = [
        "training.epochs=2",
        "model.depth=2",
        "model.filters=4",
        f"pipeline.root={tmp_path_factory.mktemp('runs')}",
        "evaluation.disabled_rules=['beats_constant','beats_chance','classes_predicted','classes_correct']",
        "evaluation.thresholds={mean_iou=0.99, pixel_accuracy=0.8}",
        "evaluation.class_thresholds={iou={background=0.999}}",
    ]
    loaded = loading.load("digit_scenes", overrides=overrides)
    with pytest.MonkeyPatch.context() as patch:
        # The test split is the whole one.
        fewer = {features.TRAIN: (160, 0.7), features.VALIDATION: (20, 0.15)}
        patch.setattr(generated_datasets, "SCENES", generated_datasets.SCENES | fewer)
        return local_run.execute(loaded, dataset.prepare(loaded), to_node="Evaluator")


def test_every_scene_of_the_test_split_is_evaluated(outcome):
    assert outcome.error is None
    overall = outcome.result.evaluation.overall
    assert overall.examples == 100
    assert sum(overall.support.values()) == 100 * 64 * 64
    assert {"brightness = dark", "brightness = bright"} <= {figures.name for figures in outcome.result.slices}


def test_a_model_that_falls_short_is_refused(outcome):
    assert (outcome.status, outcome.exit_code) == ("refused", 3)
    assert [(row.metric, row.applies_to) for row in outcome.refusals] == [
        ("mean_iou", "all"),
        ("iou", "class background"),
    ]
