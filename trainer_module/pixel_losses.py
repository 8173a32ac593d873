"""Losses and class weights for masks; ignored pixels and padding do not count."""

from __future__ import annotations

from collections.abc import Sequence

import keras
import numpy as np
import tensorflow as tf

from trainer_module import distribution, mask_labels
from trainer_module.label_losses import balanced_weights


class PixelLoss(keras.losses.Loss):
    """Cross-entropy, focal loss, Dice loss or the sum of cross-entropy and Dice, over all pixels of a batch.

    Maps labels [N, h, w] (class ids and `ignore_id`) and logits float32 [N, h, w, C] to a scalar.
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
        """Stores the arguments.

        Args:
          kind: `cross_entropy`, `dice`, `cross_entropy_dice` or `focal`.
          class_weights: One weight per class, 0 or more.
          ignore_id: Label of the ignored pixels.
          focal_gamma: Used by `focal` only.
          name: The name that Keras shows.
        """
        super().__init__(name=name)
        self.kind = kind
        self.class_weights = tuple(class_weights)
        self.ignore_id = ignore_id
        self.focal_gamma = focal_gamma

    def call(self, y_true: tf.Tensor, y_pred: tf.Tensor) -> tf.Tensor:
        """Returns the loss of a batch, float32 []."""
        labels = tf.cast(y_true, tf.int32)
        valid = mask_labels.counted(labels, self.ignore_id, y_pred.shape[-1])
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
    """Computes the weighted mean of -(1 - p)^gamma log p, where p is the probability of a pixel's true class.

    Args:
      labels: int32 [N, h, w], class ids.
      logits: float32 [N, h, w, C].
      valid: bool [N, h, w], False for ignored pixels.
      class_weights: float32 [C].
      gamma: 0 for plain cross-entropy.

    Returns:
      float32 []; 0 if all pixels are ignored.

    Reference: Lin et al. 2017, https://arxiv.org/abs/1708.02002, section 3 (focal loss).
    """
    entropy = tf.nn.sparse_softmax_cross_entropy_with_logits(labels, logits)
    if gamma:
        # 1 - p = -expm1(log p) is accurate where p is almost 1.
        entropy *= tf.pow(-tf.math.expm1(-entropy), gamma)
    weights = tf.where(valid, tf.gather(class_weights, labels), 0.0)
    return tf.math.divide_no_nan(tf.reduce_sum(weights * entropy), tf.reduce_sum(weights))


def dice(labels: tf.Tensor, logits: tf.Tensor, valid: tf.Tensor, class_weights: tf.Tensor) -> tf.Tensor:
    """Computes one minus the soft Dice coefficient, as a weighted mean over the classes in the batch.

    A class without pixels is skipped: its coefficient would be 0 for any prediction, and pixels that are predicted as
    this class already lower the coefficients of the others.

    The arguments are those of `cross_entropy`; the result is float32 [], range [0, 1].

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
    """Computes class weights that compensate for classes with few pixels.

    Args:
      kind: `none`; `balanced`: pixels / (classes x pixels of the class), so every class has the same total weight;
        `median_frequency`: median share / share of the class, where a share is that of the pixels in the images that
        contain the class; `log`: 1 / ln(1.02 + share of all pixels), so weights differ at most by a factor of 36.
      train_data: (images, uint8 [n, h, w]) batches; read once unless `none`. The numbers of several workers are added.
      num_classes: Number of classes.
      ignore_id: Label of the ignored pixels.

    Returns:
      float32 [num_classes]; 0 for a class without pixels.

    Reference: Eigen & Fergus 2015, https://arxiv.org/abs/1411.4734, section 6.3.2 (median frequency); Paszke et al.
    2016, https://arxiv.org/abs/1606.02147, section 5.1 (logarithm).
    """
    if kind == "none":
        return np.ones(num_classes, np.float32)
    pixels = np.zeros(num_classes, np.int64)
    pixels_of_images = np.zeros(num_classes, np.int64)  # in the images that contain the class
    for _, masks in train_data:
        for mask in masks.numpy():
            counts = np.bincount(mask[mask_labels.counted(mask, ignore_id, num_classes)])
            counts = np.pad(counts, (0, num_classes))[:num_classes]
            pixels += counts
            pixels_of_images += np.where(counts > 0, counts.sum(), 0)
    pixels, pixels_of_images = distribution.sum_over_workers(np.stack([pixels, pixels_of_images]))
    if kind == "balanced":
        return balanced_weights(pixels)
    occurring = pixels > 0
    weights = np.zeros(num_classes, np.float32)
    if kind == "log":
        weights[occurring] = 1.0 / np.log(1.02 + pixels[occurring] / pixels.sum())
    elif occurring.any():
        share = pixels[occurring] / pixels_of_images[occurring]
        weights[occurring] = np.median(share) / share
    return weights
