"""The runs of a pipeline, read from ML Metadata and the artifacts.

Requires neither TFX nor, unless artifacts are remote, TensorFlow: listing runs takes less than a second.
"""

from __future__ import annotations

import contextlib
import functools
import json
import math
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, NamedTuple, TypeVar

from ml_metadata import errors
from ml_metadata.proto import metadata_store_pb2

from components.data_audit.artifact import AuditSummary
from components.evaluator.artifact import EvaluationResult, GateReport
from components.grad_cam.artifact import FaithfulnessReport
from components.image_example_gen.artifact import Action, SplitCounts, Summary
from components.monitoring_reference.artifact import VERSION
from components.serving_validator.artifact import ServingCheckReport
from components.stored import IncompatibleArtifactError, Stored
from pipeline.config.messages import ConfigError
from pipeline.config.sections import PipelineConfig
from pipeline.history import metadata_store
from pipeline.nodes import DATA_AUDIT
from trainer_module import features, locations, model_versions
from trainer_module.error_text import did_you_mean
from trainer_module.evaluation.spec import MetricSpec
from trainer_module.locations import join

_States = metadata_store_pb2.Execution
_FAILED_QUERY = re.compile(r"executing query: (.+?) query:")
_VERSION = re.compile(r"[0-9]{1,18}")
_LAST = re.compile(r"last(?:-(\d{1,9}))?")
# Sections of the configuration that are parameters of nodes: node, parameter, key in its JSON, section.
_SECTIONS_OF_NODES = (
    ("ImageExampleGen", "options", "data", "data"),
    ("ExampleValidator", "options", None, "validation"),
    ("Evaluator", "options", None, "evaluation"),
    ("ServingValidator", "limits", None, "serving"),
)

_Stored = TypeVar("_Stored", bound=Stored)


class Verdict(NamedTuple):
    """The outcome of a run.

    Attributes:
      status: `pushed`, or `rolled back` if that was undone later; `refused` by a gate; `failed`; `unfinished` if it is
        running or was killed; `stopped` if it was configured to end before Pusher.
      node: The first gate that refused, the node that failed or is running, or the last one that ran.
    """

    status: Literal["pushed", "rolled back", "refused", "failed", "unfinished", "stopped"]
    node: str

    def __str__(self) -> str:
        word = {"refused": "by", "failed": "at", "unfinished": "at", "stopped": "after"}.get(self.status)
        return f"{self.status} {word} {self.node}" if word else self.status


@dataclass(frozen=True)
class Run:
    """One run; values are None or empty if a node has not run or its artifacts are gone.

    Attributes:
      number: 1 for the oldest.
      id: ISO time of its start.
      verdict: Its outcome.
      version: The pushed version; that of an earlier run if the push came from the cache.
      examples: Number of images.
      splits: Number of examples per split.
      fingerprint: Digest of the paths, sizes and modification times of the files.
      span: The newest span that was read.
      corrections: Number of images by action of `data.corrections`.
      audit: The counts of DataAudit.
      evaluation: The metrics of Evaluator.
      reasons: The reasons of the gates that refused, one line each.
      settings: The part of the configuration that nodes have stored: `section.key` → value.
    """

    number: int
    id: str
    verdict: Verdict
    version: int | None = None
    examples: int | None = None
    splits: dict[str, SplitCounts] = field(default_factory=dict)
    fingerprint: str | None = None
    span: int | None = None
    corrections: dict[Action, int] = field(default_factory=dict)
    audit: AuditSummary | None = None
    evaluation: EvaluationResult | None = None
    reasons: list[str] = field(default_factory=list)
    settings: dict[str, Any] = field(default_factory=dict)

    @property
    def main_metric(self) -> MetricSpec | None:
        """The metric that runs are ranked by; None if the model was not evaluated."""
        return self.evaluation.main_metric if self.evaluation else None

    @property
    def main_value(self) -> float:
        """Its value over all examples; NaN if it is undefined or the model was not evaluated."""
        return self.evaluation.overall.value(self.evaluation.main_metric.name) if self.evaluation else math.nan


class NodeExecution(NamedTuple):
    """The execution of a node in a run.

    Attributes:
      id: Of the execution; also the name of the folder of every artifact that it writes.
      name: Of the node.
      state: `running`, `complete`, `cached`, `refused` (by a gate that ends the run) or `failed`.
      seconds: Wall time from its start to its last change.
      started: Unix time of its start, seconds.
    """

    id: int
    name: str
    state: Literal["running", "complete", "cached", "refused", "failed"]
    seconds: float
    started: float


class Runs:
    """The runs of a pipeline; the artifacts of a run are read on demand."""

    def __init__(self, path: Path) -> None:
        """Opens the run history.

        Args:
          path: ML Metadata's SQLite file.

        Raises:
          ConfigError: If it cannot be read.
        """
        self._path = path
        with readable_errors(path):
            self._store = metadata_store.open_store(path, read_only=True)
            contexts = self._store.get_contexts_by_type(metadata_store.RUN_CONTEXT)
            self._contexts = sorted(contexts, key=lambda context: context.id)
            self._nodes = metadata_store.node_names(self._store)

    def __len__(self) -> int:
        return len(self._contexts)

    def newest(self, num: int) -> list[Run]:
        """Returns the last runs, the newest first."""
        return [self._read(number) for number in range(len(self), max(0, len(self) - num), -1)]

    def find(self, name: str) -> Run:
        """Finds a run.

        Args:
          name: Its number, `last`, `last-1` (the one before) and so on, a pushed version, or the beginning of its id.

        Raises:
          ConfigError: If there is no such run; the message lists the known ones.
        """
        return self._read(self._number_of(name))

    def nodes(self, number: int) -> list[NodeExecution]:
        """Returns the nodes of a run in the order of their start."""
        return [_node_execution(node, execution) for node, execution in self._executions(number)]

    def outputs(self, number: int) -> metadata_store.Outputs:
        """Returns the artifacts of a run: node → output name → artifact."""
        return self._done(number)[1]

    def newest_outputs(self, node: str) -> dict[str, metadata_store_pb2.Artifact]:
        """Returns the artifacts of a node in the newest run in which it has any; empty without such a run."""
        for number in range(len(self), 0, -1):
            if outputs := self.outputs(number).get(node):
                return outputs
        return {}

    def parameter(self, node: str, name: str) -> str | None:
        """Returns a parameter of a node in the newest run that has it; None without such a run."""
        for number in range(len(self), 0, -1):
            for executed, execution in self._executions(number):
                if executed == node and name in execution.custom_properties:
                    return str(execution.custom_properties[name].string_value)
        return None

    def outdated_report_note(self) -> str:
        """Returns a note if the last report does not belong to the last run; otherwise an empty string."""
        newest, reported = len(self), len(self)
        while reported and "report" not in self._done(reported)[1].get("ModelReport", {}):
            reported -= 1
        if reported == newest:
            return ""
        known = f"run {self._title(reported)}" if reported else "an unknown run"
        verdict = _verdict(*self._done(newest))
        return f"the report belongs to {known}; the last run, {self._title(newest)}, has none: {verdict}."

    def monitoring_reference(self, version: int) -> str | None:
        """Returns the location of the reference that a run stored for a pushed version; None if there is none."""
        with readable_errors(self._path):
            artifacts = self._store.get_artifacts_by_type(metadata_store.MONITORING_REFERENCE)
        for artifact in sorted(artifacts, key=lambda artifact: -artifact.id):
            if artifact.custom_properties[VERSION].int_value == version:
                return str(artifact.uri)
        return None

    def _title(self, number: int) -> str:
        return f"{number} ({start_time(self._contexts[number - 1].name)})"

    def _number_of(self, name: str) -> int:
        if not name:
            raise ConfigError("The name of the run is empty. Use its number, `last`, a pushed version or its id.")
        if match := _LAST.fullmatch(name):
            back = int(match[1] or 0)
            if back < len(self):
                return len(self) - back
        numbers = range(1, len(self) + 1)
        if name in map(str, numbers):
            return int(name)
        ids = [context.name for context in self._contexts]
        # The first run of a version pushed it; the others took it from the cache.
        versions = {str(version): number for number in reversed(numbers) if (version := _version(*self._done(number)))}
        if name in versions:
            return versions[name]
        started = [number for number in numbers if ids[number - 1].startswith(name)]
        if len(started) == 1:
            return started[0]
        if started:
            raise ConfigError(
                f"{len(started)} runs started at {name}: use more of the id, or the number ({_in_words(started)})."
            )
        raise ConfigError(
            f"There is no run `{name}`{did_you_mean(name, [*versions, *ids, 'last']) or '.'} Known runs: "
            f"{_in_words(numbers)}. `last`, `last-1` and so on, pushed versions and ids are accepted too; "
            "`tfx-vision history` lists all."
        )

    def _executions(self, number: int) -> metadata_store.Executions:
        with readable_errors(self._path):
            return metadata_store.executions_of(self._store, self._contexts[number - 1].id, self._nodes)

    def _done(self, number: int) -> tuple[metadata_store.Executions, metadata_store.Outputs]:
        executions = self._executions(number)
        with readable_errors(self._path):
            return executions, metadata_store.outputs_of(self._store, executions)

    def _read(self, number: int) -> Run:
        return _read_run(number, self._contexts[number - 1].name, *self._done(number))


def start_time(id_: str) -> str:
    """Formats the start of a run: `2026-11-22 03:55`."""
    return id_[:16].replace("T", " ")


def read(config: PipelineConfig) -> Runs:
    """Opens the run history of a pipeline.

    Raises:
      ConfigError: If there are no runs, or the history cannot be read.
    """
    path = config.metadata_path
    if not path.is_file():
        raise ConfigError(
            f"{config.pipeline.name} has no runs yet: {path} does not exist. `tfx-vision run` starts one."
        )
    return Runs(path)


# --- Reading one run --------------------------------------------------------------------------------------------


@contextlib.contextmanager
def readable_errors(path: Path) -> Iterator[None]:
    """Reports errors of the run history without the failed SQL query."""
    try:
        yield
    except (errors.StatusError, RuntimeError) as error:  # RuntimeError if the file cannot be opened
        match = _FAILED_QUERY.search(str(error))
        cause = match[1] if match else str(error).rstrip(".")
        # Missing tables are created, but not if the file is opened for reading only.
        cause = "no such table: it is not a run history, or an empty one" if "readonly" in cause else cause
        raise ConfigError(
            f"{path} cannot be read: {cause}. If it is damaged, restore a copy, or move it away: the next `tfx-vision "
            "run` starts a new history."
        ) from None


def _read_run(number: int, id_: str, executions: metadata_store.Executions, outputs: metadata_store.Outputs) -> Run:
    """Reads the artifacts of a run; those that are damaged, or that another version wrote, are ignored."""
    parameters = {node: execution.custom_properties for node, execution in executions}
    fingerprint = _parameter(parameters, "ImageExampleGen", "options").get("fingerprint")

    def read_output(kind: type[_Stored], node: str, output: str) -> _Stored | None:
        artifact = outputs.get(node, {}).get(output)
        return _artifact(kind, artifact.uri) if artifact else None

    summary = read_output(Summary, "ImageExampleGen", "quarantine")
    gates = read_output(GateReport, "Evaluator", "evaluation")
    served = read_output(ServingCheckReport, "ServingValidator", "blessing")
    faithfulness = read_output(FaithfulnessReport, "GradCam", "explanations")
    settings = _settings(parameters)
    if model_run := outputs.get("Trainer", {}).get("model_run"):
        settings |= _flat(_table_in(_read_text(join(model_run.uri, features.OPTIONS_FILE))))
    return Run(
        number=number,
        id=id_,
        verdict=_verdict(executions, outputs),
        version=_version(executions, outputs),
        examples=summary.examples if summary else None,
        splits=summary.splits if summary else {},
        fingerprint=fingerprint if isinstance(fingerprint, str) else None,
        span=summary.span if summary else None,
        corrections=summary.corrections if summary else {},
        audit=read_output(AuditSummary, DATA_AUDIT, "audit"),
        evaluation=read_output(EvaluationResult, "Evaluator", "evaluation"),
        reasons=_reasons(executions, gates, served, faithfulness),
        settings=settings,
    )


def _node_execution(node: str, execution: metadata_store_pb2.Execution) -> NodeExecution:
    started, changed = execution.create_time_since_epoch / 1000, execution.last_update_time_since_epoch / 1000
    return NodeExecution(execution.id, node, _node_state(execution), max(0.0, changed - started), started)


def _node_state(
    execution: metadata_store_pb2.Execution,
) -> Literal["running", "complete", "cached", "refused", "failed"]:
    state = execution.last_known_state
    if state == _States.CACHED:
        return "cached"
    if state in (_States.RUNNING, _States.NEW):
        return "running"
    if state == _States.COMPLETE:
        return "complete"
    return "refused" if metadata_store.REFUSAL in execution.custom_properties else "failed"


def _verdict(executions: metadata_store.Executions, outputs: metadata_store.Outputs) -> Verdict:
    if not executions:
        return Verdict("unfinished", "the start")
    for node, execution in executions:
        if execution.last_known_state == _States.FAILED:
            return Verdict("refused" if metadata_store.REFUSAL in execution.custom_properties else "failed", node)
        if execution.last_known_state in (_States.RUNNING, _States.NEW):
            return Verdict("unfinished", node)
    for node, output in (("Evaluator", "blessing"), ("ServingValidator", "blessing"), ("GradCam", "explanations")):
        blessing = outputs.get(node, {}).get(output)
        # GradCam of earlier versions had no gate.
        verdict = blessing.custom_properties if blessing else {}
        if "blessed" in verdict and not verdict["blessed"].int_value:
            return Verdict("refused", node)
    pushed = outputs.get("Pusher", {}).get("pushed_model")
    if pushed and pushed.custom_properties["pushed"].int_value:
        destination = pushed.custom_properties["pushed_destination"].string_value
        return Verdict("rolled back" if model_versions.is_withdrawn(destination) else "pushed", "Pusher")
    return Verdict("stopped", executions[-1][0])


def _version(executions: metadata_store.Executions, outputs: metadata_store.Outputs) -> int | None:
    if _verdict(executions, outputs).status not in ("pushed", "rolled back"):
        return None
    version = outputs["Pusher"]["pushed_model"].custom_properties["pushed_version"].string_value
    return int(version) if _VERSION.fullmatch(version) else None


def _reasons(
    executions: metadata_store.Executions,
    gates: GateReport | None,
    served: ServingCheckReport | None,
    faithfulness: FaithfulnessReport | None,
) -> list[str]:
    lines = []
    for node, execution in executions:
        if metadata_store.REFUSAL in execution.custom_properties:
            lines += [
                f"{node}: {line}"
                for line in execution.custom_properties[metadata_store.REFUSAL].string_value.splitlines()
            ]
    lines += [f"Evaluator: {gate.subject} {gate.detail}" for gate in (gates.failures if gates else ())]
    lines += [f"ServingValidator: {check.name}: {check.detail}" for check in (served.failures() if served else ())]
    return lines + [f"GradCam: {result.detail}" for result in (faithfulness.failures() if faithfulness else ())]


def _settings(parameters: Mapping[str, Any]) -> dict[str, Any]:
    settings: dict[str, Any] = {}
    for node, parameter, key, section in _SECTIONS_OF_NODES:
        options = _parameter(parameters, node, parameter)
        values = options.get(key) if key else options
        if isinstance(values, dict):
            settings |= _flat(values, f"{section}.")
    return settings


def _parameter(parameters: Mapping[str, Any], node: str, name: str) -> dict[str, Any]:
    """Parses a parameter of a node that is a JSON object; empty if there is none."""
    return _table_in(parameters[node][name].string_value) if node in parameters else {}


def _flat(table: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """`{"training": {"epochs": 3}}` → `{"training.epochs": 3}`."""
    flat: dict[str, Any] = {}
    for key, value in table.items():
        flat |= _flat(value, f"{prefix}{key}.") if isinstance(value, dict) and value else {f"{prefix}{key}": value}
    return flat


def _read_text(location: str) -> str | None:
    try:
        return locations.read(location).decode()
    except (OSError, UnicodeDecodeError) as error:
        if locations.is_remote(location) and not isinstance(error, FileNotFoundError):
            raise ConfigError(f"{location} cannot be read: {error}") from None
        return None


def _table_in(text: str | None) -> dict[str, Any]:
    """Parses a JSON object; empty for any other text. NaN and infinite numbers become None."""
    try:
        table = json.loads(
            text or "{}", parse_constant=lambda _: None, parse_float=lambda digits: finite(float(digits))
        )
    except (ValueError, RecursionError):
        return {}
    return table if isinstance(table, dict) else {}


# Runs that take a result from the cache read the same file, and are mostly consecutive.
@functools.lru_cache(maxsize=8)
def _artifact(kind: type[_Stored], uri: str) -> _Stored | None:
    """Reads the file of an artifact; None if it is missing, damaged, or another version wrote it."""
    try:
        return kind.read(uri)
    except IncompatibleArtifactError:
        return None
    except OSError as error:
        if locations.is_remote(uri) and not isinstance(error, FileNotFoundError):
            raise ConfigError(f"{uri} cannot be read: {error}") from None
        return None


def finite(value: float) -> float | None:
    """Returns the value; None if it is NaN or infinite."""
    return value if math.isfinite(value) else None


def _in_words(numbers: Sequence[int]) -> str:
    return f"{numbers[0]} to {numbers[-1]}" if len(numbers) > 2 else " and ".join(map(str, numbers)) or "none yet"
