"""Selection of the earlier model and the earlier span that a new one is compared with."""

import json

import pytest
from ml_metadata.proto import metadata_store_pb2
from tfx.types import standard_artifacts

import components
from components.baseline import LatestBlessedOtherModelStrategy, PreviousSpanStrategy
from trainer_module import features, model_versions

INFRA = standard_artifacts.InfraBlessing


@pytest.fixture
def model(tmp_path):
    def make(id_, labels):
        artifact = standard_artifacts.Model()
        artifact.uri, artifact.id = str(tmp_path / str(id_)), id_
        path = tmp_path / str(id_) / "Format-Serving" / features.LABELS_FILE
        path.parent.mkdir(parents=True)
        path.write_text(json.dumps(labels))
        return artifact

    return make


def blessing(model, blessed, kind=standard_artifacts.ModelBlessing):
    artifact = kind()
    artifact.set_int_custom_property("blessed", blessed)
    artifact.set_int_custom_property("current_model_id", model.id)
    return artifact


class Record:
    """The part of ML Metadata that the strategy reads: destinations of pushed models."""

    def __init__(self, pushed=()):
        """Takes (model, folder) pairs."""
        self._pushed = pushed

    def get_artifacts_by_type(self, name):
        """Only pushed models are asked for."""
        assert name == "PushedModel"
        for model, folder in self._pushed:
            artifact = metadata_store_pb2.Artifact()
            artifact.custom_properties["pushed_destination"].string_value = str(folder)
            artifact.custom_properties["model_id"].int_value = model.id
            yield artifact


def resolve(models, blessings, candidate, servable=None, faithful=None, pushed=()):
    """Every model can be served and is explained faithfully, unless a name is given."""
    served = [blessing(model, model in (models if servable is None else servable), INFRA) for model in models]
    of = components.GradCamExplanations
    explained = [blessing(model, model in (models if faithful is None else faithful), of) for model in models]
    verdicts = {"model_blessing": blessings, "infra_blessing": served, "explanations": explained}
    inputs = {"model": models, **verdicts, "candidate": [candidate]}
    resolved = LatestBlessedOtherModelStrategy().resolve_artifacts(Record(pushed), inputs)
    assert set(resolved) == set(inputs)
    assert {len(resolved[key]) for key in verdicts} == {len(resolved["model"])}
    return resolved["model"]


def test_the_baseline_is_the_newest_other_blessed_model(model):
    models = [model(i, ["a", "b"]) for i in (1, 2, 3, 4)]
    blessings = [blessing(models[0], 1), blessing(models[1], 1), blessing(models[2], 0), blessing(models[3], 1)]
    assert resolve(models, blessings, models[3]) == [models[1]]
    assert resolve(models, blessings, models[1]) == [models[3]]


def test_a_model_that_cannot_be_served_is_not_the_baseline(model):
    # Good and too slow: every model that could be served would be refused for being a little worse.
    served, slow, new = (model(i, ["a", "b"]) for i in (1, 2, 3))
    blessings = [blessing(served, 1), blessing(slow, 1)]
    assert resolve([served, slow, new], blessings, new, servable=[served]) == [served]
    assert resolve([served, slow, new], blessings, new, servable=[]) == []
    assert resolve([served, slow, new], blessings, new, faithful=[served]) == [served]


def test_a_rolled_back_model_is_not_the_baseline(model, tmp_path):
    models = [model(i, ["a", "b"]) for i in (1, 2, 3)]
    blessings = [blessing(each, 1) for each in models]
    base = tmp_path / "served"
    for version in (100, 200):
        (base / str(version)).mkdir(parents=True)
        (base / str(version) / "saved_model.pb").touch()
    pushed = [(models[0], base / "100"), (models[1], base / "200")]
    assert resolve(models, blessings, models[2], pushed=pushed) == [models[1]]
    model_versions.roll_back(str(base))
    assert resolve(models, blessings, models[2], pushed=pushed) == [models[0]]


def test_a_first_model_has_no_baseline(model):
    only = model(1, ["a", "b"])
    assert resolve([only], [], only) == []
    assert resolve([only], [blessing(only, 1)], only) == []


@pytest.mark.parametrize("labels", [["a", "b", "c"], ["b", "a"], ["nail", "screw"]])
def test_a_model_with_other_classes_is_the_baseline(model, labels):
    # Evaluator compares the shared classes, and reports if there are none.
    first, old, new = model(1, ["a", "b"]), model(2, labels), model(3, ["a", "b"])
    assert resolve([first, old, new], [blessing(first, 1), blessing(old, 1)], new) == [old]


def test_a_model_whose_export_is_gone_is_no_baseline(model, tmp_path):
    first, old, new = (model(i, ["a", "b"]) for i in (1, 2, 3))
    (tmp_path / "2" / "Format-Serving" / features.LABELS_FILE).unlink()
    assert resolve([first, old, new], [blessing(first, 1), blessing(old, 1)], new) == [first]


# --- Spans ------------------------------------------------------------------------------------------------------


def statistics(id_, span):
    artifact = standard_artifacts.ExampleStatistics()
    artifact.id, artifact.span = id_, span
    return artifact


def schema(id_):
    artifact = standard_artifacts.Schema()
    artifact.id = id_
    return artifact


def passed(id_, span, statistics_id, schema_id):
    artifact = standard_artifacts.ExampleAnomalies()
    artifact.id, artifact.span = id_, span
    artifact.set_int_custom_property("statistics_id", statistics_id)
    artifact.set_int_custom_property("schema_id", schema_id)
    return artifact


def previous(current, all_passed):
    resolved = PreviousSpanStrategy().resolve_artifacts(
        None,
        {
            "statistics": [statistics(i, i) for i in range(1, 9)],
            "schema": [schema(100 + i) for i in range(1, 9)],
            "anomalies": all_passed,
            "current": [current],
        },
    )
    assert resolved["current"] == [current]
    return [artifact.id for key in ("statistics", "schema") for artifact in resolved[key]]


def test_the_previous_span_is_the_newest_earlier_one_that_passed():
    # Span 4 did not pass: it left no anomalies artifact.
    all_passed = [passed(200 + span, span, span, 100 + span) for span in (1, 3, 2)]
    assert previous(statistics(5, 5), all_passed) == [3, 103]
    assert previous(statistics(2, 2), all_passed) == [1, 101]


def test_the_first_span_and_data_without_spans_have_no_previous_span():
    all_passed = [passed(201, 1, 1, 101), passed(200, 0, 7, 107)]
    assert previous(statistics(1, 1), all_passed) == []
    assert previous(statistics(8, 0), all_passed) == []
