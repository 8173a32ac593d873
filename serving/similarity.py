"""Which pictures look alike to a model: the cosine of their embeddings."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np


class Match(NamedTuple):
    """One of the pictures that were searched.

    Attributes:
      place: Its index among them.
      similarity: Cosine of the angle between the two embeddings, range [-1, 1]; 1 is the same direction.
    """

    place: int
    similarity: float


def most_similar(query: np.ndarray, vectors: Sequence[np.ndarray] | np.ndarray, top_k: int) -> list[Match]:
    """Ranks vectors by their cosine with another one.

    Args:
      query: float [D].
      vectors: float [N, D]; neither these nor the query need unit length.
      top_k: How many to return, if there are so many.

    Returns:
      The most similar ones, best first; equal ones in their order.

    Raises:
      ValueError: If the sizes do not fit, or a vector has no direction (zeros, NaN).
    """
    rows = np.asarray(vectors, np.float64)
    if len(rows) == 0:
        return []
    if rows.ndim != 2 or query.shape != rows.shape[1:]:
        raise ValueError(f"vectors of the shape {list(rows.shape)} cannot be compared with one of {list(query.shape)}")
    similarities = _unit(rows) @ _unit(np.asarray(query, np.float64)[np.newaxis])[0]
    # Ties keep their order, and only what is returned is sorted.
    best = np.argpartition(-similarities, top_k - 1)[:top_k] if top_k < len(rows) else np.arange(len(rows))
    threshold = similarities[best].min()
    candidates = np.flatnonzero(similarities >= threshold)
    ranked = candidates[np.argsort(-similarities[candidates], kind="stable")][:top_k]
    return [Match(int(place), float(np.clip(similarities[place], -1.0, 1.0))) for place in ranked]


def _unit(rows: np.ndarray) -> np.ndarray:
    lengths = np.linalg.norm(rows, axis=1, keepdims=True)
    if not np.all((lengths > 0) & np.isfinite(lengths)):
        raise ValueError("a vector has no direction: it is zero or not finite")
    unit: np.ndarray = rows / lengths
    return unit
