"""The whole cycle after a push, on handwritten digits and without network access. `make loop` runs it.

serve → log → drift (rotated digits) → alarm → select → label → next span → retrain → gates → push → alarm cleared

Every step is a command of tfx-vision, in a process of its own, which is forked from one that has imported TFX once.
This script sends the requests and, in place of a person, writes the true classes into the table of selected images. It
fails if a step does not end as it should.
"""

from __future__ import annotations

import argparse
import contextlib
import csv
import hashlib
import io
import json
import multiprocessing
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
from PIL import Image
from sklearn.datasets import load_digits

from pipeline.cli import app
from serving.client import GrpcClient

CONFIG = """\
# Written by scripts/loop.py. Labelled images are the next span, and a run trains on the newest one.
[pipeline]
name = "loop"
root = "{root}"

[data]
path = "{root}/data/span-{{SPAN}}"
spans = "newest"

[transform]
image_size = 16
channels = 1

[model]
name = "scratch_cnn"
blocks = [[16], [32]]
block_dropout = 0.1

[task]
name = "classification"
dense_units = 32
dropout = 0.2

[training]
batch_size = 16
epochs = 30
learning_rate = 0.003

# The span with labelled images differs from the first one: that is why they were labelled.
[validation]
on_drift = "warn"

[evaluation.thresholds]
accuracy = 0.7

[evaluation.change_thresholds]
accuracy = 0.02
"""
NUM_FIRST, NUM_CLEAN, NUM_DRIFTED, NUM_LABELLED, NUM_AFTER = 500, 120, 600, 400, 200
DONE, ALARM = 0, 3


def print_heading(text: str) -> None:
    """Prints the heading of a step."""
    print(f"\n=== {text}", flush=True)


_PROCESSES = multiprocessing.get_context("forkserver")
# Modules whose import imports TensorFlow and TFX, which most modules of the commands put off until they run.
_PRELOADED = ("pipeline.dag", "pipeline.execution.node_runner", "pipeline.monitoring.monitor")
_PROCESSES.set_forkserver_preload(["__main__", *_PRELOADED])


def _command(arguments: Sequence[str], output: str) -> None:
    """Runs a command in this process, with standard output in a file."""
    with open(output, "w", encoding="utf-8") as file:
        os.dup2(file.fileno(), sys.stdout.fileno())
    sys.argv[:] = ["tfx-vision", *arguments]
    app.main()


def run(*arguments: str, expected: int = DONE) -> None:
    """Runs a command of tfx-vision and prints its output; fails unless it ends with the expected exit code."""
    print(f"$ tfx-vision {' '.join(arguments)}", flush=True)
    with tempfile.NamedTemporaryFile() as output:
        process = _PROCESSES.Process(target=_command, args=(arguments, output.name))
        process.start()
        process.join()
        print(Path(output.name).read_text(encoding="utf-8"), end="", flush=True)
    if process.exitcode != expected:
        sys.exit(f"loop: exit code {process.exitcode}, expected {expected}")


class Digits:
    """Handwritten digits as PNG files, each with a little noise, so that no two files are equal."""

    def __init__(self) -> None:
        """Loads the images."""
        digits, self._random = load_digits(), np.random.default_rng(17)
        # Neighbouring images are by the same writer.
        order = self._random.permutation(len(digits.target))
        self._images, self._labels = digits.images[order] * 15.0, digits.target[order]
        self.true_class: dict[str, str] = {}  # by the digest of the file

    def draw(self, start: int, num: int, *, rotated: bool = False) -> list[bytes]:
        """Returns images, upright or rotated by 90 degrees."""
        files = []
        for index in range(start, start + num):
            position = index % len(self._images)
            pixels = self._images[position] + self._random.normal(0.0, 4.0, (8, 8))
            if rotated:
                pixels = np.rot90(pixels)
            buffer = io.BytesIO()
            Image.fromarray(np.clip(pixels, 0, 255).astype(np.uint8)).save(buffer, "PNG")
            self.true_class[hashlib.sha256(buffer.getvalue()).hexdigest()] = str(self._labels[position])
            files.append(buffer.getvalue())
        return files

    def class_of(self, encoded: bytes) -> str:
        """Returns the true class of an image that was drawn."""
        return self.true_class[hashlib.sha256(encoded).hexdigest()]


@contextlib.contextmanager
def server(root: Path) -> Iterator[str]:
    """Serves the pushed versions with a request log; yields the gRPC address."""
    log = (root / "server.log").open("w+")
    command = [sys.executable, "-m", "pipeline", "serve", "--model-name", "loop"]
    command += ["--model-base-path", str(root / "loop" / "serving" / "loop"), "--port", "0", "--rest-api-port", "0"]
    command += ["--request-log", str(root / "loop" / "requests" / "loop"), "--request-log-file-s", "1"]
    with log, subprocess.Popen(command, stderr=log) as process:
        try:
            yield _address(root / "server.log", process)
        finally:
            process.terminate()


def _address(log: Path, process: subprocess.Popen[bytes]) -> str:
    for _ in range(600):
        for line in log.read_text().splitlines():
            if line.startswith("Serving"):
                return line.partition("gRPC ")[2].partition(",")[0]
        if process.poll() is not None:
            break
        time.sleep(0.2)
    sys.exit(f"loop: the server did not start:\n{log.read_text()}")


def send(client: GrpcClient, files: Sequence[bytes], digits: Digits) -> float:
    """Sends images one by one, waits until the log has them, and returns the accuracy of the responses."""
    right = 0
    for encoded in files:
        (prediction,) = client.predict([encoded]).or_raise()
        right += prediction.label == digits.class_of(encoded)
    time.sleep(3.0)  # a file of the log is complete after a second, which the server checks once a second
    return right / len(files)


def label(selected: Path, digits: Digits) -> None:
    """Writes the true classes into the table, as a person would."""
    table = selected / "selected.csv"
    rows = list(csv.DictReader(table.read_text(encoding="utf-8").splitlines()))
    for row in rows:
        row["label"] = digits.class_of((selected / row["filename"]).read_bytes())
    with table.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, rows[0])
        writer.writeheader()
        writer.writerows(rows)


def wait_for_version(client: GrpcClient, version: int) -> None:
    """Waits until the server has loaded a version."""
    for _ in range(300):
        if any(entry.version == version and entry.state == "AVAILABLE" for entry in client.status()):
            return
        time.sleep(0.2)
    sys.exit(f"loop: the server has not loaded version {version}")


def versions(root: Path) -> list[int]:
    """Returns the pushed versions, ascending."""
    return sorted(int(path.name) for path in (root / "loop" / "serving" / "loop").iterdir() if path.name.isdigit())


def main() -> None:
    """Runs the cycle; prints one JSON object at the end."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--root", type=Path, default=Path("runs/loop"), help="Folder of everything; it is replaced.")
    root = parser.parse_args().root.absolute()
    shutil.rmtree(root, ignore_errors=True)
    (root / "data").mkdir(parents=True)
    config, digits = root / "loop.toml", Digits()
    config.write_text(CONFIG.format(root=root), encoding="utf-8")

    print_heading(f"1. A model of {NUM_FIRST} upright digits is trained, checked and pushed")
    for number, encoded in enumerate(digits.draw(0, NUM_FIRST)):
        folder = root / "data" / "span-1" / digits.class_of(encoded)
        folder.mkdir(parents=True, exist_ok=True)
        (folder / f"{number:04}.png").write_bytes(encoded)
    run("run", str(config))
    (first,) = versions(root)

    with server(root) as address, GrpcClient(address, "loop") as client:
        client.wait_until_ready()
        print_heading(f"2. The server answers and logs {NUM_CLEAN} requests with upright digits; there is no drift")
        clean = send(client, digits.draw(NUM_FIRST, NUM_CLEAN), digits)
        print(f"accuracy {clean:.3f}")
        run("monitor", str(config))

        print_heading(
            f"3. Drift: {NUM_DRIFTED} more requests with digits rotated by 90 degrees; the monitor raises an alarm"
        )
        drifted = send(client, digits.draw(NUM_FIRST + NUM_CLEAN, NUM_DRIFTED, rotated=True), digits)
        print(f"accuracy {drifted:.3f}")
        run("monitor", str(config), expected=ALARM)

        print_heading(f"4. {NUM_LABELLED} uncertain, diverse and novel images are selected from the log, and labelled")
        log, selected = str(root / "loop" / "requests" / "loop"), root / "selected"
        run("select", str(config), "--from", log, "--num", str(NUM_LABELLED), "--output-dir", str(selected))
        label(selected, digits)
        run("label", str(config), str(selected / "selected.csv"))

        print_heading("5. The new span starts a run: training, gates, comparison on the logged requests, push")
        run("watch", str(config), "--once")
        second = versions(root)[-1]
        if second == first:
            sys.exit("loop: the new model was not pushed")

        print_heading(f"6. The server has loaded version {second}; rotated digits raise no alarm any more")
        wait_for_version(client, second)
        after = send(client, digits.draw(NUM_FIRST + NUM_CLEAN + NUM_DRIFTED, NUM_AFTER, rotated=True), digits)
        print(f"accuracy {after:.3f} (before {drifted:.3f})")
        run("monitor", str(config))
    if after <= drifted:
        sys.exit("loop: the new model is not better on rotated digits")
    summary = {"first": first, "second": second, "accuracy": {"clean": clean, "drifted": drifted, "after": after}}
    print(json.dumps(summary))


if __name__ == "__main__":
    main()
