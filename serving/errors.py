"""Errors between a client and a model server: one family of exceptions for gRPC and REST.

REST has one HTTP status for several gRPC codes (400: INVALID_ARGUMENT, FAILED_PRECONDITION and OUT_OF_RANGE), so there
is one class per HTTP status, and code that catches one does not depend on the protocol. `code` is the exact code.
"""

from __future__ import annotations

import re


class ServerError(Exception):
    """The server refused a request, failed, or could not be reached.

    Attributes:
      code: The gRPC status name, for example "NOT_FOUND". For REST it is the most likely one of the HTTP status.
      message: The server's message.
      http_status: The HTTP status of a REST response; None otherwise.
    """

    def __init__(self, code: str, message: str, http_status: int | None = None) -> None:
        """Takes the status name, the message, and the HTTP status if there is one."""
        super().__init__(f"{code}: {message}")
        self.code = code
        self.message = message
        self.http_status = http_status

    def __reduce__(self) -> tuple[type[ServerError], tuple[str, str, int | None]]:
        """Makes the error picklable, for example in a process pool."""
        return type(self), (self.code, self.message, self.http_status)


class InvalidArgumentError(ServerError):
    """The request is invalid: INVALID_ARGUMENT, FAILED_PRECONDITION, OUT_OF_RANGE; HTTP 400."""


class UnreadableImageError(InvalidArgumentError):
    """An image that was not sent: the file cannot be read, or the array is not an image."""


class UnauthenticatedError(ServerError):
    """The token or the client's certificate is missing or not accepted: UNAUTHENTICATED; HTTP 401."""


class PermissionDeniedError(ServerError):
    """PERMISSION_DENIED; HTTP 403."""


class NotFoundError(ServerError):
    """The server has no such model or version, or has not loaded it yet: NOT_FOUND; HTTP 404."""


class ResourceExhaustedError(ServerError):
    """The server is overloaded: RESOURCE_EXHAUSTED; HTTP 429."""


class RequestTooLargeError(ServerError):
    """A message exceeds a limit of the server or the client: RESOURCE_EXHAUSTED; HTTP 413."""


class InternalError(ServerError):
    """INTERNAL, UNKNOWN, DATA_LOSS; HTTP 500; or the response is not from a model server."""


class UnimplementedError(ServerError):
    """The server does not implement this call: UNIMPLEMENTED; HTTP 501."""


class UnavailableError(ServerError):
    """The server cannot be reached, or accepts no requests at the moment: UNAVAILABLE; HTTP 502 and 503."""


class DeadlineExceededError(ServerError):
    """No response before the deadline: DEADLINE_EXCEEDED; HTTP 504."""


# Code → class and HTTP status. A status that several codes share is read as the first of them.
_CODES: dict[str, tuple[type[ServerError], int]] = {
    "INVALID_ARGUMENT": (InvalidArgumentError, 400),
    "FAILED_PRECONDITION": (InvalidArgumentError, 400),
    "OUT_OF_RANGE": (InvalidArgumentError, 400),
    "UNAUTHENTICATED": (UnauthenticatedError, 401),
    "PERMISSION_DENIED": (PermissionDeniedError, 403),
    "NOT_FOUND": (NotFoundError, 404),
    "ABORTED": (ServerError, 409),
    "ALREADY_EXISTS": (ServerError, 409),
    "RESOURCE_EXHAUSTED": (ResourceExhaustedError, 429),
    "CANCELLED": (ServerError, 499),
    "INTERNAL": (InternalError, 500),
    "UNKNOWN": (InternalError, 500),
    "DATA_LOSS": (InternalError, 500),
    "UNIMPLEMENTED": (UnimplementedError, 501),
    "UNAVAILABLE": (UnavailableError, 503),
    "DEADLINE_EXCEEDED": (DeadlineExceededError, 504),
}
# As in TF Serving's model_servers/http_server.cc.
HTTP_STATUS = {code: status for code, (_, status) in _CODES.items()}
_BY_STATUS = {status: (code, kind) for code, (kind, status) in reversed(_CODES.items())}
# A proxy whose server has just stopped; gRPC maps it to UNAVAILABLE too (grpc/doc/http-grpc-status-mapping.md).
_BY_STATUS[502] = ("UNAVAILABLE", UnavailableError)
_BY_STATUS[413] = ("RESOURCE_EXHAUSTED", RequestTooLargeError)
# The message of gRPC's core, at either end, for a message above `grpc.max_{receive,send}_message_length`.
_TOO_LARGE = re.compile(r"(Received|Sent) message larger than max")


def names_not_listed() -> UnimplementedError:
    """Makes the exception for a server that does not list its models."""
    return UnimplementedError("UNIMPLEMENTED", "this server does not list its models; specify the model name")


def feedback_not_accepted() -> UnimplementedError:
    """Makes the exception for a server that accepts no feedback."""
    return UnimplementedError(
        "UNIMPLEMENTED",
        "this server, like TF Serving, accepts no feedback; use `tfx-vision gateway` in front of it",
    )


def from_code(code: str, message: str) -> ServerError:
    """Makes the exception of a gRPC status."""
    kind = _CODES.get(code, (ServerError, 0))[0]
    if kind is ResourceExhaustedError and _TOO_LARGE.search(message):
        kind = RequestTooLargeError
    return kind(code, message)


def from_http(status: int, message: str) -> ServerError:
    """Makes the exception of an HTTP status other than 200."""
    code, kind = _BY_STATUS.get(status, ("UNKNOWN", InternalError if status >= 500 else ServerError))
    return kind(code, message, status)
