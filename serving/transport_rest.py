"""The REST transport of a client: `:predict` in row format, status, metadata, and feedback."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import json
import ssl
import time
from typing import Any
from urllib.parse import quote

import httpx

from serving import wire
from serving.client_options import ClientOptions, read_pem
from serving.errors import (
    DeadlineExceededError,
    InternalError,
    ServerError,
    UnavailableError,
    feedback_not_accepted,
    from_http,
    names_not_listed,
)
from serving.request_flow import PredictResponse, Request
from serving.request_log.request_ids import REQUEST_ID_KEY
from serving.responses import ModelMetadata, SignatureSpec, TensorSpec, VersionStatus

_SHOWN_BYTES = 200


class _RemainingTime(dict[str, float]):
    """The timeouts of connecting, writing and reading: the time that remains when each begins.

    Plain numbers would give the whole timeout to every phase.
    """

    def __init__(self, timeout_s: float) -> None:
        super().__init__()
        self._end = time.monotonic() + timeout_s

    def get(self, key: str, default: Any = None) -> float:
        """Returns the remaining time, seconds, above 0: httpcore reads 0 as "do not wait"."""
        return max(self._end - time.monotonic(), 0.001)

    def is_over(self) -> bool:
        """Whether no time remains."""
        return time.monotonic() > self._end


class _RestCodec:
    """Shared by both transports: encodes requests, reads responses and errors."""

    def __init__(self, url: str, model_name: str, options: ClientOptions) -> None:
        """Checks URL and options.

        Raises:
          ValueError: If one is invalid, or they contradict each other.
        """
        try:
            parsed = httpx.URL(url)
        except httpx.InvalidURL as error:
            raise ValueError(f"{url}: {error}.") from None
        if parsed.scheme not in ("http", "https") or not parsed.host:
            raise ValueError(f"{url} is not a URL; REST requires one, for example http://127.0.0.1:8501.")
        encrypted = parsed.scheme == "https"
        if options.wants_tls and not encrypted:
            raise ValueError(f"{url} does not use TLS, but tls, ca_file or cert_file is set. Use https://.")
        options.check_token_is_safe(parsed.host, encrypted=encrypted)
        self._options = options
        self._base = url.rstrip("/")
        self._model_path = f"/v1/models/{quote(model_name, safe='')}"
        self._version_path = self._model_path
        if options.version is not None:
            self._version_path += f"/versions/{options.version}"
        elif options.label is not None:
            self._version_path += f"/labels/{quote(options.label, safe='')}"
        self.client_arguments: dict[str, Any] = {
            # No proxies or passwords from the environment: only the caller's arguments count.
            "trust_env": False,
            # Without TLS a context that trusts nobody: reading authorities takes most of the time of a new client.
            "verify": _tls(options) if encrypted else ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT),
            # Keeps idle connections for as many threads or tasks as may send requests at once.
            "limits": httpx.Limits(max_connections=None, max_keepalive_connections=100),
        }

    def http(self, request: Request, timeouts: _RemainingTime) -> httpx.Request:
        authorization = self._options.authorization()
        headers = {} if authorization is None else {"Authorization": authorization}
        extensions = {"timeout": timeouts}
        if request.kind == "predict":
            rows = ",".join(f'{{"b64":"{base64.b64encode(value).decode("ascii")}"}}' for value in request.values)
            content = f'{{"signature_name":{json.dumps(request.signature)},"instances":[{rows}]}}'
            headers |= {"Content-Type": "application/json", REQUEST_ID_KEY: request.request_id}
            url = f"{self._base}{self._version_path}:predict"
            return httpx.Request("POST", url, headers=headers, content=content.encode(), extensions=extensions)
        if request.kind == "feedback":
            content = f'{{"request_id":{json.dumps(request.request_id)},"label":{request.label}}}'
            headers["Content-Type"] = "application/json"
            url = f"{self._base}{self._model_path}:feedback"
            return httpx.Request("POST", url, headers=headers, content=content.encode(), extensions=extensions)
        if request.kind == "model_names":
            path = "/v1/models"
        elif request.kind == "metadata":
            path = f"{self._version_path}/metadata"
        else:
            # TF Serving has no path for the status of a label; over gRPC it ignores the label.
            path = self._version_path if self._options.label is None else self._model_path
        return httpx.Request("GET", self._base + path, headers=headers, extensions=extensions)

    def read(self, request: Request, response: httpx.Response, content: bytes) -> Any:
        """Reads a response.

        Raises:
          ServerError: If it is an error, or not from a model server.
        """
        body: Any
        try:
            # TF Serving writes NaN and Infinity as such, and Python's parser reads them as numbers.
            body = json.loads(content) if content else {}
        except (ValueError, RecursionError):
            body = None
        status = response.status_code
        try:
            if request.kind == "model_names":
                if wire.MODEL_NAMES_KEY in response.headers:
                    return wire.decode_model_names(response.headers[wire.MODEL_NAMES_KEY])
                if status in (200, 400):  # TF Serving: "Missing model name in request."
                    raise names_not_listed()
            if status != 200:
                message = body.get("error") if isinstance(body, dict) else f"not a model server: {_shown(content)}"
                if request.kind == "feedback" and str(message).startswith("Malformed request"):
                    raise feedback_not_accepted()
                raise from_http(status, str(message or "no message"))
            if request.kind == "predict":
                outputs = _outputs(request, body["predictions"])
                return PredictResponse(outputs, self._options.version, response.headers.get(REQUEST_ID_KEY, ""))
            if request.kind == "feedback":
                return None
            if request.kind == "status":
                return [_version_status(entry) for entry in body["model_version_status"]]
            return _metadata(body)
        except ServerError:
            raise
        except Exception:  # the body comes from outside, and a wrong structure raises many classes
            raise InternalError("INTERNAL", f"not a model server: {_shown(content)}", status) from None

    def error(self, error: Exception) -> ServerError:
        """Returns the exception for a request that has no response."""
        reason = str(error) or type(error).__name__
        # Without a connection in time the server is not slow but unreachable.
        if isinstance(error, httpx.TimeoutException) and not isinstance(error, httpx.ConnectTimeout):
            return DeadlineExceededError("DEADLINE_EXCEEDED", f"{self._base}: no response in time ({reason})")
        # gRPC reports a broken connection like this too. A retry does no harm: a prediction changes nothing.
        return UnavailableError("UNAVAILABLE", f"{self._base}: {reason}")


class RestTransport:
    """Sends over persistent connections, which all threads share."""

    def __init__(self, url: str, model_name: str, options: ClientOptions) -> None:
        """Checks the options; connects at the first request; see `client.RestClient`."""
        self._codec = _RestCodec(url, model_name, options)
        self._client = httpx.Client(**self._codec.client_arguments)

    def send(self, request: Request, timeout_s: float) -> Any:
        """Sends a request and reads the response.

        Raises:
          ServerError: If there is no response, or it is an error.
        """
        codec, timeouts = self._codec, _RemainingTime(timeout_s)
        http_request = codec.http(request, timeouts)
        try:
            response = self._client.send(http_request, stream=True)
            try:
                content = bytearray()
                for part in response.iter_bytes():
                    content += part
                    # The read timeout limits every single read, but not the number of small ones.
                    if timeouts.is_over():
                        raise httpx.ReadTimeout("the response was incomplete")
            finally:
                response.close()
        except Exception as error:  # see AsyncRestTransport.send
            raise codec.error(error) from error
        return codec.read(request, response, bytes(content))

    def close(self) -> None:
        """Closes the connections; a peer that has broken them already is not an error."""
        with contextlib.suppress(Exception):  # as in `send`, of any class
            self._client.close()


class AsyncRestTransport:
    """Sends over persistent connections of the event loop of the first request."""

    def __init__(self, url: str, model_name: str, options: ClientOptions) -> None:
        """Checks the options; see `RestTransport`."""
        self._codec = _RestCodec(url, model_name, options)
        self._client = httpx.AsyncClient(**self._codec.client_arguments)

    async def send(self, request: Request, timeout_s: float) -> Any:
        """See `RestTransport.send`."""
        codec = self._codec
        http_request = codec.http(request, _RemainingTime(timeout_s))
        try:
            async with asyncio.timeout(timeout_s):
                response = await self._client.send(http_request)
        except TimeoutError:
            raise codec.error(httpx.ReadTimeout("the response was incomplete")) from None
        # Not only httpx.HTTPError: httpx translates the errors that httpcore translates, and httpcore lets some of the
        # layers below through, for example the ssl.SSLError of a TLS 1.3 alert that arrives after the handshake.
        except Exception as error:
            raise codec.error(error) from error
        return codec.read(request, response, response.content)

    async def close(self) -> None:
        """See `RestTransport.close`."""
        with contextlib.suppress(Exception):
            await self._client.aclose()


def _tls(options: ClientOptions) -> ssl.SSLContext:
    try:
        # Without authorities of its own it has those of the machine, which take longer to read than all else.
        authorities = None if options.ca_file is None else read_pem(options.ca_file).decode("ascii")
        context = ssl.create_default_context(cadata=authorities)
        if options.cert_file is not None and options.key_file is not None:
            read_pem(options.cert_file), read_pem(options.key_file)
            context.load_cert_chain(options.cert_file, options.key_file)
    except (ssl.SSLError, UnicodeDecodeError) as error:
        files = ", ".join(str(path) for path in (options.ca_file, options.cert_file, options.key_file) if path)
        raise ValueError(f"{files}: not PEM files of a certificate and its key ({error}).") from None
    return context


def _outputs(request: Request, rows: list[Any]) -> dict[str, Any]:
    if rows and not isinstance(rows[0], dict):
        return {request.only_output: rows}
    keys = rows[0] if rows else ()
    return {key: [_decoded(row[key]) for row in rows] for key in keys}


def _decoded(value: Any) -> Any:
    """Decodes bytes: TF Serving writes outputs whose names end in `_bytes` as `{"b64": ...}`, or as lists of them."""
    if isinstance(value, list) and value and isinstance(value[0], dict):
        return [_decoded(entry) for entry in value]
    return base64.b64decode(value["b64"]) if isinstance(value, dict) and set(value) == {"b64"} else value


def _version_status(entry: dict[str, Any]) -> VersionStatus:
    return VersionStatus(int(entry["version"]), entry["state"], entry.get("status", {}).get("error_message", ""))


def _metadata(body: dict[str, Any]) -> ModelMetadata:
    signatures = {
        name: SignatureSpec(_tensor_specs(definition["inputs"]), _tensor_specs(definition["outputs"]))
        for name, definition in body["metadata"]["signature_def"]["signature_def"].items()
    }
    return ModelMetadata(int(body["model_spec"]["version"]), signatures)


def _tensor_specs(infos: dict[str, Any]) -> dict[str, TensorSpec]:
    return {name: _tensor_spec(info) for name, info in infos.items()}


def _tensor_spec(info: dict[str, Any]) -> TensorSpec:
    shape = info["tensor_shape"]
    sizes = (int(dim["size"]) for dim in shape.get("dim", ()))
    dims = None if shape.get("unknown_rank") else tuple(None if size < 0 else size for size in sizes)
    return TensorSpec(info["dtype"], dims)


def _shown(content: bytes) -> str:
    return repr(content[:_SHOWN_BYTES].decode(errors="replace"))
