"""TF Serving's command line."""

import subprocess
import sys
from pathlib import Path

import pytest

from serving.local_server import command, flags

DEFAULTS = {flag.name: flag.default for flag in flags.FLAGS}
PROGRAM = Path(sys.executable).parent / "tensorflow_model_server"


def test_defaults():
    parsed = flags.parse([])
    assert parsed.valid and not parsed.unknown and parsed.values == DEFAULTS
    assert (parsed.values["port"], parsed.values["rest_api_port"], parsed.values["model_name"]) == (8500, 0, "default")


def test_values():
    parsed = flags.parse(
        ["--port=1", "--model_base_path=/a=b", "--enable_batching", "--enable_model_warmup=false",
         "--per_process_gpu_memory_fraction=0.5", "--max_num_load_retries=-1", "--batching_parameters_file="]
    )  # fmt: skip
    assert parsed.valid and not parsed.unknown
    assert parsed.values == {
        **DEFAULTS,
        "port": 1,
        "model_base_path": "/a=b",
        "enable_batching": True,
        "enable_model_warmup": False,
        "per_process_gpu_memory_fraction": 0.5,
        "max_num_load_retries": -1,
        "batching_parameters_file": "",
    }


@pytest.mark.parametrize(
    ("arguments", "unknown"),
    [
        (["--what=1"], ("--what=1",)),
        (["--port", "1"], ("--port", "1")),  # TensorFlow's parser requires the equals sign
        (["-port=1"], ("-port=1",)),
        (["--port=1", "--", "--rest_api_port=2"], ("--", "--rest_api_port=2")),
    ],
)
def test_arguments_that_are_not_flags(arguments, unknown):
    parsed = flags.parse(arguments)
    assert parsed.valid and parsed.unknown == unknown


@pytest.mark.parametrize(
    "argument", ["--port=x", "--port=1.5", "--port=", "--enable_batching=1", "--per_process_gpu_memory_fraction=x"]
)
def test_invalid_values(argument, capsys):
    assert not flags.parse([argument]).valid
    assert "Couldn't interpret value" in capsys.readouterr().err


def test_every_flag_of_the_specification_is_known():
    names = (
        "port rest_api_port model_name model_base_path model_config_file model_config_file_poll_wait_seconds "
        "file_system_poll_wait_seconds enable_batching batching_parameters_file monitoring_config_file "
        "rest_api_timeout_in_ms enable_grpc_healthcheck_service grpc_socket_path ssl_config_file max_num_load_retries "
        "load_retry_interval_micros rest_api_enable_cors_support grpc_max_threads "
        "allow_version_labels_for_unavailable_models enable_serialization_as_tensor_content"
    )
    assert set(names.split()) <= {flag.name for flag in flags.FLAGS}


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--help"], "usage: program\nFlags:\n\t--port=8500"),
        (["--port=x"], "usage: program\nFlags:\n"),
        (["--model_base_path=/m", "--what=1"], "unknown argument: --what=1\nusage: program\n"),
        ([], "Failed to start server. Error: INVALID_ARGUMENT: Both server_options.model_base_path and"),
        (["--model_base_path=/m", "--port=0"], "INVALID_ARGUMENT: server_options.grpc_port is not set."),
        (["--model_base_path=/m", "--batching_parameters_file=/b"], "is set without setting"),
        (["--model_base_path=/m", "--rest_api_port=8500"], "--rest_api_port cannot be same as --port"),
        (["--model_base_path=/m", "--use_alts_credentials"], "UNIMPLEMENTED: --use_alts_credentials cannot be used"),
        (["--model_base_path=/m", "--platform_config_file=/p"], "UNIMPLEMENTED: --platform_config_file"),
        (["--model_base_path=m"], "to have an absolute path or URI; got base_path()=m"),
        (["--model_config_file=/nowhere"], "NOT_FOUND: /nowhere: No such file or directory"),
        (["--model_base_path=/m", "--ssl_config_file=/nowhere"], "NOT_FOUND: /nowhere"),
        (["--model_base_path=/m", "--monitoring_config_file=/nowhere"], "NOT_FOUND: /nowhere"),
        (["--model_base_path=/m", "--enable_batching", "--batching_parameters_file=/nowhere"], "NOT_FOUND: /nowhere"),
    ],
)
def test_refusals_end_with_minus_one(arguments, message, capsys):
    assert command.run("program", arguments) == 255
    assert message in capsys.readouterr().out


def test_a_wrong_flag_is_reported_without_tensorflow():
    done = subprocess.run(
        [PROGRAM, "--what=1"], capture_output=True, text=True, timeout=20, env={"PYTHONPROFILEIMPORTTIME": "1"}
    )
    assert done.returncode == 255
    assert done.stdout.startswith("unknown argument: --what=1\nusage: ")
    assert "tensorflow" not in {line.rpartition("|")[2].strip().partition(".")[0] for line in done.stderr.splitlines()}
