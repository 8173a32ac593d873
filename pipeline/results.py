"""What a run came to: read back from ML Metadata and the artifacts, for the summary and for `--json`."""

from __future__ import annotations

import csv
import json
import math
import shutil
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import tensorflow_model_analysis as tfma
from ml_metadata import metadata_store
from ml_metadata.proto import metadata_store_pb2

from components.example_validator.executor import DRIFT_FILE, Finding
from components.grad_cam.executor import INDEX_FILE
from components.image_example_gen.executor import DUPLICATES_FILE, QUARANTINE_FILE, SUMMARY_FILE
from components.serving_validator.executor import CHECKS_FILE
from components.tuner.executor import TRIALS_FILE
from pipeline import evaluation
from pipeline.config import GATED_METRICS
from pipeline.nodes import TUNER
from pipeline.record import Outputs
from trainer_module import features, search_space

_CONFUSION_MATRIX_FIELD = "multiClassConfusionMatrixAtThresholds"


@dataclass(frozen=True)
class SliceMetrics:
    """Figures of one slice, or, with no feature, of all examples.

    Attributes:
      name: `brightness = dark`, or `all`.
      metrics: By the names that thresholds use, and `examples`; NaN where a figure does not exist.
      per_class: Class name → precision, recall, f1, support.
      confusion: Number of examples by [actual class id][predicted class id].
    """

    name: str
    metrics: dict[str, float]
    per_class: dict[str, dict[str, float]]
    confusion: list[list[int]]


class Refusal(NamedTuple):
    """What failed, by how much, and for whom.

    Attributes:
      gate: The node that refused.
      figure: What was held against a bound.
      whom: The slice, class or split; `all` for all examples.
      value: The figure; None where it is no number or does not exist.
      bound: What it was held against; None where there is no such number.
      missed_by: How far the figure lies on the wrong side of the bound.
      detail: All of it in one line.
    """

    gate: str
    figure: str
    whom: str
    value: float | None
    bound: float | None
    missed_by: float | None
    detail: str

    @property
    def text(self) -> str:
        """One line: the gate and what it has to say."""
        return f"{self.gate}: {self.detail}"

    @property
    def is_measured(self) -> bool:
        """Whether it is a number that was held against another."""
        return self.value is not None and self.bound is not None and math.isfinite(self.value - self.bound)

    @property
    def side(self) -> str:
        """The side of the bound on which the figure should lie: `≥` or `≤`."""
        return "≥" if self.value is not None and self.bound is not None and self.value < self.bound else "≤"

    def as_json(self) -> dict[str, Any]:
        """The columns; a number that does not exist is null."""
        return {
            name: None if isinstance(value, float) and not math.isfinite(value) else value
            for name, value in self._asdict().items()
        }


@dataclass(frozen=True)
class RunResult:
    """What the nodes of one run left; None where a node has not run.

    Attributes:
      data: ImageExampleGen's summary: counts by split and class.
      quarantined: Path and reason of every refused file.
      duplicates: The file that lists copies and pictures that look alike.
      drift: ExampleValidator's comparison with the span before: `previous_span` (None if there is none), `found`; and
        of the splits with each other: `skew`.
      tuning: What Tuner found: `objective`, its best `value`, the `values` that gave it by name of the field, how many
        `trials` there were and how many `failed`, and their `table`.
      slices: Figures over all examples first, then slice by slice.
      blessed: The Evaluator's verdict.
      has_baseline: Whether the Evaluator compared with an earlier model.
      refusals: What Evaluator and ServingValidator have against the model.
      servable: ServingValidator's verdict.
      checks: ServingValidator's checks.
      pushed_version: Version number, if this model was pushed.
      serving_dir: Folder of that version.
      explanations: Grad-CAM's index page.
      num_explained: Pictures on it.
    """

    data: dict[str, Any] | None = None
    quarantined: list[dict[str, str]] = field(default_factory=list)
    duplicates: str | None = None
    drift: dict[str, Any] | None = None
    tuning: dict[str, Any] | None = None
    slices: list[SliceMetrics] = field(default_factory=list)
    blessed: bool | None = None
    has_baseline: bool = False
    refusals: list[Refusal] = field(default_factory=list)
    servable: bool | None = None
    checks: list[dict[str, Any]] = field(default_factory=list)
    pushed_version: int | None = None
    serving_dir: str | None = None
    explanations: str | None = None
    num_explained: int = 0

    @property
    def refused(self) -> bool:
        """Whether any gate said no."""
        return self.blessed is False or self.servable is False


def forget_lost_pushes(store: metadata_store.MetadataStore) -> None:
    """Makes Pusher work again where a pushed version has been deleted since.

    TFX's cache looks at the copy of the model that Pusher keeps among the artifacts; without it, the push is no longer
    taken from the cache.
    """
    for artifact in store.get_artifacts_by_type("PushedModel"):
        destination = artifact.custom_properties["pushed_destination"].string_value
        if destination and not Path(destination, "saved_model.pb").is_file():
            shutil.rmtree(artifact.uri, ignore_errors=True)


def collect(outputs: Outputs, classes: tuple[str, ...]) -> RunResult:
    """Reads the artifacts of a run.

    Args:
      outputs: From `record.outputs_of_run`.
      classes: Class names; the index is the id.
    """
    values: dict[str, Any] = {}
    if quarantine := outputs.get("ImageExampleGen", {}).get("quarantine"):
        folder = Path(quarantine.uri)
        values["data"] = json.loads((folder / SUMMARY_FILE).read_text(encoding="utf-8"))
        lines = (folder / QUARANTINE_FILE).read_text(encoding="utf-8").splitlines()
        values["quarantined"] = [json.loads(line) for line in lines]
        values["duplicates"] = str(folder / DUPLICATES_FILE)
    if anomalies := outputs.get("ExampleValidator", {}).get("anomalies"):
        values["drift"] = json.loads((Path(anomalies.uri) / DRIFT_FILE).read_text(encoding="utf-8"))
    if TUNER in outputs:
        values["tuning"] = _tuning(outputs[TUNER])
    refusals: list[Refusal] = []
    evaluator = outputs.get("Evaluator", {})
    if blessing := evaluator.get("blessing"):
        values["blessed"] = blessing.custom_properties["blessed"].int_value == 1
        values["has_baseline"] = "baseline_model" in blessing.custom_properties
        values["slices"] = slice_metrics(evaluator["evaluation"].uri, classes, values["has_baseline"])
        refusals += _threshold_failures(evaluator["evaluation"].uri)
    if infra := outputs.get("ServingValidator", {}).get("blessing"):
        values["servable"] = infra.custom_properties["blessed"].int_value == 1
        values["checks"] = json.loads((Path(infra.uri) / CHECKS_FILE).read_text(encoding="utf-8"))
        refusals += [_of_check(check) for check in values["checks"] if not check["passed"]]
    if explanations := outputs.get("GradCam", {}).get("explanations"):
        values["explanations"] = str(Path(explanations.uri) / "index.html")
        values["num_explained"] = len(json.loads((Path(explanations.uri) / INDEX_FILE).read_text(encoding="utf-8")))
    pushed = outputs.get("Pusher", {}).get("pushed_model")
    if pushed and pushed.custom_properties["pushed"].int_value == 1:
        values["pushed_version"] = int(pushed.custom_properties["pushed_version"].string_value)
        values["serving_dir"] = pushed.custom_properties["pushed_destination"].string_value
    return RunResult(refusals=refusals, **values)


def _tuning(outputs: dict[str, metadata_store_pb2.Artifact]) -> dict[str, Any]:
    (chosen,) = Path(outputs["best_hyperparameters"].uri).iterdir()
    table = Path(outputs["tuner_results"].uri) / TRIALS_FILE
    with table.open(newline="", encoding="utf-8") as file:
        trials = list(csv.DictReader(file))
    (best,) = (trial for trial in trials if trial["rank"] == "1")
    return {
        "objective": best["objective"],
        "value": float(best["value"]),
        "values": search_space.found_values(json.loads(chosen.read_text(encoding="utf-8"))),
        "trials": len(trials),
        "failed": sum(not trial["rank"] for trial in trials),
        "table": str(table),
    }


def slice_metrics(evaluation_uri: str, classes: tuple[str, ...], has_baseline: bool) -> list[SliceMetrics]:
    """Reads TFMA's figures of the new model: all examples first, then the slices in alphabetical order.

    Args:
      evaluation_uri: The Evaluator's output.
      classes: Class names; the index is the id.
      has_baseline: Whether another model was evaluated beside it; only then TFMA has given it a name.
    """
    loaded = tfma.load_eval_result(evaluation_uri, model_name="candidate" if has_baseline else None)
    plots = dict(loaded.plots)
    results = []
    for slice_key, by_output in loaded.slicing_metrics:
        by_sub_key = next(iter(by_output.values()))
        overall = {name: _number(value) for name, value in by_sub_key[""].items()}
        metrics = {name: overall[name] for name in GATED_METRICS if name in overall}
        metrics["examples"] = overall[evaluation.EXAMPLE_COUNT]
        per_class = {
            name: {figure: _number(value) for figure, value in by_sub_key[f"classId:{class_id}"].items()}
            for class_id, name in enumerate(classes)
        }
        confusion = _confusion_matrix(plots[slice_key], len(classes))
        results.append(SliceMetrics(_slice_name(slice_key), metrics, per_class, confusion))
    return sorted(results, key=lambda result: (result.name != "all", result.name))


def _slice_name(slice_key: tuple[tuple[str, Any], ...]) -> str:
    if not slice_key:
        return "all"
    return ", ".join(f"{name.removeprefix(features.SLICE_PREFIX)} = {value}" for name, value in slice_key)


def _confusion_matrix(plots_by_output: dict[str, Any], num_classes: int) -> list[list[int]]:
    matrix = [[0] * num_classes for _ in range(num_classes)]
    (by_sub_key,) = plots_by_output.values()
    (stored,) = by_sub_key[""][_CONFUSION_MATRIX_FIELD]["matrices"]
    for entry in stored.get("entries", ()):  # a proto as JSON: what is 0 is left out
        actual, predicted = int(entry.get("actualClassId", 0)), int(entry.get("predictedClassId", 0))
        matrix[actual][predicted] = round(entry.get("numWeightedExamples", 0.0))
    return matrix


def _number(value: dict[str, Any]) -> float:
    for kind in ("doubleValue", "boundedValue"):
        if kind in value:
            inner = value[kind]
            return float(inner["value"] if isinstance(inner, dict) else inner)
    return math.nan


def of_pictures(findings: Iterable[Finding]) -> list[Refusal]:
    """What ExampleValidator has against the pictures."""
    return [
        Refusal(
            gate="ExampleValidator",
            figure=f"{finding.kind} of {finding.feature}",
            whom=f"{finding.split} split" + (f", {finding.value}" if finding.value else ""),
            value=finding.distance,
            bound=finding.allowed,
            missed_by=_missed_by(finding.distance, finding.allowed),
            detail=str(finding),
        )
        for finding in findings
    ]


def _of_check(check: dict[str, Any]) -> Refusal:
    return Refusal(
        gate="ServingValidator",
        figure=check["name"],
        whom="all",
        value=check["value"],
        bound=check["bound"],
        missed_by=_missed_by(check["value"], check["bound"]),
        detail=f"{check['name']}: {check['detail']}",
    )


def _missed_by(value: float | None, bound: float | None) -> float | None:
    return None if value is None or bound is None else abs(value - bound)


def _threshold_failures(evaluation_uri: str) -> list[Refusal]:
    validation = tfma.load_validation_result(evaluation_uri)
    return [
        _of_threshold(failure)
        for failed_slice in validation.metric_validations_per_slice
        for failure in failed_slice.failures
    ]


def _of_threshold(failure: Any) -> Refusal:
    """The figure, the bound, and by how much it was missed."""
    key, threshold = failure.metric_key, failure.metric_threshold
    if not failure.HasField("metric_value"):
        detail = f"{key.name} could not be computed: {' '.join(failure.message.split())}"
        return Refusal("Evaluator", key.name, "all", None, None, None, detail)
    measured = failure.metric_value.double_value.value
    if key.is_diff:
        limit = threshold.change_threshold.absolute.value
        detail = f"{key.name} changed by {measured:+.4f} against the last blessed model, allowed {limit:+g}"
        return Refusal("Evaluator", f"change of {key.name}", "all", measured, limit, abs(measured - limit), detail)
    bounds = threshold.value_threshold
    at_least = bounds.HasField("lower_bound")
    limit = bounds.lower_bound.value if at_least else bounds.upper_bound.value
    missed_by = abs(measured - limit)
    side = "at least" if at_least else "at most"
    detail = f"{key.name} is {measured:.4f}, must be {side} {limit:g} (missed by {missed_by:.4f})"
    return Refusal("Evaluator", key.name, "all", measured, limit, missed_by, detail)
