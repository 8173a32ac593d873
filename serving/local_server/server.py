"""Both interfaces of one model, on one machine, without docker."""

from __future__ import annotations

import socket
import threading
from concurrent import futures
from pathlib import Path

import grpc
import uvicorn

from serving.local_server import grpc_service, rest, servables


class ServerStartError(Exception):
    """The server cannot start; the message says why."""


class LocalServer:
    """Answers gRPC and REST for the newest version of a model.

    Attributes:
      source: The model's versions.
      grpc_port: The bound port.
      rest_port: The bound port.
    """

    def __init__(
        self,
        model_name: str,
        model_base_path: Path,
        *,
        port: int = 8500,
        rest_api_port: int = 8501,
        host: str = "127.0.0.1",
    ) -> None:
        """Binds both ports; nothing is loaded or answered before `start`.

        Args:
          model_name: The name that clients ask for.
          model_base_path: Folder of numbered versions.
          port: For gRPC; 0 takes a free one.
          rest_api_port: For REST; 0 takes a free one.
          host: Address to listen on.

        Raises:
          ServerStartError: If a port is taken.
        """
        self.source = servables.ModelSource(model_name, model_base_path)
        self._grpc = grpc.server(
            futures.ThreadPoolExecutor(max_workers=8),
            # Without this two servers could share a port, each with half of the requests.
            options=[
                ("grpc.so_reuseport", 0),
                ("grpc.max_receive_message_length", -1),
                ("grpc.max_send_message_length", -1),
            ],
        )
        grpc_service.add_services(self._grpc, self.source)
        try:
            self.grpc_port = self._grpc.add_insecure_port(f"{host}:{port}")
        except RuntimeError:
            raise ServerStartError(f"Port {port} on {host} is taken. Choose another with --port.") from None
        self._socket = socket.socket()
        self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            self._socket.bind((host, rest_api_port))
        except OSError as error:
            self._socket.close()
            raise ServerStartError(
                f"Port {rest_api_port} on {host} cannot be used ({error.strerror}). "
                "Choose another with --rest-api-port."
            ) from None
        self.rest_port = self._socket.getsockname()[1]
        config = uvicorn.Config(rest.create_app(self.source), log_level="warning", lifespan="off")
        self._rest = uvicorn.Server(config)
        self._rest_thread = threading.Thread(
            target=self._rest.run, kwargs={"sockets": [self._socket]}, name="rest", daemon=True
        )

    def start(self) -> None:
        """Begins to answer and to follow the base path; call `source.poll()` first to have a version at once."""
        self._grpc.start()
        self._rest_thread.start()
        self.source.watch()

    def stop(self, grace_s: float = 5.0) -> None:
        """Finishes the requests in flight and closes both ports."""
        self._rest.should_exit = True
        self._grpc.stop(grace_s).wait()
        if self._rest_thread.is_alive():
            self._rest_thread.join(grace_s)
        self._socket.close()
        self.source.stop()
