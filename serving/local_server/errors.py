"""The errors of TF Serving: a gRPC code and a message.

Functions that read a request or a configuration raise RequestError, with TF Serving's code and message.
"""

from __future__ import annotations

import grpc

# absl::StatusCode → gRPC's name; the numbers are the same.
_NAMES = {status.value[0]: status.name for status in grpc.StatusCode}


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


def invalid_argument(message: str) -> RequestError:
    """Makes the most frequent error: the request is invalid."""
    return RequestError("INVALID_ARGUMENT", message)


def from_number(code: int, message: str) -> RequestError:
    """Makes the error of a status of TensorFlow."""
    return RequestError(_NAMES.get(code, "UNKNOWN"), message)
