"""Paths and storage URIs, and the files there: local files by the operating system, `gs://` and others by TensorFlow.

Imports TensorFlow only if a URI needs it.
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

_STORAGE_URI = re.compile(r"[a-z][a-z0-9+.-]*://[^/]+(/.*)?")


def is_remote(location: str) -> bool:
    """Whether it is a URI, such as `gs://bucket/folder`, that requires TensorFlow's file system."""
    return "://" in location


def is_complete(location: str) -> bool:
    """Whether it is a local path or a URI with a bucket; `gs://` and `gs:///folder` are not."""
    return not is_remote(location) or _STORAGE_URI.fullmatch(location) is not None


def absolute(location: str) -> str:
    """Returns the absolute path of a local path; URIs stay unchanged."""
    return location if is_remote(location) else os.path.abspath(os.path.expanduser(location))


def join(location: str, *names: str) -> str:
    """Returns the location of a file in a folder; ignores empty names."""
    return "/".join([location.rstrip("/"), *filter(None, names)]) if any(names) else location


class _LocalFiles:
    """The used part of `tf.io.gfile`, for local paths."""

    exists = staticmethod(os.path.exists)
    listdir = staticmethod(os.listdir)
    walk = staticmethod(os.walk)
    rmtree = staticmethod(shutil.rmtree)
    GFile = staticmethod(open)

    @staticmethod
    def makedirs(path: str) -> None:
        os.makedirs(path, exist_ok=True)


# Not etils.epath (1.15): it supports gs:// and s3:// only (hdfs:// and the tests' ram:// are a KeyError), hides local
# files whose names end in "~", and raises most of TensorFlow's errors as they are. Not fsspec: gs:// needs gcsfs, a
# second client of the store beside those of TensorFlow and Beam, with its own credentials.
def file_system(location: str) -> Any:
    """Returns the file system of a location: `tf.io.gfile`, or the same functions for local paths."""
    if not is_remote(location):
        return _LocalFiles
    import tensorflow as tf

    return tf.io.gfile


def read(location: str) -> bytes:
    """Reads a file.

    Raises:
      OSError: If it cannot be read; FileNotFoundError if it does not exist.
    """
    with os_errors(location), file_system(location).GFile(location, "rb") as file:
        return bytes(file.read())


def write(location: str, content: bytes) -> None:
    """Writes a file; its folder must exist.

    Raises:
      OSError: If it cannot be written.
    """
    with os_errors(location), file_system(location).GFile(location, "wb") as file:
        file.write(content)


def replace(location: str, content: bytes) -> None:
    """Writes a file so that a reader sees the old or the new content; its folder must exist.

    Raises:
      OSError: If it cannot be written; the old content remains.
    """
    if is_remote(location):
        write(location, content)  # an object store replaces objects as a whole
        return
    folder, name = os.path.split(location)
    temporary = os.path.join(folder, f".{name}.{os.urandom(4).hex()}.tmp")
    try:
        write(temporary, content)
        os.replace(temporary, location)
    except OSError as error:
        raise OSError(error.errno, error.strerror, location) from None
    finally:
        with contextlib.suppress(OSError):
            os.unlink(temporary)


def sync(path: str) -> None:
    """Flushes a local file, or the names in a local folder, to the disk, so that they survive a crash.

    Raises:
      OSError: If that fails.
    """
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def copy_files(source: str, target: str) -> None:
    """Copies all files of a folder, which may be local or remote, into another one.

    Raises:
      OSError: If a file cannot be read or written.
    """
    with os_errors(source):
        folders = list(file_system(source).walk(source))
    for folder, _, names in folders:
        copy = join(target, str(folder).removeprefix(source).strip("/"))
        with os_errors(target):
            file_system(target).makedirs(copy)
        for name in names:
            write(join(copy, name), read(join(str(folder), name)))


def size_and_time(location: str) -> tuple[int, int]:
    """Returns the size of a file, bytes, and when it was changed, nanoseconds."""
    if is_remote(location):
        status = file_system(location).stat(location)
        return int(status.length), int(status.mtime_nsec)
    local = os.stat(location)
    return local.st_size, local.st_mtime_ns


@contextlib.contextmanager
def os_errors(location: str) -> Iterator[None]:
    """Converts TensorFlow's errors in the block to the errors of local files; all name a file.

    Raises:
      OSError: If the store refuses the access; FileNotFoundError if the file does not exist.
    """
    if not is_remote(location):
        try:
            yield
        except OSError as error:
            error.filename = error.filename or location  # that of a full disk names none
            raise
        return
    import tensorflow as tf

    try:
        yield
    except tf.errors.NotFoundError:
        raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), location) from None
    except tf.errors.OpError as error:
        raise OSError(errno.EIO, first_line(error), location) from None
