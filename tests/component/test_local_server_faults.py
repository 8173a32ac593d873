"""Invalid requests of every kind: they get errors of the right class, and the next valid request succeeds."""

import base64
import io
import json
import random
import runpy
import shutil
import subprocess
import sys
from pathlib import Path

import grpc
import httpx
import numpy as np
import pytest
import tensorflow as tf
from PIL import Image
from tensorflow_serving.apis import (
    classification_pb2,
    predict_pb2,
    prediction_service_pb2_grpc,
)

from serving.local_server.batching import BatchingParameters
from serving.local_server.server_options import ServerOptions

# Errors of an invalid request; any other would be an error of the server.
CLIENT_ERRORS = {"INVALID_ARGUMENT", "NOT_FOUND", "FAILED_PRECONDITION", "OUT_OF_RANGE", "UNIMPLEMENTED"}
REST_CLIENT_ERRORS = {400, 404, 501}


@pytest.fixture(scope="module", params=[None, BatchingParameters(num_batch_threads=2)], ids=["alone", "batched"])
def server(request, tiny_model, running_server, tmp_path_factory):
    base = tmp_path_factory.mktemp("faults") / "colours"
    shutil.copytree(tiny_model.serving_dir, base / "1")
    with running_server("colours", base, options=ServerOptions(batching=request.param)) as running:
        yield running


@pytest.fixture(scope="module")
def stub(server):
    with grpc.insecure_channel(f"127.0.0.1:{server.grpc_port}") as channel:
        yield prediction_service_pb2_grpc.PredictionServiceStub(channel)


@pytest.fixture(scope="module")
def http(server):
    with httpx.Client(base_url=f"http://127.0.0.1:{server.rest_port}", trust_env=False, timeout=60) as client:
        yield client


def predict_request(*images):
    request = predict_pb2.PredictRequest()
    request.model_spec.name = "colours"
    request.inputs["image_bytes"].CopyFrom(tf.make_tensor_proto(list(images), tf.string))
    return request


def rest_body(*images):
    return {"instances": [{"b64": base64.b64encode(image).decode()} for image in images]}


def encoded(pixels, format_="PNG"):
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, format_)
    return buffer.getvalue()


def huge(format_):
    """Creates a small image whose header claims 30,000 x 30,000 pixels."""
    small = bytearray(encoded(np.zeros((8, 8, 3), np.uint8), format_))
    if format_ == "PNG":
        small[16:24] = (30_000).to_bytes(4, "big") * 2
    elif format_ == "GIF":
        small[6:10] = (30_000).to_bytes(2, "little") * 2
    else:
        frame = small.index(b"\xff\xc0")
        small[frame + 5 : frame + 9] = (30_000).to_bytes(2, "big") * 2
    return bytes(small)


def test_invalid_images(stub, http, tiny_model):
    good = tiny_model.image_bytes
    bad = {
        "empty": b"",
        "words": b"not an image",
        "truncated JPEG": good[0][: len(good[0]) // 2],
        "truncated PNG": good[1][: len(good[1]) // 2],
        "only a signature": good[1][:8],
        "huge PNG": huge("PNG"),
        "huge JPEG": huge("JPEG"),
        "huge GIF": huge("GIF"),
        "zeros": bytes(100_000),
    }
    for case, image in bad.items():
        with pytest.raises(grpc.RpcError) as raised:
            stub.Predict(predict_request(good[0], image), timeout=60)
        assert raised.value.code().name == "INVALID_ARGUMENT", case
        response = http.post("/v1/models/colours:predict", json=rest_body(good[0], image))
        assert response.status_code == 400 and response.json()["error"], case
        if case.startswith("huge"):
            assert "30000 x 30000 pixels" in raised.value.details() and "30000 x 30000" in response.json()["error"]
        assert len(stub.Predict(predict_request(good[0]), timeout=60).outputs["label"].string_val) == 1
    pixel = encoded(np.full((1, 1, 3), 200, np.uint8))
    assert len(stub.Predict(predict_request(pixel), timeout=60).outputs["probabilities"].float_val) == 3
    assert http.post("/v1/models/colours:predict", json=rest_body(pixel)).status_code == 200


def test_invalid_examples(stub, http):
    request = classification_pb2.ClassificationRequest()
    request.model_spec.name, request.model_spec.signature_name = "colours", "classify"
    request.input.example_list.examples.add().features.feature["image/encoded"].bytes_list.value.append(huge("PNG"))
    with pytest.raises(grpc.RpcError) as raised:
        stub.Classify(request, timeout=60)
    assert raised.value.code().name == "INVALID_ARGUMENT" and "30000 x 30000" in raised.value.details()
    for example in ({}, {"image/encoded": 1}, {"image/encoded": "words"}, {"image/encoded": [[]]}):
        body = {"signature_name": "classify", "examples": [example]}
        assert http.post("/v1/models/colours:classify", json=body).status_code == 400


def test_inputs_of_the_wrong_type(stub, http):
    for value in ([1.0], [1], [True]):
        request = predict_request()
        request.inputs["image_bytes"].CopyFrom(tf.make_tensor_proto(value))
        with pytest.raises(grpc.RpcError) as raised:
            stub.Predict(request, timeout=60)
        assert raised.value.code().name == "INVALID_ARGUMENT"
        assert http.post("/v1/models/colours:predict", json={"instances": value}).status_code == 400


def mutated(rng, data):
    """Changes, deletes, repeats or inserts bytes at a few positions."""
    data = bytearray(data)
    for _ in range(rng.choice((1, 1, 2, 4, 16))):
        at = rng.randrange(len(data)) if data else 0
        kind = rng.randrange(5)
        if kind == 0 and data:
            data[at] = rng.randrange(256)
        elif kind == 1 and data:
            data[at] ^= 1 << rng.randrange(8)
        elif kind == 2:
            del data[at : at + rng.choice((1, 2, 8, 64))]
        elif kind == 3:
            data[at:at] = rng.randbytes(rng.choice((1, 4, 32)))
        else:
            data[at:at] = data[at : at + rng.choice((4, 64))] * rng.choice((1, 3))
    return bytes(data)


def test_a_thousand_mutated_requests_over_grpc(server, stub, tiny_model):
    rng = random.Random(20_26)
    small = min(tiny_model.image_bytes, key=len)
    predict = predict_request(small).SerializeToString()
    classify = classification_pb2.ClassificationRequest()
    classify.model_spec.name, classify.model_spec.signature_name = "colours", "classify"
    classify.input.example_list.examples.add().ParseFromString(tiny_model.examples[0])
    seeds = (("Predict", predict), ("Classify", classify.SerializeToString()))
    counts = {}
    with grpc.insecure_channel(f"127.0.0.1:{server.grpc_port}") as channel:
        for number in range(500):
            method, seed = seeds[number % 2]
            call = channel.unary_unary(f"/tensorflow.serving.PredictionService/{method}")
            try:
                call(mutated(rng, seed), timeout=60)
                counts["OK"] = counts.get("OK", 0) + 1
            except grpc.RpcError as error:
                code = error.code().name
                # gRPC's own error for an invalid message.
                if "deserializing" not in error.details().lower():
                    assert code in CLIENT_ERRORS, (number, code, error.details())
                counts[code] = counts.get(code, 0) + 1
            if number % 50 == 49:
                assert stub.Predict(predict_request(small), timeout=60).outputs["label"].string_val
    assert sum(counts.values()) == 500 and len(counts) >= 3


def test_a_thousand_mutated_requests_over_rest(http, tiny_model):
    rng = random.Random(20_27)
    small = min(tiny_model.image_bytes, key=len)
    example = {"image/encoded": {"b64": base64.b64encode(small).decode()}, "x": [1.5, 2], "y": None}
    seeds = (
        ("predict", json.dumps(rest_body(small)).encode()),
        ("predict", json.dumps({"inputs": {"image_bytes": ["a", "b"]}, "signature_name": "embed"}).encode()),
        ("classify", json.dumps({"signature_name": "classify", "examples": [example]}).encode()),
    )
    counts = {}
    for number in range(500):
        verb, seed = seeds[number % 3]
        response = http.post(f"/v1/models/colours:{verb}", content=mutated(rng, seed))
        assert response.status_code == 200 or response.status_code in REST_CLIENT_ERRORS, (number, response.text)
        assert response.status_code == 200 or response.json()["error"]
        counts[response.status_code] = counts.get(response.status_code, 0) + 1
        if number % 50 == 49:
            assert http.post("/v1/models/colours:predict", json=rest_body(small)).status_code == 200
    assert sum(counts.values()) == 500 and {200, 400} <= set(counts)


def test_invalid_paths(server, http):
    rng = random.Random(20_28)
    for _ in range(100):
        path = mutated(rng, b"/v1/models/colours/versions/1:predict").decode("latin-1")
        path = "/" + "".join(char for char in path if char > " " and char not in "\x7f?#\\" and char.isascii())[1:]
        try:
            response = http.post(path, content="{}")
        except httpx.InvalidURL:
            continue
        assert response.status_code in {400, 404}, path
    assert http.get("/readyz").status_code == 200


def test_a_name_cannot_leave_the_base_path(http):
    for path in ("/v1/models/%2e%2e%2fcolours", "/v1/models/colours%2f1", "/v1/models/..%2f..%2fetc%2fpasswd"):
        assert http.get(path).status_code == 404
        assert http.post(f"{path}:predict", content='{"instances": ["a"]}').status_code == 404


# --- Other clients ----------------------------------------------------------------------------------------------


def test_tfxs_client_reports_it_ready(server, tiny_model):
    from tfx.components.infra_validator import types
    from tfx.components.infra_validator.model_server_clients import tensorflow_serving_client

    client = tensorflow_serving_client.TensorFlowServingClient(f"127.0.0.1:{server.grpc_port}", "colours")
    assert client._GetServingStatus() == types.ModelServingStatus.READY
    client.WaitUntilModelLoaded(deadline=2e10, polling_interval_sec=1)
    client.SendRequests([predict_request(tiny_model.image_bytes[0])])
    other = tensorflow_serving_client.TensorFlowServingClient(f"127.0.0.1:{server.grpc_port}", "nobody")
    assert other._GetServingStatus() == types.ModelServingStatus.NOT_READY


# Without a version ovmsclient requests version 0, which TF Serving takes literally.
OVMS = """
import sys
import ovmsclient
from ovmsclient.tfs_compat.base.errors import InvalidInputError, ModelNotFoundError
for client, port in ((ovmsclient.make_grpc_client, sys.argv[1]), (ovmsclient.make_http_client, sys.argv[2])):
    client = client("127.0.0.1:" + port)
    status = client.get_model_status("colours", 1)
    assert status == {1: {"state": "AVAILABLE", "error_code": 0, "error_message": ""}}, status
    # Over HTTP it expects names in camel case, which TF Serving does not use.
    if "grpc" in type(client).__module__:
        metadata = client.get_model_metadata("colours", 1)
        assert metadata["model_version"] == 1, metadata
        assert metadata["inputs"]["image_bytes"]["dtype"] == "DT_STRING", metadata
    image = open(sys.argv[3], "rb").read()
    outputs = client.predict({"image_bytes": [image]}, "colours", 1)
    assert set(outputs) == {"probabilities", "class_id", "label", "score"}, outputs
    assert outputs["probabilities"].shape == (1, 3), outputs
    for name, error in (("nobody", ModelNotFoundError), ("colours", InvalidInputError)):
        try:
            client.predict({"image_bytes": [b"words"]}, name, 1)
        except error:
            continue
        raise AssertionError(f"{name}: no {error}")
print("ok")
"""


@pytest.fixture(scope="session")
def ovms_python(tmp_path_factory):
    """Creates an environment for ovmsclient, which requires an old protobuf."""
    uv = shutil.which("uv") or str(Path(__file__).parents[2] / ".runtime" / "uv" / "bin" / "uv")
    if not Path(uv).exists():
        pytest.skip("creating an environment requires uv")
    folder = tmp_path_factory.mktemp("ovms") / "venv"
    python = folder / "bin" / "python"
    subprocess.run([uv, "venv", "-q", "--python", sys.executable, str(folder)], check=True, timeout=60)
    install = [uv, "pip", "install", "-q", "--python", str(python), "ovmsclient", "protobuf<4", "setuptools<81"]
    done = subprocess.run(install, capture_output=True, text=True, timeout=120)
    if done.returncode:
        pytest.skip(f"ovmsclient cannot be installed: {done.stderr.strip()[-200:]}")
    return python


def test_ovmsclient_works(server, ovms_python, tiny_model, tmp_path):
    (tmp_path / "image").write_bytes(tiny_model.image_bytes[0])
    done = subprocess.run(
        [ovms_python, "-c", OVMS, str(server.grpc_port), str(server.rest_port), str(tmp_path / "image")],
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert (done.stdout, done.returncode) == ("ok\n", 0), done.stderr


# --- Mutated bytes of the protocols -----------------------------------------------------------------------------


def test_mutated_bytes_of_http_and_grpc(server, stub, tiny_model):
    """The same as tests/bench/fuzz_bytes.py, which runs longer."""
    bench = runpy.run_path(str(Path(__file__).parents[1] / "bench" / "fuzz_bytes.py"))
    image = min(tiny_model.image_bytes, key=len)
    status = b"\n\x09\n\x07colours"
    messages = {
        "/tensorflow.serving.PredictionService/Predict": predict_request(image).SerializeToString(),
        "/tensorflow.serving.ModelService/GetModelStatus": status,
        "/grpc.reflection.v1.ServerReflection/ServerReflectionInfo": b"\x3a\0",
    }
    body = json.dumps(rest_body(image)).encode()
    post = b"POST /v1/models/colours:predict HTTP/1.1\r\nContent-Length: %d\r\n\r\n" % len(body) + body
    seeds = {"rest": [*bench["http1_seeds"]("colours"), post], "grpc": bench["http2_seeds"](messages)}
    ports = {"rest": server.rest_port, "grpc": server.grpc_port}
    valid = {
        protocol: [bench["outcome"](protocol, bench["send"](ports[protocol], seed)) for seed in seeds[protocol]]
        for protocol in seeds
    }
    # The model has other inputs than the requests of the bench.
    assert valid == {"rest": ["400", "400", "200", "400", "200"], "grpc": ["frames"] * 4}

    def check():
        assert stub.Predict(predict_request(image), timeout=60).outputs["label"].string_val

    fuzz = bench["fuzz"](ports, seeds, random.Random(20_30), check)
    results = [next(fuzz) for _ in range(500)]
    assert not [result for result in results if result.startswith("fault")]
    assert {"rest 200", "rest 400", "rest closed", "grpc frames"} <= set(results)
