"""Which earlier model a new one is compared with."""

import json

import pytest
from tfx.types import standard_artifacts

from components.baseline import LatestBlessedOtherModelStrategy
from trainer_module import export


@pytest.fixture
def model(tmp_path):
    def make(id_, labels):
        artifact = standard_artifacts.Model()
        artifact.uri, artifact.id = str(tmp_path / str(id_)), id_
        path = tmp_path / str(id_) / "Format-Serving" / export.LABELS_FILE
        path.parent.mkdir(parents=True)
        path.write_text(json.dumps(labels))
        return artifact

    return make


def blessing(model, blessed):
    artifact = standard_artifacts.ModelBlessing()
    artifact.set_int_custom_property("blessed", blessed)
    artifact.set_int_custom_property("current_model_id", model.id)
    return artifact


def resolve(models, blessings, candidate):
    return LatestBlessedOtherModelStrategy().resolve_artifacts(
        None, {"model": models, "model_blessing": blessings, "candidate": [candidate]}
    )["model"]


def test_the_newest_blessed_model_that_is_not_the_candidate(model):
    models = [model(i, ["a", "b"]) for i in (1, 2, 3, 4)]
    blessings = [blessing(models[0], 1), blessing(models[1], 1), blessing(models[2], 0), blessing(models[3], 1)]
    assert resolve(models, blessings, models[3]) == [models[1]]
    assert resolve(models, blessings, models[1]) == [models[3]]


def test_a_first_model_has_no_baseline(model):
    only = model(1, ["a", "b"])
    assert resolve([only], [], only) == []
    assert resolve([only], [blessing(only, 1)], only) == []


def test_a_model_of_other_classes_is_no_baseline(model):
    old, new = model(1, ["a", "b", "c"]), model(2, ["a", "b"])
    assert resolve([old, new], [blessing(old, 1)], new) == []
