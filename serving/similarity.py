"""Ranks images by the cosine similarity of their embeddings."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np


class SimilarImage(NamedTuple):
    """One of the searched images.

    Attributes:
      position: Its index among them.
      similarity: Cosine of the angle between the two embeddings, range [-1, 1]; 1 is the same direction.
    """

    position: int
    similarity: float


def most_similar(query: np.ndarray, vectors: Sequence[np.ndarray] | np.ndarray, top_k: int) -> list[SimilarImage]:
    """Ranks vectors by their cosine similarity with a query.

    Args:
      query: float [D].
      vectors: float [N, D]; neither these nor the query need unit length.
      top_k: The most to return.

    Returns:
      The most similar ones, best first; ties in the order of `vectors`.

    Raises:
      ValueError: If the sizes differ, or a vector has no direction (zeros, NaN).
    """
    rows = np.asarray(vectors, np.float64)
    if len(rows) == 0:
        return []
    if rows.ndim != 2 or query.shape != rows.shape[1:]:
        raise ValueError(f"vectors of shape {list(rows.shape)} cannot be compared with one of {list(query.shape)}")
    similarities = _unit(rows) @ _unit(np.asarray(query, np.float64)[np.newaxis])[0]
    # Ties keep their order, and only the returned part is sorted.
    best = np.argpartition(-similarities, top_k - 1)[:top_k] if top_k < len(rows) else np.arange(len(rows))
    threshold = similarities[best].min()
    candidates = np.flatnonzero(similarities >= threshold)
    ranked = candidates[np.argsort(-similarities[candidates], kind="stable")][:top_k]
    return [SimilarImage(int(index), float(np.clip(similarities[index], -1.0, 1.0))) for index in ranked]


def _unit(rows: np.ndarray) -> np.ndarray:
    lengths = np.linalg.norm(rows, axis=1, keepdims=True)
    if not np.all((lengths > 0) & np.isfinite(lengths)):
        raise ValueError("a vector has no direction: it is zero or not finite")
    unit: np.ndarray = rows / lengths
    return unit
