"""The errors of TF Serving: a gRPC code and a message, and the HTTP status of the code."""

from __future__ import annotations

from typing import Any

# model_servers/http_server.cc
HTTP_STATUS = {
    "INVALID_ARGUMENT": 400,
    "FAILED_PRECONDITION": 400,
    "OUT_OF_RANGE": 400,
    "UNAUTHENTICATED": 401,
    "PERMISSION_DENIED": 403,
    "NOT_FOUND": 404,
    "ALREADY_EXISTS": 409,
    "ABORTED": 409,
    "RESOURCE_EXHAUSTED": 429,
    "CANCELLED": 499,
    "UNKNOWN": 500,
    "INTERNAL": 500,
    "DATA_LOSS": 500,
    "UNIMPLEMENTED": 501,
    "UNAVAILABLE": 503,
    "DEADLINE_EXCEEDED": 504,
}

# tensorflow::error::Code → gRPC's name; the numbers are the same.
_NAMES = {
    1: "CANCELLED",
    2: "UNKNOWN",
    3: "INVALID_ARGUMENT",
    4: "DEADLINE_EXCEEDED",
    5: "NOT_FOUND",
    6: "ALREADY_EXISTS",
    7: "PERMISSION_DENIED",
    8: "RESOURCE_EXHAUSTED",
    9: "FAILED_PRECONDITION",
    10: "ABORTED",
    11: "OUT_OF_RANGE",
    12: "UNIMPLEMENTED",
    13: "INTERNAL",
    14: "UNAVAILABLE",
    15: "DATA_LOSS",
    16: "UNAUTHENTICATED",
}


class RequestError(Exception):
    """The error response to a request.

    Attributes:
      code: The gRPC status name.
      message: The message for the client.
    """

    def __init__(self, code: str, message: str) -> None:
        """Takes the status name and the message."""
        super().__init__(message)
        self.code = code
        self.message = message


def from_tensorflow(error: Any) -> RequestError:
    """Converts an error of a graph (tf.errors.OpError); code and message stay the same."""
    return RequestError(_NAMES.get(error.error_code, "UNKNOWN"), error.message)
