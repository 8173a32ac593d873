"""What ML Metadata knows of runs: which executions and artifacts belong to one. Needs neither TFX nor TensorFlow."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from ml_metadata import metadata_store
from ml_metadata.proto import metadata_store_pb2

RUN_CONTEXT = "pipeline_run"
# Of an execution that failed because a gate refused what it was given: the gate's own words.
REFUSAL = "refusal"

Outputs = dict[str, dict[str, metadata_store_pb2.Artifact]]


def open_store(path: Path) -> metadata_store.MetadataStore:
    """Opens the SQLite file of a pipeline; it is made where there is none."""
    connection = metadata_store_pb2.ConnectionConfig()
    connection.sqlite.filename_uri = str(path)
    return metadata_store.MetadataStore(connection)


def executions_of_run(
    store: metadata_store.MetadataStore, context_id: int
) -> list[tuple[str, metadata_store_pb2.Execution]]:
    """The node and the execution of all that a run did, in the order in which it was begun."""
    executions = sorted(store.get_executions_by_context(context_id), key=lambda execution: execution.id)
    return [(_node_of(store, execution), execution) for execution in executions]


def _node_of(store: metadata_store.MetadataStore, execution: metadata_store_pb2.Execution) -> str:
    """Its name: `pipeline.node` is that of the node's context; only its type would be the same for two of a kind."""
    for context in store.get_contexts_by_execution(execution.id):
        if context.name.count(".") and context.type != RUN_CONTEXT:
            return str(context.name).rsplit(".", 1)[-1]
    return str(store.get_execution_types_by_id([execution.type_id])[0].name).rsplit(".", 1)[-1]


def outputs_of_run(store: metadata_store.MetadataStore, run_id: str) -> Outputs:
    """The artifacts that a run gave or took from the cache: node → output name → artifact."""
    context = store.get_context_by_type_and_name(RUN_CONTEXT, run_id)
    return outputs_of(store, executions_of_run(store, context.id)) if context is not None else {}


def outputs_of(
    store: metadata_store.MetadataStore, executions: Iterable[tuple[str, metadata_store_pb2.Execution]]
) -> Outputs:
    """The artifacts of these executions: node → output name → artifact."""
    found: Outputs = {}
    node_of = {execution.id: node for node, execution in executions}
    kinds = metadata_store_pb2.Event
    events = [
        event
        for event in store.get_events_by_execution_ids(list(node_of))
        if event.type in (kinds.OUTPUT, kinds.DECLARED_OUTPUT)
    ]
    artifacts = {artifact.id: artifact for artifact in store.get_artifacts_by_id([e.artifact_id for e in events])}
    for event in events:
        key = next((step.key for step in event.path.steps if step.key), "")
        found.setdefault(node_of[event.execution_id], {})[key] = artifacts[event.artifact_id]
    return found
