"""The gateway: a gRPC and REST proxy in front of TF Serving that logs requests and mirrors them to a second version."""

from __future__ import annotations

import threading
from concurrent import futures
from dataclasses import dataclass
from pathlib import Path

import grpc

from serving.gateway.grpc_proxy import Proxy
from serving.gateway.mirror import Mirror, MirrorOptions
from serving.gateway.recorder import Recorder
from serving.gateway.rest_messages import ModelMetadata
from serving.gateway.rest_proxy import RestProxy
from serving.local_server.connections import ConnectionServer, Limits
from serving.local_server.server import bind_grpc, bind_rest
from serving.request_log.options import LogOptions

# In flight at once; further calls wait.
_THREADS = 256
# The target has its own deadline.
_REST_S = 600.0
_UNLIMITED = [("grpc.max_receive_message_length", -1), ("grpc.max_send_message_length", -1)]


@dataclass(frozen=True)
class GatewayOptions:
    """Options of a gateway.

    Attributes:
      target: HOST:PORT of the model server's gRPC.
      rest_target: URL of its REST API; None without REST.
      log: The request log.
      mirror: Where requests are mirrored; None for nowhere.
      host: Address to listen on.
      port: For gRPC; 0 selects a free port.
      rest_port: For REST; 0 selects a free port.
      max_request_bytes: Limit of a REST request.
    """

    target: str
    log: LogOptions
    rest_target: str | None = None
    mirror: MirrorOptions | None = None
    host: str = "127.0.0.1"
    port: int = 8500
    rest_port: int = 8501
    max_request_bytes: int = 64 * 2**20


class Gateway:
    """A running gateway.

    Attributes:
      port: The bound port of gRPC.
      rest_port: The bound port of REST; 0 without REST.
      recorder: The log and the mirror.
    """

    def __init__(self, options: GatewayOptions) -> None:
        """Binds the ports.

        Raises:
          ServerStartError: If a port is in use.
        """
        self._server = grpc.server(
            futures.ThreadPoolExecutor(_THREADS, thread_name_prefix="gateway"),
            options=[("grpc.so_reuseport", 0), *_UNLIMITED],
        )
        self.port = bind_grpc(self._server, options.host, options.port)
        self._listener = bind_rest(options.host, options.rest_port) if options.rest_target else None
        self.rest_port = int(self._listener.getsockname()[1]) if self._listener else 0
        self._channel = grpc.insecure_channel(options.target, options=_UNLIMITED)
        prefix, rotation = Path(options.log.prefix), options.log.rotation
        mirror = Mirror(options.mirror, prefix, rotation) if options.mirror else None
        self.recorder = Recorder(self._channel, options.log, mirror)
        self._server.add_generic_rpc_handlers((Proxy(self._channel, self.recorder),))
        self._proxy: RestProxy | None = None
        self._rest: ConnectionServer | None = None
        if options.rest_target:
            limit = options.max_request_bytes
            self._proxy = RestProxy(options.rest_target, ModelMetadata(self._channel), self.recorder, limit)
            self._rest = ConnectionServer(self._proxy, Limits(limit, request_s=_REST_S))

    def start(self) -> None:
        """Starts to forward."""
        self._server.start()
        if self._rest and self._listener:
            self._listener.listen(2048)
            self._thread = threading.Thread(target=self._rest.run, args=(self._listener,), name="rest", daemon=True)
            self._thread.start()

    def stop(self, grace_s: float = 30.0) -> None:
        """Refuses new requests, finishes those in flight, writes the log and closes the ports."""
        stopping = self._server.stop(grace_s)
        if self._rest and self._proxy and self._listener:
            self._rest.stop(grace_s)
            self._thread.join(grace_s)
            self._listener.close()
            self._proxy.close()
        stopping.wait()
        self.recorder.close()
        self._channel.close()
