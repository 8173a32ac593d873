"""The client against servers with scripted responses, over both protocols, with and without asyncio.

tests/component/test_client.py tests it against a model.
"""

import asyncio
import base64
import contextlib
import io
import json
import pickle
import re
import ssl
import subprocess
import sys
import threading
import time
from concurrent import futures
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import grpc
import h11
import httpx
import numpy as np
import pytest
import trustme
from PIL import Image
from tensorflow_serving.apis import get_model_metadata_pb2, get_model_status_pb2, predict_pb2

from serving import client as clients
from serving import errors, image_encoding, request_flow, transport_grpc, wire

CLASSES = ("cat", "dog", "owl")


class Refusal(Exception):
    """The error of a scripted server: a gRPC code and a message."""


@dataclass
class Script:
    """The responses of a test's servers, and the requests that they received.

    An image contains its own class: `b"2"` is of class 2. `bad...` is refused as TF Serving refuses a non-image.
    """

    refusals: list = field(default_factory=list)  # given to the next requests, one each; None lets one pass
    version: int = 7
    states: list = field(default_factory=lambda: [(7, 30, "")])
    largest_batch: int = 1000
    unknown_label: bool = False
    model_names: list | None = None  # None: as TF Serving, which does not list its models
    delay_s: float = 0.0
    batches: list = field(default_factory=list)
    calls: list = field(default_factory=list)
    headers: list = field(default_factory=list)

    def begin(self, kind, authorization):
        """Records a request, and refuses it if a refusal is next."""
        self.calls.append(kind)
        self.headers.append(authorization)
        time.sleep(self.delay_s)
        refusal = self.refusals.pop(0) if self.refusals else None
        if refusal is not None:
            raise Refusal(*refusal)

    def predict(self, signature, values):
        """Returns a signature's outputs."""
        self.batches.append(list(values))
        if self.unknown_label:
            raise Refusal("INVALID_ARGUMENT", "Unrecognized servable version label: x")
        if len(values) > self.largest_batch:
            raise Refusal(
                "INVALID_ARGUMENT",
                f"Task size {len(values)} is larger than maximum input batch size {self.largest_batch}",
            )
        if any(b"bad" in value for value in values):
            raise Refusal("INVALID_ARGUMENT", "Unknown image file format. One of JPEG, PNG, GIF, BMP required.")
        if signature == "classify":
            return {
                "classes": np.array([[name.encode() for name in CLASSES]] * len(values), object),
                "scores": np.array([[0.2, 0.5, 0.3]] * len(values), np.float32),
            }
        ids = [int(value) if value.isdigit() else 0 for value in values]
        if signature == "embed":
            return {"embedding": np.eye(3, dtype=np.float32)[ids]}
        if signature == "explain":
            return {
                "heatmap": np.full([len(ids), 4, 4], np.nan if ids[0] == 2 else 0.5, np.float32),
                "overlay_png_bytes": np.array([b"png"] * len(ids), object),
                "class_id": np.array(ids),
                "score": np.array([0.5] * len(ids), np.float32),
            }
        if signature == "masks":
            return {}
        return {
            "label": np.array([CLASSES[id_].encode() for id_ in ids], object),
            "score": np.array([0.5] * len(ids), np.float32),
            "mask_png_bytes": np.array([mask_png(id_) for id_ in ids], object),
            "class_pixels": np.array([[3, 1]] * len(ids)),
        }


def mask_png(id_):
    buffer = io.BytesIO()
    Image.fromarray(np.full([2, 2], id_, np.uint8)).save(buffer, "PNG")
    return buffer.getvalue()


def tensor_proto(value):
    if value.dtype == object:
        tensor = wire.TensorProto(dtype=wire.DT_STRING, string_val=value.ravel().tolist())
    elif value.dtype == np.float32:
        tensor = wire.TensorProto(dtype=wire.DT_FLOAT, float_val=value.ravel().tolist())
    else:
        tensor = wire.TensorProto(dtype=wire.DT_INT64, int64_val=value.ravel().tolist())
    for size in value.shape:
        tensor.tensor_shape.dim.add(size=size)
    return tensor


def contents_of(values, signature):
    """Returns the images: `classify` wraps each in a tf.Example."""
    if signature != "classify":
        return list(values)
    examples = [wire._CLASSES["Example"].FromString(value) for value in values]
    return [example.features.feature[0].value.bytes_list.value[0] for example in examples]


class GrpcFake(grpc.GenericRpcHandler):
    """The three calls, read and written with the generated messages."""

    def __init__(self, script):
        """Takes the responses."""
        self.script = script

    def service(self, details):
        """Finds the handler of a method."""
        respond = {wire.PREDICT_METHOD: self.predict, wire.STATUS_METHOD: self.status}.get(
            details.method, self.metadata
        )
        headers = dict(details.invocation_metadata)

        def call(request, context):
            try:
                kind = respond.__name__
                self.script.begin(kind, headers.get("authorization"))
                if kind == "status" and self.script.model_names is not None:
                    names = wire.encode_model_names(self.script.model_names)
                    context.set_trailing_metadata(((wire.MODEL_NAMES_KEY, names),))
                return respond(request)
            except Refusal as refusal:
                code, message = refusal.args
                context.abort(grpc.StatusCode[code], message)

        return grpc.unary_unary_rpc_method_handler(call)

    def predict(self, content):
        """Handles PredictionService.Predict."""
        request = predict_pb2.PredictRequest.FromString(content)
        signature = request.model_spec.signature_name
        (tensor,) = request.inputs.values()
        outputs = self.script.predict(signature, contents_of(tensor.string_val, signature))
        response = wire.PredictResponse()
        response.model_spec.version.value = self.script.version
        for name, value in outputs.items():
            response.outputs.add(key=name, value=tensor_proto(value))
        return response.SerializeToString()

    def status(self, content):
        """Handles ModelService.GetModelStatus."""
        request = get_model_status_pb2.GetModelStatusRequest.FromString(content)
        assert request.HasField("model_spec")
        if not request.model_spec.name:
            raise Refusal("NOT_FOUND", "Could not find any versions of model ")
        response = get_model_status_pb2.GetModelStatusResponse()
        for version, state, error in self.script.states:
            entry = response.model_version_status.add(version=version, state=state)
            entry.status.error_message = error
        return response.SerializeToString()

    def metadata(self, content):
        """Handles PredictionService.GetModelMetadata."""
        request = get_model_metadata_pb2.GetModelMetadataRequest.FromString(content)
        assert list(request.metadata_field) == ["signature_def"]
        response = get_model_metadata_pb2.GetModelMetadataResponse()
        response.model_spec.version.value = self.script.version
        signatures = get_model_metadata_pb2.SignatureDefMap()
        definition = signatures.signature_def["embed"]
        definition.inputs["image_bytes"].dtype = 7
        definition.inputs["image_bytes"].tensor_shape.dim.add(size=-1)
        definition.outputs["embedding"].dtype = 1
        definition.outputs["embedding"].tensor_shape.unknown_rank = True
        response.metadata["signature_def"].Pack(signatures)
        return response.SerializeToString()


def http_handler(script):
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"
        # Otherwise the body waits 40 ms until the client has acknowledged the head.
        disable_nagle_algorithm = True

        def log_message(self, *arguments):
            pass

        def do_GET(self):
            metadata = self.path.endswith("/metadata")
            self.respond("metadata" if metadata else "status", self.metadata if metadata else self.status)

        def do_POST(self):
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            self.respond("predict", lambda: self.predict(body))

        def respond(self, kind, compute):
            try:
                script.begin(kind, self.headers.get("Authorization"))
                status, body = 200, compute()
            except Refusal as refusal:
                code, message = refusal.args
                status = code if isinstance(code, int) else errors._CODES[code][1]
                body = {"error": message}
            content = json.dumps(body).encode()
            self.send_response(status)
            self.send_header("Content-Length", str(len(content)))
            if script.model_names is not None:
                self.send_header(wire.MODEL_NAMES_KEY, wire.encode_model_names(script.model_names))
            self.end_headers()
            self.wfile.write(content)

        def predict(self, body):
            signature = body["signature_name"]
            values = [base64.b64decode(row["b64"]) for row in body["instances"]]
            outputs = script.predict(signature, contents_of(values, signature))
            if len(outputs) == 1:
                return {"predictions": next(iter(outputs.values())).tolist()}
            columns = {}
            for name, value in outputs.items():
                rows = value.tolist()
                if name.endswith("_bytes"):
                    rows = [{"b64": base64.b64encode(row).decode()} for row in rows]
                elif value.dtype == object:
                    rows = np.vectorize(bytes.decode, otypes=[object])(value).tolist()
                columns[name] = rows
            return {
                "predictions": [dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True)]
            }

        def status(self):
            if self.path == "/v1/models":
                raise Refusal("INVALID_ARGUMENT", "Missing model name in request.")
            entries = [
                {"version": str(version), "state": wire.STATES[state], "status": {"error_message": error}}
                for version, state, error in script.states
            ]
            return {"model_version_status": entries}

        def metadata(self):
            # As in TF Serving's golden file half_plus_two_model_metadata.json.
            definition = {
                "inputs": {
                    "image_bytes": {
                        "dtype": "DT_STRING",
                        "tensor_shape": {"dim": [{"size": "-1", "name": ""}], "unknown_rank": False},
                        "name": "x:0",
                    }
                },
                "outputs": {
                    "embedding": {
                        "dtype": "DT_FLOAT",
                        "tensor_shape": {"dim": [], "unknown_rank": True},
                        "name": "y:0",
                    }
                },
                "method_name": "tensorflow/serving/predict",
            }
            return {
                "model_spec": {"name": "m", "signature_name": "", "version": str(script.version)},
                "metadata": {"signature_def": {"signature_def": {"embed": definition}}},
            }

    return Handler


class HttpServer(ThreadingHTTPServer):
    """Accepts the connections of many threads at once: a client repeats a dropped one a second later."""

    daemon_threads = True
    request_queue_size = 64

    def handle_error(self, request, client_address):
        """Ignores clients that have given up: the message could appear in the output of another test."""
        if not isinstance(sys.exception(), ConnectionError):
            super().handle_error(request, client_address)


@contextlib.contextmanager
def grpc_server(script, credentials=None, options=()):
    # Two servers must not share a port.
    server = grpc.server(futures.ThreadPoolExecutor(8), options=[("grpc.so_reuseport", 0), *options])
    server.add_generic_rpc_handlers([GrpcFake(script)])
    address = "127.0.0.1:0"
    port = server.add_insecure_port(address) if credentials is None else server.add_secure_port(address, credentials)
    server.start()
    yield f"127.0.0.1:{port}"
    server.stop(None).wait()


@contextlib.contextmanager
def rest_server(script, context=None):
    server = HttpServer(("127.0.0.1", 0), http_handler(script))
    if context is not None:
        server.socket = context.wrap_socket(server.socket, server_side=True)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    yield f"{'http' if context is None else 'https'}://127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()
    thread.join()


class Blocking:
    """An asynchronous client with blocking methods: one test covers both kinds."""

    def __init__(self, client_class, *arguments, **options):
        """Creates a client of this class, and an event loop for it."""
        self.runner = asyncio.Runner()
        self.client = client_class(*arguments, **options)

    def __getattr__(self, name):
        return lambda *arguments, **options: self.runner.run(getattr(self.client, name)(*arguments, **options))

    def close(self):
        """Closes both."""
        self.runner.run(self.client.close())
        self.runner.close()


@pytest.fixture
def script():
    return Script()


@pytest.fixture(params=["grpc", "rest"])
def protocol(request):
    return request.param


@pytest.fixture
def address(protocol, script):
    with (grpc_server if protocol == "grpc" else rest_server)(script) as address:
        yield address


@pytest.fixture(params=["sync", "async"])
def connect(request, protocol):
    """Creates clients of the four kinds; closes them at the end."""
    created = []

    def make(address, **options):
        if request.param == "sync":
            client_class = clients.GrpcClient if protocol == "grpc" else clients.RestClient
            created.append(client_class(address, "m", **options))
        else:
            client_class = clients.AsyncGrpcClient if protocol == "grpc" else clients.AsyncRestClient
            created.append(Blocking(client_class, address, "m", **options))
        return created[-1]

    yield make
    for client in created:
        client.close()


@pytest.fixture
def client(connect, address):
    return connect(address, batch_size=4)


# --- Responses ----------------------------------------------------------------------------------------------------


def test_a_long_list_is_sent_in_batches_and_keeps_its_order(client, script):
    images = [b"%d" % (number % 3) for number in range(10)]
    responses = client.predict(images)
    assert [result.label for result in responses] == [CLASSES[number % 3] for number in range(10)]
    assert [len(batch) for batch in script.batches] == [4, 4, 2]
    assert responses.errors == {}


def test_the_version_is_the_servers_or_none(client, protocol):
    responses = client.predict([b"0"])
    assert responses[0].version == (7 if protocol == "grpc" else None)
    assert responses.versions == ([7] if protocol == "grpc" else [])


def test_top_k_is_ranked(client):
    (prediction,) = client.predict([b"0"], top_k=2)
    assert prediction.top == (("dog", pytest.approx(0.5)), ("owl", pytest.approx(0.3)))
    assert (prediction.label, prediction.score) == prediction.top[0]
    (prediction,) = client.predict([b"0"], top_k=9)
    assert len(prediction.top) == 3


def test_masks_embeddings_and_explanations(client):
    (mask,) = client.segment([b"1"])
    assert (mask.class_ids().tolist(), mask.class_pixels) == ([[1, 1], [1, 1]], (3, 1))
    (embedding,) = client.embed([b"1"])
    assert (embedding.vector.tolist(), embedding.vector.dtype) == ([0, 1, 0], np.float32)
    first, second = client.explain([b"1", b"0"])
    assert (first.class_id, second.class_id, first.label, first.overlay_png) == (1, 0, None, b"png")
    assert (first.heatmap.shape, first.heatmap.dtype) == ((4, 4), np.float32)


def test_nan_is_a_number(client):
    (explanation,) = client.explain([b"2"])
    assert np.isnan(explanation.heatmap).all()


def test_status_and_metadata(client, script):
    script.states = [(6, 50, ""), (8, 50, "disk is full"), (7, 30, "")]
    versions = client.status()
    assert versions == [(8, "END"), (7, "AVAILABLE"), (6, "END")]
    assert [entry.error for entry in versions] == ["disk is full", "", ""]
    assert client.metadata() == clients.ModelMetadata(
        7,
        {
            "embed": clients.SignatureSpec(
                {"image_bytes": clients.TensorSpec("DT_STRING", (None,))},
                {"embedding": clients.TensorSpec("DT_FLOAT", None)},
            )
        },
    )


@pytest.mark.parametrize(
    "names", [[], ["digits"], ["a,b", "größe\n"], [f"model-{number}" for number in range(2000)]], ids=len
)
def test_model_names(client, script, names):
    script.model_names = names
    assert client.model_names() == names


def test_a_server_that_does_not_list_its_models(client, script):
    """TF Serving itself."""
    with pytest.raises(clients.UnimplementedError, match="does not list its models; specify the model name"):
        client.model_names()
    assert len(script.calls) == 1


def test_listing_models_reports_other_errors_as_they_are(client, script):
    script.refusals = [("UNAVAILABLE", "busy"), ("UNAUTHENTICATED", "no")]
    with pytest.raises(clients.UnauthenticatedError):
        client.model_names()
    assert len(script.calls) == 2


def test_model_names_that_are_not_a_list_of_names(client, script):
    script.model_names = {"a": 1}
    with pytest.raises(clients.InternalError):
        client.model_names()


def test_a_status_without_a_name_is_not_a_list_of_models(monkeypatch, script):
    response = httpx.MockTransport(lambda request: httpx.Response(200, json=STATUS))
    with clients.RestClient("http://127.0.0.1:1") as client:
        client._transport._client = httpx.Client(transport=response)
        with pytest.raises(clients.UnimplementedError):
            client.model_names()
    status = get_model_status_pb2.GetModelStatusResponse().SerializeToString()
    monkeypatch.setattr(GrpcFake, "status", lambda self, content: status)
    with grpc_server(script) as address, clients.GrpcClient(address) as client:
        with pytest.raises(clients.UnimplementedError):
            client.model_names()


def test_an_empty_list_sends_no_request(client, script):
    assert client.predict([]) == ()
    assert script.calls == []


def test_a_signature_without_the_required_outputs(client, script, monkeypatch):
    monkeypatch.setattr(script, "predict", lambda signature, values: {"a": np.array([1]), "b": np.array([1])})
    with pytest.raises(
        clients.InvalidArgumentError, match="the model's response has no `label` and `score`; it has `a` and `b`"
    ):
        client.predict([b"0"])


DETECTIONS = {
    "detection_boxes": np.array([[[0.1, 0.2, 0.3, 0.4], [0.0, 0.0, 0.0, 0.0]]], np.float32),
    "detection_scores": np.array([[0.45, 0.0]], np.float32),
    "detection_classes": np.array([[2.0, 0.0]], np.float32),
    "num_detections": np.array([1.0], np.float32),
}


@pytest.mark.parametrize(
    ("outputs", "call", "hint"),
    [
        (DETECTIONS, "predict", "use `detect`"),
        (DETECTIONS, "segment", "use `detect`"),
        ({"mask_png_bytes": np.array([b""], object), "class_pixels": np.array([[1]])}, "detect", "use `segment`"),
        ({"label": np.array([b"a"], object), "score": np.array([0.5], np.float32)}, "detect", "use `predict`"),
    ],
)
def test_a_model_of_another_task_is_named_with_the_method_that_fits(client, script, monkeypatch, outputs, call, hint):
    monkeypatch.setattr(script, "predict", lambda signature, values: outputs)
    with pytest.raises(clients.InvalidArgumentError, match=hint):
        getattr(client, call)([b"0"])


@pytest.mark.parametrize(("added", "threshold"), [({}, None), ({"served_threshold": np.array([0.4], np.float32)}, 0.4)])
def test_the_served_threshold_is_that_of_the_model(client, script, monkeypatch, added, threshold):
    monkeypatch.setattr(script, "predict", lambda signature, values: DETECTIONS | added)
    (result,) = client.detect([b"0"]).or_raise()
    assert result.served_threshold == (threshold and pytest.approx(threshold)) and len(result.objects) == 1
    assert result.above(0.4) and not result.above(0.5)


@pytest.mark.parametrize(
    ("threshold", "options", "smallest", "num"),
    [
        (np.array([0.4], np.float32), [], 0.4, 1),
        (np.array([0.46], np.float32), [], 0.46, 0),
        (np.array([0.46], np.float32), ["--min-score", "0.1"], 0.1, 1),
        (None, [], 0.5, 0),  # as of the TF Object Detection API
    ],
)
def test_detect_shows_objects_from_the_served_threshold(
    script, monkeypatch, tmp_path, threshold, options, smallest, num
):
    from typer.testing import CliRunner

    from pipeline.cli.app import app

    added = {} if threshold is None else {"served_threshold": threshold}
    monkeypatch.setattr(script, "predict", lambda signature, values: DETECTIONS | added)
    image = tmp_path / "small.png"
    Image.new("RGB", (64, 48)).save(image)
    with grpc_server(script) as address:
        command = ["detect", str(image), "--output-dir", str(tmp_path / "out"), "--grpc", address, "--model", "m"]
        done = CliRunner().invoke(app, [*command, *options, "--json"])
        text = CliRunner().invoke(app, [*command, *options]).stdout
    assert done.exit_code == 0, done.output
    (row,) = json.loads(done.stdout)["images"]
    assert row["min_score"] == pytest.approx(smallest) and len(row["objects"]) == num
    assert f"{num} object{'s' * (num != 1)} with a score of at least {smallest:g}" in text
    drawing = Image.open(tmp_path / "out" / "small.png")
    assert drawing.size == (320, 240)  # enlarged five times
    assert (len(drawing.getcolors()) > 1) == bool(num)


# --- An error per image ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("bad", [(0,), (5,), (4, 5), tuple(range(10)), (9,)], ids=str)
def test_an_invalid_image_does_not_affect_the_others(client, bad):
    responses = client.predict([b"bad" if number in bad else b"1" for number in range(10)])
    assert len(responses) == 10
    for number, result in enumerate(responses):
        if number in bad:
            assert isinstance(result, clients.InvalidArgumentError)
            assert result.code == "INVALID_ARGUMENT"
            assert "Unknown image file format" in result.message
        else:
            assert result.label == "dog"
    assert tuple(responses.errors) == bad
    with pytest.raises(clients.InvalidArgumentError):
        responses.or_raise()


def test_halving_sends_few_requests(connect, address, script):
    connect(address).predict([b"bad" if number == 20 else b"1" for number in range(32)])
    # The batch, the probe, two halves on each of five levels, and the invalid image once more.
    assert len(script.batches) == 1 + 1 + 2 * 5 + 1


def test_errors_of_other_clients_do_not_affect_an_image(client, script):
    """Servers that batch requests refuse a whole batch for one invalid image."""
    script.refusals = [("INVALID_ARGUMENT", "Unknown image file format.")]
    assert client.predict([b"1"])[0].label == "dog"


def test_a_file_that_cannot_be_read_is_never_sent(client, script, tmp_path):
    (tmp_path / "1").write_bytes(b"1")
    responses = client.predict([tmp_path / "missing.png", str(tmp_path / "1"), np.zeros([2, 2], np.float32)])
    assert isinstance(responses[0], clients.UnreadableImageError)
    assert "missing.png: No such file" in str(responses[0])
    assert responses[1].label == "dog"
    assert "array of dtype float32" in str(responses[2])
    assert script.batches == [[b"1"]]


def test_an_invalid_call_is_raised_instead_of_reported_per_image(client, script):
    script.unknown_label = True
    with pytest.raises(clients.InvalidArgumentError, match="Unrecognized servable version label"):
        client.predict([b"1"] * 30)
    assert len(script.batches) == 2


def test_a_batch_that_is_too_large_for_the_server_is_halved(client, script):
    script.largest_batch = 2
    assert [result.label for result in client.predict([b"0", b"1", b"2", b"1"])] == ["cat", "dog", "owl", "dog"]


def test_a_message_that_is_too_large_is_halved(connect, protocol, script, monkeypatch):
    def predict(signature, values, respond=script.predict):
        if len(values) > 2:
            raise Refusal(*too_large)
        return respond(signature, values)

    monkeypatch.setattr(script, "predict", predict)
    too_large = (
        ("RESOURCE_EXHAUSTED", "Received message larger than max (9 vs. 8)") if protocol == "grpc" else (413, "")
    )
    with (grpc_server if protocol == "grpc" else rest_server)(script) as address:
        responses = connect(address).predict([b"0", b"1", b"2", b"1"])
    assert [result.label for result in responses] == ["cat", "dog", "owl", "dog"]


def test_grpcs_own_limit_of_a_message_is_recognized(script):
    with grpc_server(script, options=[("grpc.max_receive_message_length", 3000)]) as address:
        with clients.GrpcClient(address, "m") as client:
            responses = client.predict([b"0" * 2000, b"0" * 4000, b"0" * 2000])
    assert [isinstance(result, clients.RequestTooLargeError) for result in responses] == [False, True, False]


def test_a_response_may_exceed_grpcs_default_limit(client, script, monkeypatch):
    monkeypatch.setattr(script, "predict", lambda signature, values: {"embedding": np.ones([1, 1_200_000], np.float32)})
    assert len(client.embed([b"1"])[0].vector) == 1_200_000


def test_results_are_kept_when_the_server_stops(connect, address, script):
    script.refusals = [None, ("UNAVAILABLE", "gone")]
    responses = connect(address, batch_size=2, retries=0).predict([b"1"] * 6)
    assert [result.label for result in responses[:2]] == ["dog", "dog"]
    assert [result.code for result in responses[2:]] == ["UNAVAILABLE"] * 4
    assert len(script.calls) == 2


# --- Retries and the deadline -----------------------------------------------------------------------------------


@pytest.mark.parametrize("code", ["UNAVAILABLE", "RESOURCE_EXHAUSTED"])
def test_temporary_errors_are_retried(client, script, code):
    script.refusals = [(code, "busy"), (code, "busy")]
    assert client.predict([b"1"])[0].label == "dog"
    assert len(script.calls) == 3


@pytest.mark.parametrize(
    ("code", "error_class"),
    [
        ("FAILED_PRECONDITION", clients.InvalidArgumentError),
        ("UNAUTHENTICATED", clients.UnauthenticatedError),
        ("PERMISSION_DENIED", clients.PermissionDeniedError),
        ("NOT_FOUND", clients.NotFoundError),
        ("ABORTED", clients.ServerError),
        ("INTERNAL", clients.InternalError),
        ("UNKNOWN", clients.InternalError),
        ("UNIMPLEMENTED", clients.UnimplementedError),
        ("DEADLINE_EXCEEDED", clients.DeadlineExceededError),
    ],
)
def test_permanent_errors_are_not_retried(client, script, protocol, code, error_class):
    script.refusals = [(code, "no"), (code, "no")]
    with pytest.raises(clients.ServerError) as raised:
        client.status()
    assert type(raised.value) is error_class
    assert len(script.calls) == 1
    assert raised.value.message == "no"
    if protocol == "grpc":
        assert raised.value.code == code
    else:
        assert raised.value.http_status == errors._CODES[code][1]


def test_retries_end(connect, address, script):
    script.refusals = [("UNAVAILABLE", f"{number}") for number in range(9)]
    with pytest.raises(clients.UnavailableError, match="2"):
        connect(address, retries=2).predict([b"1"])
    assert len(script.calls) == 3


def test_bad_gateway_is_retried(script):
    script.refusals = [(502, "Bad Gateway")]
    with rest_server(script) as url, clients.RestClient(url, "m") as client:
        assert client.predict([b"1"])[0].label == "dog"


def test_retries_do_not_outlast_the_deadline(connect, address, script):
    script.refusals = [("UNAVAILABLE", "busy")] * 1000
    started = time.monotonic()
    with pytest.raises(clients.UnavailableError):
        connect(address, retries=1000, timeout_s=1.2).predict([b"1"])
    assert time.monotonic() - started < 10.0  # on a busy machine, too; without the deadline it would be minutes
    assert 2 <= len(script.calls) <= 10


def test_a_slow_server_exceeds_the_deadline(connect, address, script):
    script.delay_s = 1.0
    client = connect(address, timeout_s=0.2)
    started = time.monotonic()
    with pytest.raises(clients.DeadlineExceededError) as raised:
        client.predict([b"1"])
    assert time.monotonic() - started < 0.9
    assert raised.value.code == "DEADLINE_EXCEEDED"
    assert client.predict([b"1"], timeout_s=10)[0].label == "dog"


def test_all_batches_share_one_deadline(connect, address, script):
    script.delay_s = 0.3
    responses = connect(address, timeout_s=1.0, batch_size=1).predict([b"1"] * 8)
    succeeded = [not isinstance(result, clients.ServerError) for result in responses]
    assert 1 <= sum(succeeded) <= 3
    assert succeeded == sorted(succeeded, reverse=True)
    assert {result.code for result in responses.errors.values()} == {"DEADLINE_EXCEEDED"}


@pytest.mark.parametrize("kind", ["sync", "async"])
def test_a_response_that_trickles_is_cut_off(kind):
    def trickle(connection):
        connection.recv(65536)
        connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\n")
        with contextlib.suppress(OSError):
            for _ in range(40):
                connection.sendall(b" ")
                time.sleep(0.1)

    with one_connection(trickle) as url:
        make = (
            clients.RestClient if kind == "sync" else lambda *arguments: Blocking(clients.AsyncRestClient, *arguments)
        )
        client = make(url, "m")
        started = time.monotonic()
        with pytest.raises(clients.DeadlineExceededError):
            client.status(timeout_s=0.5)
        assert time.monotonic() - started < 2.0
        client.close()


@contextlib.contextmanager
def one_connection(respond):
    import socket

    with socket.create_server(("127.0.0.1", 0)) as listening:

        def accept():
            connection, _ = listening.accept()
            with connection:
                respond(connection)

        thread = threading.Thread(target=accept)
        thread.start()
        yield f"http://127.0.0.1:{listening.getsockname()[1]}"
        thread.join()


def test_no_server(connect, protocol):
    client = connect("127.0.0.1:9" if protocol == "grpc" else "http://127.0.0.1:9", retries=1)
    with pytest.raises(clients.UnavailableError):
        client.predict([b"1"])


def test_a_restarted_server_is_reached_again(connect, protocol, script):
    """The retries last longer than gRPC's first reconnect pause, which defaults to a second."""
    with (grpc_server if protocol == "grpc" else rest_server)(script) as address:
        client = connect(address, retries=8, timeout_s=20)
        client.predict([b"1"])
        port = int(address.rsplit(":", 1)[1])
    again = threading.Timer(0.4, lambda: started.append(start(protocol, script, port)))
    started = []
    again.start()
    try:
        assert client.predict([b"1"])[0].label == "dog"
    finally:
        again.join()
        started[0]()


def start(protocol, script, port):
    if protocol == "grpc":
        server = grpc.server(futures.ThreadPoolExecutor(2))
        server.add_generic_rpc_handlers([GrpcFake(script)])
        server.add_insecure_port(f"127.0.0.1:{port}")
        server.start()
        return lambda: server.stop(None).wait()
    server = HttpServer(("127.0.0.1", port), http_handler(script))
    threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}).start()

    def stop():
        server.shutdown()
        server.server_close()

    return stop


# --- Readiness --------------------------------------------------------------------------------------------------


def test_ready_is_available_and_responding(client, script, protocol, monkeypatch):
    monkeypatch.setattr(request_flow, "_READY_PAUSE_S", 0.02)
    script.refusals = [("UNAVAILABLE", "starting"), ("NOT_FOUND", "no such model"), None, ("UNAVAILABLE", "warming up")]
    assert client.wait_until_ready(timeout_s=20) == (7 if protocol == "grpc" else None)
    assert script.calls == ["status", "status", "status", "predict", "status", "predict"]
    assert script.batches == [[request_flow.PROBE]]


def test_loading_is_not_ready(client, script, monkeypatch):
    monkeypatch.setattr(request_flow, "_READY_PAUSE_S", 0.05)
    script.states = [(7, 20, "")]
    with pytest.raises(clients.DeadlineExceededError, match="no version is available yet \\(7 LOADING\\)"):
        client.wait_until_ready(timeout_s=1.0)
    assert "predict" not in script.calls
    assert len(script.calls) >= 2


def test_waiting_ends_when_a_version_failed_to_load(client, script):
    script.states = [(8, 50, "disk is full"), (7, 50, "")]
    with pytest.raises(clients.InternalError, match="version 8 failed to load: disk is full"):
        client.wait_until_ready(timeout_s=20)


def test_waiting_ends_at_a_wrong_token(client, script):
    script.refusals = [("UNAUTHENTICATED", "who are you")]
    with pytest.raises(clients.UnauthenticatedError):
        client.wait_until_ready(timeout_s=20)


def test_waiting_continues_until_a_label_exists(connect, address, script, monkeypatch):
    monkeypatch.setattr(request_flow, "_READY_PAUSE_S", 0.02)
    label = ("INVALID_ARGUMENT", "Unrecognized servable version label: x")
    script.refusals = [None, label, None, None]
    connect(address, label="x").wait_until_ready(timeout_s=20)
    script.refusals = [None, label]
    with pytest.raises(clients.InvalidArgumentError):
        connect(address).wait_until_ready(timeout_s=20)


# --- Pinning, tokens, TLS ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "path"),
    [
        ({}, "m"),
        ({"version": 0}, "m/versions/0"),
        ({"version": 7}, "m/versions/7"),
        ({"label": "a b"}, "m/labels/a%20b"),
    ],
)
def test_a_pinned_version_is_requested(options, path):
    paths = []

    def respond(request):
        paths.append(request.url.raw_path.decode())
        return httpx.Response(200, json={"predictions": [{"label": "a", "score": NAN}]} if request.content else STATUS)

    with clients.RestClient("http://127.0.0.1:1", "m", **options) as client:
        client._transport._client = httpx.Client(transport=httpx.MockTransport(respond))
        (prediction,) = client.predict([b"1"])
        assert prediction.version == options.get("version")
        client.status()
    without_label = "m" if "label" in options else path
    assert paths == [f"/v1/models/{path}:predict", f"/v1/models/{without_label}"]
    # Over gRPC the version is in the message.
    with clients.GrpcClient("127.0.0.1:1", "m", **options) as client:
        message = client._transport._codec.message(request_flow.Request("predict", "s", "a", [b"1"]))
    spec = predict_pb2.PredictRequest.FromString(message.SerializeToString()).model_spec
    choice = spec.WhichOneof("version_choice")
    chosen = {None: {}, "version": {"version": spec.version.value}, "version_label": {"label": spec.version_label}}
    assert chosen[choice] == options


NAN = 0.5
STATUS = {"model_version_status": []}


@pytest.mark.parametrize("token", ["abc.def-1", lambda: "fresh"], ids=["text", "function"])
def test_a_token_is_sent_with_every_request(connect, address, script, token):
    client = connect(address, token=token)
    client.predict([b"1"])
    client.status()
    assert script.headers == [f"Bearer {token if isinstance(token, str) else 'fresh'}"] * 2


@pytest.mark.parametrize("host", ["example.org", "10.0.0.7"])
def test_a_token_does_not_leave_the_machine_unencrypted(connect, protocol, host, tmp_path):
    address = f"{host}:8500" if protocol == "grpc" else f"http://{host}:8501"
    with pytest.raises(ValueError, match=f"The token would be sent to {host} without TLS"):
        connect(address, token="t")
    connect(address, token="t", allow_insecure_token=True)
    if protocol == "grpc":
        connect(address, token="t", tls=True)
    else:
        connect(f"https://{host}", token="t")


@pytest.mark.parametrize("address", ["localhost:1", "127.0.0.1:1", "[::1]:1", "unix:/tmp/socket"])
def test_a_token_may_go_to_this_machine(address):
    clients.GrpcClient(address, "m", token="t").close()


@pytest.fixture(scope="module")
def authority():
    return trustme.CA()


@pytest.fixture
def pem(authority, tmp_path):
    """Files of the certificate authority, and of a certificate for a client."""
    authority.cert_pem.write_to_path(tmp_path / "ca.pem")
    issued = authority.issue_cert("client@example.org")
    issued.cert_chain_pems[0].write_to_path(tmp_path / "cert.pem")
    issued.private_key_pem.write_to_path(tmp_path / "key.pem")
    return tmp_path


@contextlib.contextmanager
def tls_server(protocol, script, authority):
    """Requires a certificate from the client too."""
    issued = authority.issue_cert("127.0.0.1")
    if protocol == "grpc":
        pair = (issued.private_key_pem.bytes(), issued.cert_chain_pems[0].bytes())
        credentials = grpc.ssl_server_credentials([pair], authority.cert_pem.bytes(), require_client_auth=True)
        with grpc_server(script, credentials) as address:
            yield address
        return
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    issued.configure_cert(context)
    authority.configure_trust(context)
    context.verify_mode = ssl.CERT_REQUIRED
    with rest_server(script, context) as address:
        yield address


def test_tls_with_a_certificate_on_both_sides(connect, protocol, script, authority, pem):
    with tls_server(protocol, script, authority) as address:
        files = {"cert_file": pem / "cert.pem", "key_file": pem / "key.pem"}
        client = connect(address, ca_file=pem / "ca.pem", token="t", **files)
        assert client.predict([b"1"])[0].label == "dog"
        assert script.headers == ["Bearer t"]
        without = connect(address, ca_file=pem / "ca.pem", retries=0, timeout_s=5)
        with pytest.raises(clients.UnavailableError):
            without.predict([b"1"])
        # The system does not trust this authority.
        stranger = connect(address, tls=True, retries=0, timeout_s=5, **files)
        with pytest.raises(clients.UnavailableError):
            stranger.predict([b"1"])
    assert len(script.calls) == 1


@pytest.mark.parametrize(
    "error",
    [
        # Whether the alert arrives while the request is sent or while the response is read is a matter of timing.
        ssl.SSLError(1, "[SSL: TLSV13_ALERT_CERTIFICATE_REQUIRED] tlsv13 alert certificate required"),
        ConnectionResetError(104, "Connection reset by peer"),
        OSError(5, "Input/output error"),
        EOFError(),
        h11.RemoteProtocolError("illegal chunk header"),
        h11.LocalProtocolError("Too little data for declared Content-Length"),
        httpx.RemoteProtocolError("peer closed connection without sending complete message body"),
        httpx.WriteError("broken pipe"),
        httpx.DecodingError("incorrect header check"),
        httpx.StreamClosed(),
        httpx.InvalidURL("Invalid redirect"),
        RuntimeError("the channel is closed"),
        ValueError("Cannot invoke RPC on closed channel!"),
    ],
    ids=lambda error: f"{type(error).__module__}.{type(error).__name__}",
)
def test_only_server_errors_leave_a_transport(connect, protocol, monkeypatch, error):
    def fail(*arguments, **options):
        raise error

    fail.with_call = fail
    monkeypatch.setattr(transport_grpc, "_methods", lambda channel: {"predict": fail})
    for client_class in (httpx.Client, httpx.AsyncClient):
        monkeypatch.setattr(client_class, "send", fail)
    client = connect("h:1" if protocol == "grpc" else "https://h:1", retries=0)
    with pytest.raises(clients.UnavailableError, match=re.escape(str(error)) or type(error).__name__):
        client.predict([b"1"])


@pytest.mark.parametrize("protocol", ["rest"])
@pytest.mark.parametrize(
    "response",
    [
        b"",
        b"HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\n{",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Encoding: gzip\r\nContent-Length: 2\r\n\r\n{}",
        b"\x15\x03\x01\x00\x02\x02\x16",
    ],
    ids=["nothing", "truncated", "chunks", "gzip", "TLS"],
)
def test_an_incomplete_response_or_another_protocol(connect, response):
    def respond(connection):
        connection.recv(65536)
        connection.sendall(response)

    with one_connection(respond) as url, pytest.raises(clients.UnavailableError):
        connect(url, retries=0).status()


@pytest.mark.parametrize(
    "body",
    [
        "",
        "[",
        "[" * 100_000,
        "\xff",
        "null",
        "7",
        '{"predictions": 7}',
        '{"predictions": {"a": 1}}',
        '{"predictions": [1, 2]}',
        '{"predictions": [{"label": "a", "score": 0.5}, 7]}',
        '{"predictions": [{"label": "a", "score": "high"}]}',
        '{"predictions": [{"label": "a", "score": null}]}',
        '{"predictions": [{"label": "a", "score": {"b64": "?"}}]}',
        '{"predictions": [{"label": {"b64": 7}, "score": 0.5}]}',
    ],
    ids=lambda body: body[:50],
)
def test_a_body_that_is_not_from_a_model_server(body):
    transport = httpx.MockTransport(lambda request: httpx.Response(200, content=body.encode("latin-1")))
    with clients.RestClient("http://127.0.0.1:1", "m") as client:
        client._transport._client = httpx.Client(transport=transport)
        with pytest.raises(clients.ServerError):
            client.predict([b"1"])


@pytest.mark.parametrize(
    "body",
    [
        '{"model_version_status": [{"version": Infinity, "state": "AVAILABLE"}]}',
        '{"model_version_status": [{"version": "1", "state": "AVAILABLE", "status": []}]}',
        '{"model_version_status": [7]}',
    ],
)
def test_a_status_that_is_not_from_a_model_server(body):
    transport = httpx.MockTransport(lambda request: httpx.Response(200, content=body))
    with clients.RestClient("http://127.0.0.1:1", "m") as client:
        client._transport._client = httpx.Client(transport=transport)
        with pytest.raises(clients.InternalError, match="not a model server"):
            client.status()


@pytest.mark.parametrize("protocol", ["grpc"])
def test_messages_that_are_not_from_a_model_server(client, monkeypatch):
    for name in ("predict", "status", "metadata"):
        monkeypatch.setattr(GrpcFake, name, lambda self, content: b"\xff\xff")
    for call in (lambda: client.predict([b"1"]), client.status, client.metadata):
        with pytest.raises(clients.InternalError):
            call()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"version": 1, "label": "x"}, "version or label, not both"),
        ({"version": -1}, "negative"),
        ({"timeout_s": 0}, "timeout_s"),
        ({"retries": -1}, "retries"),
        ({"batch_size": 0}, "batch_size"),
        ({"cert_file": "a"}, "belong together"),
        ({"token": "two\nlines"}, "line break"),
        ({"token": ""}, "empty"),
        ({"ca_file": "/no/such/file"}, "/no/such/file: No such file"),
    ],
)
def test_invalid_options(connect, protocol, options, message):
    with pytest.raises(ValueError, match=message):
        connect("h:1" if protocol == "grpc" else "https://h:1", **options)


@pytest.mark.parametrize(
    ("client_class", "address", "message"),
    [
        (clients.GrpcClient, "http://127.0.0.1:8501", "is a URL"),
        (clients.RestClient, "127.0.0.1:8501", "is not a URL"),
        (clients.RestClient, "http://host:port", "http://host:port"),
        (clients.RestClient, "ftp://host", "is not a URL"),
    ],
)
def test_invalid_addresses(client_class, address, message):
    with pytest.raises(ValueError, match=message):
        client_class(address, "m")


def test_tls_options_without_tls():
    with pytest.raises(ValueError, match="Use https://"):
        clients.RestClient("http://127.0.0.1:1", "m", tls=True)


# --- Images ---------------------------------------------------------------------------------------------------


def decoded(content):
    return np.asarray(Image.open(io.BytesIO(content)))


@pytest.mark.parametrize("shape", [(3, 4), (3, 4, 1), (3, 4, 3), (3, 4, 4)])
def test_arrays_are_encoded_without_loss(rng, shape):
    array = rng.integers(0, 256, shape, dtype=np.uint8)
    np.testing.assert_array_equal(
        decoded(image_encoding.encode(array)), array.reshape(shape[:2]) if shape[2:] == (1,) else array
    )


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGB", "RGBA", "CMYK", "YCbCr"])
def test_pil_images_of_every_mode(rng, mode):
    image = Image.fromarray(rng.integers(0, 256, (5, 6, 3), dtype=np.uint8)).convert(mode)
    stored = Image.open(io.BytesIO(image_encoding.encode(image))).convert("RGB")
    np.testing.assert_array_equal(np.asarray(stored), np.asarray(image.convert("RGB")))


def test_a_pil_image_is_rotated_like_its_file(rng):
    pixels = rng.integers(0, 256, (4, 6, 3), dtype=np.uint8)
    exif = Image.Exif()
    exif[0x0112] = 6
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG", exif=exif)
    upright = decoded(image_encoding.encode(Image.open(io.BytesIO(buffer.getvalue()))))
    np.testing.assert_array_equal(upright, np.rot90(pixels, -1))


@pytest.mark.parametrize(
    ("image", "message"),
    [
        (np.zeros([2, 2], np.float32), "float32"),
        (np.zeros([2, 2, 2], np.uint8), "shape"),
        (np.zeros([0, 2, 3], np.uint8), "shape"),
        (Image.new("F", (2, 2)), "mode F"),
        (Image.new("I;16", (2, 2)), "mode I;16"),
        ("no\0such", "null|NUL"),
    ],
    ids=["dtype", "channels", "empty", "float", "16 bits", "name"],
)
def test_unreadable_images(image, message):
    with pytest.raises(clients.UnreadableImageError, match=message):
        image_encoding.encode(image)


def test_a_pil_image_of_a_file_that_is_cut_off(rng):
    buffer = io.BytesIO()
    Image.fromarray(rng.integers(0, 256, (50, 50, 3), dtype=np.uint8)).save(buffer, "PNG")
    with pytest.raises(clients.UnreadableImageError, match="PIL image: "):
        image_encoding.encode(Image.open(io.BytesIO(buffer.getvalue()[:2000])))


@pytest.mark.parametrize("one", ["a.png", b"1", np.zeros([2, 2, 3], np.uint8), Image.new("L", (2, 2))])
def test_a_single_image_is_not_a_list(client, one):
    with pytest.raises(TypeError, match="a list of one"):
        client.predict(one)


def test_an_array_of_four_dimensions_is_a_list(client, script):
    assert len(client.predict(np.zeros([3, 2, 2, 3], np.uint8))) == 3
    assert len(script.batches[0]) == 3
    with pytest.raises(TypeError, match="int is not an image"):
        client.predict([1])


# --- The rest ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("status", "content", "error_class"),
    [
        (200, b"<html>", clients.InternalError),
        (200, b"[]", clients.InternalError),
        (200, b"", clients.InternalError),
        (200, b'{"predictions": 3}', clients.InternalError),
        (400, b"", clients.InvalidArgumentError),
        (404, b"<html>", clients.NotFoundError),
        (302, b"", clients.ServerError),
        (599, b"[]", clients.InternalError),
    ],
)
def test_responses_that_are_not_from_a_model_server(status, content, error_class):
    with clients.RestClient("http://127.0.0.1:1", "m") as client:
        response = httpx.MockTransport(lambda request: httpx.Response(status, content=content))
        client._transport._client = httpx.Client(transport=response)
        with pytest.raises(clients.ServerError) as raised:
            client.predict([b"1"])
    assert type(raised.value) is error_class
    assert raised.value.http_status == status


def test_an_error_survives_a_pool_of_processes():
    error = pickle.loads(pickle.dumps(errors.from_http(404, "no such model")))
    assert (type(error), error.code, error.message, error.http_status) == (
        clients.NotFoundError,
        "NOT_FOUND",
        "no such model",
        404,
    )


def test_threads_share_a_client(address, protocol, script):
    client_class = clients.GrpcClient if protocol == "grpc" else clients.RestClient
    with client_class(address, "m", batch_size=2) as client, futures.ThreadPoolExecutor(8) as pool:
        batches = [[b"%d" % ((start + number) % 3) for number in range(5)] for start in range(40)]
        for images, responses in zip(batches, pool.map(client.predict, batches), strict=True):
            assert [result.label for result in responses] == [CLASSES[int(image)] for image in images]


def test_tasks_share_a_client(address, protocol):
    async def run():
        client_class = clients.AsyncGrpcClient if protocol == "grpc" else clients.AsyncRestClient
        async with client_class(address, "m") as client:
            return await asyncio.gather(*(client.predict([b"%d" % (number % 3)]) for number in range(20)))

    labels = [responses[0].label for responses in asyncio.run(run())]
    assert labels == [CLASSES[number % 3] for number in range(20)]


def test_a_cancelled_task_ends_immediately(address, protocol, script):
    script.delay_s = 0.5

    async def run():
        client_class = clients.AsyncGrpcClient if protocol == "grpc" else clients.AsyncRestClient
        async with client_class(address, "m") as client:
            task = asyncio.create_task(client.predict([b"1"]))
            await asyncio.sleep(0.1)
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task

    asyncio.run(run())


def test_a_client_starts_in_under_a_second_without_tensorflow():
    code = (
        "import time; start = time.perf_counter(); import serving.client as c; "
        "c.GrpcClient('127.0.0.1:1', 'm').close(); c.RestClient('http://127.0.0.1:1', 'm').close(); import sys; "
        "assert not {'tensorflow', 'keras', 'PIL.Image'} & set(sys.modules); print(time.process_time())"
    )

    def took() -> float:
        return float(subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout)

    # Processor time, the best of several runs: other load of the machine does not matter.
    assert any(took() < 1.0 for _ in range(6))
