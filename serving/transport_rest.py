"""The REST side of a client: `:predict` in row format, status, and metadata."""

from __future__ import annotations

import asyncio
import base64
import json
import ssl
import time
from typing import Any
from urllib.parse import quote

import httpx

from serving import wire
from serving.answers import Metadata, SignatureSpec, TensorSpec, VersionStatus
from serving.dialogue import Reply, Request
from serving.errors import (
    DeadlineExceededError,
    InternalError,
    ServerError,
    UnavailableError,
    from_http,
    names_not_listed,
)
from serving.options import Options, read_pem

_SHOWN = 200


class _TimeLeft(dict[str, float]):
    """The timeouts of connecting, writing and reading: each the time that is left when it begins.

    Plain numbers would give every phase the whole time again.
    """

    def __init__(self, timeout_s: float) -> None:
        super().__init__()
        self._end = time.monotonic() + timeout_s

    def get(self, key: str, default: Any = None) -> float:
        """What is left, seconds, above 0: httpcore takes 0 for "at once"."""
        return max(self._end - time.monotonic(), 0.001)

    def over(self) -> bool:
        """Whether nothing is left."""
        return time.monotonic() > self._end


class _Form:
    """What both clients share: the requests as HTTP, and the answers read."""

    def __init__(self, url: str, model_name: str, options: Options) -> None:
        """Checks URL and options.

        Raises:
          ValueError: If they cannot be used, or do not go together.
        """
        try:
            parsed = httpx.URL(url)
        except httpx.InvalidURL as error:
            raise ValueError(f"{url}: {error}.") from None
        if parsed.scheme not in ("http", "https") or not parsed.host:
            raise ValueError(f"{url} is no URL such as http://127.0.0.1:8501, which REST takes.")
        encrypted = parsed.scheme == "https"
        if options.wants_tls and not encrypted:
            raise ValueError(f"{url} is not encrypted, so tls, ca_file and cert_file have no use: write https://.")
        options.check_token_is_safe(parsed.host, encrypted=encrypted)
        self._options = options
        self._base = url.rstrip("/")
        self.model_path = f"/v1/models/{quote(model_name, safe='')}"
        self.version_path = self.model_path
        if options.version is not None:
            self.version_path += f"/versions/{options.version}"
        elif options.label is not None:
            self.version_path += f"/labels/{quote(options.label, safe='')}"
        self.client_arguments: dict[str, Any] = {
            # Neither proxies nor passwords out of the environment: what a client asks is what its caller wrote.
            "trust_env": False,
            "verify": _tls(options) if encrypted else True,
            # Idle connections are kept for as many threads or tasks as may ask at once.
            "limits": httpx.Limits(max_connections=None, max_keepalive_connections=100),
        }

    def http(self, request: Request, timeouts: _TimeLeft) -> httpx.Request:
        authorization = self._options.authorization()
        headers = {} if authorization is None else {"Authorization": authorization}
        extensions = {"timeout": timeouts}
        if request.kind == "predict":
            rows = ",".join(f'{{"b64":"{base64.b64encode(value).decode("ascii")}"}}' for value in request.values)
            content = f'{{"signature_name":{json.dumps(request.signature)},"instances":[{rows}]}}'
            headers["Content-Type"] = "application/json"
            url = f"{self._base}{self.version_path}:predict"
            return httpx.Request("POST", url, headers=headers, content=content.encode(), extensions=extensions)
        if request.kind == "model_names":
            path = "/v1/models"
        elif request.kind == "metadata":
            path = f"{self.version_path}/metadata"
        else:
            # A status by label is none of TF Serving's paths; over gRPC it ignores the label.
            path = self.version_path if self._options.label is None else self.model_path
        return httpx.Request("GET", self._base + path, headers=headers, extensions=extensions)

    def read(self, request: Request, status: int, headers: httpx.Headers, content: bytes) -> Any:
        """Reads a response.

        Raises:
          ServerError: If it is an error, or not a model server's.
        """
        body: Any
        try:
            # NaN and Infinity, which TF Serving writes as they are, are numbers to Python's parser.
            body = json.loads(content) if content else {}
        except (ValueError, RecursionError):
            body = None
        try:
            if request.kind == "model_names" and wire.MODEL_NAMES_KEY in headers:
                return wire.decode_model_names(headers[wire.MODEL_NAMES_KEY])
            if request.kind == "model_names" and status in (200, 400):  # TF Serving: "Missing model name in request."
                raise names_not_listed()
            if status != 200:
                known = body.get("error") if isinstance(body, dict) else f"not a model server: {_shown(content)}"
                raise from_http(status, str(known or "no message"))
            if request.kind == "predict":
                return Reply(_outputs(request, body["predictions"]), self._options.version)
            if request.kind == "status":
                return [_version_status(entry) for entry in body["model_version_status"]]
            return _metadata(body)
        except ServerError:
            raise
        except Exception:  # the body comes from outside: reading what is not as expected raises many classes
            raise InternalError("INTERNAL", f"not a model server: {_shown(content)}", status) from None

    def error(self, error: Exception) -> ServerError:
        """Makes the exception for a request that has no response."""
        why = str(error) or type(error).__name__
        # Without a connection in time the server is not slow but out of reach.
        if isinstance(error, httpx.TimeoutException) and not isinstance(error, httpx.ConnectTimeout):
            return DeadlineExceededError("DEADLINE_EXCEEDED", f"{self._base}: no answer in time ({why})")
        # So is a connection that broke off to gRPC. Asking again does no harm: a prediction changes nothing.
        return UnavailableError("UNAVAILABLE", f"{self._base}: {why}")


class RestTransport:
    """Sends over kept connections, which all threads share."""

    def __init__(self, url: str, model_name: str, options: Options) -> None:
        """Takes where and how to ask; connects when it is used.

        Args:
          url: For example http://127.0.0.1:8501.
          model_name: As the server knows it.
          options: How to ask.

        Raises:
          ValueError: If URL or options cannot be used.
        """
        self._form = _Form(url, model_name, options)
        self._client = httpx.Client(**self._form.client_arguments)

    def send(self, request: Request, timeout_s: float) -> Any:
        """Sends a request and reads the reply.

        Raises:
          ServerError: If there is none, or it is an error.
        """
        form, timeouts = self._form, _TimeLeft(timeout_s)
        http_request = form.http(request, timeouts)
        try:
            reply = self._client.send(http_request, stream=True)
            try:
                content = bytearray()
                for part in reply.iter_bytes():
                    content += part
                    # Read by read there is an end to waiting, but not to how often a little comes.
                    if timeouts.over():
                        raise httpx.ReadTimeout("the answer was cut off")
            finally:
                reply.close()
        except Exception as error:  # see AsyncRestTransport.send
            raise form.error(error) from error
        return form.read(request, reply.status_code, reply.headers, bytes(content))

    def close(self) -> None:
        """Closes the connections."""
        self._client.close()


class AsyncRestTransport:
    """Sends over kept connections of the event loop that it is first used in."""

    def __init__(self, url: str, model_name: str, options: Options) -> None:
        """Takes where and how to ask; see `RestTransport`."""
        self._form = _Form(url, model_name, options)
        self._client = httpx.AsyncClient(**self._form.client_arguments)

    async def send(self, request: Request, timeout_s: float) -> Any:
        """See `RestTransport.send`."""
        form = self._form
        http_request = form.http(request, _TimeLeft(timeout_s))
        try:
            async with asyncio.timeout(timeout_s):
                reply = await self._client.send(http_request)
        except TimeoutError:
            raise form.error(httpx.ReadTimeout("the answer was cut off")) from None
        # Not only httpx.HTTPError: httpx translates what httpcore translates, and that lets some errors of the layers
        # below through, for example the ssl.SSLError of a TLS 1.3 alert that arrives after the handshake.
        except Exception as error:
            raise form.error(error) from error
        return form.read(request, reply.status_code, reply.headers, reply.content)

    async def close(self) -> None:
        """Closes the connections."""
        await self._client.aclose()


def _tls(options: Options) -> ssl.SSLContext:
    context = ssl.create_default_context()
    try:
        if options.ca_file is not None:
            context = ssl.create_default_context(cadata=read_pem(options.ca_file).decode("ascii"))
        if options.cert_file is not None and options.key_file is not None:
            read_pem(options.cert_file), read_pem(options.key_file)
            context.load_cert_chain(options.cert_file, options.key_file)
    except (ssl.SSLError, UnicodeDecodeError) as error:
        files = ", ".join(str(path) for path in (options.ca_file, options.cert_file, options.key_file) if path)
        raise ValueError(f"{files}: not the PEM files of a certificate and its key ({error}).") from None
    return context


def _outputs(request: Request, rows: list[Any]) -> dict[str, Any]:
    if rows and not isinstance(rows[0], dict):
        return {request.only_output: rows}
    keys = rows[0] if rows else ()
    return {key: [_decoded(row[key]) for row in rows] for key in keys}


def _decoded(value: Any) -> Any:
    """TF Serving's way to write bytes in JSON, of outputs whose names end in `_bytes`, undone."""
    return base64.b64decode(value["b64"]) if isinstance(value, dict) and set(value) == {"b64"} else value


def _version_status(entry: dict[str, Any]) -> VersionStatus:
    return VersionStatus(int(entry["version"]), entry["state"], entry.get("status", {}).get("error_message", ""))


def _metadata(body: dict[str, Any]) -> Metadata:
    signatures = body["metadata"]["signature_def"]["signature_def"]
    found = {
        name: SignatureSpec(*({key: _tensor_spec(info) for key, info in side.items()} for side in _sides(definition)))
        for name, definition in signatures.items()
    }
    return Metadata(int(body["model_spec"]["version"]), found)


def _sides(definition: dict[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    return definition["inputs"], definition["outputs"]


def _tensor_spec(info: dict[str, Any]) -> TensorSpec:
    shape = info["tensor_shape"]
    sizes = (int(dim["size"]) for dim in shape.get("dim", ()))
    dims = None if shape.get("unknown_rank") else tuple(None if size < 0 else size for size in sizes)
    return TensorSpec(info["dtype"], dims)


def _shown(content: bytes) -> str:
    return repr(content[:_SHOWN].decode(errors="replace"))
