"""How likely every label is wrong: a classifier and the neighbours of the image, before and after removing suspects.

N is the number of images, C that of classes.

Confident learning ranks images by the out-of-fold probability of their label. Two things are added, which
`tests/bench/label_errors.py` compares with that ranking. The labels of the nearest neighbours are independent evidence:
a linear classifier cannot follow a class of several clusters, and neighbours can. And both are computed a second time
without the suspects of the first time, since wrong labels distort the classifier and the votes.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from components.data_audit import confident_learning, neighbors, out_of_fold
from components.data_audit.neighbors import Neighbors

# Chosen on clothing with wrong labels; CIFAR-10 in docs/results.md was not used for it.
NUM_VOTES = 40
_VOTE_EXPONENT = 0.5
# The votes and the classifier are not independent, so that the product is too sure: above this value, about half of the
# labels are wrong.
_LEAST_SUSPICION = 0.95
# The votes of so many neighbours weigh as much as the class frequencies: no probability is 0.
_PRIOR_SHARE = 1 / 32


@dataclass(frozen=True)
class Assessment:
    """The labels of all images.

    Attributes:
      suspicion: Probability that the label is wrong, float64 [N].
      proposed: The most probable class, int64 [N].
      is_issue: Whether a person should review the label, bool [N].
      agreement: Share of the images whose label the classifier predicts, without the neighbours.
    """

    suspicion: np.ndarray
    proposed: np.ndarray
    is_issue: np.ndarray
    agreement: float


def assess(
    features: np.ndarray, labels: np.ndarray, num_classes: int, near: Neighbors, folds: np.ndarray
) -> Assessment:
    """Assesses one label per image.

    Args:
      features: From `out_of_fold.compress`, [N, d].
      labels: Class ids, int64 [N].
      num_classes: Number of classes, C.
      near: Neighbours of every image, at least `NUM_VOTES` if there are so many.
      folds: From `out_of_fold.assign_folds`.
    """
    everything = np.ones(len(labels), bool)
    predicted = out_of_fold.probabilities(features, labels, num_classes, folds)
    first = with_votes(predicted, labels, near, everything)
    trusted = ~confident_learning.issues(labels, first)
    second = with_votes(out_of_fold.probabilities(features, labels, num_classes, folds, trusted), labels, near, trusted)
    mean = _normalized(np.sqrt(first * second))
    suspicion, proposed = 1.0 - confident_learning.self_confidence(labels, mean), mean.argmax(axis=1)
    return Assessment(
        suspicion=suspicion,
        proposed=proposed,
        is_issue=(suspicion > _LEAST_SUSPICION) & (proposed != labels),
        agreement=float((predicted.argmax(axis=1) == labels).mean()),
    )


def with_votes(predicted: np.ndarray, labels: np.ndarray, near: Neighbors, trusted: np.ndarray) -> np.ndarray:
    """Multiplies probabilities with the votes of the trusted neighbours, and normalises them: float64 [N, C]."""
    one_hot = np.eye(predicted.shape[1])[labels] * trusted[:, np.newaxis]
    votes = neighbors.votes(one_hot, near, NUM_VOTES)
    votes = (1.0 - _PRIOR_SHARE) * votes + _PRIOR_SHARE * predicted.mean(axis=0)
    return _normalized(predicted * votes**_VOTE_EXPONENT)


def _normalized(values: np.ndarray) -> np.ndarray:
    values = np.maximum(values, 1e-12)
    return np.asarray(values / values.sum(axis=1, keepdims=True))
