"""What nodes do that Kubeflow Pipelines needs in the place of ML Metadata, and of the local runner's verdict.

They move small files on a volume that outlives a run. They import neither TFX nor TensorFlow, which take longer to
load than these nodes take to work.
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

# Of an artifact: there is nothing in it. Kubeflow Pipelines has no inputs that are sometimes there and sometimes not,
# so the entrypoint takes an input with this property away before an executor sees it.
ABSENT = "absent"
# Of ExampleValidator's anomalies: why it refuses the pictures.
REFUSAL = "refusal"

_EXPORT_FOLDER = "Format-Serving"  # where TFX looks for the SavedModel of a Model


@dataclass
class Artifact:
    """An artifact without TFX.

    Attributes:
      path: Its folder.
      properties: What is said of it beside.
    """

    path: Path
    properties: dict[str, Any] = field(default_factory=dict)


Artifacts = dict[str, Artifact]


class RefusedError(Exception):
    """A gate does not let the pictures or the model pass; this is no failure of the program."""


class PlainExecutor(abc.ABC):
    """An executor that the entrypoint calls without TFX."""

    @abc.abstractmethod
    def run(self, inputs: Artifacts, outputs: Artifacts, parameters: dict[str, Any]) -> None:
        """Does the node's work.

        Args:
          inputs: By name.
          outputs: By name; their folders exist and are empty.
          parameters: Execution properties.

        Raises:
          RefusedError: If it is a gate, and closed.
        """


# --- Earlier runs -----------------------------------------------------------------------------------------------


class PreviousSpan(PlainExecutor):
    """Statistics and schema of the newest earlier span that PicturesGate has let pass, or nothing."""

    def run(self, inputs: Artifacts, outputs: Artifacts, parameters: dict[str, Any]) -> None:
        """Copies `statistics` and `schema` from `spans_dir`, from the span next below that of `current`."""
        current = _span(inputs["current"])
        spans = {int(path.name): path for path in _children(Path(parameters["spans_dir"])) if path.name.isdigit()}
        earlier = [span for span in spans if span < current]
        if not earlier:
            for output in outputs.values():
                _leave_absent(output, f"There is no span before {current}.")
            return
        kept = spans[max(earlier)]
        for name, output in outputs.items():
            shutil.copytree(kept / name, output.path, dirs_exist_ok=True)
            output.properties.update(json.loads((kept / f"{name}.json").read_text()))


class ServedModel(PlainExecutor):
    """The newest served version that is not the candidate itself and knows the same classes, or nothing.

    What is served has passed every gate. Where a version was rolled back, the one before it is the model to beat.
    """

    def run(self, inputs: Artifacts, outputs: Artifacts, parameters: dict[str, Any]) -> None:
        """Copies a version from `model_base_path` into `model`, as Trainer would have left it."""
        candidate = inputs["candidate"].path / _EXPORT_FOLDER
        labels = _labels(candidate)
        output = outputs["model"]
        for version in model_versions.find(parameters["model_base_path"]).served:
            path = Path(parameters["model_base_path"]) / str(version)
            if _labels(path) == labels and not _same_files(candidate, path):
                shutil.copytree(path, output.path / _EXPORT_FOLDER)
                output.properties["version"] = str(version)
                return
        _leave_absent(output, f"No other model of these classes is served from {parameters['model_base_path']}.")


# --- Gates ------------------------------------------------------------------------------------------------------


class PicturesGate(PlainExecutor):
    """Ends the run where ExampleValidator refuses the pictures; keeps what the next span is held against."""

    def run(self, inputs: Artifacts, outputs: Artifacts, parameters: dict[str, Any]) -> None:
        """Keeps `statistics` and `schema` in `spans_dir`.

        Raises:
          RefusedError: With ExampleValidator's words.
        """
        refusal = inputs["anomalies"].properties.get(REFUSAL)
        if refusal:
            _note(parameters, {"verdict": "refused", "by": ["ExampleValidator"], "reason": refusal})
            raise RefusedError(f"ExampleValidator refuses the pictures. {refusal}")
        kept = Path(parameters["spans_dir"]) / str(_span(inputs["statistics"]))
        staging = kept.with_name(f"{kept.name}.{_file_name(parameters['run_id'])}.partial")
        shutil.rmtree(staging, ignore_errors=True)
        staging.mkdir(parents=True)
        for name in ("statistics", "schema"):
            shutil.copytree(inputs[name].path, staging / name)
            (staging / f"{name}.json").write_text(json.dumps(inputs[name].properties))
        shutil.rmtree(kept, ignore_errors=True)
        staging.rename(kept)


class ModelGate(PlainExecutor):
    """Ends the run where nothing was pushed, so that a refused model is seen from outside."""

    def run(self, inputs: Artifacts, outputs: Artifacts, parameters: dict[str, Any]) -> None:
        """Reads `pushed_model`, `blessing`, `infra_blessing` and `explanations`.

        Raises:
          RefusedError: With the names of those that refuse the model.
        """
        pushed = inputs["pushed_model"].properties
        if pushed.get("pushed") == 1:
            version, place = pushed.get("pushed_version"), pushed.get("pushed_destination")
            _note(parameters, {"verdict": "pushed", "version": version, "destination": place})
            print(f"pushed version {version}: {place}")
            return
        judges = (("Evaluator", "blessing"), ("ServingValidator", "infra_blessing"), ("GradCam", "explanations"))
        against = [name for name, key in judges if inputs[key].properties.get("blessed") != 1]
        if not against:
            raise RuntimeError("every gate has let the model pass, and Pusher has not pushed it; its log says why")
        reason = "its rules and checks are in the report"
        _note(parameters, {"verdict": "refused", "by": against, "reason": reason})
        raise RefusedError(f"{' and '.join(against)} refused the model; {reason}.")


class Verdict(PlainExecutor):
    """Says at the very end, whatever happened, what became of the run."""

    def run(self, inputs: Artifacts, outputs: Artifacts, parameters: dict[str, Any]) -> None:
        """Reads what the gates have noted, and `final_status`, Kubeflow Pipelines' own word (JSON)."""
        path = _note_path(parameters)
        found = json.loads(path.read_text()) if path.is_file() else None
        if found is None:
            status = json.loads(parameters["final_status"] or "{}")
            found = {"verdict": "failed", "state": status.get("state", "unknown")}
            _note(parameters, found)
        told = {
            "pushed": lambda: f"pushed version {found['version']}: {found['destination']}",
            "refused": lambda: f"refused by {' and '.join(found['by'])}: {found['reason']}",
            "failed": lambda: f"failed before any gate has judged (state {found['state']})",
        }
        print(f"verdict: {' '.join(told[found['verdict']]().split())}")


# --- Files ------------------------------------------------------------------------------------------------------


def _children(folder: Path) -> list[Path]:
    return sorted(folder.iterdir()) if folder.is_dir() else []


def _span(artifact: Artifact) -> int:
    return int(artifact.properties.get("span", 0))


def _leave_absent(output: Artifact, reason: str) -> None:
    output.properties[ABSENT] = 1
    # An empty folder is nothing to an object store.
    (output.path / "absent.txt").write_text(reason + "\n")
    print(reason)


def _labels(export: Path) -> str | None:
    path = export / features.LABELS_FILE
    return path.read_text() if path.is_file() else None


def _same_files(one: Path, other: Path) -> bool:
    names = [str(path.relative_to(one)) for path in one.rglob("*") if path.is_file()]
    return not any(filecmp.cmpfiles(one, other, names, shallow=False)[1:])


def _file_name(run_id: str) -> str:
    return re.sub(r"[^A-Za-z0-9-]", "_", run_id)


def _note_path(parameters: dict[str, Any]) -> Path:
    return Path(parameters["verdicts_dir"]) / f"{_file_name(parameters['run_id'])}.json"


def _note(parameters: dict[str, Any], verdict: dict[str, Any]) -> None:
    path = _note_path(parameters)
    path.parent.mkdir(parents=True, exist_ok=True)
    staging = path.with_suffix(".partial")
    staging.write_text(json.dumps(verdict, indent=2))
    os.replace(staging, path)
