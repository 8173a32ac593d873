"""Reads the newest window of a request log: images, embeddings, outputs and feedback of one model version."""

from __future__ import annotations

import heapq
import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from serving.monitor.errors import WindowError
from serving.monitor.result import Window
from serving.request_log.files import TFRECORD, published
from serving.request_log.reader import LoggedRequest, LogReader

# The newest hour is often enough; older files are read only if it is not.
_FIRST_SPAN_S, _SPAN_FACTOR = 3600.0, 4.0


class WindowOptions(NamedTuple):
    """Which requests form a window.

    Attributes:
      images: Largest number of images.
      min_images: Smallest number.
      max_age_s: Older requests are not part of it, seconds.
      after: Only requests after this time are, seconds since 1970.
    """

    images: int = 500
    min_images: int = 100
    max_age_s: float = 24 * 3600.0
    after: float = 0.0


class LoggedImage(NamedTuple):
    """One image of a request. Later ones compare as larger.

    Attributes:
      time: When its request was answered, seconds since 1970.
      position: Its position in the log.
      request_id: Of the request.
      outputs: Output name → array, first dimension 1.
      encoded: The image file; None if it was not logged.
      embedding: float32 [D]; None if it was not logged.
      label: The last feedback, a JSON value; None without any.
    """

    time: float
    position: int
    request_id: str
    outputs: Mapping[str, np.ndarray]
    encoded: bytes | None
    embedding: np.ndarray | None
    label: Any


@dataclass(frozen=True)
class LogWindow:
    """The newest images of a version.

    Attributes:
      window: Their description.
      images: The images, the oldest first.
      skipped: Number of requests by the reason why they are not part of the window.
    """

    window: Window
    images: Sequence[LoggedImage]
    skipped: Mapping[str, int]

    def outputs(self) -> dict[str, np.ndarray]:
        """Returns the outputs for all images, first dimension N."""
        return {name: np.concatenate([image.outputs[name] for image in self.images]) for name in self.images[0].outputs}

    def files(self) -> list[bytes] | None:
        """Returns the image files; None unless all are known."""
        files = [image.encoded for image in self.images if image.encoded is not None]
        return files if len(files) == len(self.images) else None

    def embeddings(self) -> np.ndarray | None:
        """Returns the logged embeddings, float32 [N, D]; NaN for images without one, None if there are none."""
        known = [image.embedding for image in self.images if image.embedding is not None]
        if not known:
            return None
        missing = np.full(known[0].shape, np.nan, np.float32)
        return np.stack([missing if image.embedding is None else image.embedding for image in self.images])


def read(
    prefix: Path | str,
    model: str,
    version: int,
    outputs: Sequence[str],
    options: WindowOptions = WindowOptions(),  # noqa: B008
    now: float | None = None,
) -> LogWindow:
    """Reads the newest window.

    Args:
      prefix: Folder, and beginning of the names of the files.
      model: Name of the model.
      version: Its version; requests of others are skipped.
      outputs: Names of the outputs that a response must contain.
      options: Which requests form a window.
      now: Seconds since 1970; the time of the call by default.

    Raises:
      WindowError: If there is no log, or too few requests of this version.
    """
    if not published(Path(prefix), TFRECORD):
        raise WindowError(
            f"There is no request log {prefix}-….tfrecord. Start the server or gateway with --request-log {prefix}; a "
            "file appears when it is complete, after --request-log-file-s (300) seconds."
        )
    now, span, skipped = time.time() if now is None else now, _FIRST_SPAN_S, Counter[str]()
    while True:
        span = min(span, options.max_age_s)
        skipped.clear()
        # The log has whole seconds; `after` itself is part of an earlier window.
        since = max(now - span, options.after + 1.0 if options.after else 0.0)
        images = _images(LogReader(prefix, since), model, version, outputs, skipped)
        newest = heapq.nlargest(options.images, images, key=lambda image: image[:2])[::-1]
        if len(newest) >= options.images or span >= options.max_age_s or since > now - span:
            break
        span *= _SPAN_FACTOR
    if len(newest) < options.min_images:
        raise WindowError(_too_few(prefix, version, len(newest), options, skipped))
    window = Window(
        log=str(prefix),
        first=newest[0].time,
        last=newest[-1].time,
        requests=len({image.request_id or image.position for image in newest}),
        images=len(newest),
        labelled=sum(image.label is not None for image in newest),
    )
    return LogWindow(window, newest, dict(skipped))


def _images(
    records: LogReader, model: str, version: int, outputs: Sequence[str], skipped: Counter[str]
) -> Iterator[LoggedImage]:
    position = 0
    for record in records:
        responded = _with_probabilities(record.outputs)
        if record.model != model:
            skipped[f"of the model `{record.model}`"] += 1
        elif record.version != version:
            skipped[f"of version {'unknown' if record.version is None else record.version}"] += 1
        elif not set(outputs) <= responded.keys():
            skipped[f"of the signature `{record.signature}`, whose outputs are not monitored"] += 1
        else:
            for image in _of_request(record, {name: responded[name] for name in outputs}, position):
                position += 1
                yield image
    if records.damaged:
        skipped["that are damaged"] += records.damaged


def _of_request(record: LoggedRequest, outputs: Mapping[str, np.ndarray], position: int) -> Iterator[LoggedImage]:
    number = len(next(iter(outputs.values())))
    labels = {feedback.index: feedback.label for feedback in record.feedback}
    parts = zip(_by_image(record.images, number), _by_image(record.embedding, number), strict=True)
    for index, (encoded, embedding) in enumerate(parts):
        yield LoggedImage(
            time=record.time,
            position=position + index,
            request_id=record.request_id,
            outputs={name: values[index : index + 1] for name, values in outputs.items()},
            encoded=encoded,
            embedding=embedding,
            label=labels.get(index),
        )


def _by_image(values: Sequence[Any] | np.ndarray | None, number: int) -> Sequence[Any] | np.ndarray:
    """Returns the values of the images of a request; None for each unless there is one value for each."""
    return [None] * number if values is None or len(values) != number else values


def _with_probabilities(outputs: Mapping[str, np.ndarray]) -> Mapping[str, np.ndarray]:
    """Adds the probabilities of a response of Classify, which our models list in the order of the class ids."""
    if outputs.keys() == {"classes", "scores"}:
        return {**outputs, "probabilities": outputs["scores"]}
    return outputs


def _too_few(prefix: Path | str, version: int, number: int, options: WindowOptions, skipped: Mapping[str, int]) -> str:
    others = "".join(f"; {count:,} requests {reason}" for reason, count in sorted(skipped.items()))
    return (
        f"The request log {prefix} has {number:,} images of version {version} in the last "
        f"{options.max_age_s / 3600.0:g} hours; at least {options.min_images:,} are needed{others}. Wait for more "
        "requests, or set monitoring.min_images or monitoring.max_age_hours."
    )
