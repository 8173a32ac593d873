"""Limits how many calls run at once and how many wait; further calls are refused."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Mapping

import numpy as np

from serving.local_server.caller import Caller
from serving.local_server.errors import RequestError
from serving.local_server.servable import Servable


class Admission:
    """Runs a limited number of calls at a time, in the order of their arrival.

    More calls than cores only make each call slower, and an unbounded queue makes all calls late. A caller that goes
    away or whose time ends leaves the queue at once.
    """

    def __init__(self, max_running: int, max_waiting: int) -> None:
        """Takes the limits.

        Args:
          max_running: How many calls run at once.
          max_waiting: How many more may wait.
        """
        self._free, self._max_waiting = max_running, max_waiting
        self._queue: deque[threading.Event] = deque()
        self._lock = threading.Lock()

    def run(
        self, servable: Servable, feeds: Mapping[str, np.ndarray], fetches: tuple[str, ...], caller: Caller
    ) -> list[np.ndarray]:
        """Runs the call when it is its turn; see `Servable.run`."""
        self._enter(caller)
        try:
            return servable.run_now(feeds, fetches, caller)
        finally:
            self._leave()

    def _enter(self, caller: Caller) -> None:
        with self._lock:
            if self._free:
                self._free -= 1
                return
            if len(self._queue) >= self._max_waiting:
                raise RequestError(
                    "UNAVAILABLE", f"The server is busy: {self._max_waiting} requests are waiting. Retry later."
                )
            turn = threading.Event()
            self._queue.append(turn)
        try:
            caller.wait(turn)
        except RequestError:
            with self._lock:
                if turn in self._queue:
                    self._queue.remove(turn)
                else:
                    self._free += 1  # its turn came at this moment, but the call does not use it
                    self._start_next()
            raise

    def _leave(self) -> None:
        with self._lock:
            self._free += 1
            self._start_next()

    def _start_next(self) -> None:
        if self._free and self._queue:
            self._free -= 1
            self._queue.popleft().set()
