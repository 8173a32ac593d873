"""Reads request logs: typed records, joined with the feedback that arrived for them.

Memory holds one record; the feedback is in a temporary SQLite database, which uses the disk if it is large.
"""

from __future__ import annotations

import contextlib
import json
import os
import sqlite3
from collections.abc import Collection, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from google.protobuf.message import DecodeError

from serving import tfrecord
from serving.local_server import tensors
from serving.local_server.errors import RequestError
from serving.local_server.protos import classification_pb2, predict_pb2, prediction_log_pb2, regression_pb2
from serving.request_log.content import EMBEDDING, images_of, parts
from serving.request_log.files import JSON_LINES, TFRECORD, published
from trainer_module import features


@dataclass(frozen=True)
class Feedback:
    """The ground truth of one image.

    Attributes:
      time: When it arrived, seconds since 1970.
      index: Position of the image in its request.
      label: A JSON value, as the client sent it.
    """

    time: float
    index: int
    label: Any


@dataclass(frozen=True)
class LoggedRequest:
    """A request and its response.

    Attributes:
      time: When it was answered, seconds since 1970.
      model: Name of the model.
      version: Version that responded; None if it is not known.
      signature: Name of the signature; "" for several (MultiInference).
      request_id: Of the request; "" if another server wrote the log.
      sampling_rate: The fraction of the requests that are logged: one record stands for 1 / sampling_rate requests.
      images: The encoded images; None if the log does not contain them.
      outputs: Output name → array, first dimension N; strings as bytes. Classify: `classes` and `scores` [N, C],
        Regress: `outputs` [N]; of several signatures SIGNATURE/NAME.
      embedding: float32 [N, D]; None if the log does not contain it.
      feedback: In the order of arrival; the last one of an image corrects earlier ones.
    """

    time: float
    model: str
    version: int | None
    signature: str
    request_id: str
    sampling_rate: float
    images: tuple[bytes, ...] | None
    outputs: dict[str, np.ndarray]
    embedding: np.ndarray | None = None
    feedback: tuple[Feedback, ...] = ()


class LogReader:
    """Iterates over the records of a log, file after file.

    Attributes:
      damaged: Number of damaged records, of requests and feedback, that the iterations so far skipped. If the length of
        a record is damaged, the rest of its file counts as one.
    """

    def __init__(
        self,
        prefix: Path | str,
        since: float = 0.0,
        until: float = float("inf"),
        *,
        skip: Collection[Path] = (),
    ) -> None:
        """Takes the log.

        Args:
          prefix: Folder, and beginning of the names of the files.
          since: Time of the first record, seconds since 1970.
          until: Time after the last record.
          skip: Files of requests that are not read.
        """
        self._prefix, self._since, self._until, self._skip = Path(prefix), since, until, frozenset(skip)
        self.damaged = 0

    def __iter__(self) -> Iterator[LoggedRequest]:
        with contextlib.closing(self._feedback()) as feedback:
            for path in published(self._prefix, TFRECORD):
                if path in self._skip:
                    continue
                with _open(path) as file:
                    if file is None or os.fstat(file.fileno()).st_mtime + 1 < self._since:
                        continue
                    for record in _joined(self._requests(file)):
                        if self._since <= record.time < self._until:
                            yield replace(record, feedback=_feedback_of(feedback, record))

    def _requests(self, file: BinaryIO) -> Iterator[LoggedRequest]:
        for data in self._records(file):
            try:
                record = _read(prediction_log_pb2.PredictionLog.FromString(data))
            except (DecodeError, RequestError, KeyError, ValueError):
                self.damaged += 1
                continue
            if record is not None:
                yield record

    def _records(self, file: BinaryIO) -> Iterator[bytes]:
        while True:
            try:
                for _, data in tfrecord.records(file):
                    yield data
                return
            except tfrecord.DamagedRecordError as error:
                self.damaged += 1
                if not error.resumable:
                    return

    def _feedback(self) -> sqlite3.Connection:
        """Reads all feedback into a temporary database."""
        # One thread at a time iterates, but not always the same: TensorFlow runs generators in threads of a pool.
        database = sqlite3.connect("", check_same_thread=False)
        database.execute("CREATE TABLE feedback (model TEXT, request_id TEXT, time REAL, position INTEGER, label TEXT)")
        database.executemany("INSERT INTO feedback VALUES (?, ?, ?, ?, ?)", self._feedback_rows())
        database.execute("CREATE INDEX by_request ON feedback (request_id)")
        return database

    def _feedback_rows(self) -> Iterator[tuple[str, str, float, int, str]]:
        for path in published(self._prefix, JSON_LINES):
            with _open(path) as file:
                for line in file or ():
                    try:
                        entry = json.loads(line)
                        yield (
                            str(entry["model"]), str(entry["request_id"]), float(entry["time"]),
                            int(entry["index"]), json.dumps(entry["label"]),
                        )  # fmt: skip
                    except (ValueError, KeyError, TypeError):
                        self.damaged += 1


@contextlib.contextmanager
def _open(path: Path) -> Iterator[BinaryIO | None]:
    """Opens a file; None if it has been deleted meanwhile."""
    try:
        file = open(path, "rb")
    except FileNotFoundError:
        yield None
        return
    with file:
        yield file


def _feedback_of(database: sqlite3.Connection, record: LoggedRequest) -> tuple[Feedback, ...]:
    # A client may give requests to several models one id.
    query = "SELECT time, position, label FROM feedback WHERE request_id = ? AND model = ? ORDER BY time"
    rows = database.execute(query, [record.request_id, record.model])
    return tuple(Feedback(time, index, json.loads(label)) for time, index, label in rows)


def _joined(records: Iterator[LoggedRequest]) -> Iterator[LoggedRequest]:
    """Joins a response with the record of its embedding, which follows it."""
    last: LoggedRequest | None = None
    for record in records:
        if last is not None and _is_embedding_of(record, last):
            last = replace(last, embedding=record.embedding)
            continue
        if last is not None:
            yield last
        last = record
    if last is not None:
        yield last


def _is_embedding_of(record: LoggedRequest, last: LoggedRequest) -> bool:
    same = record.request_id == last.request_id and record.version == last.version and record.model == last.model
    signatures = record.signature == features.EMBED != last.signature
    return same and signatures and record.images is None and last.embedding is None


def _read(log: prediction_log_pb2.PredictionLog) -> LoggedRequest | None:
    """Reads a record; None for a kind that is not supported."""
    request, response = parts(log)
    if request is None:
        return None
    metadata = log.log_metadata
    spec = metadata.model_spec if metadata.HasField("model_spec") else request.model_spec
    outputs = outputs_of(response)
    images = images_of(log)
    several = log.WhichOneof("log_type") == "multi_inference_log"
    signature = "" if several else spec.signature_name or features.SERVING_DEFAULT
    return LoggedRequest(
        time=float(metadata.timestamp_secs),
        model=spec.name,
        version=spec.version.value if spec.HasField("version") else None,
        signature=signature,
        request_id=metadata.request_origin,
        sampling_rate=metadata.sampling_config.sampling_rate or 1.0,
        images=tuple(images) if images else None,
        outputs=outputs,
        embedding=outputs.get(EMBEDDING) if signature == features.EMBED else None,
    )


def outputs_of(response: Any) -> dict[str, np.ndarray]:
    """Returns the outputs of a response; see `LoggedRequest.outputs`."""
    if isinstance(response, predict_pb2.PredictResponse):
        return {alias: tensors.to_numpy(tensor, alias) for alias, tensor in sorted(response.outputs.items())}
    if isinstance(response, classification_pb2.ClassificationResponse):
        return _classes(response.result)
    if isinstance(response, regression_pb2.RegressionResponse):
        return _regressions(response.result)
    outputs: dict[str, np.ndarray] = {}
    for result in response.results:
        single = result.WhichOneof("result") == "classification_result"
        named = _classes(result.classification_result) if single else _regressions(result.regression_result)
        outputs |= {f"{result.model_spec.signature_name}/{name}": value for name, value in named.items()}
    return outputs


def _classes(result: classification_pb2.ClassificationResult) -> dict[str, np.ndarray]:
    rows = [entry.classes for entry in result.classifications]
    labels = np.array([[item.label.encode() for item in row] for row in rows], dtype=object)
    return {"classes": labels, "scores": np.array([[item.score for item in row] for row in rows], np.float32)}


def _regressions(result: regression_pb2.RegressionResult) -> dict[str, np.ndarray]:
    return {"outputs": np.array([entry.value for entry in result.regressions], np.float32)}
