"""The runs of a pipeline, read from ML Metadata and the artifacts: a list of them, and what differs between two.

Nothing here needs TFX or TensorFlow, so that it answers at once.
"""

from __future__ import annotations

import functools
import json
import math
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, NamedTuple, TypeVar

from ml_metadata import errors, metadata_store
from ml_metadata.proto import metadata_store_pb2
from pydantic import BaseModel, ValidationError

from components.evaluator import metric_names
from components.evaluator.figures import ALL, FIGURES_FILE, GATES_FILE, Evaluation, Gate, Gates, SliceFigures
from pipeline import record
from pipeline.config import ConfigError, PipelineConfig
from trainer_module import features
from trainer_module.error_text import did_you_mean

_States = metadata_store_pb2.Execution
# Files of artifacts whose components cannot be imported without TFX.
_SUMMARY_FILE, _CHECKS_FILE = "summary.json", "checks.json"
_LAST = re.compile(r"last(?:-(\d+))?")
# Sections of the configuration that nodes have in their parameters: node, parameter, key in its JSON, section.
_SECTIONS_OF_NODES = (
    ("ImageExampleGen", "options", "data", "data"),
    ("ExampleValidator", "options", None, "validation"),
    ("Evaluator", "options", None, "evaluation"),
    ("ServingValidator", "limits", None, "serving"),
)

_Stored = TypeVar("_Stored", bound=BaseModel)


class Verdict(NamedTuple):
    """What became of a run.

    Attributes:
      status: `pushed`; `refused` by a gate; `failed`; `unfinished`, as it goes on or was killed; `stopped`, as it was
        asked to before Pusher.
      node: Where that was: the first gate that refused, the node that failed or runs, the last one that ran.
    """

    status: Literal["pushed", "refused", "failed", "unfinished", "stopped"]
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
      examples: Pictures that were used.
      splits: Split → class → number of pictures.
      fingerprint: Digest of the pictures' paths, sizes and times of change.
      span: The newest span that was read.
      evaluation: The Evaluator's figures.
      reasons: What the gates have against it, a line each.
      settings: The configuration as far as nodes have kept it: `section.key` → value.
    """

    number: int
    id: str
    verdict: Verdict
    version: int | None = None
    examples: int | None = None
    splits: dict[str, dict[str, int]] = field(default_factory=dict)
    fingerprint: str | None = None
    span: int | None = None
    evaluation: Evaluation | None = None
    reasons: list[str] = field(default_factory=list)
    settings: dict[str, Any] = field(default_factory=dict)

    @property
    def main_metric(self) -> str | None:
        """The figure that a run is told by."""
        return metric_names.MAIN[self.evaluation.task] if self.evaluation else None

    @property
    def main_value(self) -> float:
        """Its value over all examples; NaN if it is not known."""
        return self.evaluation.overall.metrics.get(self.main_metric or "", math.nan) if self.evaluation else math.nan

    def as_json(self) -> dict[str, Any]:
        """The object that `history --json` gives for a run."""
        return {
            "number": self.number,
            "id": self.id,
            "verdict": self.verdict._asdict(),
            "version": self.version,
            "data": {
                "examples": self.examples,
                "splits": {split: sum(counts.values()) for split, counts in self.splits.items()},
                "fingerprint": self.fingerprint,
                "span": self.span,
            },
            "metric": {"name": self.main_metric, "value": _finite(self.main_value)} if self.main_metric else None,
            "reasons": self.reasons,
        }


class Difference(NamedTuple):
    """A figure of two runs.

    Attributes:
      first: Of the first run; None if it has no such figure.
      second: Of the second.
      higher_is_better: Which side is the better one; None where neither is, as with the number of examples.
    """

    first: float | None
    second: float | None
    higher_is_better: bool | None

    @property
    def change(self) -> float | None:
        """From the first to the second; None where one is missing."""
        return None if self.first is None or self.second is None else self.second - self.first

    @property
    def is_better(self) -> bool | None:
        """Whether the second is better; None where that cannot be said, or they are equal."""
        if not self.change or self.higher_is_better is None:
            return None
        return (self.change > 0) == self.higher_is_better

    @property
    def gain(self) -> float:
        """By how much it became better; missing figures come last when sorted by it."""
        if self.change is None:
            return math.inf
        return self.change if self.higher_is_better is not False else -self.change

    def as_json(self) -> dict[str, Any]:
        """Both figures, the change, and whether it is one for the better."""
        return {"first": self.first, "second": self.second, "change": self.change, "better": self.is_better}


Differences = dict[str, Difference]


@dataclass(frozen=True)
class Comparison:
    """Two runs side by side.

    Attributes:
      first: One run.
      second: The other.
      task: `classification` or `segmentation`; None if neither was measured, or they are of two tasks.
      metrics: Every figure over all examples.
      classes: Class → figure; worst change of the leading figure first.
      slices: Slice → figure; worst change of the main figure first.
      settings: `section.key` → the value of each, where they differ; a key that one run has not kept is absent there.
      data: What differs in the pictures, likewise.
    """

    first: Run
    second: Run
    task: str | None
    metrics: Differences
    classes: dict[str, Differences]
    slices: dict[str, Differences]
    settings: dict[str, tuple[Any, Any]]
    data: dict[str, tuple[Any, Any]]

    def as_json(self) -> dict[str, Any]:
        """The object that `compare --json` prints."""

        def table(rows: Mapping[str, Differences]) -> dict[str, Any]:
            return {name: {key: found.as_json() for key, found in figures.items()} for name, figures in rows.items()}

        def pairs(found: Mapping[str, tuple[Any, Any]]) -> dict[str, Any]:
            return {key: {"first": first, "second": second} for key, (first, second) in found.items()}

        return {
            "first": self.first.as_json(),
            "second": self.second.as_json(),
            "metrics": {name: found.as_json() for name, found in self.metrics.items()},
            "classes": table(self.classes),
            "slices": table(self.slices),
            "settings": pairs(self.settings),
            "data": pairs(self.data),
        }


def read(config: PipelineConfig) -> list[Run]:
    """All runs of a pipeline, oldest first.

    Raises:
      ConfigError: If it has never run, or its record cannot be read.
    """
    path = config.metadata_path
    if not path.is_file():
        raise ConfigError(
            f"{config.pipeline.name} has no runs yet: there is no {path}. `tfx-vision run` makes the first."
        )
    try:
        store = record.open_store(path, read_only=True)
        contexts = sorted(store.get_contexts_by_type(record.RUN_CONTEXT), key=lambda context: context.id)
        nodes = record.node_names(store)
        return [_read_run(store, number, context, nodes) for number, context in enumerate(contexts, start=1)]
    except (errors.StatusError, RuntimeError) as error:  # the second where the file cannot even be opened
        raise ConfigError(f"{path} cannot be read: {str(error).partition(' query:')[0]}") from None


def find(runs: Sequence[Run], name: str) -> Run:
    """The run that is meant.

    Args:
      runs: From `read`.
      name: Its number, `last`, `last-1` (the one before) and so on, a version that was pushed, or the beginning of its
        id.

    Raises:
      ConfigError: If there is no such run; the message says what there is.
    """
    if match := _LAST.fullmatch(name):
        back = int(match[1] or 0)
        if back < len(runs):
            return runs[-1 - back]
    for run in runs:
        # The first run of a version has made it; the others took it from the cache.
        if name in (str(run.number), str(run.version)):
            return run
    begun = [run for run in runs if run.id.startswith(name)]
    if len(begun) == 1:
        return begun[0]
    if begun:
        raise ConfigError(f"{len(begun)} runs began at {name}: give more of the id, or the number ({_numbers(begun)}).")
    known = [*(str(run.version) for run in runs if run.version), *(run.id for run in runs), "last"]
    raise ConfigError(
        f"There is no run `{name}`{did_you_mean(name, known) or '.'} There are {_numbers(runs)}; `last`, `last-1` and "
        "so on, pushed versions and ids name them too, and `tfx-vision history` lists them."
    )


def compare(first: Run, second: Run) -> Comparison:
    """Holds two runs against each other; figures that only one has are kept."""
    one, other = first.evaluation, second.evaluation
    tasks = {evaluation.task for evaluation in (one, other) if evaluation}
    task = tasks.pop() if len(tasks) == 1 else None
    slices = [_by_name(evaluation) for evaluation in (one, other)]
    overall = [rows.pop(ALL, None) for rows in slices]
    return Comparison(
        first,
        second,
        task,
        _differences(*(row.metrics if row else {} for row in overall)),
        _table([row.per_class if row else {} for row in overall], metric_names.LEADING.get(task or "", "")),
        _table(
            [{name: row.metrics for name, row in rows.items()} for rows in slices],
            metric_names.MAIN.get(task or "", ""),
        ),
        _unequal(first.settings, second.settings),
        _unequal(_data_of(first), _data_of(second)),
    )


# --- Reading one run --------------------------------------------------------------------------------------------


def _read_run(
    store: metadata_store.MetadataStore, number: int, context: metadata_store_pb2.Context, nodes: dict[int, str]
) -> Run:
    executions = record.executions_of(store, context.id, nodes)
    outputs = record.outputs_of(store, executions)
    parameters = {node: execution.custom_properties for node, execution in executions}
    values: dict[str, Any] = {}
    if quarantine := outputs.get("ImageExampleGen", {}).get("quarantine"):
        summary = _json(Path(quarantine.uri) / _SUMMARY_FILE) or {}
        values |= {key: summary[key] for key in ("examples", "splits", "span") if key in summary}
    if example_gen := parameters.get("ImageExampleGen"):
        values["fingerprint"] = json.loads(example_gen["options"].string_value or "{}").get("fingerprint")
    gates = None
    if evaluation := outputs.get("Evaluator", {}).get("evaluation"):
        values["evaluation"] = _stored(Evaluation, Path(evaluation.uri) / FIGURES_FILE)
        gates = _stored(Gates, Path(evaluation.uri) / GATES_FILE)
    checks: list[dict[str, Any]] = []
    if blessing := outputs.get("ServingValidator", {}).get("blessing"):
        checks = _json(Path(blessing.uri) / _CHECKS_FILE) or []
    verdict = _verdict(executions, outputs)
    if verdict.status == "pushed":
        pushed = outputs["Pusher"]["pushed_model"]
        values["version"] = int(pushed.custom_properties["pushed_version"].string_value)
    settings = _settings(parameters)
    if model_run := outputs.get("Trainer", {}).get("model_run"):
        settings |= _flat(_json(Path(model_run.uri) / features.OPTIONS_FILE) or {})
    return Run(
        number=number,
        id=context.name,
        verdict=verdict,
        reasons=_reasons(executions, gates, checks),
        settings=settings,
        **values,
    )


def _verdict(executions: record.Executions, outputs: record.Outputs) -> Verdict:
    if not executions:
        return Verdict("unfinished", "the start")
    for node, execution in executions:
        if execution.last_known_state == _States.FAILED:
            return Verdict("refused" if record.REFUSAL in execution.custom_properties else "failed", node)
        if execution.last_known_state in (_States.RUNNING, _States.NEW):
            return Verdict("unfinished", node)
    for node in ("Evaluator", "ServingValidator"):
        blessing = outputs.get(node, {}).get("blessing")
        if blessing and not blessing.custom_properties["blessed"].int_value:
            return Verdict("refused", node)
    pushed = outputs.get("Pusher", {}).get("pushed_model")
    if pushed and pushed.custom_properties["pushed"].int_value:
        return Verdict("pushed", "Pusher")
    return Verdict("stopped", executions[-1][0])


def _reasons(executions: record.Executions, gates: Gates | None, checks: Iterable[dict[str, Any]]) -> list[str]:
    lines = []
    for node, execution in executions:
        if record.REFUSAL in execution.custom_properties:
            lines += [
                f"{node}: {line}" for line in execution.custom_properties[record.REFUSAL].string_value.splitlines()
            ]
    lines += [f"Evaluator: {_of_gate(gate)}" for gate in (gates.failures() if gates else [])]
    return lines + [f"ServingValidator: {check['name']}: {check['detail']}" for check in checks if not check["passed"]]


def _of_gate(gate: Gate) -> str:
    whose = f" of class {gate.class_name}" if gate.class_name is not None else ""
    where = f" for {gate.slice}" if gate.slice != ALL else ""
    return f"{gate.metric}{whose}{where}: {gate.detail}"


def _settings(parameters: Mapping[str, Any]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for node, parameter, key, section in _SECTIONS_OF_NODES:
        if node in parameters and (text := parameters[node][parameter].string_value):
            said = json.loads(text)
            found |= _flat({section: said[key] if key else said})
    return found


def _flat(table: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """`{"training": {"epochs": 3}}` → `{"training.epochs": 3}`."""
    found: dict[str, Any] = {}
    for key, value in table.items():
        found |= _flat(value, f"{prefix}{key}.") if isinstance(value, dict) and value else {f"{prefix}{key}": value}
    return found


@functools.cache
def _read_text(path: Path) -> str | None:
    """Runs that take a result from the cache have the same file."""
    try:
        return path.read_text(encoding="utf-8")
    except FileNotFoundError:
        return None


def _json(path: Path) -> Any:
    text = _read_text(path)
    return None if text is None else json.loads(text)


@functools.cache
def _stored(kind: type[_Stored], path: Path) -> _Stored | None:
    """What a file holds; None where it is missing, or of a version that this one does not know."""
    text = _read_text(path)
    try:
        return None if text is None else kind.model_validate_json(text)
    except ValidationError:
        return None


# --- Comparing two ----------------------------------------------------------------------------------------------


def _by_name(evaluation: Evaluation | None) -> dict[str, SliceFigures]:
    return {row.name: row for row in evaluation.candidate} if evaluation else {}


def _differences(first: Mapping[str, float], second: Mapping[str, float]) -> Differences:
    counts = (metric_names.EXAMPLES, metric_names.SUPPORT)
    return {
        name: Difference(
            _finite(first.get(name, math.nan)),
            _finite(second.get(name, math.nan)),
            None if name in counts else metric_names.higher_is_better(name),
        )
        for name in {**first, **second}
    }


def _table(rows: Sequence[Mapping[str, Mapping[str, float]]], leading: str) -> dict[str, Differences]:
    """Row → figure → both values; the worst change of the leading figure first."""
    first, second = rows
    found = {name: _differences(first.get(name, {}), second.get(name, {})) for name in {**first, **second}}

    def worst_first(item: tuple[str, Differences]) -> tuple[float, str]:
        return (item[1][leading].gain if leading in item[1] else math.inf, item[0])

    return dict(sorted(found.items(), key=worst_first))


def _unequal(first: Mapping[str, Any], second: Mapping[str, Any]) -> dict[str, tuple[Any, Any]]:
    keys = sorted({*first, *second})
    return {key: (first.get(key), second.get(key)) for key in keys if first.get(key) != second.get(key)}


def _data_of(run: Run) -> dict[str, Any]:
    found: dict[str, Any] = {"fingerprint": run.fingerprint, "span": run.span, "examples": run.examples}
    for split, by_class in run.splits.items():
        found[f"examples.{split}"] = sum(by_class.values())
        found |= {f"examples.{split}.{name}": count for name, count in by_class.items()}
    return found


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None


def _numbers(runs: Sequence[Run]) -> str:
    numbers = [run.number for run in runs]
    return f"{numbers[0]} to {numbers[-1]}" if len(numbers) > 2 else " and ".join(map(str, numbers)) or "none yet"
