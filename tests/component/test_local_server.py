"""The local server over both protocols, with this project's clients and the generated stubs."""

import base64
import json
import shutil
import time

import grpc
import httpx
import numpy as np
import pytest
import tensorflow as tf
from tensorflow_serving.apis import (
    get_model_status_pb2,
    model_service_pb2_grpc,
    predict_pb2,
    prediction_service_pb2_grpc,
)

from serving.client import GrpcClient, RestClient, ServerError
from serving.local_server.server import LocalServer, ServerStartError
from trainer_module import grad_cam, preprocessing, tasks
from trainer_module.model_input import Geometry
from trainer_module.session_model import SessionModel

VERSION = 1700000000


@pytest.fixture(scope="module")
def server(tiny_model, running_server, tmp_path_factory):
    base = tmp_path_factory.mktemp("models") / "colours"
    shutil.copytree(tiny_model.serving_dir, base / str(VERSION))
    (base / "not-a-version").mkdir()
    with running_server("colours", base) as running:
        yield running


@pytest.fixture(scope="module")
def http(server):
    with httpx.Client(base_url=f"http://127.0.0.1:{server.rest_port}", trust_env=False, timeout=30) as client:
        yield client


@pytest.fixture(scope="module")
def channel(server):
    with grpc.insecure_channel(f"127.0.0.1:{server.grpc_port}") as opened:
        yield opened


@pytest.fixture(scope="module")
def expected(tiny_model):
    model = SessionModel(tiny_model.serving_dir)
    yield model.run_on("serving_default", tiny_model.image_bytes)
    model.close()


@pytest.fixture(params=["grpc", "rest"])
def client(request, server):
    if request.param == "grpc":
        client = GrpcClient(f"127.0.0.1:{server.grpc_port}", "colours")
    else:
        client = RestClient(f"http://127.0.0.1:{server.rest_port}", "colours")
    yield client
    client.close()


def b64(image):
    return {"b64": base64.b64encode(image).decode()}


# --- The clients ------------------------------------------------------------------------------------------------


def test_both_clients_return_the_models_predictions(client, tiny_model, expected):
    predictions = client.predict(tiny_model.image_bytes)
    assert [prediction.label.encode() for prediction in predictions] == expected["label"].tolist()
    np.testing.assert_allclose([prediction.score for prediction in predictions], expected["score"], rtol=1e-6)


def test_top_k_is_ranked_and_agrees_with_the_best(client, tiny_model):
    best = client.predict(tiny_model.image_bytes)
    for one, several in zip(best, client.predict(tiny_model.image_bytes, top_k=3), strict=True):
        assert several.label == one.label
        assert len(several.top) == 3
        scores = [label.score for label in several.top]
        assert scores == sorted(scores, reverse=True)
        assert sum(scores) == pytest.approx(1.0, abs=1e-5)


def test_status(client):
    assert client.status() == [(VERSION, "AVAILABLE")]


def test_model_names(client):
    assert client.model_names() == ["colours"]


def test_an_invalid_image_is_an_error_of_the_request(client, tiny_model):
    with pytest.raises(ServerError) as raised:
        client.predict([b"not an image"]).or_raise()
    assert raised.value.code == "INVALID_ARGUMENT"
    assert len(client.predict(tiny_model.image_bytes[:1])) == 1


@pytest.mark.parametrize("protocol", ["grpc", "rest"])
def test_an_unknown_model(server, protocol):
    client = (
        GrpcClient(f"127.0.0.1:{server.grpc_port}", "nope")
        if protocol == "grpc"
        else RestClient(f"http://127.0.0.1:{server.rest_port}", "nope")
    )
    with pytest.raises(ServerError, match=r"Servable not found for request: Latest\(nope\)"):
        client.predict([b""])
    with pytest.raises(ServerError, match="Could not find any versions of model nope"):
        client.status()
    client.close()


# --- gRPC, by the generated stubs -------------------------------------------------------------------------------


def predict_request(values, signature="", name="colours", alias="image_bytes", version=None):
    request = predict_pb2.PredictRequest()
    request.model_spec.name, request.model_spec.signature_name = name, signature
    if version is not None:
        request.model_spec.version.value = version
    request.inputs[alias].CopyFrom(tf.make_tensor_proto(values))
    return request


def test_predict_returns_the_resolved_version_and_typed_fields(channel, tiny_model, expected):
    stub = prediction_service_pb2_grpc.PredictionServiceStub(channel)
    response = stub.Predict(predict_request(tiny_model.image_bytes))
    assert (response.model_spec.name, response.model_spec.version.value) == ("colours", VERSION)
    assert response.model_spec.signature_name == "serving_default"
    assert set(response.outputs) == {"probabilities", "class_id", "label", "score"}
    assert response.outputs["probabilities"].tensor_content == b""
    assert len(response.outputs["probabilities"].float_val) == 36
    np.testing.assert_allclose(tf.make_ndarray(response.outputs["probabilities"]), expected["probabilities"], rtol=1e-6)


def test_an_output_filter(channel, tiny_model):
    request = predict_request(tiny_model.image_bytes, version=VERSION)
    request.output_filter.append("score")
    response = prediction_service_pb2_grpc.PredictionServiceStub(channel).Predict(request)
    assert set(response.outputs) == {"score"}


@pytest.mark.parametrize("signature", ["explain", "embed"])
def test_other_signatures(channel, tiny_model, signature):
    response = prediction_service_pb2_grpc.PredictionServiceStub(channel).Predict(
        predict_request(tiny_model.image_bytes[:2], signature)
    )
    assert all(tensor.tensor_shape.dim[0].size == 2 for tensor in response.outputs.values())


def with_filter(*names):
    request = predict_request([b""])
    request.output_filter.extend(names)
    return request


def without(field):
    request = predict_request([b""])
    if field == "model_spec":
        request.ClearField("model_spec")
    elif field == "name":
        request.model_spec.ClearField("name")
    else:
        request.inputs.clear()
    return request


def labelled(label):
    request = predict_request([b""])
    request.model_spec.version_label = label
    return request


@pytest.mark.parametrize(
    ("request_", "code", "message"),
    [
        (without("model_spec"), "INVALID_ARGUMENT", "Missing ModelSpec"),
        (without("name"), "INVALID_ARGUMENT", "ModelSpec has no name specified."),
        (predict_request([b""], name="m"), "NOT_FOUND", "Servable not found for request: Latest(m)"),
        (predict_request([b""], version=7), "NOT_FOUND", "Servable not found for request: Specific(colours, 7)"),
        (predict_request([b""], version=0), "NOT_FOUND", "Servable not found for request: Specific(colours, 0)"),
        (labelled("canary"), "INVALID_ARGUMENT", "Unrecognized servable version label: canary"),
        (predict_request([b""], "x"), "FAILED_PRECONDITION", 'Serving signature key "x" not found.'),
        (
            without("inputs"),
            "INVALID_ARGUMENT",
            "input size does not match signature: 0!=1 len({}) != len({image_bytes}). "
            "Sent extra: {}. Missing but required: {image_bytes}.",
        ),
        (predict_request([b""], alias="image"), "INVALID_ARGUMENT", "Signature input alias: image_bytes"),
        (predict_request([1.0]), "INVALID_ARGUMENT", "Expects arg[0] to be string but float is provided"),
        (
            with_filter("z"),
            "INVALID_ARGUMENT",
            "output tensor alias not found in signature: z Outputs expected to be in the set "
            "{class_id,label,probabilities,score}.",
        ),
        (with_filter("score", "score"), "INVALID_ARGUMENT", "duplicate"),
        (predict_request([b"words"]), "INVALID_ARGUMENT", "Unknown image file format"),
        (predict_request([[b"a"]]), "INVALID_ARGUMENT", ""),
    ],
)
def test_predict_errors(channel, request_, code, message):
    with pytest.raises(grpc.RpcError) as raised:
        prediction_service_pb2_grpc.PredictionServiceStub(channel).Predict(request_, timeout=20)
    assert raised.value.code().name == code
    assert message in raised.value.details()
    assert len(raised.value.details()) <= 1024 + len("...TRUNCATED")


@pytest.mark.parametrize("size", [10**12, -1])
def test_a_shape_that_the_values_do_not_fill_is_refused(channel, size):
    request = predict_request([b"a"])
    request.inputs["image_bytes"].tensor_shape.dim[0].size = size
    with pytest.raises(grpc.RpcError) as raised:
        prediction_service_pb2_grpc.PredictionServiceStub(channel).Predict(request, timeout=20)
    assert raised.value.code().name == "INVALID_ARGUMENT"


def test_model_status(channel):
    stub = model_service_pb2_grpc.ModelServiceStub(channel)
    request = get_model_status_pb2.GetModelStatusRequest()
    request.model_spec.name = "colours"
    (entry,) = stub.GetModelStatus(request).model_version_status
    assert entry.version == VERSION
    assert entry.state == get_model_status_pb2.ModelVersionStatus.AVAILABLE
    request.model_spec.version.value = 7
    with pytest.raises(grpc.RpcError) as raised:
        stub.GetModelStatus(request)
    assert raised.value.code().name == "NOT_FOUND"
    assert raised.value.details() == "Could not find version 7 of model colours"


# --- REST, byte for byte ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("/v1/models/colours:predict", {"instances": ["IMAGE"]}),
        ("/v1/models/colours:predict", {"instances": [{"image_bytes": "IMAGE"}]}),
        (f"/v1/models/colours/versions/{VERSION}:predict", {"instances": ["IMAGE"]}),
        ("/V1/Models/colours:predict", {"signature_name": "serving_default", "instances": ["IMAGE"]}),
    ],
)
def test_predict_by_rows(http, tiny_model, expected, path, body):
    text = json.dumps(body).replace('"IMAGE"', json.dumps(b64(tiny_model.image_bytes[0])))
    response = http.post(path, content=text)
    assert response.status_code == 200
    assert response.headers["content-type"] == "application/json"
    (row,) = response.json()["predictions"]
    assert row["label"].encode() == expected["label"][0]
    np.testing.assert_allclose(row["probabilities"], expected["probabilities"][0], rtol=1e-5)


def test_predict_by_columns_and_binary_outputs(http, tiny_model):
    images = [b64(image) for image in tiny_model.image_bytes[:2]]
    response = http.post("/v1/models/colours:predict", json={"signature_name": "explain", "inputs": images})
    outputs = response.json()["outputs"]
    assert np.shape(outputs["heatmap"]) == (2, 16, 16)
    assert base64.b64decode(outputs["overlay_png_bytes"][0]["b64"]).startswith(b"\x89PNG")


def test_both_protocols_explain_like_grad_cam_itself(http, channel, tiny_model):
    images = tiny_model.image_bytes[:3]
    response = prediction_service_pb2_grpc.PredictionServiceStub(channel).Predict(predict_request(images, "explain"))
    by_grpc = {name: tf.make_ndarray(tensor) for name, tensor in response.outputs.items()}
    body = {"signature_name": "explain", "instances": [b64(image) for image in images]}
    rows = http.post("/v1/models/colours:predict", json=body).json()["predictions"]
    explain = grad_cam.explainer(tiny_model.model, tasks.get("classification").explanation)
    expected = explain(preprocessing.decode_and_resize(tf.constant(images), Geometry.of(16), 3))
    names = [tiny_model.options.classes[class_id] for class_id in expected.subject.class_ids]
    assert set(by_grpc) == {"heatmap", "overlay_png_bytes", "class_id", "label", "score"}
    assert by_grpc["heatmap"].max() == pytest.approx(1.0)
    np.testing.assert_allclose(by_grpc["heatmap"], expected.heatmap, atol=1e-4)
    np.testing.assert_allclose(by_grpc["score"], expected.score, atol=1e-4)
    np.testing.assert_array_equal(by_grpc["class_id"], expected.subject.class_ids)
    assert [label.decode() for label in by_grpc["label"]] == names
    np.testing.assert_allclose([row["heatmap"] for row in rows], expected.heatmap, atol=1e-4)
    np.testing.assert_allclose([row["score"] for row in rows], expected.score, atol=1e-4)
    assert [(row["class_id"], row["label"]) for row in rows] == list(
        zip(expected.subject.class_ids, names, strict=True)
    )
    pngs = [base64.b64decode(row["overlay_png_bytes"]["b64"]) for row in rows]
    assert pngs == by_grpc["overlay_png_bytes"].tolist() and pngs[0].startswith(b"\x89PNG")


def test_a_single_output_is_bare(http, tiny_model):
    response = http.post(
        "/v1/models/colours:predict",
        json={"signature_name": "embed", "instances": [b64(tiny_model.image_bytes[0])]},
    )
    assert np.shape(response.json()["predictions"]) == (1, 12)


@pytest.mark.parametrize(
    ("method", "path", "body", "status", "error"),
    [
        ("POST", "/v1/models/m:predict", "{}", 404, "Servable not found for request: Latest(m)"),
        (
            "POST",
            "/v1/models/colours/versions/7:predict",
            "{}",
            404,
            "Servable not found for request: Specific(colours, 7)",
        ),
        (
            "POST",
            "/v1/models/colours/labels/canary:predict",
            "{}",
            400,
            "Unrecognized servable version label: canary",
        ),
        ("POST", "/v1/models/colours:predict", "", 400, "JSON Parse error: The document is empty"),
        ("POST", "/v1/models/colours:predict", "{}", 400, "Missing 'inputs' or 'instances' key"),
        (
            "POST",
            "/v1/models/colours:predict",
            '{"signature_name": "x", "instances": [1]}',
            400,
            'Serving signature name: "x" not found in signature def',
        ),
        ("POST", "/v1/models/colours:predict?x=1", "{}", 400, "Malformed request: POST /v1/models/colours:predict?x=1"),
        ("POST", "/v1/models/colours%3Apredict", "{}", 400, "Malformed request: POST /v1/models/colours%3Apredict"),
        ("POST", "/v1/models/colours:PREDICT", "{}", 400, "Malformed request: POST /v1/models/colours:PREDICT"),
        ("POST", "/v1/models/colours:explode", "{}", 400, "Malformed request: POST /v1/models/colours:explode"),
        ("PUT", "/v1/models/colours", "", 400, "Malformed request: PUT /v1/models/colours"),
        ("GET", "/v1/models", "", 400, "Missing model name in request."),
        ("GET", "/v1/models/m", "", 404, "Could not find any versions of model m"),
        ("GET", "/v1/models/colours/versions/7", "", 404, "Could not find version 7 of model colours"),
    ],
)
def test_rest_errors(http, method, path, body, status, error):
    response = http.request(method, path, content=body)
    assert (response.status_code, response.json()) == (status, {"error": error})


@pytest.mark.parametrize("digits", ["9223372036854775808", "9" * 5000])
def test_a_version_beyond_int64_gets_an_empty_response(http, digits):
    response = http.get(f"/v1/models/colours/versions/{digits}")
    assert (response.status_code, response.content) == (400, b"")


def test_status_json(http):
    entry = {"version": str(VERSION), "state": "AVAILABLE", "status": {"error_code": "OK", "error_message": ""}}
    for path in ("/v1/models/colours", f"/v1/models/colours/versions/{VERSION}"):
        assert http.get(path).json() == {"model_version_status": [entry]}


def test_paths_outside_v1_are_health_checks_only(http):
    assert http.get("/healthz").status_code == 200
    assert http.get("/readyz").status_code == 200
    other = http.get("/other")
    assert (other.status_code, other.headers["content-type"].split(";")[0]) == (404, "text/html")


# --- Lifecycle --------------------------------------------------------------------------------------------------


@pytest.fixture
def lifecycle(tiny_model, start_server, tmp_path):
    """A base path with version 1, a function that adds a version, and a client of its server."""
    base = tmp_path / "colours"
    base.mkdir()

    def push(version):
        shutil.copytree(tiny_model.serving_dir, tmp_path / "staged")
        (tmp_path / "staged").rename(base / str(version))

    push(1)
    running = start_server("colours", base)
    with GrpcClient(f"127.0.0.1:{running.grpc_port}", "colours") as client:
        yield base, push, client


def eventually(client, expected):
    deadline = time.monotonic() + 60
    while client.status() != expected and time.monotonic() < deadline:
        time.sleep(0.1)
    assert client.status() == expected


def test_a_new_version_is_loaded_and_a_broken_one_is_not(lifecycle, tiny_model):
    base, push, client = lifecycle
    push(2)
    eventually(client, [(2, "AVAILABLE"), (1, "END")])
    (base / "3").mkdir()
    (base / "3" / "saved_model.pb").write_bytes(b"not a model")
    eventually(client, [(3, "END"), (2, "AVAILABLE"), (1, "END")])
    assert len(client.predict(tiny_model.image_bytes)) == 12

    # Once fixed, it is loaded.
    shutil.rmtree(base / "3")
    push(3)
    eventually(client, [(3, "AVAILABLE"), (2, "END"), (1, "END")])
    assert len(client.predict(tiny_model.image_bytes)) == 12


def test_deleting_the_newest_version_goes_back(lifecycle, tiny_model):
    base, push, client = lifecycle
    push(2)
    eventually(client, [(2, "AVAILABLE"), (1, "END")])
    shutil.rmtree(base / "2")
    eventually(client, [(2, "END"), (1, "AVAILABLE")])
    assert len(client.predict(tiny_model.image_bytes)) == 12


def test_deleting_the_last_version_unloads_and_a_vanished_base_path_does_not(lifecycle, tiny_model):
    base, _, client = lifecycle
    base.rename(base.with_name("away"))
    time.sleep(2.5)
    assert client.status() == [(1, "AVAILABLE")]
    base.with_name("away").rename(base)
    shutil.rmtree(base / "1")
    eventually(client, [(1, "END")])
    with pytest.raises(ServerError, match="Servable not found"):
        client.predict(tiny_model.image_bytes)


def test_a_port_in_use_is_named(server, tmp_path):
    with pytest.raises(ServerStartError, match=f"Port {server.grpc_port} on 127.0.0.1 is in use"):
        LocalServer("m", tmp_path, port=server.grpc_port, rest_api_port=0)
    with pytest.raises(ServerStartError, match=f"Port {server.rest_port} on 127.0.0.1 is not available"):
        LocalServer("m", tmp_path, port=0, rest_api_port=server.rest_port)
