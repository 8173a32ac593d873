"""The options of the studio."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pipeline.config.sections import PipelineConfig

LOOPBACK_NAMES = ("127.0.0.1", "localhost", "::1")
MIN_TOKEN_LENGTH = 16


@dataclass(frozen=True, kw_only=True)
class StudioOptions:
    """The options of the studio.

    Attributes:
      configs: The pipelines to show.
      root: Folder of further pipelines; None for none.
      grpc: Address of the model server, HOST:PORT.
      rest: URL of its REST API, for the snippets.
      model: Name of the model on the server; None for the name in the configuration.
      request_log: Folder and beginning of the names of a request log; None without one.
      host: Address to listen on.
      port: Its port.
      allowed_hosts: Names under which the page may be opened, besides those of this machine.
      token: Access token; None for no login.
      max_upload_bytes: Largest image.
      max_pixels: Largest image, pixels.
    """

    configs: tuple[PipelineConfig, ...] = ()
    root: Path | None = None
    grpc: str = "127.0.0.1:8500"
    rest: str = "http://127.0.0.1:8501"
    model: str | None = None
    request_log: Path | None = None
    host: str = "127.0.0.1"
    port: int = 8600
    allowed_hosts: tuple[str, ...] = ()
    token: str | None = None
    max_upload_bytes: int = 32 * 2**20
    max_pixels: int = 100_000_000

    def __post_init__(self) -> None:
        """Checks the options.

        Raises:
          ValueError: If the page would be open to other machines without a token, or the token is short.
        """
        if self.token is not None and len(self.token) < MIN_TOKEN_LENGTH:
            raise ValueError(
                f"--token-file: the token has {len(self.token)} characters, and must have at least {MIN_TOKEN_LENGTH}. "
                "`openssl rand -hex 16` creates one."
            )
        if self.host not in LOOPBACK_NAMES and self.token is None:
            raise ValueError(
                f"--host {self.host} opens the studio to other machines: give --token-file FILE, the access token that "
                "the page asks for."
            )

    @property
    def host_names(self) -> frozenset[str]:
        """Names that a request may have in its Host header, without port."""
        return frozenset((*LOOPBACK_NAMES, self.host, *self.allowed_hosts))
