"""Latency of the local server's other clients during slow clients, floods of headers and cancelled calls.

python tests/bench/hostile_clients.py [--code FOLDER ...] [--model FOLDER]

FOLDER is a checkout of this project, for example of an older commit in a `git worktree`; the default is this one. Every
server is a process of its own, and the same script measures all of them one after the other:

- start: seconds from the start of the process to the first response, and the memory at that time, with the small model
  of the other measurements, or with `--model`, the base path of a model of images;
- slow bodies: 150 connections send one byte of their body each, then 20 predictions are requested over REST;
- headers: one connection sends 100 MB of headers; the longest of the predictions that are requested meanwhile;
- slow headers: 50 connections send one byte a second of their headers; how many are open after 15 s;
- cancellation: 12 calls of about 0.7 s each are cancelled after 0.1 s; the latency of the next call.
"""

from __future__ import annotations

import argparse
import contextlib
import http.client
import os
import socket
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

import grpc
import serving_speed

from serving.local_server.protos import predict_pb2, tensor_pb2

SERVER = "import sys; from serving.local_server.command import run; sys.exit(run('server', sys.argv[1:]))"
SAVE = """
import sys
import tensorflow as tf

class Model(tf.Module):
    @tf.function(input_signature=[tf.TensorSpec([None], tf.int32, name="n")])
    def __call__(self, n):
        square = tf.eye(96) * 1.0001
        steps = tf.reduce_max(n)
        result = tf.while_loop(lambda i, _: i < steps, lambda i, m: (i + 1, m @ square), (0, square))[1]
        return {"n": tf.cast(n, tf.float32) + 0.0 * result[0, 1]}

model = Model()
tf.saved_model.save(model, sys.argv[1], signatures={"serving_default": model.__call__})
"""
PREDICT = "/tensorflow.serving.PredictionService/Predict"


def request(steps: int) -> bytes:
    """A prediction that takes about `steps` times 0.1 ms."""
    message = predict_pb2.PredictRequest()
    message.model_spec.name = "m"
    message.inputs["n"].CopyFrom(tensor_pb2.TensorProto(dtype=3, int_val=[steps]))
    message.inputs["n"].tensor_shape.dim.add(size=1)
    return bytes(message.SerializeToString())


class Server:
    """One server of the checkout `code`."""

    def __init__(self, code: Path, base_path: Path) -> None:
        """Starts it and waits for the first response."""
        self.grpc_port, self.rest_port = serving_speed.free_ports(2)
        flags = [f"--port={self.grpc_port}", f"--rest_api_port={self.rest_port}", "--model_name=m"]
        started = time.perf_counter()
        self._process = subprocess.Popen(
            [sys.executable, "-c", SERVER, *flags, f"--model_base_path={base_path}"],
            env=os.environ | {"PYTHONPATH": str(code)},
            cwd=code,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        while True:
            with contextlib.suppress(OSError):
                if self.get("/v1/models/m/metadata", 60) == 200:
                    break
            if self._process.poll() is not None:
                raise SystemExit(f"The server in {code} has ended.")
            time.sleep(0.02)
        self.start_s = time.perf_counter() - started

    def get(self, path: str, timeout_s: float = 10.0, body: str | None = None) -> int:
        """The status of a request over a connection of its own."""
        connection = http.client.HTTPConnection("127.0.0.1", self.rest_port, timeout=timeout_s)
        try:
            connection.request("POST" if body else "GET", path, body)
            response = connection.getresponse()
            response.read()
            return response.status
        finally:
            connection.close()

    def timed(self) -> tuple[float, int]:
        """Seconds and status of one small prediction; status 0 without a response."""
        started = time.perf_counter()
        try:
            status = self.get("/v1/models/m:predict", body='{"instances": [1]}')
        except OSError:
            status = 0
        return time.perf_counter() - started, status

    def memory(self, key: str) -> float:
        """Memory of the process, MB: VmRSS now, VmHWM at most."""
        lines = Path(f"/proc/{self._process.pid}/status").read_text().splitlines()
        return next(int(line.split()[1]) / 1024 for line in lines if line.startswith(key))

    def connect(self) -> socket.socket:
        """A connection to REST."""
        return socket.create_connection(("127.0.0.1", self.rest_port), timeout=60)

    def stop(self) -> None:
        """Ends the process."""
        self._process.kill()
        self._process.wait()


def slow_bodies(server: Server) -> str:
    """Measures predictions beside incomplete requests."""
    head = b"POST /v1/models/m:predict HTTP/1.1\r\nContent-Length: 50\r\n\r\n{"
    slow = [server.connect() for _ in range(150)]
    for connection in slow:
        connection.sendall(head)
    time.sleep(0.3)
    results = [server.timed() for _ in range(20)]
    for connection in slow:
        connection.close()
    good = sum(status == 200 for _, status in results)
    return f"{good} of 20 predictions succeed, the longest takes {max(seconds for seconds, _ in results):.2f} s"


def headers(server: Server) -> str:
    """Measures predictions during a flood of headers."""
    flood, ended, longest = server.connect(), threading.Event(), [0.0]

    def send() -> None:
        with contextlib.suppress(OSError):
            flood.sendall(b"GET / HTTP/1.1\r\n")
            for _ in range(100):
                flood.sendall(b"name: value12345\r\n" * (2**20 // 18))
            flood.sendall(b"\r\n")
            flood.recv(100)
        ended.set()

    started = time.perf_counter()
    threading.Thread(target=send).start()
    while not ended.is_set() and time.perf_counter() - started < 60:
        longest.append(server.timed()[0])
    seconds = time.perf_counter() - started
    flood.close()
    return f"ends after {seconds:.1f} s, the longest prediction takes {max(longest):.2f} s"


def slow_headers(server: Server) -> str:
    """Counts connections that never complete their headers."""
    slow = [server.connect() for _ in range(50)]
    for connection in slow:
        connection.sendall(b"GET /v1/models/m HTTP/1.1\r\nname: ")
    for _ in range(15):
        for connection in slow:
            with contextlib.suppress(OSError):
                connection.sendall(b"x")
        time.sleep(1)
    still_open = 0
    for connection in slow:
        connection.setblocking(False)
        try:
            while connection.recv(65536):
                pass
        except BlockingIOError:
            still_open += 1
        except OSError:
            pass
        connection.close()
    return f"{still_open} of 50 connections are open after 15 s"


def cancellation(server: Server) -> str:
    """Measures a call after cancelled ones."""
    with grpc.insecure_channel(f"127.0.0.1:{server.grpc_port}") as channel:
        call = channel.unary_unary(PREDICT)
        call(request(7000))
        started = time.perf_counter()
        call(request(7000))
        one = time.perf_counter() - started
        calls = [call.future(request(7000)) for _ in range(12)]
        time.sleep(0.1)
        for each in calls:
            each.cancel()
        started = time.perf_counter()
        call(request(1))
        return f"the next call takes {time.perf_counter() - started:.2f} s (a call alone {one:.2f} s)"


def main() -> None:
    """Measures every checkout."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--code", type=Path, nargs="*", default=[Path(__file__).resolve().parents[2]])
    parser.add_argument("--model", type=Path)
    parser.add_argument("--starts", type=int, default=2)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        subprocess.run([sys.executable, "-c", SAVE, f"{folder}/1"], check=True, stderr=subprocess.DEVNULL)
        for code in arguments.code:
            print(f"\n{code}")
            for _ in range(arguments.starts):
                server = Server(code.resolve(), arguments.model or Path(folder))
                print(f"start: {server.start_s:.1f} s, {server.memory('VmRSS'):.0f} MB")
                server.stop()
            server = Server(code.resolve(), Path(folder))
            try:
                for measure in (slow_bodies, headers, slow_headers, cancellation):
                    print(f"{measure.__name__}: {measure(server)}", flush=True)
                print(f"memory at most: {server.memory('VmHWM'):.0f} MB")
            finally:
                server.stop()


if __name__ == "__main__":
    main()
