"""The monitoring reference: the test split as the pushed version sees it, with which requests are compared."""

from __future__ import annotations

import io
import json
import zipfile
from dataclasses import dataclass
from typing import Any, ClassVar, Literal, Self

import numpy as np

from components.stored import IncompatibleArtifactError, Stored
from trainer_module import image_statistics, locations
from trainer_module.monitored import MonitoredImages, MonitoredPredictions, TrainingImages

ARRAYS_FILE = "reference.npz"
_TRAINING, _TRAINING_GROUPS, _TRAINING_THUMBNAILS = "training", "training_groups", "training_thumbnails"
# Int property of the artifact: the pushed version; absent if no model was pushed.
VERSION = "version"


class ReferenceSummary(Stored):
    """The version, the task and the split that the reference belongs to.

    Attributes:
      version: The pushed version.
      task: Name of the task.
      classes: Class names; the index is the id.
      ignore_id: The ignored id of masks.
      window: Which values of 16-bit images become black and white.
      split: The split whose images it contains.
      images: Number of its images.
      split_images: Number of images in the split.
    """

    FILE: ClassVar[str] = "reference.json"

    format: Literal[1] = 1
    version: int
    task: str
    classes: tuple[str, ...]
    ignore_id: int | None
    window: tuple[int, int]
    split: str
    images: int
    split_images: int


@dataclass(frozen=True)
class Reference:
    """Both files of the artifact.

    Attributes:
      summary: The version, the task and the split.
      images: The images, without their pixels and names.
      training: Training images; None in references of earlier versions.
    """

    summary: ReferenceSummary
    images: MonitoredImages
    training: TrainingImages | None = None

    @classmethod
    def read(cls, uri: str) -> Self:
        """Reads the artifact.

        Raises:
          OSError: If a file cannot be read.
          IncompatibleArtifactError: If another version of tfx-vision wrote it, or it is damaged.
        """
        summary, path = ReferenceSummary.read(uri), locations.join(uri, ARRAYS_FILE)
        try:
            with np.load(io.BytesIO(locations.read(path)), allow_pickle=False) as arrays:
                known = {name: arrays[name] for name in arrays.files}
            return cls(summary, _images(known), _training(known))
        except (ValueError, KeyError, EOFError, zipfile.BadZipFile) as error:
            raise IncompatibleArtifactError(
                f"{path} cannot be read: {error}. Run the pipeline again to write a new one."
            ) from None

    def write(self, uri: str) -> None:
        """Writes the artifact.

        Raises:
          OSError: If it cannot be written.
        """
        locations.file_system(uri).makedirs(uri)
        buffer = io.BytesIO()
        arrays = _arrays(self.images)
        if self.training is not None:
            arrays |= {_TRAINING: self.training.embeddings.astype(np.float16), _TRAINING_GROUPS: self.training.groups}
            if self.training.thumbnails is not None:
                arrays[_TRAINING_THUMBNAILS] = self.training.thumbnails.astype(np.float16)
        np.savez_compressed(buffer, **arrays)
        locations.write(locations.join(uri, ARRAYS_FILE), buffer.getvalue())
        self.summary.write(uri)


def _arrays(images: MonitoredImages) -> dict[str, Any]:
    assert images.statistics is not None and images.embeddings is not None
    arrays = {
        "statistics": images.statistics,
        "statistics_names": np.array(image_statistics.NAMES),
        "embeddings": images.embeddings.astype(np.float16),
        "scores": images.predictions.scores,
        "class_ids": images.predictions.class_ids,
        "quality": images.quality,
        "labels": np.array([json.dumps(names) for names in images.labels]),
    }
    if images.predictions.confidence is not None:
        arrays["confidence"] = images.predictions.confidence
    if images.distances is not None:
        arrays["distances"] = images.distances
    return arrays


def _training(arrays: dict[str, np.ndarray]) -> TrainingImages | None:
    if _TRAINING_GROUPS not in arrays:
        return None
    thumbnails = arrays.get(_TRAINING_THUMBNAILS)
    return TrainingImages(
        arrays[_TRAINING].astype(np.float32),
        arrays[_TRAINING_GROUPS],
        None if thumbnails is None else thumbnails.astype(np.float32),
    )


def _images(arrays: dict[str, np.ndarray]) -> MonitoredImages:
    if tuple(arrays["statistics_names"].tolist()) != image_statistics.NAMES:
        raise ValueError("its statistics are those of another version of tfx-vision")
    return MonitoredImages(
        statistics=arrays["statistics"],
        embeddings=arrays["embeddings"].astype(np.float32),
        predictions=MonitoredPredictions(arrays["scores"], arrays["class_ids"], arrays.get("confidence")),
        quality=arrays["quality"],
        labels=[tuple(json.loads(names)) for names in arrays["labels"].tolist()],
        distances=_distances(arrays),
    )


def _distances(arrays: dict[str, np.ndarray]) -> np.ndarray | None:
    # Without groups, they are distances of another kind, of an earlier version.
    if "distances" not in arrays or _TRAINING_GROUPS not in arrays:
        return None
    values = arrays["distances"]
    # A later version added those of thumbnails.
    return values if values.ndim > 1 else np.column_stack([values, np.full_like(values, np.nan)])
