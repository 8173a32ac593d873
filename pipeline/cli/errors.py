"""What may go wrong in a command without a fault of the program, and how the command ends then."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from pathlib import Path

from rich.console import Console

from components.image_example_gen.layout import DatasetError
from pipeline.cli.console import BAD_USAGE, FAILED, stop
from pipeline.config.messages import ConfigError
from pipeline.deploy.model_server import NotEmptyError
from pipeline.execution.local_run import AlreadyRunningError
from pipeline.kubeflow.submission import ServerError
from trainer_module.model_versions import VersionError


@contextlib.contextmanager
def one_message(path: Callable[[], Path | str] | None = None, *, interrupted: str = "") -> Iterator[None]:
    """Ends the command with one message and an exit code where the work inside cannot be done.

    Args:
      path: What an error of the disk is about that names no file; asked only then, since the work may find it out.
        When absent, errors of the disk are not expected, and pass.
      interrupted: What is said to who interrupts; when absent, that passes too.
    """
    stderr = Console(stderr=True)
    try:
        yield
    except (ConfigError, DatasetError, NotEmptyError) as error:
        stop(stderr, BAD_USAGE, str(error))
    except (AlreadyRunningError, ServerError, VersionError) as error:
        stop(stderr, FAILED, str(error))
    except OSError as error:
        # A folder that cannot be read or written, or a full disk.
        if path is None:
            raise
        stop(stderr, FAILED, f"{error.filename or path()}: {error.strerror or error}")
    except KeyboardInterrupt:
        if not interrupted:
            raise
        stop(stderr, FAILED, interrupted)
