"""Plays Kubeflow Pipelines' driver and launcher on this machine, for a compiled pipeline.

It does what their sources do (kubeflow/pipelines, backend/src/v2: driver/, component/launcher_v2.go): the driver makes
an ExecutorInput, whose input artifacts have an empty type, numbers that went through ML Metadata as doubles, and
properties that KFP adds; the launcher downloads the inputs from the store to a folder of the pod, starts the
container's command, and uploads the outputs. Every pod has folders of its own, which are removed with it: only the
store and what is mounted outlive it. A task that fails is not tried again, no other is begun after it, and the exit
handler runs last.

A container is a process of its own. Loading TFX takes it twenty seconds, so that it may be forked from an interpreter
that has loaded TFX and nothing of ours, or be this process.
"""

from __future__ import annotations

import contextlib
import io
import json
import os
import runpy
import shutil
import subprocess
import sys
import threading
import time
import uuid
from collections.abc import Callable
from concurrent.futures import FIRST_COMPLETED, ThreadPoolExecutor, wait
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml
from google.protobuf import json_format
from kfp.pipeline_spec import pipeline_spec_pb2

DAG = "tfx-dag"
LOGS = "executor-logs"  # which the launcher writes
Json = dict[str, Any]
# Runs a command line, with variables, in a folder, with a log: gives the exit code.
Container = Callable[[list[str], dict[str, str], Path, Path], int]


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

    def __init__(
        self, documents: str, folder: Path, *, scheme: str = "minio", container: Container | None = None
    ) -> None:
        """Takes what it plays with.

        Args:
          documents: The compiled YAML.
          folder: For the store, pods and logs.
          scheme: `minio`, `s3` or `gs`.
          container: How to run one; by itself as a new process.
        """
        self.start = container or new_process
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

    def executor_names(self) -> list[str]:
        """Names of all tasks that are pods."""
        return [label.removesuffix("_executor") for label in self.executors]

    # --- The workflow -------------------------------------------------------------------------------------------

    def run(self, parameters: Json | None = None, *, at_once: int = 2) -> Run:
        """Runs all tasks, and the exit handler."""
        given = {name: entry.default_value for name, entry in self.spec.root.input_definitions.parameters.items()}
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
        for key, entry in task.inputs.parameters.items():
            kind = entry.WhichOneof("kind")
            if kind == "runtime_value":
                value = json_format.MessageToDict(entry.runtime_value.constant)
                value = run.run_id if value == "{{$.pipeline_job_uuid}}" else value
            elif kind == "component_input_parameter":
                passed = self.spec.root.dag.tasks[DAG].inputs.parameters[entry.component_input_parameter]
                assert entry.component_input_parameter in self.spec.components[DAG].input_definitions.parameters
                value = given[passed.component_input_parameter]
            elif kind == "task_final_status":
                # A struct, which the driver makes text of for a parameter of type STRING.
                assert entry.task_final_status.producer_task == DAG
                state = "COMPLETE" if run.succeeded else "FAILED"
                value = json.dumps({"state": state, "pipelineTaskName": DAG, "error": {}})
            else:
                raise HarnessError(f"{name}.{key}: {kind} is not implemented")
            values[key] = value
        artifacts = {}
        for key, entry in task.inputs.artifacts.items():
            producer = entry.task_output_artifact
            assert producer.producer_task in task.dependent_tasks
            artifact = run.tasks[producer.producer_task].outputs[producer.output_artifact_key]
            artifacts[key] = {"artifacts": [artifact]}
        folder = (
            f"{self.scheme}://mlpipeline/v2/artifacts/{self.spec.pipeline_info.name}/{run.run_id}/{name}/{uuid.uuid4()}"
        )
        outputs = {
            key: {"artifacts": [{"uri": f"{folder}/{key}", "type": json_format.MessageToDict(entry.artifact_type)}]}
            for key, entry in component.output_definitions.artifacts.items()
        }
        log = {"uri": f"{folder}/{LOGS}", "type": {"schemaTitle": "system.Artifact"}}
        outputs[LOGS] = {"artifacts": [log]}
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
        try:
            return self._launch(name, task, executor_input, root)
        finally:
            shutil.rmtree(root)

    def _launch(self, name: str, task: Any, executor_input: Json, root: Path) -> Task:
        for entry in executor_input["inputs"].get("artifacts", {}).values():
            for artifact in entry["artifacts"]:
                local = self.local_path(root, artifact["uri"])
                # What has no files leaves no trace in an object store, and none in the pod.
                if not local.exists() and self.stored(artifact["uri"]).exists():
                    shutil.copytree(self.stored(artifact["uri"]), local)
        for entry in executor_input["outputs"].get("artifacts", {}).values():
            for artifact in entry["artifacts"]:
                self.local_path(root, artifact["uri"]).parent.mkdir(parents=True, exist_ok=True)
        self.local_path(root, executor_input["outputs"]["artifacts"][LOGS]["artifacts"][0]["uri"]).touch()
        (root / "dev").mkdir(parents=True)
        (root / "dev/termination-log").touch()
        log = self.folder / f"{name}.log"
        start = time.monotonic()
        exit_code = self.start(self.command(task, executor_input), self.environment(task, root), root, log)
        seconds = time.monotonic() - start
        last = (log.read_text(errors="replace").splitlines() or [""])[-1]
        if exit_code != 0:
            # What `kubectl describe pod` shows is what the log ends with.
            assert (root / "dev/termination-log").read_text() == last
        return Task(name, exit_code, seconds, last, self.publish(executor_input, root) if exit_code == 0 else {})

    def container(self, task: Any) -> Any:
        """The container spec of a task."""
        return self.executors[self.spec.components[task.component_ref.name].executor_label].container

    def command(self, task: Any, executor_input: Json) -> list[str]:
        """The container's command line, placeholders replaced."""
        container = self.container(task)
        text = json.dumps(executor_input)
        interpreter, *rest = [*container.command, *container.args]
        assert interpreter == "python"
        return [sys.executable, *(argument.replace("{{$}}", text) for argument in rest)]

    def environment(self, task: Any, root: Path) -> dict[str, str]:
        """The container's variables: its own, and what makes this machine one."""
        own = {entry.name: entry.value for entry in self.container(task).env}
        kept = {key: os.environ[key] for key in ("PATH", "LANG", "NICE") if key in os.environ}
        return {**kept, "HOME": str(root), "TMPDIR": str(self.folder), "TFX_VISION_MOUNT_ROOT": str(root), **own}

    def publish(self, executor_input: Json, root: Path) -> dict[str, Json]:
        """Uploads the outputs, and gives them to ML Metadata and back."""
        path = Path(executor_input["outputs"]["outputFile"])
        written = pipeline_spec_pb2.ExecutorOutput()
        if path.exists():
            json_format.Parse(path.read_text(), written)
        published = {}
        for key, entry in executor_input["outputs"].get("artifacts", {}).items():
            (artifact,) = entry["artifacts"]
            metadata = dict(artifact.get("metadata", {}))
            uri = artifact["uri"]
            if key in written.artifacts:
                (own,) = written.artifacts[key].artifacts
                uri = own.uri or uri
                metadata |= json_format.MessageToDict(own.metadata)
            local = self.local_path(root, uri)
            if local.exists():
                # An object store has no empty folders.
                for file in [local, *local.rglob("*")]:
                    if file.is_file():
                        target = self.stored(uri) / file.relative_to(local)
                        target.parent.mkdir(parents=True, exist_ok=True)
                        shutil.copyfile(file, target)
            self.num_artifacts += 1
            published[key] = {
                "name": str(self.num_artifacts),
                "uri": uri,
                "type": {"instanceSchema": ""},
                "metadata": {**metadata, "display_name": key, "store_session_info": '{"Provider":"minio"}'},
            }
        return published


# --- Containers -------------------------------------------------------------------------------------------------


def new_process(command: list[str], environment: dict[str, str], folder: Path, log: Path) -> int:
    """As Kubernetes does: nothing is loaded."""
    with log.open("w") as file:
        return subprocess.run(
            command, env=environment, cwd=folder, stdout=file, stderr=subprocess.STDOUT, timeout=600, check=False
        ).returncode


def this_process(command: list[str], environment: dict[str, str], folder: Path, log: Path) -> int:
    """Calls the entrypoint here, for tests that put a fault into it."""
    from pipeline.kubeflow import entrypoint

    assert command[1:3] == ["-m", "pipeline.kubeflow.entrypoint"]
    before = dict(os.environ)
    text = io.StringIO()
    try:
        os.environ.update(environment)
        with contextlib.redirect_stdout(text), contextlib.redirect_stderr(text):
            return entrypoint.main(command[3:])
    finally:
        os.environ.clear()
        os.environ.update(before)
        log.write_text(text.getvalue())


class WarmInterpreter:
    """A process that has loaded TFX and forks itself for every container."""

    def __init__(self, fresh: set[str]) -> None:
        """Starts it.

        Args:
          fresh: Nodes that get a new process all the same.
        """
        self._fresh = fresh
        self._process = subprocess.Popen(
            [sys.executable, __file__], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        self._lock = threading.Lock()
        self._ended: dict[str, int] = {}
        self._news = threading.Condition()
        threading.Thread(target=self._listen, daemon=True).start()

    def _listen(self) -> None:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            with self._news:
                entry = json.loads(line)
                self._ended[entry["log"]] = entry["exit_code"]
                self._news.notify_all()

    def __call__(self, command: list[str], environment: dict[str, str], folder: Path, log: Path) -> int:
        """Runs a container."""
        if log.stem in self._fresh:
            return new_process(command, environment, folder, log)
        request = {"command": command[1:], "environment": environment, "folder": str(folder), "log": str(log)}
        assert self._process.stdin is not None
        with self._lock:
            self._process.stdin.write(json.dumps(request) + "\n")
            self._process.stdin.flush()
        with self._news:
            if not self._news.wait_for(lambda: str(log) in self._ended, timeout=600):
                raise HarnessError(f"{log.stem} does not end")
            return self._ended.pop(str(log))

    def close(self) -> None:
        """Ends it."""
        assert self._process.stdin is not None and self._process.stdout is not None
        self._process.stdin.close()
        self._process.wait(timeout=30)
        self._process.stdout.close()


def _forked(request: Json) -> None:
    """What a forked container does: it never returns."""
    descriptor = os.open(request["log"], os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o644)
    os.dup2(descriptor, 1)
    os.dup2(descriptor, 2)
    os.environ.clear()
    os.environ.update(request["environment"])
    os.chdir(request["folder"])
    dash_m, module, *arguments = request["command"]
    assert dash_m == "-m"
    sys.argv = [module, *arguments]
    code: Any = 0
    try:
        runpy.run_module(module, run_name="__main__", alter_sys=True)
    except SystemExit as error:
        code = error.code
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code or 0)


def _serve() -> None:
    import select

    os.environ["TF_USE_LEGACY_KERAS"] = "0"
    # Fork needs a process without threads: nothing is computed here.
    import tfx.orchestration.kubeflow.v2.container.kubeflow_v2_run_executor  # noqa: F401

    running: dict[int, str] = {}
    is_open, pending = True, b""
    while is_open or running:
        readable = select.select([0], [], [], 0.05)[0] if is_open else time.sleep(0.05) or []
        if readable:
            chunk = os.read(0, 1 << 20)
            is_open = bool(chunk)
            *lines, pending = (pending + chunk).split(b"\n")
            for line in lines:
                request = json.loads(line)
                child = os.fork()
                if child == 0:
                    _forked(request)
                running[child] = request["log"]
        while running:
            child, status = os.waitpid(-1, os.WNOHANG)
            if child == 0:
                break
            answer = {"log": running.pop(child), "exit_code": os.waitstatus_to_exitcode(status)}
            os.write(1, (json.dumps(answer) + "\n").encode())


if __name__ == "__main__":
    _serve()
