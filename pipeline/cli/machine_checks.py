"""Checks of this machine and the installed packages."""

from __future__ import annotations

import os
import platform
import shutil
import subprocess
import sys
from collections.abc import Iterator
from importlib import metadata
from typing import NamedTuple

_PACKAGES = (
    "tfx",
    "tensorflow",
    "keras",
    "tensorflow-transform",
    "tensorflow-data-validation",
    "tensorflow-model-analysis",
    "ml-metadata",
    "apache-beam",
    "tensorflow-serving-api",
)
# Compiled extensions that fail to load if the C runtime is too old, before TensorFlow does.
_COMPILED = ("ml_metadata", "tensorflow_data_validation")
_DEVICES = "import tensorflow as tf; print(*[device.name for device in tf.config.list_physical_devices()])"


class Check(NamedTuple):
    """The result of one check."""

    name: str
    passed: bool
    detail: str


def run_all() -> list[Check]:
    """Runs all checks; takes as long as the import of TensorFlow."""
    checks = [
        Check("python", sys.version_info[:2] == (3, 11), platform.python_version()),
        Check("platform", platform.machine() == "x86_64", f"{platform.system()} {platform.machine()}"),
        Check("C runtime", True, f"{os.confstr('CS_GNU_LIBC_VERSION')} in {sys.executable}"),
        Check("processors", True, f"{os.cpu_count()}"),
        _memory(),
        _disk(),
    ]
    for package in _PACKAGES:
        try:
            checks.append(Check(package, True, metadata.version(package)))
        except metadata.PackageNotFoundError:
            checks.append(Check(package, False, "not installed; run `make setup`"))
    return [*checks, *_checks_in_python()]


def _memory() -> Check:
    gib = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    return Check("memory", gib >= 4, f"{gib:.1f} GiB (4 required)")


def _disk() -> Check:
    gib = shutil.disk_usage(".").free / 2**30
    return Check("disk", gib >= 2, f"{gib:.1f} GiB free in this folder (2 required)")


def _checks_in_python() -> Iterator[Check]:
    """Imports the compiled extensions and lists the devices, in one process: most of the time is TensorFlow's import.

    Each check prints a line. The first one that does not has failed, and the next one begins another process.
    """
    checks = {f"import {module}": f"import {module}; print('loads', flush=True)" for module in _COMPILED}
    checks["devices"] = _DEVICES
    names = list(checks)
    while names:
        process = _python("\n".join(["import trainer_module", *(checks[name] for name in names)]))
        details = process.stdout.splitlines()
        yield from (Check(name, True, detail) for name, detail in zip(names, details, strict=False))
        names = names[len(details) :]
        if names:
            yield Check(names.pop(0), False, (process.stderr.strip().splitlines() or ["no message"])[-1])


def _python(code: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
