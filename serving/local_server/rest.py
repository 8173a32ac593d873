"""The REST API: `/v1/models/NAME[/versions/N|/labels/L][:predict|:classify|:regress|/metadata]`.

Source: TF Serving's model_servers/{http_server,http_rest_api_handler,http_rest_api_util}.cc. TF Serving's routes do not
fit a framework's, and every layer of a framework costs time.
"""

from __future__ import annotations

import re
import threading
import time
import zlib
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any, NamedTuple
from urllib.parse import unquote

from serving import wire
from serving.errors import HTTP_STATUS
from serving.local_server import inference, json_examples, json_tensor, json_text, metadata, monitoring
from serving.local_server.caller import Caller
from serving.local_server.connections import Response
from serving.local_server.errors import RequestError, invalid_argument
from serving.local_server.http1 import Request
from serving.local_server.models import ModelSource
from serving.local_server.request_logging import LoggedCall, RequestLogs, num_bytes
from serving.local_server.result_messages import classify_log, model_spec, predict_log, regress_log
from serving.local_server.server_options import ServerOptions
from serving.request_log.request_ids import REQUEST_ID_KEY
from trainer_module.features import SERVING_DEFAULT

POST = re.compile(r"(?i)/v1/models/([^/:]+)(?:(?:/versions/(\d+))|(?:/labels/([^/:]+)))?:(classify|regress|predict)")
_GET = re.compile(r"(?i)/v1/models(?:/([^/:]+))?(?:(?:/versions/(\d+))|(?:/labels/([^/:]+)))?(?:/(metadata))?")
# TF Serving does not have this one.
FEEDBACK = re.compile(r"/v1/models/([^/:]+):feedback")
_REQUEST_ID = REQUEST_ID_KEY.encode()
_LARGEST_VERSION = 2**63 - 1
MAX_UNZIPPED = 100 * 2**20  # util/net_http/compression/gzip_zlib.h
_NOT_FOUND = b"<html><head><title>404 Not Found</title></head><body><h1>Not Found</h1></body></html>\n"
_CORS = [
    ("Access-Control-Allow-Origin", "*"),
    ("Access-Control-Allow-Methods", "POST, GET"),
    ("Access-Control-Allow-Headers", "Content-Type"),
]


class Selection(NamedTuple):
    """The model of a path: name, and version or label."""

    name: str
    version: int | None
    label: str | None


class _VersionTooLargeError(Exception):
    """TF Serving responds with 400 and an empty body."""


class RestApp:
    """Responds to the requests for all models; see `connections.App`."""

    def __init__(self, source: ModelSource, logs: RequestLogs, options: ServerOptions) -> None:
        """Takes models, their request logs and options; starts the threads."""
        self._source, self._logs, self._options = source, logs, options
        self._threads = options.rest_threads or options.threads
        self._executor = ThreadPoolExecutor(self._threads, thread_name_prefix="rest")
        self._in_flight, self._lock = 0, threading.Lock()
        self.draining = False

    def respond(self, request: Request, caller: Caller, reply: Callable[[Response], None]) -> None:
        """Starts to compute the response to a request; see `connections.App`."""
        # TF Serving matches the path with the query string, and undecoded: %3A is not the colon before the verb.
        path, metrics = request.target, self._options.metrics_path
        if path in ("/healthz", "/readyz"):
            reply(self._health(alive=path == "/healthz"))
        elif metrics is not None and path.partition("?")[0] == metrics:
            if path == metrics:
                reply(Response(200, monitoring.page().encode(), monitoring.CONTENT_TYPE))
            else:
                message = f"Unexpected path: {path}. Should be {metrics}"
                reply(Response(400, message.encode("latin-1"), monitoring.CONTENT_TYPE))
        elif not path.lower().startswith("/v1/"):
            reply(Response(404, _NOT_FOUND, "text/html"))
        elif request.method == "OPTIONS":
            allowed = re.match(rb"https?://", request.headers.get(b"origin", b""))
            reply(self._json(200 if allowed else 400, b""))
        elif self._in_flight >= self._threads:  # every thread is busy or waits
            reply(self._json(*error_response(RequestError("UNAVAILABLE", "The server is busy. Retry later."))))
        else:
            self._count(1)
            self._executor.submit(self._compute, request, caller, reply)

    def error(self, status: int, message: str) -> Response:
        """Returns the response to a request that cannot be read or takes too long; see `connections.App`."""
        return Response(status, json_tensor.dumps({"error": message}))

    def close(self) -> None:
        """Ends the threads."""
        self._executor.shutdown(wait=False, cancel_futures=True)

    def _health(self, alive: bool) -> Response:
        ready = not self.draining and self._source.ready()
        text = b"ok\n" if ready or alive else b"draining\n" if self.draining else b"no version is available\n"
        return Response(200 if ready or alive else 503, text, "text/plain")

    def _json(self, status: int, body: bytes, headers: list[tuple[str, str]] | None = None) -> Response:
        cors = _CORS if self._options.cors else []
        return Response(status, body, headers=[*cors, *(headers or ())])

    def _count(self, more: int) -> None:
        with self._lock:
            self._in_flight += more

    def _compute(self, request: Request, caller: Caller, reply: Callable[[Response], None]) -> None:
        try:
            headers: list[tuple[str, str]] = []
            status, body = self._handle(request, caller, headers)
            if request.target.lower() == "/v1/models":  # an error, as TF Serving's, that lists the models
                headers.append((wire.MODEL_NAMES_KEY, wire.encode_model_names(self._source.names())))
            reply(self._json(status, body, headers))
        finally:
            # A running call cannot be stopped before its deadline: its thread is busy until then.
            self._count(-1)

    def _handle(self, request: Request, caller: Caller, headers: list[tuple[str, str]]) -> tuple[int, bytes]:
        """Computes the response in a thread, and may add headers to it; never raises."""
        method, path, body = request.method, request.target, request.body
        started = time.perf_counter()
        name = verb = ""
        try:
            if method == "POST" and (match := POST.fullmatch(path)):
                selection, verb = read_path(match)
                name = selection.name
                if verb not in ("classify", "regress", "predict"):  # the pattern ignores case, the verbs do not
                    raise invalid_argument(f"Malformed request: {method} {path}")
                if b"gzip" in request.headers.get(b"content-encoding", b""):
                    body = unzip(body, min(MAX_UNZIPPED, self._options.max_request_bytes))
                call = self._logs.begin(name, request.headers.get(_REQUEST_ID, b"").decode("latin-1") or None)
                if call:
                    headers.append((REQUEST_ID_KEY, call.request_id))
                response = self._infer(selection, verb, body, caller, call)
            elif method == "POST" and (match := FEEDBACK.fullmatch(path)):
                name = unquote(match[1])
                self._logs.feedback(name, *read_feedback(json_text.parse(body)))
                response = b"{}"
            elif method == "GET" and (match := _GET.fullmatch(path)):
                selection, subresource = read_path(match)
                name = selection.name
                if not name:
                    raise invalid_argument("Missing model name in request.")
                if subresource == "metadata":
                    with self._source.use(*selection) as servable:
                        response = json_tensor.dumps_indented(metadata.as_json(servable))
                else:
                    response = self._status(name, selection.version)
            else:
                raise invalid_argument(f"Malformed request: {method} {path}")
        except RequestError as error:
            monitoring.count(self._source, name, error.code)
            return error_response(error)
        except _VersionTooLargeError:
            return 400, b""
        except UnicodeEncodeError:  # a name in the body that is not UTF-8
            monitoring.count(self._source, name, "INVALID_ARGUMENT")
            return error_response(invalid_argument("JSON Parse error: Invalid encoding in string. at offset: 0"))
        except Exception as error:
            monitoring.count(self._source, name, "INTERNAL")
            return error_response(RequestError("INTERNAL", f"{type(error).__name__}: {error}"))
        monitoring.count(self._source, name, "OK")
        if verb:
            monitoring.REQUEST_LATENCY.labels(name, verb, "REST").observe((time.perf_counter() - started) * 1e6)
        return 200, response

    def _infer(
        self,
        selection: Selection,
        verb: str,
        body: bytes,
        caller: Caller,
        call: LoggedCall | None,
    ) -> bytes:
        """Computes the response of a model."""
        if verb == "predict":
            with self._source.use(*selection) as servable:
                request = json_text.parse(body)
                signature = json_tensor.signature_name(request) or SERVING_DEFAULT
                if signature not in servable.signatures:
                    raise invalid_argument(f'Serving signature name: "{signature}" not found in signature def')
                definition = servable.signatures[signature]
                if not definition.inputs:
                    raise invalid_argument(f"Failed to get input map for signature: {signature}")
                inputs, format_ = json_tensor.to_tensors(request, definition.inputs)
                outputs = inference.predict(servable, signature, inputs, (), caller)
            response = json_tensor.from_tensors(outputs, format_)
            if call:
                spec = model_spec(servable, signature)
                call.done(lambda: num_bytes((*inputs.values(), *outputs.values())), predict_log(spec, inputs, outputs))
            return response
        request = json_text.parse(body)
        signature = json_tensor.signature_name(request)
        examples = json_examples.to_input(request)
        with self._source.use(*selection) as servable:
            if verb == "classify":
                results: Any = inference.classify(servable, signature, examples, caller)
                response, to_fill = json_examples.from_classes(results), classify_log
            else:
                results = inference.regress(servable, signature, examples, caller)
                response, to_fill = json_examples.from_regressions(results), regress_log
        if call:
            call.done(lambda: len(body), to_fill(model_spec(servable, signature), examples, results))
        return response

    def _status(self, name: str, version: int | None) -> bytes:
        entries = [
            {
                "version": str(entry.number),
                "state": entry.state,
                "status": {"error_code": entry.error_code, "error_message": entry.error_message},
            }
            for entry in self._source.status(name, version)
        ]
        return json_tensor.dumps_indented({"model_version_status": entries})


def read_path(match: re.Match[str]) -> tuple[Selection, str]:
    """Returns the model of a path, and the verb or subresource after it; "" for a missing part.

    Args:
      match: Of `POST` or of a status or metadata request.
    """
    name, version, label, last = match.groups()
    return Selection(unquote(name or ""), _number(version), unquote(label) if label else None), last or ""


def error_response(error: RequestError) -> tuple[int, bytes]:
    """Returns status and body of an error."""
    text = error.message.encode("utf-8", "replace").decode()
    return HTTP_STATUS[error.code], json_tensor.dumps({"error": text})


def read_feedback(request: dict[str, Any]) -> tuple[str, Any]:
    """Returns request id and label.

    Raises:
      RequestError: INVALID_ARGUMENT, if one is missing.
    """
    if not isinstance(request.get("request_id"), str) or "label" not in request:
        raise invalid_argument("Feedback requires the keys 'request_id' (a string) and 'label'.")
    return request["request_id"], request["label"]


def _number(text: str | None) -> int | None:
    if text is None:
        return None
    digits = text.lstrip("0") or "0"
    if len(digits) > 19 or int(digits) > _LARGEST_VERSION:
        raise _VersionTooLargeError
    return int(digits)


def unzip(body: bytes, limit: int) -> bytes:
    """Decompresses a body; as in TF Serving, one that is invalid or too large becomes empty."""
    decompressor = zlib.decompressobj(16 + zlib.MAX_WBITS)
    try:
        text = decompressor.decompress(body, limit)
    except zlib.error:
        return b""
    return text if decompressor.eof else b""
