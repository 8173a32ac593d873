"""Decision thresholds of classes: the probability from which a class is predicted. NumPy only."""

from __future__ import annotations

import numpy as np

DEFAULT = 0.5


def best_f1(probabilities: np.ndarray, labels: np.ndarray) -> tuple[float, ...]:
    """Chooses for every class the threshold with the largest F1; a class is predicted from its threshold on.

    A threshold is halfway between two neighbouring probabilities, or half of the smallest one, and exact in float32.
    Of several with the same F1, the one nearest to 0.5 is chosen, which is 0.5 itself if it is as good: noise in the
    last bits must not move it. A class without an image has nothing to choose from: 0.5.

    Args:
      probabilities: float32 [n, C], range [0, 1].
      labels: bool [n, C].

    Returns:
      C numbers in [0, 1].

    Reference: Fan & Lin 2007, https://www.csie.ntu.edu.tw/~cjlin/papers/threshold.pdf, section 2.2 (one threshold per
    class, chosen on validation data; this optimises the macro F1).
    """
    return tuple(
        _best_of_class(scores, positive)
        for scores, positive in zip(probabilities.astype(np.float32).T, labels.T, strict=True)
    )


def _best_of_class(scores: np.ndarray, positive: np.ndarray) -> float:
    num_positives = int(positive.sum())
    if not num_positives:
        return DEFAULT
    values, counts = np.unique(scores, return_counts=True)
    positives = np.bincount(np.searchsorted(values, scores), weights=positive, minlength=len(values))
    correct = np.cumsum(positives[::-1])[::-1]
    predicted = np.cumsum(counts[::-1])[::-1]
    f1 = 2.0 * correct / (predicted + num_positives)
    lower = np.concatenate([[0.0], values[:-1].astype(np.float64)])
    middle = ((lower + values) / 2.0).astype(np.float32)
    # Between neighbouring numbers there is none, and rounding can go down.
    middle = np.where(middle > lower, middle, values)
    # 0.5 is as good as any other threshold between the same probabilities.
    middle = np.where((lower < DEFAULT) & (values >= DEFAULT), np.float32(DEFAULT), middle)
    best = np.flatnonzero(f1 >= f1.max() - 1e-12)
    return float(middle[best[np.argmin(np.abs(middle[best] - DEFAULT))]])


def closeness(probabilities: np.ndarray, thresholds: np.ndarray) -> np.ndarray:
    """Measures how close probabilities are to their decision thresholds.

    Args:
      probabilities: float [...], range [0, 1].
      thresholds: float, broadcast with the probabilities, range (0, 1).

    Returns:
      float64 [...]: 1 at the threshold, 0 for the probabilities 0 and 1, linear between them.
    """
    scores, bounds = np.broadcast_arrays(np.asarray(probabilities, np.float64), np.asarray(thresholds, np.float64))
    above = (1.0 - scores) / np.maximum(1.0 - bounds, 1e-9)
    return np.asarray(np.clip(np.where(scores >= bounds, above, scores / np.maximum(bounds, 1e-9)), 0.0, 1.0))
