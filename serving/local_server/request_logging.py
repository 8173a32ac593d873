"""The request logs of a server: which requests of which model are logged, and where.

Source: TF Serving's core/{server_request_logger,request_logger}.cc. As there, only successful requests are logged.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from serving.local_server import inference, monitoring
from serving.local_server.caller import Caller
from serving.local_server.errors import RequestError
from serving.local_server.models import ModelSource
from serving.request_log import request_ids
from serving.request_log.content import EMBEDDING, EMBEDDING_TIMEOUT_S, IMAGE_BYTES, Exchange, Fill
from serving.request_log.log import RequestLog
from serving.request_log.options import LogOptions
from trainer_module import features


@dataclass(frozen=True)
class LoggedCall:
    """One request to a model with a log.

    Attributes:
      request_id: The client's, or a new one.
    """

    request_id: str
    _model: str
    _log: RequestLog
    _sampling_rate: float

    def done(self, size: Callable[[], int], fill: Fill) -> None:
        """Logs the request if it is selected.

        Args:
          size: Returns about how many bytes request and response keep in memory.
          fill: Writes both into a PredictionLog, in the thread of the log.
        """
        if request_ids.is_selected(self.request_id, self._sampling_rate):
            exchange = Exchange(self.request_id, self._sampling_rate, time.time(), size(), fill)
            self._log.offer(self._model, exchange)


class RequestLogs:
    """All logs of a server. A log starts with the first request, and ends with the server.

    Attributes:
      prefix: Of the models whose configuration has no other log; "" for none.
    """

    def __init__(self, source: ModelSource, options: LogOptions) -> None:
        """Takes the models, whose configuration selects a log, and the options of all logs."""
        self._source, self._options = source, options
        self.prefix = options.prefix
        self._logs: dict[str, RequestLog] = {}
        self._lock = threading.Lock()

    def begin(self, model: str, given_id: str | None) -> LoggedCall | None:
        """Returns the call of a model with a log; None for other models.

        Args:
          model: Name of the model.
          given_id: The request id of the client.
        """
        sampling = self._sampling(model)
        if sampling is None:
            return None
        prefix, sampling_rate = sampling
        return LoggedCall(request_ids.accepted(given_id), model, self._log(prefix), sampling_rate)

    def feedback(self, model: str, image_id: str, label: Any) -> None:
        """Stores the ground truth of a prediction; see `RequestLog.feedback`.

        Raises:
          RequestError: Also NOT_FOUND for an unknown model, FAILED_PRECONDITION for one without log.
        """
        if model not in self._source.names():
            raise RequestError("NOT_FOUND", f"Servable not found for request: Latest({model})")
        sampling = self._sampling(model)
        if sampling is None:
            raise RequestError(
                "FAILED_PRECONDITION",
                f"Model {model} has no request log. Start the server with --request-log, or add a logging_config.",
            )
        self._log(sampling[0]).feedback(model, image_id, label)

    def close(self) -> None:
        """Writes what is queued, and publishes the files."""
        with self._lock:
            logs, self._logs = self._logs, {}
        for log in logs.values():
            log.close()

    def flush(self) -> bool:
        """Publishes the files of all logs; returns whether that succeeded."""
        return all([log.flush() for log in list(self._logs.values())])

    def _sampling(self, model: str) -> tuple[str, float] | None:
        """Returns prefix and sampling rate of a model's log; None for a model without one."""
        config = self._source.logging(model)
        if config is not None:
            return config.prefix, config.sampling_rate
        if self._options.prefix and model in self._source.names():
            return self._options.prefix, self._options.sampling_rate
        return None

    def _log(self, prefix: str) -> RequestLog:
        log = self._logs.get(prefix)
        if log is None:
            with self._lock:
                log = self._logs.get(prefix)
                if log is None:
                    log = RequestLog(replace(self._options, prefix=prefix), self._embed)
                    self._logs[prefix] = log
        return log

    def _embed(self, model: str, version: int, images: Sequence[bytes]) -> np.ndarray | None:
        """Computes embeddings in the thread of the log; a busy server, or an unloaded version, has none."""
        inputs = {IMAGE_BYTES: np.array(images, dtype=object)}
        try:
            with self._source.use(model, version) as servable:
                if features.EMBED not in servable.signatures:
                    return None
                outputs = inference.predict(servable, features.EMBED, inputs, [EMBEDDING], Caller(EMBEDDING_TIMEOUT_S))
        except RequestError:
            monitoring.count_log("errors", 1)
            return None
        return outputs[EMBEDDING]


def num_bytes(values: Iterable[np.ndarray]) -> int:
    """Returns about how many bytes tensors occupy."""
    return sum(
        sum(map(len, value.ravel().tolist())) if value.dtype == object else int(value.nbytes) for value in values
    )
