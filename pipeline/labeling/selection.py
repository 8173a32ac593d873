"""Chooses the images whose labels help a model most: uncertain, diverse and novel ones, without duplicates.

N is the number of candidates, M that of training images, D the size of an embedding. Distances are Euclidean, of
embeddings of unit length. NumPy and scikit-learn only.
"""

from __future__ import annotations

import functools
import heapq
from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from components.data_audit import neighbors

UNCERTAIN, NOVEL = "uncertain", "novel"
_IS_NOVEL = 0.5
# So many of the training images are nearer to another one than an image that counts as novel.
_USUAL = 0.95
# Distances of equal vectors are not exactly 0 in float32.
_ROUNDING = 1e-3
# So many times more images than are chosen, the least certain ones, can be chosen for their uncertainty.
_POOL_FACTOR = 3
# Distances and similarities are computed for so many pairs at once.
_MOST_PAIRS = 2**24
_TINY = 1e-12
# Of a dimension that distinguishes images.
_SMALLEST_DEVIATION = 1e-6


@dataclass(frozen=True)
class ImageSet:
    """Images, as far as a selection looks at them.

    Attributes:
      embeddings: float32 [N, D].
      sha256: Digest of every file.
      hashes: int64 [N], perceptual hash of every image; -1 for an image without structure.
    """

    embeddings: np.ndarray
    sha256: tuple[str, ...]
    hashes: np.ndarray

    def __len__(self) -> int:
        return len(self.sha256)


class Choice(NamedTuple):
    """A chosen image.

    Attributes:
      position: Index among the candidates.
      reason: `uncertain` or `novel`.
      novelty: Range [0, 1): above 0.5 for an image that is farther from the nearest training image than 95 % of the
        training images are from another one.
    """

    position: int
    reason: str
    novelty: float


class Selection(NamedTuple):
    """The result of a selection.

    Attributes:
      choices: In the order in which they were chosen: the first ones are the most useful.
      repeated: Number of candidates with the same bytes as another candidate.
      known: Number of candidates that the training data contain, or nearly so.
      near_duplicates: Number of candidates that look like a chosen image.
    """

    choices: tuple[Choice, ...]
    repeated: int = 0
    known: int = 0
    near_duplicates: int = 0


def select(
    candidates: ImageSet,
    uncertainty: np.ndarray,
    training: ImageSet,
    num: int,
    *,
    novel_share: float = 0.2,
    max_bits: int = 4,
) -> Selection:
    """Chooses images.

    Candidates that are duplicates of training images or of each other are skipped. Near duplicates are two images
    whose embeddings are nearer than those of almost all other images, and whose perceptual hashes differ in few bits:
    each of both alone would also find images that only resemble each other.

    First, up to `novel_share` of the images are novel ones, chosen by k-centre greedy: the most distant from the
    training images first, each distant from those before. The others represent the least certain candidates by facility
    location: greedily, they maximise the sum over these of the similarity to the most similar training or chosen image,
    weighted with the uncertainty.

    Args:
      candidates: The images to choose from, N.
      uncertainty: float [N], range [0, 1].
      training: The images that the model was trained on, M; may be none.
      num: Number of images to choose; fewer if there are not so many different ones.
      novel_share: Largest share of novel images, range [0, 1].
      max_bits: Largest number of bits in which the perceptual hashes of near duplicates differ.

    Reference: Wei, Iyer & Bilmes 2015, https://proceedings.mlr.press/v37/wei15.html (filtered active submodular
    selection: facility location among the least certain images); Sener & Savarese 2018,
    https://arxiv.org/abs/1708.00489, algorithm 1 (k-centre greedy); Sun et al. 2022, https://arxiv.org/abs/2204.06507
    (novelty by the distance to neighbours).
    """
    embeddings, references = _unit(candidates.embeddings), _unit(training.embeddings)
    among = neighbors.find(references, 1)
    bound = neighbors.duplicate_bound(among if len(references) > 1 else neighbors.find(embeddings, 1))
    first = _first_of_each(candidates.sha256)
    known_files = set(training.sha256)
    new = np.array([digest not in known_files for digest in candidates.sha256], bool)
    nearest, near_known = _compare(embeddings, candidates.hashes, references, training.hashes, bound, max_bits)
    novelty = _novelty(nearest, among.distances)
    available = first & new & ~near_known
    greedy = _Greedy(embeddings, candidates.hashes, references, nearest, available, bound, max_bits)
    choices = []
    novel = available & (novelty > _IS_NOVEL)
    for index in greedy.take_distant(round(novel_share * num), novel):
        choices.append(Choice(index, NOVEL, float(novelty[index])))
    while len(choices) < num and greedy.available.any():  # again if near duplicates have used up the pool
        remaining = num - len(choices)
        pool = _least_certain(uncertainty, greedy.available, remaining)
        for index in greedy.take_representative(remaining, pool, uncertainty):
            choices.append(Choice(index, UNCERTAIN, float(novelty[index])))
    known = int((first & (~new | near_known)).sum())
    return Selection(tuple(choices), int((~first).sum()), known, greedy.num_near_duplicates)


def _unit(embeddings: np.ndarray) -> np.ndarray:
    values = np.asarray(embeddings, np.float32)
    return values / np.maximum(np.linalg.norm(values, axis=1, keepdims=True), _TINY) if len(values) else values


def _novelty(nearest: np.ndarray, among: np.ndarray) -> np.ndarray:
    """Compares the distance of images to the nearest training image with that of the training images to each other.

    Args:
      nearest: float64 [N], Euclidean distances of the images.
      among: float64 [M, 1], cosine distance of every training image to the nearest other one; [M, 0] if there is none.

    Returns:
      float64 [N], range [0, 1): above 0.5 if the image is more distant than `_USUAL` of the training images; 0 if there
      are not two of these.
    """
    if not among.size:
        return np.zeros(len(nearest))
    bound = max(float(np.quantile(_euclidean(among), _USUAL)), _ROUNDING)
    return np.asarray(nearest / (nearest + bound))


def _first_of_each(digests: tuple[str, ...]) -> np.ndarray:
    seen: set[str] = set()
    first = np.zeros(len(digests), bool)
    for index, digest in enumerate(digests):
        first[index] = digest not in seen
        seen.add(digest)
    return first


def _compare(
    embeddings: np.ndarray,
    hashes: np.ndarray,
    references: np.ndarray,
    reference_hashes: np.ndarray,
    bound: float,
    max_bits: int,
) -> tuple[np.ndarray, np.ndarray]:
    """Compares candidates with all training images: distance to the nearest, and whether one is a near duplicate."""
    nearest = np.full(len(embeddings), np.inf)
    is_near = np.zeros(len(embeddings), bool)
    if not len(references):
        return nearest, is_near
    for part in _blocks(len(embeddings), len(references)):
        cosines = 1.0 - embeddings[part] @ references.T
        nearest[part] = _euclidean(cosines.min(axis=1))
        row, column = np.nonzero(cosines <= bound)
        same = _few_bits(hashes[part][row], reference_hashes[column], max_bits)
        is_near[part.start + row[same]] = True
    return nearest, is_near


def _blocks(rows: int, columns: int) -> Iterator[slice]:
    """Yields slices of the rows of a matrix, of which memory holds one at a time."""
    step = max(1, _MOST_PAIRS // max(1, columns))
    for start in range(0, rows, step):
        yield slice(start, start + step)


def _euclidean(cosine_distance: np.ndarray) -> np.ndarray:
    return np.asarray(np.sqrt(np.maximum(2.0 * cosine_distance, 0.0)))


def _few_bits(first: np.ndarray, second: np.ndarray, most: int) -> np.ndarray:
    return np.asarray((np.bitwise_count(first ^ second) <= most) & (first >= 0) & (second >= 0))


def _least_certain(uncertainty: np.ndarray, available: np.ndarray, num: int) -> np.ndarray:
    """Returns the indices of the available images among which `num` are chosen for their uncertainty.

    These are `_POOL_FACTOR` times as many, without those that are less than half as uncertain as the last of the first
    `num`: an image that the model is sure about is not chosen because it looks different.
    """
    indices = np.flatnonzero(available)
    pool = indices[np.argsort(-uncertainty[indices], kind="stable")[: _POOL_FACTOR * num]]
    last = uncertainty[pool[min(num, len(pool)) - 1]]
    return np.asarray(pool[uncertainty[pool] >= 0.5 * last])


class _Greedy:
    """Chooses images one by one, and removes the near duplicates of those that are chosen."""

    def __init__(
        self,
        embeddings: np.ndarray,
        hashes: np.ndarray,
        references: np.ndarray,
        nearest: np.ndarray,
        available: np.ndarray,
        bound: float,
        max_bits: int,
    ) -> None:
        """Takes the candidates and their distances to the training images.

        Args:
          embeddings: float32 [N, D], of unit length.
          hashes: int64 [N].
          references: float32 [M, D], the training images.
          nearest: float64 [N], Euclidean distances; infinite without training images.
          available: bool [N], whether a candidate may be chosen.
          bound: Largest distance (1 minus the cosine) of near duplicates.
          max_bits: Largest number of bits in which their hashes differ.
        """
        self._embeddings, self._hashes, self._references, self._nearest = embeddings, hashes, references, nearest
        self._chosen: list[int] = []
        self._bound, self._max_bits = bound, max_bits
        self.available = available.copy()
        self.num_near_duplicates = 0

    def take_distant(self, num: int, pool: np.ndarray) -> list[int]:
        """Chooses up to `num` images of a pool, bool [N], by their distance to all that are chosen: k-centre greedy."""
        chosen: list[int] = []
        while len(chosen) < num:
            open_ = np.flatnonzero(pool & self.available)
            if not len(open_):
                break
            index = int(open_[np.argmax(self._nearest[open_])])
            chosen.append(index)
            self._remove(index)
        return chosen

    def take_representative(self, num: int, pool: np.ndarray, weights: np.ndarray) -> list[int]:
        """Chooses up to `num` images that, with the training images and those already chosen, represent a pool.

        Facility location by lazy greedy maximisation: the gain of an image never grows while others are chosen, so that
        most gains need not be computed again. Memory holds a bounded block of the similarities.

        Args:
          num: Largest number of images.
          pool: Indices of available images.
          weights: float [N], the weight of every image.

        Reference: Minoux 1978, https://doi.org/10.1007/BFb0006528 (lazy greedy).
        """
        vectors, importance = self._standardized(self._embeddings[pool]), np.maximum(weights[pool], _TINY)
        covered = np.zeros(len(pool))
        for known in (self._references, self._embeddings[self._chosen]):
            for rows in _blocks(len(known), len(pool)):
                similarity = self._standardized(known[rows]) @ vectors.T
                covered = np.maximum(covered, similarity.max(axis=0))
        gains = [
            gain
            for rows in _blocks(len(pool), len(pool))
            for gain in np.maximum(vectors[rows] @ vectors.T - covered, 0.0) @ importance
        ]
        queue = [(-float(gain), position) for position, gain in enumerate(gains)]
        heapq.heapify(queue)
        chosen: list[int] = []
        while queue and len(chosen) < num:
            _, position = heapq.heappop(queue)
            if not self.available[pool[position]]:
                continue
            similarity = vectors @ vectors[position]
            gain = float(np.maximum(similarity - covered, 0.0) @ importance)
            if queue and gain < -queue[0][0]:
                heapq.heappush(queue, (-gain, position))
                continue
            covered = np.maximum(covered, similarity)
            chosen.append(int(pool[position]))
            self._remove(chosen[-1])
        return chosen

    def _standardized(self, embeddings: np.ndarray) -> np.ndarray:
        """Scales embeddings to mean 0 and deviation 1 of every dimension over all candidates, then to unit length."""
        mean, deviation = self._moments
        return _unit((embeddings - mean) / deviation)

    @functools.cached_property
    def _moments(self) -> tuple[np.ndarray, np.ndarray]:
        """Mean and deviation of every dimension over all candidates, of which there must be one."""
        return self._embeddings.mean(axis=0), np.maximum(self._embeddings.std(axis=0), _SMALLEST_DEVIATION)

    def _remove(self, index: int) -> None:
        self._chosen.append(index)
        self.available[index] = False
        cosines = 1.0 - self._embeddings @ self._embeddings[index]
        self._nearest = np.minimum(self._nearest, _euclidean(cosines))
        same = _few_bits(self._hashes, np.full(len(self._hashes), self._hashes[index]), self._max_bits)
        duplicates = self.available & same & (cosines <= self._bound)
        self.num_near_duplicates += int(duplicates.sum())
        self.available &= ~duplicates
