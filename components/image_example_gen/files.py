"""Lists and reads files: local ones with the operating system, `gs://` and others with TensorFlow's file system.

A path is relative to its root, with forward slashes. Bytes of a local name that are not UTF-8 are kept as surrogate
escapes, since the file could not be opened otherwise.
"""

from __future__ import annotations

import collections
import io
import itertools
import os
import stat
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TYPE_CHECKING, Any, BinaryIO, NamedTuple, TypeVar

from components.image_example_gen import object_store
from trainer_module.error_text import first_line
from trainer_module.locations import is_remote, join

if TYPE_CHECKING:
    import tensorflow as tf

# A remote file system answers many requests at once as fast as one.
_REMOTE_THREADS = 32
# Folders that are listed at the same time: of a store that describes files with their names; of another one, where
# each of them describes its files with so many threads; and local ones, whose names usually are in memory.
_STORE_FOLDERS, _REMOTE_FOLDERS, _LOCAL_FOLDERS = 32, 8, 4
_REMOTE_BUFFER = 2**20  # bytes of one request
# Files that are described at the same time, and in one go by a thread for local files. A local file that takes longer
# is on a volume behind a network: threads wait for many of its answers at a time. They would slow down a disk, whose
# answers are shorter than the turns of threads.
_FILES_PER_BLOCK, _FILES_PER_TURN = 1000, 50
_SECONDS_OF_LOCAL_FILE = 100e-6
# A local file whose contents take longer, apart from the time for its bytes, is on such a volume too.
_SECONDS_OF_LOCAL_READ, _BYTES_PER_SECOND = 1e-3, 100e6
# Files that are read at a time, if they are as large as the first ones.
_MOST_BYTES_AHEAD = 64 * 2**20
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


class Contents(NamedTuple):
    """A folder whose names are listed.

    Attributes:
      root: The folder that paths start from.
      folder: Its path.
      names: Names of the files and folders in it, sorted, without hidden and ignored ones.
      described: The files and folders, by name, if the store has described them with their names.
    """

    root: str
    folder: str
    names: Sequence[str]
    described: Sequence[File] | None = None

    def path(self, name: str) -> str:
        """Returns the path of a file in it."""
        return f"{self.folder}/{name}" if self.folder else name


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
    """Returns a name that can be printed: bytes that are not UTF-8, and surrogates without their pair, are replaced."""
    try:
        return name.encode(errors="surrogateescape").decode(errors="replace")
    except UnicodeEncodeError:
        return name.encode(errors="replace").decode()


def names(root: str, folder: str) -> list[str]:
    """Lists the names of the files and folders in one folder, as `listing`; none if it cannot be read."""
    try:
        return _names(join(root, folder))
    except (OSError, UnreadableFileError):
        return []


def listing(root: str, folder: str = "") -> list[File]:
    """Lists the files and folders in one folder, by name, without hidden and ignored ones."""
    return [file for block in blocks(contents(root, folder)) for file in block]


def listings(root: str, folders: Iterable[str], *, recursive: bool = False) -> Iterator[list[File]]:
    """Lists several folders, each as `listing`, or as `walk` if that is recursive; several at a time."""
    if recursive:
        yield from ahead(lambda folder: list(walk(root, folder)), folders, num_threads(root))
        return
    for inside in ahead(lambda folder: contents(root, folder), folders, num_threads(root)):
        yield [file for block in blocks(inside) for file in block]


def num_threads(root: str) -> int:
    """Returns the number of folders that are listed at a time."""
    if root.startswith(object_store.SCHEME):
        return _STORE_FOLDERS
    return _REMOTE_FOLDERS if is_remote(root) else _LOCAL_FOLDERS


_Item = TypeVar("_Item")
_Result = TypeVar("_Result")


def ahead(function: Callable[[_Item], _Result], items: Iterable[_Item], threads: int) -> Iterator[_Result]:
    """Yields the results for all items, in order, or raises the error of the first that fails.

    Threads work on the next items, but only on as many as there are threads: `Executor.map` would go through all items
    at once, and keep the results in memory.
    """
    waiting: collections.deque[Future[_Result]] = collections.deque()
    with ThreadPoolExecutor(threads) as pool:
        try:
            for item in items:
                waiting.append(pool.submit(function, item))
                if len(waiting) > threads:
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()
        finally:
            for future in waiting:
                future.cancel()


def contents(root: str, folder: str = "") -> Contents:
    """Lists the names in one folder; a remote one's files are described too."""
    location = join(root, folder)
    inside = Contents(root, folder, [])
    if location.startswith(object_store.SCHEME):
        try:
            listed = [item for item in object_store.listed(location) if not _is_ignored(item.name)]
        except object_store.ListingError as error:
            raise UnreadableFileError(str(error)) from None
        described = [File(inside.path(item.name), item.size, item.changed_ns, item.is_folder) for item in listed]
        return inside._replace(names=[item.name for item in listed], described=described)
    inside = inside._replace(names=sorted(_names(location)))
    if is_remote(root):
        return inside._replace(described=describe(root, [inside.path(name) for name in inside.names]))
    return inside


def blocks(inside: Contents) -> Iterator[list[File]]:
    """Describes the files and folders in a folder, a block at a time, by name."""
    yield from _in_blocks(_describe_folder(inside) if inside.described is None else [list(inside.described)])


def _in_blocks(parts: Iterable[list[File]]) -> Iterator[list[File]]:
    block: list[File] = []
    for part in parts:
        block += part
        if len(block) >= _FILES_PER_BLOCK:
            yield block
            block = []
    if block:
        yield block


def _describe_folder(inside: Contents) -> Iterator[list[File]]:
    """Describes the files and folders in a local folder."""
    names, real_root = inside.names, os.path.realpath(inside.root)
    if not _is_below(os.path.realpath(join(inside.root, inside.folder)), real_root):
        yield [File(inside.path(name), problem=_OUTSIDE) for name in names]
        return

    yield from _in_turns(lambda some: _describe_names(inside, real_root, some), names)


def _in_turns(describe_some: Callable[[Sequence[str]], list[File]], names: Sequence[str]) -> Iterator[list[File]]:
    """Describes local files some at a time, with threads if the first ones are on a slow volume."""
    start = time.perf_counter()
    yield describe_some(names[:_FILES_PER_TURN])
    is_slow = time.perf_counter() - start > _SECONDS_OF_LOCAL_FILE * min(len(names), _FILES_PER_TURN)
    size = _FILES_PER_TURN if is_slow else _FILES_PER_BLOCK
    rest = (names[first : first + size] for first in range(_FILES_PER_TURN, len(names), size))
    yield from ahead(describe_some, rest, _REMOTE_THREADS) if is_slow else map(describe_some, rest)


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
    for file in itertools.chain.from_iterable(blocks(contents(root, folder))):
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
    folders = {path.rpartition("/")[0] for path in paths}
    outside = {folder for folder in folders if not _is_below(os.path.realpath(join(root, folder)), real_root)}

    def describe_some(some: Sequence[str]) -> list[File]:
        return [
            File(path, problem=_OUTSIDE)
            if path.rpartition("/")[0] in outside
            else _describe_local(root, real_root, path)
            for path in some
        ]

    return [file for some in _in_turns(describe_some, paths) for file in some]


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


def open_binary(location: str) -> BinaryIO:
    """Opens a file that is read in parts.

    Raises:
      UnreadableFileError: With the system's reason; for a remote file also when it is read.
    """
    if not is_remote(location):
        try:
            return open(location, "rb")
        except OSError as error:
            raise UnreadableFileError(f"cannot be read: {error.strerror}") from None
    return io.BufferedReader(_RemoteFile(location), _REMOTE_BUFFER)


def lines(root: str, path: str, errors: str = "strict") -> Iterator[str]:
    """Reads the lines of a text in UTF-8, as `str.splitlines` returns them, without the whole text.

    Args:
      root: The folder that the path starts from.
      path: Relative to the root.
      errors: How bytes that are not UTF-8 are decoded.

    Raises:
      UnreadableFileError: With the system's reason.
      UnicodeDecodeError: With the position in the file.
    """
    try:
        with open_binary(join(root, path)) as file:
            for number, line in enumerate(file):
                yield from line.decode("utf-8" if number else "utf-8-sig", errors).splitlines()
    except UnicodeDecodeError:
        read(root, path).decode("utf-8-sig")
        raise
    except OSError as error:
        raise UnreadableFileError(f"cannot be read: {error.strerror}") from None


class _RemoteFile(io.RawIOBase):
    """A file that TensorFlow's file system reads."""

    def __init__(self, location: str) -> None:
        import tensorflow as tf

        self._file = tf.io.gfile.GFile(location, "rb")

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        import tensorflow as tf

        try:
            content: bytes = self._file.read(len(buffer))
        except tf.errors.OpError as error:
            raise UnreadableFileError(f"cannot be read: {first_line(error)}") from None
        buffer[: len(content)] = content
        return len(content)

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        self._file.seek(offset, whence)
        return self.tell()

    def tell(self) -> int:
        return int(self._file.tell())

    def close(self) -> None:
        self._file.close()
        super().close()


def _windows(paths: Iterable[str], most: int) -> Iterator[list[str]]:
    """A few paths at a time, at most so many: files that are read ahead are in memory."""
    iterator = iter(paths)
    while window := list(itertools.islice(iterator, max(1, min(most, _REMOTE_THREADS)))):
        yield window


def records(location: str) -> tf.data.Dataset:
    """Reads the records of a TFRecord file, string [] each; gzipped if its name ends in `.gz`."""
    import tensorflow as tf

    # Encoded, since TensorFlow accepts a name that is not UTF-8 only as bytes.
    return tf.data.TFRecordDataset(
        location.encode(errors="surrogateescape"), "GZIP" if location.endswith(".gz") else ""
    )


def read_all(root: str, paths: Iterable[str], most_bytes: int = -1) -> Iterator[bytes | UnreadableFileError]:
    """Reads files in order: remote ones, and local ones on a slow volume, several at a time."""

    def content(path: str) -> bytes | UnreadableFileError:
        try:
            return read(root, path, most_bytes)
        except UnreadableFileError as error:
            return error

    remaining, seconds, num_bytes = iter(paths), 0.0, 0
    if not is_remote(root):
        for path in itertools.islice(remaining, _FILES_PER_TURN):
            start = time.perf_counter()
            file = content(path)
            size = 0 if isinstance(file, UnreadableFileError) else len(file)
            seconds += time.perf_counter() - start - size / _BYTES_PER_SECOND - _SECONDS_OF_LOCAL_READ
            num_bytes += size
            yield file
        if seconds <= 0:
            yield from map(content, remaining)
            return
    with ThreadPoolExecutor(_REMOTE_THREADS) as pool:
        for window in _windows(remaining, _FILES_PER_TURN * _MOST_BYTES_AHEAD // max(1, num_bytes)):
            yield from pool.map(content, window)


def _is_below(location: str, folder: str) -> bool:
    return location == folder or location.startswith(folder.rstrip("/") + "/")


def _describe_names(inside: Contents, real_root: str, names: Iterable[str]) -> list[File]:
    """Describes local files in a folder that is inside the root."""
    location = join(inside.root, inside.folder).rstrip("/") + "/"
    prefix = f"{inside.folder}/" if inside.folder else ""
    described = []
    for name in names:
        try:
            status = os.lstat(location + name)
        except OSError:
            status = None
        if status is not None and stat.S_ISREG(status.st_mode):
            described.append(File(prefix + name, status.st_size, max(status.st_mtime_ns, status.st_ctime_ns)))
        else:
            described.append(_describe_local(inside.root, real_root, prefix + name))
    return described


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
