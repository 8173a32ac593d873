"""Expected errors of commands: one message and an exit code instead of a traceback."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from pathlib import Path

from rich.console import Console

from pipeline.cli.console import BAD_USAGE, FAILED, stop


@contextlib.contextmanager
def one_message(path: Callable[[], Path | str] | None = None, *, interrupted: str = "") -> Iterator[None]:
    """Ends the command with one message and an exit code if the work inside raises an expected error.

    Args:
      path: Returns the path for an OSError without a file name; called only then. Without it, an OSError propagates.
      interrupted: Message after Ctrl-C; without it, KeyboardInterrupt propagates.
    """
    # Not at import time: `--help` needs none of them.
    from components.image_example_gen.errors import DatasetError
    from components.stored import IncompatibleArtifactError
    from pipeline.config.messages import ConfigError
    from pipeline.deploy.model_server import NotEmptyError
    from pipeline.execution import disk_space
    from pipeline.execution.run_lock import AlreadyRunningError
    from pipeline.kubeflow.submission import ServerError
    from pipeline.monitoring.errors import MonitorError
    from serving.monitor.errors import WindowError
    from trainer_module.error_text import full_disk
    from trainer_module.model_versions import VersionError

    stderr = Console(stderr=True)
    try:
        yield
    except (ConfigError, DatasetError, NotEmptyError) as error:
        stop(stderr, BAD_USAGE, str(error))
    except (
        AlreadyRunningError,
        IncompatibleArtifactError,
        MonitorError,
        ServerError,
        VersionError,
        WindowError,
    ) as error:
        stop(stderr, FAILED, str(error))
    except OSError as error:
        # No permission, or a full disk.
        if path is None:
            raise
        stop(stderr, FAILED, f"{error.filename or path()}: {error.strerror or error}")
    except Exception as error:
        # ML Metadata and TensorFlow have errors of their own for a full disk.
        location = full_disk(error)
        if path is None or location is None:
            raise
        stop(stderr, FAILED, disk_space.full_message(location or path()))
    except KeyboardInterrupt:
        if not interrupted:
            raise
        stop(stderr, FAILED, interrupted)
