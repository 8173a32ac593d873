"""The progress of the newest run of a pipeline: its nodes, and the epochs of a training that is running."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from components.model_report import training_curves
from components.model_report.charts import Chart
from components.model_report.reading import training_history
from pipeline.history.run_history import NodeExecution, Run, Runs
from pipeline.nodes import DATA_AUDIT, GRAD_CAM, NODE_IDS, TUNER
from pipeline.studio.pipelines import StudioPipeline
from trainer_module import tasks
from trainer_module.locations import join

_TRAINER, _MODEL_RUN = "Trainer", "model_run"
_OPTIONAL = (TUNER, GRAD_CAM, DATA_AUDIT)


@dataclass(frozen=True)
class NodeProgress:
    """One node.

    Attributes:
      name: Of the node.
      state: Its state; `pending` if it has not started, `interrupted` if its process has ended.
      seconds: Wall time; None if it has not started.
    """

    name: str
    state: Literal["pending", "running", "interrupted", "complete", "cached", "refused", "failed"]
    seconds: float | None = None


@dataclass(frozen=True)
class RunProgress:
    """The state of the newest run.

    Attributes:
      run: The run; None if there is none yet.
      is_running: Whether a process runs the pipeline.
      nodes: Those that have started, then those that are pending.
      epochs: Number of epochs that Trainer has finished.
      charts: Curves of these epochs.
    """

    run: Run | None
    is_running: bool
    nodes: Sequence[NodeProgress] = ()
    epochs: int = 0
    charts: Sequence[Chart] = ()

    @property
    def done(self) -> int:
        """Number of nodes that have ended."""
        return sum(node.state in ("complete", "cached", "refused", "failed") for node in self.nodes)


def read(pipeline: StudioPipeline) -> RunProgress:
    """Reads the newest run.

    Raises:
      ConfigError: If the run history cannot be read.
    """
    is_running = pipeline.is_running()
    if not pipeline.has_runs:
        return RunProgress(None, is_running)
    runs = pipeline.runs()
    if not len(runs):
        return RunProgress(None, is_running)
    run, executions = runs.newest(1)[0], runs.nodes(len(runs))
    history = _history(pipeline, runs, len(runs), executions)
    return RunProgress(
        run=run,
        is_running=is_running,
        nodes=_nodes(executions, is_running, _expected(runs, pipeline)),
        epochs=len(history),
        charts=curves(pipeline, history),
    )


def curves(pipeline: StudioPipeline, history: list[dict[str, str]]) -> list[Chart]:
    """Draws the curves of a training."""
    task = tasks.get(pipeline.config.task.name)
    return training_curves.curves(history, task.objectives, {})


def history_of(pipeline: StudioPipeline, runs: Runs, number: int) -> list[dict[str, str]]:
    """Reads the epochs of a run, one row per epoch; empty if it has none."""
    return _history(pipeline, runs, number, runs.nodes(number))


def _nodes(executions: Sequence[NodeExecution], is_running: bool, expected: Sequence[str]) -> list[NodeProgress]:
    nodes = []
    for execution in executions:
        if execution.state != "running":
            nodes.append(NodeProgress(execution.name, execution.state, execution.seconds))
        elif is_running:
            nodes.append(NodeProgress(execution.name, "running", max(0.0, time.time() - execution.started)))
        else:
            nodes.append(NodeProgress(execution.name, "interrupted", execution.seconds))
    ended = any(node.state in ("refused", "failed") for node in nodes)
    if is_running and not ended:
        started = {node.name for node in nodes}
        nodes += [NodeProgress(name, "pending") for name in expected if name not in started]
    return nodes


def _expected(runs: Runs, pipeline: StudioPipeline) -> list[str]:
    """Names of the nodes of a run: those of the runs so far, or those that the configuration enables."""
    earlier = {node.name for number in range(max(1, len(runs) - 3), len(runs)) for node in runs.nodes(number)}
    config = pipeline.config
    enabled = {TUNER: config.tuner.enabled, DATA_AUDIT: config.audit.enabled, GRAD_CAM: True}
    return [name for name in NODE_IDS if name in earlier or name not in _OPTIONAL or enabled[name]]


def _history(
    pipeline: StudioPipeline, runs: Runs, number: int, executions: Sequence[NodeExecution]
) -> list[dict[str, str]]:
    """Reads `history.csv`, which grows while Trainer runs; an artifact is recorded only when its node has ended."""
    artifact = runs.outputs(number).get(_TRAINER, {}).get(_MODEL_RUN)
    running = [node for node in executions if node.name == _TRAINER]
    if artifact is not None:
        uri = artifact.uri
    elif running:
        uri = join(pipeline.config.artifacts_location, _TRAINER, _MODEL_RUN, str(running[-1].id))
    else:
        return []
    try:
        return [row for row in training_history(uri) if row.get("epoch") is not None]
    except (OSError, UnicodeDecodeError):
        return []
