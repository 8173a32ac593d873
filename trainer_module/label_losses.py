"""Loss and class weights for one class per image."""

from __future__ import annotations

import keras
import numpy as np
import tensorflow as tf

from trainer_module import distribution


class LabelLoss(keras.losses.Loss):
    """Cross-entropy of logits float32 [N, C] with class ids [N] or shares of the classes [N, C].

    With smoothing s, a label y becomes (1 - s) y + s / C. Images without a label (id -1) have loss 0.

    Reference: Szegedy et al. 2016, https://arxiv.org/abs/1512.00567, section 7 (label smoothing).
    """

    def __init__(self, label_smoothing: float = 0.0, name: str = "label_loss") -> None:
        """Args: the smoothing, range [0, 1); the name that Keras shows."""
        super().__init__(name=name)
        self.label_smoothing = label_smoothing

    def call(self, y_true: tf.Tensor, y_pred: tf.Tensor) -> tf.Tensor:
        """Returns the loss of every image, float32 [N]."""
        logits = tf.cast(y_pred, tf.float32)
        shares = tf.cast(y_true, tf.float32) if _is_soft(y_true) else tf.one_hot(_ids(y_true), logits.shape[-1])
        smoothed = (1.0 - self.label_smoothing) * shares + self.label_smoothing / logits.shape[-1]
        losses = tf.nn.softmax_cross_entropy_with_logits(smoothed, logits)
        return tf.where(tf.reduce_any(shares > 0.0, axis=-1), losses, 0.0)


def is_correct(y_true: tf.Tensor, y_pred: tf.Tensor) -> tf.Tensor:
    """Whether the most probable class is that of the label, or the one with its largest share, float32 [N].

    Args:
      y_true: Class ids [N], or shares of the classes [N, C].
      y_pred: Logits [N, C].
    """
    ids = tf.argmax(y_true, axis=-1, output_type=tf.int32) if _is_soft(y_true) else _ids(y_true)
    return tf.cast(tf.equal(ids, tf.argmax(y_pred, axis=-1, output_type=tf.int32)), tf.float32)


def class_weights(kind: str, train_data: tf.data.Dataset, num_classes: int) -> np.ndarray:
    """Computes class weights that compensate for classes with few images.

    Args:
      kind: `none`; `balanced`: images / (classes x images of the class), so every class has the same total weight and
        the mean weight of an image is 1.
      train_data: (images, int64 [n]) batches; read once unless `none`. The numbers of several workers are added.
      num_classes: Number of classes.

    Returns:
      float32 [num_classes]; 0 for a class without images, which is not counted in `classes`.

    Reference: King & Zeng 2001, https://doi.org/10.1093/oxfordjournals.pan.a004868, section 4.2; scikit-learn's
    `compute_class_weight("balanced")` is the same.
    """
    if kind == "none":
        return np.ones(num_classes, np.float32)
    counts = np.zeros(num_classes, np.int64)
    for batch in train_data.map(lambda images, labels: labels):
        labels = batch.numpy()
        counts += np.bincount(labels[labels >= 0], minlength=num_classes)
    return balanced_weights(distribution.sum_over_workers(counts))


def balanced_weights(counts: np.ndarray) -> np.ndarray:
    """Computes weights that give every occurring class the same total; their mean over all counts is 1.

    int64 [C], images or pixels of each class → float32 [C]; 0 for a class that does not occur.
    """
    occurring = counts > 0
    weights = np.zeros(len(counts), np.float32)
    weights[occurring] = counts.sum() / (occurring.sum() * counts[occurring])
    return weights


def _is_soft(labels: tf.Tensor) -> bool:
    return len(labels.shape) == 2 and labels.shape[-1] != 1


def _ids(labels: tf.Tensor) -> tf.Tensor:
    return tf.cast(tf.reshape(labels, [-1]), tf.int32)
