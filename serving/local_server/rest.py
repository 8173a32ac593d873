"""The REST API: `/v1/models/NAME[/versions/N|/labels/L][:predict|:classify|:regress|/metadata]`.

Source: TF Serving's model_servers/{http_server,http_rest_api_handler,http_rest_api_util}.cc. A plain ASGI application:
TF Serving's routes do not fit a framework's, and every layer of a framework costs time.
"""

from __future__ import annotations

import asyncio
import re
import threading
import time
import zlib
from collections.abc import Awaitable, Callable, MutableMapping
from concurrent.futures import ThreadPoolExecutor
from typing import Any
from urllib.parse import unquote

from serving import wire
from serving.errors import HTTP_STATUS
from serving.local_server import inference, json_examples, json_tensor, json_text, metadata, monitoring
from serving.local_server.errors import RequestError, invalid_argument
from serving.local_server.models import ModelSource
from serving.local_server.servable import TIMED_OUT
from serving.local_server.server_options import ServerOptions
from trainer_module.features import SERVING_DEFAULT

_POST = re.compile(r"(?i)/v1/models/([^/:]+)(?:(?:/versions/(\d+))|(?:/labels/([^/:]+)))?:(classify|regress|predict)")
_GET = re.compile(r"(?i)/v1/models(?:/([^/:]+))?(?:(?:/versions/(\d+))|(?:/labels/([^/:]+)))?(?:/(metadata))?")
_LARGEST_VERSION = 2**63 - 1
_MAX_UNZIPPED = 100 * 2**20  # util/net_http/compression/gzip_zlib.h
_NOT_FOUND = b"<html><head><title>404 Not Found</title></head><body><h1>Not Found</h1></body></html>\n"
_CORS = [
    (b"access-control-allow-origin", b"*"),
    (b"access-control-allow-methods", b"POST, GET"),
    (b"access-control-allow-headers", b"Content-Type"),
]

Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]
Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]


class _VersionTooLargeError(Exception):
    """TF Serving responds with 400 and an empty body."""


class _BodyTooLargeError(Exception):
    """TF Serving has no such limit, and so no message for it."""


class RestApp:
    """The ASGI application for all models."""

    def __init__(self, source: ModelSource, options: ServerOptions) -> None:
        """Takes models and options; starts the threads."""
        self._source, self._options = source, options
        self._threads = options.rest_threads or options.threads
        self._executor = ThreadPoolExecutor(self._threads, thread_name_prefix="rest")
        self._in_flight, self._lock = 0, threading.Lock()
        self.draining = False

    async def __call__(self, scope: MutableMapping[str, Any], receive: Receive, send: Send) -> None:
        """Handles one request."""
        # TF Serving matches the path with the query string, and undecoded: %3A is not the colon before the verb.
        path = scope["raw_path"].decode("latin-1")
        if scope["query_string"]:
            path += "?" + scope["query_string"].decode("latin-1")
        if path in ("/healthz", "/readyz"):
            await self._health(send, alive=path == "/healthz")
        elif path == self._options.metrics_path:
            await _send_response(send, 200, monitoring.page().encode(), monitoring.CONTENT_TYPE)
        elif not path.lower().startswith("/v1/"):
            await _send_response(send, 404, _NOT_FOUND, "text/html")
        else:
            status, body = await self._respond(scope["method"], path, dict(scope["headers"]), receive)
            headers = list(_CORS) if self._options.cors else []
            if path.lower() == "/v1/models":  # an error, as TF Serving's, that lists the models
                headers.append((wire.MODEL_NAMES_KEY.encode(), wire.encode_model_names(self._source.names()).encode()))
            await _send_response(send, status, body, "application/json", headers)

    def close(self) -> None:
        """Ends the threads."""
        self._executor.shutdown(wait=False, cancel_futures=True)

    async def _health(self, send: Send, alive: bool) -> None:
        ready = not self.draining and self._source.ready()
        text = b"ok\n" if ready or alive else b"draining\n" if self.draining else b"no version is available\n"
        await _send_response(send, 200 if ready or alive else 503, text, "text/plain")

    async def _respond(
        self, method: str, path: str, headers: dict[bytes, bytes], receive: Receive
    ) -> tuple[int, bytes]:
        if method == "OPTIONS":
            return (200 if re.match(rb"https?://", headers.get(b"origin", b"")) else 400), b""
        if self._in_flight >= self._threads:
            # Every thread is busy or waits: do not read the body.
            return _error(RequestError("UNAVAILABLE", "The server is busy. Retry later."))
        started = time.monotonic()
        zipped = b"gzip" in headers.get(b"content-encoding", b"")
        deadline = started + self._options.rest_timeout_s
        self._count(1)
        try:
            async with asyncio.timeout(self._options.rest_timeout_s):
                body = await self._body(headers, receive)
            work = self._executor.submit(self._handle, method, path, body, zipped, deadline)
        except TimeoutError:  # a slow body would block other requests
            self._count(-1)
            return _error(RequestError("DEADLINE_EXCEEDED", TIMED_OUT))
        except _BodyTooLargeError:
            self._count(-1)
            limit = self._options.max_request_bytes
            return 413, json_tensor.dumps({"error": f"The request is larger than {limit} bytes."})
        except BaseException as error:
            self._count(-1)
            if isinstance(error, _ClientGoneError):
                return 499, b""
            raise
        # A running call cannot be stopped: its thread counts as busy until it is done.
        work.add_done_callback(lambda _: self._count(-1))
        done, _ = await asyncio.wait([asyncio.wrap_future(work)], timeout=max(deadline - time.monotonic(), 0))
        if not done:
            work.cancel()
            return _error(RequestError("DEADLINE_EXCEEDED", TIMED_OUT))
        return work.result()

    def _count(self, more: int) -> None:
        with self._lock:
            self._in_flight += more

    async def _body(self, headers: dict[bytes, bytes], receive: Receive) -> bytes:
        limit = self._options.max_request_bytes
        announced = headers.get(b"content-length", b"0")
        if announced.isdigit() and int(announced[:20]) > limit:
            raise _BodyTooLargeError
        chunks, size = [], 0
        while True:
            message = await receive()
            if message["type"] == "http.disconnect":
                raise _ClientGoneError
            chunk = message.get("body", b"")
            size += len(chunk)
            if size > limit:
                raise _BodyTooLargeError
            chunks.append(chunk)
            if not message.get("more_body"):
                return chunks[0] if len(chunks) == 1 else b"".join(chunks)

    def _handle(self, method: str, path: str, body: bytes, zipped: bool, deadline: float) -> tuple[int, bytes]:
        """Computes the response in a thread; never raises."""
        started = time.perf_counter()
        name = verb = ""
        try:
            if method == "POST" and (match := _POST.fullmatch(path)):
                encoded, version, label, verb = match.groups()
                name, number = unquote(encoded), _number(version)
                if verb not in ("classify", "regress", "predict"):  # the pattern ignores case, the verbs do not
                    raise invalid_argument(f"Malformed request: {method} {path}")
                if zipped:
                    body = _unzip(body, min(_MAX_UNZIPPED, self._options.max_request_bytes))
                response = self._infer(name, number, unquote(label) if label else None, verb, body, deadline)
            elif method == "GET" and (match := _GET.fullmatch(path)):
                encoded, version, label, subresource = match.groups()
                name, number = unquote(encoded or ""), _number(version)
                if not name:
                    raise invalid_argument("Missing model name in request.")
                if subresource == "metadata":
                    with self._source.use(name, number, unquote(label) if label else None) as servable:
                        response = json_tensor.dumps(metadata.as_json(servable))
                else:
                    response = self._status(name, number)
            else:
                raise invalid_argument(f"Malformed request: {method} {path}")
        except RequestError as error:
            monitoring.count(self._source, name, error.code)
            return _error(error)
        except _VersionTooLargeError:
            return 400, b""
        except UnicodeEncodeError:  # a name in the body that is not UTF-8
            monitoring.count(self._source, name, "INVALID_ARGUMENT")
            return _error(invalid_argument("JSON Parse error: Invalid encoding in string. at offset: 0"))
        except Exception as error:
            monitoring.count(self._source, name, "INTERNAL")
            return _error(RequestError("INTERNAL", f"{type(error).__name__}: {error}"))
        monitoring.count(self._source, name, "OK")
        if verb:
            monitoring.REQUEST_LATENCY.labels(name, verb, "REST").observe((time.perf_counter() - started) * 1e6)
        return 200, response

    def _infer(
        self, name: str, version: int | None, label: str | None, verb: str, body: bytes, deadline: float
    ) -> bytes:
        if verb == "predict":
            with self._source.use(name, version, label) as servable:
                request = json_text.parse(body)
                signature = json_tensor.signature_name(request) or SERVING_DEFAULT
                if signature not in servable.signatures:
                    raise invalid_argument(f'Serving signature name: "{signature}" not found in signature def')
                definition = servable.signatures[signature]
                if not definition.inputs:
                    raise invalid_argument(f"Failed to get input map for signature: {signature}")
                inputs, format_ = json_tensor.to_tensors(request, definition.inputs)
                outputs = inference.predict(servable, signature, inputs, deadline=deadline)
            return json_tensor.from_tensors(outputs, format_)
        request = json_text.parse(body)
        signature = json_tensor.signature_name(request)
        examples = json_examples.to_input(request)
        with self._source.use(name, version, label) as servable:
            if verb == "classify":
                return json_examples.from_classes(inference.classify(servable, signature, examples, deadline))
            return json_examples.from_regressions(inference.regress(servable, signature, examples, deadline))

    def _status(self, name: str, version: int | None) -> bytes:
        entries = [
            {
                "version": str(entry.number),
                "state": entry.state,
                "status": {"error_code": entry.error_code, "error_message": entry.error_message},
            }
            for entry in self._source.status(name, version)
        ]
        return json_tensor.dumps({"model_version_status": entries})


class _ClientGoneError(Exception):
    """The client has closed the connection."""


def _error(error: RequestError) -> tuple[int, bytes]:
    text = error.message.encode("utf-8", "replace").decode()
    return HTTP_STATUS[error.code], json_tensor.dumps({"error": text})


def _number(text: str | None) -> int | None:
    if text is None:
        return None
    digits = text.lstrip("0") or "0"
    if len(digits) > 19 or int(digits) > _LARGEST_VERSION:
        raise _VersionTooLargeError
    return int(digits)


def _unzip(body: bytes, limit: int) -> bytes:
    """Decompresses a body; as in TF Serving, one that is invalid or too large becomes empty."""
    decompressor = zlib.decompressobj(16 + zlib.MAX_WBITS)
    try:
        text = decompressor.decompress(body, limit)
    except zlib.error:
        return b""
    return text if decompressor.eof else b""


async def _send_response(
    send: Send, status: int, body: bytes, content_type: str, headers: list[tuple[bytes, bytes]] | None = None
) -> None:
    fixed = [(b"content-type", content_type.encode()), (b"content-length", str(len(body)).encode())]
    await send({"type": "http.response.start", "status": status, "headers": fixed + (headers or [])})
    await send({"type": "http.response.body", "body": body})
