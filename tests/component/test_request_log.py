"""The request log of the local server: what is logged, for which requests, and what a reader makes of it."""

import asyncio
import base64
import contextlib
import json
import re
import shutil
import urllib.error
import urllib.request

import grpc
import numpy as np
import pytest
import tensorflow as tf
from google.protobuf import text_format
from tensorflow_serving.apis import (
    classification_pb2,
    inference_pb2,
    model_management_pb2,
    model_service_pb2_grpc,
    predict_pb2,
    prediction_log_pb2,
    prediction_service_pb2_grpc,
    regression_pb2,
)
from tensorflow_serving.config import model_server_config_pb2

from serving import client as clients
from serving import wire
from serving.local_server import monitoring
from serving.local_server.server_options import ServerOptions
from serving.request_log.files import JSON_LINES, TFRECORD, published
from serving.request_log.options import Content, LogOptions
from serving.request_log.reader import LogReader


@pytest.fixture
def serve(tiny_model, running_server, tmp_path):
    """Serves the tiny model as `colours`, with a log below `tmp_path`."""

    @contextlib.contextmanager
    def start(**log):
        base = tmp_path / "models" / "colours"
        if not base.exists():
            shutil.copytree(tiny_model.serving_dir, base / "1")
        options = ServerOptions(
            request_log=LogOptions(**{"prefix": str(tmp_path / "logs" / "colours"), **log}),
            metrics_path=monitoring.DEFAULT_PATH,
        )
        with running_server("colours", base, options=options) as server:
            yield server

    return start


@contextlib.contextmanager
def stub(server):
    with grpc.insecure_channel(f"127.0.0.1:{server.grpc_port}") as channel:
        yield prediction_service_pb2_grpc.PredictionServiceStub(channel)


def predict_request(images, signature=""):
    request = predict_pb2.PredictRequest()
    request.model_spec.name, request.model_spec.signature_name = "colours", signature
    request.inputs["image_bytes"].CopyFrom(tf.make_tensor_proto(images, tf.string))
    return request


def post(server, path, body, headers=None):
    url = f"http://127.0.0.1:{server.rest_port}/v1/models/{path}"
    request = urllib.request.Request(url, json.dumps(body).encode(), headers or {})
    with urllib.request.urlopen(request, timeout=60) as response:
        return json.load(response), response.headers


def post_images(server, images, **named):
    rows = [{"b64": base64.b64encode(image).decode()} for image in images]
    return post(server, "colours:predict", {"instances": rows}, **named)


def log_of(tmp_path):
    return list(LogReader(tmp_path / "logs" / "colours"))


def test_both_protocols_log_the_same_proto(serve, tiny_model, tmp_path):
    images = tiny_model.image_bytes[:2]
    with serve() as server:
        with stub(server) as calls:
            response, call = calls.Predict.with_call(predict_request(images), metadata=[("x-request-id", "first")])
        assert dict(call.trailing_metadata())["x-request-id"] == "first"
        _, headers = post_images(server, images, headers={"x-request-id": "second"})
        assert headers["x-request-id"] == "second"
        _, headers = post_images(server, images[:1], headers={"x-request-id": "not valid"})
        generated = headers["x-request-id"]
    (path,) = published(tmp_path / "logs" / "colours", TFRECORD)
    first, second, third = (
        prediction_log_pb2.PredictionLog.FromString(record.numpy()) for record in tf.data.TFRecordDataset(str(path))
    )
    assert first.predict_log.response == response
    spec = first.log_metadata.model_spec
    assert (spec.name, spec.version.value, spec.signature_name) == ("colours", 1, "serving_default")
    assert (first.log_metadata.request_origin, second.log_metadata.request_origin) == ("first", "second")
    assert first.log_metadata.sampling_config.sampling_rate == 1.0
    assert first.predict_log.request.inputs == second.predict_log.request.inputs
    assert first.predict_log.response == second.predict_log.response
    assert re.fullmatch("[0-9a-f]{32}", generated)
    assert third.log_metadata.request_origin == generated


def test_the_reader_returns_images_outputs_and_feedback(serve, tiny_model, tmp_path):
    with serve() as server:
        result, _ = post_images(server, tiny_model.image_bytes[:3], headers={"x-request-id": "r"})
        post(server, "colours:feedback", {"request_id": "r/2", "label": "red"})
        channel = grpc.insecure_channel(f"127.0.0.1:{server.grpc_port}")
        with channel:
            send = channel.unary_unary(
                wire.FEEDBACK_METHOD, wire.FeedbackRequest.SerializeToString, wire.FeedbackResponse.FromString
            )
            send(wire.FeedbackRequest(model_spec=wire.ModelSpec(name="colours"), request_id="r", label='["a"]'))
    (record,) = log_of(tmp_path)
    assert record.images == tuple(tiny_model.image_bytes[:3])
    assert (record.model, record.version, record.request_id) == ("colours", 1, "r")
    expected = [row["probabilities"] for row in result["predictions"]]
    np.testing.assert_allclose(record.outputs["probabilities"], expected, rtol=1e-5)
    assert [(entry.index, entry.label) for entry in record.feedback] == [(2, "red"), (0, ["a"])]
    assert record.embedding is None


@pytest.mark.parametrize(
    ("body", "status", "message"),
    [
        ({"request_id": "a b", "label": 1}, 400, "is not a request id"),
        ({"label": 1}, 400, "requires the keys"),
        ({"request_id": "r"}, 400, "requires the keys"),
    ],
)
def test_invalid_feedback(serve, body, status, message):
    with serve() as server, pytest.raises(urllib.error.HTTPError) as raised:
        post(server, "colours:feedback", body)
    with raised.value as response:
        assert response.code == status and message in response.read().decode()


def test_feedback_needs_a_log(serve):
    with serve(prefix="") as server:
        for model, status, message in (("colours", 400, "--request-log"), ("other", 404, "Servable not found")):
            with pytest.raises(urllib.error.HTTPError) as raised:
                post(server, f"{model}:feedback", {"request_id": "r", "label": 1})
            with raised.value as response:
                assert response.code == status and message in response.read().decode()


def test_embeddings_replace_images(serve, tiny_model, tmp_path):
    images = tiny_model.image_bytes[:2]
    with serve(content=Content.EMBEDDING) as server:
        post_images(server, images, headers={"x-request-id": "r"})
        with stub(server) as calls:
            expected = calls.Predict(predict_request(images, "embed"), metadata=[("x-request-id", "embed")])
            calls.Predict(predict_request(images, "explain"), metadata=[("x-request-id", "explain")])
    default, embed, explain = log_of(tmp_path)
    embedding = tf.make_ndarray(expected.outputs["embedding"])
    for record, name in ((default, "r"), (embed, "embed"), (explain, "explain")):
        assert record.request_id == name and record.images is None
        np.testing.assert_allclose(record.embedding, embedding, rtol=1e-4, atol=1e-6)
    assert set(explain.outputs) == {"heatmap", "class_id", "label", "score"}
    (path,) = published(tmp_path / "logs" / "colours", TFRECORD)
    assert not any(image in path.read_bytes() for image in images)


def test_responses_only(serve, tiny_model, tmp_path):
    with serve(content=Content.RESPONSE) as server:
        post_images(server, tiny_model.image_bytes[:1])
    (record,) = log_of(tmp_path)
    assert record.images is None and record.embedding is None and "probabilities" in record.outputs


def test_sampling_depends_on_the_request_id(serve, tiny_model, tmp_path):
    with serve(sampling_rate=0.5) as server:
        for name in (f"request-{index}" for index in range(20)):
            for _ in range(2):
                post_images(server, tiny_model.image_bytes[:1], headers={"x-request-id": name})
    names = [record.request_id for record in log_of(tmp_path)]
    assert names[::2] == names[1::2] and 3 < len(names[::2]) < 17
    assert {record.sampling_rate for record in log_of(tmp_path)} == {0.5}


def test_errors_and_other_calls_are_not_logged(serve, tiny_model, tmp_path):
    with serve() as server:
        with pytest.raises(urllib.error.HTTPError) as raised:
            post_images(server, [b"not an image"])
        raised.value.close()
        with pytest.raises(urllib.error.HTTPError) as raised:
            post(server, "other:predict", {"instances": [1]})
        raised.value.close()
    assert log_of(tmp_path) == []


def test_metrics(serve, tiny_model):
    with serve() as server:
        post_images(server, tiny_model.image_bytes[:1])
        assert server.request_logs.flush()
        url = f"http://127.0.0.1:{server.rest_port}{monitoring.DEFAULT_PATH}"
        with urllib.request.urlopen(url, timeout=60) as response:
            page = response.read().decode()
    assert re.search(r':tensorflow:serving:request_log_count\{model_name="colours",status="OK"\} [1-9]', page)
    assert re.search(r":tensorflow:serving:request_log_bytes\{\} [1-9]", page)
    assert ":tensorflow:serving:request_log_errors{} " in page


def test_a_log_is_a_warm_up_file(serve, tiny_model, running_server, tmp_path):
    with serve() as server:
        post_images(server, tiny_model.image_bytes[:2])
        with stub(server) as calls:
            calls.Predict(predict_request(tiny_model.image_bytes[:1], "explain"))
    (path,) = published(tmp_path / "logs" / "colours", TFRECORD)
    shutil.copytree(tiny_model.serving_dir, tmp_path / "warm" / "7")
    target = tmp_path / "warm" / "7" / "assets.extra" / "tf_serving_warmup_requests"
    target.parent.mkdir(exist_ok=True)
    shutil.copyfile(path, target)
    log = LogOptions(prefix=str(tmp_path / "second" / "log"))
    with running_server("warm", tmp_path / "warm", options=ServerOptions(request_log=log)) as server:
        assert [version.state for version in server.source.status("warm")] == ["AVAILABLE"]
    assert not (tmp_path / "second").exists()  # warm-up requests are not logged


# --- Other calls, with a model of numbers -----------------------------------------------------------------------


def example(value):
    message = tf.train.Example()
    message.features.feature["x"].float_list.value.append(value)
    return message


def filled(request, *values, signature=None):
    if signature is not None:
        request.model_spec.name, request.model_spec.signature_name = "toy", signature
    request.input.example_list.examples.extend(map(example, values))
    return request


CONFIG = """
model_config_list {{ config {{ name: "toy" base_path: "{base}" model_platform: "tensorflow"
  logging_config {{
    log_collector_config {{ type: "{type}" filename_prefix: "{prefix}" }}
    sampling_config {{ sampling_rate: {rate} }}
  }} }} }}
"""


def reload(server, text):
    config = text_format.Parse(text, model_server_config_pb2.ModelServerConfig())
    with grpc.insecure_channel(f"127.0.0.1:{server.grpc_port}") as channel:
        calls = model_service_pb2_grpc.ModelServiceStub(channel)
        calls.HandleReloadConfigRequest(model_management_pb2.ReloadConfigRequest(config=config), timeout=60)


@pytest.fixture
def toy(toy_saved, running_server, tmp_path):
    shutil.copytree(toy_saved(2.0), tmp_path / "toy" / "5")
    with running_server("toy", tmp_path / "toy") as server:
        yield server


def test_a_logging_config_is_honoured(toy, tmp_path):
    config = {"base": tmp_path / "toy", "type": "", "prefix": tmp_path / "logs" / "colours", "rate": 1}
    classify = filled(classification_pb2.ClassificationRequest(), 1.0, 2.0, signature="classify")
    with stub(toy) as calls:
        calls.Classify(classify)
        reload(toy, CONFIG.format(**config))
        classes = calls.Classify(classify)
        regress = calls.Regress(filled(regression_pb2.RegressionRequest(), 1.0, signature="regress"))
        multi = inference_pb2.MultiInferenceRequest()
        for signature in ("classify", "regress"):
            task = multi.tasks.add(method_name=f"tensorflow/serving/{signature}")
            task.model_spec.name, task.model_spec.signature_name = "toy", signature
        calls.MultiInference(filled(multi, 3.0))
        post(toy, "toy:classify", {"signature_name": "classify", "examples": [{"x": 1.0}, {"x": 2.0}]})
        post(toy, "toy:regress", {"signature_name": "regress", "examples": [{"x": 1.0}]})
        reload(toy, CONFIG.format(**{**config, "rate": 0}))
        calls.Classify(classify)
    assert toy.request_logs.flush()
    records = log_of(tmp_path)
    assert [record.signature for record in records] == ["classify", "regress", "", "classify", "regress"]
    assert {(record.model, record.version) for record in records} == {("toy", 5)}
    scores = [[item.score for item in row.classes] for row in classes.result.classifications]
    for record in (records[0], records[3]):
        np.testing.assert_allclose(record.outputs["scores"], scores)
    for record in (records[1], records[4]):
        np.testing.assert_allclose(record.outputs["outputs"], [entry.value for entry in regress.result.regressions])
    assert {name.split("/")[0] for name in records[2].outputs} == {"classify", "regress"}


@pytest.mark.parametrize(
    ("change", "code", "message"),
    [
        ({"type": "x"}, "NOT_FOUND", "Cannot find LogCollector::Factory for type: x"),
        ({"prefix": "relative"}, "INVALID_ARGUMENT", "absolute local path as filename_prefix; got relative"),
        ({"rate": 2}, "INVALID_ARGUMENT", "sampling_rate from 0 to 1; got 2"),
    ],
)
def test_an_invalid_logging_config(toy, tmp_path, change, code, message):
    config = {"base": tmp_path / "toy", "type": "", "prefix": tmp_path / "log", "rate": 1}
    with pytest.raises(grpc.RpcError) as raised:
        reload(toy, CONFIG.format(**{**config, **change}))
    assert raised.value.code().name == code and message in raised.value.details()


def test_damaged_records_are_skipped_and_counted(serve, tiny_model, tmp_path):
    with serve() as server:
        for name in ("a", "b", "c"):
            post_images(server, tiny_model.image_bytes[:1], headers={"x-request-id": name})
        post(server, "colours:feedback", {"request_id": "c", "label": "red"})
    (path,) = published(tmp_path / "logs" / "colours", TFRECORD)
    content = bytearray(path.read_bytes())
    content[100] ^= 1  # in the data of the first record
    path.write_bytes(content[:-1])  # the last one is truncated
    (lines,) = published(tmp_path / "logs" / "colours", JSON_LINES)
    lines.write_bytes(b"{\n" + lines.read_bytes())
    reader = LogReader(tmp_path / "logs" / "colours")
    assert [record.request_id for record in reader] == ["b"]
    assert reader.damaged == 3


# --- Clients ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("protocol", ["grpc", "rest"])
def test_clients_send_feedback_with_the_id_of_a_prediction(serve, tiny_model, tmp_path, protocol):
    with serve() as server:
        if protocol == "grpc":
            client, awaited = clients.GrpcClient, clients.AsyncGrpcClient
            address = f"127.0.0.1:{server.grpc_port}"
        else:
            client, awaited = clients.RestClient, clients.AsyncRestClient
            address = f"http://127.0.0.1:{server.rest_port}"
        with client(address, "colours") as opened:
            several = opened.predict(tiny_model.image_bytes[:2]).or_raise()
            opened.feedback(several[1].request_id, "red")
            opened.feedback(several[1].request_id, "green")
            with pytest.raises(ValueError, match="is not a request id"):
                opened.feedback("a/b", "red")
            with pytest.raises(ValueError, match="Use strings"):
                opened.feedback("a", object())

        async def ask():
            async with awaited(address, "colours") as opened:
                (prediction,) = (await opened.predict(tiny_model.image_bytes[:1])).or_raise()
                await opened.feedback(prediction.request_id, ["red", "blue"])
                return prediction.request_id

        single = asyncio.run(ask())
    first, second = log_of(tmp_path)
    assert [prediction.request_id for prediction in several] == [f"{first.request_id}/0", f"{first.request_id}/1"]
    assert [(entry.index, entry.label) for entry in first.feedback] == [(1, "red"), (1, "green")]
    assert second.request_id == single and second.feedback[0].label == ["red", "blue"]
