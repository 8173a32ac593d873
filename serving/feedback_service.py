"""The gRPC service that takes feedback; TF Serving does not have it."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import grpc

from serving import wire
from serving.local_server import grpc_calls
from serving.local_server.errors import invalid_argument

NAME = "tfx_vision.FeedbackService"


def handler(store: Callable[[str, str, Any], None]) -> Any:
    """Returns the service.

    Args:
      store: (model, request id, label) → stores the label; its RequestError is the status of the call.
    """

    def feedback(request: Any, context: grpc.ServicerContext) -> Any:
        def compute() -> Any:
            store(request.model_spec.name, request.request_id, _label(request.label))
            return wire.FeedbackResponse()

        return grpc_calls.respond(context, compute)

    method = grpc.unary_unary_rpc_method_handler(
        feedback,
        request_deserializer=wire.FeedbackRequest.FromString,
        response_serializer=wire.FeedbackResponse.SerializeToString,
    )
    return grpc.method_handlers_generic_handler(NAME, {wire.FEEDBACK_METHOD.rpartition("/")[2]: method})


def _label(text: str) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        raise invalid_argument(f"The label is not JSON: {error}") from None
