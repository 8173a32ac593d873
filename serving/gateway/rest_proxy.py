"""The REST side of the gateway: forwards requests and responses as they are."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import re
import threading
from collections.abc import Callable
from urllib.parse import unquote

import httpx

from serving.gateway import rest_messages
from serving.gateway.recorder import Recorder
from serving.gateway.rest_messages import ModelMetadata
from serving.local_server import json_tensor, json_text, monitoring
from serving.local_server.caller import Caller
from serving.local_server.connections import Response
from serving.local_server.errors import RequestError
from serving.local_server.http1 import Request
from serving.local_server.protos import prediction_log_pb2
from serving.local_server.rest import FEEDBACK, MAX_UNZIPPED, POST, error_response, read_feedback, read_path, unzip
from serving.request_log import request_ids
from serving.request_log.request_ids import REQUEST_ID_KEY

HEALTH_PATH, METRICS_PATH = "/gateway/healthz", "/gateway/metrics"
# Of one connection, not of the request or response (RFC 9110, 7.6.1); lengths and dates are written again.
_OF_CONNECTION = {
    "connection", "content-length", "date", "keep-alive", "proxy-connection", "te", "trailer", "transfer-encoding",
    "upgrade", "expect",
}  # fmt: skip
_CONNECT_S = 5.0


class RestProxy:
    """Forwards requests to a target; see `connections.App`."""

    def __init__(self, target: str, metadata: ModelMetadata, recorder: Recorder, max_request_bytes: int) -> None:
        """Starts the thread that sends.

        Args:
          target: URL of the target's REST API.
          metadata: The models of the target.
          recorder: Records the calls.
          max_request_bytes: Limit of a request, after decompression.
        """
        self._target, self._metadata, self._recorder = httpx.URL(target), metadata, recorder
        self._max_request_bytes = min(max_request_bytes, MAX_UNZIPPED)
        self._loop = asyncio.new_event_loop()
        limits = httpx.Limits(max_connections=None, max_keepalive_connections=100)
        self._client = httpx.AsyncClient(trust_env=False, limits=limits)
        self._thread = threading.Thread(target=self._loop.run_forever, name="rest-proxy", daemon=True)
        self._thread.start()

    def respond(self, request: Request, caller: Caller, reply: Callable[[Response], None]) -> None:
        """Starts to forward a request; see `connections.App`."""
        if request.target == HEALTH_PATH:
            reply(Response(200, b"ok\n", "text/plain"))
        elif request.target == METRICS_PATH:
            reply(Response(200, monitoring.page().encode(), monitoring.CONTENT_TYPE))
        elif request.method == "POST" and (match := FEEDBACK.fullmatch(request.target)):
            reply(self._feedback(unquote(match[1]), request.body))
        else:
            asyncio.run_coroutine_threadsafe(self._forward(request, caller, reply), self._loop)

    def error(self, status: int, message: str) -> Response:
        """Returns the response to a request that cannot be read or takes too long; see `connections.App`."""
        return Response(status, json_tensor.dumps({"error": message}))

    def close(self) -> None:
        """Closes the connections, and ends the thread."""
        asyncio.run_coroutine_threadsafe(self._shut_down(), self._loop).result(10.0)
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(10.0)
        self._loop.close()

    async def _shut_down(self) -> None:
        """Cancels the requests in progress, and closes the connections."""
        tasks = asyncio.all_tasks() - {asyncio.current_task()}
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await self._client.aclose()
        await asyncio.sleep(0.01)  # the loop closes the sockets

    def _feedback(self, model: str, body: bytes) -> Response:
        try:
            self._recorder.feedback(model, *read_feedback(json_text.parse(body)))
        except RequestError as error:
            return Response(*error_response(error))
        return Response(200, b"{}")

    async def _forward(self, request: Request, caller: Caller, reply: Callable[[Response], None]) -> None:
        task = asyncio.current_task()
        assert task
        with caller.on_cancel(lambda: self._cancel(task)):
            try:
                response = await self._send(request, caller)
            except httpx.HTTPError as error:
                slow = isinstance(error, httpx.TimeoutException) and not isinstance(error, httpx.ConnectTimeout)
                reason = str(error) or type(error).__name__
                response = self.error(
                    504 if slow else 502, f"The gateway got no response from {self._target}: {reason}"
                )
            except (httpx.InvalidURL, UnicodeError):  # a path that httpx cannot send
                response = self.error(400, f"Malformed request: {request.method} {request.target}")
            except Exception:  # without a reply, the client would wait until its time is over
                logging.exception("A request failed.")
                response = self.error(500, "internal error")
        reply(response)

    async def _send(self, request: Request, caller: Caller) -> Response:
        given = request.headers.get(REQUEST_ID_KEY.encode())
        request_id = request_ids.accepted(given.decode("latin-1") if given else None)
        headers = [(name, value) for name, value in request.headers.items() if name.decode() not in _OF_CONNECTION]
        match = POST.fullmatch(request.target) if request.method == "POST" else None
        if match and given is None:
            headers.append((REQUEST_ID_KEY.encode(), request_id.encode()))
        forwarded = httpx.Request(
            request.method,
            self._target.copy_with(raw_path=request.target.encode("latin-1")),
            headers=headers,
            content=request.body,
            extensions={"timeout": httpx.Timeout(caller.remaining_s(), connect=_CONNECT_S).as_dict()},
        )
        response = await self._client.send(forwarded, stream=True)
        try:
            body = b"".join([part async for part in response.aiter_raw()])
        finally:
            await response.aclose()
        content_type = response.headers.pop("content-type", "application/octet-stream")
        if match:
            response.headers[REQUEST_ID_KEY] = request_id
            if response.status_code == 200:
                self._record(request, match, body, request_id)
        kept = [(name, value) for name, value in response.headers.multi_items() if name not in _OF_CONNECTION]
        return Response(response.status_code, body, content_type, kept)

    def _record(self, request: Request, match: re.Match[str], body: bytes, request_id: str) -> None:
        content, limit = request.body, self._max_request_bytes
        zipped = b"gzip" in request.headers.get(b"content-encoding", b"")

        def fill(log: prediction_log_pb2.PredictionLog) -> None:
            selection, verb = read_path(match)
            asked = unzip(content, limit) if zipped else content
            rest_messages.fill(log, self._metadata, selection, verb, asked, body)

        self._recorder.record(request_id, len(content) + len(body), fill)

    def _cancel(self, task: asyncio.Task[None]) -> None:
        with contextlib.suppress(RuntimeError):  # the gateway has stopped
            self._loop.call_soon_threadsafe(task.cancel)
