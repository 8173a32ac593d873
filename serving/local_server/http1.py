"""Reads HTTP/1.1 requests from bytes: no sockets, no clock, and limits for everything that a client may send.

Sources: RFC 9112 (HTTP/1.1), and libevent's `http.c`, the server of TF Serving: like that one it ignores `Upgrade`, so
that clients which offer HTTP/2 or WebSocket are served over HTTP/1.1.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

# TF Serving's net_http/server/internal/evhttp_server.cc; libevent responds 501 to every other method.
METHODS = {"GET", "POST", "HEAD", "PUT", "DELETE", "OPTIONS", "PATCH"}
MAX_HEAD_BYTES = 64 * 1024
_MAX_CHUNK_LINE_BYTES = 1024

_TOKEN = rb"[!#$%&'*+.^_`|~0-9A-Za-z-]+"
_REQUEST_LINE = re.compile(rb"(" + _TOKEN + rb") ([\x21-\xff]+) HTTP/1\.([0-9])\Z")
_HEADER = re.compile(rb"(" + _TOKEN + rb"):[ \t]*([^\x00\r\n]*?)[ \t]*\Z")
_HEAD_END = re.compile(rb"\r?\n\r?\n")
_ABSOLUTE = re.compile(r"(?i)https?://[^/?#]*(?=[/?#]|\Z)")
_CHUNK_SIZE = re.compile(rb"([0-9A-Fa-f]{1,15})[ \t]*(?:;[^\r\n]*)?\Z")


class HttpError(Exception):
    """The bytes are not a request that this server reads; the connection must be closed after the response.

    Attributes:
      status: HTTP status.
      message: The message for the client.
    """

    def __init__(self, status: int, message: str) -> None:
        """Takes status and message."""
        super().__init__(message)
        self.status, self.message = status, message


@dataclass(frozen=True)
class Request:
    """A complete request.

    Attributes:
      method: For example "POST".
      target: Path and query, not decoded.
      headers: Values by lower-case name; the last one of a repeated header.
      body: After removal of the chunks.
      keep_alive: Whether the client wants to send more requests over the connection.
      http10: Whether the client speaks HTTP/1.0.
    """

    method: str
    target: str
    headers: Mapping[bytes, bytes]
    body: bytes
    keep_alive: bool
    http10: bool


class RequestReader:
    """Collects the bytes of one connection and returns complete requests.

    Attributes:
      expects_continue: Whether the client waits for "100 Continue" before it sends the body; the caller resets it.
    """

    def __init__(self, max_body_bytes: int) -> None:
        """Takes the limit of a body, bytes."""
        self._max_body_bytes = max_body_bytes
        self._buffer, self._body = bytearray(), bytearray()
        self._searched = 0
        self._requests = self._read()
        self.expects_continue = False
        self._phase = "idle"

    @property
    def phase(self) -> str:
        """Part of a request that is read next: "idle" (nothing of a request has arrived), "head" or "body"."""
        return "head" if self._phase == "idle" and self._buffer else self._phase

    @property
    def num_buffered(self) -> int:
        """Number of bytes that have arrived and are not part of a complete request."""
        return len(self._buffer) + len(self._body)

    def feed(self, data: bytes) -> None:
        """Adds bytes of the connection."""
        self._buffer += data

    def next(self) -> Request | None:
        """Returns the next request; None if it is not complete yet.

        Raises:
          HttpError: If the bytes are not a request, or it exceeds a limit. The reader cannot be used afterwards.
        """
        return next(self._requests)

    def _read(self) -> Iterator[Request | None]:
        """Yields requests, and None whenever it needs more bytes."""
        while True:
            self._phase = "idle"
            while (head := self._take_head()) is None:
                yield None
            method, target, minor, headers = _parse_head(head)
            length = _body_length(headers, minor)
            if length is not None and length > self._max_body_bytes:
                raise self._too_large()
            self._phase = "body"
            self.expects_continue = length != 0 and minor > 0 and headers.get(b"expect", b"").lower() == b"100-continue"
            if length is None:
                yield from self._read_chunks()
                body, self._body = bytes(self._body), bytearray()
            else:
                while len(self._buffer) < length:
                    yield None
                with memoryview(self._buffer) as view:
                    body = bytes(view[:length])
                del self._buffer[:length]
            self.expects_continue = False
            connection = headers.get(b"connection", b"").lower()
            keep_alive = b"keep-alive" in connection if minor == 0 else b"close" not in connection
            yield Request(method, target, headers, body, keep_alive, minor == 0)

    def _take_head(self) -> bytes | None:
        """Removes the head of a request, without the empty line, from the buffer."""
        while self._buffer.startswith((b"\r", b"\n")):  # empty lines before a request are ignored
            del self._buffer[:1]
        end = _HEAD_END.search(self._buffer, max(self._searched - 3, 0))
        if (end.start() if end else len(self._buffer)) > MAX_HEAD_BYTES:
            raise HttpError(431, f"The headers are larger than {MAX_HEAD_BYTES} bytes.")
        if end is None:
            self._searched = len(self._buffer)
            return None
        head = bytes(self._buffer[: end.start()])
        del self._buffer[: end.end()]
        self._searched = 0
        return head

    def _read_chunks(self) -> Iterator[None]:
        while True:
            while (line := self._take_line(_MAX_CHUNK_LINE_BYTES)) is None:
                yield None
            size = _CHUNK_SIZE.match(line)
            if not size:
                raise HttpError(400, "The size of a chunk is invalid.")
            length = int(size[1], 16)
            if len(self._body) + length > self._max_body_bytes:
                raise self._too_large()
            if not length:
                break
            while len(self._buffer) < length + 2:
                yield None
            if self._buffer[length : length + 2] != b"\r\n":
                raise HttpError(400, "A chunk is not followed by a line break.")
            self._body += self._buffer[:length]
            del self._buffer[: length + 2]
        trailers = 0
        while True:  # trailers, which are ignored, and an empty line
            while (line := self._take_line(MAX_HEAD_BYTES)) is None:
                yield None
            trailers += len(line)
            if trailers > MAX_HEAD_BYTES:
                raise HttpError(431, f"The trailers are larger than {MAX_HEAD_BYTES} bytes.")
            if not line:
                return

    def _take_line(self, limit: int) -> bytes | None:
        end = self._buffer.find(b"\n", 0, limit + 1)
        if end < 0:
            if len(self._buffer) > limit:
                raise HttpError(400, f"A line is longer than {limit} bytes.")
            return None
        line = bytes(self._buffer[:end]).removesuffix(b"\r")
        del self._buffer[: end + 1]
        return line

    def _too_large(self) -> HttpError:
        return HttpError(413, f"The request is larger than {self._max_body_bytes} bytes.")


def _parse_head(head: bytes) -> tuple[str, str, int, dict[bytes, bytes]]:
    first, *lines = head.replace(b"\r\n", b"\n").split(b"\n")
    line = _REQUEST_LINE.match(first)
    if not line:
        raise HttpError(400, "The request line is invalid.")
    method, target = line[1].decode("ascii"), line[2].decode("latin-1")
    headers: dict[bytes, bytes] = {}
    for text in lines:
        header = _HEADER.match(text)
        if not header:
            raise HttpError(400, "A header is invalid.")
        name, value = header[1].lower(), header[2]
        # Two values of these would let a proxy and this server see different requests.
        if name in (b"content-length", b"transfer-encoding") and headers.get(name, value) != value:
            raise HttpError(400, f"The header {name.decode()} is repeated.")
        headers[name] = value
    if method not in METHODS:
        raise HttpError(501, f"The method {method[:64]} is not implemented.")
    return method, (_ABSOLUTE.sub("", target, count=1) if target[0] != "/" else target) or "/", int(line[3]), headers


def _body_length(headers: Mapping[bytes, bytes], minor: int) -> int | None:
    """Returns the length of the body, bytes; None if it comes in chunks."""
    length, encoding = headers.get(b"content-length"), headers.get(b"transfer-encoding")
    if encoding is not None:
        if length is not None or minor == 0:
            raise HttpError(400, "Transfer-Encoding contradicts Content-Length or HTTP/1.0.")
        if encoding.lower() != b"chunked":
            raise HttpError(501, "The Transfer-Encoding is not implemented.")
        return None
    if length is None:
        return 0
    if not re.fullmatch(rb"[0-9]{1,18}", length):
        raise HttpError(400, "The Content-Length is invalid.")
    return int(length)
