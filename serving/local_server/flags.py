"""TF Serving's command line: `--name=value`, and `--name` alone for a boolean.

Source: TF Serving's model_servers/main.cc and TensorFlow's core/util/command_line_flags.cc. Imports nothing heavy, so
that a wrong flag is reported at once.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Sequence
from dataclasses import dataclass

Value = str | int | float | bool

_NO_EFFECT = "No effect in this server."
_KINDS: dict[type, str] = {str: "string", int: "int32", float: "float", bool: "bool"}


@dataclass(frozen=True)
class Flag:
    """One flag.

    Attributes:
      name: Without the dashes.
      default: Its type is the type of the flag.
      usage: Help text.
      refused: Whether this server refuses the flag because it cannot implement it.
    """

    name: str
    default: Value
    usage: str
    refused: bool = False


FLAGS = (
    Flag("port", 8500, "TCP port to listen on for gRPC. Disabled if set to zero."),
    Flag("host", "127.0.0.1", "Address to listen on; 0.0.0.0 for all. TF Serving does not have this flag."),
    Flag("grpc_socket_path", "", "If non-empty, listen to a UNIX socket for gRPC on the given path."),
    Flag("rest_api_port", 0, "Port to listen on for HTTP/REST. Disabled if zero; must differ from --port."),
    Flag("rest_api_num_threads", 0, "Threads for REST; 0 for one per request that can run or wait."),
    Flag("rest_api_timeout_in_ms", 30000, "Timeout for HTTP/REST API calls."),
    Flag("rest_api_enable_cors_support", False, "Enable CORS headers in response."),
    Flag("enable_batching", False, "Enable batching."),
    Flag("batching_parameters_file", "", "If non-empty, read a BatchingParameters protobuf in text form."),
    Flag("enable_per_model_batching_parameters", False, "A version's batching_params.pbtxt overrides the file above."),
    Flag("allow_version_labels_for_unavailable_models", False, "A new label may point to an unavailable version."),
    Flag("model_config_file", "", "If non-empty, read a ModelServerConfig in text form and serve its models."),
    Flag("model_config_file_poll_wait_seconds", 0, "Interval at which that file is read again; 0 reads it once."),
    Flag("model_name", "default", "Name of the model (ignored if --model_config_file is set)."),
    Flag("model_base_path", "", "Folder of versions (ignored if --model_config_file is set, otherwise required)."),
    Flag("num_load_threads", 0, f"Each model has its own thread. {_NO_EFFECT}"),
    Flag("num_unload_threads", 0, _NO_EFFECT),
    Flag("max_num_load_retries", 0, "How often a failed load is retried. TF Serving's default is 5."),
    Flag("load_retry_interval_micros", 60_000_000, "Interval between retries; no wait if negative."),
    Flag("file_system_poll_wait_seconds", 1, "Interval at which base paths are polled; 0 polls once."),
    Flag("flush_filesystem_caches", True, _NO_EFFECT),
    Flag("tensorflow_session_parallelism", 0, "Threads of a session; 0 lets TensorFlow choose."),
    Flag("tensorflow_intra_op_parallelism", 0, "Threads for one operation; 0 lets TensorFlow choose."),
    Flag("tensorflow_inter_op_parallelism", 0, "Threads for concurrent operations; 0 lets TensorFlow choose."),
    Flag("tensorflow_session_config_file", "", "A ConfigProto in text form.", refused=True),
    Flag("use_alts_credentials", False, "Use Google ALTS credentials.", refused=True),
    Flag("ssl_config_file", "", "If non-empty, read an SSLConfig in text form; gRPC then requires TLS."),
    Flag("platform_config_file", "", "A PlatformConfigMap in text form.", refused=True),
    Flag("per_process_gpu_memory_fraction", 0.0, "Fraction of each GPU's memory; 0 allocates as needed."),
    Flag("saved_model_tags", "serve", "Comma-separated tags of the meta graph to load."),
    Flag("grpc_channel_arguments", "", "Comma-separated arguments for gRPC, e.g. grpc.max_connection_age_ms=2000."),
    Flag("grpc_max_threads", 0, "Threads for gRPC; 0 for one per request that can run or wait."),
    Flag("enable_model_warmup", True, "Replay a version's warm-up requests before it is available."),
    Flag("num_request_iterations_for_warmup", 1, "How often each warm-up request runs."),
    Flag("version", False, "Display version."),
    Flag("monitoring_config_file", "", "If non-empty, read a MonitoringConfig in text form."),
    Flag("remove_unused_fields_from_bundle_metagraph", True, _NO_EFFECT),
    Flag("prefer_tflite_model", False, "Load model.tflite if present."),
    Flag("num_tflite_pools", 0, _NO_EFFECT),
    Flag("num_tflite_interpreters_per_pool", 0, _NO_EFFECT),
    Flag("enable_signature_method_name_check", False, "Check a signature's method_name.", refused=True),
    Flag("xla_cpu_compilation_enabled", False, _NO_EFFECT),
    Flag("xla_gpu_compilation_enabled", False, _NO_EFFECT),
    Flag("enable_profiler", True, "Enable the service tensorflow.ProfilerService on the gRPC port."),
    Flag("thread_pool_factory_config_file", "", "A ThreadPoolConfig in text form.", refused=True),
    Flag("mixed_precision", "", "Change the precision of a model.", refused=True),
    Flag("skip_initialize_tpu", False, _NO_EFFECT),
    Flag("enable_grpc_healthcheck_service", False, "Enable the service grpc.health.v1.Health."),
    Flag("enable_serialization_as_tensor_content", False, "Predict returns raw bytes instead of typed fields."),
)


@dataclass(frozen=True)
class ParsedFlags:
    """A command line.

    Attributes:
      values: Value of every flag.
      unknown: Arguments that are not flags.
      valid: Whether every value could be parsed.
    """

    values: dict[str, Value]
    unknown: tuple[str, ...]
    valid: bool


def parse(arguments: Sequence[str]) -> ParsedFlags:
    """Parses a command line as TensorFlow's parser does; reports invalid values on standard error."""
    values = {flag.name: flag.default for flag in FLAGS}
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
    return ParsedFlags(values, tuple(unknown), valid and unknown[:1] != ["--help"])


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
    """Returns the list of flags, formatted as TensorFlow does."""
    lines = [f"usage: {program}", "Flags:"]
    for flag in FLAGS:
        default = {True: "true", False: "false"}[flag.default] if isinstance(flag.default, bool) else flag.default
        if isinstance(flag.default, str):
            default = f'"{default}"'
        text = f"{default:f}" if isinstance(default, float) else default
        lines.append(f"\t{f'--{flag.name}={text}':<33}\t{_KINDS[type(flag.default)]}\t{flag.usage}")
    return "\n".join(lines) + "\n"
