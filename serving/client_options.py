"""Options of a client: model version, timeouts, batches, TLS and token. The same for both protocols."""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TypedDict

# The characters that RFC 6750 allows in a bearer token; a line break at the end of a file would start another header.
_TOKEN = re.compile(r"[A-Za-z0-9._~+/-]+=*")


class ClientOptionKeys(TypedDict, total=False):
    """The keyword arguments of a client; see `ClientOptions`."""

    version: int | None
    label: str | None
    timeout_s: float
    retries: int
    batch_size: int
    tls: bool
    ca_file: str | Path | None
    cert_file: str | Path | None
    key_file: str | Path | None
    token: str | Callable[[], str] | None
    allow_insecure_token: bool


@dataclass(frozen=True, kw_only=True)
class ClientOptions:
    """Options of a client.

    Attributes:
      version: Model version; None uses the server's newest.
      label: Label of the model version, for example "canary".
      timeout_s: Deadline of a call, including its batches, retries and pauses, seconds.
      retries: How often a request is retried after UNAVAILABLE, RESOURCE_EXHAUSTED, HTTP 429, 502 and 503, or a failed
        connection. A retry does not help other errors.
      batch_size: The most images in one request; not above the server's `max_batch_size`.
      tls: Use TLS for gRPC even without the files below. REST uses it if its URL is https://.
      ca_file: PEM file of the certificate authorities to trust instead of the system's.
      cert_file: PEM file of the client's certificate, for servers that require one.
      key_file: PEM file of its key.
      token: Sent as `Authorization: Bearer`; a function is called before every request, for tokens that expire.
      allow_insecure_token: Send the token without TLS to other machines too, readable by anyone on the network.
    """

    version: int | None = None
    label: str | None = None
    timeout_s: float = 30.0
    retries: int = 3
    batch_size: int = 32
    tls: bool = False
    ca_file: str | Path | None = None
    cert_file: str | Path | None = None
    key_file: str | Path | None = None
    token: str | Callable[[], str] | None = None
    allow_insecure_token: bool = False

    def __post_init__(self) -> None:
        """Checks everything that does not depend on the address.

        Raises:
          ValueError: If a value is out of range, or two contradict each other.
        """
        if self.version is not None and self.label is not None:
            raise ValueError("Set version or label, not both.")
        if self.version is not None and self.version < 0:
            raise ValueError(f"version: {self.version} is negative.")
        if not self.timeout_s > 0:
            raise ValueError(f"timeout_s: {self.timeout_s} is not above 0.")
        if self.retries < 0:
            raise ValueError(f"retries: {self.retries} is negative.")
        if self.batch_size < 1:
            raise ValueError(f"batch_size: {self.batch_size} is below 1.")
        if (self.cert_file is None) != (self.key_file is None):
            raise ValueError("cert_file and key_file belong together: set both or neither.")
        if isinstance(self.token, str):
            _check_token(self.token)

    @property
    def wants_tls(self) -> bool:
        """Whether an option is set that requires TLS."""
        return self.tls or self.ca_file is not None or self.cert_file is not None

    def check_token_is_safe(self, host: str, *, encrypted: bool) -> None:
        """Refuses to send a token unencrypted to another machine.

        Args:
          host: The server's host, as in the address; "" for a UNIX socket.
          encrypted: Whether the connection uses TLS.

        Raises:
          ValueError: If a token is set and would leave this machine unencrypted.
        """
        if self.token is None or encrypted or self.allow_insecure_token or _is_this_machine(host):
            return
        raise ValueError(
            f"The token would be sent to {host} without TLS, readable by anyone on the network. Use TLS (https:// for "
            "REST, tls or ca_file for gRPC), or set allow_insecure_token=True if you trust the network."
        )

    def authorization(self) -> str | None:
        """Returns the value of the header; None without a token.

        Raises:
          ValueError: If the function returned something that is not a token.
        """
        if self.token is None:
            return None
        return f"Bearer {_check_token(self.token() if callable(self.token) else self.token)}"


def read_pem(path: str | Path) -> bytes:
    """Reads a file of certificates or of a key.

    Raises:
      ValueError: If it cannot be read.
    """
    try:
        return Path(path).read_bytes()
    except OSError as error:
        raise ValueError(f"{path}: {error.strerror}") from None


def _check_token(token: str) -> str:
    if not _TOKEN.fullmatch(token):
        raise ValueError("The token is empty or contains characters that a token cannot have, such as a line break.")
    return token


def _is_this_machine(host: str) -> bool:
    if host in ("", "localhost"):
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False
