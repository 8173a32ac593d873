"""Images by their neighbours in the space of embeddings: outliers, near duplicates, agreement of labels.

N is the number of images, D the size of an embedding, K the number of neighbours. Distances are 1 minus the cosine.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

# The usual bound for far outliers: Tukey 1977, "Exploratory Data Analysis", section 2D (three interquartile ranges).
_FAR_OUT = 3.0
# Two images are near duplicates if their distance is below this share of the median distance to the nearest neighbour.
_DUPLICATE_SHARE = 0.1
# 1 minus the cosine of two equal vectors is not exactly 0 in float32.
_ROUNDING = 1e-6


class Neighbors(NamedTuple):
    """The nearest other images of every image, the nearest first.

    Attributes:
      indices: int64 [N, K].
      distances: float64 [N, K], range [0, 2].
    """

    indices: np.ndarray
    distances: np.ndarray


def find(embeddings: np.ndarray, num: int) -> Neighbors:
    """Finds the nearest neighbours of every image.

    Args:
      embeddings: float [N, D].
      num: Number of neighbours; fewer if there are not so many other images.
    """
    # scikit-learn computes the distances in chunks of bounded memory.
    from sklearn.neighbors import NearestNeighbors

    num = min(num, len(embeddings) - 1)
    if num < 1:
        return Neighbors(np.zeros((len(embeddings), 0), np.int64), np.zeros((len(embeddings), 0)))
    search = NearestNeighbors(n_neighbors=num, metric="cosine", algorithm="brute").fit(embeddings)
    distances, indices = search.kneighbors()
    return Neighbors(indices, np.asarray(distances, np.float64))


def votes(labels: np.ndarray, neighbors: Neighbors, num: int) -> np.ndarray:
    """Returns the mean of the labels of the nearest neighbours, the closer the heavier.

    Args:
      labels: float [N, C], 1 for the classes of an image.
      neighbors: Of all images.
      num: Number of neighbours that vote.

    Returns:
      float64 [N, C], range [0, 1].
    """
    indices, distances = neighbors.indices[:, :num], neighbors.distances[:, :num]
    if not indices.shape[1]:
        return np.zeros(labels.shape)
    scale = np.maximum(np.median(distances), _ROUNDING)
    weights = np.exp(-distances / scale)
    weights /= weights.sum(axis=1, keepdims=True)
    # One neighbour of all images at a time: the labels of all neighbours would take K times the memory.
    mean = np.zeros((len(indices), labels.shape[1]))
    for position, weight in zip(indices.T, weights.T, strict=True):
        mean += weight[:, np.newaxis] * labels[position]
    return mean


def outliers(neighbors: Neighbors) -> np.ndarray:
    """Scores images by their mean distance to their neighbours.

    Returns:
      float64 [N], range [0, 1): above 0.5 for an outlier, whose distance is more than three interquartile ranges above
      the third quartile.

    Reference: Sun et al. 2022, https://arxiv.org/abs/2204.06507, section 3 (distance to the nearest neighbours).
    """
    if not neighbors.distances.size:
        return np.zeros(len(neighbors.distances))
    distances = neighbors.distances.mean(axis=1)
    low, high = np.quantile(distances, [0.25, 0.75])
    bound = max(high + _FAR_OUT * (high - low), _ROUNDING)
    return np.asarray(distances / (distances + bound))


def duplicate_bound(neighbors: Neighbors) -> float:
    """Returns the distance up to which two images of a set are near duplicates."""
    if not neighbors.distances.size:
        return _ROUNDING
    return max(_DUPLICATE_SHARE * float(np.median(neighbors.distances[:, 0])), _ROUNDING)


def duplicate_pairs(neighbors: Neighbors) -> tuple[np.ndarray, np.ndarray]:
    """Finds the pairs of images that look the same.

    Returns:
      Indices, int64 [M, 2], the smaller first, without repetition; their distances, float64 [M].
    """
    if not neighbors.distances.size:
        return np.zeros((0, 2), np.int64), np.zeros(0)
    bound = duplicate_bound(neighbors)
    first, position = np.nonzero(neighbors.distances <= bound)
    pairs = np.stack([first, neighbors.indices[first, position]], axis=1)
    unique, index = np.unique(np.sort(pairs, axis=1), axis=0, return_index=True)
    return unique, neighbors.distances[first, position][index]
