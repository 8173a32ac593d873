"""The command `studio`: a local web page to inspect, try and correct."""

from __future__ import annotations

import socket
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console

from pipeline.cli.console import BAD_USAGE, FAILED, escape, print_line, stop, wide_console
from pipeline.cli.errors import one_message
from pipeline.cli.options import HostOption, OverridesOption, load_config, read_token, with_options

if TYPE_CHECKING:
    import uvicorn

    from pipeline.config.sections import PipelineConfig
    from pipeline.studio.options import StudioOptions

_DEFAULT_ROOT = Path("runs")
# Connections of browsers that wait; a page uses about six.
_MOST_CONNECTIONS = 256


@dataclass(frozen=True, kw_only=True)
class StudioCommandOptions:
    """The options of `studio`."""

    root: Annotated[
        Path | None,
        typer.Option(
            metavar="DIR",
            help="Folder whose pipelines are shown, besides those of CONFIG; default without CONFIG: runs.",
            show_default=False,
        ),
    ] = None
    port: Annotated[int, typer.Option(min=0, max=65535, help="Port; 0 takes a free one.")] = 8600
    host: HostOption = "127.0.0.1"
    grpc: Annotated[str, typer.Option(metavar="HOST:PORT", help="gRPC of the model server.")] = "127.0.0.1:8500"
    rest: Annotated[
        str | None,
        typer.Option(
            metavar="URL", help="Its REST API, for the curl snippets; default: port 8501.", show_default=False
        ),
    ] = None
    model: Annotated[
        str | None,
        typer.Option(help="Name of the model on the server; default: that of the pipeline.", show_default=False),
    ] = None
    request_log: Annotated[
        Path | None,
        typer.Option(
            metavar="PREFIX", help="Request log of a server, whose images can be corrected.", show_default=False
        ),
    ] = None
    token_file: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            help="Contains an access token that the page asks for; required with another --host than 127.0.0.1.",
            show_default=False,
        ),
    ] = None
    allowed_host: Annotated[
        list[str] | None,
        typer.Option(metavar="NAME", help="Name under which a proxy serves the page; can be repeated."),
    ] = None
    max_upload_mb: Annotated[int, typer.Option(min=1, max=1024, help="Largest image, MiB.")] = 32

    def studio_options(self, configs: tuple[PipelineConfig, ...]) -> StudioOptions:
        """Returns the options of the studio; ends the command if they do not fit together."""
        from pipeline.studio.options import StudioOptions

        stderr = Console(stderr=True)
        if "://" in self.grpc:
            stop(stderr, BAD_USAGE, f"--grpc: {self.grpc} is a URL. Give HOST:PORT; a URL belongs to --rest.")
        if self.root is not None and not self.root.is_dir():
            stop(stderr, BAD_USAGE, f"--root: {self.root} is not a folder.")
        try:
            return StudioOptions(
                configs=configs,
                root=self.root or (None if configs else _DEFAULT_ROOT),
                grpc=self.grpc,
                rest=self.rest or f"http://{self.grpc.rpartition(':')[0]}:8501",
                model=self.model,
                request_log=self.request_log,
                host=self.host,
                port=self.port,
                allowed_hosts=tuple(self.allowed_host or ()),
                token=read_token(self.token_file),
                max_upload_bytes=self.max_upload_mb * 2**20,
            )
        except ValueError as error:
            stop(stderr, BAD_USAGE, str(error))


@with_options(StudioCommandOptions, "options")
def studio(
    configs: Annotated[
        list[str] | None, typer.Argument(metavar="[CONFIG]...", help="Presets or TOML files; default: all in --root.")
    ] = None,
    overrides: OverridesOption = None,
    *,
    options: StudioCommandOptions,
) -> None:
    """Opens a local web page: runs with live progress, predictions, the dataset, and the correction of labels."""
    stderr = wide_console(sys.stderr)
    with one_message():
        loaded = tuple(load_config(name, None, overrides, needs_data=False) for name in configs or ())
    studio_options = options.studio_options(loaded)
    try:
        listener = _listen(options.host, options.port)
    except OSError as error:
        stop(stderr, FAILED, f"{options.host}:{options.port}: {error.strerror or error}. --port gives another port.")
    with listener:
        server = _server(studio_options)
        port = listener.getsockname()[1]
        host = f"[{options.host}]" if ":" in options.host else options.host
        print_line(stderr, f"Studio: http://{escape(host)}:{port}  (Ctrl-C ends it)")
        server.run(sockets=[listener])


def _listen(host: str, port: int) -> socket.socket:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    return socket.create_server((host, port), family=family, backlog=_MOST_CONNECTIONS)


def _server(options: StudioOptions) -> uvicorn.Server:
    import uvicorn

    # Charts need it: imported now, not while the first page waits.
    from matplotlib import ticker  # noqa: F401

    from pipeline.studio.app import create_app

    return uvicorn.Server(
        uvicorn.Config(
            create_app(options),
            log_level="warning",
            access_log=False,
            server_header=False,
            proxy_headers=False,
            ws="none",
            limit_concurrency=_MOST_CONNECTIONS,
            timeout_graceful_shutdown=3,
        )
    )
