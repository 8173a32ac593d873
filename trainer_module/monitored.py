"""The arrays that monitoring compares: of the test split, and of a window of requests. NumPy and SciPy only."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

# Of training images that have a mean of their own.
_SMALLEST_GROUP = 5
_RIDGE = 1e-3
_NEAREST = 5  # training images
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
      distances: float32 [N, 2], from `distances`: how far the images are from training images.
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


class TrainingImages(NamedTuple):
    """The part of a reference that training images contribute.

    Attributes:
      embeddings: float32 [T, D], finite; at least one. No image of the test split is near one of them because it shows
        the same scene: duplicates and groups stay in one split.
      groups: int [T]; images of the same classes are in one group.
      thumbnails: float32 [T, 64], from `image_statistics`; None in references of earlier versions.
    """

    embeddings: np.ndarray
    groups: np.ndarray
    thumbnails: np.ndarray | None = None


def distances(embeddings: np.ndarray, thumbnails: np.ndarray | None, training: TrainingImages) -> np.ndarray:
    """Returns the distances of every image to training images: those of embeddings, and those of thumbnails.

    A network may map an image of an unknown class to the embeddings of a known one, from whose pixels it still differs.

    Args:
      embeddings: float32 [N, D].
      thumbnails: float32 [N, 64]; None if the pixels are not known.
      training: Training images.

    Returns:
      float32 [N, 2]; NaN where a distance is not known.
    """
    columns = np.full((len(embeddings), 2), np.nan, np.float32)
    if embeddings.shape[1] == training.embeddings.shape[1]:
        columns[:, 0] = _to_nearest_mean(embeddings, training)
    if thumbnails is not None and training.thumbnails is not None:
        columns[:, 1] = _to_nearest(thumbnails, training.thumbnails)
    return columns


def _to_nearest_mean(embeddings: np.ndarray, training: TrainingImages) -> np.ndarray:
    """Computes the Mahalanobis distance to the nearest mean of a group of training images, float [N].

    All groups share one covariance, that of the distances to their means. A thousandth of its mean variance is added to
    the variances, so that few images suffice; with scikit-learn's LedoitWolf instead, as many images of unknown classes
    are found (tests/bench/monitor_digits.py). Groups of fewer than 5 images are one group.

    Reference: Lee et al. 2018, A Simple Unified Framework for Detecting Out-of-Distribution Samples and Adversarial
    Attacks, https://arxiv.org/abs/1807.03888, section 2.1.
    """
    _, groups, sizes = np.unique(training.groups, return_inverse=True, return_counts=True)
    _, groups = np.unique(np.where(sizes[groups] < _SMALLEST_GROUP, -1, groups), return_inverse=True)
    vectors = training.embeddings.astype(np.float64)
    means = np.stack([vectors[groups == group].mean(axis=0) for group in range(groups.max() + 1)])
    residuals = vectors - means[groups]
    covariance = residuals.T @ residuals / len(vectors)
    ridge = _RIDGE * covariance.trace() / len(covariance) or 1.0
    whiten = np.linalg.cholesky(np.linalg.inv(covariance + ridge * np.eye(len(covariance))))
    nearest = np.full(len(embeddings), np.inf)
    white = embeddings @ whiten
    for mean in means @ whiten:
        nearest = np.minimum(nearest, np.linalg.norm(white - mean, axis=1))
    return nearest


def _to_nearest(thumbnails: np.ndarray, training: np.ndarray) -> np.ndarray:
    """Computes the mean distance to the nearest training images, float [N]."""
    from scipy.spatial.distance import cdist

    training = training[~np.isnan(training).any(axis=1)]
    if not len(training):
        return np.full(len(thumbnails), np.nan)
    nearest: np.ndarray = np.sort(cdist(thumbnails, training), axis=1)[:, :_NEAREST].mean(axis=1)
    return nearest
