"""What a run came to: read back from ML Metadata and the artifacts, for the summary and for `--json`."""

from __future__ import annotations

import csv
import json
import math
import shutil
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import tensorflow_model_analysis as tfma
from ml_metadata import metadata_store
from ml_metadata.proto import metadata_store_pb2
from tfx.orchestration import metadata

from components.example_validator.executor import DRIFT_FILE
from components.grad_cam.executor import INDEX_FILE
from components.image_example_gen.executor import DUPLICATES_FILE, QUARANTINE_FILE, SUMMARY_FILE
from components.model_report.executor import REPORT_FILE
from components.serving_validator.executor import CHECKS_FILE
from components.tuner.executor import TRIALS_FILE
from pipeline import evaluation
from pipeline.config import GATED_METRICS
from pipeline.nodes import TUNER
from trainer_module import features, search_space

_CONFUSION_MATRIX_FIELD = "multiClassConfusionMatrixAtThresholds"
_RUN_CONTEXT = "pipeline_run"


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


@dataclass(frozen=True)
class RunResult:
    """What the nodes of one run left; None where a node has not run.

    Attributes:
      data: ImageExampleGen's summary: counts by split and class.
      quarantined: Path and reason of every refused file.
      duplicates: The file that lists copies and pictures that look alike.
      drift: ExampleValidator's comparison with the span before: `previous_span` (None if there is none), `found`.
      tuning: What Tuner found: `objective`, its best `value`, the `values` that gave it by name of the field, how many
        `trials` there were and how many `failed`, and their `table`.
      slices: Figures over all examples first, then slice by slice.
      blessed: The Evaluator's verdict.
      has_baseline: Whether the Evaluator compared with an earlier model.
      refusals: What each gate that refused has to say.
      servable: ServingValidator's verdict.
      checks: ServingValidator's checks.
      pushed_version: Version number, if this model was pushed.
      serving_dir: Folder of that version.
      explanations: Grad-CAM's index page.
      num_explained: Pictures on it.
      report: ModelReport's page.
    """

    data: dict[str, Any] | None = None
    quarantined: list[dict[str, str]] = field(default_factory=list)
    duplicates: str | None = None
    drift: dict[str, Any] | None = None
    tuning: dict[str, Any] | None = None
    slices: list[SliceMetrics] = field(default_factory=list)
    blessed: bool | None = None
    has_baseline: bool = False
    refusals: list[str] = field(default_factory=list)
    servable: bool | None = None
    checks: list[dict[str, Any]] = field(default_factory=list)
    pushed_version: int | None = None
    serving_dir: str | None = None
    explanations: str | None = None
    num_explained: int = 0
    report: str | None = None

    @property
    def refused(self) -> bool:
        """Whether any gate said no."""
        return self.blessed is False or self.servable is False


def outputs_of_run(connection: Any, run_id: str) -> dict[str, dict[str, metadata_store_pb2.Artifact]]:
    """The artifacts that a run gave or took from the cache: node → output name → artifact."""
    found: dict[str, dict[str, metadata_store_pb2.Artifact]] = {}
    with metadata.Metadata(connection) as handle:
        store: metadata_store.MetadataStore = handle.store
        context = store.get_context_by_type_and_name(_RUN_CONTEXT, run_id)
        if context is None:
            return {}
        node_of = {
            execution.id: str(store.get_execution_types_by_id([execution.type_id])[0].name).rsplit(".", 1)[-1]
            for execution in store.get_executions_by_context(context.id)
        }
        for execution_id in node_of:
            for node_context in store.get_contexts_by_execution(execution_id):
                if node_context.name.count(".") and node_context.type != _RUN_CONTEXT:
                    node_of[execution_id] = node_context.name.rsplit(".", 1)[-1]
        events = store.get_events_by_execution_ids(list(node_of))
        kinds = metadata_store_pb2.Event
        events = [event for event in events if event.type in (kinds.OUTPUT, kinds.DECLARED_OUTPUT)]
        artifacts = {artifact.id: artifact for artifact in store.get_artifacts_by_id([e.artifact_id for e in events])}
        for event in events:
            key = next((step.key for step in event.path.steps if step.key), "")
            found.setdefault(node_of[event.execution_id], {})[key] = artifacts[event.artifact_id]
    return found


def forget_lost_pushes(connection: Any) -> None:
    """Makes Pusher work again where a pushed version has been deleted since.

    TFX's cache looks at the copy of the model that Pusher keeps among the artifacts; without it, the push is no longer
    taken from the cache.
    """
    with metadata.Metadata(connection) as handle:
        for artifact in handle.store.get_artifacts_by_type("PushedModel"):
            destination = artifact.custom_properties["pushed_destination"].string_value
            if destination and not Path(destination, "saved_model.pb").is_file():
                shutil.rmtree(artifact.uri, ignore_errors=True)


def collect(outputs: dict[str, dict[str, metadata_store_pb2.Artifact]], classes: tuple[str, ...]) -> RunResult:
    """Reads the artifacts of a run.

    Args:
      outputs: From `outputs_of_run`.
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
    refusals: list[str] = []
    evaluator = outputs.get("Evaluator", {})
    if blessing := evaluator.get("blessing"):
        values["blessed"] = blessing.custom_properties["blessed"].int_value == 1
        values["has_baseline"] = "baseline_model" in blessing.custom_properties
        values["slices"] = slice_metrics(evaluator["evaluation"].uri, classes, values["has_baseline"])
        refusals += _threshold_failures(evaluator["evaluation"].uri)
    if infra := outputs.get("ServingValidator", {}).get("blessing"):
        values["servable"] = infra.custom_properties["blessed"].int_value == 1
        values["checks"] = json.loads((Path(infra.uri) / CHECKS_FILE).read_text(encoding="utf-8"))
        refusals += [
            f"ServingValidator: {check['name']}: {check['detail']}" for check in values["checks"] if not check["passed"]
        ]
    if explanations := outputs.get("GradCam", {}).get("explanations"):
        values["explanations"] = str(Path(explanations.uri) / "index.html")
        values["num_explained"] = len(json.loads((Path(explanations.uri) / INDEX_FILE).read_text(encoding="utf-8")))
    pushed = outputs.get("Pusher", {}).get("pushed_model")
    if pushed and pushed.custom_properties["pushed"].int_value == 1:
        values["pushed_version"] = int(pushed.custom_properties["pushed_version"].string_value)
        values["serving_dir"] = pushed.custom_properties["pushed_destination"].string_value
    if report := outputs.get("ModelReport", {}).get("report"):
        values["report"] = str(Path(report.uri) / REPORT_FILE)
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


def _threshold_failures(evaluation_uri: str) -> list[str]:
    validation = tfma.load_validation_result(evaluation_uri)
    failures = []
    for failed_slice in validation.metric_validations_per_slice:
        for failure in failed_slice.failures:
            failures.append("Evaluator: " + _describe_failure(failure))
    return failures


def _describe_failure(failure: Any) -> str:
    """One line: the figure, the bound, and by how much it was missed."""
    key, threshold = failure.metric_key, failure.metric_threshold
    if not failure.HasField("metric_value"):
        return f"{key.name} could not be computed: {' '.join(failure.message.split())}"
    measured = failure.metric_value.double_value.value
    if key.is_diff:
        allowed = threshold.change_threshold.absolute.value
        return f"{key.name} changed by {measured:+.4f} against the last blessed model, allowed {allowed:+g}"
    bounds = threshold.value_threshold
    at_least = bounds.HasField("lower_bound")
    limit = bounds.lower_bound.value if at_least else bounds.upper_bound.value
    side = "at least" if at_least else "at most"
    return f"{key.name} is {measured:.4f}, must be {side} {limit:g} (missed by {abs(measured - limit):.4f})"
