"""Lists and reads files: local ones with the operating system, `gs://` and others with TensorFlow's file system.

A path is relative to its root, with forward slashes. Bytes of a local name that are not UTF-8 are kept as surrogate
escapes, since the file could not be opened otherwise.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any, NamedTuple

from trainer_module.error_text import first_line
from trainer_module.locations import is_remote, join

if TYPE_CHECKING:
    import tensorflow as tf

# A remote file system answers many requests at once as fast as one.
_REMOTE_THREADS = 32
# Folders that are listed at the same time; each of them describes its files with so many threads.
_REMOTE_FOLDERS = 8
# Files and folders that operating systems and programs add; never part of a dataset. Hidden ones are ignored too.
_IGNORED_NAMES = frozenset(
    ("thumbs.db", "ehthumbs.db", "desktop.ini", "__macosx", "$recycle.bin", "@eadir", "__pycache__")
)
MISSING = "the file does not exist"
_OUTSIDE = "it leads out of the data folder; such links and paths are not followed"


class File(NamedTuple):
    """A file or folder, without its contents.

    Attributes:
      path: Relative to the root.
      size: Bytes.
      changed_ns: Time of the last change; moving a local file here is a change.
      is_folder: Whether it is a folder.
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
    """Whether the folder exists."""
    if not is_remote(location):
        return os.path.isdir(location)
    return _check_remote(lambda gfile: gfile.isdir(location), location)


def is_file(location: str) -> bool:
    """Whether the file exists."""
    if not is_remote(location):
        return os.path.isfile(location)
    return _check_remote(lambda gfile: gfile.exists(location) and not gfile.isdir(location), location)


def _check_remote(check: Callable[[Any], bool], location: str) -> bool:
    import tensorflow as tf

    try:
        return bool(check(tf.io.gfile))
    except tf.errors.OpError as error:
        raise UnreadableFileError(f"{location}: {first_line(error)}") from None


def readable(name: str) -> str:
    """Returns a name that can be printed: bytes that are not UTF-8 are replaced."""
    return name.encode(errors="surrogateescape").decode(errors="replace")


def names(root: str, folder: str) -> list[str]:
    """Lists the names of the files and folders in one folder, as `listing`; none if it cannot be read."""
    try:
        return _names(join(root, folder))
    except (OSError, UnreadableFileError):
        return []


def listing(root: str, folder: str = "") -> list[File]:
    """Lists the files and folders in one folder, by name, without hidden and ignored ones."""
    return describe(root, [f"{folder}/{name}" if folder else name for name in _names(join(root, folder))])


def listings(root: str, folders: Iterable[str], *, recursive: bool = False) -> Iterator[list[File]]:
    """Lists several folders, each as `listing`, or as `walk` if that is recursive; remote ones several at a time."""

    def contents(folder: str) -> list[File]:
        return list(walk(root, folder)) if recursive else listing(root, folder)

    if is_remote(root):
        with ThreadPoolExecutor(_REMOTE_FOLDERS) as pool:
            yield from pool.map(contents, folders)
    else:
        yield from map(contents, folders)


def _names(location: str) -> list[str]:
    if not is_remote(location):
        return [name for name in os.listdir(location) if not _is_ignored(name)]
    import tensorflow as tf

    try:
        listed = [name.rstrip("/") for name in tf.io.gfile.listdir(location)]
    except tf.errors.OpError as error:
        raise UnreadableFileError(f"{location}: {first_line(error)}") from None
    return [name for name in listed if not _is_ignored(name)]


def _is_ignored(name: str) -> bool:
    """Whether a file or folder is hidden, or one that operating systems and programs add."""
    return name.startswith(".") or name.lower() in _IGNORED_NAMES


def walk(root: str, folder: str) -> Iterator[File]:
    """Lists all files below a folder, by name."""
    for file in listing(root, folder):
        if not file.is_folder:
            yield file
        elif file.problem or (not is_remote(root) and os.path.islink(join(root, file.path))):
            yield file._replace(is_folder=False, problem=file.problem or "a linked folder; its files are not read")
        else:
            yield from walk(root, file.path)


def describe(root: str, paths: list[str]) -> list[File]:
    """Describes files without opening them, in the order of their names.

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
    folders = [path.rpartition("/")[0] for path in paths]
    outside = {folder for folder in set(folders) if not _is_below(os.path.realpath(join(root, folder)), real_root)}
    return [
        File(path, problem=_OUTSIDE) if folder in outside else _describe_local(root, real_root, path)
        for path, folder in zip(paths, folders, strict=True)
    ]


def read(root: str, path: str, most_bytes: int = -1) -> bytes:
    """Reads a file.

    Args:
      root: The folder that the path starts from.
      path: Relative to the root.
      most_bytes: Number of bytes to read from the beginning; -1 for all.

    Raises:
      UnreadableFileError: With the system's reason.
    """
    if not is_remote(root):
        try:
            # A buffer would cost three system calls, as many as reading a small file.
            with open(join(root, path), "rb", buffering=0) as file:
                return file.read(most_bytes)
        except OSError as error:
            raise UnreadableFileError(f"cannot be read: {error.strerror}") from None
    import tensorflow as tf

    try:
        with tf.io.gfile.GFile(join(root, path), "rb") as file:
            content: bytes = file.read(most_bytes)
            return content
    except tf.errors.OpError as error:
        raise UnreadableFileError(f"cannot be read: {first_line(error)}") from None


def _windows(paths: list[str]) -> Iterator[list[str]]:
    """A few paths at a time: files that are read ahead are in memory."""
    for start in range(0, len(paths), _REMOTE_THREADS):
        yield paths[start : start + _REMOTE_THREADS]


def records(location: str) -> tf.data.Dataset:
    """Reads the records of a TFRecord file, string [] each; gzipped if its name ends in `.gz`."""
    import tensorflow as tf

    # Encoded, since TensorFlow accepts a name that is not UTF-8 only as bytes.
    return tf.data.TFRecordDataset(
        location.encode(errors="surrogateescape"), "GZIP" if location.endswith(".gz") else ""
    )


def read_all(root: str, paths: list[str], most_bytes: int = -1) -> Iterator[bytes | UnreadableFileError]:
    """Reads files in order; remote ones several at a time."""

    def content(path: str) -> bytes | UnreadableFileError:
        try:
            return read(root, path, most_bytes)
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
        missing = "a link to a file that does not exist" if os.path.islink(location) else MISSING
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
        return File(path, problem=MISSING)
    except tf.errors.OpError as error:
        return File(path, problem=f"cannot be read: {first_line(error)}")
    return File(path, status.length, status.mtime_nsec, is_folder=status.is_directory)
