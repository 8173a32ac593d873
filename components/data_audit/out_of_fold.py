"""Probabilities for every image from a classifier that was not trained on it. Pure functions on frozen features."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from components.data_audit.confident_learning import self_confidence

NUM_FOLDS = 5
_SEED = 17
# More components cost time and, with few images, accuracy.
_MOST_COMPONENTS = 256
_IMAGES_PER_COMPONENT = 4
# Strengths of regularisation, weakest last, for features of unit length on average.
_INVERSE_REGULARIZATION = (1.0, 4.0, 16.0)
_MOST_ITERATIONS = 200
_TINY = 1e-12


def compress(embeddings: np.ndarray) -> np.ndarray:
    """Standardises embeddings and keeps their principal components.

    Args:
      embeddings: float [N, D].

    Returns:
      float64 [N, at most 256], with vectors of length 1 on average.
    """
    from sklearn.decomposition import PCA

    values = np.asarray(embeddings, np.float64)
    values = values - values.mean(axis=0)
    deviation = values.std(axis=0)
    values = values[:, deviation > _TINY] / deviation[deviation > _TINY]
    components = min(_MOST_COMPONENTS, values.shape[1], max(1, len(values) // _IMAGES_PER_COMPONENT))
    if components < values.shape[1]:
        values = PCA(components, random_state=_SEED).fit_transform(values)
    return np.asarray(values / np.sqrt(max(values.var(axis=0).sum(), _TINY)))


def assign_folds(labels: np.ndarray, groups: np.ndarray) -> np.ndarray:
    """Assigns images to folds: classes are spread evenly, and the images of a group stay together.

    scikit-learn's StratifiedGroupKFold does the same, but warns about classes with fewer images than folds.

    Args:
      labels: Class ids, int64 [N].
      groups: Id of the group of each image, int64 [N].

    Returns:
      int64 [N], range [0, NUM_FOLDS).
    """
    random = np.random.default_rng(_SEED)
    _, first, group_of = np.unique(groups, return_index=True, return_inverse=True)
    fold_of_group = np.zeros(len(first), np.int64)
    start = 0
    for class_id in np.unique(labels):
        members = random.permutation(np.flatnonzero(labels[first] == class_id))
        fold_of_group[members] = (start + np.arange(len(members))) % NUM_FOLDS
        start += len(members)
    return np.asarray(fold_of_group[group_of])


def probabilities(
    features: np.ndarray, labels: np.ndarray, num_classes: int, folds: np.ndarray, trusted: np.ndarray | None = None
) -> np.ndarray:
    """Computes the probabilities of all classes with logistic regression on the images of the other folds.

    The regularisation is the one with the least log loss for the given labels.

    Args:
      features: From `compress`, [N, d].
      labels: Class ids, int64 [N].
      num_classes: Number of classes, C; some may have no image.
      folds: From `assign_folds`.
      trusted: bool [N]: only these images are trained on; by default all.

    Returns:
      float64 [N, C]; a class that no training image of a fold has gets 0 there.
    """
    trusted = np.ones(len(labels), bool) if trusted is None else trusted
    candidates = [_predict(features, labels, num_classes, folds, trusted, c) for c in _INVERSE_REGULARIZATION]
    losses = [-np.log(np.maximum(self_confidence(labels, each), _TINY))[trusted].mean() for each in candidates]
    return candidates[int(np.argmin(losses))]


def _predict(
    features: np.ndarray, labels: np.ndarray, num_classes: int, folds: np.ndarray, trusted: np.ndarray, c: float
) -> np.ndarray:
    from sklearn.linear_model import LogisticRegression

    predicted = np.zeros((len(labels), num_classes))
    for train, held_out in _splits(folds, trusted):
        known = np.unique(labels[train])
        if len(known) < 2:
            predicted[np.ix_(held_out, known)] = 1.0
            continue
        # As fast as lbfgs, which in scikit-learn 1.5 passes options that SciPy 1.17 deprecates.
        classifier = LogisticRegression(C=c, solver="newton-cg", max_iter=_MOST_ITERATIONS)
        classifier.fit(features[train], labels[train])
        predicted[np.ix_(held_out, classifier.classes_)] = classifier.predict_proba(features[held_out])
    return predicted


def _splits(folds: np.ndarray, trusted: np.ndarray) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Yields the indices of the images to train on, and of those to predict."""
    for fold in range(NUM_FOLDS):
        yield np.flatnonzero((folds != fold) & trusted), np.flatnonzero(folds == fold)
