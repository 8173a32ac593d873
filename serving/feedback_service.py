"""The gRPC service that takes feedback; TF Serving does not have it."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import grpc

from serving import wire

NAME = "tfx_vision.FeedbackService"


def handler(store: Callable[[str, str, Any], None], respond: Callable[[Any, Callable[[], Any]], Any]) -> Any:
    """Returns the service.

    Args:
      store: (model, request id, label) → stores the label.
      respond: (context, function) → the function's result, or its error as the status of the call.
    """

    def feedback(request: Any, context: grpc.ServicerContext) -> Any:
        def compute() -> Any:
            store(request.model_spec.name, request.request_id, json.loads(request.label))
            return wire.FeedbackResponse()

        return respond(context, compute)

    method = grpc.unary_unary_rpc_method_handler(
        feedback,
        request_deserializer=wire.FeedbackRequest.FromString,
        response_serializer=wire.FeedbackResponse.SerializeToString,
    )
    return grpc.method_handlers_generic_handler(NAME, {wire.FEEDBACK_METHOD.rpartition("/")[2]: method})
