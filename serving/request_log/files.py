"""The files of a log: they rotate, appear when they are complete, survive a killed process, and are deleted when old.

A file's name is PREFIX-TIME-HOST-PID-NONCE-NUMBER.SUFFIX: the UTC time of its creation, the host and the process that
wrote it, a random nonce of the writer, and a number that counts its files. Several servers can share a prefix. While a
file is written, its name begins with a dot and ends in `.tmp`; its process holds a lock on it (flock), so that another
one recognises what a killed process has left.

logging.handlers rotates text logs by size or by time, without the hidden name, the locks and several writers.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import re
import secrets
import socket
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import BinaryIO

from serving import tfrecord
from serving.request_log.options import Rotation

_TEMPORARY = ".tmp"
# Of a file without a lock, on a file system that has none.
_ABANDONED_S = 24 * 3600.0


@dataclass(frozen=True)
class Format:
    """A file format: its suffix, and how much of an incomplete file is intact."""

    suffix: str
    intact_bytes: Callable[[BinaryIO], int]


def _intact_records(file: BinaryIO) -> int:
    intact = 0
    with contextlib.suppress(tfrecord.DamagedRecordError):
        for end, _ in tfrecord.records(file):
            intact = end
    return intact


def _intact_lines(file: BinaryIO) -> int:
    return sum(len(line) for line in file if line.endswith(b"\n"))


TFRECORD = Format(".tfrecord", _intact_records)
JSON_LINES = Format(".feedback.jsonl", _intact_lines)
MIRROR = Format(".mirror.jsonl", _intact_lines)


def published(prefix: Path, kind: Format) -> list[Path]:
    """Returns the complete files of a log, of all hosts and processes, oldest first."""
    name = _name_pattern(prefix, kind, hidden=False)
    try:
        entries = sorted(entry.name for entry in os.scandir(prefix.parent) if name.fullmatch(entry.name))
    except FileNotFoundError:
        return []
    return [prefix.parent / entry for entry in entries]


def _name_pattern(prefix: Path, kind: Format, hidden: bool) -> re.Pattern[str]:
    name = rf"{re.escape(prefix.name)}-\d{{8}}T\d{{12}}Z-.+-\d+-[0-9a-f]{{8}}-\d{{6,}}{re.escape(kind.suffix)}"
    return re.compile(rf"\.{name}{re.escape(_TEMPORARY)}" if hidden else name)


class RotatingFiles:
    """Appends to the newest file of a log. For one thread."""

    def __init__(self, prefix: Path, kind: Format, rotation: Rotation) -> None:
        """Takes the options; creates nothing before `append`.

        Args:
          prefix: Folder, and beginning of the names.
          kind: The file format.
          rotation: When files are complete, and when they are deleted.
        """
        self._prefix, self._kind, self._rotation = prefix, kind, rotation
        host = re.sub(r"[^A-Za-z0-9._-]", "_", socket.gethostname()) or "host"
        self._writer = f"{host}-{os.getpid()}-{secrets.token_hex(4)}"
        self._number = 0
        self._file: BinaryIO | None = None
        self._path = prefix
        self._size, self._begun = 0, 0.0

    def append(self, data: bytes) -> None:
        """Appends complete records, and completes the file before or after if it is due.

        Raises:
          OSError: If they cannot be written; the file then ends before them, and another call tries again.
        """
        if self._file is not None and self._size + len(data) > self._rotation.max_bytes and self._size:
            self.complete()
        if self._file is None:
            self._open()
        assert self._file is not None
        try:
            view = memoryview(data)
            while view:
                view = view[self._file.write(view) :]
        except OSError:
            self._discard_incomplete()
            raise
        self._size += len(data)
        if self._size >= self._rotation.max_bytes:
            self.complete()

    def due_s(self) -> float | None:
        """Returns the seconds until the file is complete by its age; None without a file."""
        if self._file is None:
            return None
        return max(self._begun + self._rotation.max_age_s - time.monotonic(), 0.0)

    def complete(self) -> None:
        """Publishes the file under its final name and deletes old files.

        Raises:
          OSError: If that fails; the hidden file is then recovered later.
        """
        file, self._file = self._file, None
        if file is None:
            return
        with file:
            os.fsync(file.fileno())
            _publish(self._path)
        self.delete_old()

    def recover(self) -> int:
        """Publishes the complete records of files that killed processes have left.

        Returns:
          The number of published files.

        Raises:
          OSError: If the folder cannot be read or written.
        """
        hidden = _name_pattern(self._prefix, self._kind, hidden=True)
        self._prefix.parent.mkdir(parents=True, exist_ok=True)
        names = [entry.name for entry in os.scandir(self._prefix.parent) if hidden.fullmatch(entry.name)]
        return sum(self._recover(self._prefix.parent / name) for name in sorted(names))

    def delete_old(self) -> None:
        """Deletes files that are too old, and the oldest ones if all are too large together.

        Raises:
          OSError: If the folder cannot be read or written.
        """
        now, total = time.time(), 0
        for path in reversed(published(self._prefix, self._kind)):
            with contextlib.suppress(FileNotFoundError):  # another server has deleted it
                status = path.stat()
                total += status.st_size
                if now - status.st_mtime > self._rotation.keep_s or total > self._rotation.keep_bytes:
                    path.unlink()

    def _open(self) -> None:
        self._prefix.parent.mkdir(parents=True, exist_ok=True)
        while self._file is None:
            self._number += 1
            begun = datetime.now(UTC).strftime("%Y%m%dT%H%M%S%fZ")
            name = f".{self._prefix.name}-{begun}-{self._writer}-{self._number:06}{self._kind.suffix}{_TEMPORARY}"
            path = self._prefix.parent / name
            file = open(path, "xb", buffering=0)
            locked = _lock(file)
            if locked is not False and _is_at(file, path):  # else a server took it for an abandoned one
                self._file, self._path = file, path
                self._size, self._begun = 0, time.monotonic()
            else:
                file.close()

    def _discard_incomplete(self) -> None:
        """Cuts the record that could not be written whole, and continues with another file."""
        file, self._file = self._file, None
        assert file is not None
        with contextlib.suppress(OSError), file:
            file.truncate(self._size)
            if self._size:
                _publish(self._path)
            else:
                self._path.unlink()

    def _recover(self, path: Path) -> bool:
        try:
            file = open(path, "r+b")
        except FileNotFoundError:  # another server has recovered it
            return False
        with file:
            locked = _lock(file)
            if locked is None:  # no locks here: only the time tells
                locked = time.time() - os.fstat(file.fileno()).st_mtime > _ABANDONED_S
            if not locked or not _is_at(file, path):
                return False
            intact = self._kind.intact_bytes(file)
            if not intact:
                path.unlink()
                return False
            file.truncate(intact)
            _publish(path)
            return True


def _publish(path: Path) -> None:
    """Renames a hidden file to its final name."""
    os.rename(path, path.parent / path.name.removeprefix(".").removesuffix(_TEMPORARY))
    with _folder(path.parent) as folder:
        os.fsync(folder)


@contextlib.contextmanager
def _folder(path: Path) -> Iterator[int]:
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        yield descriptor
    finally:
        os.close(descriptor)


def _lock(file: BinaryIO) -> bool | None:
    """Locks a file; False if another process has locked it, None if the file system has no locks."""
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError:
        return None
    return True


def _is_at(file: BinaryIO, path: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(file.fileno()), path.stat())
    except FileNotFoundError:
        return False
