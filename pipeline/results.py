"""What a run came to: read back from ML Metadata and the artifacts, for the summary and for `--json`."""

from __future__ import annotations

import csv
import json
import math
import shutil
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ml_metadata import metadata_store
from ml_metadata.proto import metadata_store_pb2
from tfx.orchestration import metadata

from components.evaluator.figures import ALL, FIGURES_FILE, GATES_FILE, Evaluation, Gate, Gates, SliceFigures
from components.example_validator.executor import DRIFT_FILE
from components.grad_cam.executor import INDEX_FILE
from components.image_example_gen.executor import DUPLICATES_FILE, QUARANTINE_FILE, SUMMARY_FILE
from components.model_report.executor import REPORT_FILE
from components.serving_validator.executor import CHECKS_FILE
from components.tuner.executor import TRIALS_FILE
from pipeline.nodes import TUNER
from trainer_module import search_space

_RUN_CONTEXT = "pipeline_run"


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
      evaluation: The Evaluator's figures.
      gates: Its verdicts.
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
    evaluation: Evaluation | None = None
    gates: Gates | None = None
    refusals: list[str] = field(default_factory=list)
    servable: bool | None = None
    checks: list[dict[str, Any]] = field(default_factory=list)
    pushed_version: int | None = None
    serving_dir: str | None = None
    explanations: str | None = None
    num_explained: int = 0
    report: str | None = None

    @property
    def slices(self) -> list[SliceFigures]:
        """Figures over all examples first, then slice by slice."""
        return self.evaluation.candidate if self.evaluation else []

    @property
    def blessed(self) -> bool | None:
        """The Evaluator's verdict."""
        return self.gates.blessed if self.gates else None

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


def collect(outputs: dict[str, dict[str, metadata_store_pb2.Artifact]]) -> RunResult:
    """Reads the artifacts of a run.

    Args:
      outputs: From `outputs_of_run`.
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
    if evaluation := outputs.get("Evaluator", {}).get("evaluation"):
        folder = Path(evaluation.uri)
        values["evaluation"] = Evaluation.model_validate_json((folder / FIGURES_FILE).read_bytes())
        values["gates"] = Gates.model_validate_json((folder / GATES_FILE).read_bytes())
        refusals += map(_refusal, values["gates"].failures())
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


def _refusal(gate: Gate) -> str:
    """One line: for whom, the figure, the bound, and by how much it was missed."""
    whose = f" of class {gate.class_name}" if gate.class_name is not None else ""
    where = f" for {gate.slice}" if gate.slice != ALL else ""
    missed = "" if math.isnan(gate.missed_by) else f" (missed by {gate.missed_by:.4f})"
    return f"Evaluator: {gate.metric}{whose}{where} is {gate.detail}{missed}"
