"""The executable `tensorflow_model_server`: the local server with TF Serving's flags.

Its messages go to standard output, and its exit codes are TF Serving's: 0, or 255 if it does not start.
"""

from __future__ import annotations

import logging
import signal
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from serving.local_server import c_library, flags

if TYPE_CHECKING:
    from serving.local_server.server import LocalServer
    from serving.local_server.server_options import ServerOptions

_FAILED = 255  # `return -1`, as a shell sees it


def main() -> None:
    """Entry point of the executable."""
    sys.exit(run(sys.argv[0], sys.argv[1:]))


def run(program: str, arguments: list[str]) -> int:
    """Serves until a signal arrives.

    Args:
      program: Name of the program in the usage message.
      arguments: The command line.

    Returns:
      The exit code.
    """
    parsed = flags.parse(arguments)
    if not parsed.valid:
        print(flags.usage(program), end="")
        return _FAILED
    if parsed.values["version"]:
        print(f"TensorFlow ModelServer: tfx-vision {_version()}")
        return 0
    if parsed.unknown:
        # TF Serving prints this too, but then starts without the flag.
        print(f"unknown argument: {parsed.unknown[0]}\n{flags.usage(program)}", end="")
        return _FAILED
    for flag in flags.FLAGS:
        if flag.refused and parsed.values[flag.name] != flag.default:
            return _refuse(f"UNIMPLEMENTED: --{flag.name} cannot be used with this server")
    values = parsed.values
    if not values["model_base_path"] and not values["model_config_file"]:
        return _refuse(
            "INVALID_ARGUMENT: Both server_options.model_base_path and server_options.model_config_file are empty!"
        )
    if not values["port"] and not values["grpc_socket_path"]:
        return _refuse("INVALID_ARGUMENT: server_options.grpc_port is not set.")
    if values["batching_parameters_file"] and not values["enable_batching"]:
        return _refuse(
            "INVALID_ARGUMENT: server_options.batching_parameters_file is set without setting "
            "server_options.enable_batching to true."
        )
    if values["rest_api_port"] == values["port"]:
        return _refuse("INVALID_ARGUMENT: --rest_api_port cannot be same as --port.")
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(message)s", stream=sys.stderr)
    c_library.load()
    from serving.local_server.errors import RequestError
    from serving.local_server.model_config import check_base_path
    from serving.local_server.server import LocalServer, ServerStartError

    try:
        options = to_options(values)
        base_path = str(values["model_base_path"])
        if not options.model_config_file:
            check_base_path(str(values["model_name"]), base_path)
        server = LocalServer(
            str(values["model_name"]),
            base_path,
            port=_port(values["port"]),
            rest_api_port=_port(values["rest_api_port"]),
            host=str(values["host"]),
            options=options,
        )
        serve(server, lambda: logging.info("Running gRPC ModelServer at port %d ...", server.grpc_port))
    except RequestError as error:
        return _refuse(f"{error.code}: {error.message}")
    except ServerStartError as error:
        return _refuse(f"UNKNOWN: {error}")
    return 0


def serve(server: LocalServer, announce: Callable[[], None], waiting: Callable[[], None] | None = None) -> None:
    """Loads the models and serves them; drains on SIGTERM or SIGINT.

    Args:
      server: Not started yet.
      announce: Called when the ports are open.
      waiting: Called once if a model has no version yet.

    Raises:
      ServerStartError: If the only version of a model cannot be loaded.
      RequestError: If the configuration's labels cannot be assigned.
    """
    stop = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stop.set())

    try:
        server.wait_until_loaded(stop.wait, waiting)
        if not stop.is_set():
            server.start()
            announce()
            stop.wait()
    finally:
        server.stop()


def to_options(values: dict[str, Any]) -> ServerOptions:
    """Converts flags to options; reads the files that they name.

    Raises:
      RequestError: If a file cannot be used.
    """
    from serving.local_server import batching, messages, monitoring
    from serving.local_server.model_config import read_text
    from serving.local_server.servable import LoadOptions
    from serving.local_server.server_options import ServerOptions, TlsOptions
    from serving.local_server.versions import LoadRetries

    metrics_path = tls = None
    if values["monitoring_config_file"]:
        prometheus = read_text(Path(values["monitoring_config_file"]), messages.MonitoringConfig()).prometheus_config
        metrics_path = (prometheus.path or monitoring.DEFAULT_PATH) if prometheus.enable else None
    if values["ssl_config_file"]:
        ssl = read_text(Path(values["ssl_config_file"]), messages.SSLConfig())
        tls = TlsOptions(ssl.server_key.encode(), ssl.server_cert.encode(), ssl.custom_ca.encode(), ssl.client_verify)
    parameters = None
    if values["enable_batching"]:
        path = values["batching_parameters_file"]
        parameters = batching.from_file(Path(path)) if path else batching.BatchingParameters()
    threads = values["tensorflow_session_parallelism"]
    return ServerOptions(
        model_config_file=Path(values["model_config_file"]) if values["model_config_file"] else None,
        model_config_poll_s=values["model_config_file_poll_wait_seconds"],
        file_system_poll_s=values["file_system_poll_wait_seconds"],
        retries=LoadRetries(max(values["max_num_load_retries"], 0), max(values["load_retry_interval_micros"], 0) / 1e6),
        load=LoadOptions(
            tags=tuple(values["saved_model_tags"].split(",")),
            intra_op_threads=values["tensorflow_intra_op_parallelism"] or threads,
            inter_op_threads=values["tensorflow_inter_op_parallelism"] or threads,
            gpu_memory_fraction=values["per_process_gpu_memory_fraction"],
            prefer_tflite=values["prefer_tflite_model"],
        ),
        batching=parameters,
        batching_from_models=values["enable_per_model_batching_parameters"],
        warmup_iterations=max(values["num_request_iterations_for_warmup"], 1) if values["enable_model_warmup"] else 0,
        labels_of_unavailable_versions=values["allow_version_labels_for_unavailable_models"],
        metrics_path=metrics_path,
        rest_timeout_s=values["rest_api_timeout_in_ms"] / 1000 if values["rest_api_timeout_in_ms"] > 0 else 1e9,
        rest_threads=values["rest_api_num_threads"],
        cors=values["rest_api_enable_cors_support"],
        health_service=values["enable_grpc_healthcheck_service"],
        profiler_service=values["enable_profiler"],
        tensor_content=values["enable_serialization_as_tensor_content"],
        grpc_socket_path=values["grpc_socket_path"],
        grpc_threads=values["grpc_max_threads"],
        grpc_arguments=_channel_arguments(values["grpc_channel_arguments"]),
        tls=tls,
    )


def _channel_arguments(text: str) -> tuple[tuple[str, str | int], ...]:
    arguments: list[tuple[str, str | int]] = []
    for argument in filter(None, text.split(",")):
        key, _, value = argument.partition("=")
        arguments.append((key, int(value) if value.lstrip("-").isdigit() else value))
    return tuple(arguments)


def _port(flag: Any) -> int | None:
    return int(flag) or None


def _refuse(status: str) -> int:
    print(f"Failed to start server. Error: {status}")
    return _FAILED


def _version() -> str:
    from importlib.metadata import version

    return f"{version('tfx-vision')}\nTensorFlow Library: {version('tensorflow')}"
