"""Beam's job servers and worker pools for tests, on 127.0.0.1."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parents[1] / "scripts" / "job_server.sh"
# Engine → environment variable in which the user says where a job server of it runs already.
ENDPOINTS = {"flink": "FLINK_JOB_ENDPOINT", "spark": "SPARK_JOB_ENDPOINT"}
START_TIMEOUT_S = 60


@contextlib.contextmanager
def job_server(name: str, log: Path) -> Iterator[str]:
    """Gives an engine's job server, host:port: the one that is named, or one of our own."""
    if endpoint := os.environ.get(ENDPOINTS[name]):
        yield endpoint
        return
    port = _free_port()
    with _running([str(SCRIPT), name, "--port", str(port)], log) as server:
        _await_port(server, port, log)
        yield f"127.0.0.1:{port}"


@contextlib.contextmanager
def worker_pool(log: Path) -> Iterator[str]:
    """Starts what stands beside every machine of an engine: it starts a Python process for every worker."""
    port = _free_port()
    module = "apache_beam.runners.worker.worker_pool_main"
    # It starts the `python` of PATH.
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    command = ["env", f"PATH={path}", sys.executable, "-m", module, f"--service_port={port}"]
    with _running(command, log) as server:
        log.write_text("starting")
        _await_port(server, port, log)
        yield f"127.0.0.1:{port}"


def _free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return int(free.getsockname()[1])


@contextlib.contextmanager
def _running(command: list[str], log: Path) -> Iterator[subprocess.Popen[bytes]]:
    with log.open("w") as output:
        # In a group of its own, which a pool's workers belong to.
        server = subprocess.Popen(command, stdout=output, stderr=subprocess.STDOUT, start_new_session=True)
        try:
            yield server
        finally:
            if server.poll() is None:
                os.killpg(server.pid, signal.SIGTERM)
            server.wait()


def _await_port(server: subprocess.Popen[bytes], port: int, log: Path) -> None:
    """Waits for the port; skips the test if the job server cannot be started."""
    deadline = None
    while True:
        if server.poll() is not None:
            entry = log.read_text().strip()
            if server.returncode == 3:  # Java, Maven or the jar is missing
                pytest.skip(entry.splitlines()[-1])
            pytest.fail(f"the server ended with {server.returncode}: {entry[-2000:]}")
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", port)) == 0:
                return
        if deadline is None and "starting" in log.read_text():  # downloads are complete
            deadline = time.monotonic() + START_TIMEOUT_S
        assert deadline is None or time.monotonic() < deadline, log.read_text()[-2000:]
        time.sleep(0.2)
