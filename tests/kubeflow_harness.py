"""Plays Kubeflow Pipelines' driver and launcher, and Argo's controller, on this machine, for a compiled pipeline.

It does what their sources do (kubeflow/pipelines 2.17, backend/src/v2: driver/, component/launcher_v2.go,
metadata/converter.go; Argo Workflows 4.0): the driver looks for a cached result, or makes an ExecutorInput, whose input
artifacts have an empty type, properties that went through ML Metadata (numbers as doubles, lists and structs wrapped),
and properties that KFP adds; the launcher downloads the inputs from the store to a folder of the pod, starts the
container's command, and uploads the outputs, or only the log of an attempt that failed. Every attempt has folders of
its own, which are removed with it: only the store and what is mounted outlive it. A failed task is retried as its
policy says; after its last attempt no other task is begun, and the exit handler runs last. An argument that Linux
rejects, and a run that Argo cannot store, are errors.

A container is a process of its own. Most of its time loads TFX, so it may also be this process.
"""

from __future__ import annotations

import base64
import contextlib
import decimal
import gzip
import hashlib
import io
import json
import os
import shutil
import subprocess
import sys
import time
import uuid
from collections.abc import Callable, Collection
from concurrent.futures import FIRST_COMPLETED, ThreadPoolExecutor, wait
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from google.protobuf import json_format
from kfp.pipeline_spec import pipeline_spec_pb2
from PIL import Image

DAG = "tfx-dag"
LOGS = "executor-logs"  # which the launcher writes
MOST_BYTES_OF_ARGUMENT = (1 << 17) - 1  # of Linux: MAX_ARG_STRLEN, which counts the final zero
MOST_BYTES_OF_RUN = 1 << 20  # of Argo
Json = dict[str, Any]
# Runs a command line, with variables, in a folder, with a log: gives the exit code.
Container = Callable[[list[str], dict[str, str], Path, Path], int]


class HarnessError(Exception):
    """The launcher or driver would have failed here."""


@dataclass
class Task:
    """Outcome of a task.

    Attributes:
      name: Its name in the pipeline.
      exit_code: Of its last container.
      seconds: Wall time of that container.
      last_line: Of its log.
      outputs: Artifacts as ML Metadata has them, by key.
      num_attempts: Number of its containers; 0 if its result was cached.
    """

    name: str
    exit_code: int
    seconds: float
    last_line: str
    outputs: dict[str, Json] = field(default_factory=dict)
    num_attempts: int = 1


@dataclass
class Run:
    """Outcome of a run.

    Attributes:
      run_id: Its id.
      tasks: Its tasks in the order in which they ended.
      nodes: What Argo stores about its nodes.
    """

    run_id: str
    tasks: dict[str, Task] = field(default_factory=dict)
    nodes: list[Any] = field(default_factory=list)

    @property
    def succeeded(self) -> bool:
        """Whether no task of the DAG has failed."""
        return all(task.exit_code == 0 for task in self.tasks.values())

    def table(self) -> str:
        """A line for every task."""
        return "\n".join(
            f"{task.name:<18} {task.num_attempts} x, exit {task.exit_code} {task.seconds:5.1f} s {task.last_line[:99]}"
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
        # A folder that pods share, instead of the store.
        arguments = [argument for executor in self.executors.values() for argument in executor.container.args]
        (self.shared,) = {a.partition("=")[2] for a in arguments if a.startswith("--artifacts=")} or {""}
        self.results: dict[str, dict[str, Json]] = {}  # outputs of successful tasks, by fingerprint

    def executor_names(self) -> list[str]:
        """Names of all tasks that are pods."""
        return [label.removesuffix("_executor") for label in self.executors]

    # --- The workflow -------------------------------------------------------------------------------------------

    def run(self, parameters: Json | None = None, *, at_once: int = 2) -> Run:
        """Runs all tasks, and the exit handler."""
        given = {name: entry.default_value for name, entry in self.spec.root.input_definitions.parameters.items()}
        given = {name: json_format.MessageToDict(value) for name, value in given.items()} | (parameters or {})
        run = Run(str(uuid.uuid4()))
        self.check_size(run)
        waiting = dict(self.tasks)
        with ThreadPoolExecutor(at_once) as pool:
            running = {}
            while waiting or running:
                for name, task in list(waiting.items()):
                    ready = all(dependency in run.tasks for dependency in task.dependent_tasks)
                    if ready and run.succeeded and len(running) < at_once:
                        del waiting[name]
                        running[pool.submit(self.execute, name, task, self.drive(name, task, run, given), run)] = name
                if not running:
                    break
                done, _ = wait(running, return_when=FIRST_COMPLETED)
                for future in done:
                    run.tasks[running.pop(future)] = future.result()
        for name, task in self.spec.root.dag.tasks.items():
            if name != DAG:
                assert list(task.dependent_tasks) == [DAG]
                run.tasks[name] = self.execute(name, task, self.drive(name, task, run, given), run)
        return run

    def execute(self, name: str, task: Any, executor_input: Json, run: Run) -> Task:
        """Takes the result of a task from the cache, or runs its containers until one succeeds."""
        fingerprint = self.fingerprint(task, executor_input)
        may_cache = task.caching_options.enable_cache
        if may_cache and fingerprint in self.results:
            return Task(name, 0, 0.0, "cached", self.results[fingerprint], num_attempts=0)
        policy = task.retry_policy
        # Argo measures from the first attempt, so that 0 s end the retries at once.
        retries = policy.max_retry_count if policy.backoff_max_duration.seconds > 0 else 0
        for attempt in range(1 + retries):
            self.record(name, task, executor_input, attempt, run)
            done = self.launch(name, task, executor_input, attempt)
            if done.exit_code == 0:
                break
        if may_cache and done.exit_code == 0:
            self.results[fingerprint] = done.outputs
        return done

    def fingerprint(self, task: Any, executor_input: Json) -> str:
        """Key of the cache: the inputs by their ids, and the container without its variables."""
        inputs = executor_input.get("inputs", {})
        artifacts = inputs.get("artifacts", {})
        names = {key: [artifact["name"] for artifact in entry["artifacts"]] for key, entry in artifacts.items()}
        outputs = {
            key: [{**artifact, "uri": ""} for artifact in entry["artifacts"]]
            for key, entry in executor_input["outputs"]["artifacts"].items()
        }
        container = self.container(task)
        parts = [
            names,
            inputs.get("parameterValues", {}),
            outputs,
            container.image,
            *container.command,
            *container.args,
        ]
        return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()

    # --- Argo's controller --------------------------------------------------------------------------------------

    def record(self, name: str, task: Any, executor_input: Json, attempt: int, run: Run) -> None:
        """Adds the nodes of an attempt to the run, and fails if Argo could not store it."""
        component = json_format.MessageToDict(self.spec.components[task.component_ref.name])
        container = json_format.MessageToDict(self.container(task))
        label = self.spec.components[task.component_ref.name].executor_label
        pods = self.platform["platforms"]["kubernetes"]["deploymentSpec"]["executors"]
        patch = json.dumps([json.dumps(executor_input), json.dumps(component), container, pods[label]])
        if attempt == 0:
            parts = (component, json_format.MessageToDict(task), container, pods[label])
            run.nodes.append([name, *map(json.dumps, parts), patch])
            run.nodes += [[name, patch]] * 2  # the executor, and its attempts together
        run.nodes.append([name, attempt, patch])
        self.check_size(run)

    def size(self, run: Run) -> int:
        """Size of the object of a run, bytes: its definition, and the compressed status of its nodes."""
        definition = json_format.MessageToDict(self.spec)
        parts = [
            *definition["components"].values(),
            definition["root"],
            *definition["deploymentSpec"]["executors"].values(),
        ]
        parts += [task for part in parts for task in part.get("dag", {}).get("tasks", {}).values()]
        parts += self.platform["platforms"]["kubernetes"]["deploymentSpec"]["executors"].values()
        status = base64.b64encode(gzip.compress(json.dumps(run.nodes).encode()))
        return len(json.dumps([json.dumps(part) for part in parts])) + len(status)

    def check_size(self, run: Run) -> None:
        """Fails where Argo would not continue the run."""
        if self.size(run) > MOST_BYTES_OF_RUN:
            raise HarnessError(f"the workflow is too large after {len(run.nodes)} nodes")

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
                resource = f"{self.spec.pipeline_info.name}-{run.run_id[:5]}"
                value = json.dumps(
                    {"state": state, "pipelineJobResourceName": resource, "pipelineTaskName": DAG, "error": {}}
                )
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
        types = {
            key: json_format.MessageToDict(entry.artifact_type)
            for key, entry in component.output_definitions.artifacts.items()
        }
        types[LOGS] = {"schemaTitle": "system.Artifact"}
        outputs = {
            key: {"artifacts": [{"name": key, "uri": f"{folder}/{key}", "type": type_}]} for key, type_ in types.items()
        }
        output_file = str(self.local_path(self.pod(name), folder) / "output_metadata.json")
        executor_input = {
            "inputs": {"parameterValues": values, "artifacts": artifacts},
            "outputs": {"artifacts": outputs, "outputFile": output_file},
        }
        message = json_format.ParseDict(executor_input, pipeline_spec_pb2.ExecutorInput())
        return as_go_writes(json_format.MessageToDict(message))

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
        """Path in the store, or in the folder that pods share."""
        path = uri.removeprefix(f"{self.scheme}://")
        return Path(self.shared, path) if self.shared and Path(self.shared, path).exists() else self.store / path

    def uploaded(self, uri: str) -> Path:
        """Path in the store."""
        return self.store / uri.removeprefix(f"{self.scheme}://")

    def launch(self, name: str, task: Any, executor_input: Json, attempt: int = 0) -> Task:
        """Runs a task's container."""
        root = self.pod(name)
        executor_input = json.loads(json.dumps(executor_input))
        # Every attempt has a log of its own.
        executor_input["outputs"]["artifacts"][LOGS]["artifacts"][0]["uri"] += f"-{attempt}"
        try:
            return self._launch(name, task, executor_input, root, attempt)
        finally:
            shutil.rmtree(root)

    def _launch(self, name: str, task: Any, executor_input: Json, root: Path, attempt: int) -> Task:
        for entry in executor_input["inputs"].get("artifacts", {}).values():
            for artifact in entry["artifacts"]:
                local = self.local_path(root, artifact["uri"])
                # What has no files leaves no trace in an object store, and none in the pod.
                if not local.exists() and self.uploaded(artifact["uri"]).exists():
                    shutil.copytree(self.uploaded(artifact["uri"]), local)
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
        self.local_path(root, executor_input["outputs"]["artifacts"][LOGS]["artifacts"][0]["uri"]).write_text(
            log.read_text(errors="replace")
        )
        if exit_code != 0:
            artifacts = executor_input["outputs"]["artifacts"]
            failed = {"outputs": {**executor_input["outputs"], "artifacts": {LOGS: artifacts[LOGS]}}}
            return Task(name, exit_code, seconds, last, self.publish(failed, root), attempt + 1)
        return Task(name, exit_code, seconds, last, self.publish(executor_input, root), attempt + 1)

    def container(self, task: Any) -> Any:
        """The container spec of a task."""
        return self.executors[self.spec.components[task.component_ref.name].executor_label].container

    def command(self, task: Any, executor_input: Json) -> list[str]:
        """The container's command line, placeholders replaced."""
        container = self.container(task)
        text = json.dumps(executor_input)
        interpreter, *rest = [*container.command, *container.args]
        assert interpreter == "python"
        arguments = [argument.replace("{{$}}", text) for argument in rest]
        for argument in arguments:
            if len(argument.encode()) > MOST_BYTES_OF_ARGUMENT:
                raise HarnessError(f"argument list too long: {argument[:80]}")
        return [sys.executable, *arguments]

    def environment(self, task: Any, root: Path) -> dict[str, str]:
        """The container's variables: its own, and what makes this machine one."""
        own = {entry.name: entry.value for entry in self.container(task).env}
        kept = {key: os.environ[key] for key in ("PATH", "PYTHONPATH", "LANG", "NICE") if key in os.environ}
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
            if key in written.artifacts and key != LOGS:
                (own,) = written.artifacts[key].artifacts
                uri = own.uri or uri
                metadata |= json_format.MessageToDict(own.metadata)
            local = self.local_path(root, uri)
            if local.exists():
                # An object store has no empty folders.
                for file in [local, *local.rglob("*")]:
                    if file.is_file():
                        target = self.uploaded(uri) / file.relative_to(local)
                        target.parent.mkdir(parents=True, exist_ok=True)
                        shutil.copyfile(file, target)
            self.num_artifacts += 1
            published[key] = {
                "name": str(self.num_artifacts),
                "uri": uri,
                "type": {"instanceSchema": ""},
                "metadata": {
                    "display_name": key,
                    "store_session_info": '{"Provider":"minio"}',
                    **{name: through_metadata(value) for name, value in metadata.items()},
                },
            }
        return published


def through_metadata(value: Any) -> Any:
    """Converts a property as ML Metadata does: it has numbers, texts and structs only."""
    if value is None:
        raise HarnessError("unknown/unsupported value type null")
    if isinstance(value, bool | int | float):
        return float(value)
    if isinstance(value, list):
        return {"list": value}
    return {"struct": value} if isinstance(value, dict) else value


def as_go_writes(value: Any) -> Any:
    """Numbers as Go writes doubles: with the fewest digits that identify them, and more digits are zeros."""
    if isinstance(value, dict):
        return {key: as_go_writes(entry) for key, entry in value.items()}
    if isinstance(value, list):
        return [as_go_writes(entry) for entry in value]
    if isinstance(value, bool) or not isinstance(value, int | float):
        return value
    number = float(value)
    return int(decimal.Decimal(repr(number))) if number.is_integer() and abs(number) < 1e21 else number


# --- A run that takes seconds -----------------------------------------------------------------------------------

COLORS = {"blue": (40, 60, 160), "green": (50, 150, 70), "red": (170, 60, 50)}
SMALL_RUN = (
    "pipeline.name=days",
    "transform.image_size=16",
    "data.splits.by=class",
    "model.blocks=[[4], [8]]",
    "training.epochs=1",
    "training.batch_size=8",
    "evaluation.thresholds={accuracy=0.0}",
    # One epoch is not enough to beat them.
    "evaluation.disabled_rules=['beats_constant','beats_chance','classes_predicted','classes_correct']",
    "grad_cam.most_confident_right=1",
    "grad_cam.faithfulness=false",
)


def write_images(folder: Path, *, brightness: float = 1.0) -> None:
    """Writes 16 noisy images of each of three classes."""
    random = np.random.default_rng(3)
    for name, color in COLORS.items():
        (folder / name).mkdir(parents=True)
        for index in range(16):
            pixels = np.array(color) * brightness + random.normal(0, 30, (12, 12, 3))
            Image.fromarray(np.clip(pixels, 0, 255).astype(np.uint8)).save(folder / name / f"{index}.png")


def install(folder: Path, volume: Path, data: str, *overrides: str, scheme: str = "minio") -> Harness:
    """Compiles a small run for pods that mount a volume; its nodes run in this process.

    Args:
      folder: Keeps the store.
      volume: Is mounted at its own path.
      data: Images on the volume.
      overrides: More settings.
      scheme: That of the store's URIs.
    """
    from pipeline.config import loading
    from pipeline.execution import dataset
    from pipeline.kubeflow import compiler

    cluster = (
        f"pipeline.root={folder / 'here'}",
        "kubeflow.image=registry.example/tfx-vision:1",
        f"kubeflow.volumes=[{{claim='images', mount_path='{volume}'}}]",
        f"kubeflow.data_path={data}",
        f"kubeflow.work_path={volume}/work",
    )
    loaded = loading.load("images", data=data, overrides=[*cluster, *SMALL_RUN, *overrides])
    documents = compiler.compile_pipeline(loaded, dataset.prepare(loaded)).as_yaml()
    return Harness(documents, folder, scheme=scheme, container=this_process)


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


def new_processes(nodes: Collection[str]) -> Container:
    """Runs the containers of these nodes as new processes, and those of other nodes in this process."""
    return lambda *container: (new_process if container[-1].stem in nodes else this_process)(*container)
