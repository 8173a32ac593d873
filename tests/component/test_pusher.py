"""Pusher: a blessed model becomes a version; a rolled back one is reported and not pushed again."""

import json
from pathlib import Path

import pytest
from ml_metadata.proto import metadata_store_pb2 as mlmd
from tfx.types import standard_artifacts

import components
from components.pusher import executor
from pipeline.execution import push_cache, results
from pipeline.history import metadata_store
from trainer_module import features, model_versions


@pytest.fixture
def push(tmp_path):
    """Runs the executor: verdicts of the three gates, versions to keep → PushedModel."""
    calls = iter(range(100))
    model = standard_artifacts.Model()
    model.uri, model.id = str(tmp_path / "model"), 7
    (tmp_path / "model/Format-Serving/variables").mkdir(parents=True)
    labels = tmp_path / "model/Format-Serving" / features.LABELS_FILE
    labels.parent.mkdir()
    labels.write_text('["crow", "wren"]')
    (tmp_path / "model/Format-Serving/saved_model.pb").write_bytes(b"graph")
    (tmp_path / "model/Format-Serving/variables/variables.index").write_bytes(b"index")

    def run(blessed=1, servable=1, faithful=1, keep=0):
        blessing, infra_blessing = standard_artifacts.ModelBlessing(), standard_artifacts.InfraBlessing()
        blessing.set_int_custom_property("blessed", blessed)
        infra_blessing.set_int_custom_property("blessed", servable)
        infra_blessing.set_string_custom_property("blessing_status", "INFRA_BLESSED" if servable else "")
        explanations = components.GradCamExplanations()
        explanations.set_int_custom_property("blessed", faithful)
        pushed = standard_artifacts.PushedModel()
        pushed.uri = str(tmp_path / f"pushed-{next(calls)}")
        context = executor.Executor.Context(tmp_dir=str(tmp_path), unique_id="1")
        executor.Executor(context).Do(
            {
                "model": [model],
                "model_blessing": [blessing],
                "infra_blessing": [infra_blessing],
                "explanations": [explanations],
            },
            {"pushed_model": [pushed]},
            {"base_directory": str(tmp_path / "served"), "keep_versions": keep, "dataset": '{"root": "/data/birds"}'},
        )
        return pushed

    return run


@pytest.fixture
def store(tmp_path):
    """Opens an ML Metadata store and adds PushedModel artifacts."""
    opened = metadata_store.open_store(tmp_path / "metadata.sqlite")
    kind = opened.put_artifact_type(mlmd.ArtifactType(name="PushedModel"))

    def add(*pushed):
        for artifact in pushed:
            stored = mlmd.Artifact(type_id=kind, uri=artifact.uri)
            for name in ("pushed_destination", "pushed_version"):
                stored.custom_properties[name].string_value = artifact.get_string_custom_property(name)
            for name in ("pushed", executor.MODEL_ID):
                stored.custom_properties[name].int_value = artifact.get_int_custom_property(name)
            opened.put_artifacts([stored])
        return opened

    return add


def test_a_blessed_model_is_pushed_and_the_artifact_contains_the_destination(push):
    pushed = push()
    destination = pushed.get_string_custom_property("pushed_destination")
    assert pushed.get_int_custom_property("pushed") == 1 and pushed.get_int_custom_property("model_id") == 7
    assert destination.endswith("/" + pushed.get_string_custom_property("pushed_version"))
    assert (
        Path(destination, "saved_model.pb").read_bytes() == Path(pushed.uri, "saved_model.pb").read_bytes() == b"graph"
    )
    assert model_versions.differences(destination) == []
    manifest = json.loads(Path(destination, model_versions.MANIFEST_FILE).read_text())
    assert manifest["dataset"] == {"root": "/data/birds", "classes": ["crow", "wren"]}


@pytest.mark.parametrize("verdicts", [(0, 1, 1), (1, 0, 1), (1, 1, 0)])
def test_a_refused_model_is_not_pushed(push, tmp_path, verdicts):
    assert push(*verdicts).get_int_custom_property("pushed") == 0
    assert not (tmp_path / "served").exists()


def test_old_versions_are_removed(push, tmp_path):
    for _ in range(4):
        newest = push(keep=2)
    versions = model_versions.list_versions(str(tmp_path / "served"))
    assert len(versions.served) == 2 and versions.served[0] == int(newest.get_string_custom_property("pushed_version"))


def test_only_the_newest_push_is_taken_from_the_cache(push, store, tmp_path):
    first, second = push(), push()
    push_cache.invalidate(store(first, second))
    # The cache checks the copies: the first model would be pushed again, since it is not the served one.
    assert not Path(first.uri).exists() and Path(second.uri).is_dir()


def test_a_rolled_back_model_is_neither_pushed_again_nor_reported_as_served(push, store, tmp_path):
    push()
    bad = push()
    model_versions.roll_back(str(tmp_path / "served"))
    recorded = store(bad)
    push_cache.invalidate(recorded)
    assert Path(bad.uri).is_dir()
    (artifact,) = recorded.get_artifacts()
    collected = results.collect({"Pusher": {"pushed_model": artifact}})
    version = int(bad.get_string_custom_property("pushed_version"))
    assert (collected.pushed_version, collected.serving_dir, collected.rolled_back) == (None, None, version)
    assert collected.refused
    assert f"rollback CONFIG --to {version}" in collected.refusals[0].text
    model_versions.roll_back(str(tmp_path / "served"), version)
    collected = results.collect({"Pusher": {"pushed_model": artifact}})
    assert collected.pushed_version == version and not collected.refused
