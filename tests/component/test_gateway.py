"""The gateway in front of a model server: what it logs equals what the server itself logs, and the mirror compares."""

import base64
import contextlib
import gzip
import json
import shutil
import urllib.request
from pathlib import Path

import grpc
import pytest
import tensorflow as tf
from starlette.testclient import TestClient
from tensorflow_serving.apis import predict_pb2, prediction_log_pb2, prediction_service_pb2_grpc

from pipeline.config import loading
from pipeline.studio import app as studio_app
from pipeline.studio.options import StudioOptions
from serving import client as clients
from serving import tfrecord
from serving.gateway.gateway import Gateway, GatewayOptions
from serving.gateway.mirror import MirrorOptions
from serving.local_server.model_config import ModelConfig, VersionPolicy
from serving.local_server.server_options import ServerOptions
from serving.request_log.files import MIRROR, TFRECORD, published
from serving.request_log.options import Content, LogOptions
from serving.request_log.reader import LogReader


@pytest.fixture(scope="module")
def server(tiny_model, toy_saved, running_server, tmp_path_factory):
    folder = tmp_path_factory.mktemp("gateway")
    shutil.copytree(tiny_model.serving_dir, folder / "colours" / "1")
    for version, factor in ((1, 2.0), (2, 3.0)):
        shutil.copytree(toy_saved(factor), folder / "toy" / str(version))
    models = (
        ModelConfig("colours", str(folder / "colours")),
        ModelConfig("toy", str(folder / "toy"), VersionPolicy(None), {"new": 2}),
    )
    log = LogOptions(prefix=str(folder / "own" / "log"))
    with running_server(options=ServerOptions(models=models, request_log=log)) as running:
        yield running


@pytest.fixture
def gateway(server, tmp_path):
    """Runs a gateway that logs to `tmp_path`."""

    @contextlib.contextmanager
    def start(mirror=None, **log):
        options = GatewayOptions(
            f"127.0.0.1:{server.grpc_port}",
            LogOptions(prefix=str(tmp_path / "log"), **log),
            rest_target=f"http://127.0.0.1:{server.rest_port}",
            mirror=mirror,
            port=0,
            rest_port=0,
        )
        running = Gateway(options)
        running.start()
        try:
            yield running
        finally:
            running.stop(5.0)

    return start


def post(gateway, path, body, headers=None):
    url = f"http://127.0.0.1:{gateway.rest_port}/v1/models/{path}"
    content = body if isinstance(body, bytes) else json.dumps(body).encode()
    with urllib.request.urlopen(urllib.request.Request(url, content, headers or {}), timeout=60) as response:
        return json.load(response)


def logs(prefix):
    logs = {}
    for path in published(prefix, TFRECORD):
        with open(path, "rb") as file:
            for _, data in tfrecord.records(file):
                log = prediction_log_pb2.PredictionLog.FromString(data)
                logs[log.log_metadata.request_origin] = log
    return logs


def test_the_log_is_that_of_the_server(gateway, server, tiny_model, tmp_path):
    rows = [{"b64": base64.b64encode(image).decode()} for image in tiny_model.image_bytes[:2]]
    examples = {"signature_name": "classify", "examples": [{"x": 1.0}, {"x": 2.0}]}
    regress = {"signature_name": "regress", "examples": [{"x": 1.0}]}
    with gateway() as running:
        with grpc.insecure_channel(f"127.0.0.1:{running.port}") as channel:
            request = predict_pb2.PredictRequest()
            request.model_spec.name = "colours"
            request.inputs["image_bytes"].CopyFrom(tf.make_tensor_proto(tiny_model.image_bytes[:2], tf.string))
            stub = prediction_service_pb2_grpc.PredictionServiceStub(channel)
            stub.Predict(request, metadata=[("x-request-id", "grpc")], timeout=60)
        post(running, "colours:predict", {"instances": rows}, {"x-request-id": "rows"})
        post(running, "colours/versions/1:predict", {"inputs": rows}, {"x-request-id": "columns"})
        zipped = gzip.compress(json.dumps({"instances": rows}).encode())
        post(running, "colours:predict", zipped, {"x-request-id": "zipped", "content-encoding": "gzip"})
        post(running, "toy/labels/new:classify", examples, {"x-request-id": "classify"})
        post(running, "toy/versions/1:regress", regress, {"x-request-id": "regress"})
    assert server.request_logs.flush()
    own, ours = logs(Path(server.request_logs.prefix)), logs(tmp_path / "log")
    assert set(ours) == {"grpc", "rows", "columns", "zipped", "classify", "regress"}
    for name, log in ours.items():
        log.log_metadata.timestamp_secs = own[name].log_metadata.timestamp_secs
        assert log == own[name], name


def test_clients_use_it_like_a_server(gateway, tiny_model, tmp_path):
    with gateway(content=Content.EMBEDDING) as running:
        for client in (
            clients.GrpcClient(f"127.0.0.1:{running.port}", "colours"),
            clients.RestClient(f"http://127.0.0.1:{running.rest_port}", "colours"),
        ):
            with client:
                assert client.wait_until_ready(30) in (1, None)  # its probe is not logged
                (prediction,) = client.predict(tiny_model.image_bytes[:1]).or_raise()
                client.feedback(prediction.request_id, "red")
                with pytest.raises(ValueError, match="request id"):
                    client.feedback("not an id", "red")
    records = list(LogReader(tmp_path / "log"))
    assert len(records) == 2
    for record in records:
        assert record.images is None and record.embedding.shape[0] == 1
        assert [entry.label for entry in record.feedback] == ["red"]


def test_a_server_without_log_advises_the_gateway(toy_saved, running_server, both_clients, tmp_path):
    shutil.copytree(toy_saved(2.0), tmp_path / "toy" / "1")
    with running_server("toy", tmp_path / "toy") as server, both_clients(server, "toy") as opened:
        for client in opened:
            with pytest.raises(clients.InvalidArgumentError, match="--request-log"):
                client.feedback("a", "red")


def test_a_second_version_is_compared(gateway, server, tmp_path):
    body = {"signature_name": "regress", "examples": [{"x": 1.0}]}
    address = f"127.0.0.1:{server.grpc_port}"
    for version, path in ((1, "different"), (2, "equal"), (9, "error")):
        with gateway(MirrorOptions(address, 1.0, version=version)) as running:
            post(running, "toy:regress", body, {"x-request-id": path})
            running.recorder.flush()
    entries = [
        json.loads(line) for file in published(tmp_path / "log", MIRROR) for line in file.read_text().splitlines()
    ]
    different, error = entries
    assert not any(name.startswith("probe-") for name in logs(Path(server.request_logs.prefix)))
    assert different["request_id"] == "different" and (different["version"], different["mirror_version"]) == (2, 1)
    assert different["differences"]["outputs"]["largest_difference"] > 0.1
    assert error["request_id"] == "error" and error["error"].startswith("NOT_FOUND")


def test_the_studio_predicts_through_the_gateway(server, gateway, tiny_model, tmp_path):
    config = loading.load("images", overrides=[f"pipeline.root={tmp_path}", "pipeline.name=colours"], needs_data=False)
    origin, image = "http://127.0.0.1:8600", tiny_model.image_bytes[0]
    views = []
    with gateway() as running:
        for port in (running.port, server.grpc_port):
            studio = studio_app.create_app(StudioOptions(configs=(config,), grpc=f"127.0.0.1:{port}"))
            with TestClient(studio, base_url=origin, headers={"origin": origin}) as client:
                response = client.post("/p/colours/predict?version=1", content=image)
                assert response.status_code == 200, response.text
                views.append(response.json())
    through, direct = views
    assert through["scores"] == direct["scores"] and through["heatmaps"] == direct["heatmaps"] != []
    assert image in [logged for record in LogReader(tmp_path / "log") for logged in record.images or ()]
