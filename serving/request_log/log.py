"""A request log: records of requests and responses, and next to them the feedback of clients."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

from serving.local_server import monitoring
from serving.local_server.errors import RequestError, invalid_argument
from serving.request_log import request_ids
from serving.request_log.background import BackgroundLog
from serving.request_log.content import Embed, Exchange, encode, to_log
from serving.request_log.files import JSON_LINES, TFRECORD, RotatingFiles
from serving.request_log.options import LogOptions

_MAX_LABEL = 2**20


class RequestLog:
    """Writes the log of one prefix; threads can share it, and several servers the prefix."""

    def __init__(self, options: LogOptions, embed: Embed) -> None:
        """Starts the threads.

        Args:
          options: Prefix, content, rotation and queue; the sampling rate may differ by model.
          embed: Computes the embedding of images, for that content.
        """
        prefix = Path(options.prefix)
        self._content, self._embed = options.content, embed
        self._records = BackgroundLog(
            f"The request log {prefix}",
            RotatingFiles(prefix, TFRECORD, options.rotation),
            count=monitoring.count_log,
            max_records=options.max_queued,
            max_bytes=options.max_queued_bytes,
        )
        self._feedback = BackgroundLog(
            f"The feedback of {prefix}",
            RotatingFiles(prefix, JSON_LINES, options.rotation),
            count=monitoring.count_log,
        )

    def offer(self, model: str, exchange: Exchange) -> None:
        """Logs an exchange, in the thread of the log; never waits and never fails.

        Args:
          model: Name of the model, for the metrics; "" if it is known only when the exchange is read.
          exchange: Request and response.
        """

        def encoded() -> bytes:
            nonlocal model
            log = to_log(exchange)
            model = log.log_metadata.model_spec.name
            return encode(log, self._content, self._embed)

        def observe(written: bool) -> None:
            monitoring.count_logged(model, "OK" if written else "UNAVAILABLE")

        if not self._records.offer(encoded, exchange.size, observe):
            observe(False)

    def feedback(self, model: str, image_id: str, label: Any) -> None:
        """Stores the ground truth of a prediction.

        Args:
          model: Name of the model.
          image_id: Request id, or REQUEST_ID/INDEX for one image of several.
          label: A JSON value.

        Raises:
          RequestError: INVALID_ARGUMENT for an invalid id or label, UNAVAILABLE if the disk does not keep up.
        """
        try:
            request_id, index = request_ids.split(image_id)
        except ValueError as error:
            raise invalid_argument(str(error)) from None
        entry = {"time": time.time(), "model": model, "request_id": request_id, "index": index, "label": label}
        line = json.dumps(entry, separators=(",", ":")).encode() + b"\n"
        if len(line) > _MAX_LABEL:
            raise invalid_argument(f"The label has more than {_MAX_LABEL} bytes.")
        if not self._feedback.offer(lambda: line, len(line)):
            raise RequestError("UNAVAILABLE", "The request log cannot store the feedback. Retry later.")

    def flush(self) -> bool:
        """Waits until everything is written, and publishes the files; returns whether that succeeded."""
        return self._records.flush() and self._feedback.flush()

    def close(self) -> None:
        """Writes what is queued, publishes the files, and ends the threads."""
        self._records.close()
        self._feedback.close()
