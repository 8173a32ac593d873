"""The runs of a pipeline, read from ML Metadata and the artifacts: a list of them, and what differs between two.

Nothing here needs TFX, nor TensorFlow unless artifacts lie in a store, so that it answers at once.
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

from components.evaluator.artifact import EvaluationResult, GateReport
from components.grad_cam.artifact import FaithfulnessReport
from components.image_example_gen.artifact import SplitCounts, Summary
from components.serving_validator.artifact import ServingCheckReport
from components.stored import IncompatibleArtifactError, Stored
from pipeline.config.messages import ConfigError
from pipeline.config.sections import PipelineConfig
from pipeline.history import metadata_store
from trainer_module import features, locations, model_versions
from trainer_module.error_text import did_you_mean
from trainer_module.evaluation.spec import MetricSpec
from trainer_module.locations import join

_States = metadata_store_pb2.Execution
_FAILED_QUERY = re.compile(r"executing query: (.+?) query:")
_VERSION = re.compile(r"[0-9]{1,18}")
_LAST = re.compile(r"last(?:-(\d{1,9}))?")
# Sections of the configuration that nodes have in their parameters: node, parameter, key in its JSON, section.
_SECTIONS_OF_NODES = (
    ("ImageExampleGen", "options", "data", "data"),
    ("ExampleValidator", "options", None, "validation"),
    ("Evaluator", "options", None, "evaluation"),
    ("ServingValidator", "limits", None, "serving"),
)

_Stored = TypeVar("_Stored", bound=Stored)


Row = Mapping[str, float]  # metric → value, and a count
Table = Mapping[str, Row]  # class or slice → row


class Verdict(NamedTuple):
    """What became of a run.

    Attributes:
      status: `pushed`, and perhaps `rolled back` since; `refused` by a gate; `failed`; `unfinished`, as it goes on or
        was killed; `stopped`, as it was asked to before Pusher.
      node: Where that was: the first gate that refused, the node that failed or runs, the last one that ran.
    """

    status: Literal["pushed", "rolled back", "refused", "failed", "unfinished", "stopped"]
    node: str

    def __str__(self) -> str:
        word = {"refused": "by", "failed": "at", "unfinished": "at", "stopped": "after"}.get(self.status)
        return f"{self.status} {word} {self.node}" if word else self.status


@dataclass(frozen=True)
class Run:
    """What is known of one run; None, or nothing, where a node has not run or its artifacts are gone.

    Attributes:
      number: 1 for the oldest.
      id: ISO time at which it began.
      verdict: What became of it.
      version: The version that was pushed, by this run or by the one whose result it took from the cache.
      examples: Number of used images.
      splits: Number of examples per split.
      fingerprint: Digest of the paths, sizes and modification times of the images.
      span: The newest span that was read.
      evaluation: The Evaluator's values.
      reasons: What the gates have against it, a line each.
      settings: The configuration as far as nodes have kept it: `section.key` → value.
    """

    number: int
    id: str
    verdict: Verdict
    version: int | None = None
    examples: int | None = None
    splits: dict[str, SplitCounts] = field(default_factory=dict)
    fingerprint: str | None = None
    span: int | None = None
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


class Difference(NamedTuple):
    """A value of two runs.

    Attributes:
      first: Value of the first run; None if it is undefined or missing.
      second: Value of the second run.
      metric: The metric; None for numbers of which neither is better, such as the number of examples.
    """

    first: float | None
    second: float | None
    metric: MetricSpec | None = None

    @property
    def change(self) -> float | None:
        """The second value minus the first; None if one is missing."""
        return None if self.first is None or self.second is None else self.second - self.first

    @property
    def is_better(self) -> bool | None:
        """Whether the second value is better; None if they are equal, or neither is."""
        if not self.change or self.metric is None:
            return None
        return (self.change > 0) == self.metric.higher_is_better

    @property
    def gain(self) -> float:
        """By how much the value became better; infinite if one is missing."""
        if self.change is None:
            return math.inf
        return self.change if self.metric is None or self.metric.higher_is_better else -self.change


Differences = dict[str, Difference]


@dataclass(frozen=True)
class Comparison:
    """Two runs side by side.

    Attributes:
      first: One run.
      second: The other.
      evaluation: The evaluation whose metrics the tables of classes and slices show; None if neither run has one, or
        their tasks differ.
      metrics: All metrics over all examples, and `examples`.
      classes: Class → metric; worst change of the main metric of classes first.
      slices: Slice → metric; worst change of the main metric first.
      settings: `section.key` → the value of each, where they differ; a key that one run has not kept is absent there.
      data: Differences of the data, likewise.
    """

    first: Run
    second: Run
    evaluation: EvaluationResult | None
    metrics: Differences
    classes: dict[str, Differences]
    slices: dict[str, Differences]
    settings: dict[str, tuple[Any, Any]]
    data: dict[str, tuple[Any, Any]]


class Runs:
    """The runs of a pipeline; what a run left is read when it is asked for."""

    def __init__(self, path: Path) -> None:
        """Opens the record.

        Args:
          path: ML Metadata's SQLite file.

        Raises:
          ConfigError: If it cannot be read.
        """
        self._path = path
        with _explained(path):
            self._store = metadata_store.open_store(path, read_only=True)
            contexts = self._store.get_contexts_by_type(metadata_store.RUN_CONTEXT)
            self._contexts = sorted(contexts, key=lambda context: context.id)
            self._nodes = metadata_store.node_names(self._store)

    def __len__(self) -> int:
        return len(self._contexts)

    def newest(self, num: int) -> list[Run]:
        """The last runs, the newest first."""
        return [self._read(number) for number in range(len(self), max(0, len(self) - num), -1)]

    def find(self, name: str) -> Run:
        """The run that is meant.

        Args:
          name: Its number, `last`, `last-1` (the one before) and so on, a version that was pushed, or the beginning of
            its id.

        Raises:
          ConfigError: If there is no such run; the message says what there is.
        """
        return self._read(self._number_of(name))

    def not_in_the_report(self) -> str:
        """Which run the last report is of, where the last run has not come so far; else empty."""
        newest, reported = len(self), len(self)
        while reported and "report" not in self._done(reported)[1].get("ModelReport", {}):
            reported -= 1
        if reported == newest:
            return ""
        known = f"of run {self._called(reported)}" if reported else "of a run that is no longer known"
        verdict = _verdict(*self._done(newest))
        return f"the report is {known}; the last run, {self._called(newest)}, has none: {verdict}."

    def _called(self, number: int) -> str:
        return f"{number} ({when(self._contexts[number - 1].name)})"

    def _number_of(self, name: str) -> int:
        if not name:
            raise ConfigError("The name of a run is empty. Name it by its number, `last`, a version or its id.")
        if match := _LAST.fullmatch(name):
            back = int(match[1] or 0)
            if back < len(self):
                return len(self) - back
        numbers = range(1, len(self) + 1)
        if name in map(str, numbers):
            return int(name)
        ids = [context.name for context in self._contexts]
        # The first run of a version has made it; the others took it from the cache.
        versions = {str(version): number for number in reversed(numbers) if (version := self._version(number))}
        if name in versions:
            return versions[name]
        begun = [number for number in numbers if ids[number - 1].startswith(name)]
        if len(begun) == 1:
            return begun[0]
        if begun:
            raise ConfigError(
                f"{len(begun)} runs began at {name}: give more of the id, or the number ({_in_words(begun)})."
            )
        raise ConfigError(
            f"There is no run `{name}`{did_you_mean(name, [*versions, *ids, 'last']) or '.'} There are "
            f"{_in_words(numbers)}; `last`, `last-1` and so on, pushed versions and ids name them too, and "
            "`tfx-vision history` lists them."
        )

    def _done(self, number: int) -> tuple[metadata_store.Executions, metadata_store.Outputs]:
        with _explained(self._path):
            executions = metadata_store.executions_of(self._store, self._contexts[number - 1].id, self._nodes)
            return executions, metadata_store.outputs_of(self._store, executions)

    def _version(self, number: int) -> int | None:
        return _version(*self._done(number))

    def _read(self, number: int) -> Run:
        return _read_run(number, self._contexts[number - 1].name, *self._done(number))


def when(id_: str) -> str:
    """When a run began, to the minute: `2026-11-22 03:55`."""
    return id_[:16].replace("T", " ")


def read(config: PipelineConfig) -> Runs:
    """The runs of a pipeline.

    Raises:
      ConfigError: If it has never run, or its record cannot be read.
    """
    path = config.metadata_path
    if not path.is_file():
        raise ConfigError(
            f"{config.pipeline.name} has no runs yet: there is no {path}. `tfx-vision run` makes the first."
        )
    return Runs(path)


def compare(first: Run, second: Run) -> Comparison:
    """Compares two runs; values that only one of them has are kept."""
    evaluations = [run.evaluation for run in (first, second) if run.evaluation]
    same_task = len({evaluation.task for evaluation in evaluations}) == 1
    shared = evaluations[-1] if same_task else None
    metrics = {metric.name: metric for evaluation in evaluations for metric in evaluation.metrics}
    one, other = _values(first.evaluation), _values(second.evaluation)
    return Comparison(
        first,
        second,
        shared,
        _differences(one.overall, other.overall, metrics),
        _table(one.classes, other.classes, metrics, shared.main_class_metric if shared else None),
        _table(one.slices, other.slices, metrics, shared.main_metric if shared else None),
        _unequal(first.settings, second.settings),
        _unequal(_data_of(first), _data_of(second)),
    )


# --- Reading one run --------------------------------------------------------------------------------------------


@contextlib.contextmanager
def _explained(path: Path) -> Iterator[None]:
    """Says what is wrong with a record, without the query at which that was noticed."""
    try:
        yield
    except (errors.StatusError, RuntimeError) as error:  # the second where the file cannot even be opened
        found = _FAILED_QUERY.search(str(error))
        cause = found[1] if found else str(error).rstrip(".")
        # Tables are made where there are none, but not by a reader.
        cause = "no such table: it is not a record of runs, or an empty one" if "readonly" in cause else cause
        raise ConfigError(
            f"{path} cannot be read: {cause}. If it is damaged, put a copy back, or move it away: the next `tfx-vision "
            "run` begins a new record."
        ) from None


def _read_run(number: int, id_: str, executions: metadata_store.Executions, outputs: metadata_store.Outputs) -> Run:
    """Reads the artifacts of a run; those that are damaged or of an incompatible version count as missing."""
    parameters = {node: execution.custom_properties for node, execution in executions}
    summary: Summary | None = None
    if quarantine := outputs.get("ImageExampleGen", {}).get("quarantine"):
        summary = _artifact(Summary, quarantine.uri)
    options = _parameter(parameters, "ImageExampleGen", "options")
    fingerprint = options.get("fingerprint")
    evaluation: EvaluationResult | None = None
    gates: GateReport | None = None
    if evaluation_artifact := outputs.get("Evaluator", {}).get("evaluation"):
        evaluation = _artifact(EvaluationResult, evaluation_artifact.uri)
        gates = _artifact(GateReport, evaluation_artifact.uri)
    served: ServingCheckReport | None = None
    if blessing := outputs.get("ServingValidator", {}).get("blessing"):
        served = _artifact(ServingCheckReport, blessing.uri)
    faithfulness: FaithfulnessReport | None = None
    if explanations := outputs.get("GradCam", {}).get("explanations"):
        faithfulness = _artifact(FaithfulnessReport, explanations.uri)
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
        evaluation=evaluation,
        reasons=_reasons(executions, gates, served, faithfulness),
        settings=settings,
    )


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
        # GradCam of an earlier version gave no verdict.
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
        value = _parameter(parameters, node, parameter)
        table = value.get(key) if key else value
        if isinstance(table, dict):
            settings |= _flat(table, f"{section}.")
    return settings


def _parameter(parameters: Mapping[str, Any], node: str, name: str) -> dict[str, Any]:
    """A table that is a parameter of a node; empty where there is none."""
    return _table_in(parameters[node][name].string_value) if node in parameters else {}


def _flat(table: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """`{"training": {"epochs": 3}}` → `{"training.epochs": 3}`."""
    found: dict[str, Any] = {}
    for key, value in table.items():
        found |= _flat(value, f"{prefix}{key}.") if isinstance(value, dict) and value else {f"{prefix}{key}": value}
    return found


def _read_text(location: str) -> str | None:
    try:
        return locations.read(location).decode()
    except (OSError, UnicodeDecodeError) as error:
        if locations.is_remote(location) and not isinstance(error, FileNotFoundError):
            raise ConfigError(f"{location} cannot be read: {error}") from None
        return None


def _table_in(text: str | None) -> dict[str, Any]:
    """What is stored as a JSON object; empty where it is nothing of the kind. A number that is not finite is None."""
    try:
        found = json.loads(
            text or "{}", parse_constant=lambda _: None, parse_float=lambda digits: _finite(float(digits))
        )
    except (ValueError, RecursionError):
        return {}
    return found if isinstance(found, dict) else {}


# Runs that take a result from the cache have the same file, and mostly follow one another.
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


# --- Comparing two ----------------------------------------------------------------------------------------------


class _Values(NamedTuple):
    """The values of one run over all examples, by class and by slice."""

    overall: Row
    classes: Table
    slices: Table


def _values(evaluation: EvaluationResult | None) -> _Values:
    if evaluation is None:
        return _Values({}, {}, {})
    overall, *slices = evaluation.candidate
    by_slice = {row.name: row.metrics_and_examples for row in slices}
    return _Values(overall.metrics_and_examples, overall.class_metrics_and_support, by_slice)


def _differences(first: Row, second: Row, metrics: Mapping[str, MetricSpec]) -> Differences:
    return {
        name: Difference(_finite(first.get(name, math.nan)), _finite(second.get(name, math.nan)), metrics.get(name))
        for name in {**first, **second}
    }


def _table(
    first: Table, second: Table, metrics: Mapping[str, MetricSpec], ranked_by: MetricSpec | None
) -> dict[str, Differences]:
    """Returns the differences of all rows; the worst change of one metric first."""
    table = {name: _differences(first.get(name, {}), second.get(name, {}), metrics) for name in {**first, **second}}

    def rank(item: tuple[str, Differences]) -> tuple[float, str]:
        name, row = item
        return (row[ranked_by.name].gain if ranked_by and ranked_by.name in row else math.inf, name)

    return dict(sorted(table.items(), key=rank))


def _unequal(first: Mapping[str, Any], second: Mapping[str, Any]) -> dict[str, tuple[Any, Any]]:
    keys = sorted({*first, *second})
    return {key: (first.get(key), second.get(key)) for key in keys if first.get(key) != second.get(key)}


def _data_of(run: Run) -> dict[str, Any]:
    found: dict[str, Any] = {"fingerprint": run.fingerprint, "span": run.span, "examples": run.examples}
    for split, counts in run.splits.items():
        found[f"examples.{split}"] = counts.examples
        found |= {f"examples.{split}.{name}": count for name, count in counts.classes.items()}
    return found


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None


def _in_words(numbers: Sequence[int]) -> str:
    return f"{numbers[0]} to {numbers[-1]}" if len(numbers) > 2 else " and ".join(map(str, numbers)) or "none yet"
