"""The gRPC side of the gateway: forwards every method as bytes, with metadata, deadline, cancellation and status.

Envoy and nginx forward gRPC too, but cannot write TF Serving's PredictionLog.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import grpc

from serving import feedback_service
from serving.gateway.recorder import Recorder
from serving.local_server import grpc_calls
from serving.local_server.protos import prediction_log_pb2
from serving.request_log import request_ids
from serving.request_log.content import KINDS, Fill, parts_of
from serving.request_log.request_ids import REQUEST_ID_KEY

_PREDICTION = "/tensorflow.serving.PredictionService/"
# Streams of these services; everything else is one request and one response.
_STREAMS = ("grpc.reflection.", "grpc.health.v1.Health/Watch", f"{_PREDICTION[1:]}PredictStreamed")
# Set by gRPC itself.
_OWN_METADATA = ("user-agent", "grpc-", ":")


class Proxy(grpc.GenericRpcHandler):
    """Forwards all calls of a server to a channel."""

    def __init__(self, channel: grpc.Channel, recorder: Recorder) -> None:
        """Takes the channel to the target, and what records the calls."""
        self._channel, self._recorder = channel, recorder
        self._feedback = feedback_service.handler(recorder.feedback)

    def service(self, handler_call_details: Any) -> Any:
        """Returns the handler of a method."""
        method = handler_call_details.method
        if method.startswith(f"/{feedback_service.NAME}/"):
            return self._feedback.service(handler_call_details)
        if method[1:].startswith(_STREAMS):
            return grpc.stream_stream_rpc_method_handler(self._stream(method))
        return grpc.unary_unary_rpc_method_handler(self._unary(method))

    def _unary(self, method: str) -> Callable[[bytes, grpc.ServicerContext], Any]:
        call = self._channel.unary_unary(method)
        kind = KINDS.get(method.removeprefix(_PREDICTION))

        def respond(request: bytes, context: grpc.ServicerContext) -> Any:
            metadata = _forwarded(context.invocation_metadata())
            given = dict(metadata).get(REQUEST_ID_KEY)
            request_id = request_ids.accepted(given)
            if kind and given is None:
                metadata.append((REQUEST_ID_KEY, request_id))
            future = call.future(request, timeout=grpc_calls.forwarded_timeout_s(context), metadata=metadata)
            if not context.add_callback(future.cancel):  # the call is over already
                future.cancel()
            try:
                response = future.result()
            except (grpc.RpcError, grpc.FutureCancelledError):
                _abort(context, future)
            context.send_initial_metadata(_forwarded(future.initial_metadata()))
            trailing = _forwarded(future.trailing_metadata())
            if kind:
                trailing = [(key, value) for key, value in trailing if key != REQUEST_ID_KEY]
                trailing.append((REQUEST_ID_KEY, request_id))
                self._recorder.record(request_id, len(request) + len(response), _filler(kind, request, response))
            context.set_trailing_metadata(trailing)
            return response

        return respond

    def _stream(self, method: str) -> Callable[[Iterator[bytes], grpc.ServicerContext], Iterator[Any]]:
        call = self._channel.stream_stream(method)

        def respond(requests: Iterator[bytes], context: grpc.ServicerContext) -> Iterator[Any]:
            metadata = _forwarded(context.invocation_metadata())
            responses = call(requests, timeout=grpc_calls.forwarded_timeout_s(context), metadata=metadata)
            if not context.add_callback(responses.cancel):
                responses.cancel()
            try:
                yield from responses
            except grpc.RpcError:
                _abort(context, responses)
            context.set_trailing_metadata(_forwarded(responses.trailing_metadata()))

        return respond


def _filler(kind: str, request: bytes, response: bytes) -> Fill:
    def fill(log: prediction_log_pb2.PredictionLog) -> None:
        first, second = parts_of(log, kind)
        first.ParseFromString(request)
        second.ParseFromString(response)

    return fill


def _forwarded(metadata: Any) -> list[tuple[str, Any]]:
    return [(key, value) for key, value in metadata or () if not key.startswith(_OWN_METADATA)]


def _abort(context: grpc.ServicerContext, call: Any) -> None:
    """Ends a call with the status of the target's."""
    context.set_trailing_metadata(_forwarded(call.trailing_metadata()))
    context.abort(call.code(), call.details() or "")
