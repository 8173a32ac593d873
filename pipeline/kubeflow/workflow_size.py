"""The size of a run in Kubernetes: one object contains the compiled pipeline and what Argo stores about every node.

Kubeflow's compiler stores every component, container and task as text, and its drivers repeat them in the status of the
nodes (kubeflow/pipelines 2.17, backend/src/v2: compiler/argocompiler/, driver/driver.go). Argo compresses the status of
the nodes when the object becomes larger than its limit; if that does not suffice, it cannot continue the run (Argo
Workflows 4.0, workflow/packer/packer.go). Imports nothing heavy.
"""

from __future__ import annotations

import base64
import gzip
import json
from collections.abc import Iterator, Mapping
from typing import Any

Json = Mapping[str, Any]

MAX_BYTES = 1 << 20  # Argo's default; etcd itself accepts 1.5 MiB
# Templates of the drivers and launchers, labels and annotations.
_FIXED_BYTES = 20_000
# Ids, names and times of a node, and the URIs and properties of an artifact.
_NODE_BYTES, _ARTIFACT_BYTES = 800, 600


def of_run(spec: Json, platform: Json) -> int:
    """Estimates the size of a run that has ended, bytes; every node was retried as often as possible.

    Args:
      spec: PipelineSpec as JSON.
      platform: PlatformSpec as JSON.
    """
    status = _text(dict(enumerate(_node_status(spec, platform))))
    return _definition_size(spec, platform) + len(base64.b64encode(gzip.compress(status.encode())))


def _definition_size(spec: Json, platform: Json) -> int:
    components = [spec["root"], *spec["components"].values()]
    tasks = [task for component in components if "dag" in component for task in component["dag"]["tasks"].values()]
    containers = spec["deploymentSpec"]["executors"].values()
    texts = [_text(part) for part in (*components, *tasks, *containers, *_pods(platform).values())]
    return _FIXED_BYTES + len(_text(texts).encode())


def _node_status(spec: Json, platform: Json) -> Iterator[Any]:
    """Yields what Argo stores about every node: the inputs of the driver, and the pod in all nodes of its attempts."""
    for component in (spec["root"], *spec["components"].values()):
        if "dag" in component:
            yield _text(component)
            for name, task in component["dag"]["tasks"].items():
                yield from _task_status(name, task, spec, platform)


def _task_status(name: str, task: Json, spec: Json, platform: Json) -> Iterator[Any]:
    component = spec["components"][task["componentRef"]["name"]]
    if "dag" in component:
        yield _text(task)
        return
    label = component["executorLabel"]
    container, pod = spec["deploymentSpec"]["executors"][label]["container"], _pods(platform).get(label, {})
    inputs = task.get("inputs", {})
    num_artifacts = len(inputs.get("artifacts", {})) + len(component.get("outputDefinitions", {}).get("artifacts", {}))
    executor_input = _text(inputs) + " " * num_artifacts * _ARTIFACT_BYTES
    patch = _text({"command": [executor_input, _text(component)], "container": container, "pod": pod})
    fixed = name * (_NODE_BYTES // len(name))
    yield [fixed, *map(_text, (component, task, container, pod)), patch]
    # The executor, its retries together, and each of them.
    for _ in range(3 + task.get("retryPolicy", {}).get("maxRetryCount", 0)):
        yield [fixed, patch]


def _pods(platform: Json) -> Json:
    pods: Json = platform["platforms"]["kubernetes"]["deploymentSpec"]["executors"]
    return pods


def _text(value: Any) -> str:
    return json.dumps(value, separators=(",", ":"), ensure_ascii=False)
