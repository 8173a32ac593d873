"""Shared by the gRPC services of the server and of the gateway: the time of a call, and its errors as a status."""

from __future__ import annotations

import logging
import math
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


def forwarded_timeout_s(context: grpc.ServicerContext) -> float | None:
    """Returns the timeout of a call that a proxy makes for this one: the remaining time, with three significant digits.

    gRPC transmits at most three, and rounds up (`Timeout::FromMillis` in its core): the target would get more time than
    the caller has. None without deadline.
    """
    remaining = remaining_s(context)
    if not remaining:
        return remaining
    unit = max(0.001, 10.0 ** (math.floor(math.log10(remaining)) - 2))
    return round(math.floor(remaining / unit) * unit, 3)


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
