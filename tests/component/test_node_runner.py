"""Checks before a node: a refusal or a failure ends the run there, and earlier nodes stay done."""

import gc

import pytest
from tfx.dsl.components.common.importer import Importer
from tfx.orchestration import metadata
from tfx.orchestration import pipeline as tfx_pipeline
from tfx.types import standard_artifacts

from pipeline.execution import node_runner
from pipeline.history import run_history


@pytest.fixture
def run(tmp_path):
    """Runs a pipeline of two nodes, and keeps their states."""
    path = tmp_path / "metadata.sqlite"

    def nodes():
        for name in ("First", "Pusher"):
            (tmp_path / name).mkdir(exist_ok=True)
            yield Importer(source_uri=str(tmp_path / name), artifact_type=standard_artifacts.Model).with_id(name)

    def run(before_node, **options):
        run.states = {}
        first, second = nodes()
        second.add_upstream_node(first)
        pipeline = tfx_pipeline.Pipeline(
            pipeline_name="pets",
            pipeline_root=str(tmp_path / "artifacts"),
            metadata_connection_config=metadata.sqlite_metadata_connection_config(str(path)),
            components=[first, second],
        )

        def on_node(result):
            run.states[result.id] = result.state

        node_runner.run(pipeline, on_node=on_node, before_node=before_node, **options)

    run.metadata_path = path
    return run


def test_a_refused_node_does_not_run(run):
    def refuse(node_id):
        if node_id == "Pusher":
            raise node_runner.NodeRefusedError("it is worse\nit changes all")

    with pytest.raises(node_runner.NodeRefusedError, match="it is worse"):
        run(refuse, run_id="run-1")
    assert run.states == {"First": "complete", "Pusher": "refused"}
    runs = run_history.Runs(run.metadata_path)
    refused = runs.find("last")
    assert str(refused.verdict) == "refused by Pusher"
    assert refused.reasons == ["Pusher: it is worse", "Pusher: it changes all"]
    assert [(node.name, node.state) for node in runs.nodes(1)] == [("First", "complete"), ("Pusher", "refused")]
    assert "has none: refused by Pusher" in runs.outdated_report_note()
    checked = []
    run(checked.append, run_id="run-2")
    assert checked == ["First", "Pusher"] and run.states["Pusher"] == "complete"
    assert str(run_history.Runs(run.metadata_path).find("last").verdict) == "stopped after Pusher"


def test_an_error_in_the_check_is_a_failure_of_the_node(run):
    def fail(node_id):
        if node_id == "Pusher":
            raise OSError("the log cannot be read")

    with pytest.raises(node_runner.NodeFailedError, match="Pusher: the log cannot be read"):
        run(fail, run_id="run-1")
    assert run.states == {"First": "complete", "Pusher": "failed"}


def test_skipped_nodes_are_not_checked(run):
    run(lambda node_id: None, run_id="run-1")
    checked = []
    run(checked.append, run_id="run-2", from_node="Pusher")
    assert checked == ["Pusher"] and run.states["First"] == "skipped"


def test_garbage_collection_skips_older_objects_only_during_a_run(run):
    frozen = []
    run(lambda node_id: frozen.append(gc.get_freeze_count()), run_id="run-1")
    assert len(frozen) == 2 and min(frozen) > 100_000
    assert gc.get_freeze_count() == 0
