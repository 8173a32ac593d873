"""One `tfx-vision run`: prepare the data, run the nodes, read back what they left."""

from __future__ import annotations

import contextlib
import dataclasses
import datetime
import fcntl
import logging
import math
import os
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

from components.evaluator.options import LABEL_GROUP, could_name
from components.image_example_gen import layout as layouts
from pipeline.config.sections import ConfigError, PipelineConfig
from pipeline.nodes import NODE_IDS
from trainer_module import locations
from trainer_module.error_text import did_you_mean

if TYPE_CHECKING:
    from components.example_validator.executor import AnomaliesFoundError
    from pipeline.execution.node_runner import NodeResult
    from pipeline.execution.results import Refusal, RunResult


class AlreadyRunningError(Exception):
    """Another process runs this pipeline."""


@dataclass
class Outcome:
    """What became of a run.

    Attributes:
      nodes: In the order in which they ran.
      result: What they left; None if nothing could be read back.
      error: The failed node's name and cause, or None.
      refusal: What ExampleValidator has against the pictures, or None; nothing behind it has run.
      log_path: Everything that TFX, Beam and TensorFlow said.
    """

    log_path: Path
    nodes: list[NodeResult] = field(default_factory=list)
    result: RunResult | None = None
    error: tuple[str, BaseException] | None = None
    refusal: AnomaliesFoundError | None = None

    @property
    def status(self) -> str:
        """`done`, `refused` (by a gate) or `failed`."""
        if self.error is not None:
            return "failed"
        if self.refusal is not None or (self.result is not None and self.result.refused):
            return "refused"
        return "done"

    @property
    def refusals(self) -> list[Refusal]:
        """What any gate has against the pictures or the model."""
        from pipeline.execution import results

        found = results.of_pictures(self.refusal.findings) if self.refusal is not None else []
        return found + (self.result.refusals if self.result else [])

    @property
    def exit_code(self) -> int:
        """0 done, 1 failed, 3 refused."""
        return {"done": 0, "failed": 1, "refused": 3}[self.status]

    def as_json(self) -> dict[str, Any]:
        """The object that `--json` prints; a figure that does not exist is null."""
        result = self.result
        slices = result.slices if result else []

        def numbers(figures: dict[str, float]) -> dict[str, float | None]:
            return {name: None if math.isnan(value) else value for name, value in figures.items()}

        return {
            "status": self.status,
            "nodes": [{"id": node.id, "state": node.state, "seconds": round(node.seconds, 2)} for node in self.nodes],
            "tuning": result.tuning if result else None,
            "task": result.evaluation.task if result and result.evaluation else None,
            "metrics": numbers(slices[0].metrics) if slices else {},
            "classes": {name: numbers(figures) for name, figures in slices[0].per_class.items()} if slices else {},
            "confusion_matrix": slices[0].confusion if slices else [],
            "slices": {entry.name: numbers(entry.metrics) for entry in slices[1:]},
            "blessed": result.blessed if result else None,
            "servable": result.servable if result else None,
            "not_held": [rule.as_json() for rule in result.not_held] if result else [],
            "refusals": [refusal.as_json() for refusal in self.refusals],
            "pushed_version": result.pushed_version if result else None,
            "serving_dir": result.serving_dir if result else None,
            "report": result.report if result else None,
            "explanations": result.explanations if result else None,
            "faithfulness": {figure.name: figure.value for figure in result.faithfulness.figures}
            if result and result.faithfulness
            else {},
            "examples": result.data["examples"] if result and result.data else None,
            "span": result.data["span"] if result and result.data else None,
            "duplicates": result.data["duplicates"] if result and result.data else None,
            "drift": result.drift if result else None,
            "quarantined": result.quarantined if result else [],
            "log": str(self.log_path),
            "error": f"{self.error[0]}: {self.error[1]}" if self.error else None,
        }


def refuse_several_machines(config: PipelineConfig) -> None:
    """Refuses, before anything is looked at, what a run on one machine would wait for in vain.

    Raises:
      ConfigError: If the training is meant for several machines.
    """
    if config.training.distribution == "multi_worker":
        raise ConfigError(
            'training.distribution = "multi_worker" is for Trainers that a cluster starts on several machines; this '
            'run is on one: take "mirrored" for all its GPUs, or "none".'
        )


def prepare(config: PipelineConfig) -> layouts.Layout:
    """Writes a generated data set if need be, looks at the data, and checks what depends on it.

    Raises:
      DatasetError: If the data cannot be trained on.
      ConfigError: If the configuration names what the data do not have.
    """
    if config.data.source != "folder" and config.data.path is None:
        from pipeline.execution import generated_datasets

        generated_datasets.WRITERS[config.data.source](Path(config.data_location))
    layout = layouts.inspect(config.data_location, config.data.options())
    check_names(config, layout)
    return layout


def check_names(config: PipelineConfig, layout: layouts.Layout) -> None:
    """Compares the classes and slices that `[evaluation]` names with those of the data.

    Raises:
      ConfigError: If there is no such class or slice.
    """
    evaluation = config.evaluation
    if evaluation.label_groups and LABEL_GROUP in layout.columns:
        raise ConfigError(
            f"The table has a column `{LABEL_GROUP}`, as the slices of evaluation.label_groups are called. Give the "
            "column another name."
        )
    groups = (LABEL_GROUP,) if evaluation.label_groups else ()
    available = (*layouts.BUILT_IN_SLICE_NAMES, *layout.columns, *groups)
    measured = evaluation.measured_slices(layouts.BUILT_IN_SLICE_NAMES + layout.slice_columns)
    families = [entry if isinstance(entry, str) else ", ".join(entry) for entry in measured]

    def check(rule: str, kind: str, name: str, known: Sequence[str]) -> None:
        if name not in known:
            suggestion = did_you_mean(name, known) or f". The data have: {', '.join(known)}."
            raise ConfigError(f"evaluation.{rule}: unknown {kind} `{name}`{suggestion}")

    for entry in evaluation.slices or ():
        for name in (entry,) if isinstance(entry, str) else entry:
            check("slices", "slice", name, available)
    for group, members in evaluation.label_groups.items():
        for name in members:
            check(f"label_groups.{group}", "class", name, layout.classes)
    _check_explained(config, layout)
    for rule, bounds in evaluation.bound_rules().items():
        for name in {name for said in bounds.values() if isinstance(said, dict) for name in said}:
            if rule != "slice_thresholds":
                check(rule, "class", name, layout.classes)
            elif not could_name(name, measured):
                raise ConfigError(
                    f"evaluation.{rule}: `{name}` is no slice that is measured{did_you_mean(name, families) or '.'} "
                    f"Measured are: {', '.join(families)}; evaluation.slices says which, pairs of them included."
                )


def _check_explained(config: PipelineConfig, layout: layouts.Layout) -> None:
    """The same for `[grad_cam]`."""
    slices = (*layouts.BUILT_IN_SLICE_NAMES, *layout.columns)
    for name in config.grad_cam.slices or ():
        if name not in slices:
            suggestion = did_you_mean(name, slices) or f". The data have: {', '.join(slices)}."
            raise ConfigError(f"grad_cam.slices: unknown slice `{name}`{suggestion}")
    target = config.grad_cam.target
    targets = ("predicted", "true", *layout.classes)
    if target not in targets:
        suggestion = did_you_mean(target, targets) or f". The data have: {', '.join(layout.classes)}."
        raise ConfigError(f"grad_cam.target: unknown class `{target}`{suggestion}")


def execute(
    config: PipelineConfig,
    layout: layouts.Layout,
    *,
    from_node: str | None = None,
    to_node: str | None = None,
    on_node: Callable[[NodeResult], None] = lambda result: None,
) -> Outcome:
    """Runs the pipeline in this process; TFX is imported here.

    Args:
      config: The whole configuration.
      layout: From `prepare`.
      from_node: First node to run.
      to_node: Last node to run.
      on_node: Called as nodes start and end.

    Raises:
      ConfigError: If nothing lies between `from_node` and `to_node`, if the model does not fit the data, or if
        `pipeline.artifacts` cannot be used.
    """
    refuse_other_task(config, layout, to_node or NODE_IDS[-1])
    from pipeline import dag
    from pipeline.execution import artifact_store, node_runner, results
    from pipeline.history import metadata_store

    run_id = datetime.datetime.now().isoformat()
    outcome = Outcome(log_path=log_path(config))

    def note(result: NodeResult) -> None:
        if result.state != "running":
            outcome.nodes.append(result)
        on_node(result)

    artifact_store.claim(config)
    pipeline = dag.create_pipeline(config, layout)
    store = metadata_store.open_store(config.metadata_path)
    results.forget_old_pushes(store)
    try:
        node_runner.run(pipeline, run_id=run_id, from_node=from_node, to_node=to_node, on_node=note)
    except node_runner.PicturesRefusedError as error:
        outcome.refusal = error.cause
    except node_runner.NodeFailedError as error:
        outcome.error = (error.node_id, error.cause)
    except node_runner.NothingToRunError:
        raise ConfigError(f"--from {from_node} does not lead to --to {to_node}: nothing would run.") from None
    outcome.result = results.collect(metadata_store.outputs_of_run(store, run_id))
    if outcome.result.report:
        # The artifact stays where it is, one for every run; this is where people look for the last.
        newest = report_path(config)
        newest.with_suffix(".tmp").write_bytes(locations.read(outcome.result.report))
        newest.with_suffix(".tmp").replace(newest)
        outcome.result = dataclasses.replace(outcome.result, report=str(newest))
    return outcome


def refuse_other_task(config: PipelineConfig, layout: layouts.Layout, to_node: str) -> None:
    """Refuses a model that the data cannot train."""
    if NODE_IDS.index(to_node) < NODE_IDS.index("Transform"):
        return
    name = config.model.name
    if layout.with_masks and config.model.task != "segmentation":
        raise ConfigError(
            f"{layout.root} has masks, and model.name = {name} tells classes of whole pictures. Use one for masks "
            "(--set model.name=unet); --to ExampleValidator only reads, divides and checks these data."
        )
    if not layout.with_masks and config.model.task == "segmentation":
        raise ConfigError(
            f"model.name = {name} needs a mask for every picture, and {layout.root} has classes of whole pictures. "
            "Use another model (--set model.name=scratch_cnn), or bring images/ and masks/."
        )


def report_path(config: PipelineConfig) -> Path:
    """Where the report of the last run lies that came as far as ModelReport."""
    return config.run_dir / "report.html"


def log_path(config: PipelineConfig) -> Path:
    """Where the last run's log goes."""
    return config.run_dir / "run.log"


@contextlib.contextmanager
def quiet_output(path: Path) -> Iterator[tuple[IO[str], IO[str]]]:
    """Sends all that libraries write to standard output and error, C++ included, to a log file.

    Args:
      path: The log; an earlier one is overwritten.

    Yields:
      The real standard output and the real standard error, for what people should see.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    sys.stdout.flush()
    sys.stderr.flush()
    saved = os.dup(1), os.dup(2)
    handler: logging.Handler | None = None
    level = logging.getLogger().level
    with (
        path.open("w", encoding="utf-8") as log,
        os.fdopen(os.dup(saved[0]), "w") as out,
        os.fdopen(os.dup(saved[1]), "w") as err,
    ):
        try:
            os.dup2(log.fileno(), 1)
            os.dup2(log.fileno(), 2)
            handler = logging.StreamHandler(log)
            handler.setFormatter(logging.Formatter("%(asctime)s %(levelname).1s %(name)s: %(message)s"))
            logging.getLogger().addHandler(handler)
            logging.getLogger().setLevel(logging.INFO)
            yield out, err
        finally:
            sys.stdout.flush()
            sys.stderr.flush()
            if handler:
                logging.getLogger().removeHandler(handler)
            logging.getLogger().setLevel(level)
            os.dup2(saved[0], 1)
            os.dup2(saved[1], 2)
            for descriptor in saved:
                os.close(descriptor)


@contextlib.contextmanager
def only_run(run_dir: Path) -> Iterator[None]:
    """Keeps every other run of this pipeline out: its metadata store, data and log serve one at a time.

    Raises:
      AlreadyRunningError: If there is one.
    """
    run_dir.mkdir(parents=True, exist_ok=True)
    with (run_dir / ".lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise AlreadyRunningError(
                f"Another run uses {run_dir}. Wait for it to end, or give this one another name "
                "(--set pipeline.name=NAME)."
            ) from None
        yield
