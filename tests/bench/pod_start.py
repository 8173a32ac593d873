"""The processor time from the command of a pod to its executor.

As in the image, and without bytecode and with all packages.

`python tests/bench/pod_start.py` starts two processes for every row. Without bytecode stands for an image whose user
cannot write any: the cache folder of Python is empty and read-only.
"""

from __future__ import annotations

import importlib
import json
import os
import subprocess
import sys
import tempfile
import time
from typing import Any

EXECUTORS = ("image_example_gen", "statistics_gen", "trainer", "evaluator")


def measure(component: str, own_process: bool) -> None:
    """Starts a node in this process, whose executor prints the time and ends it."""
    from pipeline.kubeflow import entrypoint

    path = f"components.{component}.executor"
    load = importlib.import_module

    def loaded(name: str, package: str | None = None) -> Any:
        module = load(name, package)
        if name == path:
            module.Executor.Do = end
        return module

    def end(*_: Any) -> None:
        print(f"seconds: {time.process_time():.1f}", flush=True)
        os._exit(0)

    importlib.import_module = loaded
    invocation = {"outputs": {"artifacts": {}, "outputFile": "/nonexistent/output_metadata.json"}}
    arguments = ["--node_id=node", "--executor_class_path", f"{path}.Executor"]
    arguments += ["--json_serialized_invocation_args", json.dumps(invocation)]
    sys.exit(entrypoint.main(arguments, own_process=own_process))


def seconds(component: str, *, bytecode: bool, own_process: bool) -> float:
    """Runs `measure` in a new process."""
    with tempfile.TemporaryDirectory() as empty:
        os.chmod(empty, 0o555)
        environment = {**os.environ, "TF_CPP_MIN_LOG_LEVEL": "3", "PYTHONDONTWRITEBYTECODE": "1"}
        if not bytecode:
            environment["PYTHONPYCACHEPREFIX"] = empty
        command = [sys.executable, __file__, component, str(int(own_process))]
        process = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    line = next((line for line in process.stdout.splitlines() if line.startswith("seconds: ")), None)
    if line is None:
        raise RuntimeError(process.stderr[-2000:])
    return float(line.removeprefix("seconds: "))


def main() -> None:
    """Prints one row per node."""
    print(f"{'':<18}   in the image   all packages, no bytecode")
    for component in EXECUTORS:
        fast = seconds(component, bytecode=True, own_process=True)
        slow = seconds(component, bytecode=False, own_process=False)
        print(f"{component:<18} {fast:>10.1f} s {slow:>22.1f} s", flush=True)


if __name__ == "__main__":
    if len(sys.argv) > 1:
        measure(sys.argv[1], own_process=sys.argv[2] == "1")
    main()
