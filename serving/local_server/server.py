"""Both interfaces over one set of models, on one machine, without docker."""

from __future__ import annotations

import logging
import socket
import threading
from collections.abc import Callable
from concurrent import futures
from pathlib import Path

import grpc
import uvicorn

from serving.local_server import batching, grpc_service, model_config
from serving.local_server.admission import Admission
from serving.local_server.errors import RequestError
from serving.local_server.model_config import ModelConfig
from serving.local_server.models import ModelSource
from serving.local_server.rest import RestApp
from serving.local_server.servable import Runner
from serving.local_server.server_options import ServerOptions

_BATCHING_OF_MODEL = "batching_params.pbtxt"
_DEFAULT = ServerOptions()


class ServerStartError(Exception):
    """The server cannot start; the message says why."""


class LocalServer:
    """Answers gRPC and REST as TF Serving does.

    Attributes:
      source: The models.
      grpc_port: The bound port; 0 where there is none.
      rest_port: The bound port; 0 where there is none.
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
        """Binds the ports; nothing is loaded or answered before `start`.

        Args:
          model_name: The name that clients ask for.
          model_base_path: Folder of numbered versions. Where the options name several models, both are without effect.
          port: For gRPC; 0 takes a free one, None has none.
          rest_api_port: For REST; 0 takes a free one, None has none.
          host: Address to listen on.
          options: Everything else.

        Raises:
          ServerStartError: If a port is taken.
          RequestError: If a configuration file cannot be used.
        """
        self._options, self._stopped = options, threading.Event()
        self._batchers: dict[batching.BatchingParameters, batching.Batcher] = {}
        self._runner: Runner = Admission(options.running, options.waiting)
        if options.batching:
            self._runner = self._batcher(options.batching)
        configs = options.models
        if options.model_config_file:
            configs = tuple(model_config.from_file(options.model_config_file))
        elif not configs:
            configs = (ModelConfig(model_name, str(model_base_path)),)
        self.source = ModelSource(
            configs,
            self._runner_of,
            load_options=options.load,
            retries=options.retries,
            warmup_iterations=options.warmup_iterations,
            labels_of_unavailable_versions=options.labels_of_unavailable_versions,
        )
        self._grpc, self.grpc_port = self._bind_grpc(host, port)
        self._app = RestApp(self.source, options)
        self._socket = _bind(host, rest_api_port) if rest_api_port is not None else None
        self.rest_port = int(self._socket.getsockname()[1]) if self._socket else 0
        # httptools needs half of h11's processor time for a request.
        config = uvicorn.Config(
            self._app, http="httptools", loop="asyncio", log_level="warning", lifespan="off", access_log=False
        )
        self._rest = uvicorn.Server(config)
        self._threads = [threading.Thread(target=self._serve_rest, name="rest", daemon=True)] if self._socket else []
        if options.model_config_file and options.model_config_poll_s > 0:
            self._threads.append(threading.Thread(target=self._follow_config, name="model-config", daemon=True))

    def start(self) -> None:
        """Begins to answer and to follow base paths; call `source.poll()` first to have versions at once.

        Raises:
          RequestError: If a label of the configuration points to a version that is not available.
        """
        self.source.assign_labels()
        self._grpc.start()
        if self._socket:
            self._socket.listen(2048)  # who connects before uvicorn is up is answered then
        for thread in self._threads:
            thread.start()
        if self._options.file_system_poll_s > 0:
            self.source.watch(self._options.file_system_poll_s)

    def wait_until_loaded(self, stopped: Callable[[float], bool]) -> None:
        """Loads the first version of every model; waits for those that have none yet.

        Args:
          stopped: Waits for so many seconds, and says whether to give up.

        Raises:
          ServerStartError: If a version that would be the only one cannot be loaded.
        """
        while True:
            self.source.poll()
            for name, version in self.source.failed():
                raise ServerStartError(f"Version {version.number} of {name} cannot be loaded: {version.error_message}")
            if self.source.ready() or stopped(1.0):
                return

    def drain(self) -> None:
        """Says that it is not ready any more, and goes on answering."""
        self._app.draining = True

    def stop(self, grace_s: float = 30.0) -> None:
        """Finishes the requests in flight and closes the ports; new ones are refused at once."""
        self.drain()
        self._stopped.set()
        self._rest.should_exit = True
        self._grpc.stop(grace_s).wait()
        for thread in self._threads:
            if thread.is_alive():
                thread.join(grace_s)
        if self._socket:
            self._socket.close()
        self._app.close()
        for batcher in self._batchers.values():
            batcher.stop()
        self.source.stop()

    def _batcher(self, parameters: batching.BatchingParameters) -> batching.Batcher:
        """Versions whose parameters are the same share queues and threads."""
        if parameters not in self._batchers:
            self._batchers[parameters] = batching.Batcher(parameters)
        return self._batchers[parameters]

    def _runner_of(self, folder: str) -> Runner:
        parameters = Path(folder) / _BATCHING_OF_MODEL
        if self._options.batching_from_models and self._options.batching and parameters.is_file():
            return self._batcher(batching.from_file(parameters))
        return self._runner

    def _bind_grpc(self, host: str, port: int | None) -> tuple[grpc.Server, int]:
        options = self._options
        arguments: dict[str, str | int] = {
            # Without this two servers could share a port, each with half of the requests.
            "grpc.so_reuseport": 0,
            "grpc.max_receive_message_length": options.max_request_bytes,
            "grpc.max_send_message_length": -1,
            **dict(options.grpc_arguments),
        }
        server = grpc.server(
            futures.ThreadPoolExecutor(options.grpc_threads or options.threads, thread_name_prefix="grpc"),
            options=list(arguments.items()),
        )
        grpc_service.add_services(
            server, self.source, tensor_content=options.tensor_content, health=options.health_service
        )
        bound = 0
        try:
            if port is not None:
                address = f"{host}:{port}"
                if options.tls:
                    tls = options.tls
                    credentials = grpc.ssl_server_credentials(
                        [(tls.key, tls.certificate)], tls.client_authorities or None, tls.client_verify
                    )
                    bound = server.add_secure_port(address, credentials)
                else:
                    bound = server.add_insecure_port(address)
        except RuntimeError:
            raise ServerStartError(f"Port {port} on {host} is taken. Choose another with --port.") from None
        try:
            if options.grpc_socket_path:
                server.add_insecure_port(f"unix:{options.grpc_socket_path}")
        except RuntimeError:
            raise ServerStartError(f"--grpc_socket_path: {options.grpc_socket_path} cannot be listened to.") from None
        return server, bound

    def _serve_rest(self) -> None:
        self._rest.run(sockets=[self._socket] if self._socket else None)

    def _follow_config(self) -> None:
        """Reads the file again and again; what is wrong with it goes to the log, and the models stay as they are."""
        path = self._options.model_config_file
        applied: list[ModelConfig] | None = None
        while path and not self._stopped.wait(self._options.model_config_poll_s):
            try:
                configs = model_config.from_file(path)
                if configs != applied:
                    self.source.reload(configs)
                    applied = configs
            except RequestError as error:
                logging.error("%s is not followed: %s: %s", path, error.code, error.message)


def _bind(host: str, port: int) -> socket.socket:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    # asyncio switches Nagle's algorithm off only for sockets that say TCP; with it every answer is 40 ms late.
    bound = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        bound.bind((host, port))
    except OSError as error:
        bound.close()
        raise ServerStartError(
            f"Port {port} on {host} cannot be used ({error.strerror}). Choose another with --rest-api-port."
        ) from None
    return bound
