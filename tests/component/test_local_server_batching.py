"""Calls that share a run of the model, and overload."""

import threading
import time
from concurrent.futures import ThreadPoolExecutor

import grpc
import httpx
import numpy as np
import psutil
import pytest
import tensorflow as tf
from tensorflow_serving.apis import predict_pb2, prediction_service_pb2_grpc

from serving.local_server import batching
from serving.local_server.admission import Admission
from serving.local_server.batching import Batcher, BatchingParameters
from serving.local_server.caller import Caller
from serving.local_server.errors import RequestError
from serving.local_server.server_options import ServerOptions

# --- Parameters -------------------------------------------------------------------------------------------------


def test_parameters_are_read(tmp_path):
    path = tmp_path / "batching.config"
    path.write_text(
        "max_batch_size { value: 32 } batch_timeout_micros { value: 2000 } max_enqueued_batches { value: 5 }\n"
        'num_batch_threads { value: 3 } thread_pool_name { value: "pool" } pad_variable_length_inputs: true\n'
        "enable_large_batch_splitting { value: true } max_execution_batch_size { value: 8 }\n"
        "allowed_batch_sizes: 4 allowed_batch_sizes: 8\n"
    )
    assert batching.from_file(path) == BatchingParameters(32, 2000, 5, 3, "pool", (4, 8), True, 8)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("max_batch { value: 1 }", "Invalid protobuf file"),
        ("num_batch_threads { value: 0 }", "num_batch_threads must be positive; was 0"),
        ("allowed_batch_sizes: 4 allowed_batch_sizes: 2", "must be in increasing order"),
        (
            "max_batch_size { value: 8 } allowed_batch_sizes: 4",
            "Last entry in allowed_batch_sizes must match max_batch",
        ),
        (
            "max_batch_size { value: 8 } enable_large_batch_splitting { value: true } "
            "max_execution_batch_size { value: 9 }",
            "max_execution_batch_size should be less than or equal to max_batch_size",
        ),
    ],
)
def test_parameters_that_contradict_each_other(tmp_path, text, message):
    (tmp_path / "batching.config").write_text(text)
    with pytest.raises(RequestError, match=message):
        batching.from_file(tmp_path / "batching.config")


# --- The scheduler, with a model that only records its inputs -----------------------------------------------------


class Recorder:
    """Returns twice its input; records every run, waits for `gate` and refuses negative values."""

    def __init__(self):  # noqa: D107
        self.runs, self.gate = [], threading.Event()
        self.gate.set()

    def run_now(self, feeds, fetches, caller=None):  # noqa: D102
        assert self.gate.wait(30)
        (value,) = feeds.values()
        self.runs.append(value.shape)
        if value.dtype != object and (value < 0).any():
            raise RequestError("INVALID_ARGUMENT", "negative")
        return [value * 2 if fetches == ("y",) else np.zeros(())]


@pytest.fixture
def recorder():
    return Recorder()


@pytest.fixture
def batcher():
    created = []

    def make(**parameters):
        created.append(Batcher(BatchingParameters(**{"num_batch_threads": 1, **parameters})))
        return created[-1]

    yield make
    for scheduler in created:
        scheduler.stop()


def together(batcher, recorder, values, timeout_s=None, fetches=("y",)):
    """Runs calls that wait at the same time; returns arrays or errors."""

    def call(value):
        try:
            return batcher.run(recorder, {"x": value}, fetches, Caller(timeout_s))[0]
        except RequestError as error:
            return error

    with ThreadPoolExecutor(len(values) + 1) as pool:
        recorder.gate.clear()
        # Keeps the only thread busy until all other calls wait.
        first = pool.submit(call, np.zeros(1))
        while batcher._batches:
            time.sleep(0.001)
        futures = []
        for value in values:
            futures.append(pool.submit(call, value))
            time.sleep(0.02)
        recorder.gate.set()
        first.result()
        return [future.result() for future in futures]


def test_calls_that_wait_together_run_together(batcher, recorder):
    results = together(batcher(), recorder, [np.full(2, 1.0), np.full(1, 2.0), np.full(3, 3.0)])
    assert [result.tolist() for result in results] == [[2.0, 2.0], [4.0], [6.0, 6.0, 6.0]]
    assert recorder.runs == [(1,), (6,)]


def test_a_full_batch_accepts_no_more(batcher, recorder):
    together(batcher(max_batch_size=4, max_execution_batch_size=4), recorder, [np.ones(3), np.ones(2), np.ones(2)])
    assert recorder.runs == [(1,), (3,), (4,)]


def test_batches_are_padded_to_an_allowed_size(batcher, recorder):
    scheduler = batcher(max_batch_size=8, max_execution_batch_size=8, allowed_batch_sizes=(4, 8))
    (result,) = together(scheduler, recorder, [np.ones(3)])
    assert result.tolist() == [2.0] * 3
    assert recorder.runs == [(4,), (4,)]


def test_different_shapes_do_not_share_a_batch(batcher, recorder):
    results = together(batcher(), recorder, [np.ones((1, 2)), np.ones((1, 3)), np.ones((2, 2))])
    assert [result.shape for result in results] == [(1, 2), (1, 3), (2, 2)]
    assert sorted(recorder.runs[1:]) == [(1, 3), (3, 2)]


def test_different_shapes_are_padded_if_enabled(batcher, recorder):
    results = together(batcher(pad_variable_length_inputs=True), recorder, [np.ones((1, 2)), np.ones((1, 3))])
    assert recorder.runs[1:] == [(2, 3)]
    assert results[0].tolist() == [[2.0, 2.0, 0.0]]


def test_a_large_call_is_split(batcher, recorder):
    scheduler = batcher(max_batch_size=10, max_execution_batch_size=4)
    (result,) = together(scheduler, recorder, [np.arange(10.0)])
    assert result.tolist() == (2 * np.arange(10.0)).tolist()
    assert recorder.runs[1:] == [(4,), (4,), (2,)]


def test_an_invalid_call_does_not_affect_the_others(batcher, recorder):
    results = together(batcher(), recorder, [np.ones(1), np.full(1, -1.0), np.ones(2)])
    assert results[0].tolist() == [2.0] and results[2].tolist() == [2.0, 2.0]
    assert isinstance(results[1], RequestError) and results[1].code == "INVALID_ARGUMENT"


@pytest.mark.parametrize(
    ("feeds", "message"),
    [
        ({"x": np.ones(5)}, "Task size 5 is larger than maximum input batch size 4"),
        ({"x": np.ones(())}, "Batching Run() input tensors must have at least one dimension"),
        ({"x": np.ones(1), "z": np.ones(2)}, "Batching Run() input tensors must have equal 0th-dimension size"),
        ({}, "Batching Run() must have at least one input tensor"),
    ],
)
def test_calls_that_cannot_be_batched(batcher, recorder, feeds, message):
    with pytest.raises(RequestError) as raised:
        batcher(max_batch_size=4, max_execution_batch_size=4).run(recorder, feeds, ("y",), Caller())
    assert (raised.value.code, raised.value.message) == ("INVALID_ARGUMENT", message)


def test_outputs_without_a_batch_dimension_run_alone(batcher, recorder):
    results = together(batcher(), recorder, [np.ones(1), np.ones(1)], fetches=("scalar",))
    # In a run of their own they are valid.
    assert [np.shape(result) for result in results] == [(), ()]


def test_the_queue_is_bounded(batcher, recorder):
    scheduler = batcher(max_batch_size=2, max_execution_batch_size=2, max_enqueued_batches=2)
    results = together(scheduler, recorder, [np.ones(2)] * 4)
    assert [type(result) is RequestError for result in results] == [False, False, True, True]
    assert results[2].code == "UNAVAILABLE"
    assert results[2].message.startswith("The batch scheduling queue to which this task was submitted is full")
    assert together(scheduler, recorder, [np.ones(2)])[0].tolist() == [2.0, 2.0]


def test_a_call_after_its_deadline_does_not_run(batcher, recorder):
    scheduler = batcher()
    (late,) = together(scheduler, recorder, [np.ones(5)], timeout_s=0.005)
    assert late.code == "DEADLINE_EXCEEDED"
    scheduler.stop()
    assert (5,) not in recorder.runs


def test_a_batch_that_is_not_full_waits_for_more(batcher, recorder):
    scheduler = batcher(num_batch_threads=2, batch_timeout_micros=300_000)
    with ThreadPoolExecutor(2) as pool:
        futures = [pool.submit(scheduler.run, recorder, {"x": np.ones(1)}, ("y",), Caller()) for _ in range(2)]
        assert [future.result()[0].tolist() for future in futures] == [[2.0], [2.0]]
    assert recorder.runs == [(2,)]


def test_without_batching_calls_run_in_order():
    recorder, admission, order = Recorder(), Admission(1, 2), []
    recorder.gate.clear()

    def run(number, timeout_s=None):
        class Servable:
            def run_now(self, feeds, fetches, caller):
                recorder.gate.wait(30)
                order.append(number)
                return []

        try:
            return admission.run(Servable(), {}, (), Caller(timeout_s))
        except RequestError as error:
            return error.code

    with ThreadPoolExecutor(4) as pool:
        futures = []
        for number, timeout_s in ((0, None), (1, None), (2, 0.2), (3, None)):
            futures.append(pool.submit(run, number, timeout_s))
            time.sleep(0.03)
        assert futures[3].result() == "UNAVAILABLE"
        assert futures[2].result() == "DEADLINE_EXCEEDED"
        recorder.gate.set()
        assert [futures[0].result(), futures[1].result()] == [[], []]
    assert order == [0, 1]
    assert run(4) == []


# --- Over both protocols ----------------------------------------------------------------------------------------


def spin_request(steps):
    request = predict_pb2.PredictRequest()
    request.model_spec.name, request.model_spec.signature_name = "toy", "spin"
    request.inputs["n"].CopyFrom(tf.make_tensor_proto([steps], tf.int32))
    return request


def test_responses_are_the_same_with_batching(start_server, push_toy, tmp_path):
    push_toy(tmp_path / "toy", 1)
    server = start_server(
        "toy", tmp_path / "toy", options=ServerOptions(batching=BatchingParameters(batch_timeout_micros=2000))
    )
    url = f"http://127.0.0.1:{server.rest_port}/v1/models/toy"

    def predict(number):
        body = {"signature_name": "plain", "instances": [float(number)] * (number % 3 + 1)}
        return httpx.post(f"{url}:predict", json=body, trust_env=False, timeout=30).json()["predictions"]

    with ThreadPoolExecutor(8) as pool:
        for number, result in enumerate(pool.map(predict, range(24))):
            assert result == [0.5 * number + 2] * (number % 3 + 1)
    response = httpx.post(
        f"{url}:regress", json={"signature_name": "regress", "examples": [{"x": 1.0}]}, trust_env=False
    )
    assert response.json() == {"results": [2.5]}


def test_a_models_own_parameters(start_server, push_toy, tmp_path):
    push_toy(tmp_path / "toy", 1)
    (tmp_path / "toy" / "1" / "batching_params.pbtxt").write_text("max_batch_size { value: 2 }")
    options = ServerOptions(batching=BatchingParameters(), batching_from_models=True)
    server = start_server("toy", tmp_path / "toy", options=options)
    response = httpx.post(
        f"http://127.0.0.1:{server.rest_port}/v1/models/toy:predict",
        json={"signature_name": "plain", "instances": [1.0, 2.0, 3.0]},
        trust_env=False,
    )
    assert response.status_code == 400
    assert response.json() == {"error": "Task size 3 is larger than maximum input batch size 2"}


@pytest.mark.parametrize("batched", [False, True])
def test_ten_times_the_capacity(start_server, push_toy, tmp_path, batched):
    """Some calls succeed, the others get UNAVAILABLE; memory use is stable, and the server still works."""
    push_toy(tmp_path / "toy", 1)
    parameters = BatchingParameters(
        max_batch_size=1, max_execution_batch_size=1, max_enqueued_batches=6, num_batch_threads=2
    )
    options = ServerOptions(max_running=2, max_waiting=6, batching=parameters if batched else None)
    server = start_server("toy", tmp_path / "toy", options=options)
    before = psutil.Process().memory_info().rss
    url = f"http://127.0.0.1:{server.rest_port}/v1/models/toy:predict"
    # A body of one megabyte: refused calls must not keep theirs in memory.
    body = '{"signature_name": "spin", "inputs": [200], "padding": "' + "x" * 2**20 + '"}'
    results = []

    def over_grpc():
        with grpc.insecure_channel(f"127.0.0.1:{server.grpc_port}", [("grpc.use_local_subchannel_pool", 1)]) as channel:
            try:
                prediction_service_pb2_grpc.PredictionServiceStub(channel).Predict(spin_request(200), timeout=30)
                results.append("OK")
            except grpc.RpcError as error:
                results.append(error.code().name)

    def over_rest():
        response = httpx.post(url, content=body, trust_env=False, timeout=30)
        results.append(response.status_code)

    with ThreadPoolExecutor(80) as pool:
        for _ in range(40):
            pool.submit(over_grpc)
            pool.submit(over_rest)
    assert len(results) == 80
    assert set(results) <= {"OK", "UNAVAILABLE", 200, 503}
    assert {"UNAVAILABLE", 503} <= set(results) and ("OK" in results or 200 in results)
    assert psutil.Process().memory_info().rss - before < 300 * 2**20
    response = httpx.post(url, content='{"signature_name": "plain", "instances": [1.0]}', trust_env=False, timeout=30)
    assert response.json() == {"predictions": [2.5]}
    results.clear()
    over_grpc()
    assert results == ["OK"]
