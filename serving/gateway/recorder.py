"""Logs and mirrors successful calls of the gateway, without delaying the client."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any

import grpc
import numpy as np

from serving import wire
from serving.gateway.mirror import Mirror
from serving.local_server import monitoring, tensors
from serving.local_server.protos import predict_pb2
from serving.request_log import request_ids
from serving.request_log.content import EMBEDDING, EMBEDDING_TIMEOUT_S, IMAGE_BYTES, Exchange, Fill
from serving.request_log.log import RequestLog
from serving.request_log.options import LogOptions
from serving.request_log.request_ids import REQUEST_ID_KEY
from trainer_module import features


class Recorder:
    """Logs and mirrors calls; takes feedback."""

    def __init__(self, channel: grpc.Channel, options: LogOptions, mirror: Mirror | None) -> None:
        """Takes the channel to the target, which also computes embeddings, the options of the log, and the mirror."""
        self._predict = channel.unary_unary(
            wire.PREDICT_METHOD, predict_pb2.PredictRequest.SerializeToString, predict_pb2.PredictResponse.FromString
        )
        self._sampling_rate, self._mirror = options.sampling_rate, mirror
        self._log = RequestLog(options, self._embed)

    def record(self, request_id: str, size: int, fill: Fill) -> None:
        """Logs and mirrors a successful call, if it is selected.

        Args:
          request_id: Its id.
          size: Of request and response, bytes.
          fill: Writes both into a PredictionLog.
        """
        if request_ids.is_selected(request_id, self._sampling_rate):
            self._log.offer("", Exchange(request_id, self._sampling_rate, time.time(), size, fill))
        if self._mirror is not None:
            self._mirror.offer(request_id, size, fill)

    def feedback(self, model: str, image_id: str, label: Any) -> None:
        """Stores the ground truth of a prediction; see `RequestLog.feedback`."""
        self._log.feedback(model, image_id, label)

    def flush(self) -> bool:
        """Waits for the mirror, and publishes the files of the log; returns whether that succeeded."""
        if self._mirror is not None:
            self._mirror.wait()
        return self._log.flush()

    def close(self) -> None:
        """Writes what is queued, and publishes the files."""
        self._log.close()
        if self._mirror is not None:
            self._mirror.close()

    def _embed(self, model: str, version: int, images: Sequence[bytes]) -> np.ndarray | None:
        request = predict_pb2.PredictRequest(output_filter=[EMBEDDING])
        request.model_spec.name, request.model_spec.signature_name = model, features.EMBED
        request.model_spec.version.value = version
        tensors.to_proto(np.array(images, dtype=object), request.inputs[IMAGE_BYTES])
        try:
            metadata = [(REQUEST_ID_KEY, request_ids.new_probe())]
            response = self._predict(request, timeout=EMBEDDING_TIMEOUT_S, metadata=metadata)
        except grpc.RpcError as error:
            if error.code() is not grpc.StatusCode.FAILED_PRECONDITION:  # else the model has no such signature
                monitoring.count_log("errors", 1)
            return None
        return tensors.to_numpy(response.outputs[EMBEDDING], EMBEDDING)
