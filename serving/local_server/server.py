"""The local server: gRPC and REST over one set of models, on one machine, without docker."""

from __future__ import annotations

import logging
import socket
import threading
from collections.abc import Callable
from concurrent import futures
from pathlib import Path
from typing import TYPE_CHECKING

import grpc

from serving.local_server import batching, grpc_service, model_config
from serving.local_server.admission import Admission
from serving.local_server.connections import ConnectionServer, Limits
from serving.local_server.errors import RequestError
from serving.local_server.model_config import ModelConfig
from serving.local_server.models import ModelSource
from serving.local_server.profiler import ProfilerService
from serving.local_server.reflection import ReflectionService
from serving.local_server.request_logging import RequestLogs
from serving.local_server.rest import RestApp
from serving.local_server.servable import SessionRunner
from serving.local_server.server_options import ServerOptions, TlsOptions

if TYPE_CHECKING:
    from serving.local_server.health import HealthService

_MODEL_BATCHING_FILE = "batching_params.pbtxt"
_DEFAULT = ServerOptions()


class ServerStartError(Exception):
    """The server cannot start."""


class LocalServer:
    """Serves models over gRPC and REST as TF Serving does.

    Attributes:
      source: The models.
      request_logs: Their request logs.
      grpc_port: The bound port; 0 without gRPC.
      rest_port: The bound port; 0 without REST.
    """

    def __init__(
        self,
        model_name: str = "default",
        model_base_path: Path | str | None = None,
        *,
        port: int | None = 8500,
        rest_api_port: int | None = 8501,
        host: str = "127.0.0.1",
        options: ServerOptions = _DEFAULT,
    ) -> None:
        """Binds the ports; nothing is loaded or served before `start`.

        Args:
          model_name: Name of the model for clients.
          model_base_path: Folder of numbered versions. Name and folder are ignored if the options contain models.
          port: For gRPC; 0 selects a free port, None disables gRPC.
          rest_api_port: For REST; 0 selects a free port, None disables REST.
          host: Address to listen on.
          options: All other options.

        Raises:
          ServerStartError: If a port is in use.
          RequestError: If a configuration file is invalid.
        """
        self._options, self._stopped = options, threading.Event()
        self._batchers: dict[batching.BatchingParameters, batching.Batcher] = {}
        self._runner: SessionRunner = Admission(options.max_running, options.max_waiting)
        if options.batching:
            self._runner = self._batcher(options.batching)
        configs = options.models
        if options.model_config_file:
            configs = tuple(model_config.from_file(options.model_config_file))
        elif not configs:
            configs = (ModelConfig(model_name, str(model_base_path)),)
        self.source = ModelSource(
            configs,
            self._runner_for,
            load_options=options.load,
            retries=options.retries,
            warmup_iterations=options.warmup_iterations,
            labels_of_unavailable_versions=options.labels_of_unavailable_versions,
        )
        self._health: HealthService | None = None
        self.request_logs = RequestLogs(self.source, options.request_log)
        self._grpc, self.grpc_port = self._bind_grpc(host, port)
        self._app = RestApp(self.source, self.request_logs, options)
        self._socket = bind_rest(host, rest_api_port) if rest_api_port is not None else None
        self.rest_port = int(self._socket.getsockname()[1]) if self._socket else 0
        self._rest = ConnectionServer(self._app, Limits(options.max_request_bytes, request_s=options.rest_timeout_s))
        self._threads = []
        if self._socket:
            self._threads.append(
                threading.Thread(target=self._rest.run, args=(self._socket,), name="rest", daemon=True)
            )
        if options.model_config_file and options.model_config_poll_s > 0:
            self._threads.append(threading.Thread(target=self._follow_config, name="model-config", daemon=True))

    def start(self) -> None:
        """Starts to serve and to poll the base paths; call `source.poll()` first to load versions before.

        Raises:
          RequestError: If a label of the configuration points to a version that is not available.
        """
        self.source.assign_labels()
        self._grpc.start()
        if self._socket:
            self._socket.listen(2048)  # clients can connect before the event loop runs
        for thread in self._threads:
            thread.start()
        if self._options.file_system_poll_s > 0:
            self.source.watch(self._options.file_system_poll_s)

    def wait_until_loaded(self, stopped: Callable[[float], bool], waiting: Callable[[], None] | None = None) -> None:
        """Loads the first version of every model; waits for models that have none yet.

        Args:
          stopped: Waits for some seconds and returns whether to give up.
          waiting: Called once if a model has no version yet.

        Raises:
          ServerStartError: If a version that would be the only one cannot be loaded.
        """
        while True:
            self.source.poll()
            for name, version in self.source.failed():
                raise ServerStartError(f"Version {version.number} of {name} cannot be loaded: {version.error_message}")
            if self.source.ready():
                return
            if waiting is not None:
                waiting()
                waiting = None
            if stopped(1.0):
                return

    def stop(self, grace_s: float = 30.0) -> None:
        """Refuses new requests, finishes those in flight and closes the ports."""
        self._app.draining = True
        self._stopped.set()
        self._rest.stop(grace_s)
        stopping = self._grpc.stop(grace_s)
        if self._health:
            self._health.end_watches()
        self._reflection.end_streams()
        stopping.wait()
        for thread in self._threads:
            if thread.is_alive():
                thread.join(grace_s)
        if self._socket:
            self._socket.close()
        self._app.close()
        self.request_logs.close()  # before the batchers: they compute embeddings for it
        for batcher in self._batchers.values():
            batcher.stop()
        self.source.stop()

    def _batcher(self, parameters: batching.BatchingParameters) -> batching.Batcher:
        """Returns the batcher of these parameters: versions with equal parameters share queues and threads."""
        if parameters not in self._batchers:
            self._batchers[parameters] = batching.Batcher(parameters)
        return self._batchers[parameters]

    def _runner_for(self, folder: str) -> SessionRunner:
        parameters = Path(folder) / _MODEL_BATCHING_FILE
        if self._options.batching_from_models and self._options.batching and parameters.is_file():
            return self._batcher(batching.from_file(parameters))
        return self._runner

    def _bind_grpc(self, host: str, port: int | None) -> tuple[grpc.Server, int]:
        options = self._options
        arguments: dict[str, str | int] = {
            # Otherwise two servers could share a port, each with half of the requests.
            "grpc.so_reuseport": 0,
            "grpc.max_receive_message_length": options.max_request_bytes,
            "grpc.max_send_message_length": -1,
            **dict(options.grpc_arguments),
        }
        server = grpc.server(
            futures.ThreadPoolExecutor(options.grpc_threads or options.threads, thread_name_prefix="grpc"),
            options=list(arguments.items()),
        )
        services = list(
            grpc_service.add_services(server, self.source, self.request_logs, tensor_content=options.tensor_content)
        )
        if options.health_service:
            from serving.local_server import health

            self._health = health.HealthService(server)
            services.append(health.NAME)
        if options.profiler_service:
            ProfilerService(server)
        self._reflection = ReflectionService(server, services)
        bound = 0 if port is None else bind_grpc(server, host, port, options.tls)
        try:
            if options.grpc_socket_path:
                server.add_insecure_port(f"unix:{options.grpc_socket_path}")
        except RuntimeError:
            raise ServerStartError(f"--grpc_socket_path: cannot listen on {options.grpc_socket_path}.") from None
        return server, bound

    def _follow_config(self) -> None:
        """Polls the configuration file; after an error, which is logged, the models stay unchanged."""
        path = self._options.model_config_file
        applied: list[ModelConfig] | None = None
        while path and not self._stopped.wait(self._options.model_config_poll_s):
            try:
                configs = model_config.from_file(path)
                if configs != applied:
                    self.source.reload(configs)
                    applied = configs
            except RequestError as error:
                logging.error("Ignored the changed %s: %s: %s", path, error.code, error.message)


def bind_grpc(server: grpc.Server, host: str, port: int, tls: TlsOptions | None = None) -> int:
    """Binds a port of gRPC; 0 selects a free one.

    Returns:
      The bound port.

    Raises:
      ServerStartError: If it is in use.
    """
    address = f"{host}:{port}"
    try:
        if tls is None:
            return int(server.add_insecure_port(address))
        credentials = grpc.ssl_server_credentials(
            [(tls.key, tls.certificate)], tls.client_authorities or None, tls.client_verify
        )
        return int(server.add_secure_port(address, credentials))
    except RuntimeError:
        raise ServerStartError(f"Port {port} on {host} is in use. Choose another with --port.") from None


def bind_rest(host: str, port: int) -> socket.socket:
    """Binds a port of REST; 0 selects a free one.

    Raises:
      ServerStartError: If it is in use.
    """
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    # asyncio disables Nagle's algorithm only for sockets of protocol TCP; with it every response is 40 ms late.
    bound = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        bound.bind((host, port))
    except OSError as error:
        bound.close()
        raise ServerStartError(
            f"Port {port} on {host} is not available ({error.strerror}). Choose another with --rest-api-port."
        ) from None
    return bound
