"""The gateway forwards bytes, metadata, deadlines, cancellations and errors unchanged; the target here is a fake."""

from __future__ import annotations

import contextlib
import http.client
import socket
import threading
import time
from collections.abc import Iterator
from concurrent import futures
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import grpc
import numpy as np
import pytest

from serving import wire
from serving.gateway.gateway import Gateway, GatewayOptions
from serving.gateway.mirror import compare
from serving.local_server import grpc_calls
from serving.request_log.options import LogOptions

PREDICT = wire.PREDICT_METHOD
STREAM = "/tensorflow.serving.PredictionService/PredictStreamed"


class Target(grpc.GenericRpcHandler):
    """Repeats what it receives, twice; the metadata select another behaviour."""

    def __init__(self) -> None:
        """Has received nothing."""
        self.metadata: dict[str, Any] = {}
        self.remaining_s: float | None = None
        self.cancelled = threading.Event()

    def service(self, handler_call_details: Any) -> Any:
        """Returns the handler of any method."""
        if handler_call_details.method == STREAM:
            return grpc.stream_stream_rpc_method_handler(lambda requests, _: (request * 2 for request in requests))
        return grpc.unary_unary_rpc_method_handler(self.respond)

    def respond(self, request: bytes, context: grpc.ServicerContext) -> bytes:
        """Responds to a single request."""
        self.metadata = dict(context.invocation_metadata())
        self.remaining_s = context.time_remaining()
        context.set_trailing_metadata((("last", "1"), ("details-bin", b"\0\1")))
        if self.metadata.get("do") == "fail":
            context.abort(grpc.StatusCode.DATA_LOSS, "broken: ä")
        if self.metadata.get("do") == "wait":
            context.add_callback(self.cancelled.set)
            self.cancelled.wait(20)
        context.send_initial_metadata((("first", "2"),))
        return request * 2


@pytest.fixture
def target() -> Iterator[tuple[Target, str]]:
    """A running target and its address."""
    fake = Target()
    server = grpc.server(futures.ThreadPoolExecutor(8))
    server.add_generic_rpc_handlers((fake,))
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    yield fake, f"127.0.0.1:{port}"
    server.stop(None).wait()


@contextlib.contextmanager
def running(address: str, tmp_path: Path, **options: Any) -> Iterator[Gateway]:
    """Runs a gateway."""
    log = LogOptions(prefix=str(tmp_path / "log"))
    gateway = Gateway(GatewayOptions(address, log, port=0, rest_port=0, **options))
    gateway.start()
    try:
        yield gateway
    finally:
        gateway.stop(5.0)


@pytest.fixture
def channel(target: tuple[Target, str], tmp_path: Path) -> Iterator[grpc.Channel]:
    """A channel to the gateway."""
    with running(target[1], tmp_path) as gateway, grpc.insecure_channel(f"127.0.0.1:{gateway.port}") as opened:
        yield opened


@pytest.mark.parametrize(
    ("remaining", "forwarded"),
    [
        (None, None),
        (0.0, 0.0),
        (0.0004, 0.0),
        (0.1239, 0.123),
        (9.999, 9.99),
        (30.0004, 30.0),
        (29.99, 29.9),
        (123.9, 123.0),
        (3600.5, 3600.0),
    ],
)
def test_the_target_never_gets_more_time_than_the_caller_has(remaining: float | None, forwarded: float | None) -> None:
    context = SimpleNamespace(time_remaining=lambda: remaining)
    assert grpc_calls.forwarded_timeout_s(context) == forwarded


def test_bytes_and_metadata_are_forwarded(target: tuple[Target, str], channel: grpc.Channel) -> None:
    metadata = [("authorization", "Bearer x"), ("data-bin", b"\xff\0"), ("x-request-id", "given")]
    call = channel.unary_unary(PREDICT).with_call
    response, done = call(b"\xffab", timeout=30, metadata=metadata)
    assert response == b"\xffab\xffab"
    assert target[0].metadata["authorization"] == "Bearer x" and target[0].metadata["data-bin"] == b"\xff\0"
    assert target[0].metadata["x-request-id"] == "given"
    assert target[0].remaining_s is not None and 20 < target[0].remaining_s <= 30
    assert dict(done.initial_metadata())["first"] == "2"
    trailing = dict(done.trailing_metadata())
    assert trailing["details-bin"] == b"\0\1" and trailing["x-request-id"] == "given"


def test_a_request_without_id_gets_one(target: tuple[Target, str], channel: grpc.Channel) -> None:
    _, done = channel.unary_unary(PREDICT).with_call(b"a", timeout=30)
    assert dict(done.trailing_metadata())["x-request-id"] == target[0].metadata["x-request-id"] != ""


def test_errors_are_forwarded(channel: grpc.Channel) -> None:
    with pytest.raises(grpc.RpcError) as raised:
        channel.unary_unary("/any.Service/Method")(b"a", timeout=30, metadata=[("do", "fail")])
    assert (raised.value.code(), raised.value.details()) == (grpc.StatusCode.DATA_LOSS, "broken: ä")
    assert dict(raised.value.trailing_metadata())["details-bin"] == b"\0\1"


def test_cancellation_is_forwarded(target: tuple[Target, str], channel: grpc.Channel) -> None:
    future = channel.unary_unary(PREDICT).future(b"a", metadata=[("do", "wait")])
    while not target[0].metadata:
        time.sleep(0.01)
    future.cancel()
    assert target[0].cancelled.wait(20)


def test_the_deadline_is_forwarded(channel: grpc.Channel) -> None:
    with pytest.raises(grpc.RpcError) as raised:
        channel.unary_unary(PREDICT)(b"a", timeout=0.2, metadata=[("do", "wait")])
    assert raised.value.code() is grpc.StatusCode.DEADLINE_EXCEEDED


def test_streams_are_forwarded(channel: grpc.Channel) -> None:
    assert list(channel.stream_stream(STREAM)(iter([b"a", b"b"]), timeout=30)) == [b"aa", b"bb"]


@pytest.mark.parametrize(
    ("label", "message"),
    [("{", "The label is not JSON"), ("[" * 100_000, "The label is not JSON"), ('"red"', "is not a request id")],
    ids=["no JSON", "nested JSON", "no id"],
)
def test_invalid_feedback(channel: grpc.Channel, label: str, message: str) -> None:
    send = channel.unary_unary(wire.FEEDBACK_METHOD, wire.FeedbackRequest.SerializeToString)
    with pytest.raises(grpc.RpcError) as raised:
        send(wire.FeedbackRequest(model_spec=wire.ModelSpec(name="m"), request_id="a b", label=label), timeout=30)
    assert raised.value.code() is grpc.StatusCode.INVALID_ARGUMENT and message in raised.value.details()


def test_a_target_that_cannot_be_reached(tmp_path: Path) -> None:
    with running("127.0.0.1:1", tmp_path) as gateway, grpc.insecure_channel(f"127.0.0.1:{gateway.port}") as channel:
        with pytest.raises(grpc.RpcError) as raised:
            channel.unary_unary(PREDICT)(b"a", timeout=30)
        assert raised.value.code() is grpc.StatusCode.UNAVAILABLE


class Echo(BaseHTTPRequestHandler):
    """Responds with the request line, headers and body."""

    def do_POST(self) -> None:
        """Responds."""
        body = self.rfile.read(int(self.headers["content-length"]))
        content = f"{self.command} {self.path}\n".encode() + self.headers.as_bytes() + body
        self.send_response(418)
        for name, value in (("content-type", "text/x"), ("content-length", str(len(content))), ("x-a", "b")):
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, *_: object) -> None:
        """Logs nothing."""


def test_rest_is_forwarded(target: tuple[Target, str], tmp_path: Path) -> None:
    server = ThreadingHTTPServer(("127.0.0.1", 0), Echo)
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    url = f"http://127.0.0.1:{server.server_port}"
    with running(target[1], tmp_path, rest_target=url) as gateway:
        connection = http.client.HTTPConnection("127.0.0.1", gateway.rest_port, timeout=30)
        connection.request("POST", "/v1/x%3Apredict?a=%2f", b"\xff\0", {"Authorization": "Bearer y", "Accept": "z"})
        response = connection.getresponse()
        content = response.read()
        assert (response.status, response.headers["content-type"], response.headers["x-a"]) == (418, "text/x", "b")
        assert content.startswith(b"POST /v1/x%3Apredict?a=%2f\n") and content.endswith(b"\xff\0")
        assert b"bearer y" in content.lower() and b"accept: z" in content.lower()
        connection.request("GET", "/gateway/healthz")
        assert connection.getresponse().read() == b"ok\n"
        connection.request("GET", "/gateway/metrics")
        assert b":tensorflow:serving:mirrored_request_count" in connection.getresponse().read()
        connection.close()
    server.shutdown()
    server.server_close()
    thread.join()


def test_a_rest_target_that_cannot_be_reached(target: tuple[Target, str], tmp_path: Path) -> None:
    with running(target[1], tmp_path, rest_target="http://127.0.0.1:1") as gateway:
        connection = http.client.HTTPConnection("127.0.0.1", gateway.rest_port, timeout=30)
        connection.request("POST", "/v1/models/m:predict", b"{}")
        response = connection.getresponse()
        assert response.status == 502 and b"got no response" in response.read()
        connection.close()


@pytest.mark.parametrize("path", ["*", "/v1/\xff"])
def test_a_path_that_cannot_be_forwarded(target: tuple[Target, str], tmp_path: Path, path: str) -> None:
    with running(target[1], tmp_path, rest_target="http://127.0.0.1:1") as gateway:
        with socket.create_connection(("127.0.0.1", gateway.rest_port), timeout=30) as connection:
            connection.sendall(f"GET {path} HTTP/1.1\r\nConnection: close\r\n\r\n".encode("latin-1"))
            response = connection.makefile("rb").read()
    assert response.startswith(b"HTTP/1.1 400 ") and b"Malformed request: GET" in response


def test_responses_are_compared() -> None:
    first = {"p": np.array([0.5, 0.5], np.float32), "id": np.array([1, 2]), "text": np.array([b"a"], object)}
    assert compare(first, {**first, "p": first["p"] + 1e-5}) == {}
    second = {"p": first["p"] + np.float32(0.25), "id": np.array([1, 3]), "other": np.array([1])}
    assert compare(first, second) == {
        "p": {"largest_difference": 0.25},
        "id": {"different_elements": 1},
        "text": {"shapes": [[1], None]},
        "other": {"shapes": [None, [1]]},
    }
