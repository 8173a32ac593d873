"""The connections of the REST server: they share one event loop, and none can occupy it or stay without limit.

A client may be slow, or send nothing: its connection waits for a limited time and takes no place of a request, which
counts only when it is complete. If there are too many connections, the one that has waited longest is closed.
"""

from __future__ import annotations

import asyncio
import contextlib
import http.client
import logging
import socket
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from email.utils import formatdate
from typing import Protocol

from serving.local_server.caller import TIMED_OUT, Caller
from serving.local_server.http1 import HttpError, Request, RequestReader

_DISCARDED_BYTES = 64 * 2**20  # of a refused request, so that the client reads the response instead of an error
_BUFFERED_BYTES = 256 * 1024  # of further requests, while one runs
_HALF_CLOSE_S = 0.1  # after the request


@dataclass(frozen=True)
class Limits:
    """Limits of connections.

    Attributes:
      max_body_bytes: Of a request.
      idle_s: Without a request; libevent's time.
      head_s: For the headers of a request, from their first byte.
      request_s: For the body and the response, together.
      drain_s: For reading a response.
      connections: Open at once.
      buffered_bytes: Of all incomplete requests together.
    """

    max_body_bytes: int
    idle_s: float = 50.0
    head_s: float = 10.0
    request_s: float = 30.0
    drain_s: float = 50.0
    connections: int = 900
    buffered_bytes: int = 2**29


@dataclass(frozen=True)
class Response:
    """A response to a request."""

    status: int
    body: bytes
    content_type: str = "application/json"
    headers: list[tuple[str, str]] = field(default_factory=list)


class App(Protocol):
    """Computes responses."""

    def respond(self, request: Request, caller: Caller, reply: Callable[[Response], None]) -> None:
        """Starts to compute the response to a request, without waiting.

        Args:
          request: The request.
          caller: Cancelled when the client closes the connection or its time is over.
          reply: Takes the response; may be called in any thread.
        """
        ...

    def error(self, status: int, message: str) -> Response:
        """Returns the response to a request that cannot be read, or is not answered in time (504)."""
        ...


class ConnectionServer:
    """Accepts connections and passes their requests to an application."""

    def __init__(self, app: App, limits: Limits) -> None:
        """Takes application and limits."""
        self.app, self.limits = app, limits
        self.draining = False
        self.connections: dict[Connection, None] = {}  # in the order in which they began to wait
        self.num_buffered = self.num_open = 0
        self._loop: asyncio.AbstractEventLoop | None = None  # while it runs
        self._stop = asyncio.Event()
        self._grace_s: float | None = None

    def run(self, listener: socket.socket) -> None:
        """Serves until `stop`; then refuses new connections and completes the requests in progress."""
        asyncio.run(self._serve(listener))

    def stop(self, grace_s: float) -> None:
        """Ends `run`; may be called in any thread.

        Args:
          grace_s: How long requests in progress may take.
        """
        self._grace_s = grace_s
        if self._loop:
            with contextlib.suppress(RuntimeError):  # it has ended already
                self._loop.call_soon_threadsafe(self._stop.set)

    async def _serve(self, listener: socket.socket) -> None:
        loop = self._loop = asyncio.get_running_loop()
        if self._grace_s is not None:  # stopped before it started
            return
        server = await loop.create_server(lambda: Connection(self, loop), sock=listener, backlog=2048)
        sweeper = loop.create_task(self._sweep())
        await self._stop.wait()
        self.draining = True
        # Python 3.11's asyncio never closes a connection that it accepts in the round in which the server is closed.
        loop.remove_reader(listener)
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        server.close()
        for connection in list(self.connections):
            connection.drain()
        end = time.monotonic() + (self._grace_s or 0.0)
        while self.connections and time.monotonic() < end:
            await asyncio.sleep(0.02)
        sweeper.cancel()
        for connection in list(self.connections):
            connection.abort()
        for _ in range(100):  # the loop closes the sockets
            await asyncio.sleep(0.01)
            if not self.num_open:
                break

    async def _sweep(self) -> None:
        """Ends connections whose time is over. One timer for all costs less than one for each."""
        shortest = min(self.limits.idle_s, self.limits.head_s, self.limits.request_s, self.limits.drain_s)
        while True:
            await asyncio.sleep(min(shortest / 4, 0.5))
            now = time.monotonic()
            for connection in [each for each in self.connections if each.due <= now]:
                connection.expire()

    def make_room(self) -> None:
        """Closes the connection that has waited longest if there are too many, or too many bytes are buffered."""
        if len(self.connections) > self.limits.connections or self.num_buffered > self.limits.buffered_bytes:
            waiting = next((connection for connection in self.connections if not connection.busy), None)
            if waiting:
                waiting.abort()


class Connection(asyncio.Protocol):
    """One connection.

    Attributes:
      due: When its time is over, on the clock of `time.monotonic`.
    """

    def __init__(self, server: ConnectionServer, loop: asyncio.AbstractEventLoop) -> None:
        """Takes the server."""
        self._server, self._loop = server, loop
        self._reader = RequestReader(server.limits.max_body_bytes)
        self._transport: asyncio.Transport | None = None
        self._caller: Caller | None = None
        self._request: Request | None = None
        self._counted = 0
        self._discard = 0  # bytes that may still be discarded after the last response; then the connection is closed
        self._phase = "idle"
        self._paused = self._ended = False
        self.due = self._began = 0.0

    @property
    def busy(self) -> bool:
        """Whether a request runs."""
        return self._request is not None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Begins to wait for a request."""
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport
        self._server.num_open += 1
        self._wait("idle")
        self._server.make_room()
        if self._server.draining:
            self._close()

    def connection_lost(self, error: Exception | None) -> None:
        """Lets go of the request in progress."""
        self._server.num_open -= 1
        self._server.connections.pop(self, None)
        self._count(0)
        self._transport = None
        if self._caller:
            self._caller.cancel()

    def data_received(self, data: bytes) -> None:
        """Reads requests."""
        if self._discard:
            self._discard -= len(data)
            if self._discard <= 0:
                self.abort()
            return
        self._reader.feed(data)
        if self.busy:
            if self._reader.num_buffered > _BUFFERED_BYTES and self._transport:
                self._transport.pause_reading()
            return
        self._read()

    def eof_received(self) -> bool:
        """Keeps the connection for the response to the last request.

        A client that ends its side with the request waits for the response. One that ends it later has given up.
        """
        self._ended = True
        if self._caller and time.monotonic() - self._began > _HALF_CLOSE_S:
            self._caller.cancel()
        return self.busy

    def pause_writing(self) -> None:
        """The client does not read fast enough: no further request is read."""
        self._paused = True

    def resume_writing(self) -> None:
        """The client has read the responses."""
        self._paused = False
        if not self.busy and not self._discard:
            self._wait("idle")
            self._read()

    def expire(self) -> None:
        """Ends the connection, or only the request in progress, because its time is over."""
        if (
            self._paused
            or self._discard
            or self._phase == "idle"
            or not self._transport
            or self._transport.is_closing()
        ):
            self.abort()
        elif self.busy:
            assert self._caller
            self._caller.cancel()
            self._send(self._server.app.error(504, TIMED_OUT), self._request)
        elif self._phase == "head":
            self._refuse(self._server.app.error(408, "The headers are incomplete."))
        else:
            self._refuse(self._server.app.error(504, TIMED_OUT))

    def drain(self) -> None:
        """Closes the connection: now, or after the request in progress or in transmission."""
        if not self.busy and self._phase != "body":
            self._close()

    def abort(self) -> None:
        """Closes the connection at once."""
        self._server.connections.pop(self, None)
        self._count(0)
        if self._transport:
            self._transport.abort()

    def _close(self) -> None:
        """Closes the connection when the client has read the responses."""
        if self._transport:
            self.due = time.monotonic() + self._server.limits.drain_s
            self._transport.close()

    def _read(self) -> None:
        if self._paused or self.busy or not self._transport or self._transport.is_closing():
            return
        try:
            request = self._reader.next()
        except HttpError as error:
            self._refuse(self._server.app.error(error.status, error.message))
            return
        if request is None:
            if self._ended:
                self._close()
                return
            if self._reader.phase != self._phase:
                self._wait(self._reader.phase)
            if self._reader.expects_continue:
                self._reader.expects_continue = False
                self._transport.write(b"HTTP/1.1 100 Continue\r\n\r\n")
            self._count(self._reader.num_buffered)
            self._server.make_room()
            return
        if self._phase != "body":  # otherwise the time includes that of the body
            self._wait("body")
        self._phase = "response"
        self._count(0)
        self._request = request
        self._began = time.monotonic()
        self._caller = Caller(max(self.due - self._began, 0.0))
        try:
            self._server.app.respond(request, self._caller, lambda response: self._reply(response, request))
        except Exception:
            logging.exception("A request failed.")
            self._send(self._server.app.error(500, "internal error"), request)

    def _reply(self, response: Response, request: Request) -> None:
        with contextlib.suppress(RuntimeError):  # the server has stopped
            self._loop.call_soon_threadsafe(self._send, response, request)

    def _send(self, response: Response, request: Request | None) -> None:
        """Sends the response of the request in progress; late responses are ignored."""
        if request is not self._request or request is None:
            return
        self._request = self._caller = None
        if not self._transport or self._transport.is_closing():
            return
        keep_alive = request.keep_alive and not self._server.draining
        self._write(response, keep_alive, request.http10, request.method == "HEAD")
        if self._ended and not self._reader.num_buffered:
            keep_alive = False
        if not keep_alive:
            self._close()
            return
        self._wait("idle")
        self._transport.resume_reading()
        if self._reader.num_buffered:
            self._loop.call_soon(self._read)

    def _refuse(self, response: Response) -> None:
        """Sends a last response; discards the rest of the request, because the client might not read it otherwise."""
        assert self._transport
        self._count(0)
        self._reader = RequestReader(0)
        self._write(response, False, False, False)
        self._discard = _DISCARDED_BYTES
        self.due = time.monotonic() + min(2.0, self._server.limits.drain_s)
        if self._ended:
            self._close()
        elif self._transport.can_write_eof():
            self._transport.write_eof()

    def _write(self, response: Response, keep_alive: bool, http10: bool, head_only: bool) -> None:
        assert self._transport
        lines = [
            f"HTTP/1.1 {response.status} {_reason(response.status)}",
            f"Content-Type: {response.content_type}",
            f"Date: {formatdate(usegmt=True)}",
            f"Content-Length: {len(response.body)}",
            *(f"{name}: {value}" for name, value in response.headers),
        ]
        if not keep_alive:
            lines.append("Connection: close")
        elif http10:
            lines.append("Connection: keep-alive")
        head = "\r\n".join([*lines, "\r\n"]).encode("latin-1")
        self._transport.write(head if head_only else head + response.body)

    def _wait(self, phase: str) -> None:
        """Begins a phase, and its time."""
        limits = self._server.limits
        seconds = (
            limits.drain_s
            if self._paused
            else {"idle": limits.idle_s, "head": limits.head_s}.get(phase, limits.request_s)
        )
        self._phase, self.due = phase, time.monotonic() + seconds
        self._server.connections.pop(self, None)  # the newest is the last
        self._server.connections[self] = None

    def _count(self, num_buffered: int) -> None:
        self._server.num_buffered += num_buffered - self._counted
        self._counted = num_buffered


def _reason(status: int) -> str:
    return http.client.responses.get(status, "Unknown")
