"""Evaluation that all tasks with class probabilities share: checks, and bins by probability."""

from __future__ import annotations

import numpy as np

# Reliability and calibration error: as many bins as Guo et al. 2017 (https://arxiv.org/abs/1706.04599) use.
NUM_BINS = 15
# Cross-entropy: smallest and largest probability, as Keras clips them.
EPSILON = 1e-7


def check(probabilities: np.ndarray, num_classes: int) -> None:
    """Checks the prediction of one example.

    Args:
      probabilities: float32 [C].
      num_classes: C.

    Raises:
      ValueError: If there is not one finite number per class.
    """
    if probabilities.shape != (num_classes,):
        raise ValueError(f"{probabilities.size} probabilities do not fit {num_classes} classes")
    if not np.isfinite(probabilities).all():
        raise ValueError(
            "the predicted probabilities are not finite: weights of the model are NaN or infinite. Train again "
            "with a lower training.learning_rate or other pre-trained weights"
        )


def count_bins(probabilities: np.ndarray, correct: np.ndarray) -> np.ndarray:
    """Counts predictions by their probability.

    Args:
      probabilities: float [n].
      correct: bool [n], whether what is predicted with the probability is true.

    Returns:
      float64 [3, NUM_BINS]: number of predictions, sum of their probabilities, number of correct ones. Bin i contains
      probabilities in (i / NUM_BINS, (i + 1) / NUM_BINS], the first one 0 too.
    """
    values = probabilities.astype(float)
    bins = np.clip(np.ceil(values * NUM_BINS).astype(int) - 1, 0, NUM_BINS - 1)
    added = (np.ones(len(values)), values, correct.astype(float))
    return np.stack([np.bincount(bins, each, NUM_BINS) for each in added])
