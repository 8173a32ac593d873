"""Writes request logs as servers do, without a server."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from serving.local_server import tensors
from serving.local_server.protos import predict_pb2
from serving.request_log.content import IMAGE_BYTES, Exchange, encode, filler, to_log
from serving.request_log.files import JSON_LINES, TFRECORD, RotatingFiles
from serving.request_log.options import Content, Rotation


class LogWriter:
    """Appends requests to a log; nothing can be read before `close`."""

    def __init__(self, prefix: Path | str, content: Content = Content.IMAGE) -> None:
        """Takes the prefix of the log and the content of its records."""
        self._content, self._number = content, 0
        self._records = RotatingFiles(Path(prefix), TFRECORD, Rotation())
        self._feedback = RotatingFiles(Path(prefix), JSON_LINES, Rotation())

    def add(
        self,
        time_s: float,
        images: Sequence[bytes],
        outputs: Mapping[str, np.ndarray],
        *,
        model: str = "birds",
        version: int = 7,
        signature: str = "serving_default",
        embeddings: np.ndarray | None = None,
        labels: Sequence[Any] = (),
    ) -> None:
        """Appends a request and its response, and feedback for its first images."""
        request, response = predict_pb2.PredictRequest(), predict_pb2.PredictResponse()
        for message in (request, response):
            message.model_spec.name, message.model_spec.signature_name = model, signature
        response.model_spec.version.value = version
        tensors.to_proto(np.array(list(images), dtype=object), request.inputs[IMAGE_BYTES])
        for name, values in outputs.items():
            tensors.to_proto(values, response.outputs[name])
        request_id = f"request-{self._number}"
        self._number += 1
        exchange = Exchange(request_id, 1.0, time_s, 0, filler("Predict", request, response))
        self._records.append(encode(to_log(exchange), self._content, lambda *_: embeddings))
        for index, label in enumerate(labels):
            entry = {"time": time_s, "model": model, "request_id": request_id, "index": index, "label": label}
            self._feedback.append(json.dumps(entry).encode() + b"\n")

    def close(self) -> None:
        """Publishes the files."""
        self._records.complete()
        self._feedback.complete()
