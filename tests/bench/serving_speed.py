"""Requests a second and latency of the local server, of the bare model, and of another server of the same model.

python tests/bench/serving_speed.py [--weights FILE.h5] [--peer VENV] [--before CHECKOUT] [--seconds 4] [--rounds 2]

VENV is an environment of its own with `mlserver` and `tensorflow-cpu` (uv venv --python 3.11 VENV; uv pip install
--python VENV/bin/python mlserver tensorflow-cpu). Everything runs in one go and takes turns, so that other work on the
machine slows all alike: the bare signature in a loop (one process, no server: the limit), then each server, asked over
gRPC and REST by 1, 8 and 32 clients that do nothing but send the same bytes again. Every figure is the better of the
rounds. The clients share the cores with the servers.
"""

from __future__ import annotations

import argparse
import base64
import contextlib
import http.client
import io
import json
import math
import os
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

CLIENTS = (1, 8, 32)
HERE = Path(sys.executable).parent

BARE = """
import json, sys, time
import numpy as np, tensorflow as tf
signature = tf.saved_model.load(sys.argv[1]).signatures["serving_default"]
images = tf.constant([open(sys.argv[2], "rb").read()])
signature(images)
print("ready", flush=True)
for line in sys.stdin:
    times, end = [], time.perf_counter() + float(line)
    while time.perf_counter() < end:
        start = time.perf_counter()
        {name: value.numpy() for name, value in signature(images).items()}
        times.append(time.perf_counter() - start)
    print(json.dumps(times), flush=True)
"""

# As mlserver's documentation builds a custom runtime; the model runs in a thread, so that its loop stays free.
RUNTIME = """
import asyncio
import tensorflow as tf
from mlserver import MLModel
from mlserver.codecs import NumpyCodec, StringCodec
from mlserver.types import InferenceResponse

class SavedModel(MLModel):
    async def load(self):
        self._loaded = tf.saved_model.load(self.settings.parameters.uri)
        self._signature = self._loaded.signatures["serving_default"]
        return True

    def _run(self, images):
        return {name: value.numpy() for name, value in self._signature(tf.constant(images)).items()}

    async def predict(self, payload):
        data = payload.inputs[0].data.root if hasattr(payload.inputs[0].data, "root") else payload.inputs[0].data
        if payload.inputs[0].parameters and payload.inputs[0].parameters.content_type == "base64":
            import base64
            data = [base64.b64decode(item) for item in data]
        outputs = await asyncio.get_running_loop().run_in_executor(None, self._run, list(data))
        encoded = [
            StringCodec.encode_output(name, [item.decode() for item in value.tolist()])
            if value.dtype == object else NumpyCodec.encode_output(name, value)
            for name, value in outputs.items()
        ]
        return InferenceResponse(model_name=self.name, outputs=encoded)
"""


def export_models(folder: Path, weights: str, names: list[str]) -> dict[str, tuple[Path, bytes]]:
    """Writes the models, untrained, as a trainer exports them: name → (SavedModel, an image)."""
    import keras
    import tensorflow as tf
    from PIL import Image

    from trainer_module import export, features
    from trainer_module.input_pipeline import PixelStatistics
    from trainer_module.network import build as build_network
    from trainer_module.options import TrainerOptions, TransformOptions

    classes = tuple("0123456789")

    class TransformLayer(tf.Module):
        def __init__(self) -> None:
            super().__init__()
            initializer = tf.lookup.KeyValueTensorInitializer(tf.constant(classes), tf.range(10, dtype=tf.int64))
            self.table = tf.lookup.StaticHashTable(initializer, -1)

        def __call__(self, raw: dict[str, Any]) -> dict[str, Any]:
            return {features.LABEL: self.table.lookup(raw[features.CLASS_TEXT])}

    kinds = {
        "digits": (
            TransformOptions(image_size=16, channels=1),
            {"name": "scratch_cnn", "blocks": [[32, 32], [64, 64], [128]]},
            {"name": "classification", "dense_units": 128},
            (16, "PNG"),
        ),
        "mobilenet": (
            TransformOptions(image_size=224, normalization="backbone"),
            {"name": "transfer", "backbone": "mobilenet_v2", "weights": weights},
            {"name": "classification"},
            (224, "JPEG"),
        ),
    }
    made = {}
    for name in names:
        transform, model, task, (side, format_) = kinds[name]
        keras.utils.set_random_seed(5)
        options = TrainerOptions(classes=classes, transform=transform, model=model, task=task)
        channels = transform.channels
        statistics = PixelStatistics(np.full(channels, 100.0, np.float32), np.full(channels, 2500.0, np.float32))
        saved = folder / name / "1"
        export.export(
            build_network(options, statistics),
            options,
            tft_layer=TransformLayer(),
            raw_feature_spec={features.CLASS_TEXT: tf.io.FixedLenFeature([], tf.string)},
            serving_dir=str(saved),
            run_dir=str(folder / f"{name}-run"),
        )
        waves = np.sin(np.arange(side)[:, None, None] / 9 + np.arange(3)) * np.cos(np.arange(side)[None, :, None] / 7)
        pixels = (127 + 100 * waves + np.random.default_rng(1).normal(0, 8, (side, side, 3))).clip(0, 255)
        image = Image.fromarray(pixels.astype(np.uint8))
        buffer = io.BytesIO()
        (image.convert("L") if channels == 1 else image).save(buffer, format_)
        made[name] = saved, buffer.getvalue()
    return made


class Bare:
    """The loop without a server, in a process of its own."""

    def __init__(self, saved: Path, image_path: Path) -> None:
        """Loads the model."""
        self._process = subprocess.Popen(
            [sys.executable, "-c", BARE, str(saved), str(image_path)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
        )
        self._line()

    def _line(self) -> str:
        assert self._process.stdout
        return self._process.stdout.readline()

    def run(self, seconds: float) -> list[float]:
        """Seconds of every call."""
        assert self._process.stdin
        self._process.stdin.write(f"{seconds}\n")
        self._process.stdin.flush()
        times: list[float] = json.loads(self._line())
        return times

    def close(self) -> None:
        """Ends the process."""
        self._process.kill()
        self._process.wait()


class Server:
    """A server in a process of its own, and the requests that it understands."""

    def __init__(
        self,
        command: list[str],
        ports: tuple[int, int],
        method: str,
        request: bytes,
        rest: tuple[str, bytes],
        folder: Path | None = None,
    ) -> None:
        """Starts it and waits for the first response.

        Args:
          command: Its command line.
          ports: Ports of gRPC and REST.
          method: gRPC's path.
          request: The serialised message.
          rest: Path and body.
          folder: Where it is started.
        """
        self.grpc_port, self._rest_port = ports
        self._method, self._request, (self._path, self._body) = method, request, rest
        started = time.perf_counter()
        self._log = tempfile.TemporaryFile()
        self._process = subprocess.Popen(command, stdout=self._log, stderr=self._log, cwd=folder)
        with self.asking("grpc") as ask:
            while True:
                try:
                    ask()
                    break
                except Exception:
                    if self._process.poll() is not None or time.perf_counter() - started > 180:
                        self._log.seek(0)
                        raise SystemExit(f"{command}: {self._log.read().decode()[-3000:]}") from None
                    time.sleep(0.05)
        self.start_s = time.perf_counter() - started

    @contextlib.contextmanager
    def asking(self, protocol: str) -> Iterator[Callable[[], None]]:
        """A client: a connection of its own, and nothing but bytes."""
        if protocol == "grpc":
            import grpc

            # Channels to one address share their connection by default.
            options = [("grpc.use_local_subchannel_pool", 1)]
            with grpc.insecure_channel(f"127.0.0.1:{self.grpc_port}", options) as channel:
                call = channel.unary_unary(self._method)
                yield lambda: call(self._request, timeout=60)
            return
        connection = http.client.HTTPConnection("127.0.0.1", self._rest_port, timeout=60)
        connection.connect()
        connection.sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

        def post() -> None:
            connection.request("POST", self._path, self._body, {"content-type": "application/json"})
            response = connection.getresponse()
            text = response.read()
            if response.status != 200:
                raise RuntimeError(text)

        yield post
        connection.close()

    def run(self, protocol: str, clients: int, seconds: float) -> list[float]:
        """Returns the seconds of every request of some clients that send as fast as they get responses."""
        times: list[list[float]] = [[] for _ in range(clients)]
        failures: list[Exception] = []
        together = threading.Barrier(clients + 1)

        def client(mine: list[float]) -> None:
            try:
                with self.asking(protocol) as ask:
                    ask()
                    together.wait()
                    end = time.perf_counter() + seconds
                    while (start := time.perf_counter()) < end:
                        ask()
                        mine.append(time.perf_counter() - start)
            except Exception as error:
                failures.append(error)
                together.abort()

        threads = [threading.Thread(target=client, args=(mine,)) for mine in times]
        for thread in threads:
            thread.start()
        with contextlib.suppress(threading.BrokenBarrierError):
            together.wait()
        for thread in threads:
            thread.join()
        if failures:
            raise failures[0]
        return [each for mine in times for each in mine]

    def cpu_s(self) -> float:
        """The processor time of the process so far: other programs on the machine hardly change it."""
        fields = Path(f"/proc/{self._process.pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

    def memory_mb(self) -> float:
        """The most that the process has held so far."""
        lines = Path(f"/proc/{self._process.pid}/status").read_text().splitlines()
        return int(next(line.split()[1] for line in lines if line.startswith("VmHWM"))) / 1024

    def close(self) -> None:
        """Ends the process."""
        self._process.terminate()
        try:
            self._process.wait(40)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()


def free_ports(count: int) -> list[int]:
    """Returns unused ports."""
    sockets = [socket.socket() for _ in range(count)]
    for each in sockets:
        each.bind(("127.0.0.1", 0))
    ports = [int(each.getsockname()[1]) for each in sockets]
    for each in sockets:
        each.close()
    return ports


def ours(saved: Path, image: bytes, *flags: str, code: Path | None = None) -> Server:
    """The local server, of this checkout or another."""
    import tensorflow as tf
    from tensorflow_serving.apis import predict_pb2

    request = predict_pb2.PredictRequest()
    request.model_spec.name = "model"
    request.inputs["image_bytes"].CopyFrom(tf.make_tensor_proto([image]))
    grpc_port, rest_port = free_ports(2)
    command = [
        *("env", f"PYTHONPATH={(code or Path(__file__).parents[2]).resolve()}"),
        str(HERE / "tensorflow_model_server"),
        f"--port={grpc_port}",
        f"--rest_api_port={rest_port}",
        "--model_name=model",
        *flags,
        f"--model_base_path={saved.parent}",
    ]
    body = json.dumps({"instances": [{"b64": base64.b64encode(image).decode()}]}).encode()
    method = "/tensorflow.serving.PredictionService/Predict"
    path = "/v1/models/model:predict"
    return Server(command, (grpc_port, rest_port), method, request.SerializeToString(), (path, body))


def peer(venv: Path, saved: Path, image: bytes, folder: Path) -> Server:
    """mlserver, with the same SavedModel."""
    folder.mkdir()
    grpc_port, rest_port, metrics_port = free_ports(3)
    (folder / "savedmodel_runtime.py").write_text(RUNTIME)
    settings = {
        "host": "127.0.0.1",
        "http_port": rest_port,
        "grpc_port": grpc_port,
        "metrics_port": metrics_port,
        "parallel_workers": 0,
        "debug": False,
        "use_structured_logging": False,
    }
    (folder / "settings.json").write_text(json.dumps(settings))
    implementation = "savedmodel_runtime.SavedModel"
    model = {"name": "model", "implementation": implementation, "parameters": {"uri": str(saved)}}
    (folder / "model-settings.json").write_text(json.dumps(model))
    code = (
        "import sys; from mlserver.grpc import dataplane_pb2 as d; r = d.ModelInferRequest(model_name='model');"
        "i = r.inputs.add(name='image_bytes', datatype='BYTES', shape=[1]);"
        "i.contents.bytes_contents.append(open(sys.argv[1], 'rb').read());"
        "sys.stdout.buffer.write(r.SerializeToString())"
    )
    image_path = folder / "image"
    image_path.write_bytes(image)
    request = subprocess.run([venv / "bin" / "python", "-c", code, image_path], capture_output=True, check=True).stdout
    body = {
        "inputs": [
            {
                "name": "image_bytes",
                "datatype": "BYTES",
                "shape": [1],
                "data": [base64.b64encode(image).decode()],
                "parameters": {"content_type": "base64"},
            }
        ]
    }
    command = [str(venv / "bin" / "mlserver"), "start", str(folder)]
    method = "/inference.GRPCInferenceService/ModelInfer"
    path = "/v2/models/model/infer"
    return Server(command, (grpc_port, rest_port), method, request, (path, json.dumps(body).encode()), folder)


def figures(times: list[float], seconds: float) -> tuple[float, float, float]:
    """Requests a second, and the 50th and 99th percentile of the latency, ms."""
    return (len(times) / seconds, *(float(value) * 1000 for value in np.percentile(times, (50, 99))))


def compare(bare: Bare, servers: dict[str, Server], seconds: float, rounds: int, clients: list[int]) -> None:
    """Measures the bare model and the servers in turns, and prints the better of the rounds; cpu: of one request."""
    best: dict[tuple[str, str, int], tuple[float, float, float]] = {}
    cost: dict[tuple[str, str, int], float] = {}

    def add(key: tuple[str, str, int], times: list[float]) -> None:
        best[key] = max(best.get(key, (0.0, 0.0, 0.0)), figures(times, seconds))

    for _ in range(rounds):
        for count in clients:
            for protocol in ("grpc", "rest"):
                add(("bare", "", 1), bare.run(seconds))
                for title, server in servers.items():
                    before = server.cpu_s()
                    times = server.run(protocol, count, seconds)
                    key = title, protocol, count
                    cost[key] = min(cost.get(key, math.inf), (server.cpu_s() - before) / len(times) * 1000)
                    add(key, times)
    limit = best["bare", "", 1][0]
    for (title, protocol, count), (rate, median, tail) in sorted(
        best.items(), key=lambda item: item[0][1:] + item[0][:1]
    ):
        print(
            f"{title:16} {protocol:5} clients {count:2}  {rate:8.1f}/s  p50 {median:7.2f} ms  "
            f"p99 {tail:7.2f} ms  {rate / limit:6.1%} of bare  cpu {cost.get((title, protocol, count), 0):5.2f} ms"
        )
    for title, server in servers.items():
        print(f"{title:16} starts in {server.start_s:.1f} s, holds {server.memory_mb():.0f} MB at most", flush=True)


def main() -> None:
    """Measures and prints."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--weights", default="none", help="of MobileNetV2; random when absent")
    parser.add_argument("--peer", type=Path, help="an environment with mlserver and TensorFlow")
    parser.add_argument("--before", type=Path, help="another checkout of this project, whose server is measured too")
    parser.add_argument("--no-batching", action="store_true")
    parser.add_argument("--seconds", type=float, default=4.0)
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--models", default="digits,mobilenet")
    parser.add_argument("--clients", default=",".join(map(str, CLIENTS)))
    arguments = parser.parse_args()
    clients = [int(number) for number in arguments.clients.split(",")]
    print(f"cores: {os.cpu_count()}, load before: {os.getloadavg()[0]:.1f}", flush=True)
    with tempfile.TemporaryDirectory() as root:
        folder = Path(root)
        batching = folder / "batching.config"
        batching.write_text(
            "max_batch_size { value: 16 } batch_timeout_micros { value: 0 } "
            "num_batch_threads { value: 2 } max_enqueued_batches { value: 100 }\n"
        )
        models = export_models(folder, arguments.weights, arguments.models.split(","))
        for name, (saved, image) in models.items():
            with contextlib.ExitStack() as running:  # whatever happens, no server is left behind
                image_path = folder / f"{name}.image"
                image_path.write_bytes(image)
                bare = Bare(saved, image_path)
                running.callback(bare.close)
                servers = {"ours": ours(saved, image)}
                running.callback(servers["ours"].close)
                if arguments.before:
                    servers["before"] = ours(saved, image, code=arguments.before)
                    running.callback(servers["before"].close)
                flags = ("--enable_batching", f"--batching_parameters_file={batching}")
                if not arguments.no_batching:
                    servers["ours, batching"] = ours(saved, image, *flags)
                    running.callback(servers["ours, batching"].close)
                if arguments.peer:
                    servers["mlserver"] = peer(arguments.peer, saved, image, folder / f"peer-{name}")
                    running.callback(servers["mlserver"].close)
                print(f"\n{name}: {len(image)} bytes per image")
                compare(bare, servers, arguments.seconds, arguments.rounds, clients)
    print(f"load after: {os.getloadavg()[0]:.1f}")


if __name__ == "__main__":
    main()
