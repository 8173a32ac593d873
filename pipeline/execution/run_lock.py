"""The locks of a pipeline's folder."""

from __future__ import annotations

import contextlib
import fcntl
import os
from collections.abc import Iterator
from contextlib import AbstractContextManager
from pathlib import Path

RUN_LOCK_FILE = ".lock"


class AlreadyRunningError(Exception):
    """Another process runs or watches this pipeline."""


def run_lock(run_dir: Path) -> AbstractContextManager[None]:
    """Locks the folder of a pipeline: one run at a time uses its metadata store, data and log.

    Raises:
      AlreadyRunningError: If another process holds the lock.
    """
    return _locked(
        run_dir / RUN_LOCK_FILE,
        f"Another run uses {run_dir}. Wait until it ends, or give this one another name (--set pipeline.name=NAME).",
    )


def is_running(run_dir: Path) -> bool:
    """Whether a process of this machine runs the pipeline.

    The lock is not tried, which would make a run fail that starts at the same time.
    """
    try:
        status = (run_dir / RUN_LOCK_FILE).stat()
        locks = Path("/proc/locks").read_text()
    except OSError:
        return False
    place = f"{os.major(status.st_dev):02x}:{os.minor(status.st_dev):02x}:{status.st_ino}"
    return any(fields[1] == "FLOCK" and fields[5] == place for line in locks.splitlines() if (fields := line.split()))


def watch_lock(run_dir: Path) -> AbstractContextManager[None]:
    """Locks the pipeline: one watcher at a time. Runs do not wait for it.

    Raises:
      AlreadyRunningError: If another process watches it.
    """
    return _locked(
        run_dir / ".watch.lock", f"Another `tfx-vision watch` watches the pipeline in {run_dir}. End it first."
    )


@contextlib.contextmanager
def _locked(path: Path, message: str) -> Iterator[None]:
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise AlreadyRunningError(message) from None
        yield
