"""Losses of masks: every pixel counts by its class, ignored ones not at all."""

from __future__ import annotations

from collections.abc import Sequence

import keras
import numpy as np
import tensorflow as tf

from trainer_module.label_losses import balanced


class PixelLoss(keras.losses.Loss):
    """Cross-entropy (focal, if wanted), Dice or their sum, over all pixels of a batch.

    Takes labels [N, h, w] (class ids, and `ignore_id`) and logits float32 [N, h, w, C]; gives a scalar.
    """

    def __init__(
        self,
        kind: str,
        class_weights: Sequence[float],
        *,
        ignore_id: int | None = None,
        focal_gamma: float = 2.0,
        name: str = "pixel_loss",
    ) -> None:
        """Takes what the instance needs.

        Args:
          kind: `cross_entropy`, `dice`, `cross_entropy_dice` or `focal`.
          class_weights: One for every class, 0 or more.
          ignore_id: Label of the pixels that do not count.
          focal_gamma: Used by `focal` alone.
          name: Shown by Keras.
        """
        super().__init__(name=name)
        self.kind = kind
        self.class_weights = tuple(class_weights)
        self.ignore_id = ignore_id
        self.focal_gamma = focal_gamma

    def call(self, y_true: tf.Tensor, y_pred: tf.Tensor) -> tf.Tensor:
        """The loss of a batch, float32 []."""
        labels = tf.cast(y_true, tf.int32)
        valid = tf.ones_like(labels, tf.bool) if self.ignore_id is None else tf.not_equal(labels, self.ignore_id)
        labels = tf.where(valid, labels, 0)
        logits = tf.cast(y_pred, tf.float32)
        class_weights = tf.constant(self.class_weights, tf.float32)
        loss = tf.constant(0.0)
        if self.kind != "dice":
            gamma = self.focal_gamma if self.kind == "focal" else 0.0
            loss += cross_entropy(labels, logits, valid, class_weights, gamma)
        if self.kind in ("dice", "cross_entropy_dice"):
            loss += dice(labels, logits, valid, class_weights)
        return loss


def cross_entropy(
    labels: tf.Tensor, logits: tf.Tensor, valid: tf.Tensor, class_weights: tf.Tensor, gamma: float = 0.0
) -> tf.Tensor:
    """Weighted mean of -(1 - p)^gamma log p, p being the probability of a pixel's true class.

    Args:
      labels: int32 [N, h, w], class ids.
      logits: float32 [N, h, w, C].
      valid: bool [N, h, w], False where a pixel does not count.
      class_weights: float32 [C].
      gamma: 0 for plain cross-entropy.

    Returns:
      float32 []; 0 where no pixel counts.

    Reference: Lin et al. 2017, https://arxiv.org/abs/1708.02002, section 3 (focal loss).
    """
    entropy = tf.nn.sparse_softmax_cross_entropy_with_logits(labels, logits)
    if gamma:
        # 1 - p = -expm1(log p) keeps its digits where p is nearly one.
        entropy *= tf.pow(-tf.math.expm1(-entropy), gamma)
    weights = tf.where(valid, tf.gather(class_weights, labels), 0.0)
    return tf.math.divide_no_nan(tf.reduce_sum(weights * entropy), tf.reduce_sum(weights))


def dice(labels: tf.Tensor, logits: tf.Tensor, valid: tf.Tensor, class_weights: tf.Tensor) -> tf.Tensor:
    """One minus the soft Dice coefficient, a weighted mean over the classes that the batch shows.

    A class that no pixel is of is left out: its coefficient would be 0 however little of it was predicted, and what
    is predicted of it lowers the others' already.

    Args:
      labels: int32 [N, h, w], class ids.
      logits: float32 [N, h, w, C].
      valid: bool [N, h, w], False where a pixel does not count.
      class_weights: float32 [C].

    Returns:
      float32 [], range [0, 1].

    Reference: Milletari et al. 2016, https://arxiv.org/abs/1606.04797, section 3; here without the squares in the
    denominator.
    """
    counted = tf.cast(valid, tf.float32)[..., tf.newaxis]
    probabilities = tf.nn.softmax(logits) * counted
    truth = tf.one_hot(labels, logits.shape[-1]) * counted
    overlap, predicted, occurring = (
        tf.reduce_sum(part, axis=[0, 1, 2]) for part in (probabilities * truth, probabilities, truth)
    )
    per_class = 1.0 - tf.math.divide_no_nan(2.0 * overlap, predicted + occurring)
    weights = tf.where(occurring > 0.0, class_weights, 0.0)
    return tf.math.divide_no_nan(tf.reduce_sum(weights * per_class), tf.reduce_sum(weights))


def class_weights(kind: str, train_data: tf.data.Dataset, num_classes: int, ignore_id: int | None) -> np.ndarray:
    """Weights that make up for classes of few pixels.

    Args:
      kind: `none`; `balanced`, all pixels / (classes x pixels of the class), so that every class has the same sum;
        `median_frequency`, where the share of a class is taken of the pictures that show it and the median share has
        weight 1; `log`, 1 / ln(1.02 + share of all pixels), with which no class's pixel counts more than 36 times as
        much as another's.
      train_data: (images, uint8 [n, h, w]) batches; read once, unless `none`.
      num_classes: Number of classes.
      ignore_id: Label of the pixels that do not count.

    Returns:
      float32 [num_classes]; 0 for a class that does not occur.

    Reference: Eigen & Fergus 2015, https://arxiv.org/abs/1411.4734, section 6.3.2 (median frequency); Paszke et al.
    2016, https://arxiv.org/abs/1606.02147, section 5.1 (logarithm).
    """
    if kind == "none":
        return np.ones(num_classes, np.float32)
    pixels = np.zeros(num_classes, np.int64)
    around = np.zeros(num_classes, np.int64)
    for _, masks in train_data:
        for mask in masks.numpy():
            counts = np.bincount(mask[mask != ignore_id].ravel() if ignore_id is not None else mask.ravel())
            counts = np.pad(counts, (0, num_classes))[:num_classes]
            pixels += counts
            around += np.where(counts > 0, counts.sum(), 0)
    if kind == "balanced":
        return balanced(pixels)
    occurring = pixels > 0
    weights = np.zeros(num_classes, np.float32)
    if kind == "log":
        weights[occurring] = 1.0 / np.log(1.02 + pixels[occurring] / pixels.sum())
    elif occurring.any():
        share = pixels[occurring] / around[occurring]
        weights[occurring] = np.median(share) / share
    return weights
