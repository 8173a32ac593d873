"""Options of a local server."""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from pathlib import Path

from serving.local_server.batching import BatchingParameters
from serving.local_server.model_config import ModelConfig
from serving.local_server.servable import LoadOptions
from serving.local_server.versions import LoadRetries
from serving.request_log.options import LogOptions

_CORES = os.cpu_count() or 1


@dataclass(frozen=True)
class TlsOptions:
    """PEM texts of gRPC's certificate, and whether clients need a certificate too."""

    key: bytes
    certificate: bytes
    client_authorities: bytes = b""
    client_verify: bool = False


@dataclass(frozen=True)
class ServerOptions:
    """All options except the model's name, its folder and the ports.

    Attributes:
      models: Several models; they replace the name and folder of a single one.
      model_config_file: TF Serving's ModelServerConfig as text.
      model_config_poll_s: Interval at which that file is read again, seconds; 0 reads it once.
      file_system_poll_s: Interval at which base paths are polled, seconds; 0 polls once, when the server starts.
      retries: Retries of a version that cannot be loaded.
      load: Options of the sessions.
      batching: Batches calls; None runs each call alone.
      batching_from_models: Whether a version's own `batching_params.pbtxt` overrides `batching`.
      warmup_iterations: How often each warm-up request runs; 0 disables warm-up.
      labels_of_unavailable_versions: Whether a new label may point to a version that is not available.
      metrics_path: REST path of the metrics; None disables it.
      rest_timeout_s: Deadline of a REST call.
      rest_threads: Threads of REST; 0 for one per call that can run or wait.
      cors: Whether REST allows pages of other origins.
      health_service: Whether gRPC has the service `grpc.health.v1.Health`.
      profiler_service: Whether gRPC has the service `tensorflow.ProfilerService`.
      tensor_content: Whether Predict returns raw bytes instead of typed fields.
      grpc_socket_path: A UNIX socket for gRPC, in addition to its port.
      grpc_threads: As `rest_threads`.
      grpc_arguments: Channel arguments of gRPC.
      tls: TLS of gRPC.
      max_running: How many calls run at once, without batching.
      max_waiting: How many more calls wait; further calls get UNAVAILABLE.
      request_log: Log of the models whose configuration has no `logging_config`; its content, rotation and queue apply
        to all logs.
      max_request_bytes: Limit of a request on both protocols, after decompression.
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
    profiler_service: bool = True
    tensor_content: bool = False
    grpc_socket_path: str = ""
    grpc_threads: int = 0
    grpc_arguments: tuple[tuple[str, str | int], ...] = ()
    tls: TlsOptions | None = None
    max_running: int = _CORES
    max_waiting: int = 128
    request_log: LogOptions = field(default_factory=LogOptions)
    max_request_bytes: int = 64 * 2**20

    @property
    def threads(self) -> int:
        """The default number of threads: one per call that can run or wait, and some to refuse further calls."""
        return self.max_running + self.max_waiting + 8
