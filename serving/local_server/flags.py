"""TF Serving's command line: `--name=value`, and `--name` alone for what is true or false.

Source: TF Serving's model_servers/main.cc and TensorFlow's core/util/command_line_flags.cc. Imports nothing
heavy: a wrong flag is answered at once.
"""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Sequence
from dataclasses import dataclass

Value = str | int | float | bool

_CORES = os.cpu_count() or 1
_NONE = "Without effect here."
_KINDS: dict[type, str] = {str: "string", int: "int32", float: "float", bool: "bool"}


@dataclass(frozen=True)
class Flag:
    """One flag.

    Attributes:
      name: Without the dashes.
      default: Its type is the flag's.
      usage: What it does.
      refused: Whether it is known, and yet nothing here can do what it asks for.
    """

    name: str
    default: Value
    usage: str
    refused: bool = False


FLAGS = (
    Flag("port", 8500, "TCP port to listen on for gRPC. Disabled if set to zero."),
    Flag("host", "127.0.0.1", "Address to listen on; 0.0.0.0 is every one. TF Serving has no such flag."),
    Flag("grpc_socket_path", "", "If non-empty, listen to a UNIX socket for gRPC on the given path."),
    Flag("rest_api_port", 0, "Port to listen on for HTTP/REST. Disabled if zero; not the one of --port."),
    Flag("rest_api_num_threads", 0, "Threads for REST; 0 is as many as requests can wait and run."),
    Flag("rest_api_timeout_in_ms", 30000, "Timeout for HTTP/REST API calls."),
    Flag("rest_api_enable_cors_support", False, "Enable CORS headers in response."),
    Flag("enable_batching", False, "Enable batching."),
    Flag("batching_parameters_file", "", "If non-empty, read a BatchingParameters protobuf in text form."),
    Flag("enable_per_model_batching_parameters", False, "A version's batching_params.pbtxt goes before the above."),
    Flag("allow_version_labels_for_unavailable_models", False, "A new label may name a version not available yet."),
    Flag("model_config_file", "", "If non-empty, read a ModelServerConfig in text form and serve its models."),
    Flag("model_config_file_poll_wait_seconds", 0, "Interval between readings of that file; 0 reads it once."),
    Flag("model_name", "default", "Name of the model (ignored if --model_config_file is set)."),
    Flag("model_base_path", "", "Folder of versions (ignored if --model_config_file is set, otherwise required)."),
    Flag("num_load_threads", 0, f"Each model has its own thread. {_NONE}"),
    Flag("num_unload_threads", 0, _NONE),
    Flag("max_num_load_retries", 0, "How often loading is tried again after a failure. TF Serving's default is 5."),
    Flag("load_retry_interval_micros", 60_000_000, "Interval between those; negative does not wait."),
    Flag("file_system_poll_wait_seconds", 1, "Interval between looks at the base paths; 0 looks once."),
    Flag("flush_filesystem_caches", True, _NONE),
    Flag("tensorflow_session_parallelism", 0, "Threads of a session; 0 lets TensorFlow choose."),
    Flag("tensorflow_intra_op_parallelism", 0, "Threads for one operation; 0 lets TensorFlow choose."),
    Flag("tensorflow_inter_op_parallelism", 0, "Threads for operations side by side; 0 lets TensorFlow choose."),
    Flag("tensorflow_session_config_file", "", "A ConfigProto in text form.", refused=True),
    Flag("use_alts_credentials", False, "Use Google ALTS credentials.", refused=True),
    Flag("ssl_config_file", "", "If non-empty, read an SSLConfig in text form, and let gRPC speak TLS only."),
    Flag("platform_config_file", "", "A PlatformConfigMap in text form.", refused=True),
    Flag("per_process_gpu_memory_fraction", 0.0, "Share of each GPU's memory; 0 takes what is needed."),
    Flag("saved_model_tags", "serve", "Comma-separated tags of the meta graph to load."),
    Flag("grpc_channel_arguments", "", "Comma-separated arguments for gRPC, as grpc.max_connection_age_ms=2000."),
    Flag("grpc_max_threads", 0, "Threads for gRPC; 0 is as many as requests can wait and run."),
    Flag("enable_model_warmup", True, "Replay a version's warm-up requests before it is available."),
    Flag("num_request_iterations_for_warmup", 1, "How often each of them is run."),
    Flag("version", False, "Display version."),
    Flag("monitoring_config_file", "", "If non-empty, read a MonitoringConfig in text form."),
    Flag("remove_unused_fields_from_bundle_metagraph", True, _NONE),
    Flag("prefer_tflite_model", False, "Load model.tflite where there is one.", refused=True),
    Flag("num_tflite_pools", 0, _NONE),
    Flag("num_tflite_interpreters_per_pool", 0, _NONE),
    Flag("enable_signature_method_name_check", False, "Check a signature's method_name.", refused=True),
    Flag("xla_cpu_compilation_enabled", False, _NONE),
    Flag("xla_gpu_compilation_enabled", False, _NONE),
    Flag("enable_profiler", True, "There is no profiler service here. " + _NONE),
    Flag("thread_pool_factory_config_file", "", "A ThreadPoolConfig in text form.", refused=True),
    Flag("mixed_precision", "", "Change the precision of a model.", refused=True),
    Flag("skip_initialize_tpu", False, _NONE),
    Flag("enable_grpc_healthcheck_service", False, "Answer grpc.health.v1.Health."),
    Flag("enable_serialization_as_tensor_content", False, "Predict answers with raw bytes, not with typed fields."),
)


@dataclass(frozen=True)
class Parsed:
    """A command line.

    Attributes:
      values: Of every flag.
      given: The flags that were named.
      unknown: What is no flag.
      valid: Whether every value could be read.
    """

    values: dict[str, Value]
    given: frozenset[str]
    unknown: tuple[str, ...]
    valid: bool


def parse(arguments: Sequence[str]) -> Parsed:
    """Reads a command line as TensorFlow's own parser does; a value that cannot be read is told on standard error."""
    values = {flag.name: flag.default for flag in FLAGS}
    given: set[str] = set()
    unknown: list[str] = []
    valid = True
    for position, argument in enumerate(arguments):
        if argument == "--":
            unknown.extend(arguments[position:])
            break
        name, separator, text = argument.removeprefix("--").partition("=")
        if name not in values or not argument.startswith("--"):
            unknown.append(argument)
            continue
        kind = type(values[name])
        if not separator and kind is not bool:
            unknown.append(argument)
            continue
        value = True if not separator else _value(text, kind)
        if value is None:
            print(f"Couldn't interpret value {text} for flag {name}.", file=sys.stderr)
            valid = False
        else:
            values[name] = value
            given.add(name)
    return Parsed(values, frozenset(given), tuple(unknown), valid and unknown[:1] != ["--help"])


def _value(text: str, kind: type) -> Value | None:
    if kind is bool:
        return {"true": True, "false": False}.get(text)
    if kind is int:
        return int(text) if re.fullmatch(r"\s*[-+]?[0-9]{1,18}", text) else None
    if kind is float:
        try:
            return float(text)
        except ValueError:
            return None
    return text


def usage(program: str) -> str:
    """The list of flags, laid out as TensorFlow's."""
    lines = [f"usage: {program}", "Flags:"]
    for flag in FLAGS:
        shown = {True: "true", False: "false"}[flag.default] if isinstance(flag.default, bool) else flag.default
        text = f'"{shown}"' if isinstance(flag.default, str) else f"{shown:f}" if isinstance(shown, float) else shown
        lines.append(f"\t{f'--{flag.name}={text}':<33}\t{_KINDS[type(flag.default)]}\t{flag.usage}")
    return "\n".join(lines) + "\n"
