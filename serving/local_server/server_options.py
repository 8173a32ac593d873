"""What a server is told when it starts."""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from pathlib import Path

from serving.local_server.batching import BatchingParameters
from serving.local_server.model_config import ModelConfig
from serving.local_server.servable import LoadOptions
from serving.local_server.versions import LoadRetries

_CORES = os.cpu_count() or 1


@dataclass(frozen=True)
class TlsOptions:
    """PEM texts of gRPC's certificate, and whether clients must show one of their own."""

    key: bytes
    certificate: bytes
    client_authorities: bytes = b""
    client_verify: bool = False


@dataclass(frozen=True)
class ServerOptions:
    """Everything but the model's name, its folder and the ports.

    Attributes:
      models: Several models; name and folder of the only one are then without effect.
      model_config_file: Is read again every `model_config_poll_s`, where that is not 0.
      model_config_poll_s: In seconds.
      file_system_poll_s: How often base paths are looked at, in seconds; 0 looks once, when the server starts.
      retries: What is done about a version that cannot be loaded.
      load: How sessions are made.
      batching: Calls share a run of the model; None runs each alone.
      batching_from_models: A version's own `batching_params.pbtxt` goes before `batching`.
      warmup_iterations: How often each warm-up request is run; 0 leaves warm-up out.
      labels_of_unavailable_versions: Whether a new label may point to a version that is not available.
      metrics_path: Where REST shows metrics; None shows none.
      rest_timeout_s: Of a call over REST.
      rest_threads: That read and write bodies of REST; 0 is as many as calls can wait and run.
      cors: Whether REST allows pages of other origins.
      health_service: Whether gRPC answers `grpc.health.v1.Health`.
      tensor_content: Whether Predict answers with raw bytes instead of typed fields.
      grpc_socket_path: A UNIX socket for gRPC, besides its port.
      grpc_threads: As `rest_threads`.
      grpc_arguments: Channel arguments of gRPC.
      tls: Of gRPC.
      running: How many calls run at once, without batching.
      waiting: How many more may wait; the next ones are told UNAVAILABLE.
      max_request_bytes: Of one request, over both protocols, after decompression.
    """

    models: tuple[ModelConfig, ...] = ()
    model_config_file: Path | None = None
    model_config_poll_s: float = 0.0
    file_system_poll_s: float = 1.0
    retries: LoadRetries = field(default_factory=LoadRetries)
    load: LoadOptions = field(default_factory=LoadOptions)
    batching: BatchingParameters | None = None
    batching_from_models: bool = False
    warmup_iterations: int = 1
    labels_of_unavailable_versions: bool = False
    metrics_path: str | None = None
    rest_timeout_s: float = 30.0
    rest_threads: int = 0
    cors: bool = False
    health_service: bool = False
    tensor_content: bool = False
    grpc_socket_path: str = ""
    grpc_threads: int = 0
    grpc_arguments: tuple[tuple[str, str | int], ...] = ()
    tls: TlsOptions | None = None
    running: int = _CORES
    waiting: int = 128
    max_request_bytes: int = 64 * 2**20

    @property
    def threads(self) -> int:
        """That let every call that may run or wait do so, and tell some more that they may not."""
        return self.running + self.waiting + 8
