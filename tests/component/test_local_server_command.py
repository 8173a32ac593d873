"""The executable `tensorflow_model_server`, in a separate process."""

import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import grpc
import httpx
import pytest
import tensorflow as tf
from tensorflow_serving.apis import predict_pb2, prediction_service_pb2_grpc

PROGRAM = Path(sys.executable).parent / "tensorflow_model_server"


@pytest.fixture
def launch(tmp_path):
    started = []

    def run(*flags):
        log = (tmp_path / f"log-{len(started)}").open("w+")
        process = subprocess.Popen([PROGRAM, *flags], stdout=log, stderr=subprocess.STDOUT)
        started.append((process, log))
        return process, log

    yield run
    for process, log in started:
        if process.poll() is None:
            process.kill()
            process.wait()
        log.close()


def until(check, process, log):
    deadline = time.monotonic() + 240
    while time.monotonic() < deadline:
        try:
            if result := check():
                return result
        except (httpx.HTTPError, grpc.RpcError):
            pass
        if process.poll() is not None:
            break
        time.sleep(0.1)
    log.seek(0)
    raise AssertionError(log.read()[-3000:])


def predict(values, signature="plain", alias="x", dtype=tf.float32):
    request = predict_pb2.PredictRequest()
    request.model_spec.name, request.model_spec.signature_name = "toy", signature
    request.inputs[alias].CopyFrom(tf.make_tensor_proto(values, dtype))
    return request


def certificate(folder):
    """Creates a key and a self-signed certificate for localhost, PEM."""
    key, cert = folder / "key.pem", folder / "cert.pem"
    subject = ["-subj", "/CN=localhost", "-addext", "subjectAltName=DNS:localhost,IP:127.0.0.1"]
    command = ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-keyout", str(key)]
    subprocess.run([*command, "-out", str(cert), *subject], check=True, capture_output=True)
    return key.read_text(), cert.read_text()


def test_every_file_is_read_and_sigterm_drains(launch, push_toy, free_ports, tmp_path):
    """One process for all checks: importing TensorFlow is slow."""
    push_toy(tmp_path / "toy", 1)
    grpc_port, rest_port = free_ports(2)
    key, cert = certificate(tmp_path)
    files = {
        "models.config": f'model_config_list {{ config {{ name: "toy" base_path: "{tmp_path / "toy"}" '
        'model_platform: "tensorflow" version_labels { key: "stable" value: 1 } } }',
        "batching.config": "max_batch_size { value: 4 } num_batch_threads { value: 2 }",
        "monitoring.config": 'prometheus_config { enable: true path: "/metrics" }',
        "ssl.config": "".join(
            f"{name}: {' '.join(repr(line) for line in text.splitlines(keepends=True))}\n"
            for name, text in (("server_key", key), ("server_cert", cert))
        ),
    }
    for name, text in files.items():
        (tmp_path / name).write_text(text)
    unix = tmp_path / "socket"
    process, log = launch(
        f"--port={grpc_port}",
        f"--rest_api_port={rest_port}",
        f"--grpc_socket_path={unix}",
        f"--model_config_file={tmp_path / 'models.config'}",
        "--model_config_file_poll_wait_seconds=1",
        "--enable_batching=true",
        f"--batching_parameters_file={tmp_path / 'batching.config'}",
        f"--monitoring_config_file={tmp_path / 'monitoring.config'}",
        f"--ssl_config_file={tmp_path / 'ssl.config'}",
        "--enable_grpc_healthcheck_service",
        "--grpc_channel_arguments=grpc.max_connection_age_ms=600000",
        "--tensorflow_session_parallelism=1",
    )
    url = f"http://127.0.0.1:{rest_port}"
    ready = until(lambda: httpx.get(f"{url}/readyz", trust_env=False).status_code == 200, process, log)
    assert ready
    credentials = grpc.ssl_channel_credentials(cert.encode())
    with (
        grpc.secure_channel(f"localhost:{grpc_port}", credentials) as secure,
        grpc.insecure_channel(f"unix:{unix}") as local,
    ):
        stub = prediction_service_pb2_grpc.PredictionServiceStub(secure)
        assert list(stub.Predict(predict([1.0]), timeout=30).outputs["y"].float_val) == [2.5]
        over_socket = prediction_service_pb2_grpc.PredictionServiceStub(local)
        assert list(over_socket.Predict(predict([3.0]), timeout=30).outputs["y"].float_val) == [3.5]
        too_large = httpx.post(
            f"{url}/v1/models/toy/labels/stable:predict",
            json={"signature_name": "plain", "instances": [1.0] * 5},
            trust_env=False,
        )
        assert too_large.json() == {"error": "Task size 5 is larger than maximum input batch size 4"}
        assert ":tensorflow:serving:request_count{" in httpx.get(f"{url}/metrics", trust_env=False).text

        # Requests in flight when the signal arrives.
        results = []

        def slowly_over_grpc():
            results.append(stub.Predict(predict([8000], "spin", "n", tf.int32), timeout=60).outputs["n"].float_val[0])

        def slowly_over_rest():
            body = {"signature_name": "spin", "instances": [8000]}
            response = httpx.post(f"{url}/v1/models/toy:predict", json=body, trust_env=False, timeout=60)
            results.append(response.json()["predictions"][0])

        threads = [threading.Thread(target=run) for run in (slowly_over_grpc, slowly_over_rest)]
        for thread in threads:
            thread.start()
        time.sleep(0.15)
        process.send_signal(signal.SIGTERM)
        assert process.wait(60) == 0
        for thread in threads:
            thread.join(30)
        assert results == [8000.0, 8000.0]
    with pytest.raises(httpx.TransportError):
        httpx.get(f"{url}/healthz", trust_env=False)
