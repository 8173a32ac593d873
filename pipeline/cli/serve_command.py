"""The command `serve`: a local model server with TF Serving's interfaces."""

from __future__ import annotations

import contextlib
import dataclasses
import logging
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO, TYPE_CHECKING, Annotated

import typer
from rich.console import Console

from pipeline.cli.console import BAD_USAGE, FAILED, stop, wide_console
from pipeline.cli.options import HostOption, PortOption, RestPortOption, with_options
from pipeline.cli.request_log_options import RequestLogOptions

if TYPE_CHECKING:
    from serving.local_server.server import LocalServer
    from serving.request_log.options import LogOptions

# Of `tensorflow_model_server` in seconds: how often `--model-config-file` is read again.
_CONFIG_POLL_S = 5


@dataclass(frozen=True, kw_only=True)
class ServeOptions:
    """The options of `serve`. The first eight are flags of `tensorflow_model_server` too."""

    model_base_path: Annotated[
        Path | None, typer.Option(help="Folder of numbered versions, as Pusher writes them.", show_default=False)
    ] = None
    model_name: Annotated[
        str | None, typer.Option(help="Name of the model for clients; default: the name of its folder.")
    ] = None
    model_config_file: Annotated[
        Path | None, typer.Option(help="Several models: TF Serving's ModelServerConfig as text.", show_default=False)
    ] = None
    port: PortOption = 8500
    rest_api_port: RestPortOption = 8501
    host: HostOption = "127.0.0.1"
    enable_batching: Annotated[
        bool, typer.Option("--enable-batching", help="Run requests of several clients together.")
    ] = False
    batching_parameters_file: Annotated[
        Path | None, typer.Option(help="TF Serving's BatchingParameters as text.", show_default=False)
    ] = None
    monitoring: Annotated[
        bool, typer.Option("--monitoring", help="Export metrics at /monitoring/prometheus/metrics.")
    ] = False
    max_request_mb: Annotated[int, typer.Option(min=1, max=2047, help="Largest request, MiB.")] = 64
    max_pixels: Annotated[int, typer.Option(min=1, help="Largest image, pixels.")] = 100_000_000

    def check(self) -> None:
        """Ends the command if options do not fit together."""
        stderr = Console(stderr=True)
        if (self.model_base_path is None) == (self.model_config_file is None):
            stop(stderr, BAD_USAGE, "Give either --model-base-path or --model-config-file.")
        if self.model_base_path is not None and not self.model_base_path.is_dir():
            message = (
                f"--model-base-path: {self.model_base_path} is not a folder. `tfx-vision run` prints the right one."
            )
            stop(stderr, BAD_USAGE, message)
        if self.batching_parameters_file is not None and not self.enable_batching:
            stop(stderr, BAD_USAGE, "--batching-parameters-file has no effect without --enable-batching.")

    def server(self, log: LogOptions) -> LocalServer:
        """Binds the ports.

        Args:
          log: The request log.

        Raises:
          ServerStartError: If a port is taken.
          RequestError: If a file that the options name cannot be used.
        """
        from serving.local_server import command, flags, monitoring
        from serving.local_server.server import LocalServer

        path = self.model_base_path.absolute() if self.model_base_path else None
        given = {
            "model_config_file": str(self.model_config_file or ""),
            "model_config_file_poll_wait_seconds": _CONFIG_POLL_S,
            "enable_batching": self.enable_batching,
            "batching_parameters_file": str(self.batching_parameters_file or ""),
        }
        options = command.to_options({flag.name: flag.default for flag in flags.FLAGS} | given)
        return LocalServer(
            self.model_name or (path.name if path else ""),
            path,
            port=self.port,
            rest_api_port=self.rest_api_port,
            host=self.host,
            options=dataclasses.replace(
                options,
                load=dataclasses.replace(options.load, max_pixels=self.max_pixels),
                metrics_path=monitoring.DEFAULT_PATH if self.monitoring else None,
                max_request_bytes=self.max_request_mb * 2**20,
                request_log=log,
            ),
        )


@contextlib.contextmanager
def _log_changes(file: IO[str]) -> Iterator[None]:
    """Prints one line for every change of the state of a request log, such as a full disk."""
    from serving.request_log.background import LOGGER

    logger, handler = logging.getLogger(LOGGER), logging.StreamHandler(file)
    logger.setLevel(logging.INFO)
    logger.addHandler(handler)
    try:
        yield
    finally:
        logger.removeHandler(handler)


@with_options(RequestLogOptions, "log")
@with_options(ServeOptions, "options")
def serve(*, options: ServeOptions, log: RequestLogOptions) -> None:
    """Serves models over gRPC and REST like TF Serving, without docker; `tensorflow_model_server` takes its flags."""
    from pipeline.execution.log import redirected_output

    options.check()
    # TensorFlow prints much when it starts and when it loads a model; its errors arrive as exceptions.
    with redirected_output(Path(os.devnull)) as (_, err):
        from serving.local_server import c_library, command

        c_library.load()
        from serving.local_server.errors import RequestError
        from serving.local_server.server import ServerStartError

        stderr = wide_console(err)

        def announce() -> None:
            names = ", ".join(
                f"{name} version {server.source.status(name)[0].number}" for name in server.source.names()
            )
            stderr.print(
                f"Serving {names}: gRPC {options.host}:{server.grpc_port}, REST http://{options.host}:"
                f"{server.rest_port}  (Ctrl-C ends it)",
                soft_wrap=True,
            )

        def wait() -> None:
            stderr.print(f"Waiting for a version in {options.model_base_path or options.model_config_file} ...")

        try:
            with _log_changes(err):
                server = options.server(log.log_options())
                command.serve(server, announce, waiting=wait)
        except ServerStartError as error:
            stop(stderr, FAILED, str(error))
        except RequestError as error:  # of a file that the options name
            stop(stderr, BAD_USAGE, error.message)
