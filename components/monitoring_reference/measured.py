"""Runs an exported model on labelled images, and keeps what monitoring compares."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from trainer_module import features, image_statistics, tasks
from trainer_module.image_statistics import Measured
from trainer_module.model_input import Window
from trainer_module.monitored import (
    MonitoredImages,
    MonitoredPredictions,
    TrainingImages,
    distances,
    stored_embeddings,
)
from trainer_module.options import TrainerOptions

if TYPE_CHECKING:
    from trainer_module.session_model import SessionModel

Features = Mapping[str, Any]  # of a parsed tf.Example


class _Batch(NamedTuple):
    """The parts of `MonitoredImages` for some images, and their thumbnails."""

    pixels: Measured
    embeddings: np.ndarray
    predictions: MonitoredPredictions
    quality: np.ndarray
    labels: list[tuple[str, ...]]


def measure(
    model: SessionModel, options: TrainerOptions, batches: Iterable[Sequence[Features]], training: TrainingImages
) -> MonitoredImages:
    """Measures images, a batch at a time.

    Args:
      model: The exported model.
      options: `task`, `classes`, `ignore_id` and `window` are read.
      batches: Parsed raw examples, at least one.
      training: Training images, to which distances are computed.

    Raises:
      ValueError: If there is no image.
    """
    parts = list(_measured(model, options, batches))
    if not parts:
        raise ValueError("The split has no image to compare requests with.")
    confidences = [part.predictions.confidence for part in parts if part.predictions.confidence is not None]
    embeddings = np.concatenate([part.embeddings for part in parts])
    thumbnails = np.concatenate([part.pixels.thumbnail for part in parts])
    return MonitoredImages(
        statistics=np.concatenate([part.pixels.statistics for part in parts]),
        embeddings=embeddings,
        predictions=MonitoredPredictions(
            np.concatenate([part.predictions.scores for part in parts]),
            np.concatenate([part.predictions.class_ids for part in parts]),
            np.concatenate(confidences) if confidences else None,
        ),
        quality=np.concatenate([part.quality for part in parts]),
        labels=[names for part in parts for names in part.labels],
        distances=distances(embeddings, thumbnails, training),
    )


def training_images(
    model: SessionModel, options: TrainerOptions, batches: Iterable[Sequence[Features]]
) -> TrainingImages:
    """Computes the embeddings and thumbnails of training images, at least one, and groups those of the same classes."""
    task, vectors, thumbnails = tasks.get(options.task.name), list[np.ndarray](), list[np.ndarray]()
    groups, group_of, window = list[int](), dict[tuple[str, ...], int](), Window(*options.window)
    with ThreadPoolExecutor() as pool:
        for batch in batches:
            encoded = [_encoded(each) for each in batch]
            pixels = pool.map(lambda file: image_statistics.measure(file, window), encoded)
            vectors.append(_embeddings(model, encoded))
            thumbnails.append(image_statistics.stack(pixels).thumbnail)
            truths = [task.monitoring.ground_truth(task.raw_label(each)) for each in batch]
            groups += [group_of.setdefault(task.monitoring.label_classes(truth), len(group_of)) for truth in truths]
    return TrainingImages(stored_embeddings(np.concatenate(vectors)), np.array(groups), np.concatenate(thumbnails))


def _encoded(example: Features) -> bytes:
    return bytes(example[features.IMAGE_ENCODED].bytes_list.value[0])


def _embeddings(model: SessionModel, encoded: Sequence[bytes]) -> np.ndarray:
    return np.asarray(model.run_on(features.EMBED, list(encoded))["embedding"])


def _measured(model: SessionModel, options: TrainerOptions, batches: Iterable[Sequence[Features]]) -> Iterator[_Batch]:
    task = tasks.get(options.task.name)
    monitoring = task.monitoring
    window = Window(*options.window)
    with ThreadPoolExecutor() as pool:
        for batch in batches:
            encoded = [_encoded(each) for each in batch]
            # Pillow decodes in other threads while the model runs.
            pixels = pool.map(lambda file: image_statistics.measure(file, window), encoded)
            outputs = model.run_on(features.SERVING_DEFAULT, encoded, monitoring.outputs)
            labels = [monitoring.ground_truth(task.raw_label(each)) for each in batch]
            quality = [
                monitoring.quality(outputs, index, label, options.classes, options.ignore_id)
                for index, label in enumerate(labels)
            ]
            yield _Batch(
                image_statistics.stack(pixels),
                stored_embeddings(_embeddings(model, encoded)),
                monitoring.predictions(outputs, len(options.classes)),
                np.array(quality, np.float32),
                [monitoring.label_classes(label) for label in labels],
            )
