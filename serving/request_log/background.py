"""One thread that writes a log, behind a bounded queue: a request never waits for the disk, and never fails with it."""

from __future__ import annotations

import logging
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from serving.request_log.files import RotatingFiles

_FIRST_RETRY_S, _LONGEST_RETRY_S = 0.5, 30.0
_BATCH = 256
_LINGER_S = 0.05
# One line for every change of the state of a log.
LOGGER = "tfx_vision.request_log"
_log = logging.getLogger(LOGGER)
_RECOVERY_S = 60.0

Encode = Callable[[], bytes]
# (what, number): `logged` records, `dropped` ones because the queue was full, written `bytes` with their framing, and
# `errors`: failed attempts to write, and records that could not be encoded.
Count = Callable[[str, int], None]


@dataclass(frozen=True)
class _Entry:
    encode: Encode
    size: int
    listener: Callable[[bool], None]


def _ignore(*_: object) -> None:
    """Ignores an outcome."""


@dataclass
class _Disk:
    """Whether the disk works; logs one line per change."""

    name: str
    failing: bool = False
    retry_s: float = 0.0
    dropping: bool = False
    dropped: int = 0

    def failed(self, error: OSError) -> None:
        if not self.failing:
            _log.error("%s cannot be written: %s. Requests are served; the log is retried.", self.name, error)
        self.failing = True
        self.retry_s = min(self.retry_s * 2, _LONGEST_RETRY_S) if self.retry_s else _FIRST_RETRY_S

    def works(self) -> None:
        if self.failing:
            _log.info("%s is written again.", self.name)
        self.failing, self.retry_s = False, 0.0

    def drops(self) -> None:
        if not self.dropping:
            _log.warning("%s: the queue is full; records are dropped.", self.name)
            self.dropping, self.dropped = True, 0
        self.dropped += 1

    def keeps_up(self) -> None:
        if self.dropping:
            _log.info("%s: the queue has room again; %d records were dropped.", self.name, self.dropped)
        self.dropping = False


class BackgroundLog:
    """Writes records in the order of their arrival; threads can share it."""

    def __init__(
        self,
        name: str,
        files: RotatingFiles,
        *,
        count: Count = _ignore,
        max_records: int = 1024,
        max_bytes: int = 64 * 2**20,
    ) -> None:
        """Starts the thread.

        Args:
          name: For messages.
          files: Where the records go.
          count: Counts what happens to the records.
          max_records: How many records wait at most.
          max_bytes: How large they are at most, together.
        """
        self._count, self._files, self._max_records, self._max_bytes = count, files, max_records, max_bytes
        self._disk = _Disk(name)
        self._queue: deque[_Entry] = deque()
        self._queued_bytes = self._pending = 0
        self._changed = threading.Condition()
        self._stopping = self._flushing = self._reported = False
        self._recovery_at = 0.0
        self._thread = threading.Thread(target=self._run, name="request-log", daemon=True)
        self._thread.start()

    def offer(self, encode: Encode, size: int, listener: Callable[[bool], None] = _ignore) -> bool:
        """Adds a record to the queue, without waiting.

        Args:
          encode: Returns the bytes of the record, with their framing; called in the thread of the log.
          size: About how many bytes the record keeps in memory.
          listener: Called in that thread: whether the record was written.

        Returns:
          False if the queue is full: the record is dropped and counted.
        """
        with self._changed:
            fits = self._pending < self._max_records and self._queued_bytes + size <= self._max_bytes
            if not fits or self._stopping:
                self._count("dropped", 1)
                self._disk.drops()
                return False
            self._queue.append(_Entry(encode, size, listener))
            self._queued_bytes += size
            self._pending += 1
            self._changed.notify()
            return True

    def flush(self, timeout_s: float = 10.0) -> bool:
        """Waits until all records are written and publishes their file; for tests.

        Returns:
          False if that did not succeed in time.
        """
        with self._changed:
            if not self._changed.wait_for(lambda: not self._pending, timeout_s):
                return False
            self._flushing = True
            self._changed.notify_all()
            return self._changed.wait_for(lambda: not self._flushing, timeout_s) and not self._disk.failing

    def close(self, timeout_s: float = 10.0) -> None:
        """Writes what is in the queue, publishes the file, and ends the thread; gives up after the timeout."""
        with self._changed:
            self._stopping = True
            self._changed.notify()
        self._thread.join(timeout_s)

    def _run(self) -> None:
        while True:
            entries = self._next()
            if entries:
                self._write(entries)
            elif self._stopping:
                break
            self._maintain()
        self._try(self._files.complete)

    def _next(self) -> Sequence[_Entry]:
        """Waits for records, or for the time when something else is due."""
        with self._changed:
            if not self._queue and not self._stopping and not self._flushing:
                self._disk.keeps_up()
                recovery_s, due_s = self._recovery_at - time.monotonic(), self._files.due_s()
                self._changed.wait(max(recovery_s if due_s is None else min(due_s, recovery_s), 0.0))
        if self._queue and not self._stopping and self._has_room():
            time.sleep(_LINGER_S)  # records that are written together take less time from the requests
        with self._changed:
            return [self._queue.popleft() for _ in range(min(len(self._queue), _BATCH))]

    def _has_room(self) -> bool:
        return self._pending < self._max_records / 2 and self._queued_bytes < self._max_bytes / 2

    def _write(self, entries: Sequence[_Entry]) -> None:
        encoded = [self._encoded(entry) for entry in entries]
        data = b"".join(encoded)
        written = bool(data) and self._try_until_stopped(lambda: self._files.append(data))
        with self._changed:
            self._pending -= len(entries)
            self._queued_bytes -= sum(entry.size for entry in entries)
            if written:
                self._count("logged", sum(map(bool, encoded)))
                self._count("bytes", len(data))
            self._changed.notify_all()
        for entry, record in zip(entries, encoded, strict=True):
            entry.listener(written and bool(record))

    def _encoded(self, entry: _Entry) -> bytes:
        try:
            return entry.encode()
        except Exception as error:  # of one record; the thread must go on
            self._count("errors", 1)
            if not self._reported:
                self._reported = True
                name, kind = self._disk.name, type(error).__name__
                _log.error("%s: a record cannot be encoded (%s: %s). Others are counted only.", name, kind, error)
            return b""

    def _try_until_stopped(self, action: Callable[[], object]) -> bool:
        """Repeats an action while the disk fails; meanwhile the queue fills, and then drops."""
        while not self._try(action):
            with self._changed:
                if self._stopping:
                    return False
                self._changed.wait_for(lambda: self._stopping, self._disk.retry_s)
        return True

    def _try(self, action: Callable[[], object]) -> bool:
        try:
            action()
        except OSError as error:
            self._count("errors", 1)
            self._disk.failed(error)
            return False
        self._disk.works()
        return True

    def _maintain(self) -> None:
        """Publishes a file that is due; looks for files that killed processes have left."""
        flushing = self._flushing
        if flushing or self._files.due_s() == 0.0:
            self._try(self._files.complete)
        if time.monotonic() >= self._recovery_at:
            self._recovery_at = time.monotonic() + _RECOVERY_S
            self._try(self._clean)
        if flushing:
            with self._changed:
                self._flushing = False
                self._changed.notify_all()

    def _clean(self) -> None:
        self._files.recover()
        self._files.delete_old()
