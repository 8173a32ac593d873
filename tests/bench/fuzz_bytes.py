"""Mutated bytes of HTTP/1.1, HTTP/2 and gRPC against a model server: it responds with errors, and keeps responding.

python tests/bench/fuzz_bytes.py [--seconds 60] [--seed 1]

Starts the local server with a small model. Every connection sends a sequence of valid requests with some bytes changed,
removed, repeated or inserted, and ends its side. A response that reports a fault of the server, or a valid request that
fails afterwards, is printed with the bytes, and the process ends with 1. A test runs 500 connections of a fixed
seed.
"""

from __future__ import annotations

import argparse
import random
import socket
import struct
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
TOKENS = (
    b"\r\n", b"\r\n\r\n", b"\n", b"\0", b"\xff" * 9, b": ", b"Content-Length: 9\r\n", b"Transfer-Encoding: chunked\r\n",
    b"Upgrade: h2c\r\nConnection: Upgrade\r\n", b"Expect: 100-continue\r\n", b"99999999999999999999", b"0\r\n\r\n",
    b"{", b'"b64"', b"1e999", b"\0\0\0\x04\0\0\0\0\0", b"\0\0\x04\x03\0\0\0\0\x01\0\0\0\x08",
    b"\xff\xff\xff\x01\x04\0\0\0\x01",
)  # fmt: skip


def http1_seeds(model: str) -> list[bytes]:
    """Valid requests over HTTP/1.1."""
    body = b'{"instances": [1.0, 2.5], "signature_name": "serving_default"}'
    path = f"/v1/models/{model}".encode()
    post = b"POST " + path + b":predict HTTP/1.1\r\nHost: a\r\n"
    chunks = b"%x\r\n" % len(body) + body + b"\r\n0\r\n\r\n"
    return [
        post + b"Content-Length: %d\r\n\r\n" % len(body) + body,
        post + b"Transfer-Encoding: chunked\r\nContent-Type: application/json\r\n\r\n" + chunks,
        b"GET " + path + b" HTTP/1.1\r\nHost: a\r\n\r\nGET " + path + b"/metadata HTTP/1.0\r\n\r\n",
        post + b"Connection: Upgrade\r\nUpgrade: websocket\r\nContent-Length: %d\r\n\r\n" % len(body) + body,
    ]


def frame(kind: int, flags: int, stream: int, payload: bytes) -> bytes:
    """A frame of HTTP/2 (RFC 9113, section 4.1)."""
    return struct.pack(">I", len(payload))[1:] + bytes([kind, flags]) + struct.pack(">I", stream) + payload


def header(name: str, value: str) -> bytes:
    """A header of HPACK, as a literal without indexing (RFC 7541, section 6.2.2)."""
    return b"\0" + bytes([len(name)]) + name.encode() + bytes([len(value)]) + value.encode()


def http2_seeds(messages: dict[str, bytes]) -> list[bytes]:
    """Valid calls over gRPC: method → serialized request."""
    seeds = []
    for method, message in messages.items():
        head = b"".join(
            header(name, value)
            for name, value in (
                (":method", "POST"), (":scheme", "http"), (":path", method), (":authority", "a"),
                ("content-type", "application/grpc"), ("te", "trailers"), ("grpc-timeout", "5S"),
            )
        )  # fmt: skip
        data = b"\0" + struct.pack(">I", len(message)) + message
        seeds.append(PREFACE + frame(4, 0, 0, b"") + frame(1, 4, 1, head) + frame(0, 1, 1, data))
    seeds.append(PREFACE + frame(4, 0, 0, b"\0\x04\0\1\0\0") + frame(6, 0, 0, bytes(8)) + frame(8, 0, 0, b"\0\0\1\0"))
    return seeds


def mutated(rng: random.Random, data: bytes) -> bytes:
    """Changes, removes, repeats or inserts bytes at a few positions."""
    changed = bytearray(data)
    for _ in range(rng.choice((1, 1, 2, 3, 8))):
        at = rng.randrange(len(changed)) if changed else 0
        kind = rng.randrange(6)
        if kind == 0 and changed:
            changed[at] = rng.randrange(256)
        elif kind == 1 and changed:
            changed[at] ^= 1 << rng.randrange(8)
        elif kind == 2:
            del changed[at : at + rng.choice((1, 2, 9, 40))]
        elif kind == 3:
            changed[at:at] = rng.choice(TOKENS)
        elif kind == 4:
            changed[at:at] = changed[at : at + rng.choice((4, 30))] * rng.choice((1, 3))
        else:
            changed[at:] = b""
    return bytes(changed)


def send(port: int, data: bytes) -> bytes:
    """Sends the bytes over a connection of their own, ends it, and returns what comes back, up to 64 KB."""
    received = b""
    try:
        with socket.create_connection(("127.0.0.1", port), timeout=20) as connection:
            connection.sendall(data)
            connection.shutdown(socket.SHUT_WR)
            while len(received) < 65536 and (part := connection.recv(65536)):
                received += part
    except ConnectionError:
        pass
    return received


def outcome(protocol: str, received: bytes) -> str:
    """Names the kind of a response; "fault" if it is one of the server."""
    if not received:
        return "closed"
    if protocol == "grpc":
        return "frames"
    status = received[9:12].decode("latin-1") if received.startswith(b"HTTP/1.1 ") else ""
    # 499 for a client that has left a queue, 503 and 504 for overload: none of them is expected here.
    return status if status in {"100", "200", "400", "404", "408", "413", "431", "501"} else f"fault {received[:200]!r}"


def fuzz(
    ports: dict[str, int], seeds: dict[str, list[bytes]], rng: random.Random, check: Callable[[], None]
) -> Iterator[str]:
    """Yields the outcome of one connection after another; "fault" if the server has a fault.

    Args:
      ports: "rest" and "grpc".
      seeds: The same.
      rng: Selects the mutations.
      check: Sends a valid request; it must not fail.
    """
    number = 0
    while True:
        number += 1
        protocol = rng.choice(("rest", "rest", "grpc"))
        # A protocol's bytes at the other one's port, too.
        data = mutated(rng, rng.choice(seeds[protocol if rng.random() < 0.95 else "grpc"]))
        kind = outcome(protocol, send(ports[protocol], data))
        yield f"{kind} of {data!r}" if kind.startswith("fault") else f"{protocol} {kind}"
        if number % 100 == 0:
            check()


def main() -> int:
    """Runs the fuzzer for some time."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seconds", type=float, default=60.0)
    parser.add_argument("--seed", type=int, default=1)
    arguments = parser.parse_args()
    import httpx
    import tensorflow as tf

    from serving.local_server.protos import get_model_status_pb2, predict_pb2
    from serving.local_server.server import LocalServer

    class Model(tf.Module):
        @tf.function(input_signature=[tf.TensorSpec([None], tf.float32, name="x")])
        def __call__(self, x: tf.Tensor) -> dict[str, tf.Tensor]:
            return {"y": 2.0 * x}

    predict = predict_pb2.PredictRequest()
    predict.model_spec.name = "m"
    predict.inputs["x"].CopyFrom(tf.make_tensor_proto([1.0, 2.0]))
    status = get_model_status_pb2.GetModelStatusRequest()
    status.model_spec.name = "m"
    messages = {
        "/tensorflow.serving.PredictionService/Predict": predict.SerializeToString(),
        "/tensorflow.serving.ModelService/GetModelStatus": status.SerializeToString(),
        "/grpc.reflection.v1.ServerReflection/ServerReflectionInfo": b"\x3a\0",
    }
    counts: Counter[str] = Counter()
    with tempfile.TemporaryDirectory() as folder:
        model = Model()
        tf.saved_model.save(model, str(Path(folder) / "1"), signatures={"serving_default": model.__call__})
        server = LocalServer("m", folder, port=0, rest_api_port=0)
        server.source.poll()
        server.start()
        url = f"http://127.0.0.1:{server.rest_port}/v1/models/m:predict"

        def check() -> None:
            assert httpx.post(url, content='{"instances": [1.0]}', trust_env=False).json() == {"predictions": [2.0]}

        ports = {"rest": server.rest_port, "grpc": server.grpc_port}
        seeds = {"rest": http1_seeds("m"), "grpc": http2_seeds(messages)}
        end = time.monotonic() + arguments.seconds
        for result in fuzz(ports, seeds, random.Random(arguments.seed), check):
            counts[result if not result.startswith("fault") else "fault"] += 1
            if result.startswith("fault"):
                print(result)
            if time.monotonic() > end:
                break
        check()
        server.stop(5.0)
    print(f"{sum(counts.values())} connections: {dict(counts.most_common())}")
    return 1 if counts["fault"] else 0


if __name__ == "__main__":
    sys.exit(main())
