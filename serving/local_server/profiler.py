"""TensorFlow's profiler service on the gRPC port: TensorBoard captures a profile of the running server.

Source: tensorflow/core/profiler/rpc/profiler_service_impl.cc. The requests are passed on, byte by byte, to TensorFlow's
own profiler server in this process, which starts, and imports TensorFlow, with the first request.
"""

from __future__ import annotations

import threading
from typing import Any

import grpc

NAME = "tensorflow.ProfilerService"
_METHODS = ("Profile", "Terminate", "Monitor")
_MAX_MESSAGE = [("grpc.max_receive_message_length", -1), ("grpc.max_send_message_length", -1)]
_START_S = 60.0


class ProfilerService:
    """Forwards the calls of `tensorflow.ProfilerService`."""

    def __init__(self, server: grpc.Server, free_port: int | None = None) -> None:
        """Registers the service.

        Args:
          server: Not started yet.
          free_port: Port of TensorFlow's profiler server, for tests; None takes a free one.
        """
        self._lock, self._channel, self._port = threading.Lock(), None, free_port
        handlers = {method: grpc.unary_unary_rpc_method_handler(self._forwarder(method)) for method in _METHODS}
        server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(NAME, handlers),))

    def stop(self) -> None:
        """Closes the connection to TensorFlow's server."""
        with self._lock:
            if self._channel:
                self._channel.close()

    def _forwarder(self, method: str) -> Any:
        def forward(request: bytes, context: grpc.ServicerContext) -> bytes:
            try:
                call = self._connect().unary_unary(f"/{NAME}/{method}")
                response: bytes = call(request, timeout=context.time_remaining())
                return response
            except grpc.RpcError as error:
                context.abort(error.code(), error.details())
            except Exception as error:  # TensorFlow cannot be imported, or its server does not start
                context.abort(grpc.StatusCode.UNAVAILABLE, f"The profiler does not start: {error}")
            raise AssertionError  # `abort` has raised

        return forward

    def _connect(self) -> Any:
        with self._lock:
            if self._channel is None:
                port = self._port or _start()
                self._channel = grpc.insecure_channel(f"127.0.0.1:{port}", _MAX_MESSAGE)
                grpc.channel_ready_future(self._channel).result(_START_S)
            return self._channel


def _start() -> int:
    """Starts TensorFlow's profiler server, which listens on all addresses of the machine; returns its port."""
    import socket

    import tensorflow as tf

    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        port = int(unused.getsockname()[1])
    tf.profiler.experimental.server.start(port)
    return port
