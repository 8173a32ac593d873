"""Versions are added, loaded and unloaded; clients notice nothing."""

import shutil
import socket
import threading
import time

import grpc
import httpx
import numpy as np
import pytest
import tensorflow as tf
from google.protobuf import text_format
from tensorflow_serving.apis import (
    model_management_pb2,
    model_service_pb2_grpc,
    predict_pb2,
    prediction_log_pb2,
    prediction_service_pb2_grpc,
)

from serving.local_server import loader, model_config
from serving.local_server.caller import Caller
from serving.local_server.errors import RequestError
from serving.local_server.model_config import ModelConfig, VersionPolicy
from serving.local_server.servable import LoadOptions
from serving.local_server.server import LocalServer, ServerStartError
from serving.local_server.server_options import ServerOptions
from serving.local_server.versions import LoadRetries
from trainer_module import model_versions

QUICK = ServerOptions(file_system_poll_s=0.05)


def states(server, name="toy"):
    return [(version.number, version.state) for version in server.source.status(name)]


def eventually(current, expected):
    deadline = time.monotonic() + 30
    while (value := current()) != expected and time.monotonic() < deadline:
        time.sleep(0.02)
    assert value == expected


def predict(server, name="toy", path=""):
    url = f"http://127.0.0.1:{server.rest_port}/v1/models/{name}{path}:predict"
    response = httpx.post(url, content='{"signature_name": "plain", "instances": [0.0]}', trust_env=False)
    return (
        response.json()["predictions"][0]
        if response.status_code == 200
        else (response.status_code, response.json()["error"])
    )


# --- Policies ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", [30]),
        ("latest {}", [30]),
        ("latest { num_versions: 2 }", [30, 20]),
        ("all {}", [30, 20, 3, 1]),
        ("specific { versions: 3 versions: 20 versions: 99 }", [20, 3]),
    ],
)
def test_policies(text, expected):
    config = model_config.model_server_config_pb2.ModelServerConfig()
    policy = f"model_version_policy {{ {text} }}" if text else ""
    text_format.Parse(
        f'model_config_list {{ config {{ name: "m" base_path: "/m" model_platform: "tensorflow" {policy} }} }}', config
    )
    (model,) = model_config.from_proto(config)
    assert model.policy.aspired([1, 3, 20, 30]) == expected


def test_folders_that_are_not_versions_are_ignored(start_server, push_toy, tmp_path):
    base = tmp_path / "toy"
    push_toy(base, "00000007")
    push_toy(base, "latest")
    push_toy(base, "-8")
    push_toy(base, "9" * 19)  # more than int64
    (base / "12").mkdir()  # its copy is not finished
    (base / "13").write_text("a file")
    server = start_server(
        "toy", base, options=ServerOptions(models=(ModelConfig("toy", str(base), VersionPolicy(None)),))
    )
    assert states(server) == [(7, "AVAILABLE")]


def test_versions_are_loaded_and_unloaded(start_server, push_toy, tmp_path):
    base = tmp_path / "toy"
    push_toy(base, 1, 1.0)
    server = start_server("toy", base, options=QUICK)
    assert predict(server) == 1.0
    push_toy(base, 2, 2.0)
    eventually(lambda: states(server), [(2, "AVAILABLE"), (1, "END")])
    assert predict(server) == 2.0
    assert predict(server, path="/versions/1") == (404, "Servable not found for request: Specific(toy, 1)")
    # Back to the previous version: its folder is now the newest.
    shutil.rmtree(base / "2")
    eventually(lambda: states(server), [(2, "END"), (1, "AVAILABLE")])
    assert predict(server) == 1.0
    # A missing base path unloads nothing; an empty one does.
    base.rename(tmp_path / "away")
    time.sleep(0.3)
    assert predict(server) == 1.0
    (tmp_path / "away").rename(base)
    shutil.rmtree(base / "1")
    eventually(lambda: states(server), [(2, "END"), (1, "END")])
    assert predict(server) == (404, "Servable not found for request: Latest(toy)")
    response = httpx.get(f"http://127.0.0.1:{server.rest_port}/v1/models/toy", trust_env=False)
    assert response.status_code == 200  # so the status is not a readiness probe
    assert httpx.get(f"http://127.0.0.1:{server.rest_port}/readyz", trust_env=False).status_code == 503
    assert httpx.get(f"http://127.0.0.1:{server.rest_port}/healthz", trust_env=False).status_code == 200


def test_a_request_in_flight_keeps_its_version(start_server, push_toy, tmp_path):
    base = tmp_path / "toy"
    push_toy(base, 1, 1.0)
    server = start_server("toy", base, options=QUICK)
    with server.source.use("toy") as servable:
        push_toy(base, 2, 2.0)
        eventually(lambda: states(server), [(2, "AVAILABLE"), (1, "UNLOADING")])
        definition = servable.signatures["plain"]
        feeds = {definition.inputs["x"].name: np.zeros(1, np.float32)}
        assert servable.run(feeds, [definition.outputs["y"].name], "Predict", Caller())[0].tolist() == [1.0]
    eventually(lambda: states(server), [(2, "AVAILABLE"), (1, "END")])


# --- Broken versions --------------------------------------------------------------------------------------------


def damage(folder, how):
    variables = folder / "variables" / "variables.data-00000-of-00001"
    if how == "empty graph":
        (folder / "saved_model.pb").write_bytes(b"")
    elif how == "truncated graph":
        graph = folder / "saved_model.pb"
        graph.write_bytes(graph.read_bytes()[:-1000])
    elif how == "no variables":
        shutil.rmtree(folder / "variables")
    elif how == "truncated variables":
        variables.write_bytes(variables.read_bytes()[:2])
    return folder


@pytest.mark.parametrize("how", ["empty graph", "truncated graph", "no variables", "truncated variables"])
def test_a_broken_version_does_not_replace_the_old_one_until_it_is_fixed(
    start_server, push_toy, toy_saved, tmp_path, how
):
    base = tmp_path / "toy"
    push_toy(base, 1, 1.0)
    server = start_server("toy", base, options=QUICK)
    staged = damage(push_toy(base, "staged", 2.0), how)
    staged.rename(base / "2")
    eventually(lambda: states(server), [(2, "END"), (1, "AVAILABLE")])
    broken = server.source.status("toy")[0]
    assert broken.error_code != "OK" and broken.error_message
    assert predict(server) == 1.0
    time.sleep(0.2)
    assert states(server) == [(2, "END"), (1, "AVAILABLE")]
    shutil.copytree(toy_saved(2.0), base / "2", dirs_exist_ok=True)
    eventually(lambda: states(server), [(2, "AVAILABLE"), (1, "END")])
    assert predict(server) == 2.0


def test_a_version_that_differs_from_its_manifest_is_not_served(start_server, toy_saved, tmp_path):
    base = tmp_path / "toy"
    first = model_versions.push(str(toy_saved(1.0)), str(base)).version
    server = start_server("toy", base, options=QUICK)
    # One changed byte of a weight: every loader accepts it.
    staged = tmp_path / "staged" / "toy"
    damaged = model_versions.push(str(toy_saved(2.0)), str(staged)).version + 1
    variables = next((staged / str(damaged - 1) / "variables").glob("variables.data*"))
    variables.write_bytes(variables.read_bytes()[:-1] + b"\x01")
    (staged / str(damaged - 1)).rename(base / str(damaged))
    eventually(lambda: states(server), [(damaged, "END"), (first, "AVAILABLE")])
    broken = server.source.status("toy")[0]
    assert broken.error_code == "DATA_LOSS" and f"variables/{variables.name} has changed" in broken.error_message


def test_a_rollback_and_its_reversal_while_the_model_is_served(start_server, toy_saved, tmp_path):
    base = tmp_path / "toy"
    first, second = (model_versions.push(str(toy_saved(b)), str(base)).version for b in (1.0, 2.0))
    server = start_server("toy", base, options=QUICK)
    assert predict(server) == 2.0
    model_versions.roll_back(str(base))
    eventually(lambda: states(server), [(second, "END"), (first, "AVAILABLE")])
    assert predict(server) == 1.0
    model_versions.roll_back(str(base), second)
    eventually(lambda: states(server), [(second, "AVAILABLE"), (first, "END")])
    assert predict(server) == 2.0


def test_a_failed_load_is_retried_as_configured(start_server, push_toy, toy_saved, tmp_path):
    base = tmp_path / "toy"
    push_toy(base, 1, 1.0)
    options = ServerOptions(file_system_poll_s=0.05, retries=LoadRetries(200, 0.05))
    server = start_server("toy", base, options=options)
    damage(push_toy(base, "staged", 2.0), "no variables").rename(base / "2")
    eventually(lambda: states(server), [(2, "LOADING"), (1, "AVAILABLE")])
    shutil.copytree(toy_saved(2.0) / "variables", base / "2" / "variables")
    eventually(lambda: states(server), [(2, "AVAILABLE"), (1, "END")])


def test_both_ports_are_open_when_start_returns(start_server, push_toy, tmp_path):
    push_toy(tmp_path / "toy", 1)
    server = start_server("toy", tmp_path / "toy")
    for port in (server.grpc_port, server.rest_port):
        socket.create_connection(("127.0.0.1", port), timeout=10).close()


def test_the_only_version_must_be_complete(push_toy, tmp_path):
    base = tmp_path / "toy"
    damage(push_toy(base, 1), "no variables")
    server = LocalServer("toy", base, port=0, rest_api_port=0)
    with pytest.raises(ServerStartError, match="Version 1 of toy cannot be loaded: "):
        server.wait_until_loaded(lambda seconds: False)
    server.stop()


def test_the_server_waits_for_a_version_in_an_empty_base_path(push_toy, tmp_path):
    base = tmp_path / "toy"
    base.mkdir()
    server = LocalServer("toy", base, port=0, rest_api_port=0)
    waits = []

    def stopped(seconds):
        waits.append(seconds)
        if len(waits) == 3:
            push_toy(base, 1)
        return False

    messages = []
    server.wait_until_loaded(stopped, lambda: messages.append("waiting"))
    assert messages == ["waiting"]
    assert len(waits) == 3 and states(server) == [(1, "AVAILABLE")]
    server.stop()


# --- Warm-up ----------------------------------------------------------------------------------------------------


def predict_log(signature="plain", alias="x"):
    log = prediction_log_pb2.PredictionLog()
    request = log.predict_log.request
    request.model_spec.name, request.model_spec.signature_name = "toy", signature
    request.inputs[alias].CopyFrom(tf.make_tensor_proto([1.0]))
    return log


def examples_log(kind):
    log = prediction_log_pb2.PredictionLog()
    example = tf.train.Example()
    example.features.feature["x"].float_list.value.append(1.0)
    request = getattr(log, f"{kind}_log").request
    if kind == "multi_inference":
        task = request.tasks.add(method_name="tensorflow/serving/regress")
        task.model_spec.name, task.model_spec.signature_name = "toy", "regress"
    else:
        request.model_spec.name, request.model_spec.signature_name = "toy", kind
    request.input.example_list.examples.add().CopyFrom(example)
    return log


def write_warmup(folder, records):
    path = folder / "assets.extra" / "tf_serving_warmup_requests"
    path.parent.mkdir(exist_ok=True)
    if isinstance(records, bytes):
        path.write_bytes(records)
        return
    with tf.io.TFRecordWriter(str(path)) as writer:
        for record in records:
            writer.write(record if isinstance(record, bytes) else record.SerializeToString())


def test_warm_up_requests_of_every_kind_are_run(start_server, push_toy, tmp_path):
    base = tmp_path / "toy"
    staged = push_toy(base, "staged")
    write_warmup(staged, [predict_log(), *map(examples_log, ("classify", "regress", "multi_inference"))])
    staged.rename(base / "1")
    server = start_server("toy", base)
    assert states(server) == [(1, "AVAILABLE")]
    with server.source.use("toy") as servable:
        # The tensors of all signatures have been used.
        used = [servable.signatures[name] for name in ("plain", "classify", "regress")]
        names = {info.name for each in used for info in (*each.inputs.values(), *each.outputs.values())}
        assert set(servable._model._outputs) == names


@pytest.mark.parametrize(
    ("records", "code", "message"),
    [
        (b"short", "DATA_LOSS", "Please verify your warmup data is in TFRecord format"),
        (b"not a record" * 20, "DATA_LOSS", "Please verify your warmup data is in TFRecord format"),
        ([b"\xff\xff"], "INVALID_ARGUMENT", "Failed to parse warmup record"),
        ([predict_log("nowhere")], "FAILED_PRECONDITION", 'Serving signature key "nowhere" not found.'),
        ([predict_log(alias="z")], "INVALID_ARGUMENT", "Signature input alias"),
        ([prediction_log_pb2.PredictionLog()], "UNIMPLEMENTED", "Unsupported log_type for warmup"),
        ([predict_log()] * 1001, "INVALID_ARGUMENT", "exceeds the maximum (1000)"),
    ],
)
def test_any_error_of_the_warm_up_fails_the_load(start_server, push_toy, tmp_path, records, code, message):
    base = tmp_path / "toy"
    staged = push_toy(base, "staged")
    write_warmup(staged, records)
    staged.rename(base / "1")
    server = start_server("toy", base)
    (version,) = server.source.status("toy")
    assert (version.state, version.error_code) == ("END", code)
    assert message in version.error_message


def test_warm_up_can_be_disabled(start_server, push_toy, tmp_path):
    base = tmp_path / "toy"
    write_warmup(push_toy(base, 1), b"not a record")
    assert states(start_server("toy", base, options=ServerOptions(warmup_iterations=0))) == [(1, "AVAILABLE")]


# --- Several models, labels, reload -----------------------------------------------------------------------------


def config_text(base, *names, policy="", labels=""):
    entries = [
        f'config {{ name: "{name}" base_path: "{base / name}" model_platform: "tensorflow" {policy} {labels} }}'
        for name in names
    ]
    return f"model_config_list {{ {' '.join(entries)} }}"


def reload(server, text):
    request = model_management_pb2.ReloadConfigRequest()
    text_format.Parse(text, request.config)
    with grpc.insecure_channel(f"127.0.0.1:{server.grpc_port}") as channel:
        return model_service_pb2_grpc.ModelServiceStub(channel).HandleReloadConfigRequest(request, timeout=60)


def test_models_are_added_changed_and_removed(start_server, push_toy, tmp_path):
    for name, b in (("one", 1.0), ("two", 2.0), ("three", 3.0)):
        push_toy(tmp_path / name, 1, b)
        push_toy(tmp_path / name, 2, b * 10)
    models = tuple(ModelConfig(name, str(tmp_path / name)) for name in ("one", "two"))
    server = start_server(options=ServerOptions(models=models))
    assert (predict(server, "one"), predict(server, "two")) == (10.0, 20.0)
    assert predict(server, "three") == (404, "Servable not found for request: Latest(three)")
    response = reload(server, config_text(tmp_path, "two", "three", policy="model_version_policy { all {} }"))
    assert response.status.error_code == 0
    assert predict(server, "one") == (404, "Servable not found for request: Latest(one)")
    assert states(server, "one") == [(2, "END")]  # still listed
    assert states(server, "two") == [(2, "AVAILABLE"), (1, "AVAILABLE")]
    assert predict(server, "three", "/versions/1") == 3.0
    # And back.
    reload(server, config_text(tmp_path, "one"))
    assert predict(server, "one") == 10.0


def test_a_new_model_that_cannot_be_loaded_is_an_error_and_the_others_stay(start_server, push_toy, tmp_path):
    push_toy(tmp_path / "one", 1, 1.0)
    server = start_server("one", tmp_path / "one")
    with pytest.raises(grpc.RpcError) as raised:
        reload(server, config_text(tmp_path, "one", "missing"))
    assert raised.value.code().name == "UNKNOWN"
    assert raised.value.details() == "Some models did not become available: {missing}"
    assert predict(server, "one") == 1.0
    push_toy(tmp_path / "missing", 1, 5.0)
    eventually(lambda: predict(server, "missing"), 5.0)


def test_labels_move_only_to_available_versions(start_server, push_toy, tmp_path):
    push_toy(tmp_path / "toy", 1, 1.0)
    push_toy(tmp_path / "toy", 2, 2.0)
    both, labels = "model_version_policy { all {} }", 'version_labels {{ key: "stable" value: {} }}'
    server = start_server(
        options=ServerOptions(models=(ModelConfig("toy", str(tmp_path / "toy"), VersionPolicy(None), {"stable": 1}),))
    )
    assert predict(server, path="/labels/stable") == 1.0
    reload(server, config_text(tmp_path, "toy", policy=both, labels=labels.format(2)))
    assert predict(server, path="/labels/stable") == 2.0
    with pytest.raises(grpc.RpcError) as raised:
        reload(server, config_text(tmp_path, "toy", policy=both, labels=labels.format(3)))
    assert raised.value.code().name == "FAILED_PRECONDITION"
    assert predict(server, path="/labels/stable") == 2.0


def test_labels_of_future_versions(start_server, push_toy, tmp_path):
    push_toy(tmp_path / "toy", 1, 1.0)
    model = ModelConfig("toy", str(tmp_path / "toy"), labels={"next": 2})
    with pytest.raises(RequestError, match="assign label to version 2 of model toy, which is not currently available"):
        start_server(options=ServerOptions(models=(model,)))
    server = start_server(
        options=ServerOptions(models=(model,), labels_of_unavailable_versions=True, file_system_poll_s=0.05)
    )
    assert predict(server, path="/labels/next") == (404, "Servable not found for request: Specific(toy, 2)")
    push_toy(tmp_path / "toy", 2, 2.0)
    eventually(lambda: predict(server, path="/labels/next"), 2.0)
    # A known label moves only to an available version.
    with pytest.raises(grpc.RpcError):
        reload(server, config_text(tmp_path, "toy", labels='version_labels { key: "next" value: 3 }'))


def test_the_configuration_file_is_polled(start_server, push_toy, tmp_path):
    for name, b in (("one", 1.0), ("two", 2.0)):
        push_toy(tmp_path / name, 1, b)
    path = tmp_path / "models.config"
    path.write_text(config_text(tmp_path, "one"))
    server = start_server(
        options=ServerOptions(model_config_file=path, model_config_poll_s=0.05, file_system_poll_s=0.05)
    )
    assert predict(server, "one") == 1.0
    path.write_text("model_config_list { config { what: 1 } }")
    time.sleep(0.2)
    assert predict(server, "one") == 1.0
    path.write_text(config_text(tmp_path, "one", "two"))
    eventually(lambda: predict(server, "two"), 2.0)


def test_sessions_have_the_configured_threads_and_tags(start_server, push_toy, tmp_path, monkeypatch):
    push_toy(tmp_path / "toy", 1)
    configs, load = [], loader.Session
    monkeypatch.setattr(loader, "Session", lambda *arguments: configs.append(arguments[2]) or load(*arguments))
    start_server("toy", tmp_path / "toy", options=ServerOptions(load=LoadOptions(intra_op_threads=1)))
    assert [config.intra_op_parallelism_threads for config in configs] == [1]
    other = start_server("toy", tmp_path / "toy", options=ServerOptions(load=LoadOptions(tags=("train",))))
    (version,) = other.source.status("toy")
    assert version.state == "END" and "train" in version.error_message


# --- Under load -------------------------------------------------------------------------------------------------


def test_no_request_fails_while_versions_are_pushed(start_server, push_toy, toy_saved, tmp_path):
    """`tests/bench/hot_reload.py` is the full-size version."""
    base = tmp_path / "toy"
    for b in (1.0, 2.0, 3.0, 4.0):
        toy_saved(b)
    push_toy(base, 1, 1.0)
    server = start_server("toy", base, options=QUICK)
    pushed = threading.Event()
    failures, seen = [], [[] for _ in range(8)]

    def over_grpc(versions):
        request = predict_pb2.PredictRequest()
        request.model_spec.name = "toy"
        request.inputs["x"].CopyFrom(tf.make_tensor_proto([[0.0]]))
        with grpc.insecure_channel(f"127.0.0.1:{server.grpc_port}") as channel:
            stub = prediction_service_pb2_grpc.PredictionServiceStub(channel)
            while not pushed.is_set() or len(versions) < 100:
                response = stub.Predict(request, timeout=60)
                assert response.outputs["y"].float_val[0] == response.model_spec.version.value
                versions.append(response.model_spec.version.value)

    def over_rest(versions):
        with httpx.Client(trust_env=False, timeout=60) as client:
            url = f"http://127.0.0.1:{server.rest_port}/v1/models/toy:predict"
            while not pushed.is_set() or len(versions) < 100:
                response = client.post(url, content='{"instances": [[0.0]]}')
                assert response.status_code == 200, response.text
                versions.append(response.json()["predictions"][0][0])

    def client(number):
        try:
            (over_grpc if number % 2 else over_rest)(seen[number])
        except Exception as error:
            failures.append(error)

    threads = [threading.Thread(target=client, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    push_toy(base, 2, 2.0)
    eventually(lambda: states(server)[0], (2, "AVAILABLE"))
    damage(push_toy(base, "staged", 3.0), "no variables").rename(base / "3")
    eventually(lambda: states(server)[0], (3, "END"))
    push_toy(base, 4, 4.0)
    eventually(lambda: states(server)[0], (4, "AVAILABLE"))
    pushed.set()
    for thread in threads:
        thread.join(60)
    assert not failures
    for versions in seen:
        assert versions == sorted(versions)
        assert set(versions) <= {1, 2, 4} and versions[-1] == 4
