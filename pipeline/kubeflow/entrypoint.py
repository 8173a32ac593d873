"""Entry point of the pods of Kubeflow Pipelines: translates between KFP and TFX.

KFP's launcher downloads the inputs, starts `python -m pipeline.kubeflow.entrypoint` with the arguments that TFX
compiled, and uploads the outputs. TFX 1.21 alone fails there, for four reasons:

* KFP passes artifacts without their types. The types are in another argument, the inputs of the component.
* KFP passes URIs of its store, for example `minio://`, which TFX cannot read. The files are in folders of the pod.
* KFP has no optional inputs. Artifacts that are marked as absent are removed.
* KFP adds an output for the log, of a type that TFX does not know.

With `--artifacts`, a folder that also the workers of a Beam engine see, the files are there and not in the pod: KFP's
launcher finds nothing to download or upload, and its URIs only name the folders.

A failed executor ends the pod with one line, on standard error and as Kubernetes' termination message. A refusal of
ExampleValidator is not a failure: it is stored with the outputs, and DatasetGate ends the run.

Only the nodes that need TFX import it.
"""

from __future__ import annotations

import argparse
import importlib
import json
import os
import sys
import tempfile
import traceback
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import trainer_module  # noqa: F401  (selects the Keras version before anything imports TensorFlow)
from components.cluster.executor import ABSENT, REFUSAL, Artifact, PlainExecutor, RefusedError
from pipeline.kubeflow import light_imports
from pipeline.nodes import TUNER
from trainer_module import locations
from trainer_module.error_text import first_line

FAILED, REFUSED = 1, 3

# Environment variables of a pod, or of a test that simulates one; read only here.
DEBUG = "TFX_VISION_DEBUG"
MOUNT_ROOT = "TFX_VISION_MOUNT_ROOT"

# Where KFP's launcher stores downloads and reads uploads.
_MOUNTS = {"minio://": "minio", "s3://": "s3", "gs://": "gcs"}
_PLAIN = "components.cluster."  # executors that do not need TFX
_DATAFLOW = "--runner=DataflowRunner"  # may import BigQuery
_USED = {TUNER: ("sklearn",)}  # Bayesian optimisation
_OUTPUT_FILE = "output_metadata.json"
_TERMINATION_LOG = "dev/termination-log"
_MOST_CHARACTERS = 1000  # Kubernetes keeps 4096 bytes of it

Json = dict[str, Any]


class UnknownStoreError(Exception):
    """The URI of a store that KFP's launcher does not support."""


def main(arguments: Sequence[str] | None = None, *, own_process: bool = False) -> int:
    """Runs one node.

    Args:
      arguments: The command line.
      own_process: Whether this process runs nothing else, so that packages that the node does not use can be withheld.

    Returns:
      0 done, 1 failed, 3 refused by a gate.
    """
    parser = argparse.ArgumentParser(prog="kubeflow_entrypoint", allow_abbrev=False)
    parser.add_argument("--node_id", required=True)
    parser.add_argument("--artifacts")
    parser.add_argument("--executor_class_path", required=True)
    parser.add_argument("--json_serialized_invocation_args", required=True)
    parser.add_argument("--json_serialized_inputs_spec_args", default="{}")
    args, beam_args = parser.parse_known_args(arguments)
    root = Path(os.environ.get(MOUNT_ROOT, "/"))
    try:
        invocation = json.loads(args.json_serialized_invocation_args)
        restore_types(invocation, json.loads(args.json_serialized_inputs_spec_args))
        remove_absent(invocation)
        remove_logs(invocation)
        output_file = invocation["outputs"]["outputFile"]
        uris = map_uris(invocation, root, args.artifacts)
        if own_process and not args.executor_class_path.startswith(_PLAIN) and _DATAFLOW not in beam_args:
            light_imports.install(used=_USED.get(args.node_id, ()))
        run(args.executor_class_path, invocation, args.json_serialized_inputs_spec_args, beam_args)
        restore_uris(invocation, uris, output_file)
    except RefusedError as error:
        _report(root, f"refused: {args.node_id}: {error}")
        return REFUSED
    except Exception as error:
        if os.environ.get(DEBUG):
            traceback.print_exc()
        _report(root, f"error: {args.node_id}: {first_line(error)}")
        return FAILED
    return 0


# --- Inputs from KFP --------------------------------------------------------------------------------------------


def restore_types(invocation: Json, inputs_spec: Json) -> None:
    """Sets the type of every input artifact to the one that the component declares."""
    declared = inputs_spec.get("artifacts", {})
    for name, artifact in _artifacts(invocation.get("inputs", {})):
        artifact["type"] = declared[name]["artifactType"]


def remove_absent(invocation: Json) -> None:
    """Removes inputs that only exist because KFP requires them."""
    inputs = invocation.get("inputs", {})
    absent = {name for name, artifact in _artifacts(inputs) if artifact.get("metadata", {}).get(ABSENT)}
    for name in absent:
        del inputs["artifacts"][name]


def remove_logs(invocation: Json) -> None:
    """Removes the outputs that KFP's launcher writes itself."""
    outputs = invocation["outputs"]
    types = {name: artifact.get("type", {}) for name, artifact in _artifacts(outputs)}
    for name, artifact_type in types.items():
        if artifact_type.get("schemaTitle", "").startswith("system."):
            del outputs["artifacts"][name]


def map_uris(invocation: Json, root: Path, artifacts: str | None = None) -> dict[str, str]:
    """Replaces URIs by folders, and creates those of the outputs.

    Args:
      invocation: ExecutorInput as JSON.
      root: The root of this pod's files.
      artifacts: The shared folder of the artifacts; without it, they are in this pod.

    Returns:
      The URIs of the outputs, by folder.
    """
    for _, artifact in _artifacts(invocation.get("inputs", {})):
        artifact["uri"] = local_path(artifact["uri"], root, artifacts)
    uris = {}
    for _, artifact in _artifacts(invocation["outputs"]):
        path = local_path(artifact["uri"], root, artifacts)
        uris[path] = artifact["uri"]
        artifact["uri"] = path
        files = locations.file_system(path)
        # A shared folder contains what a failed attempt has written.
        if files.exists(path):
            files.rmtree(path)
        files.makedirs(path)
        if artifacts:
            # TFX puts temporary files beside it, which the workers of an engine write.
            invocation["outputs"]["outputFile"] = locations.join(path.rpartition("/")[0], _OUTPUT_FILE)
    return uris


def local_path(uri: str, root: Path, artifacts: str | None = None) -> str:
    """The folder of a URI: `minio://bucket/key` → `/minio/bucket/key`, or `bucket/key` in the shared folder.

    Raises:
      UnknownStoreError: If KFP's launcher does not support the store.
    """
    for scheme, folder in _MOUNTS.items():
        if uri.startswith(scheme):
            path = uri.removeprefix(scheme)
            return locations.join(artifacts, path) if artifacts else str(root / folder / path)
    raise UnknownStoreError(f"{uri} is not a URI of {', '.join(_MOUNTS)}. Set kubeflow.pipeline_root to one of these.")


def _artifacts(part: Json) -> Iterator[tuple[str, Json]]:
    for name, entry in part.get("artifacts", {}).items():
        for artifact in entry.get("artifacts", []):
            yield name, artifact


# --- The node ---------------------------------------------------------------------------------------------------


def run(executor_class_path: str, invocation: Json, inputs_spec: str, beam_args: list[str]) -> None:
    """Runs the executor, and makes sure that its output file is written."""
    module, _, name = executor_class_path.rpartition(".")
    executor_class = getattr(importlib.import_module(module), name)
    if issubclass(executor_class, PlainExecutor):
        _run_plain(executor_class(), invocation)
        return
    from tfx.orchestration.kubeflow.v2.container import kubeflow_v2_run_executor

    from components.example_validator.findings import AnomaliesFoundError

    args = argparse.Namespace(
        executor_class_path=executor_class_path,
        json_serialized_invocation_args=json.dumps(invocation),
        json_serialized_inputs_spec_args=inputs_spec,
    )
    try:
        kubeflow_v2_run_executor.main((args, beam_args))
    except AnomaliesFoundError as error:
        print(f"refused: {error}")
        for _, artifact in _artifacts(invocation["outputs"]):
            artifact.setdefault("metadata", {})[REFUSAL] = str(error)
        _write_output(invocation)


def _run_plain(executor: PlainExecutor, invocation: Json) -> None:
    inputs = invocation.get("inputs", {})
    with tempfile.TemporaryDirectory() as folder:
        given = _plain(inputs, Path(folder, "inputs"))
        for name, artifact in _remote_artifacts(inputs):
            locations.copy_files(artifact["uri"], str(given[name].path))
        written = _plain(invocation["outputs"], Path(folder, "outputs"))
        # The executor adds properties to the artifacts of the invocation; they are written below.
        executor.run(given, written, inputs.get("parameterValues", {}))
        for name, artifact in _remote_artifacts(invocation["outputs"]):
            locations.copy_files(str(written[name].path), artifact["uri"])
    _write_output(invocation)


def _plain(part: Json, folder: Path) -> dict[str, Artifact]:
    """Artifacts without TFX; those in an object store get a folder of this pod."""
    artifacts = {}
    for name, artifact in _artifacts(part):
        path = Path(artifact["uri"])
        if locations.is_remote(artifact["uri"]):
            path = folder / name
            path.mkdir(parents=True)
        artifacts[name] = Artifact(path, artifact.setdefault("metadata", {}))
    return artifacts


def _remote_artifacts(part: Json) -> list[tuple[str, Json]]:
    return [(name, artifact) for name, artifact in _artifacts(part) if locations.is_remote(artifact["uri"])]


def _write_output(invocation: Json) -> None:
    outputs = {
        name: {"artifacts": [{"uri": artifact["uri"], "metadata": artifact["metadata"]}]}
        for name, artifact in _artifacts(invocation["outputs"])
    }
    path = invocation["outputs"]["outputFile"]
    locations.file_system(path).makedirs(path.rpartition("/")[0])
    locations.write(path, json.dumps({"artifacts": outputs}).encode())


# --- Outputs for KFP --------------------------------------------------------------------------------------------


def restore_uris(invocation: Json, uris: dict[str, str], output_file: str) -> None:
    """Replaces folders by URIs, and writes the file that KFP's launcher reads."""
    output = json.loads(locations.read(invocation["outputs"]["outputFile"]))
    for _, artifact in _artifacts(output):
        artifact["uri"] = uris[artifact["uri"]]
    Path(output_file).parent.mkdir(parents=True, exist_ok=True)
    Path(output_file).write_text(json.dumps(output))


def _report(root: Path, text: str) -> None:
    """Prints the reason, and writes it as the termination message of the pod; the launcher logs more lines after it."""
    line = " ".join(text.split())[:_MOST_CHARACTERS]
    sys.stdout.flush()
    print(line, file=sys.stderr, flush=True)
    try:
        # Kubernetes creates the file; it does not exist elsewhere.
        with (root / _TERMINATION_LOG).open("r+") as file:
            file.write(line)
    except OSError:
        return


if __name__ == "__main__":
    # Exit code 3 marks a refusal; KFP's launcher reports every failure as 1.
    sys.exit(main(own_process=True))
