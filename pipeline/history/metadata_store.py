"""What ML Metadata knows of runs: which executions and artifacts belong to one. Needs neither TFX nor TensorFlow."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from ml_metadata import metadata_store
from ml_metadata.proto import metadata_store_pb2

RUN_CONTEXT = "pipeline_run"
NODE_CONTEXT = "node"
# Of an execution that failed because a gate refused what it was given: the gate's own words.
REFUSAL = "refusal"

Executions = list[tuple[str, metadata_store_pb2.Execution]]
Outputs = dict[str, dict[str, metadata_store_pb2.Artifact]]


def open_store(path: Path, *, read_only: bool = False) -> metadata_store.MetadataStore:
    """Opens the SQLite file of a pipeline; it is made where there is none, unless it is only read."""
    connection = metadata_store_pb2.ConnectionConfig()
    connection.sqlite.filename_uri = str(path)
    if read_only:
        connection.sqlite.connection_mode = metadata_store_pb2.SqliteMetadataSourceConfig.READONLY
    return metadata_store.MetadataStore(connection)


def node_names(store: metadata_store.MetadataStore) -> dict[int, str]:
    """The node of every execution; the context of a node is called `pipeline.node`."""
    return {
        execution.id: str(context.name).rsplit(".", 1)[-1]
        for context in store.get_contexts_by_type(NODE_CONTEXT)
        for execution in store.get_executions_by_context(context.id)
    }


def executions_of(store: metadata_store.MetadataStore, run_context: int, nodes: dict[int, str]) -> Executions:
    """What a run did, in the order in which it was begun.

    Args:
      store: The record.
      run_context: Id of the run's context.
      nodes: From `node_names`.
    """
    executions = sorted(store.get_executions_by_context(run_context), key=lambda execution: execution.id)
    # Of a run that goes on, some may have begun since the nodes were read.
    return [(nodes[execution.id], execution) for execution in executions if execution.id in nodes]


def outputs_of_run(store: metadata_store.MetadataStore, run_id: str) -> Outputs:
    """The artifacts that a run gave or took from the cache: node → output name → artifact."""
    context = store.get_context_by_type_and_name(RUN_CONTEXT, run_id)
    return outputs_of(store, executions_of(store, context.id, node_names(store))) if context is not None else {}


def outputs_of(store: metadata_store.MetadataStore, executions: Executions) -> Outputs:
    """The artifacts of these executions: node → output name → artifact."""
    found: Outputs = {}
    node_of = {execution.id: node for node, execution in executions}
    events = list(_output_events(store, node_of))
    artifacts = {artifact.id: artifact for artifact in store.get_artifacts_by_id([e.artifact_id for e in events])}
    for event in events:
        key = next((step.key for step in event.path.steps if step.key), "")
        found.setdefault(node_of[event.execution_id], {})[key] = artifacts[event.artifact_id]
    return found


def _output_events(
    store: metadata_store.MetadataStore, execution_ids: Iterable[int]
) -> Iterable[metadata_store_pb2.Event]:
    kinds = metadata_store_pb2.Event
    for event in store.get_events_by_execution_ids(list(execution_ids)):
        if event.type in (kinds.OUTPUT, kinds.DECLARED_OUTPUT):
            yield event
