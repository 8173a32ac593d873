"""Label errors from out-of-sample probabilities. Pure functions of NumPy arrays.

N is the number of images, C that of classes; labels are class ids, int64 [N], probabilities float64 [N, C] of a model
that was not trained on the image. `given` is the class of the label, `true` the unknown right one.

Reference: Northcutt et al. 2021, https://arxiv.org/abs/1911.00068, sections 3.1 and 3.2 (confident learning).
"""

from __future__ import annotations

import numpy as np

# The mean of equal probabilities may be a little larger than they are.
_ROUNDING = 1e-12


def class_thresholds(labels: np.ndarray, probabilities: np.ndarray) -> np.ndarray:
    """Returns the mean probability of each class over the images with this label, float64 [C].

    An image may belong to a class if its probability is at least the threshold. A class without images has threshold 1.
    """
    num_classes = probabilities.shape[1]
    counts = np.bincount(labels, minlength=num_classes)
    sums = np.bincount(labels, weights=self_confidence(labels, probabilities), minlength=num_classes)
    return np.where(counts > 0, sums / np.maximum(counts, 1), 1.0)


def confident_joint(labels: np.ndarray, probabilities: np.ndarray) -> np.ndarray:
    """Counts images by given (row) and confidently predicted class (column), int64 [C, C].

    Images that reach no threshold are not counted; those that reach several belong to the most probable of these.
    """
    confident = probabilities >= class_thresholds(labels, probabilities) - _ROUNDING
    counted = confident.any(axis=1)
    predicted = np.where(confident, probabilities, -1.0).argmax(axis=1)
    num_classes = probabilities.shape[1]
    joint = np.zeros((num_classes, num_classes), np.int64)
    np.add.at(joint, (labels[counted], predicted[counted]), 1)
    return joint


def joint_distribution(labels: np.ndarray, probabilities: np.ndarray) -> np.ndarray:
    """Estimates the share of images by given (row) and true class (column), float64 [C, C] with sum 1.

    Every row of the confident joint is scaled to the number of images with that label.
    """
    counts = np.bincount(labels, minlength=probabilities.shape[1])
    joint = confident_joint(labels, probabilities).astype(np.float64)
    # A class of which no image is confident in any class keeps its labels.
    empty = joint.sum(axis=1) == 0
    joint[empty, empty] = 1.0
    calibrated = joint / joint.sum(axis=1, keepdims=True) * counts[:, np.newaxis]
    return np.asarray(calibrated / calibrated.sum())


def self_confidence(labels: np.ndarray, probabilities: np.ndarray) -> np.ndarray:
    """Returns the probability of the given class, float64 [N]."""
    return np.asarray(probabilities[np.arange(len(labels)), labels], np.float64)


def prune_by_class(labels: np.ndarray, probabilities: np.ndarray, joint: np.ndarray) -> np.ndarray:
    """Marks in every class as many images as it has estimated errors, the least self-confident ones: bool [N]."""
    confidence, marked = self_confidence(labels, probabilities), np.zeros(len(labels), bool)
    for given in range(probabilities.shape[1]):
        members = np.flatnonzero(labels == given)
        number = round(len(labels) * float(joint[given].sum() - joint[given, given]))
        marked[members[np.argsort(confidence[members], kind="stable")[:number]]] = True
    return marked


def prune_by_noise_rate(labels: np.ndarray, probabilities: np.ndarray, joint: np.ndarray) -> np.ndarray:
    """Marks for every pair of classes as many images as the joint distribution expects, those with the largest margin.

    The margin is the probability of the other class minus that of the given one.

    Returns:
      bool [N].
    """
    marked = np.zeros(len(labels), bool)
    for given, true in zip(*np.nonzero(joint), strict=True):
        number = round(len(labels) * float(joint[given, true]))
        if given == true or not number:
            continue
        members = np.flatnonzero(labels == given)
        margin = probabilities[members, true] - probabilities[members, given]
        marked[members[np.argsort(-margin, kind="stable")[:number]]] = True
    return marked


def issues(labels: np.ndarray, probabilities: np.ndarray) -> np.ndarray:
    """Marks the images whose label is probably wrong, bool [N].

    An image is marked if both rules of pruning mark it, and if another class is more probable.
    """
    joint = joint_distribution(labels, probabilities)
    both = prune_by_class(labels, probabilities, joint) & prune_by_noise_rate(labels, probabilities, joint)
    return np.asarray(both & (probabilities.argmax(axis=1) != labels))
