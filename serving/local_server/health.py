"""gRPC's health service, with TF Serving's short service names.

Source: TF Serving's model_servers/server.cc (`enable_grpc_healthcheck_service`).
"""

from __future__ import annotations

from typing import Any

import grpc
from grpc_health.v1 import health, health_pb2, health_pb2_grpc

NAME = "grpc.health.v1.Health"
_SERVICES = ("", "ModelService", "PredictionService")


class HealthService(health.HealthServicer):
    """Reports SERVING from start to stop, independent of the models, as TF Serving does."""

    def __init__(self, server: grpc.Server) -> None:
        """Registers the service.

        Args:
          server: Not started yet.
        """
        super().__init__()
        self._watches: set[grpc.ServicerContext] = set()
        for service in _SERVICES:
            self.set(service, health_pb2.HealthCheckResponse.SERVING)
        health_pb2_grpc.add_HealthServicer_to_server(self, server)

    def Watch(self, request: Any, context: grpc.ServicerContext, send_response_callback: Any = None) -> Any:
        """Streams the status of a service; a watcher occupies no thread."""
        self._watches.add(context)
        context.add_callback(lambda: self._watches.discard(context))
        return super().Watch(request, context, send_response_callback)

    def end_watches(self) -> None:
        """Ends all streams: a server that drains would wait for them until its grace period is over."""
        for context in list(self._watches):
            context.cancel()
