"""How a client reaches a server: what to ask of it, how long to wait, whom to trust. The same for both protocols."""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TypedDict

# What RFC 6750 allows in a bearer token; a line break, which a file easily ends with, would start another header.
_TOKEN = re.compile(r"[A-Za-z0-9._~+/-]+=*")


class OptionKeys(TypedDict, total=False):
    """The keyword arguments of a client; see `Options`."""

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
class Options:
    """How a client asks.

    Attributes:
      version: Ask this version only; otherwise the server's newest.
      label: Ask the version that has this label, for example "canary".
      timeout_s: The longest that a call takes, retries, pauses and all its batches included, seconds.
      retries: How often a request is sent again that the server could not take (UNAVAILABLE, RESOURCE_EXHAUSTED, HTTP
        429, 502 and 503, no connection). Nothing else is: asking again helps no other error.
      batch_size: The most pictures in one request; no more than the server's `max_batch_size`.
      tls: Speak TLS over gRPC even if none of the files below is given. REST does so by https:// in its URL.
      ca_file: PEM of the authorities to trust instead of the system's.
      cert_file: PEM of the client's own certificate, for servers that want one.
      key_file: PEM of its key.
      token: Sent as `Authorization: Bearer`; a function is asked before every request, for tokens that expire.
      allow_insecure_token: Send the token without TLS to another machine too, where everyone on the way can read it.
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
        """Checks what does not depend on the address.

        Raises:
          ValueError: If a value is out of range, or two do not go together.
        """
        if self.version is not None and self.label is not None:
            raise ValueError("Give version or label, not both.")
        if self.version is not None and self.version < 0:
            raise ValueError(f"version: {self.version} is negative.")
        if not self.timeout_s > 0:
            raise ValueError(f"timeout_s: {self.timeout_s} is not above 0.")
        if self.retries < 0 or self.batch_size < 1:
            raise ValueError("retries cannot be negative, and batch_size is at least 1.")
        if (self.cert_file is None) != (self.key_file is None):
            raise ValueError("cert_file and key_file go together: give both or none.")
        if isinstance(self.token, str):
            _check_token(self.token)

    @property
    def wants_tls(self) -> bool:
        """Whether anything was given that only TLS can use."""
        return self.tls or self.ca_file is not None or self.cert_file is not None

    def check_token_is_safe(self, host: str, *, encrypted: bool) -> None:
        """Refuses to send a token where others can read it.

        Args:
          host: The server's, as the address names it; "" for a socket of this machine.
          encrypted: Whether TLS is spoken.

        Raises:
          ValueError: If a token is given and would leave this machine in the clear.
        """
        if self.token is None or encrypted or self.allow_insecure_token or _is_this_machine(host):
            return
        raise ValueError(
            f"The token would go to {host} without TLS, for everyone on the way to read. Use TLS (https:// over REST, "
            "tls or ca_file over gRPC), or allow_insecure_token=True if the network itself is trusted."
        )

    def authorization(self) -> str | None:
        """The value of the header, if there is a token.

        Raises:
          ValueError: If the function gave something that is no token.
        """
        if self.token is None:
            return None
        return f"Bearer {_check_token(self.token() if callable(self.token) else self.token)}"


def read_pem(path: str | Path) -> bytes:
    """Reads a file of certificates or a key.

    Raises:
      ValueError: If it cannot be read.
    """
    try:
        return Path(path).read_bytes()
    except OSError as error:
        raise ValueError(f"{path}: {error.strerror}") from None


def _check_token(token: str) -> str:
    if not _TOKEN.fullmatch(token):
        raise ValueError("The token is empty or holds characters that a token cannot have, such as a line break.")
    return token


def _is_this_machine(host: str) -> bool:
    if host in ("", "localhost"):
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False
