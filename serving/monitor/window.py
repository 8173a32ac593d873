"""Reads a window of a request log: images, embeddings, outputs and feedback of one model version."""

from __future__ import annotations

import heapq
import math
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
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
# If more windows than this wait to be tested, the older ones are skipped: an alarm must not be hours late.
_MOST_WAITING = 20
# Of the times in the log.
_RESOLUTION_S = 1.0


class WindowOptions(NamedTuple):
    """Limits of a window of requests.

    Attributes:
      images: Largest number of images; with `after` the images of the last second are added.
      min_images: Smallest number.
      max_age_s: Older requests are not part of it, seconds.
      after: End of the window before this one, seconds since 1970, which the images follow; 0 for the newest images.
    """

    images: int = 500
    min_images: int = 100
    max_age_s: float = 24 * 3600.0
    after: float = 0.0


class LoggedImage(NamedTuple):
    """One image of a request.

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
    """Images of a version.

    Attributes:
      window: Their description.
      images: The images, the oldest first.
      skipped: Number of requests by the reason why they are not part of the window.
      untested: Number of images between the window before and this one: more arrived than can be tested.
    """

    window: Window
    images: Sequence[LoggedImage]
    skipped: Mapping[str, int]
    untested: int = 0

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
    """Reads the newest window, or the one that follows another.

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
    now, skipped, untested = time.time() if now is None else now, Counter[str](), 0

    def images(since: float, until: float = math.inf) -> Iterator[LoggedImage]:
        skipped.clear()
        return _images(LogReader(prefix, since, until), model, version, outputs, skipped)

    if options.after:
        chosen, untested = _following(images, options, now)
    else:
        chosen = _newest(images, options, now)
    if len(chosen) < options.min_images:
        raise WindowError(_too_few(prefix, version, len(chosen), options, skipped))
    window = Window(
        log=str(prefix),
        first=chosen[0].time,
        last=chosen[-1].time,
        requests=len({image.request_id or image.position for image in chosen}),
        images=len(chosen),
        labelled=sum(image.label is not None for image in chosen),
    )
    return LogWindow(window, chosen, dict(skipped), untested)


def _newest(images: Callable[[float], Iterator[LoggedImage]], options: WindowOptions, now: float) -> list[LoggedImage]:
    """Returns the newest images, the oldest first."""
    span = _FIRST_SPAN_S
    while True:
        span = min(span, options.max_age_s)
        newest = heapq.nlargest(options.images, images(now - span), key=_order)[::-1]
        if len(newest) >= options.images or span >= options.max_age_s:
            return newest
        span *= _SPAN_FACTOR


def _following(
    images: Callable[[float, float], Iterator[LoggedImage]], options: WindowOptions, now: float
) -> tuple[list[LoggedImage], int]:
    """Returns the images that follow another window, the oldest first, and the number of those between both.

    A window ends with a whole second, since times in the log have no fraction: the next one begins after it. Memory
    holds the times of all images, and the images of the window.
    """
    since = max(now - options.max_age_s, options.after + _RESOLUTION_S)
    times = np.sort(np.fromiter((image.time for image in images(since, math.inf)), float))
    waiting = len(times)
    if waiting > _MOST_WAITING * options.images:
        since = float(times[-options.images])
        times = times[times >= since]
    untested = waiting - len(times)
    until = float(times[options.images - 1]) + _RESOLUTION_S if len(times) >= options.images else math.inf
    return sorted(images(since, until), key=_order), untested


def _order(image: LoggedImage) -> tuple[float, int]:
    return image.time, image.position


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
