"""Names of places, and the files there: local ones by the operating system, `gs://` and the like by TensorFlow.

TensorFlow is imported only where it is needed.
"""

from __future__ import annotations

import os
import shutil
from typing import Any


def is_remote(location: str) -> bool:
    """Whether TensorFlow's file system is needed: `gs://bucket/folder`."""
    return "://" in location


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
    if not is_remote(location):
        with open(location, "rb") as file:
            return file.read()
    import tensorflow as tf

    try:
        with tf.io.gfile.GFile(location, "rb") as file:
            return bytes(file.read())
    except tf.errors.NotFoundError:
        raise FileNotFoundError(2, "No such file or directory", location) from None
    except tf.errors.OpError as error:
        raise OSError(None, str(error.message), location) from None
