"""The overhead of the client over a raw call, whose request exists already and whose response is not read.

Usage: .venv/bin/python tests/bench/client.py [--weights FILE] [--calls 60] [--batches 1 8]

The server is a process of its own and serves a MobileNetV2 of 224 pixels (without --weights random ones, which take as
long). Raw calls and client calls alternate, so that other load of the machine affects both equally; the overhead is
the median of the differences of neighbouring calls, over the median of the raw ones.
"""

from __future__ import annotations

import argparse
import asyncio
import base64
import contextlib
import io
import json
import re
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import grpc
import httpx
import numpy as np
from PIL import Image
from tensorflow_serving.apis import predict_pb2, prediction_service_pb2_grpc

from serving import client as clients

_MODEL = "mobilenet"


def export_model(folder: Path, weights: str) -> None:
    """Writes a version of the model, as a Trainer does."""
    import keras
    import tensorflow as tf

    from trainer_module import export, features
    from trainer_module.input_pipeline import PixelStatistics
    from trainer_module.network import build as build_network
    from trainer_module.options import TrainerOptions

    class TransformLayer(tf.Module):
        def __call__(self, raw: dict[str, tf.Tensor]) -> dict[str, tf.Tensor]:
            return {features.LABEL: tf.zeros_like(raw[features.CLASS_TEXT], tf.int64)}

    keras.utils.set_random_seed(1)
    options = TrainerOptions(
        classes=tuple(f"class {number}" for number in range(10)),
        transform={"image_size": 224, "normalization": "backbone"},
        model={"name": "transfer", "backbone": "mobilenet_v2", "weights": weights},
    )
    model = build_network(options, PixelStatistics(np.zeros(3, np.float32), np.ones(3, np.float32)))
    export.export(
        model,
        options,
        tft_layer=TransformLayer(),
        raw_feature_spec={features.CLASS_TEXT: tf.io.FixedLenFeature([], tf.string)},
        serving_dir=str(folder / _MODEL / "1"),
        run_dir=str(folder / "run"),
    )


@contextlib.contextmanager
def server(base_path: Path) -> Iterator[tuple[str, str]]:
    """Serves it; gives the addresses for gRPC and REST."""
    command = [sys.executable, "-m", "pipeline", "serve", "--model-name", _MODEL, "--port", "0", "--rest-api-port", "0"]
    process = subprocess.Popen([*command, "--model-base-path", base_path], stderr=subprocess.PIPE, text=True)
    assert process.stderr is not None
    try:
        for line in process.stderr:
            if match := re.search(r"gRPC (\S+), REST (\S+)", line):
                yield match[1], match[2]
                break
        else:
            raise SystemExit("the server did not start")
    finally:
        process.terminate()
        process.wait()


def photograph(random: np.random.Generator) -> bytes:
    """A JPEG file of 500 x 375 pixels, smooth as photographs are."""
    small = Image.fromarray(random.integers(0, 256, (24, 32, 3), dtype=np.uint8))
    buffer = io.BytesIO()
    small.resize((500, 375), Image.Resampling.BICUBIC).save(buffer, "JPEG", quality=90)
    return buffer.getvalue()


def measure(raw: Callable[[], object], ours: Callable[[], object], calls: int) -> tuple[float, float]:
    """Returns the median of the raw calls and the overhead of the client, ms."""
    times: dict[Callable[[], object], list[float]] = {raw: [], ours: []}
    for number in range(calls + 5):
        for call in (raw, ours) if number % 2 else (ours, raw):
            start = time.perf_counter()
            call()
            if number >= 5:  # the first ones connect, and let the server make room
                times[call].append(1e3 * (time.perf_counter() - start))
    differences = [our - bare for our, bare in zip(times[ours], times[raw], strict=True)]
    return statistics.median(times[raw]), statistics.median(differences)


def compare(grpc_address: str, url: str, images: list[bytes], calls: int) -> Iterator[tuple[str, float, float]]:
    """Name, raw ms and overhead ms of each of the four kinds of client."""
    request = predict_pb2.PredictRequest()
    request.model_spec.name, request.model_spec.signature_name = _MODEL, "serving_default"
    tensor = request.inputs["image_bytes"]
    tensor.dtype = 7
    tensor.tensor_shape.dim.add(size=len(images))
    tensor.string_val.extend(images)
    body = json.dumps({"instances": [{"b64": base64.b64encode(image).decode()} for image in images]}).encode()
    path = f"{url}/v1/models/{_MODEL}:predict"
    unlimited = [("grpc.max_receive_message_length", -1)]

    with grpc.insecure_channel(grpc_address, unlimited) as channel, clients.GrpcClient(grpc_address, _MODEL) as client:
        stub = prediction_service_pb2_grpc.PredictionServiceStub(channel)
        yield "gRPC", *measure(lambda: stub.Predict(request), lambda: client.predict(images).or_raise(), calls)
    with httpx.Client(trust_env=False, timeout=60) as http, clients.RestClient(url, _MODEL) as client:
        yield (
            "REST",
            *measure(
                lambda: http.post(path, content=body).raise_for_status(),
                lambda: client.predict(images).or_raise(),
                calls,
            ),
        )
    with asyncio.Runner() as runner:

        async def ask(client: clients.AsyncClient) -> None:
            (await client.predict(images)).or_raise()

        async def raw_grpc() -> None:
            await stub.Predict(request)

        async def raw_rest() -> None:
            (await async_http.post(path, content=body)).raise_for_status()

        async def opened() -> tuple[grpc.aio.Channel, clients.AsyncClient]:
            return grpc.aio.insecure_channel(grpc_address, unlimited), clients.AsyncGrpcClient(grpc_address, _MODEL)

        async_channel, async_client = runner.run(opened())
        stub = prediction_service_pb2_grpc.PredictionServiceStub(async_channel)
        yield "gRPC, asyncio", *measure(lambda: runner.run(raw_grpc()), lambda: runner.run(ask(async_client)), calls)
        runner.run(async_channel.close())
        runner.run(async_client.close())
        async_http, rest_client = httpx.AsyncClient(trust_env=False, timeout=60), clients.AsyncRestClient(url, _MODEL)
        yield "REST, asyncio", *measure(lambda: runner.run(raw_rest()), lambda: runner.run(ask(rest_client)), calls)
        runner.run(async_http.aclose())
        runner.run(rest_client.close())


def main() -> None:
    """Prints a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--weights", default="none")
    parser.add_argument("--calls", type=int, default=60)
    parser.add_argument("--batches", type=int, nargs="+", default=[1, 8])
    arguments = parser.parse_args()
    image = photograph(np.random.default_rng(1))
    with tempfile.TemporaryDirectory() as folder:
        export_model(Path(folder), arguments.weights)
        with server(Path(folder) / _MODEL) as (grpc_address, url):
            print(f"a JPEG of {len(image) / 1024:.0f} KiB, medians of {arguments.calls} calls\n")
            print(f"{'client':<16}{'images':>9}{'raw, ms':>10}{'client, +ms':>11}{'overhead':>10}")
            for batch in arguments.batches:
                for name, raw, more in compare(grpc_address, url, [image] * batch, arguments.calls):
                    print(f"{name:<16}{batch:>9}{raw:>10.1f}{more:>11.2f}{more / raw:>10.1%}", flush=True)


if __name__ == "__main__":
    main()
