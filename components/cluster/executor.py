"""Executors of the nodes that run on Kubeflow Pipelines only: they replace ML Metadata and the local runner's verdict.

They copy small files on a volume that outlives a run. They import neither TFX nor TensorFlow, whose import takes longer
than the work of these nodes.
"""

from __future__ import annotations

import abc
import filecmp
import json
import os
import re
import shutil
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from trainer_module import features, model_versions

# Property of an artifact that has no content. Kubeflow Pipelines has no optional inputs, so the entrypoint removes an
# input with this property before an executor sees it.
ABSENT = "absent"
# Property of ExampleValidator's anomalies: why it refuses the dataset.
REFUSAL = "refusal"

_EXPORT_FOLDER = "Format-Serving"  # TFX reads the SavedModel of a Model artifact from here


@dataclass
class Artifact:
    """An artifact without TFX.

    Attributes:
      path: Its folder.
      properties: Its properties.
    """

    path: Path
    properties: dict[str, Any] = field(default_factory=dict)


Artifacts = dict[str, Artifact]


class RefusedError(Exception):
    """A gate refuses the dataset or the model; the program has not failed."""


class PlainExecutor(abc.ABC):
    """An executor that the entrypoint calls without TFX."""

    @abc.abstractmethod
    def run(self, inputs: Artifacts, outputs: Artifacts, parameters: dict[str, Any]) -> None:
        """Executes the node.

        Args:
          inputs: Input artifacts by name.
          outputs: Output artifacts by name; their folders exist and are empty.
          parameters: Execution properties.

        Raises:
          RefusedError: If the node is a gate that refuses its input.
        """


# --- Earlier runs -----------------------------------------------------------------------------------------------


class PreviousSpan(PlainExecutor):
    """Finds statistics and schema of the newest earlier span that DatasetGate has blessed."""

    def run(self, inputs: Artifacts, outputs: Artifacts, parameters: dict[str, Any]) -> None:
        """Copies `statistics` and `schema` of the latest span before that of `current` from `spans_dir`.

        Without such a span the outputs get the property `absent`.
        """
        current = _span(inputs["current"])
        spans = {int(path.name): path for path in _children(Path(parameters["spans_dir"])) if path.name.isdigit()}
        earlier = [span for span in spans if span < current]
        if not earlier:
            for output in outputs.values():
                _mark_absent(output, f"There is no span before {current}.")
            return
        span_dir = spans[max(earlier)]
        for name, output in outputs.items():
            shutil.copytree(span_dir / name, output.path, dirs_exist_ok=True)
            output.properties.update(json.loads((span_dir / f"{name}.json").read_text()))


class ServedModel(PlainExecutor):
    """Finds the newest served version that is not the candidate itself.

    Every gate has blessed what is served. If a version was rolled back, the one before it is the baseline.
    """

    def run(self, inputs: Artifacts, outputs: Artifacts, parameters: dict[str, Any]) -> None:
        """Copies a version from `model_base_path` to `model`, in the folders of Trainer's output.

        Without such a version the output gets the property `absent`.
        """
        candidate = inputs["candidate"].path / _EXPORT_FOLDER
        output = outputs["model"]
        for version in model_versions.list_versions(parameters["model_base_path"]).served:
            path = Path(parameters["model_base_path"]) / str(version)
            if (path / features.LABELS_FILE).is_file() and not _same_files(candidate, path):
                shutil.copytree(path, output.path / _EXPORT_FOLDER)
                output.properties["version"] = str(version)
                return
        _mark_absent(output, f"No other model is served from {parameters['model_base_path']}.")


# --- Gates ------------------------------------------------------------------------------------------------------


class DatasetGate(PlainExecutor):
    """Ends the run if ExampleValidator refuses the dataset; otherwise stores what the next span is compared with."""

    def run(self, inputs: Artifacts, outputs: Artifacts, parameters: dict[str, Any]) -> None:
        """Copies `statistics` and `schema` to `spans_dir`.

        Raises:
          RefusedError: With ExampleValidator's message.
        """
        refusal = inputs["anomalies"].properties.get(REFUSAL)
        if refusal:
            _write_verdict(parameters, {"verdict": "refused", "by": ["ExampleValidator"], "reason": refusal})
            raise RefusedError(f"ExampleValidator refuses the dataset. {refusal}")
        span_dir = Path(parameters["spans_dir"]) / str(_span(inputs["statistics"]))
        staging = span_dir.with_name(f"{span_dir.name}.{_file_name(parameters['run_id'])}.partial")
        shutil.rmtree(staging, ignore_errors=True)
        staging.mkdir(parents=True)
        for name in ("statistics", "schema"):
            shutil.copytree(inputs[name].path, staging / name)
            (staging / f"{name}.json").write_text(json.dumps(inputs[name].properties))
        shutil.rmtree(span_dir, ignore_errors=True)
        staging.rename(span_dir)


class ModelGate(PlainExecutor):
    """Ends the run if nothing was pushed, so that Kubeflow Pipelines shows a refused model as a failed run."""

    def run(self, inputs: Artifacts, outputs: Artifacts, parameters: dict[str, Any]) -> None:
        """Reads `pushed_model`, `blessing`, `infra_blessing` and `explanations`.

        Raises:
          RefusedError: With the names of the gates that refused the model.
        """
        pushed = inputs["pushed_model"].properties
        if pushed.get("pushed") == 1:
            version, destination = pushed.get("pushed_version"), pushed.get("pushed_destination")
            _write_verdict(parameters, {"verdict": "pushed", "version": version, "destination": destination})
            print(f"pushed version {version}: {destination}")
            return
        gates = (("Evaluator", "blessing"), ("ServingValidator", "infra_blessing"), ("GradCam", "explanations"))
        refusing = [name for name, key in gates if inputs[key].properties.get("blessed") != 1]
        if not refusing:
            raise RuntimeError("Every gate has blessed the model, but Pusher has not pushed it. See Pusher's log.")
        reason = "see the report for its thresholds and checks"
        _write_verdict(parameters, {"verdict": "refused", "by": refusing, "reason": reason})
        raise RefusedError(f"{' and '.join(refusing)} refused the model; {reason}.")


class RunVerdict(PlainExecutor):
    """Prints the outcome of the run after all other nodes, whether these succeeded or not."""

    def run(self, inputs: Artifacts, outputs: Artifacts, parameters: dict[str, Any]) -> None:
        """Reads what the gates have written, and `final_status`, the JSON of Kubeflow Pipelines."""
        path = _verdict_path(parameters)
        if path.is_file():
            outcome = json.loads(path.read_text())
        else:
            state = json.loads(parameters["final_status"] or "{}").get("state", "unknown")
            outcome = {"verdict": "failed", "state": state}
            _write_verdict(parameters, outcome)
        if outcome["verdict"] == "pushed":
            line = f"pushed version {outcome['version']}: {outcome['destination']}"
        elif outcome["verdict"] == "refused":
            line = f"refused by {' and '.join(outcome['by'])}: {outcome['reason']}"
        else:
            line = f"failed before the last gate (state {outcome['state']})"
        print(f"verdict: {' '.join(line.split())}")


# --- Files ------------------------------------------------------------------------------------------------------


def _children(folder: Path) -> list[Path]:
    return sorted(folder.iterdir()) if folder.is_dir() else []


def _span(artifact: Artifact) -> int:
    return int(artifact.properties.get("span", 0))


def _mark_absent(output: Artifact, reason: str) -> None:
    output.properties[ABSENT] = 1
    # An object store does not store an empty folder.
    (output.path / "absent.txt").write_text(reason + "\n")
    print(reason)


def _same_files(one: Path, other: Path) -> bool:
    names = [str(path.relative_to(one)) for path in one.rglob("*") if path.is_file()]
    return not any(filecmp.cmpfiles(one, other, names, shallow=False)[1:])


def _file_name(run_id: str) -> str:
    return re.sub(r"[^A-Za-z0-9-]", "_", run_id)


def _verdict_path(parameters: dict[str, Any]) -> Path:
    return Path(parameters["verdicts_dir"]) / f"{_file_name(parameters['run_id'])}.json"


def _write_verdict(parameters: dict[str, Any], verdict: dict[str, Any]) -> None:
    path = _verdict_path(parameters)
    path.parent.mkdir(parents=True, exist_ok=True)
    staging = path.with_suffix(".partial")
    staging.write_text(json.dumps(verdict, indent=2))
    os.replace(staging, path)
