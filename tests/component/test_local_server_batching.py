"""Calls that share a run of the model, and what happens when there are too many of them."""

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
def test_parameters_that_do_not_go_together(tmp_path, text, message):
    (tmp_path / "batching.config").write_text(text)
    with pytest.raises(RequestError, match=message):
        batching.from_file(tmp_path / "batching.config")


# --- The scheduler, over a model that only notes what it is given -------------------------------------------------


class Recorder:
    """Answers with twice its input; notes every run, waits for `gate` and refuses what is negative."""

    def __init__(self):  # noqa: D107
        self.runs, self.gate = [], threading.Event()
        self.gate.set()

    def run_now(self, feeds, fetches):  # noqa: D102
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
    made = []

    def make(**parameters):
        made.append(Batcher(BatchingParameters(**{"num_batch_threads": 1, **parameters})))
        return made[-1]

    yield make
    for each in made:
        each.stop()


def together(batcher, recorder, values, deadline=None, fetches=("y",)):
    """Runs calls that wait at the same time; returns arrays or errors."""

    def call(value):
        try:
            return batcher.run(recorder, {"x": value}, fetches, deadline)[0]
        except RequestError as error:
            return error

    with ThreadPoolExecutor(len(values) + 1) as pool:
        recorder.gate.clear()
        # Keeps the only thread busy until all the others wait.
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
    answers = together(batcher(), recorder, [np.full(2, 1.0), np.full(1, 2.0), np.full(3, 3.0)])
    assert [answer.tolist() for answer in answers] == [[2.0, 2.0], [4.0], [6.0, 6.0, 6.0]]
    assert recorder.runs == [(1,), (6,)]


def test_a_full_batch_takes_no_more(batcher, recorder):
    together(batcher(max_batch_size=4, max_execution_batch_size=4), recorder, [np.ones(3), np.ones(2), np.ones(2)])
    assert recorder.runs == [(1,), (3,), (4,)]


def test_batches_are_filled_up_to_an_allowed_size(batcher, recorder):
    made = batcher(max_batch_size=8, max_execution_batch_size=8, allowed_batch_sizes=(4, 8))
    (answer,) = together(made, recorder, [np.ones(3)])
    assert answer.tolist() == [2.0] * 3
    assert recorder.runs == [(4,), (4,)]


def test_other_shapes_do_not_meet(batcher, recorder):
    answers = together(batcher(), recorder, [np.ones((1, 2)), np.ones((1, 3)), np.ones((2, 2))])
    assert [answer.shape for answer in answers] == [(1, 2), (1, 3), (2, 2)]
    assert sorted(recorder.runs[1:]) == [(1, 3), (3, 2)]


def test_other_shapes_are_padded_where_that_is_asked_for(batcher, recorder):
    answers = together(batcher(pad_variable_length_inputs=True), recorder, [np.ones((1, 2)), np.ones((1, 3))])
    assert recorder.runs[1:] == [(2, 3)]
    assert answers[0].tolist() == [[2.0, 2.0, 0.0]]


def test_a_large_call_is_split(batcher, recorder):
    made = batcher(max_batch_size=10, max_execution_batch_size=4)
    (answer,) = together(made, recorder, [np.arange(10.0)])
    assert answer.tolist() == (2 * np.arange(10.0)).tolist()
    assert recorder.runs[1:] == [(4,), (4,), (2,)]


def test_one_bad_call_is_the_trouble_of_nobody_else(batcher, recorder):
    answers = together(batcher(), recorder, [np.ones(1), np.full(1, -1.0), np.ones(2)])
    assert answers[0].tolist() == [2.0] and answers[2].tolist() == [2.0, 2.0]
    assert isinstance(answers[1], RequestError) and answers[1].code == "INVALID_ARGUMENT"


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
        batcher(max_batch_size=4, max_execution_batch_size=4).run(recorder, feeds, ("y",), None)
    assert (raised.value.code, raised.value.message) == ("INVALID_ARGUMENT", message)


def test_outputs_without_a_batch_dimension_are_told(batcher, recorder):
    answers = together(batcher(), recorder, [np.ones(1), np.ones(1)], fetches=("scalar",))
    # Run alone they are what the model says.
    assert [np.shape(answer) for answer in answers] == [(), ()]


def test_the_queue_has_an_end(batcher, recorder):
    made = batcher(max_batch_size=2, max_execution_batch_size=2, max_enqueued_batches=2)
    answers = together(made, recorder, [np.ones(2)] * 4)
    assert [type(answer) is RequestError for answer in answers] == [False, False, True, True]
    assert answers[2].code == "UNAVAILABLE"
    assert answers[2].message.startswith("The batch scheduling queue to which this task was submitted is full")
    assert together(made, recorder, [np.ones(2)])[0].tolist() == [2.0, 2.0]


def test_what_nobody_waits_for_any_more_is_not_run(batcher, recorder):
    made = batcher()
    (late,) = together(made, recorder, [np.ones(5)], deadline=time.monotonic() + 0.005)
    assert late.code == "DEADLINE_EXCEEDED"
    made.stop()
    assert (5,) not in recorder.runs


def test_a_batch_that_is_not_full_waits_for_more(batcher, recorder):
    made = batcher(num_batch_threads=2, batch_timeout_micros=300_000)
    with ThreadPoolExecutor(2) as pool:
        futures = [pool.submit(made.run, recorder, {"x": np.ones(1)}, ("y",), None) for _ in range(2)]
        assert [future.result()[0].tolist() for future in futures] == [[2.0], [2.0]]
    assert recorder.runs == [(2,)]


def test_without_batching_calls_take_turns_in_order():
    recorder, admission, order = Recorder(), Admission(1, 2), []
    recorder.gate.clear()

    def run(number, deadline=None):
        class Servable:
            def run_now(self, feeds, fetches):
                recorder.gate.wait(30)
                order.append(number)
                return []

        try:
            return admission.run(Servable(), {}, (), deadline)
        except RequestError as error:
            return error.code

    with ThreadPoolExecutor(4) as pool:
        futures = []
        for number, deadline in ((0, None), (1, None), (2, time.monotonic() + 0.2), (3, None)):
            futures.append(pool.submit(run, number, deadline))
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


def test_answers_are_the_same_with_batching(start_server, push_toy, tmp_path):
    push_toy(tmp_path / "toy", 1)
    server = start_server(
        "toy", tmp_path / "toy", options=ServerOptions(batching=BatchingParameters(batch_timeout_micros=2000))
    )
    url = f"http://127.0.0.1:{server.rest_port}/v1/models/toy"

    def ask(number):
        body = {"signature_name": "plain", "instances": [float(number)] * (number % 3 + 1)}
        return httpx.post(f"{url}:predict", json=body, trust_env=False, timeout=30).json()["predictions"]

    with ThreadPoolExecutor(8) as pool:
        for number, answer in enumerate(pool.map(ask, range(24))):
            assert answer == [0.5 * number + 2] * (number % 3 + 1)
    reply = httpx.post(f"{url}:regress", json={"signature_name": "regress", "examples": [{"x": 1.0}]}, trust_env=False)
    assert reply.json() == {"results": [2.5]}


def test_a_models_own_parameters(start_server, push_toy, tmp_path):
    push_toy(tmp_path / "toy", 1)
    (tmp_path / "toy" / "1" / "batching_params.pbtxt").write_text("max_batch_size { value: 2 }")
    options = ServerOptions(batching=BatchingParameters(), batching_from_models=True)
    server = start_server("toy", tmp_path / "toy", options=options)
    reply = httpx.post(
        f"http://127.0.0.1:{server.rest_port}/v1/models/toy:predict",
        json={"signature_name": "plain", "instances": [1.0, 2.0, 3.0]},
        trust_env=False,
    )
    assert reply.status_code == 400
    assert reply.json() == {"error": "Task size 3 is larger than maximum input batch size 2"}


@pytest.mark.parametrize("batched", [False, True])
def test_ten_times_too_much(start_server, push_toy, tmp_path, batched):
    """Some are answered, the rest is told to come again; memory stays, and so does the server."""
    push_toy(tmp_path / "toy", 1)
    few = BatchingParameters(max_batch_size=1, max_execution_batch_size=1, max_enqueued_batches=6, num_batch_threads=2)
    options = ServerOptions(running=2, waiting=6, batching=few if batched else None)
    server = start_server("toy", tmp_path / "toy", options=options)
    before = psutil.Process().memory_info().rss
    url = f"http://127.0.0.1:{server.rest_port}/v1/models/toy:predict"
    # A body of a megabyte: what waits must not be kept ten times over.
    body = '{"signature_name": "spin", "inputs": [200], "padding": "' + "x" * 2**20 + '"}'
    answers = []

    def over_grpc():
        with grpc.insecure_channel(f"127.0.0.1:{server.grpc_port}", [("grpc.use_local_subchannel_pool", 1)]) as channel:
            try:
                prediction_service_pb2_grpc.PredictionServiceStub(channel).Predict(spin_request(200), timeout=30)
                answers.append("OK")
            except grpc.RpcError as error:
                answers.append(error.code().name)

    def over_rest():
        reply = httpx.post(url, content=body, trust_env=False, timeout=30)
        answers.append(reply.status_code)

    with ThreadPoolExecutor(80) as pool:
        for _ in range(40):
            pool.submit(over_grpc)
            pool.submit(over_rest)
    assert len(answers) == 80
    assert set(answers) <= {"OK", "UNAVAILABLE", 200, 503}
    assert {"UNAVAILABLE", 503} <= set(answers) and ("OK" in answers or 200 in answers)
    assert psutil.Process().memory_info().rss - before < 300 * 2**20
    reply = httpx.post(url, content='{"signature_name": "plain", "instances": [1.0]}', trust_env=False, timeout=30)
    assert reply.json() == {"predictions": [2.5]}
    answers.clear()
    over_grpc()
    assert answers == ["OK"]
