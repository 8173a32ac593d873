"""Losses for any number of classes per image, and weights of the positive labels."""

from __future__ import annotations

import keras
import numpy as np
import tensorflow as tf

from trainer_module import distribution

# Largest weight of a positive label: a class of one image in ten thousand would otherwise dominate every gradient.
_LARGEST_WEIGHT = 100.0


class BinaryCrossEntropy(keras.losses.Loss):
    """Mean over the classes of the binary cross-entropy of logits and labels, both float32 [N, C].

    With smoothing s, a label y becomes (1 - s) y + s / 2. Images with a negative label have loss 0: they have a class
    that is not known.
    """

    def __init__(
        self, label_smoothing: float = 0.0, positive_weights: np.ndarray | None = None, name: str = "label_set_loss"
    ) -> None:
        """Args: the smoothing, range [0, 1); weights of positive labels, float32 [C]; the name that Keras shows."""
        super().__init__(name=name)
        self.label_smoothing = label_smoothing
        self.positive_weights = positive_weights

    def call(self, y_true: tf.Tensor, y_pred: tf.Tensor) -> tf.Tensor:
        """Returns the loss of every image, float32 [N]."""
        labels, logits = tf.cast(y_true, tf.float32), tf.cast(y_pred, tf.float32)
        known = tf.reduce_all(labels >= 0.0, axis=-1)
        smoothed = (1.0 - self.label_smoothing) * labels + self.label_smoothing / 2.0
        positive = smoothed if self.positive_weights is None else smoothed * self.positive_weights
        losses = tf.reduce_mean(self.decision_losses(positive, 1.0 - smoothed, logits), axis=-1)
        return tf.where(known, losses, 0.0)

    def decision_losses(self, positive: tf.Tensor, negative: tf.Tensor, logits: tf.Tensor) -> tf.Tensor:
        """Returns the loss of every class, from the weights of both decisions and the logits, float32 [N, C] each."""
        return positive * tf.nn.softplus(-logits) + negative * tf.nn.softplus(logits)


class AsymmetricLoss(BinaryCrossEntropy):
    """Asymmetric loss: easy decisions count less, and more so if the class is absent.

    L = -y (1 - p)^gamma_pos log(p) - (1 - y) q^gamma_neg log(1 - q), with q = max(p - clip, 0).

    Reference: Ridnik et al. 2021, https://arxiv.org/abs/2009.14119, sections 2.2 to 2.4.
    """

    def __init__(
        self,
        gamma_pos: float,
        gamma_neg: float,
        clip: float,
        label_smoothing: float = 0.0,
        positive_weights: np.ndarray | None = None,
        name: str = "label_set_loss",
    ) -> None:
        """Args: focusing of present and of absent classes; the shift of probabilities; as for the base class."""
        super().__init__(label_smoothing, positive_weights, name)
        self.gamma_pos, self.gamma_neg, self.clip = gamma_pos, gamma_neg, clip

    def decision_losses(self, positive: tf.Tensor, negative: tf.Tensor, logits: tf.Tensor) -> tf.Tensor:
        """See the base class."""
        probability = tf.sigmoid(logits)
        shifted = tf.maximum(probability - self.clip, 0.0)
        # Without a shift the logarithm is computed from the logit: 1 - p rounds to 0 for a large one.
        absent = tf.nn.softplus(logits) if not self.clip else -tf.math.log1p(-shifted)
        present = tf.nn.softplus(-logits)
        if self.gamma_pos:
            present *= _power(1.0 - probability, self.gamma_pos)
        if self.gamma_neg:
            absent *= _power(shifted, self.gamma_neg)
        return positive * present + negative * absent


def _power(base: tf.Tensor, exponent: float) -> tf.Tensor:
    """Powers whose gradient at 0 is finite for exponents below 1 too."""
    return tf.pow(tf.maximum(base, 1e-8), exponent)


def positive_weights(train_data: tf.data.Dataset, num_classes: int) -> np.ndarray:
    """Computes weights that give present and absent classes the same total: negatives / positives of each class.

    Args:
      train_data: (images, float32 [n, C]) batches; read once. The numbers of several workers are added.
      num_classes: Number of classes, C.

    Returns:
      float32 [C], range [1 / 100, 100]; 1 for a class without images, or without images that lack it.
    """
    positives, negatives = np.zeros(num_classes, np.int64), np.zeros(num_classes, np.int64)
    for batch in train_data.map(lambda images, labels: labels):
        labels = batch.numpy()
        known = labels[(labels >= 0.0).all(axis=1)]
        positives += (known > 0.5).sum(axis=0)
        negatives += (known <= 0.5).sum(axis=0)
    positives, negatives = distribution.sum_over_workers(np.stack([positives, negatives]))
    has_both = (positives > 0) & (negatives > 0)
    ratios = np.where(has_both, negatives / np.maximum(positives, 1), 1.0)
    return np.clip(ratios, 1.0 / _LARGEST_WEIGHT, _LARGEST_WEIGHT).astype(np.float32)
