"""What a pod of Kubeflow Pipelines runs: makes of KFP's words what TFX understands, and of TFX's what KFP does.

KFP's launcher starts it as `python -m pipeline.kubeflow.entrypoint` with the arguments that TFX compiles, when
it has downloaded the inputs; it uploads the outputs afterwards. Between the two TFX 1.21 fails by itself:

* KFP hands artifacts on without their types. They stand in another argument, the component's inputs.
* KFP's URIs are its store's, `minio://` for one, which TFX cannot read. The files lie in folders of the pod.
* KFP has no inputs that may be absent. Artifacts that say that they are empty are taken away.
* KFP adds an output of its own, the log, of a type that TFX does not know.

An executor's failure ends the pod with one line, on standard error and as Kubernetes' termination message. What
ExampleValidator refuses is no failure: it is written down, and PicturesGate ends the run.

TFX is imported by those nodes only that need it.
"""

from __future__ import annotations

import argparse
import importlib
import json
import os
import sys
import traceback
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import trainer_module  # noqa: F401  (says which Keras before anything imports TensorFlow)
from components.cluster.executor import ABSENT, REFUSAL, Artifact, PlainExecutor, RefusedError
from trainer_module.error_text import first_line

FAILED, REFUSED = 1, 3

# Read here alone: they are set for a pod, or by a test that plays one.
DEBUG = "TFX_VISION_DEBUG"
MOUNT_ROOT = "TFX_VISION_MOUNT_ROOT"

# Where KFP's launcher puts what it downloads, and finds what it uploads.
_MOUNTS = {"minio://": "minio", "s3://": "s3", "gs://": "gcs"}
_TERMINATION_LOG = "dev/termination-log"
_MOST_CHARACTERS = 1000  # Kubernetes keeps 4096 bytes of it

Json = dict[str, Any]


class UnknownStoreError(Exception):
    """A URI of a store that KFP's launcher does not download from."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs one node.

    Args:
      arguments: Of the command line.

    Returns:
      0 done, 1 failed, 3 refused by a gate.
    """
    parser = argparse.ArgumentParser(prog="kubeflow_entrypoint", allow_abbrev=False)
    parser.add_argument("--node_id", required=True)
    parser.add_argument("--executor_class_path", required=True)
    parser.add_argument("--json_serialized_invocation_args", required=True)
    parser.add_argument("--json_serialized_inputs_spec_args", default="{}")
    args, beam_args = parser.parse_known_args(arguments)
    root = Path(os.environ.get(MOUNT_ROOT, "/"))
    try:
        invocation = json.loads(args.json_serialized_invocation_args)
        restore_types(invocation, json.loads(args.json_serialized_inputs_spec_args))
        leave_out_absent(invocation)
        leave_out_logs(invocation)
        uris = map_uris(invocation, root)
        run(args.executor_class_path, invocation, args.json_serialized_inputs_spec_args, beam_args)
        map_back(invocation, uris)
    except RefusedError as error:
        _say(root, f"refused: {args.node_id}: {error}")
        return REFUSED
    except Exception as error:
        if os.environ.get(DEBUG):
            traceback.print_exc()
        _say(root, f"error: {args.node_id}: {type(error).__name__}: {first_line(error)}")
        return FAILED
    return 0


# --- What KFP says ----------------------------------------------------------------------------------------------


def restore_types(invocation: Json, inputs_spec: Json) -> None:
    """Gives every input artifact the type that the component declares."""
    declared = inputs_spec.get("artifacts", {})
    for name, artifact in _artifacts(invocation.get("inputs", {})):
        artifact["type"] = declared[name]["artifactType"]


def leave_out_absent(invocation: Json) -> None:
    """Takes away the inputs that are there only since KFP demands it."""
    inputs = invocation.get("inputs", {})
    absent = {name for name, artifact in _artifacts(inputs) if artifact.get("metadata", {}).get(ABSENT)}
    for name in absent:
        del inputs["artifacts"][name]


def leave_out_logs(invocation: Json) -> None:
    """Takes away the outputs that KFP's launcher writes itself."""
    outputs = invocation["outputs"]
    types = {name: artifact.get("type", {}) for name, artifact in _artifacts(outputs)}
    for name, said in types.items():
        if said.get("schemaTitle", "").startswith("system."):
            del outputs["artifacts"][name]


def map_uris(invocation: Json, root: Path) -> dict[str, str]:
    """Replaces URIs by folders of this pod, and makes those of the outputs.

    Returns:
      The outputs' URIs, by folder.
    """
    for _, artifact in _artifacts(invocation.get("inputs", {})):
        artifact["uri"] = local_path(artifact["uri"], root)
    uris = {}
    for _, artifact in _artifacts(invocation["outputs"]):
        path = local_path(artifact["uri"], root)
        uris[path] = artifact["uri"]
        artifact["uri"] = path
        os.makedirs(path, exist_ok=True)
    return uris


def local_path(uri: str, root: Path) -> str:
    """Where KFP's launcher keeps what a URI names: `minio://bucket/key` → `/minio/bucket/key`.

    Raises:
      UnknownStoreError: If it does not know the store.
    """
    for scheme, folder in _MOUNTS.items():
        if uri.startswith(scheme):
            return str(root / folder / uri.removeprefix(scheme))
    raise UnknownStoreError(
        f"{uri} is in no store of {', '.join(_MOUNTS)}; set kubeflow.pipeline_root to one of these."
    )


def _artifacts(part: Json) -> Iterator[tuple[str, Json]]:
    for name, said in part.get("artifacts", {}).items():
        for artifact in said.get("artifacts", []):
            yield name, artifact


# --- The node ---------------------------------------------------------------------------------------------------


def run(executor_class_path: str, invocation: Json, inputs_spec: str, beam_args: list[str]) -> None:
    """Hands over to the executor, and sees that its output file is written."""
    module, _, name = executor_class_path.rpartition(".")
    executor_class = getattr(importlib.import_module(module), name)
    if issubclass(executor_class, PlainExecutor):
        _run_plain(executor_class(), invocation)
        return
    from tfx.orchestration.kubeflow.v2.container import kubeflow_v2_run_executor

    from components.example_validator.executor import AnomaliesFoundError

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
    def plain(part: Json) -> dict[str, Artifact]:
        return {name: Artifact(Path(said["uri"]), said.setdefault("metadata", {})) for name, said in _artifacts(part)}

    inputs = invocation.get("inputs", {})
    # The outputs' properties are those of the invocation: what is added to them is written below.
    executor.run(plain(inputs), plain(invocation["outputs"]), inputs.get("parameterValues", {}))
    _write_output(invocation)


def _write_output(invocation: Json) -> None:
    written = [
        (name, {"uri": said["uri"], "metadata": said["metadata"]}) for name, said in _artifacts(invocation["outputs"])
    ]
    path = Path(invocation["outputs"]["outputFile"])
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps({"artifacts": {name: {"artifacts": [artifact]} for name, artifact in written}}))


# --- What KFP is told -------------------------------------------------------------------------------------------


def map_back(invocation: Json, uris: dict[str, str]) -> None:
    """Replaces folders of this pod by URIs in the file that KFP's launcher reads."""
    path = Path(invocation["outputs"]["outputFile"])
    output = json.loads(path.read_text())
    for _, artifact in _artifacts(output):
        artifact["uri"] = uris[artifact["uri"]]
    path.write_text(json.dumps(output))


def _say(root: Path, text: str) -> None:
    """The last line of the log, and what Kubernetes shows of a pod that has failed."""
    line = " ".join(text.split())[:_MOST_CHARACTERS]
    sys.stdout.flush()
    print(line, file=sys.stderr, flush=True)
    try:
        # Kubernetes makes the file; there is none elsewhere.
        with (root / _TERMINATION_LOG).open("r+") as file:
            file.write(line)
    except OSError:
        return


if __name__ == "__main__":
    # What a gate refuses is told apart by the code; KFP's launcher makes 1 of every other.
    sys.exit(main())
