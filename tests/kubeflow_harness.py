"""Plays Kubeflow Pipelines' driver and launcher on this machine, for a compiled pipeline.

It does what their sources do (kubeflow/pipelines, backend/src/v2: driver/, component/launcher_v2.go): the driver makes
an ExecutorInput, whose input artifacts have an empty type, numbers that went through ML Metadata as doubles, and
properties that KFP adds; the launcher downloads the inputs from the store to a folder of the pod, starts the
container's command, and uploads the outputs. Every pod has folders of its own, which are removed with it: only the
store and what is mounted outlive it. A task that fails is not tried again, no other is begun after it, and the exit
handler runs last.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import time
import uuid
from concurrent.futures import FIRST_COMPLETED, ThreadPoolExecutor, wait
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml
from google.protobuf import json_format
from kfp.pipeline_spec import pipeline_spec_pb2

DAG = "tfx-dag"
Json = dict[str, Any]


class HarnessError(Exception):
    """The launcher or driver would have failed here."""


@dataclass
class Task:
    """What became of a task.

    Attributes:
      name: Its name in the pipeline.
      exit_code: Of its container.
      seconds: Wall time of the container.
      last_line: Of its log.
      outputs: Artifacts as ML Metadata has them, by key.
    """

    name: str
    exit_code: int
    seconds: float
    last_line: str
    outputs: dict[str, Json] = field(default_factory=dict)


@dataclass
class Run:
    """What became of a run: its tasks in the order in which they ended."""

    run_id: str
    tasks: dict[str, Task]

    @property
    def succeeded(self) -> bool:
        """Whether no task of the DAG has failed."""
        return all(task.exit_code == 0 for task in self.tasks.values())

    def table(self) -> str:
        """A line for every task."""
        return "\n".join(
            f"{task.name:<18} exit {task.exit_code}  {task.seconds:5.1f} s  {task.last_line[:120]}"
            for task in self.tasks.values()
        )


class Harness:
    """One installation of Kubeflow Pipelines."""

    def __init__(self, documents: str, folder: Path, *, scheme: str = "minio") -> None:
        """Takes what it plays with.

        Args:
          documents: The compiled YAML.
          folder: For the store, pods and logs.
          scheme: `minio`, `s3` or `gs`.
        """
        spec, self.platform = yaml.safe_load_all(documents)
        self.spec = json_format.ParseDict(spec, pipeline_spec_pb2.PipelineSpec())
        self.executors = json_format.ParseDict(
            spec["deploymentSpec"], pipeline_spec_pb2.PipelineDeploymentConfig()
        ).executors
        self.tasks = self.spec.components[DAG].dag.tasks if DAG in self.spec.components else {}
        self.scheme = scheme
        self.mount = {"minio": "minio", "s3": "s3", "gs": "gcs"}[scheme]
        self.folder = folder
        self.store = folder / "store"
        self.num_artifacts = 0

    # --- The workflow -------------------------------------------------------------------------------------------

    def run(self, parameters: Json | None = None, *, at_once: int = 2) -> Run:
        """Runs all tasks, and the exit handler."""
        given = {name: said.default_value for name, said in self.spec.root.input_definitions.parameters.items()}
        given = {name: json_format.MessageToDict(value) for name, value in given.items()} | (parameters or {})
        run = Run(str(uuid.uuid4()), {})
        waiting = dict(self.tasks)
        with ThreadPoolExecutor(at_once) as pool:
            running = {}
            while waiting or running:
                for name, task in list(waiting.items()):
                    ready = all(dependency in run.tasks for dependency in task.dependent_tasks)
                    if ready and run.succeeded and len(running) < at_once:
                        del waiting[name]
                        executor_input = self.drive(name, task, run, given)
                        running[pool.submit(self.launch, name, task, executor_input)] = name
                if not running:
                    break
                done, _ = wait(running, return_when=FIRST_COMPLETED)
                for future in done:
                    run.tasks[running.pop(future)] = future.result()
        for name, task in self.spec.root.dag.tasks.items():
            if name != DAG:
                assert list(task.dependent_tasks) == [DAG]
                run.tasks[name] = self.launch(name, task, self.drive(name, task, run, given))
        return run

    # --- The driver ---------------------------------------------------------------------------------------------

    def drive(self, name: str, task: Any, run: Run, given: Json) -> Json:
        """Makes the ExecutorInput of a task, as JSON."""
        component = self.spec.components[task.component_ref.name]
        values = {}
        for key, said in task.inputs.parameters.items():
            kind = said.WhichOneof("kind")
            if kind == "runtime_value":
                value = json_format.MessageToDict(said.runtime_value.constant)
                value = run.run_id if value == "{{$.pipeline_job_uuid}}" else value
            elif kind == "component_input_parameter":
                passed = self.spec.root.dag.tasks[DAG].inputs.parameters[said.component_input_parameter]
                assert said.component_input_parameter in self.spec.components[DAG].input_definitions.parameters
                value = given[passed.component_input_parameter]
            elif kind == "task_final_status":
                # A struct, which the driver makes text of for a parameter of type STRING.
                assert said.task_final_status.producer_task == DAG
                state = "COMPLETE" if run.succeeded else "FAILED"
                value = json.dumps({"state": state, "pipelineTaskName": DAG, "error": {}})
            else:
                raise HarnessError(f"{name}.{key}: {kind} is not implemented")
            values[key] = value
        artifacts = {}
        for key, said in task.inputs.artifacts.items():
            producer = said.task_output_artifact
            assert producer.producer_task in task.dependent_tasks
            artifact = run.tasks[producer.producer_task].outputs[producer.output_artifact_key]
            artifacts[key] = {"artifacts": [artifact]}
        folder = (
            f"{self.scheme}://mlpipeline/v2/artifacts/{self.spec.pipeline_info.name}/{run.run_id}/{name}/{uuid.uuid4()}"
        )
        outputs = {
            key: {"artifacts": [{"uri": f"{folder}/{key}", "type": json_format.MessageToDict(said.artifact_type)}]}
            for key, said in component.output_definitions.artifacts.items()
        }
        output_file = str(self.pod(name) / "tmp/kfp_outputs/output_metadata.json")
        executor_input = {
            "inputs": {"parameterValues": values, "artifacts": artifacts},
            "outputs": {"artifacts": outputs, "outputFile": output_file},
        }
        message = json_format.ParseDict(executor_input, pipeline_spec_pb2.ExecutorInput())
        return json_format.MessageToDict(message)

    # --- The launcher -------------------------------------------------------------------------------------------

    def pod(self, name: str) -> Path:
        """The root of a pod's file system."""
        return self.folder / "pods" / name

    def local_path(self, root: Path, uri: str) -> Path:
        """LocalPathForURI of the launcher."""
        if not uri.startswith(f"{self.scheme}://"):
            raise HarnessError(f"unsupported storage scheme: {uri}")
        return root / self.mount / uri.removeprefix(f"{self.scheme}://")

    def stored(self, uri: str) -> Path:
        """Where the store keeps it."""
        return self.store / uri.removeprefix(f"{self.scheme}://")

    def launch(self, name: str, task: Any, executor_input: Json) -> Task:
        """Runs a task's container."""
        root = self.pod(name)
        for said in executor_input["inputs"].get("artifacts", {}).values():
            for artifact in said["artifacts"]:
                local = self.local_path(root, artifact["uri"])
                if not local.exists():
                    shutil.copytree(self.stored(artifact["uri"]), local)
        for said in executor_input["outputs"].get("artifacts", {}).values():
            for artifact in said["artifacts"]:
                self.local_path(root, artifact["uri"]).parent.mkdir(parents=True, exist_ok=True)
        (root / "dev").mkdir(parents=True)
        (root / "dev/termination-log").touch()
        log = self.folder / f"{name}.log"
        start = time.monotonic()
        with log.open("w") as file:
            done = subprocess.run(
                self.command(name, task, executor_input),
                env=self.environment(name, task, root),
                cwd=root,
                stdout=file,
                stderr=subprocess.STDOUT,
                timeout=600,
                check=False,
            )
        seconds = time.monotonic() - start
        last = (log.read_text(errors="replace").splitlines() or [""])[-1]
        if done.returncode != 0:
            # What `kubectl describe pod` shows is what the log ends with.
            assert (root / "dev/termination-log").read_text() == last
        outputs = self.publish(executor_input, root) if done.returncode == 0 else {}
        shutil.rmtree(root)
        return Task(name, done.returncode, seconds, last, outputs)

    def container(self, task: Any) -> Any:
        """The container spec of a task."""
        return self.executors[self.spec.components[task.component_ref.name].executor_label].container

    def command(self, name: str, task: Any, executor_input: Json) -> list[str]:
        """The container's command line, placeholders replaced."""
        container = self.container(task)
        text = json.dumps(executor_input)
        interpreter, *rest = [*container.command, *container.args]
        assert interpreter == "python"
        return [sys.executable, *(argument.replace("{{$}}", text) for argument in rest)]

    def environment(self, name: str, task: Any, root: Path) -> dict[str, str]:
        """The container's variables: its own, and what makes this machine one."""
        own = {said.name: said.value for said in self.container(task).env}
        kept = {key: os.environ[key] for key in ("PATH", "LANG", "NICE") if key in os.environ}
        return {**kept, "HOME": str(root), "TMPDIR": str(self.folder), "TFX_VISION_MOUNT_ROOT": str(root), **own}

    def publish(self, executor_input: Json, root: Path) -> dict[str, Json]:
        """Uploads the outputs, and gives them to ML Metadata and back."""
        path = Path(executor_input["outputs"]["outputFile"])
        written = pipeline_spec_pb2.ExecutorOutput()
        if path.exists():
            json_format.Parse(path.read_text(), written)
        found = {}
        for key, said in executor_input["outputs"].get("artifacts", {}).items():
            (artifact,) = said["artifacts"]
            metadata = dict(artifact.get("metadata", {}))
            uri = artifact["uri"]
            if key in written.artifacts:
                (own,) = written.artifacts[key].artifacts
                uri = own.uri or uri
                metadata |= json_format.MessageToDict(own.metadata)
            local = self.local_path(root, uri)
            if local.exists():
                # An object store has no empty folders.
                for file in local.rglob("*"):
                    if file.is_file():
                        target = self.stored(uri) / file.relative_to(local)
                        target.parent.mkdir(parents=True, exist_ok=True)
                        shutil.copyfile(file, target)
            self.num_artifacts += 1
            found[key] = {
                "name": str(self.num_artifacts),
                "uri": uri,
                "type": {"instanceSchema": ""},
                "metadata": {**metadata, "display_name": key, "store_session_info": '{"Provider":"minio"}'},
            }
        return found
