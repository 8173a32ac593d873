"""The REST interface: `/v1/models/NAME[/versions/N][:predict|/metadata]`.

Source: TF Serving's model_servers/http_rest_api_handler.cc and http_rest_api_util.cc.
"""

from __future__ import annotations

import json
import re
from typing import Any
from urllib.parse import unquote

from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import HTMLResponse, Response
from starlette.routing import Route

from serving.local_server import json_tensor, servables
from serving.local_server.errors import HTTP_STATUS, RequestError
from trainer_module.features import SERVING_DEFAULT

_POST = re.compile(r"(?i)/v1/models/([^/:]+)(?:(?:/versions/(\d+))|(?:/labels/([^/:]+)))?:(classify|regress|predict)")
_GET = re.compile(r"(?i)/v1/models(?:/([^/:]+))?(?:(?:/versions/(\d+))|(?:/labels/([^/:]+)))?(?:/(metadata))?")
_LARGEST_VERSION = 2**63 - 1
_ALL_METHODS = ["GET", "POST", "PUT", "DELETE", "PATCH", "HEAD", "OPTIONS"]


def create_app(source: servables.ModelSource) -> Starlette:
    """Builds the application that answers for one model."""

    async def handle(request: Request) -> Response:
        # The query string is part of the matched path, and %3A never stands for the colon of the verb.
        path = request.scope["raw_path"].decode("latin-1")
        if path in ("/healthz", "/readyz"):
            return health(alive=path == "/healthz")
        if request.scope["query_string"]:
            path += "?" + request.scope["query_string"].decode("latin-1")
        if not path.lower().startswith("/v1/"):
            return HTMLResponse("<html><head><title>404 Not Found</title></head><body>Not Found</body></html>", 404)
        body = await request.body()
        try:
            answer = await run_in_threadpool(_answer, source, request.method, path, body)
            status = 200
        except RequestError as error:
            answer, status = {"error": error.message}, HTTP_STATUS[error.code]
        except _VersionTooLargeError:
            return Response(b"", 400, media_type="application/json")
        return Response(json.dumps(answer, indent=4), status, media_type="application/json")

    def health(alive: bool) -> Response:
        ready = any(version.state == servables.AVAILABLE for version in source.versions())
        return Response("ok\n" if ready or alive else "no version is available\n", 200 if ready or alive else 503)

    return Starlette(routes=[Route("/{path:path}", handle, methods=_ALL_METHODS)])


def _answer(source: servables.ModelSource, method: str, path: str, body: bytes) -> dict[str, Any]:
    if method == "POST" and (match := _POST.fullmatch(path)):
        name, version, label, verb = match.groups()
        if verb not in ("classify", "regress", "predict"):  # the pattern ignores case, the verbs do not
            raise RequestError("INVALID_ARGUMENT", f"Malformed request: {method} {path}")
        if verb != "predict":
            raise RequestError("UNIMPLEMENTED", f"This server answers :predict; :{verb} is not implemented")
        return _predict(source, unquote(name), _number(version), unquote(label) if label else None, body)
    if method == "GET" and (match := _GET.fullmatch(path)):
        name, version, label, metadata = match.groups()
        if not name:
            raise RequestError("INVALID_ARGUMENT", "Missing model name in request.")
        if metadata:
            raise RequestError("UNIMPLEMENTED", "This server does not answer /metadata")
        if label:
            source.find(unquote(name), label=unquote(label))
        return _status(source, unquote(name), _number(version))
    raise RequestError("INVALID_ARGUMENT", f"Malformed request: {method} {path}")


def _predict(
    source: servables.ModelSource, name: str, version: int | None, label: str | None, body: bytes
) -> dict[str, Any]:
    _, model = source.find(name, version, label)
    request = json_tensor.parse(body)
    signature = json_tensor.signature_name(request, SERVING_DEFAULT)
    if signature not in model.signatures:
        raise RequestError("INVALID_ARGUMENT", f'Serving signature name: "{signature}" not found in signature def')
    inputs, format_ = json_tensor.to_tensors(request, model.signatures[signature].inputs)
    return json_tensor.from_tensors(servables.predict(model, signature, inputs), format_)


def _status(source: servables.ModelSource, name: str, version: int | None) -> dict[str, Any]:
    return {
        "model_version_status": [
            {
                "version": str(entry.number),
                "state": entry.state,
                "status": {"error_code": entry.error_code, "error_message": entry.error_message},
            }
            for entry in source.status(name, version)
        ]
    }


def _number(text: str | None) -> int | None:
    if text is None:
        return None
    if len(text) > 19 or int(text) > _LARGEST_VERSION:
        raise _VersionTooLargeError
    return int(text)


class _VersionTooLargeError(Exception):
    """TF Serving returns before it has words for this: 400 with an empty body."""
