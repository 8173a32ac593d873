"""Lists and reads files: local ones with the operating system, gs:// and the like with TensorFlow's file system.

A path is relative to its root, with forward slashes; bytes of a local name that are not UTF-8 are kept as Python keeps
them (surrogate escapes), since the file could not be opened otherwise.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any, NamedTuple

from trainer_module.error_text import first_line
from trainer_module.locations import is_remote, join

if TYPE_CHECKING:
    import tensorflow as tf

# A file system behind a network answers many questions at once as fast as one.
_REMOTE_THREADS = 32
_OUTSIDE = "it leads out of the data folder; such links and paths are not followed"


class File(NamedTuple):
    """What is known of a file without opening it.

    Attributes:
      path: Relative to the root.
      size: Bytes.
      changed_ns: Time of the last change; a file that was moved here counts as changed where the system knows.
      is_folder: Whether it holds other files.
      problem: Why it must not be read; empty if it may be.
    """

    path: str
    size: int = 0
    changed_ns: int = 0
    is_folder: bool = False
    problem: str = ""


class UnreadableFileError(Exception):
    """The file cannot be read; the message is the reason."""


def is_folder(location: str) -> bool:
    """Whether there is such a folder."""
    if not is_remote(location):
        return os.path.isdir(location)
    return _ask_remote(lambda gfile: gfile.isdir(location), location)


def is_file(location: str) -> bool:
    """Whether there is such a file."""
    if not is_remote(location):
        return os.path.isfile(location)
    return _ask_remote(lambda gfile: gfile.exists(location) and not gfile.isdir(location), location)


def _ask_remote(question: Callable[[Any], bool], location: str) -> bool:
    import tensorflow as tf

    try:
        return bool(question(tf.io.gfile))
    except tf.errors.OpError as error:
        raise UnreadableFileError(f"{location}: {first_line(error)}") from None


def readable(name: str) -> str:
    """A name as people can read it: bytes that are not UTF-8 are replaced."""
    return name.encode(errors="surrogateescape").decode(errors="replace")


def listing(root: str, folder: str = "") -> list[File]:
    """What lies in one folder, by name; hidden entries are left out."""
    if is_remote(root):
        import tensorflow as tf

        try:
            names = [name.rstrip("/") for name in tf.io.gfile.listdir(join(root, folder))]
        except tf.errors.OpError as error:
            raise UnreadableFileError(f"{join(root, folder)}: {first_line(error)}") from None
    else:
        names = os.listdir(join(root, folder))
    return describe(root, [f"{folder}/{name}" if folder else name for name in names if not name.startswith(".")])


def walk(root: str, folder: str) -> Iterator[File]:
    """All files below a folder, by name."""
    for found in listing(root, folder):
        if not found.is_folder:
            yield found
        elif found.problem or (not is_remote(root) and os.path.islink(join(root, found.path))):
            yield found._replace(is_folder=False, problem=found.problem or "a linked folder; its files are not read")
        else:
            yield from walk(root, found.path)


def describe(root: str, paths: list[str]) -> list[File]:
    """Looks at files without opening them; in the order of their names.

    A link (or a path with `..`) may lead anywhere inside the root, but not out of it.
    """
    absolute = {path for path in paths if path.startswith("/") or is_remote(path)}
    if absolute:
        inside = describe(root, [path for path in paths if path not in absolute])
        return sorted([*inside, *(File(path, problem=_OUTSIDE) for path in absolute)])
    paths = sorted(paths)
    if is_remote(root):
        with ThreadPoolExecutor(_REMOTE_THREADS) as pool:
            return list(pool.map(lambda path: _describe_remote(root, path), paths))
    real_root = os.path.realpath(root)
    folders = {os.path.dirname(path) for path in paths}
    outside = {folder for folder in folders if not _is_below(os.path.realpath(join(root, folder)), real_root)}
    return [
        File(path, problem=_OUTSIDE) if os.path.dirname(path) in outside else _describe_local(root, real_root, path)
        for path in paths
    ]


def read(root: str, path: str) -> bytes:
    """Reads a file.

    Raises:
      UnreadableFileError: With the system's reason.
    """
    if not is_remote(root):
        try:
            with open(join(root, path), "rb") as file:
                return file.read()
        except OSError as error:
            raise UnreadableFileError(f"cannot be read: {error.strerror}") from None
    import tensorflow as tf

    try:
        with tf.io.gfile.GFile(join(root, path), "rb") as file:
            content: bytes = file.read()
            return content
    except tf.errors.OpError as error:
        raise UnreadableFileError(f"cannot be read: {first_line(error)}") from None


def _windows(paths: list[str]) -> Iterator[list[str]]:
    """Few at a time: what is read ahead is in memory."""
    for start in range(0, len(paths), _REMOTE_THREADS):
        yield paths[start : start + _REMOTE_THREADS]


def records(location: str) -> tf.data.Dataset:
    """The records of a TFRecord file, string [] each; gzipped if its name ends in `.gz`."""
    import tensorflow as tf

    # Encoded here: TensorFlow takes a name whose bytes are not UTF-8 only as bytes.
    return tf.data.TFRecordDataset(
        location.encode(errors="surrogateescape"), "GZIP" if location.endswith(".gz") else ""
    )


def read_all(root: str, paths: list[str]) -> Iterator[bytes | UnreadableFileError]:
    """Reads files in order; remote ones several at a time."""

    def content(path: str) -> bytes | UnreadableFileError:
        try:
            return read(root, path)
        except UnreadableFileError as error:
            return error

    if is_remote(root):
        with ThreadPoolExecutor(_REMOTE_THREADS) as pool:
            for window in _windows(paths):
                yield from pool.map(content, window)
    else:
        yield from map(content, paths)


def _is_below(location: str, folder: str) -> bool:
    return location == folder or location.startswith(folder.rstrip("/") + "/")


def _describe_local(root: str, real_root: str, path: str) -> File:
    location = join(root, path)
    try:
        status = os.lstat(location)
        if stat.S_ISLNK(status.st_mode):
            if not _is_below(os.path.realpath(location), real_root):
                return File(path, is_folder=os.path.isdir(location), problem=_OUTSIDE)
            status = os.stat(location)
    except FileNotFoundError:
        missing = "a link to a file that does not exist" if os.path.islink(location) else "there is no such file"
        return File(path, problem=missing)
    except OSError as error:
        return File(path, problem=f"cannot be read: {error.strerror}")
    if stat.S_ISDIR(status.st_mode):
        return File(path, is_folder=True)
    if not stat.S_ISREG(status.st_mode):
        return File(path, problem="neither a file nor a folder")
    return File(path, status.st_size, max(status.st_mtime_ns, status.st_ctime_ns))


def _describe_remote(root: str, path: str) -> File:
    import tensorflow as tf

    if ".." in path.split("/"):
        return File(path, problem=_OUTSIDE)
    try:
        status = tf.io.gfile.stat(join(root, path))
    except tf.errors.NotFoundError:
        return File(path, problem="there is no such file")
    except tf.errors.OpError as error:
        return File(path, problem=f"cannot be read: {first_line(error)}")
    return File(path, status.length, status.mtime_nsec, is_folder=status.is_directory)
