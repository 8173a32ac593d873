"""Names of places, and the files there: local ones by the operating system, `gs://` and the like by TensorFlow.

TensorFlow is imported only where it is needed.
"""

from __future__ import annotations

import contextlib
import errno
import os
import re
import shutil
from collections.abc import Iterator
from typing import Any

from trainer_module.error_text import first_line

_STORE = re.compile(r"[a-z][a-z0-9+.-]*://[^/]+(/.*)?")


def is_remote(location: str) -> bool:
    """Whether TensorFlow's file system is needed: `gs://bucket/folder`."""
    return "://" in location


def is_whole(location: str) -> bool:
    """Whether a remote location names a store: `gs://` alone, or `gs:///folder`, does not."""
    return not is_remote(location) or _STORE.fullmatch(location) is not None


def absolute(location: str) -> str:
    """A local path from the root of the file system; remote ones as they are."""
    return location if is_remote(location) else os.path.abspath(os.path.expanduser(location))


def join(location: str, *names: str) -> str:
    """The location of a file below another; empty names are left out."""
    return "/".join([location.rstrip("/"), *filter(None, names)]) if any(names) else location


class _LocalFiles:
    """What is used of `tf.io.gfile`, for local paths."""

    exists = staticmethod(os.path.exists)
    listdir = staticmethod(os.listdir)
    walk = staticmethod(os.walk)
    rmtree = staticmethod(shutil.rmtree)
    GFile = staticmethod(open)

    @staticmethod
    def makedirs(path: str) -> None:
        os.makedirs(path, exist_ok=True)


def files(location: str) -> Any:
    """The file system of a place: `tf.io.gfile`, or what has the same functions for local paths."""
    if not is_remote(location):
        return _LocalFiles
    import tensorflow as tf

    return tf.io.gfile


def read(location: str) -> bytes:
    """What a file holds.

    Raises:
      OSError: If it cannot be read; FileNotFoundError if there is none.
    """
    with errors_of_the_system(location), files(location).GFile(location, "rb") as file:
        return bytes(file.read())


def write(location: str, content: bytes) -> None:
    """Writes a file; its folder has to exist.

    Raises:
      OSError: If it cannot be written.
    """
    with errors_of_the_system(location), files(location).GFile(location, "wb") as file:
        file.write(content)


@contextlib.contextmanager
def errors_of_the_system(location: str) -> Iterator[None]:
    """Makes TensorFlow's errors, inside, those that a local file gives.

    Raises:
      OSError: For what a store refuses; FileNotFoundError for what is not there.
    """
    if not is_remote(location):
        yield
        return
    import tensorflow as tf

    try:
        yield
    except tf.errors.NotFoundError:
        raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), location) from None
    except tf.errors.OpError as error:
        raise OSError(errno.EIO, first_line(error), location) from None
