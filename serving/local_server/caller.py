"""The caller of a request: waits until a deadline, and may go away before the response."""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Callable, Iterator

from serving.local_server.errors import RequestError

TIMED_OUT = "Timed out waiting for notification"


class Caller:
    """A caller of a queue: how long it waits, and whether it is gone.

    Attributes:
      deadline: On the clock of `time.monotonic`; None waits without limit.
      cancelled: Whether the caller no longer waits for the response.
    """

    def __init__(
        self, timeout_s: float | None = None, watch: Callable[[Callable[[], None]], bool] | None = None
    ) -> None:
        """Starts the time.

        Args:
          timeout_s: How long the caller waits; None waits without limit.
          watch: Called with `cancel` when a queue first needs to know whether the caller is gone, since most calls do
            not wait; returns False if it is gone already. None if `cancel` is called by other means.
        """
        self.deadline = None if timeout_s is None else time.monotonic() + timeout_s
        self.cancelled = False
        self._watch = watch
        self._callbacks: list[Callable[[], None]] = []
        self._lock = threading.Lock()

    def cancel(self) -> None:
        """Marks the caller as gone: a queue lets go of its request. A running call continues."""
        with self._lock:
            self.cancelled = True
            callbacks, self._callbacks = self._callbacks, []
        for callback in callbacks:
            callback()

    def remaining_s(self) -> float | None:
        """Returns the time until the deadline, at least 0."""
        return None if self.deadline is None else max(self.deadline - time.monotonic(), 0.0)

    def wait(self, event: threading.Event) -> None:
        """Waits for the event.

        Args:
          event: Of this caller alone: it is set, too, when the caller goes away.

        Raises:
          RequestError: CANCELLED if the caller goes away first, DEADLINE_EXCEEDED if its time ends first.
        """
        with self.on_cancel(event.set):
            happened = event.wait(self.remaining_s())
        if self.cancelled:
            raise RequestError("CANCELLED", "The client has cancelled the request.")
        if not happened:
            raise RequestError("DEADLINE_EXCEEDED", TIMED_OUT)

    @contextlib.contextmanager
    def on_cancel(self, callback: Callable[[], None]) -> Iterator[None]:
        """Calls a function if the caller goes away inside the block, or is gone already."""
        watch, self._watch = self._watch, None
        if watch and not watch(self.cancel):
            self.cancel()
        with self._lock:
            gone = self.cancelled
            if not gone:
                self._callbacks.append(callback)
        if gone:
            callback()
        try:
            yield
        finally:
            with self._lock, contextlib.suppress(ValueError):
                self._callbacks.remove(callback)
