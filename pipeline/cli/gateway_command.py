"""The command `gateway`: a proxy in front of TF Serving that logs requests."""

from __future__ import annotations

import logging
import signal
import sys
import threading
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console

from pipeline.cli.console import BAD_USAGE, FAILED, stop, wide_console
from pipeline.cli.options import HostOption, PortOption, RestPortOption, with_options
from pipeline.cli.request_log_options import RequestLogOptions

if TYPE_CHECKING:
    from serving.gateway.gateway import GatewayOptions
    from serving.request_log.options import LogOptions


@dataclass(frozen=True, kw_only=True)
class GatewayCommandOptions:
    """The options of `gateway`."""

    target: Annotated[str, typer.Option(metavar="HOST:PORT", help="gRPC of the model server.")]
    rest_target: Annotated[
        str | None, typer.Option(metavar="URL", help="REST of the model server; default: no REST.", show_default=False)
    ] = None
    port: PortOption = 9500
    rest_api_port: RestPortOption = 9501
    host: HostOption = "127.0.0.1"
    max_request_mb: Annotated[int, typer.Option(min=1, max=2047, help="Largest REST request, MiB.")] = 64
    mirror: Annotated[
        str | None,
        typer.Option(metavar="HOST:PORT", help="gRPC of a second server; responses are compared.", show_default=False),
    ] = None
    mirror_share: Annotated[
        float, typer.Option(min=0.0, max=1.0, help="Fraction of the requests that are mirrored.")
    ] = 0.1
    mirror_version: Annotated[
        int | None, typer.Option(min=0, help="Model version there; default: the newest.", show_default=False)
    ] = None
    mirror_label: Annotated[str | None, typer.Option(help="Label of the model version there.", show_default=False)] = (
        None
    )

    def check(self, log: RequestLogOptions) -> None:
        """Ends the command if options are missing or do not fit together."""
        stderr = Console(stderr=True)
        if log.request_log is None:
            stop(
                stderr, BAD_USAGE, "Give --request-log PREFIX: the folder and the beginning of the names of the files."
            )
        if "://" in self.target or (self.mirror is not None and "://" in self.mirror):
            stop(stderr, BAD_USAGE, "--target and --mirror require HOST:PORT of gRPC. A URL belongs to --rest-target.")
        if self.rest_target is not None and not self.rest_target.startswith(("http://", "https://")):
            stop(stderr, BAD_USAGE, f"--rest-target: {self.rest_target} is not a URL. Give http://HOST:PORT.")
        if self.mirror is None and (self.mirror_version is not None or self.mirror_label is not None):
            stop(stderr, BAD_USAGE, "--mirror-version and --mirror-label require --mirror.")
        if self.mirror_version is not None and self.mirror_label is not None:
            stop(stderr, BAD_USAGE, "Give --mirror-version or --mirror-label, not both.")

    def gateway_options(self, log: LogOptions) -> GatewayOptions:
        """Returns the options of the gateway."""
        from serving.gateway.gateway import GatewayOptions
        from serving.gateway.mirror import MirrorOptions

        mirror = None
        if self.mirror is not None:
            mirror = MirrorOptions(self.mirror, self.mirror_share, self.mirror_version, self.mirror_label)
        return GatewayOptions(
            target=self.target,
            log=log,
            rest_target=self.rest_target,
            mirror=mirror,
            host=self.host,
            port=self.port,
            rest_port=self.rest_api_port,
            max_request_bytes=self.max_request_mb * 2**20,
        )


@with_options(RequestLogOptions, "log")
@with_options(GatewayCommandOptions, "options")
def gateway(*, options: GatewayCommandOptions, log: RequestLogOptions) -> None:
    """Forwards gRPC and REST to TF Serving, logs requests and responses, and stores feedback."""
    options.check(log)
    stderr = wide_console(sys.stderr)
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(message)s")
    logging.getLogger("httpx").setLevel(logging.WARNING)  # it logs every request
    from serving.gateway.gateway import Gateway
    from serving.local_server.server import ServerStartError

    stopped = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stopped.set())
    try:
        running = Gateway(options.gateway_options(log.log_options()))
    except ServerStartError as error:
        stop(stderr, FAILED, str(error))
    running.start()
    rest = f", REST http://{options.host}:{running.rest_port}" if running.rest_port else ""
    stderr.print(
        f"Forwarding to {options.target}: gRPC {options.host}:{running.port}{rest}  (Ctrl-C ends it)", soft_wrap=True
    )
    stopped.wait()
    running.stop()
