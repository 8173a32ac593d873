"""The decisions of a person about labels: an append-only file, so that nothing is lost when a page or process ends.

Every decision is on the disk (fsync) before the page receives the response. Undoing appends too.
"""

from __future__ import annotations

import fcntl
import json
import os
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple, get_args

from components.image_example_gen.artifact import Action
from pipeline.config.messages import ConfigError

_DECISION, _UNDO, _SPAN = "decision", "undo", "span"
ACTIONS: tuple[Action, ...] = get_args(Action)
Source = Literal["dataset", "log"]


class Decision(NamedTuple):
    """A person's decision about one image.

    Attributes:
      key: Of the image: `dataset/FILENAME` or `log/SELECTION/PATH`.
      source: Whether the image is in the dataset or in the request log.
      filename: Relative to the data folder; of a logged image the name that its file gets.
      action: `keep`, `relabel` or `drop`.
      label: The label before.
      new_label: The label from now on; empty unless the image is relabelled.
      reason: Why it was in the queue.
      score: Of that reason, range [0, 1].
      time: Unix time, seconds.
    """

    key: str
    source: Source
    filename: str
    action: Action
    label: str
    new_label: str
    reason: str
    score: float
    time: float

    @property
    def labels_logged_image(self) -> bool:
        """Whether it gives an image of the request log a label, for the next span."""
        return self.source == "log" and self.action != "drop"


class JournalLockedError(ConfigError):
    """Another process writes this journal."""


class Journal:
    """The journal of one pipeline; threads may share it."""

    def __init__(self, path: Path) -> None:
        """Opens the journal, creates it if necessary, and removes what an interrupted write has left at its end.

        Raises:
          JournalLockedError: If another process has opened it.
          OSError: If it cannot be read or written.
        """
        path.parent.mkdir(parents=True, exist_ok=True)
        self.path = path
        self._lock = threading.Lock()
        self._file = open(path, "a+b", buffering=0)
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            self._file.close()
            raise JournalLockedError(
                f"{path} is in use by another studio. End that one, or correct labels there."
            ) from None
        self._history: list[Decision] = []
        self._written: set[str] = set()
        self._read()

    def decisions(self) -> dict[str, Decision]:
        """Returns the current decision of every image, in the order of the first one."""
        with self._lock:
            return {decision.key: decision for decision in self._history}

    def add(self, decision: Decision) -> None:
        """Stores a decision; a later one about the same image replaces it.

        Raises:
          OSError: If it could not be written completely; it does not count then.
        """
        with self._lock:
            self._append({"kind": _DECISION, **decision._asdict()})
            self._history.append(decision)

    def undo(self) -> Decision | None:
        """Takes the last decision back; what was decided before about that image holds again.

        Returns:
          The decision; None if there is none.

        Raises:
          OSError: If that could not be written; nothing has changed then.
        """
        with self._lock:
            if not self._history:
                return None
            self._append({"kind": _UNDO})
            return self._history.pop()

    def add_span(self, keys: Sequence[str], path: str) -> None:
        """Stores that images are in a span now: their decisions are done, and cannot be undone any more.

        Raises:
          OSError: If that could not be written.
        """
        with self._lock:
            self._append({"kind": _SPAN, "keys": list(keys), "path": path})
            self._end(keys)

    def in_spans(self) -> frozenset[str]:
        """Returns the keys of the images that are in a span."""
        with self._lock:
            return frozenset(self._written)

    def close(self) -> None:
        """Closes the file, for another process."""
        self._file.close()

    def _end(self, keys: Sequence[str]) -> None:
        self._written |= set(keys)
        self._history = [decision for decision in self._history if decision.key not in self._written]

    def _append(self, entry: dict[str, Any]) -> None:
        line = json.dumps(entry, ensure_ascii=False).encode() + b"\n"
        end = os.fstat(self._file.fileno()).st_size
        try:
            view = memoryview(line)
            while view:
                view = view[self._file.write(view) :]
            os.fsync(self._file.fileno())
        except OSError:
            self._file.truncate(end)
            raise

    def _read(self) -> None:
        self._file.seek(0)
        content = self._file.read()
        complete = content.rfind(b"\n") + 1
        if complete < len(content):
            self._file.truncate(complete)
            os.fsync(self._file.fileno())
        for number, line in enumerate(content[:complete].splitlines(), start=1):
            try:
                entry = json.loads(line)
                kind = entry.pop("kind")
                if kind == _UNDO:
                    self._history.pop()
                elif kind == _SPAN:
                    self._end(entry["keys"])
                else:
                    self._history.append(Decision(**entry))
            except (ValueError, KeyError, TypeError, AttributeError, IndexError):
                raise ConfigError(
                    f"{self.path}, line {number}, is damaged. Fix or remove the line; every line is one decision."
                ) from None
