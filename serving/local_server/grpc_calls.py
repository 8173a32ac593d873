"""Shared by the gRPC services of the server and of the gateway: the time of a call, and its errors as a status."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any

import grpc

from serving.local_server.errors import RequestError

_MAX_MESSAGE = 1024
# Longer deadlines count as none: gRPC represents "no deadline" as some 290 years.
_NEVER_S = 10**8


def remaining_s(context: grpc.ServicerContext) -> float | None:
    """Returns the time until the deadline of a call, at least 0; None without deadline."""
    remaining: float | None = context.time_remaining()
    return None if remaining is None or remaining > _NEVER_S else max(remaining, 0.0)


def respond(context: grpc.ServicerContext, compute: Callable[[], Any]) -> Any:
    """Returns the response, or ends the call with the status of the error."""
    try:
        return compute()
    except RequestError as error:
        code, text = grpc.StatusCode[error.code], error.message
    except Exception as error:  # the client gets only the message, the log the whole traceback
        logging.exception("A request failed.")
        code, text = grpc.StatusCode.INTERNAL, f"{type(error).__name__}: {error}"
    if len(text) > _MAX_MESSAGE:
        text = text[:_MAX_MESSAGE] + "...TRUNCATED"
    context.abort(code, text.encode("utf-8", "replace").decode())
