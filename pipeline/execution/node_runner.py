"""Runs the DAG in this process, node by node, and reports the result of each."""

from __future__ import annotations

import contextlib
import gc
import logging
import os
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Literal, NamedTuple

from ml_metadata.proto import metadata_store_pb2
from tfx.dsl.compiler import compiler, constants
from tfx.orchestration import metadata
from tfx.orchestration import pipeline as tfx_pipeline
from tfx.orchestration.local import runner_utils
from tfx.orchestration.portable import launcher, partial_run_utils, runtime_parameter_utils
from tfx.orchestration.portable.mlmd import context_lib, execution_lib
from tfx.proto.orchestration import pipeline_pb2

from components.example_validator.findings import AnomaliesFoundError
from pipeline.history.metadata_store import REFUSAL, RUN_CONTEXT

NodeState = Literal["running", "complete", "cached", "skipped", "refused", "failed"]


class NodeResult(NamedTuple):
    """The result of a node.

    Attributes:
      id: Name of the node.
      state: `running`, and in the end `complete` (the executor ran), `cached`, `skipped` (not requested), `refused` (by
        a gate; no later node runs) or `failed`.
      seconds: Wall time.
    """

    id: str
    state: NodeState
    seconds: float


class NothingToRunError(Exception):
    """There is no node between the first and the last requested one."""


class NodeRefusedError(Exception):
    """The check before a node refuses to run it; the message has one reason per line."""


class NodeFailedError(Exception):
    """The executor of a node, or the check before it, raised an exception, which is the cause."""

    def __init__(self, node_id: str, cause: BaseException) -> None:
        """Takes the name of the node and the exception."""
        super().__init__(f"{node_id}: {cause}")
        self.node_id = node_id
        self.cause = cause


def run(
    pipeline: tfx_pipeline.Pipeline,
    *,
    run_id: str,
    from_node: str | None = None,
    to_node: str | None = None,
    on_node: Callable[[NodeResult], None] = lambda result: None,
    before_node: Callable[[str], None] = lambda node_id: None,
) -> None:
    """Runs a pipeline like TFX's LocalDagRunner, and reports every node when it starts and ends.

    A node whose inputs, parameters and code have not changed since its last success is taken from the cache: after a
    failure, the same call resumes at the failed node.

    Args:
      pipeline: From `dag.create_pipeline`.
      run_id: Name of this run in ML Metadata.
      from_node: First node to run; the outputs of earlier nodes are those of the last run.
      to_node: Last node to run.
      on_node: Called with state `running` before every node, and with the result after it.
      before_node: Called before every node that is not skipped, after `on_node`; a NodeRefusedError that it raises
        refuses the node, and any other exception fails it.

    Raises:
      NothingToRunError: If no node lies between `from_node` and `to_node`.
      AnomaliesFoundError: If ExampleValidator refuses the images; later nodes do not run.
      NodeRefusedError: If `before_node` refuses a node, which does not run; neither do later ones.
      NodeFailedError: If a node fails; later nodes do not run.
    """
    let_workers_find_python()
    compiled = compiler.Compiler().compile(pipeline)
    runtime_parameter_utils.substitute_runtime_parameter(compiled, {constants.PIPELINE_RUN_ID_PARAMETER_NAME: run_id})
    deployment = runner_utils.extract_local_deployment_config(compiled)
    connection_kind = deployment.metadata_connection_config.WhichOneof("connection_config")
    connection = getattr(deployment.metadata_connection_config, connection_kind)
    if from_node or to_node:
        partial_run_utils.mark_pipeline(
            compiled, from_nodes=[from_node] if from_node else None, to_nodes=[to_node] if to_node else None
        )
        if all(entry.pipeline_node.execution_options.HasField("skip") for entry in compiled.nodes):
            raise NothingToRunError
    _close_abandoned_executions(connection)
    with _older_objects_kept():
        for node in (entry.pipeline_node for entry in compiled.nodes):
            on_node(_run_node(node, compiled, deployment, connection, on_node, before_node))


@contextlib.contextmanager
def _older_objects_kept() -> Iterator[None]:
    """Keeps garbage collection from examining the objects that exist already, mostly those of imported modules.

    There are 700,000 with TensorFlow and TFX, and every full collection would take as long as 2,000 small images.
    """
    gc.freeze()
    try:
        yield
    finally:
        gc.unfreeze()


def let_workers_find_python() -> None:
    """Puts the folder of this interpreter first on PATH: Beam's worker pools start the `python` of PATH."""
    folder, path = str(Path(sys.executable).parent), os.environ.get("PATH", "")
    if path.partition(os.pathsep)[0] != folder:
        os.environ["PATH"] = f"{folder}{os.pathsep}{path}"


def _run_node(
    node: pipeline_pb2.PipelineNode,
    compiled: pipeline_pb2.Pipeline,
    deployment: pipeline_pb2.IntermediateDeploymentConfig,
    connection: metadata_store_pb2.ConnectionConfig,
    on_node: Callable[[NodeResult], None],
    before_node: Callable[[str], None],
) -> NodeResult:
    node_id = node.node_info.id
    if node.execution_options.HasField("skip"):
        return NodeResult(node_id, "skipped", 0.0)
    on_node(NodeResult(node_id, "running", 0.0))
    start = time.monotonic()
    try:
        if node.execution_options.run.perform_snapshot:
            with metadata.Metadata(connection) as handle:
                partial_run_utils.snapshot(handle, compiled)
        # After the snapshot, which brings the outputs of earlier nodes into this run.
        before_node(node_id)
        info = launcher.Launcher(
            pipeline_node=node,
            mlmd_connection=metadata.Metadata(connection),
            pipeline_info=compiled.pipeline_info,
            pipeline_runtime_spec=compiled.runtime_spec,
            executor_spec=runner_utils.extract_executor_spec(deployment, node_id),
            custom_driver_spec=runner_utils.extract_custom_driver_spec(deployment, node_id),
        ).launch()
        state = _state_of(connection, info.execution_id if info else None)
    except NodeRefusedError as error:
        logging.error("%s refused: %s", node_id, error)
        _store_refused_execution(connection, node, str(error))
        on_node(NodeResult(node_id, "refused", time.monotonic() - start))
        raise
    except AnomaliesFoundError as error:
        logging.error("%s: %s", node_id, error)
        _store_refusal(connection, compiled.runtime_spec.pipeline_run_id.field_value.string_value, error)
        on_node(NodeResult(node_id, "refused", time.monotonic() - start))
        raise
    except Exception as error:
        logging.exception("%s failed.", node_id)
        on_node(NodeResult(node_id, "failed", time.monotonic() - start))
        raise NodeFailedError(node_id, error) from error
    return NodeResult(node_id, state, time.monotonic() - start)


def _state_of(connection: metadata_store_pb2.ConnectionConfig, execution_id: int | None) -> NodeState:
    """Reads the state from ML Metadata: the launcher hides a failed input resolution."""
    if execution_id is None:
        return "complete"
    with metadata.Metadata(connection) as handle:
        (execution,) = handle.store.get_executions_by_id([execution_id])
    states = metadata_store_pb2.Execution
    if execution.last_known_state == states.CACHED:
        return "cached"
    if execution.last_known_state == states.COMPLETE:
        return "complete"
    raise RuntimeError(
        "its inputs do not exist: the nodes before it have not run for this configuration. Run again without --from."
    )


def _store_refused_execution(
    connection: metadata_store_pb2.ConnectionConfig, node: pipeline_pb2.PipelineNode, reasons: str
) -> None:
    """Stores an execution of a node that was refused before it ran, so that the run history has the reasons."""
    with metadata.Metadata(connection) as handle:
        execution = execution_lib.prepare_execution(handle, node.node_info.type, metadata_store_pb2.Execution.FAILED)
        execution.custom_properties[REFUSAL].string_value = reasons
        execution_lib.put_execution(handle, execution, context_lib.prepare_contexts(handle, node.contexts))


def _store_refusal(connection: metadata_store_pb2.ConnectionConfig, run_id: str, error: AnomaliesFoundError) -> None:
    """Stores the refusal with the newest execution of the run: for ML Metadata, it is only a failure."""
    with metadata.Metadata(connection) as handle:
        context = handle.store.get_context_by_type_and_name(RUN_CONTEXT, run_id)
        execution = max(handle.store.get_executions_by_context(context.id), key=lambda execution: execution.id)
        execution.custom_properties[REFUSAL].string_value = str(error)
        handle.store.put_executions([execution])


def _close_abandoned_executions(connection: metadata_store_pb2.ConnectionConfig) -> None:
    """Marks running executions as failed: only one run at a time uses this store, so they are those of a killed run."""
    with metadata.Metadata(connection) as handle:
        abandoned = [
            execution
            for execution in handle.store.get_executions()
            if execution.last_known_state == metadata_store_pb2.Execution.RUNNING
        ]
        for execution in abandoned:
            execution.last_known_state = metadata_store_pb2.Execution.FAILED
        if abandoned:
            handle.store.put_executions(abandoned)
