"""Requests while versions are pushed, one of them broken: none may fail, and versions only increase.

python tests/bench/hot_reload.py [--requests 10000] [--clients 8]

Half of the clients ask over gRPC, half over REST. Version 1 is served when they begin; 2, 3 (its variables are cut
short) and 4 are pushed when a quarter, a half and three quarters of the requests are done. Ends with 1 if
anything went wrong.
"""

from __future__ import annotations

import argparse
import http.client
import json
import shutil
import sys
import tempfile
import threading
import time
from pathlib import Path

import grpc
import numpy as np
import tensorflow as tf
from tensorflow_serving.apis import predict_pb2, prediction_service_pb2_grpc

from serving.local_server.server import LocalServer


def save(folder: Path, version: int) -> None:
    """Saves a model that returns its version."""

    class Constant(tf.Module):
        def __init__(self) -> None:
            super().__init__()
            self.version = tf.Variable(float(version))

        @tf.function(input_signature=[tf.TensorSpec([None], tf.float32, name="x")])
        def __call__(self, x: tf.Tensor) -> dict[str, tf.Tensor]:
            return {"y": 0.0 * x + self.version}

    model = Constant()
    tf.saved_model.save(model, str(folder), signatures={"serving_default": model.__call__})


class Tally:
    """The versions that the clients have received."""

    def __init__(self, clients: int) -> None:
        """Nothing yet."""
        self.versions: list[list[int]] = [[] for _ in range(clients)]
        self.times: list[float] = []
        self.failures: list[str] = []

    def num_done(self) -> int:
        """Requests so far."""
        return sum(map(len, self.versions))


def ask_grpc(port: int, tally: Tally, mine: list[int], count: int) -> None:
    """One client over gRPC."""
    request = predict_pb2.PredictRequest()
    request.model_spec.name = "model"
    request.inputs["x"].CopyFrom(tf.make_tensor_proto([0.0]))
    with grpc.insecure_channel(f"127.0.0.1:{port}", [("grpc.use_local_subchannel_pool", 1)]) as channel:
        stub = prediction_service_pb2_grpc.PredictionServiceStub(channel)
        for _ in range(count):
            start = time.perf_counter()
            response = stub.Predict(request, timeout=60)
            tally.times.append(time.perf_counter() - start)
            if response.outputs["y"].float_val[0] != response.model_spec.version.value:
                raise RuntimeError(
                    f"version {response.model_spec.version.value} returned the output of another: {response}"
                )
            mine.append(response.model_spec.version.value)


def ask_rest(port: int, tally: Tally, mine: list[int], count: int) -> None:
    """One client over REST."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
    for _ in range(count):
        start = time.perf_counter()
        connection.request("POST", "/v1/models/model:predict", '{"instances": [0.0]}')
        response = connection.getresponse()
        text = response.read()
        tally.times.append(time.perf_counter() - start)
        if response.status != 200:
            raise RuntimeError(f"{response.status}: {text.decode()}")
        mine.append(int(json.loads(text)["predictions"][0]))
    connection.close()


def main() -> int:
    """Sends requests while versions are pushed, and prints the latencies and errors."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--requests", type=int, default=10_000)
    parser.add_argument("--clients", type=int, default=8)
    arguments = parser.parse_args()
    each = arguments.requests // arguments.clients
    with tempfile.TemporaryDirectory() as root:
        base, staged = Path(root) / "model", Path(root) / "staged"
        for version in (1, 2, 3, 4):
            save(staged / str(version), version)
        cut = staged / "3" / "variables" / "variables.data-00000-of-00001"
        cut.write_bytes(cut.read_bytes()[:1])
        base.mkdir()
        shutil.move(staged / "1", base / "1")
        server = LocalServer("model", base, port=0, rest_api_port=0)
        server.source.poll()
        server.start()
        tally = Tally(arguments.clients)

        def client(number: int) -> None:
            try:
                ask, port = (ask_grpc, server.grpc_port) if number % 2 else (ask_rest, server.rest_port)
                ask(port, tally, tally.versions[number], each)
            except Exception as error:
                tally.failures.append(f"client {number}: {error}")

        threads = [threading.Thread(target=client, args=(number,)) for number in range(arguments.clients)]
        started = time.perf_counter()
        for thread in threads:
            thread.start()
        for position, version in enumerate((2, 3, 4), start=1):
            while tally.num_done() < position * arguments.requests // 4 and any(t.is_alive() for t in threads):
                time.sleep(0.01)
            (staged / str(version)).rename(base / str(version))
        for thread in threads:
            thread.join()
        seconds = time.perf_counter() - started
        states = {entry.number: entry.state for entry in server.source.status("model")}
        server.stop()
    seen = sorted({version for versions in tally.versions for version in versions})
    upwards = all(versions == sorted(versions) for versions in tally.versions)
    median, tail = np.percentile(tally.times, (50, 99)) * 1000
    print(f"{tally.num_done()} of {each * arguments.clients} requests done in {seconds:.1f} s, "
          f"p50 {median:.1f} ms, p99 {tail:.1f} ms, longest {max(tally.times) * 1000:.0f} ms")  # fmt: skip
    print(f"failures: {tally.failures or 'none'}; versions seen: {seen}, only upwards: {upwards}; states: {states}")
    good = not tally.failures and upwards and 3 not in seen and len(seen) > 1
    return 0 if good and tally.num_done() == each * arguments.clients else 1


if __name__ == "__main__":
    sys.exit(main())
