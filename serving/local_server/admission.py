"""How many calls run at once, and how many may wait: the rest is told to come again."""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Mapping

import numpy as np

from serving.local_server.errors import RequestError
from serving.local_server.servable import TIMED_OUT, Servable


class Admission:
    """Lets a few calls into the sessions at a time, in the order in which they came.

    More than the machine has cores only makes each of them slower, and a queue without an end makes all of them late.
    """

    def __init__(self, running: int, waiting: int) -> None:
        """Takes what the instance needs.

        Args:
          running: How many calls run at once.
          waiting: How many more may wait for their turn.
        """
        self._free, self._waiting = running, waiting
        self._line: deque[threading.Event] = deque()
        self._lock = threading.Lock()

    def run(
        self, servable: Servable, feeds: Mapping[str, np.ndarray], fetches: tuple[str, ...], deadline: float | None
    ) -> list[np.ndarray]:
        """Runs the call when it is its turn, see `Servable.run`."""
        self._enter(deadline)
        try:
            return servable.run_now(feeds, fetches)
        finally:
            self._leave()

    def _enter(self, deadline: float | None) -> None:
        with self._lock:
            if self._free:
                self._free -= 1
                return
            if len(self._line) >= self._waiting:
                raise RequestError(
                    "UNAVAILABLE",
                    f"The server is busy: {self._waiting} requests wait already. Come again in a moment.",
                )
            turn = threading.Event()
            self._line.append(turn)
        if turn.wait(None if deadline is None else max(deadline - time.monotonic(), 0)):
            return
        with self._lock:
            if turn in self._line:
                self._line.remove(turn)
            else:
                self._free += 1  # the turn came in this very moment, and nobody will use it
                self._pass_on()
        raise RequestError("DEADLINE_EXCEEDED", TIMED_OUT)

    def _leave(self) -> None:
        with self._lock:
            self._free += 1
            self._pass_on()

    def _pass_on(self) -> None:
        if self._free and self._line:
            self._free -= 1
            self._line.popleft().set()
