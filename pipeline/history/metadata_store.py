"""Executions and artifacts of runs in ML Metadata. Imports neither TFX nor TensorFlow."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from ml_metadata import metadata_store
from ml_metadata.proto import metadata_store_pb2

RUN_CONTEXT = "pipeline_run"
NODE_CONTEXT = "node"
# Property of a failed execution: the message of the gate that refused, or of the check before the node.
REFUSAL = "refusal"
MONITORING_REFERENCE = "components.MonitoringReference"

Executions = list[tuple[str, metadata_store_pb2.Execution]]
Outputs = dict[str, dict[str, metadata_store_pb2.Artifact]]


def open_store(path: Path, *, read_only: bool = False) -> metadata_store.MetadataStore:
    """Opens the SQLite file of a pipeline; creates it if it is missing, unless it is opened read-only."""
    connection = metadata_store_pb2.ConnectionConfig()
    connection.sqlite.filename_uri = str(path)
    if read_only:
        connection.sqlite.connection_mode = metadata_store_pb2.SqliteMetadataSourceConfig.READONLY
    return metadata_store.MetadataStore(connection)


def node_names(store: metadata_store.MetadataStore) -> dict[int, str]:
    """The node of every execution, by id; the context of a node is named `pipeline.node`."""
    return {
        execution.id: str(context.name).rsplit(".", 1)[-1]
        for context in store.get_contexts_by_type(NODE_CONTEXT)
        for execution in store.get_executions_by_context(context.id)
    }


def executions_of(store: metadata_store.MetadataStore, run_context: int, nodes: dict[int, str]) -> Executions:
    """The executions of a run, in order of their start.

    Args:
      store: The metadata store.
      run_context: Id of the run's context.
      nodes: From `node_names`.
    """
    executions = sorted(store.get_executions_by_context(run_context), key=lambda execution: execution.id)
    # A running pipeline may have started further executions since the nodes were read.
    return [(nodes[execution.id], execution) for execution in executions if execution.id in nodes]


def outputs_of_run(store: metadata_store.MetadataStore, run_id: str) -> Outputs:
    """The artifacts that a run produced or took from the cache: node → output name → artifact."""
    context = store.get_context_by_type_and_name(RUN_CONTEXT, run_id)
    return outputs_of(store, executions_of(store, context.id, node_names(store))) if context is not None else {}


def outputs_of(store: metadata_store.MetadataStore, executions: Executions) -> Outputs:
    """The artifacts of these executions: node → output name → artifact."""
    outputs: Outputs = {}
    node_of = {execution.id: node for node, execution in executions}
    events = list(_output_events(store, node_of))
    artifacts = {artifact.id: artifact for artifact in store.get_artifacts_by_id([e.artifact_id for e in events])}
    for event in events:
        key = next((step.key for step in event.path.steps if step.key), "")
        outputs.setdefault(node_of[event.execution_id], {})[key] = artifacts[event.artifact_id]
    return outputs


def _output_events(
    store: metadata_store.MetadataStore, execution_ids: Iterable[int]
) -> Iterable[metadata_store_pb2.Event]:
    output_types = (metadata_store_pb2.Event.OUTPUT, metadata_store_pb2.Event.DECLARED_OUTPUT)
    for event in store.get_events_by_execution_ids(list(execution_ids)):
        if event.type in output_types:
            yield event
