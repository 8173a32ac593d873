"""What a run came to: read back from ML Metadata and the artifacts, for the summary and for `--json`."""

from __future__ import annotations

import csv
import io
import json
import logging
import math
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from ml_metadata import metadata_store
from ml_metadata.proto import metadata_store_pb2

from components.evaluator.figures import FIGURES_FILE, GATES_FILE, Evaluation, Gate, Gates, SliceFigures
from components.example_validator.executor import DRIFT_FILE, Finding
from components.grad_cam.findings import FAITHFULNESS_FILE, INDEX_FILE, PAGE_FILE, Figure, Report
from components.image_example_gen.quarantine import DUPLICATES_FILE, QUARANTINE_FILE, SUMMARY_FILE
from components.model_report.executor import REPORT_FILE
from components.serving_validator.findings import CHECKS_FILE
from components.tuner.executor import TRIALS_FILE
from pipeline.history.metadata_store import Outputs
from pipeline.nodes import TUNER
from trainer_module import locations, model_versions, search_space
from trainer_module.locations import join


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


@dataclass(frozen=True)
class RunResult:
    """What the nodes of one run left; None where a node has not run.

    Attributes:
      data: ImageExampleGen's summary: counts by split and class.
      quarantined: Path and reason of every refused file.
      duplicates: The file that lists copies and pictures that look alike.
      drift: ExampleValidator's comparison with the span before: `previous_span` (None if there is none), `found`; and
        of the splits with each other: `skew`, None where it was not looked for.
      tuning: What Tuner found: `objective`, its best `value`, the `values` that gave it by name of the field, how many
        `trials` there were and how many `failed`, and their `table`.
      evaluation: The Evaluator's figures.
      gates: Its verdicts.
      refusals: What each gate that refused has to say.
      servable: ServingValidator's verdict.
      checks: ServingValidator's checks.
      pushed_version: Version number, if this model was pushed.
      serving_dir: Folder of that version.
      rolled_back: Version number, if this model was pushed by an earlier run and has been withdrawn since.
      explanations: Grad-CAM's index page.
      num_explained: Pictures on it.
      faithfulness: GradCam's figures, and its verdict.
      report: ModelReport's page.
    """

    data: dict[str, Any] | None = None
    quarantined: list[dict[str, str]] = field(default_factory=list)
    duplicates: str | None = None
    drift: dict[str, Any] | None = None
    tuning: dict[str, Any] | None = None
    evaluation: Evaluation | None = None
    gates: Gates | None = None
    refusals: list[Refusal] = field(default_factory=list)
    servable: bool | None = None
    checks: list[dict[str, Any]] = field(default_factory=list)
    pushed_version: int | None = None
    serving_dir: str | None = None
    rolled_back: int | None = None
    explanations: str | None = None
    num_explained: int = 0
    faithfulness: Report | None = None
    report: str | None = None

    @property
    def slices(self) -> list[SliceFigures]:
        """Figures over all examples first, then slice by slice."""
        return self.evaluation.candidate if self.evaluation else []

    @property
    def not_held(self) -> list[Refusal]:
        """Rules of the Evaluator that nothing was held against."""
        return [of_gate(gate) for gate in self.gates.not_held()] if self.gates else []

    @property
    def blessed(self) -> bool | None:
        """The Evaluator's verdict."""
        return self.gates.blessed if self.gates else None

    @property
    def refused(self) -> bool:
        """Whether any gate said no."""
        faithful = self.faithfulness is None or self.faithfulness.blessed
        return self.blessed is False or self.servable is False or not faithful or self.rolled_back is not None


def forget_old_pushes(store: metadata_store.MetadataStore) -> None:
    """Makes Pusher work again where a version is no longer the newest: a run that ends well is the one that is served.

    TFX's cache looks at the copy of the model that Pusher keeps among the artifacts; without it, the push is no longer
    taken from the cache. A version that was rolled back is not pushed again.
    """
    for artifact in store.get_artifacts_by_type("PushedModel"):
        destination = artifact.custom_properties["pushed_destination"].string_value
        # Of most runs the copy is gone already, and the folder of versions is not asked for these.
        if not destination:
            continue
        try:
            with locations.os_errors(artifact.uri), locations.os_errors(destination):
                copies = locations.file_system(artifact.uri)
                if not copies.exists(artifact.uri) or model_versions.is_newest(destination):
                    continue
                if not model_versions.is_withdrawn(destination):
                    copies.rmtree(artifact.uri)
        except OSError as error:
            # A store of earlier runs that is gone, for one. At worst a model that was pushed before is not pushed anew.
            logging.getLogger(__name__).warning("The copy of a push at %s is left: %s", artifact.uri, error)


def collect(outputs: Outputs) -> RunResult:
    """Reads the artifacts of a run.

    Args:
      outputs: From `record.outputs_of_run`.
    """
    values: dict[str, Any] = {}
    if quarantine := outputs.get("ImageExampleGen", {}).get("quarantine"):
        values["data"] = json.loads(_read(quarantine, SUMMARY_FILE))
        values["quarantined"] = [json.loads(line) for line in _read(quarantine, QUARANTINE_FILE).splitlines()]
        values["duplicates"] = join(quarantine.uri, DUPLICATES_FILE)
    if anomalies := outputs.get("ExampleValidator", {}).get("anomalies"):
        values["drift"] = json.loads(_read(anomalies, DRIFT_FILE))
    if TUNER in outputs:
        values["tuning"] = _tuning(outputs[TUNER])
    refusals: list[Refusal] = []
    if evaluation := outputs.get("Evaluator", {}).get("evaluation"):
        values["evaluation"] = Evaluation.model_validate_json(_read(evaluation, FIGURES_FILE))
        values["gates"] = Gates.model_validate_json(_read(evaluation, GATES_FILE))
        refusals += map(of_gate, values["gates"].failures())
    if infra := outputs.get("ServingValidator", {}).get("blessing"):
        values["servable"] = infra.custom_properties["blessed"].int_value == 1
        values["checks"] = json.loads(_read(infra, CHECKS_FILE))
        refusals += [_of_check(check) for check in values["checks"] if not check["passed"]]
    if explanations := outputs.get("GradCam", {}).get("explanations"):
        values["explanations"] = join(explanations.uri, PAGE_FILE)
        values["num_explained"] = len(json.loads(_read(explanations, INDEX_FILE)))
        values["faithfulness"] = Report.model_validate_json(_read(explanations, FAITHFULNESS_FILE))
        refusals += map(_of_figure, values["faithfulness"].failures())
    pushed = outputs.get("Pusher", {}).get("pushed_model")
    if pushed and pushed.custom_properties["pushed"].int_value == 1:
        version = int(pushed.custom_properties["pushed_version"].string_value)
        destination = pushed.custom_properties["pushed_destination"].string_value
        if model_versions.is_withdrawn(destination):
            values["rolled_back"] = version
            refusals.append(_of_roll_back(version))
        else:
            values["pushed_version"], values["serving_dir"] = version, destination
    if report := outputs.get("ModelReport", {}).get("report"):
        values["report"] = join(report.uri, REPORT_FILE)
    return RunResult(refusals=refusals, **values)


def _tuning(outputs: dict[str, metadata_store_pb2.Artifact]) -> dict[str, Any]:
    chosen, results = outputs["best_hyperparameters"], outputs["tuner_results"]
    with locations.os_errors(chosen.uri):
        (name,) = locations.file_system(chosen.uri).listdir(chosen.uri)
    trials = list(csv.DictReader(io.StringIO(_read(results, TRIALS_FILE).decode(), newline="")))
    (best,) = (trial for trial in trials if trial["rank"] == "1")
    return {
        "objective": best["objective"],
        "value": float(best["value"]),
        "values": search_space.found_values(json.loads(_read(chosen, name))),
        "trials": len(trials),
        "failed": sum(not trial["rank"] for trial in trials),
        "table": join(results.uri, TRIALS_FILE),
    }


def _read(artifact: metadata_store_pb2.Artifact, name: str) -> bytes:
    return locations.read(join(artifact.uri, name))


def of_gate(gate: Gate) -> Refusal:
    """A verdict of the Evaluator: for whom, the figure, the bound, and by how much it was missed."""
    return Refusal(
        gate="Evaluator",
        figure=gate.metric,
        whom=gate.whom,
        value=gate.value,
        bound=gate.bound,
        missed_by=gate.missed_by,
        detail=f"{gate.subject} {gate.detail}",
    )


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


def _of_roll_back(version: int) -> Refusal:
    detail = (
        f"version {version}, this very model, was rolled back; `tfx-vision rollback CONFIG --to {version}` undoes it"
    )
    return Refusal("Pusher", "rolled back", "all", None, None, None, detail)


def _of_figure(figure: Figure) -> Refusal:
    return Refusal(
        gate="GradCam",
        figure=figure.name,
        whom="all",
        value=figure.value,
        bound=figure.bound,
        missed_by=_missed_by(figure.value, figure.bound),
        detail=figure.detail,
    )


def _missed_by(value: float | None, bound: float | None) -> float | None:
    return None if value is None or bound is None else abs(value - bound)
