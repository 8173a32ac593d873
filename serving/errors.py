"""What can go wrong between a client and a model server: one family of exceptions for gRPC and REST.

REST has one number where gRPC has several codes (400 is INVALID_ARGUMENT, FAILED_PRECONDITION and OUT_OF_RANGE), so a
class stands for a number, and whoever catches one need not know which protocol was spoken. The exact code is in `code`.

Source of codes and numbers: TF Serving's model_servers/http_server.cc.
"""

from __future__ import annotations

import re


class ServerError(Exception):
    """The server refused, failed, or could not be reached.

    Attributes:
      code: The gRPC status name, for example "NOT_FOUND". Of an answer over REST it is the likeliest of its number.
      message: What the server said.
      http_status: The number of an answer over REST; None otherwise.
    """

    def __init__(self, code: str, message: str, http_status: int | None = None) -> None:
        """Takes the status name, what the server said, and the number if there is one."""
        super().__init__(f"{code}: {message}")
        self.code = code
        self.message = message
        self.http_status = http_status

    def __reduce__(self) -> tuple[type[ServerError], tuple[str, str, int | None]]:
        """Lets a pool of processes hand an error on, which Exception alone could not build again."""
        return type(self), (self.code, self.message, self.http_status)


class InvalidArgumentError(ServerError):
    """The request is at fault: INVALID_ARGUMENT, FAILED_PRECONDITION, OUT_OF_RANGE; HTTP 400."""


class UnreadablePictureError(InvalidArgumentError):
    """A picture that was never sent: the file cannot be read, or the array is no picture."""


class UnauthenticatedError(ServerError):
    """The token or the client's certificate is missing or not accepted: UNAUTHENTICATED; HTTP 401."""


class PermissionDeniedError(ServerError):
    """PERMISSION_DENIED; HTTP 403."""


class NotFoundError(ServerError):
    """The server has no such model or version, or has not loaded it yet: NOT_FOUND; HTTP 404."""


class ResourceExhaustedError(ServerError):
    """The server has more to do than it can: RESOURCE_EXHAUSTED; HTTP 429."""


class RequestTooLargeError(ServerError):
    """A message is beyond a limit of the server or the client: RESOURCE_EXHAUSTED; HTTP 413."""


class InternalError(ServerError):
    """INTERNAL, UNKNOWN, DATA_LOSS; HTTP 500; or an answer that is none of a model server's."""


class UnimplementedError(ServerError):
    """The server does not know this call: UNIMPLEMENTED; HTTP 501."""


class UnavailableError(ServerError):
    """The server cannot be reached, or takes no more requests just now: UNAVAILABLE; HTTP 502 and 503."""


class DeadlineExceededError(ServerError):
    """No answer in time: DEADLINE_EXCEEDED; HTTP 504."""


# Code → class and HTTP number. Of the codes that share a number the first one is what the number alone is taken for.
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
_OF_STATUS = {status: (code, kind) for code, (kind, status) in reversed(_CODES.items())}
# A proxy whose server has just gone; gRPC, too, counts it as UNAVAILABLE (grpc/doc/http-grpc-status-mapping.md).
_OF_STATUS[502] = ("UNAVAILABLE", UnavailableError)
_OF_STATUS[413] = ("RESOURCE_EXHAUSTED", RequestTooLargeError)
# gRPC's core says this, at either end, of a message above `grpc.max_{receive,send}_message_length`.
_TOO_LARGE = re.compile(r"(Received|Sent) message larger than max")


def names_not_listed() -> UnimplementedError:
    """Makes the exception for a server that does not list its models."""
    return UnimplementedError("UNIMPLEMENTED", "this server does not list its models; specify the model name")


def from_code(code: str, message: str) -> ServerError:
    """Makes the exception of a gRPC status."""
    kind = _CODES.get(code, (ServerError, 0))[0]
    if kind is ResourceExhaustedError and _TOO_LARGE.search(message):
        kind = RequestTooLargeError
    return kind(code, message)


def from_http(status: int, message: str) -> ServerError:
    """Makes the exception of an HTTP status other than 200."""
    code, kind = _OF_STATUS.get(status, ("UNKNOWN", InternalError if status >= 500 else ServerError))
    return kind(code, message, status)
