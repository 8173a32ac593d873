"""TF Serving's gRPC responses, case by case."""

import threading
import time

import grpc
import numpy as np
import pytest
import tensorflow as tf
from google.protobuf import descriptor_pb2, text_format
from grpc_health.v1 import health_pb2, health_pb2_grpc
from tensorflow.core.framework import tensor_pb2
from tensorflow_serving.apis import (
    classification_pb2,
    get_model_metadata_pb2,
    get_model_status_pb2,
    inference_pb2,
    model_management_pb2,
    model_service_pb2_grpc,
    predict_pb2,
    prediction_service_pb2_grpc,
    regression_pb2,
)

from serving.local_server import profiler
from serving.local_server.model_config import ModelConfig, VersionPolicy
from serving.local_server.servable import LoadOptions
from serving.local_server.server_options import ServerOptions


@pytest.fixture(scope="module")
def server(toy_saved, running_server, tmp_path_factory):
    import shutil

    base = tmp_path_factory.mktemp("grpc") / "toy"
    shutil.copytree(toy_saved(2.0), base / "00000123")
    shutil.copytree(toy_saved(3.0), base / "124")
    models = (ModelConfig("toy", str(base), VersionPolicy(None), {"stable": 123}),)
    options = ServerOptions(models=models, health_service=True, load=LoadOptions(max_pixels=10_000))
    with running_server(options=options) as running:
        yield running


@pytest.fixture(scope="module")
def channel(server):
    with grpc.insecure_channel(f"127.0.0.1:{server.grpc_port}") as opened:
        yield opened


@pytest.fixture(scope="module")
def stub(channel):
    return prediction_service_pb2_grpc.PredictionServiceStub(channel)


@pytest.fixture(scope="module")
def models(channel):
    return model_service_pb2_grpc.ModelServiceStub(channel)


def spec(request, signature="", name="toy", version=None, label=None):
    request.model_spec.name, request.model_spec.signature_name = name, signature
    if version is not None:
        request.model_spec.version.value = version
    if label is not None:
        request.model_spec.version_label = label
    return request


def predict(inputs, *filter_, **named):
    request = spec(predict_pb2.PredictRequest(output_filter=filter_), **named)
    for alias, value in inputs.items():
        request.inputs[alias].CopyFrom(value if isinstance(value, tensor_pb2.TensorProto) else proto(value))
    return request


def proto(value, dtype=tf.float32):
    return tf.make_tensor_proto(value, dtype)


def example(**features):
    kinds = {float: "float_list", int: "int64_list", bytes: "bytes_list"}
    message = tf.train.Example()
    for name, value in features.items():
        getattr(message.features.feature[name], kinds[type(value)]).value.append(value)
    return message


def with_examples(request, *values, context=None):
    examples = request.input.example_list
    if context is not None:
        examples = request.input.example_list_with_context
        examples.context.CopyFrom(context)
    examples.examples.extend(example(x=value) if isinstance(value, float) else value for value in values)
    return request


def refused(call, request):
    with pytest.raises(grpc.RpcError) as raised:
        call(request, timeout=30)
    assert len(raised.value.details()) <= 1024 + len("...TRUNCATED")
    return raised.value.code().name, raised.value.details()


# --- Predict ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("named", "version", "expected"),
    [({}, 124, 3.5), ({"version": 123}, 123, 2.5), ({"version": 124}, 124, 3.5), ({"label": "stable"}, 123, 2.5)],
)
def test_version_and_label_select_and_the_response_reports_the_version(stub, named, version, expected):
    response = stub.Predict(predict({"x": [[1.0]]}, **named))
    assert (response.model_spec.name, response.model_spec.version.value) == ("toy", version)
    assert response.model_spec.signature_name == "serving_default"
    assert list(response.outputs["y"].float_val) == [expected]
    assert response.outputs["y"].tensor_content == b""


@pytest.mark.parametrize("shape", [(3,), (3, 4), (), (2, 0)])
def test_shapes_are_not_checked_against_the_signature(stub, shape):
    response = stub.Predict(predict({"x": np.ones(shape, np.float32)}))
    np.testing.assert_array_equal(tf.make_ndarray(response.outputs["y"]), np.full(shape, 3.5, np.float32))


def test_typed_content_and_repeated_values_are_equivalent(stub):
    typed = proto(0)
    typed.Clear()
    typed.dtype = 1
    typed.float_val.append(4.0)
    typed.tensor_shape.dim.add(size=3)
    raw = proto(np.full(3, 4.0, np.float32))
    assert raw.tensor_content
    results = [
        list(stub.Predict(predict({"x": value}, signature="plain")).outputs["y"].float_val) for value in (typed, raw)
    ]
    assert results == [[5.0] * 3] * 2


def test_other_dtypes_use_their_own_fields(stub):
    response = stub.Predict(predict({"h": proto([1.5], tf.float16)}, signature="halves"))
    assert list(response.outputs["h"].half_val) == [np.float16(3).view(np.uint16)]
    response = stub.Predict(predict({"s": proto([b"\xff", b"b"], tf.string)}, signature="texts"))
    assert list(response.outputs["s"].string_val) == [b"\xff", b"b"]
    response = stub.Predict(predict({"x": [1.0, 2.0]}, signature="scalar"))
    assert list(response.outputs["total"].float_val) == [3.0] and not response.outputs["total"].tensor_shape.dim


def test_an_output_filter_runs_only_the_requested_outputs(stub):
    inputs = {"x": [1.0], "n": proto([2], tf.int64)}
    assert set(stub.Predict(predict(inputs, signature="named")).outputs) == {"total", "text"}
    assert set(stub.Predict(predict(inputs, "text", signature="named")).outputs) == {"text"}


X = {"x": [[1.0]]}


@pytest.mark.parametrize(
    ("request_", "code", "message"),
    [
        (predict_pb2.PredictRequest(), "INVALID_ARGUMENT", "Missing ModelSpec"),
        (predict(X, name=""), "INVALID_ARGUMENT", "ModelSpec has no name specified."),
        (predict(X, name="m"), "NOT_FOUND", "Servable not found for request: Latest(m)"),
        (predict(X, version=7), "NOT_FOUND", "Servable not found for request: Specific(toy, 7)"),
        (predict(X, version=0), "NOT_FOUND", "Servable not found for request: Specific(toy, 0)"),
        (predict(X, label="x"), "INVALID_ARGUMENT", "Unrecognized servable version label: x"),
        (predict(X, label="x", name="m"), "INVALID_ARGUMENT", "Unrecognized servable version label: x"),
        (predict(X, signature="x"), "FAILED_PRECONDITION", 'Serving signature key "x" not found.'),
        (
            predict({}),
            "INVALID_ARGUMENT",
            "input size does not match signature: 0!=1 len({}) != len({x}). Sent extra: {}. Missing but required: {x}.",
        ),
        (
            predict({"x": [1.0], "z": [1.0]}),
            "INVALID_ARGUMENT",
            "input size does not match signature: 2!=1 len({x,z}) != len({x}). Sent extra: {z}. "
            "Missing but required: {}.",
        ),
        (
            predict({"z": [1.0]}),
            "INVALID_ARGUMENT",
            "Signature input alias: x(feed name: serving_default_x:0) not found in request. "
            "Inputs expected to be in the set {x}.",
        ),
        (
            predict({"x": proto([1.0], tf.float64)}),
            "INVALID_ARGUMENT",
            "Expects arg[0] to be float but double is provided",
        ),
        (
            predict({"x": proto([b"a"], tf.string)}),
            "INVALID_ARGUMENT",
            "Expects arg[0] to be float but string is provided",
        ),
        (
            predict(X, "z"),
            "INVALID_ARGUMENT",
            "output tensor alias not found in signature: z Outputs expected to be in the set {y}.",
        ),
        (predict(X, "y", "y"), "INVALID_ARGUMENT", "duplicate output tensor alias: y"),
    ],
)
def test_predict_errors(stub, request_, code, message):
    assert refused(stub.Predict, request_) == (code, message)


def test_a_wrong_shape_is_the_operations_own_error(stub):
    code, message = refused(stub.Predict, predict({"x": [1.0, 2.0, 3.0]}, signature="strict"))
    assert code == "INVALID_ARGUMENT" and "reshape" in message.lower()


def test_long_messages_are_truncated(stub):
    _, message = refused(stub.Predict, predict(X, signature="x" * 2000))
    assert len(message) == 1024 + len("...TRUNCATED") and message.endswith("...TRUNCATED")


@pytest.mark.parametrize(("sizes", "values"), [((10**12,), 1), ((-1,), 1), ((2**31, 2**31, 2**31), 1)])
def test_a_shape_that_the_values_do_not_fill_is_refused(stub, sizes, values):
    tensor = tensor_pb2.TensorProto(dtype=1, float_val=[1.0] * values)
    for size in sizes:
        tensor.tensor_shape.dim.add(size=size)
    code, message = refused(stub.Predict, predict({"x": tensor}))
    assert (code, message) == ("INVALID_ARGUMENT", "tensor parsing error: x")


@pytest.mark.parametrize(("size", "values", "expected"), [(5, 3, 3.5), (2, 0, 3.0), (2, 5, 3.5)])
def test_the_last_value_is_repeated_no_value_means_zero_and_surplus_is_ignored(stub, size, values, expected):
    tensor = tensor_pb2.TensorProto(dtype=1, float_val=[1.0] * values)
    tensor.tensor_shape.dim.add(size=size)
    assert list(stub.Predict(predict({"x": tensor})).outputs["y"].float_val) == [expected] * size


def test_the_deadline_is_enforced(stub):
    request = predict({"n": proto([50000], tf.int32)}, signature="spin")
    with pytest.raises(grpc.RpcError) as raised:
        stub.Predict(request, timeout=0.2)
    assert raised.value.code().name == "DEADLINE_EXCEEDED"
    assert stub.Predict(predict(X)).outputs["y"].float_val[0] == 3.5


def test_an_image_of_too_many_pixels_is_not_decoded(stub):
    header = b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR" + (30_000).to_bytes(4, "big") * 2
    for values, signature in ([header], "texts"), ([b"\n\x09features" + header], "texts"):
        code, message = refused(stub.Predict, predict({"s": proto(values, tf.string)}, signature=signature))
        assert code == "INVALID_ARGUMENT" and "30000 x 30000 pixels, more than 10000" in message


# --- Classify, Regress, MultiInference --------------------------------------------------------------------------


def classify(signature="classify", **named):
    return spec(classification_pb2.ClassificationRequest(), signature, **named)


def regress(signature="regress", **named):
    return spec(regression_pb2.RegressionRequest(), signature, **named)


def test_classify(stub):
    response = stub.Classify(with_examples(classify(version=123), 1.0, 3.0))
    assert (response.model_spec.name, response.model_spec.version.value, response.model_spec.signature_name) == (
        "toy",
        123,
        "classify",
    )
    rows = [[(c.label, c.score) for c in row.classes] for row in response.result.classifications]
    assert rows == [[("up", 2.5), ("down", -2.5)], [("up", 3.5), ("down", -3.5)]]


def test_scores_without_labels(stub):
    (row,) = stub.Classify(with_examples(classify("scores"), 1.0)).result.classifications
    assert [(c.label, c.score) for c in row.classes] == [("", 3.5), ("", -3.5)]


@pytest.mark.parametrize("signature", ["regress", "regress_column"])
def test_regress(stub, signature):
    response = stub.Regress(with_examples(regress(signature), 1.0, 3.0))
    assert [entry.value for entry in response.result.regressions] == [3.5, 4.5]
    assert response.model_spec.signature_name == signature and response.model_spec.version.value == 124


def test_a_context_is_shared_by_all_examples(stub):
    request = with_examples(regress(), example(), example(x=5.0), context=example(x=1.0))
    assert [entry.value for entry in stub.Regress(request).result.regressions] == [3.5, 5.5]


@pytest.mark.parametrize(
    ("method", "request_", "code", "message"),
    [
        ("Classify", classify("x"), "INVALID_ARGUMENT", "No signature was found with the name: x"),
        ("Regress", regress("x"), "INVALID_ARGUMENT", "No signature was found with the name: x"),
        ("Classify", classify(), "INVALID_ARGUMENT", "Input is empty."),
        ("Classify", classify("regress"), "FAILED_PRECONDITION", "Expected classification signature outputs to"),
        ("Classify", classify("serving_default"), "FAILED_PRECONDITION", "No classification inputs found"),
        ("Classify", classify("named"), "INVALID_ARGUMENT", "Expected one input Tensor."),
        ("Regress", regress("classify"), "INVALID_ARGUMENT", "Expected one output Tensor."),
        ("Regress", regress("scores"), "FAILED_PRECONDITION", "No regression outputs found in SignatureDef"),
        ("Regress", regress(name="m"), "NOT_FOUND", "Servable not found for request: Latest(m)"),
        ("Regress", regression_pb2.RegressionRequest(), "INVALID_ARGUMENT", "Missing ModelSpec"),
        (
            "Regress",
            with_examples(regress(), example(y=1.0)),
            "INVALID_ARGUMENT",
            "Feature: x",
        ),
    ],
)
def test_classify_and_regress_errors(stub, method, request_, code, message):
    actual, text = refused(getattr(stub, method), request_)
    assert actual == code and message in text


CLASSIFY, REGRESS = "tensorflow/serving/classify", "tensorflow/serving/regress"


def multi(*tasks, values=(1.0,), name="toy"):
    request = inference_pb2.MultiInferenceRequest()
    for signature, method in tasks:
        spec(request.tasks.add(method_name=method), signature, name)
    return with_examples(request, *values)


def test_multi_inference(stub):
    for tasks in (
        [("classify", CLASSIFY)],
        [("regress", REGRESS)],
        # Signatures of TF 2 never share an input tensor: all of them are fed.
        [("regress", REGRESS), ("classify", CLASSIFY)],
        [("scores", CLASSIFY), ("regress_column", REGRESS), ("regress", REGRESS)],
    ):
        results = stub.MultiInference(multi(*tasks, values=(1.0, 3.0))).results
        assert [result.model_spec.signature_name for result in results] == [signature for signature, _ in tasks]
        assert {result.model_spec.version.value for result in results} == {124}
        for (_, method), result in zip(tasks, results, strict=True):
            if method == CLASSIFY:
                rows = result.classification_result.classifications
                assert [row.classes[0].score for row in rows] == [3.5, 4.5]
            else:
                assert [row.value for row in result.regression_result.regressions] == [3.5, 4.5]


@pytest.mark.parametrize(
    ("request_", "code", "message"),
    [
        (multi(("regress", REGRESS), ("regress", REGRESS)), "INVALID_ARGUMENT", "Duplicate evaluation of signature"),
        (multi(("regress", "tensorflow/serving/predict")), "UNIMPLEMENTED", "Unsupported signature method_name"),
        (multi(("x", REGRESS)), "INVALID_ARGUMENT", "Requested signature not found in model graph: x"),
        (multi(("regress", REGRESS), name="m"), "NOT_FOUND", "Servable not found for request: Latest(m)"),
        (multi(), "INVALID_ARGUMENT", ""),
    ],
)
def test_multi_inference_errors(stub, request_, code, message):
    actual, text = refused(stub.MultiInference, request_)
    assert actual == code and message in text


def test_all_tasks_must_name_one_model(stub):
    request = multi(("regress", REGRESS), ("classify", CLASSIFY))
    request.tasks[1].model_spec.name = "other"
    code, text = refused(stub.MultiInference, request)
    assert code == "INVALID_ARGUMENT" and "must access the same model name" in text


# --- Metadata, status, reload, health ---------------------------------------------------------------------------


def test_metadata(stub):
    request = spec(get_model_metadata_pb2.GetModelMetadataRequest(metadata_field=["signature_def"]))
    response = stub.GetModelMetadata(request)
    assert (response.model_spec.name, response.model_spec.version.value, response.model_spec.signature_name) == (
        "toy",
        124,
        "",
    )
    signatures = get_model_metadata_pb2.SignatureDefMap()
    assert response.metadata["signature_def"].Unpack(signatures)
    assert signatures.signature_def["serving_default"].inputs["x"].name == "serving_default_x:0"


@pytest.mark.parametrize(
    ("fields", "message"),
    [([], "must specify at least one metadata_field"), (["graph"], "Metadata field graph is not supported")],
)
def test_metadata_errors(stub, fields, message):
    code, text = refused(
        stub.GetModelMetadata, spec(get_model_metadata_pb2.GetModelMetadataRequest(metadata_field=fields))
    )
    assert code == "INVALID_ARGUMENT" and message in text


def status(**named):
    return spec(get_model_status_pb2.GetModelStatusRequest(), **named)


def test_status_ignores_labels(models):
    for request in (status(), status(label="whatever")):
        assert [(entry.version, entry.state) for entry in models.GetModelStatus(request).model_version_status] == [
            (124, 30),
            (123, 30),
        ]
    assert [entry.version for entry in models.GetModelStatus(status(version=123)).model_version_status] == [123]


def test_status_errors(models):
    empty = get_model_status_pb2.GetModelStatusRequest()
    assert refused(models.GetModelStatus, empty) == ("INVALID_ARGUMENT", "Missing ModelSpec")
    assert refused(models.GetModelStatus, status(name="m")) == (
        "NOT_FOUND",
        "Could not find any versions of model m",
    )
    assert refused(models.GetModelStatus, status(version=7)) == ("NOT_FOUND", "Could not find version 7 of model toy")


def reload(text):
    request = model_management_pb2.ReloadConfigRequest()
    text_format.Parse(text, request.config)
    return request


ENTRY = 'config {{ name: "{name}" base_path: "{path}" model_platform: "{platform}" {more} }}'


def entry(name="toy", path="/nowhere", platform="tensorflow", more=""):
    return ENTRY.format(name=name, path=path, platform=platform, more=more)


@pytest.mark.parametrize(
    ("text", "code", "message"),
    [
        ("", "INVALID_ARGUMENT", "Only ModelConfigList is currently supported"),
        (
            f"model_config_list {{ {entry()} {entry()} }}",
            "INVALID_ARGUMENT",
            "Illegal to list model toy multiple times in config list",
        ),
        (
            f"model_config_list {{ {entry(path='models/toy')} }}",
            "INVALID_ARGUMENT",
            "Expected model toy to have an absolute path or URI; got base_path()=models/toy",
        ),
        (f"model_config_list {{ {entry(platform='caffe')} }}", "INVALID_ARGUMENT", "unsupported platform caffe"),
        (f"model_config_list {{ {entry(platform='')} }}", "INVALID_ARGUMENT", "Illegal setting neither"),
        (
            "model_config_list { " + entry(more='version_labels { key: "a" value: 7 }') + " }",
            "FAILED_PRECONDITION",
            "Request to assign label to version 7 of model toy, which is not currently available for inference",
        ),
    ],
)
def test_reload_errors_change_nothing(models, stub, text, code, message):
    actual, details = refused(models.HandleReloadConfigRequest, reload(text))
    assert actual == code and message in details
    assert stub.Predict(predict(X)).outputs["y"].float_val[0] == 3.5


def test_the_status_without_a_name_is_an_error_that_lists_the_models(models):
    with pytest.raises(grpc.RpcError) as raised:
        models.GetModelStatus(spec(get_model_status_pb2.GetModelStatusRequest(), name=""))
    assert (raised.value.code().name, raised.value.details()) == ("NOT_FOUND", "Could not find any versions of model ")
    assert dict(raised.value.trailing_metadata())["model-names"] == '["toy"]'


def test_health_has_short_service_names(channel):
    health = health_pb2_grpc.HealthStub(channel)
    for service in ("", "ModelService", "PredictionService"):
        assert health.Check(health_pb2.HealthCheckRequest(service=service)).status == 1
    code, _ = refused(health.Check, health_pb2.HealthCheckRequest(service="tensorflow.serving.PredictionService"))
    assert code == "NOT_FOUND"


def test_health_watchers_occupy_no_thread_and_do_not_delay_the_shutdown(toy_saved, start_server, push_toy, tmp_path):
    push_toy(tmp_path / "toy", 1)
    options = ServerOptions(health_service=True, grpc_threads=2)
    running = start_server("toy", tmp_path / "toy", options=options)
    with grpc.insecure_channel(f"127.0.0.1:{running.grpc_port}") as opened:
        health = health_pb2_grpc.HealthStub(opened)
        watches = [health.Watch(health_pb2.HealthCheckRequest(service="ModelService")) for _ in range(8)]
        assert [next(watch).status for watch in watches] == [1] * 8
        watches.pop().cancel()
        stub = prediction_service_pb2_grpc.PredictionServiceStub(opened)
        assert stub.Predict(predict(X), timeout=30).model_spec.version.value == 1
        started = time.monotonic()
        running.stop(20.0)
        assert time.monotonic() - started < 10
        for watch in watches:
            with pytest.raises(grpc.RpcError):
                next(watch)


def test_health_is_off_by_default_and_raw_content_can_be_enabled(toy_saved, start_server, push_toy, tmp_path):
    push_toy(tmp_path / "toy", 1)
    running = start_server("toy", tmp_path / "toy", options=ServerOptions(tensor_content=True))
    with grpc.insecure_channel(f"127.0.0.1:{running.grpc_port}") as opened:
        response = prediction_service_pb2_grpc.PredictionServiceStub(opened).Predict(predict(X))
        assert response.outputs["y"].tensor_content == np.float32(2.5).tobytes()
        check = opened.unary_unary("/grpc.health.v1.Health/Check")
        assert refused(check, b"")[0] == "UNIMPLEMENTED"


# --- Cancellation, reflection, profiler ---------------------------------------------------------------------------


def test_cancelled_calls_leave_the_queue(start_server, push_toy, tmp_path):
    push_toy(tmp_path / "toy", 1)
    running = start_server("toy", tmp_path / "toy", options=ServerOptions(max_running=1, max_waiting=12))
    spin = predict({"n": proto([4000], tf.int32)}, signature="spin")
    with grpc.insecure_channel(f"127.0.0.1:{running.grpc_port}") as opened:
        stub = prediction_service_pb2_grpc.PredictionServiceStub(opened)
        stub.Predict(predict(X))
        started = time.monotonic()
        stub.Predict(spin)
        one_call = time.monotonic() - started
        calls = [stub.Predict.future(spin) for _ in range(12)]
        time.sleep(min(one_call / 2, 0.1))
        for call in calls:
            call.cancel()
        started = time.monotonic()
        assert stub.Predict(predict(X), timeout=30).outputs["y"].float_val[0] == 2.5
        # At most the one call that runs is in the way; twelve were before.
        assert time.monotonic() - started < 3 * one_call + 0.5


def reflect(channel, **request):
    """Sends one reflection request and returns the response, as message of this project's own definition."""
    from serving.local_server import reflection

    results = []
    for name in ("grpc.reflection.v1alpha.ServerReflection", "grpc.reflection.v1.ServerReflection"):
        call = channel.stream_stream(
            f"/{name}/ServerReflectionInfo",
            request_serializer=lambda message: message.SerializeToString(),
            response_deserializer=reflection._Response.FromString,
        )
        results.append(next(call(iter([reflection._Request(**request)]), timeout=20)))
    assert results[0] == results[1]
    return results[0]


def test_reflection(channel):
    services = [entry.name for entry in reflect(channel, list_services="").list_services_response.service]
    assert services == [
        "grpc.health.v1.Health",
        "grpc.reflection.v1.ServerReflection",
        "grpc.reflection.v1alpha.ServerReflection",
        "tensorflow.serving.ModelService",
        "tensorflow.serving.PredictionService",
    ]
    for symbol in (
        "tensorflow.serving.PredictionService",
        "tensorflow.serving.PredictRequest",
        "grpc.health.v1.Health",
    ):
        files = reflect(channel, file_containing_symbol=symbol).file_descriptor_response.file_descriptor_proto
        parsed = [descriptor_pb2.FileDescriptorProto.FromString(file) for file in files]
        assert any(symbol.rpartition(".")[2] in [each.name for each in (*f.service, *f.message_type)] for f in parsed)
        assert {name for file in parsed for name in file.dependency} <= {file.name for file in parsed}
    by_name = reflect(channel, file_by_filename="tensorflow_serving/apis/predict.proto")
    assert by_name.file_descriptor_response.file_descriptor_proto
    for unknown in ({"file_containing_symbol": "no.such.Thing"}, {"file_by_filename": "no/such.proto"}):
        assert reflect(channel, **unknown).error_response.error_code == 5
    assert reflect(channel).error_response.error_code == 3


def test_many_reflection_streams_occupy_few_threads(channel, stub):
    call = channel.stream_stream("/grpc.reflection.v1.ServerReflection/ServerReflectionInfo")
    stopped = threading.Event()

    def never():
        stopped.wait(20)
        yield from ()

    streams = [call(never()) for _ in range(30)]
    time.sleep(0.1)
    assert stub.Predict(predict(X), timeout=10).outputs["y"].float_val[0] == 3.5
    stopped.set()
    codes = {stream.code().name for stream in streams}
    assert codes == {"OK", "RESOURCE_EXHAUSTED"}


@pytest.fixture(scope="module")
def profiler_stub(channel):
    """Returns the methods of the profiler service."""
    profile, terminate = (
        channel.unary_unary(f"/{profiler.NAME}/{method}", request.SerializeToString, response.FromString)
        for method, request, response in (
            ("Profile", profiler.ProfileRequest, profiler.ProfileResponse),
            ("Terminate", profiler.TerminateRequest, profiler.TerminateResponse),
        )
    )
    return profile, terminate


def test_a_profile_contains_the_operations_of_requests_until_it_is_terminated(profiler_stub, stub, monkeypatch):
    profile, terminate = profiler_stub
    started, wait = threading.Event(), profiler._wait

    def announce(*arguments):
        started.set()
        wait(*arguments)

    monkeypatch.setattr(profiler, "_wait", announce)
    request = profiler.ProfileRequest(opts={"duration_ms": 60_000}, emit_xspace=True, session_id="one")
    capture = profile.future(request, timeout=60)
    assert started.wait(60)
    assert refused(profile, profiler.ProfileRequest()) == ("INTERNAL", "Another profile is being captured.")
    stub.Predict(predict(X), timeout=10)
    terminate(profiler.TerminateRequest(session_id="one"), timeout=10)
    response = capture.result()
    names = {
        entry.name
        for plane in profiler.xplane_pb2.XSpace.FromString(response.xspace).planes
        for entry in plane.event_metadata.values()
    }
    assert not response.empty_trace and any("SessionRun" in name for name in names), names


def test_a_profile_is_written_into_the_folder_of_the_client(profiler_stub, tmp_path):
    profile, _ = profiler_stub
    request = profiler.ProfileRequest(duration_ms=1, repository_root=str(tmp_path), session_id="run", host_name="h:1")
    response = profile(request, timeout=30)
    profiler.xplane_pb2.XSpace.FromString((tmp_path / "run" / "h_1.xplane.pb").read_bytes())
    assert not response.xspace
    request.repository_root = str(tmp_path / "run" / "h_1.xplane.pb")
    assert refused(profile, request)[0] == "INTERNAL"


def test_an_unsupported_release_of_tensorflow_captures_no_profile(profiler_stub, monkeypatch):
    monkeypatch.setattr(profiler.private_api, "prepare", lambda api, function: None)
    assert refused(profiler_stub[0], profiler.ProfileRequest()) == (
        "UNIMPLEMENTED",
        "Profiles require TensorFlow 2.21.",
    )


def test_the_profiler_can_be_disabled(running_server, tmp_path):
    models = (ModelConfig("toy", str(tmp_path), VersionPolicy(None)),)
    with running_server(options=ServerOptions(models=models, profiler_service=False)) as server:
        with grpc.insecure_channel(f"127.0.0.1:{server.grpc_port}") as opened:
            assert refused(opened.unary_unary(f"/{profiler.NAME}/Profile"), b"")[0] == "UNIMPLEMENTED"
