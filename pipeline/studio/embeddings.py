"""Embeddings and predictions of all images of a dataset, which a model server computes in the background.

They are appended to files, so that an interrupted computation continues where it stopped.
"""

from __future__ import annotations

import itertools
import json
import logging
import threading
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from pipeline.studio.catalog import ImageRow
from pipeline.studio.dataset import Dataset, label_array, label_values
from pipeline.studio.model_server import ModelServer
from serving import similarity
from serving.client import Client, Detections, Mask, Prediction
from serving.similarity import SimilarImage
from trainer_module import box_labels, features
from trainer_module.tasks import Comparison

_BATCH = 32
_VECTORS, _PREDICTIONS, _SIZE = "vectors.f32", "predictions.jsonl", "dimension.json"
# Of a score in the label's coordinates; a lower one counts as an error.
_CORRECT_FROM = 0.5
_TIMEOUT_S = 120.0


class PredictedImage(NamedTuple):
    """The prediction of one image.

    Attributes:
      text: In words: the class, or the score by which it is compared with the label.
      score: Confidence, or that score, range [0, 1]; NaN if it is undefined.
      correct: Whether it agrees with the label: the same classes, or a score of at least 0.5.
    """

    text: str
    score: float
    correct: bool


@dataclass(frozen=True)
class Embedded:
    """Embeddings and predictions of N images, in the order of the catalog.

    Attributes:
      vectors: float32 [N, D], unit length.
      predictions: One per image.
    """

    vectors: np.ndarray
    predictions: list[PredictedImage]

    def nearest(self, vector: np.ndarray, top_k: int) -> list[SimilarImage]:
        """Returns the most similar images; their position plus 1 is the number in the catalog."""
        return similarity.most_similar(vector, self.vectors, top_k)


@dataclass
class EmbeddingJob:
    """A computation.

    Attributes:
      total: Number of images.
      done: Number of images so far.
      error: Why it stopped; empty if it did not.
      is_running: Whether its thread runs.
    """

    total: int
    done: int = 0
    error: str = ""
    is_running: bool = True
    stopped: threading.Event = field(default_factory=threading.Event)


class EmbeddingStore:
    """The embeddings of all datasets, by folder."""

    def __init__(self, server: ModelServer) -> None:
        """Takes the model server."""
        self._server = server
        self._lock = threading.Lock()
        self._jobs: dict[Path, EmbeddingJob] = {}
        self._complete: dict[Path, Embedded] = {}

    def get(self, dataset: Dataset, model: str, version: int) -> Embedded | None:
        """Returns the embeddings of a model version; None if they are not complete."""
        folder = dataset.embeddings_folder(model, version)
        with self._lock:
            if folder not in self._complete:
                files = _Files(folder)
                total = dataset.catalog.count()
                if not total or files.count() < total:
                    return None
                self._complete = {folder: files.read(total)}  # one at a time is in memory
            return self._complete[folder]

    def job(self, dataset: Dataset, model: str, version: int) -> EmbeddingJob | None:
        """Returns the computation of a model version; None if it was not started."""
        return self._jobs.get(dataset.embeddings_folder(model, version))

    def start(self, dataset: Dataset, model: str, version: int) -> EmbeddingJob:
        """Starts a computation, or returns the running one."""
        folder = dataset.embeddings_folder(model, version)
        with self._lock:
            job = self._jobs.get(folder)
            if job is None or not job.is_running:
                job = self._jobs[folder] = EmbeddingJob(dataset.catalog.count())
                arguments = (dataset, self._server.client(model, version), self._method(model, version), folder, job)
                threading.Thread(target=_compute, args=arguments, daemon=True).start()
            return job

    def stop(self) -> None:
        """Ends all computations after their current batch."""
        for job in self._jobs.values():
            job.stopped.set()

    def _method(self, model: str, version: int) -> str:
        return self._server.method(model, version) or "predict"


class _Files:
    """The files of one computation."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def dimension(self) -> int | None:
        try:
            return int(json.loads((self._folder / _SIZE).read_text()))
        except (OSError, ValueError):
            return None

    def count(self) -> int:
        """Number of images of which both files contain the result."""
        dimension = self.dimension()
        try:
            vectors = (self._folder / _VECTORS).stat().st_size // (4 * dimension) if dimension else 0
            with open(self._folder / _PREDICTIONS, "rb") as file:
                return min(vectors, sum(line.endswith(b"\n") for line in file))
        except OSError:
            return 0

    def cut(self, count: int) -> None:
        """Removes everything after a number of images, such as what an interrupted process left."""
        self._folder.mkdir(parents=True, exist_ok=True)
        dimension = self.dimension() or 0
        with open(self._folder / _VECTORS, "ab") as file:
            file.truncate(count * 4 * dimension)
        path = self._folder / _PREDICTIONS
        lines = path.read_bytes().splitlines(keepends=True)[:count] if path.is_file() else []
        path.write_bytes(b"".join(lines))

    def append(self, vectors: np.ndarray, predictions: Iterable[PredictedImage]) -> None:
        if self.dimension() is None:
            (self._folder / _SIZE).write_text(str(vectors.shape[1]))
        with open(self._folder / _VECTORS, "ab") as file:
            file.write(np.ascontiguousarray(vectors, "<f4").tobytes())
        with open(self._folder / _PREDICTIONS, "ab") as file:
            file.write(b"".join(json.dumps(prediction).encode() + b"\n" for prediction in predictions))

    def read(self, total: int) -> Embedded:
        dimension = self.dimension() or 1
        vectors = np.fromfile(self._folder / _VECTORS, "<f4", total * dimension).reshape(total, dimension)
        with open(self._folder / _PREDICTIONS, "rb") as file:
            lines = list(itertools.islice(file, total))
        return Embedded(vectors, [PredictedImage(*json.loads(line)) for line in lines])


def _compute(dataset: Dataset, client: Client, method: str, folder: Path, job: EmbeddingJob) -> None:
    try:
        files = _Files(folder)
        job.done = files.count()
        files.cut(job.done)
        rows = itertools.islice(dataset.catalog.all_images(), job.done, None)
        with ThreadPoolExecutor(2, thread_name_prefix="embed") as pool:
            for batch in _batches(rows):
                if job.stopped.is_set():
                    return
                examples = [dataset.features(row) for row in batch]
                images = [bytes(example[features.IMAGE_ENCODED].bytes_list.value[0]) for example in examples]
                embedded = pool.submit(client.embed, images, timeout_s=_TIMEOUT_S)
                predicted = getattr(client, method)(images, timeout_s=_TIMEOUT_S).or_raise()
                vectors = np.stack([entry.vector for entry in embedded.result().or_raise()])
                compared = [
                    compare(result, row, example, dataset)
                    for result, row, example in zip(predicted, batch, examples, strict=True)
                ]
                files.append(vectors, compared)
                job.done += len(batch)
    except Exception as error:
        logging.getLogger(__name__).exception("The embeddings of %s cannot be computed.", dataset.pipeline.name)
        job.error = getattr(error, "message", None) or str(error)
    finally:
        job.is_running = False


def _batches(rows: Iterator[ImageRow]) -> Iterator[list[ImageRow]]:
    while batch := list(itertools.islice(rows, _BATCH)):
        yield batch


# === Comparison with labels ===


def compare(result: Any, row: ImageRow, example: Any, dataset: Dataset) -> PredictedImage:
    """Compares a served prediction with the label of its image.

    Args:
      result: What the client returned.
      row: The image.
      example: Its features.
      dataset: Its dataset.
    """
    comparison = dataset.task.drawing.comparison
    if comparison is None or isinstance(result, Prediction):
        return _compare_classes(result, row)
    label = label_array(label_values(example), dataset.classes)
    if label is None:
        return PredictedImage("no label", float("nan"), False)
    return _compare_places(comparison, label, _PLACES[type(result)](result), dataset.ignore_id)


def _compare_classes(result: Prediction, row: ImageRow) -> PredictedImage:
    predicted = sorted(result.label.split("|")) if result.label else []
    return PredictedImage(
        result.label or "no class", result.score, predicted == sorted(filter(None, row.label.split("|")))
    )


def _compare_places(
    comparison: Comparison, label: np.ndarray, predicted: np.ndarray, ignore_id: int | None
) -> PredictedImage:
    if label.shape[:1] != predicted.shape[:1] and predicted.ndim == label.ndim == 2 and label.dtype == np.uint8:
        return PredictedImage(f"another size than the mask ({comparison.score_name})", 0.0, False)
    score = comparison.score(label, predicted, ignore_id)
    return PredictedImage(f"{comparison.score_name} {score:.2f}", score, score >= _CORRECT_FROM)


def _detected(result: Detections) -> np.ndarray:
    """Returns the detections that count as objects, float32 [M, 7]."""
    smallest = 0.5 if result.served_threshold is None else result.served_threshold
    rows = [(*entry.box, entry.class_id - 1, box_labels.OBJECT, entry.score) for entry in result.above(smallest)]
    return np.array(rows, np.float32).reshape(-1, box_labels.NUM_COLUMNS + 1)


_PLACES: dict[type[Any], Callable[[Any], np.ndarray]] = {Mask: Mask.class_ids, Detections: _detected}
