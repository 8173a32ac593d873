"""The arrays that monitoring compares: of the test split, and of a window of requests. NumPy only."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

# Of the training images, whose mean distance to an image is compared.
_NEAREST = 5
_MOST_PAIRS = 4_000_000  # in memory at a time
# Larger embeddings are projected: their distances, and so the tests, hardly change.
MAX_DIMENSIONS = 1024
_PROJECTION_SEED = 22


class MonitoredPredictions(NamedTuple):
    """Predictions for N images, of any task; C is the number of classes.

    Attributes:
      scores: float32 [N, C]: probabilities, shares of the pixels, or the best score of a class.
      class_ids: int64 [N]: one predicted class per image; -1 for none.
      confidence: float32 [N], range [0, 1]; None if the model does not return any.
    """

    scores: np.ndarray
    class_ids: np.ndarray
    confidence: np.ndarray | None


@dataclass(frozen=True)
class MonitoredImages:
    """N images with what a model made of them. A part is None if it is not known, such as pixels that are not logged.

    Attributes:
      statistics: float32 [N, K], columns as `image_statistics.NAMES`; NaN for an unreadable image.
      embeddings: float32 [N, D], from `stored_embeddings`.
      predictions: Predictions.
      quality: float32 [N], range [0, 1]: agreement with the ground truth; NaN where that is not known.
      labels: Class names in the ground truth of every image, for slices; empty if it is not known or has none.
      distances: float32 [N], from `distances`: how far the embeddings are from those of training images.
    """

    statistics: np.ndarray | None
    embeddings: np.ndarray | None
    predictions: MonitoredPredictions
    quality: np.ndarray
    labels: Sequence[tuple[str, ...]]
    distances: np.ndarray | None = None

    def __len__(self) -> int:
        return len(self.predictions.scores)


def stored_embeddings(embeddings: np.ndarray) -> np.ndarray:
    """Returns embeddings as a reference stores them, with the precision of float16: float32 [N, D].

    More than `MAX_DIMENSIONS` dimensions are reduced by a fixed random projection. scikit-learn's
    GaussianRandomProjection may draw other numbers in another version, and a reference is compared with later windows.

    Reference: Johnson & Lindenstrauss 1984, Extensions of Lipschitz mappings into a Hilbert space.
    """
    dimensions, values = embeddings.shape[1], embeddings.astype(np.float32)
    if dimensions > MAX_DIMENSIONS:
        random = np.random.Generator(np.random.PCG64(_PROJECTION_SEED))
        matrix = random.standard_normal((dimensions, MAX_DIMENSIONS), np.float32)
        values = values @ matrix / np.float32(np.sqrt(MAX_DIMENSIONS))
    return values.astype(np.float16).astype(np.float32)


def distances(embeddings: np.ndarray, training: np.ndarray) -> np.ndarray:
    """Returns the mean Euclidean distance of every image to its 5 nearest training images, float32 [N].

    Args:
      embeddings: float32 [N, D]; the distance of one with NaN is NaN, and those of other dimensions are NaN too.
      training: float32 [T, D], of the training images, at least one. No image of the test split is near one of them
        because it shows the same scene: duplicates and groups stay in one split.

    Reference: Sun et al. 2022, Out-of-Distribution Detection with Deep Nearest Neighbors,
    https://arxiv.org/abs/2204.06507.
    """
    nearest, means = min(_NEAREST, len(training)), np.full(len(embeddings), np.nan, np.float32)
    if embeddings.shape[1] != training.shape[1]:
        return means
    squares = np.einsum("ij,ij->i", training, training)
    step = max(1, _MOST_PAIRS // len(training))
    for start in range(0, len(embeddings), step):
        rows = embeddings[start : start + step]
        squared = np.einsum("ij,ij->i", rows, rows)[:, np.newaxis] + squares - 2.0 * rows @ training.T
        smallest = np.partition(squared, nearest - 1, axis=1)[:, :nearest]
        means[start : start + step] = np.sqrt(np.maximum(smallest, 0.0)).mean(axis=1)
    return means
