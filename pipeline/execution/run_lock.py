"""The lock of a pipeline's folder."""

from __future__ import annotations

import contextlib
import fcntl
from collections.abc import Iterator
from pathlib import Path


class AlreadyRunningError(Exception):
    """Another process runs this pipeline."""


@contextlib.contextmanager
def run_lock(run_dir: Path) -> Iterator[None]:
    """Locks the folder of a pipeline: one run at a time uses its metadata store, data and log.

    Raises:
      AlreadyRunningError: If another process holds the lock.
    """
    run_dir.mkdir(parents=True, exist_ok=True)
    with (run_dir / ".lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise AlreadyRunningError(
                f"Another run uses {run_dir}. Wait until it ends, or give this one another name "
                "(--set pipeline.name=NAME)."
            ) from None
        yield
