"""Results of a run, read from ML Metadata and the artifacts, for the summary and for `--json`."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from ml_metadata.proto import metadata_store_pb2

from components.data_audit.artifact import SUSPECTS_FILE, AuditSummary
from components.evaluator.artifact import EvaluationResult, GateReport, GateResult, SliceMetrics
from components.example_validator.artifact import DriftReport, Finding
from components.grad_cam.artifact import PAGE_FILE, ExplanationIndex, FaithfulnessReport, FaithfulnessResult
from components.image_example_gen.artifact import DUPLICATES_FILE, Quarantine, QuarantinedFile, Summary
from components.model_report.artifact import REPORT_FILE
from components.serving_validator.artifact import ServingCheck, ServingCheckReport
from components.tuner.artifact import TRIALS_FILE, read_trials
from pipeline.history.metadata_store import Outputs
from pipeline.nodes import DATA_AUDIT, TUNER
from trainer_module import locations, model_versions, search_space
from trainer_module.locations import join


class Refusal(NamedTuple):
    """One reason why a gate refused.

    Attributes:
      gate: The node that refused.
      metric: The metric that was compared with a bound.
      applies_to: The slice, class or split; `all` for all examples.
      value: Value of the metric; None if it is undefined or not a number.
      bound: The bound; None if there is none.
      missed_by: Distance of the value from the bound.
      detail: The whole reason in one line.
    """

    gate: str
    metric: str
    applies_to: str
    value: float | None
    bound: float | None
    missed_by: float | None
    detail: str

    @property
    def text(self) -> str:
        """One line: the gate and the detail."""
        return f"{self.gate}: {self.detail}"

    @property
    def is_measured(self) -> bool:
        """Whether a number does not satisfy its bound; if it does, a statistical test refused."""
        if self.value is None or self.bound is None or not math.isfinite(self.value - self.bound):
            return False
        return self.missed_by != 0 or self.value == self.bound

    @property
    def side(self) -> str:
        """The required relation of value and bound: `≥` or `≤`."""
        return "≤" if self.value is not None and self.bound is not None and self.value > self.bound else "≥"


@dataclass(frozen=True)
class RunResult:
    """The results of the nodes of one run; None if a node has not run.

    Attributes:
      data: ImageExampleGen's summary: counts by split and class.
      quarantined: Every quarantined file.
      duplicates: The file that lists duplicates and near duplicates.
      drift: Drift from the previous span, and skew between splits.
      tuning: The result of Tuner: `objective`, its best `value`, the `values` of the best trial by name of the setting,
        the number of `trials` and of `failed` ones, and their `table`.
      evaluation: The metrics of Evaluator.
      gates: The results of the gates of Evaluator.
      refusals: The reasons of every gate that refused.
      servable: The verdict of ServingValidator.
      checks: The checks of ServingValidator.
      pushed_version: Version number, if this model was pushed.
      serving_dir: Folder of that version.
      rolled_back: Version number, if an earlier run pushed this model and it was rolled back since.
      explanations: Index page of GradCam.
      num_explained: Number of explained predictions.
      faithfulness: Faithfulness metrics of GradCam, compared with their thresholds.
      audit: DataAudit's summary.
      suspects: Its table of suspicious images.
      report: HTML file of ModelReport.
    """

    data: Summary | None = None
    quarantined: Sequence[QuarantinedFile] = ()
    duplicates: str | None = None
    drift: DriftReport | None = None
    tuning: dict[str, Any] | None = None
    evaluation: EvaluationResult | None = None
    gates: GateReport | None = None
    refusals: list[Refusal] = field(default_factory=list)
    servable: bool | None = None
    checks: tuple[ServingCheck, ...] = ()
    pushed_version: int | None = None
    serving_dir: str | None = None
    rolled_back: int | None = None
    explanations: str | None = None
    num_explained: int = 0
    faithfulness: FaithfulnessReport | None = None
    audit: AuditSummary | None = None
    suspects: str | None = None
    report: str | None = None

    @property
    def slices(self) -> Sequence[SliceMetrics]:
        """Metrics over all examples first, then slice by slice."""
        return self.evaluation.candidate if self.evaluation else ()

    @property
    def not_compared(self) -> list[Refusal]:
        """Bounds of Evaluator that no value was compared with."""
        return [of_gate(gate) for gate in self.gates.not_compared] if self.gates else []

    @property
    def blessed(self) -> bool | None:
        """The verdict of Evaluator."""
        return self.gates.blessed if self.gates else None

    @property
    def refused(self) -> bool:
        """Whether a gate refused."""
        faithful = self.faithfulness is None or self.faithfulness.blessed
        return self.blessed is False or self.servable is False or not faithful or self.rolled_back is not None


def collect(outputs: Outputs) -> RunResult:
    """Reads the artifacts of a run.

    Args:
      outputs: From `metadata_store.outputs_of_run`.
    """
    values: dict[str, Any] = {}
    if quarantine := outputs.get("ImageExampleGen", {}).get("quarantine"):
        contents = Quarantine.read(quarantine.uri)
        values["data"], values["quarantined"] = contents.summary, contents.files
        values["duplicates"] = join(quarantine.uri, DUPLICATES_FILE)
    if anomalies := outputs.get("ExampleValidator", {}).get("anomalies"):
        values["drift"] = DriftReport.read(anomalies.uri)
    if TUNER in outputs:
        values["tuning"] = _tuning(outputs[TUNER])
    refusals: list[Refusal] = []
    if evaluation := outputs.get("Evaluator", {}).get("evaluation"):
        values["evaluation"] = EvaluationResult.read(evaluation.uri)
        values["gates"] = GateReport.read(evaluation.uri)
        refusals += map(of_gate, values["gates"].failures)
    if infra := outputs.get("ServingValidator", {}).get("blessing"):
        values["servable"] = infra.custom_properties["blessed"].int_value == 1
        served = ServingCheckReport.read(infra.uri)
        values["checks"] = served.checks
        refusals += map(_of_check, served.failures())
    if explanations := outputs.get("GradCam", {}).get("explanations"):
        values["explanations"] = join(explanations.uri, PAGE_FILE)
        values["num_explained"] = len(ExplanationIndex.read(explanations.uri).predictions)
        values["faithfulness"] = FaithfulnessReport.read(explanations.uri)
        refusals += map(_of_faithfulness, values["faithfulness"].failures())
    pushed = outputs.get("Pusher", {}).get("pushed_model")
    if pushed and pushed.custom_properties["pushed"].int_value == 1:
        version = int(pushed.custom_properties["pushed_version"].string_value)
        destination = pushed.custom_properties["pushed_destination"].string_value
        if model_versions.is_withdrawn(destination):
            values["rolled_back"] = version
            refusals.append(_of_roll_back(version))
        else:
            values["pushed_version"], values["serving_dir"] = version, destination
    if audit := outputs.get(DATA_AUDIT, {}).get("audit"):
        values["audit"], values["suspects"] = AuditSummary.read(audit.uri), join(audit.uri, SUSPECTS_FILE)
    if report := outputs.get("ModelReport", {}).get("report"):
        values["report"] = join(report.uri, REPORT_FILE)
    return RunResult(refusals=refusals, **values)


def _tuning(outputs: dict[str, metadata_store_pb2.Artifact]) -> dict[str, Any]:
    chosen, results = outputs["best_hyperparameters"], outputs["tuner_results"]
    with locations.os_errors(chosen.uri):
        (name,) = locations.file_system(chosen.uri).listdir(chosen.uri)
    trials = read_trials(results.uri)
    (best,) = (trial for trial in trials if trial["rank"] == "1")
    return {
        "objective": best["objective"],
        "value": float(best["value"]),
        "values": search_space.tuned_values(json.loads(locations.read(join(chosen.uri, name)))),
        "trials": len(trials),
        "failed": sum(not trial["rank"] for trial in trials),
        "table": join(results.uri, TRIALS_FILE),
    }


def of_gate(gate: GateResult) -> Refusal:
    """Describes a result of the gates of Evaluator."""
    return Refusal(
        gate="Evaluator",
        metric=gate.name,
        applies_to=gate.applies_to,
        value=gate.value,
        bound=gate.bound,
        missed_by=gate.missed_by,
        detail=f"{gate.subject} {gate.detail}",
    )


def of_images(findings: Iterable[Finding]) -> list[Refusal]:
    """Describes the findings of ExampleValidator."""
    return [
        Refusal(
            gate="ExampleValidator",
            metric=f"{finding.kind} of {finding.feature}",
            applies_to=f"{finding.split} split" + (f", {finding.value}" if finding.value else ""),
            value=finding.distance,
            bound=finding.allowed,
            missed_by=_missed_by(finding.distance, finding.allowed),
            detail=str(finding),
        )
        for finding in findings
    ]


def _of_check(check: ServingCheck) -> Refusal:
    return Refusal(
        gate="ServingValidator",
        metric=check.name,
        applies_to="all",
        value=check.value,
        bound=check.bound,
        missed_by=_missed_by(check.value, check.bound),
        detail=f"{check.name}: {check.detail}",
    )


def _of_roll_back(version: int) -> Refusal:
    detail = f"version {version}, this model, was rolled back; `tfx-vision rollback CONFIG --to {version}` undoes that"
    return Refusal("Pusher", "rolled back", "all", None, None, None, detail)


def _of_faithfulness(result: FaithfulnessResult) -> Refusal:
    return Refusal(
        gate="GradCam",
        metric=result.metric.name,
        applies_to="all",
        value=result.value,
        bound=result.bound,
        missed_by=_missed_by(result.value, result.bound),
        detail=result.detail,
    )


def _missed_by(value: float | None, bound: float | None) -> float | None:
    return None if value is None or bound is None else abs(value - bound)
