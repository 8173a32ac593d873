"""Sends a share of the requests to a second version or server too, and compares the responses.

The client has its response already: a slow or broken second server costs nothing but the comparison.
"""

from __future__ import annotations

import json
import logging
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grpc
import numpy as np

from serving.local_server import monitoring
from serving.local_server.protos import inference_pb2, prediction_log_pb2, prediction_service_pb2_grpc
from serving.request_log import request_ids
from serving.request_log.background import BackgroundLog
from serving.request_log.content import KINDS, Fill, parts, spec_of
from serving.request_log.files import MIRROR, RotatingFiles
from serving.request_log.options import Rotation
from serving.request_log.reader import outputs_of
from serving.request_log.request_ids import REQUEST_ID_KEY
from serving.transport_grpc import MAX_MESSAGE_BYTES

_RELATIVE, _ABSOLUTE = 1e-3, 1e-4
_THREADS, _MAX_WAITING, _MAX_WAITING_BYTES = 2, 64, 64 * 2**20
_APIS = {kind: api for api, kind in KINDS.items()}


@dataclass(frozen=True)
class MirrorOptions:
    """Destination and share of mirrored requests.

    Attributes:
      target: HOST:PORT of gRPC; may be the same server, with another version.
      share: The fraction of the requests, range [0, 1].
      version: Version of the model there; None for the newest.
      label: Label of the version there.
      timeout_s: Deadline of a mirrored request.
    """

    target: str
    share: float = 0.1
    version: int | None = None
    label: str | None = None
    timeout_s: float = 30.0


class Mirror:
    """Repeats requests and compares the responses, in threads of its own."""

    def __init__(self, options: MirrorOptions, prefix: Path, rotation: Rotation) -> None:
        """Opens the channel.

        Args:
          options: Where and how many requests are mirrored.
          prefix: Of the log; differences are logged next to it, as JSON Lines.
          rotation: When files are complete, and when they are deleted.
        """
        self._options = options
        channel_options = [("grpc.max_receive_message_length", MAX_MESSAGE_BYTES)]
        self._channel = grpc.insecure_channel(options.target, options=channel_options)
        self._stub = prediction_service_pb2_grpc.PredictionServiceStub(self._channel)
        self._executor = ThreadPoolExecutor(_THREADS, thread_name_prefix="mirror")
        self._log = BackgroundLog(f"The differences of {prefix}", RotatingFiles(prefix, MIRROR, rotation))
        self._lock = threading.Lock()
        self._waiting = self._waiting_bytes = 0

    def offer(self, request_id: str, size: int, fill: Fill) -> None:
        """Mirrors a call, if it is selected and not too many wait; returns at once."""
        if request_ids.fraction(request_id, "mirror") >= self._options.share:
            return
        with self._lock:
            if self._waiting >= _MAX_WAITING or self._waiting_bytes + size > _MAX_WAITING_BYTES:
                monitoring.MIRROR_COUNT.labels("dropped").inc()
                return
            self._waiting += 1
            self._waiting_bytes += size
        self._executor.submit(self._run, request_id, size, fill)

    def wait(self) -> None:
        """Waits until no request is in progress; for tests."""
        while self._waiting:
            time.sleep(0.01)

    def close(self) -> None:
        """Ends the requests in progress, and publishes the file."""
        self._executor.shutdown(cancel_futures=True)
        self._log.close()
        self._channel.close()

    def _run(self, request_id: str, size: int, fill: Fill) -> None:
        try:
            entry = self._compared(fill)
            monitoring.MIRROR_COUNT.labels(entry["result"]).inc()
            if entry["result"] != "equal":
                line = json.dumps({"time": time.time(), "request_id": request_id, **entry}).encode() + b"\n"
                self._log.offer(lambda: line, len(line))
        except Exception:  # of one request; the next one may succeed
            monitoring.MIRROR_COUNT.labels("error").inc()
            logging.exception("A request could not be mirrored.")
        finally:
            with self._lock:
                self._waiting -= 1
                self._waiting_bytes -= size

    def _compared(self, fill: Fill) -> dict[str, Any]:
        log = prediction_log_pb2.PredictionLog()
        fill(log)
        request, response = parts(log)
        api = _APIS[log.WhichOneof("log_type")]
        for message in request.tasks if isinstance(request, inference_pb2.MultiInferenceRequest) else [request]:
            self._select(message.model_spec)
        entry: dict[str, Any] = {"version": _version(response)}
        try:
            metadata = [(REQUEST_ID_KEY, request_ids.new_probe())]  # a second server does not log it
            second = getattr(self._stub, api)(request, timeout=self._options.timeout_s, metadata=metadata)
        except grpc.RpcError as error:
            return {"result": "error", **entry, "error": f"{error.code().name}: {error.details()}"}
        differences = compare(outputs_of(response), outputs_of(second))
        entry["mirror_version"] = _version(second)
        return {"result": "different" if differences else "equal", **entry, "differences": differences}

    def _select(self, spec: Any) -> None:
        """Selects the second version."""
        spec.ClearField("version")
        spec.ClearField("version_label")
        if self._options.version is not None:
            spec.version.value = self._options.version
        elif self._options.label is not None:
            spec.version_label = self._options.label


def compare(first: dict[str, np.ndarray], second: dict[str, np.ndarray]) -> dict[str, Any]:
    """Compares two responses.

    Returns:
      Output name → for numbers with a fraction the largest absolute difference, for others the number of different
      elements, and for different shapes or missing outputs both shapes. Without the outputs that are equal; floating
      point numbers are equal up to a relative error of 0.001 or an absolute one of 0.0001.
    """
    differences: dict[str, Any] = {}
    for name in sorted({*first, *second}):
        left, right = first.get(name), second.get(name)
        if left is None or right is None or left.shape != right.shape:
            shapes = [None if value is None else list(value.shape) for value in (left, right)]
            differences[name] = {"shapes": shapes}
        elif left.dtype.kind == "f" and right.dtype.kind == "f":
            if not np.allclose(left, right, _RELATIVE, _ABSOLUTE, equal_nan=True):
                differences[name] = {"largest_difference": float(np.nanmax(np.abs(left - right)))}
        elif different := int(np.sum(left != right)):
            differences[name] = {"different_elements": different}
    return differences


def _version(response: Any) -> int | None:
    spec = spec_of(response)
    return spec.version.value if spec.HasField("version") else None
