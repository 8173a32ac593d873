"""The log of a run: everything that libraries write to standard output and standard error."""

from __future__ import annotations

import contextlib
import logging
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import IO


@contextlib.contextmanager
def redirected_output(path: Path) -> Iterator[tuple[IO[str], IO[str]]]:
    """Redirects everything that libraries write to standard output and standard error, C++ included, to a log file.

    Args:
      path: The log; an existing one is replaced.

    Yields:
      The real standard output and the real standard error, for messages to the user.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    sys.stdout.flush()
    sys.stderr.flush()
    saved = os.dup(1), os.dup(2)
    handler: logging.Handler | None = None
    level = logging.getLogger().level
    with (
        path.open("w", encoding="utf-8") as log,
        os.fdopen(os.dup(saved[0]), "w") as out,
        os.fdopen(os.dup(saved[1]), "w") as err,
    ):
        try:
            os.dup2(log.fileno(), 1)
            os.dup2(log.fileno(), 2)
            handler = logging.StreamHandler(log)
            handler.setFormatter(logging.Formatter("%(asctime)s %(levelname).1s %(name)s: %(message)s"))
            logging.getLogger().addHandler(handler)
            logging.getLogger().setLevel(logging.INFO)
            yield out, err
        finally:
            sys.stdout.flush()
            sys.stderr.flush()
            if handler:
                logging.getLogger().removeHandler(handler)
            logging.getLogger().setLevel(level)
            os.dup2(saved[0], 1)
            os.dup2(saved[1], 2)
            for descriptor in saved:
                os.close(descriptor)
