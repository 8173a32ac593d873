"""Training metrics of masks, from a confusion matrix of pixels."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import keras
import tensorflow as tf

from trainer_module import mask_labels


class PixelMetrics(keras.metrics.Metric):
    """Pixel accuracy, IoU and Dice, mean and per class, over all pixels of an epoch.

    One Keras metric with several results, because all of them come from one matrix; Keras shows each by its own name.
    """

    def __init__(self, classes: Sequence[str], ignore_id: int | None = None, name: str = "pixels") -> None:
        """Creates an empty matrix.

        Args:
          classes: Class names; the index is the id.
          ignore_id: Label of the ignored pixels.
          name: Name of the Keras metric; its results have their own names.
        """
        super().__init__(name=name)
        self.classes = tuple(classes)
        self.ignore_id = ignore_id
        # float32 cannot count beyond 2^24 pixels.
        self.matrix = self.add_variable((len(classes), len(classes)), "zeros", dtype="int64", name="matrix")

    def update_state(self, y_true: tf.Tensor, y_pred: tf.Tensor, sample_weight: Any = None) -> None:
        """Adds a batch.

        Args:
          y_true: [N, h, w], class ids and `ignore_id`.
          y_pred: float32 [N, h, w, C], logits.
          sample_weight: Ignored; every pixel has the same weight.
        """
        predicted = tf.argmax(y_pred, axis=-1, output_type=tf.int32)
        self.matrix.assign_add(confusion_matrix(y_true, predicted, len(self.classes), self.ignore_id))

    def result(self) -> dict[str, tf.Tensor]:
        """Returns the metrics, float32 [] each."""
        return compute_metrics(tf.convert_to_tensor(self.matrix), self.classes, self.ignore_id)


def confusion_matrix(
    truth: tf.Tensor, predicted: tf.Tensor, num_classes: int, ignore_id: int | None = None
) -> tf.Tensor:
    """Counts pixels by true class (row) and predicted class (column).

    Args:
      truth: Integers [N, h, w], class ids and `ignore_id`.
      predicted: Integers [N, h, w], class ids.
      num_classes: Number of classes.
      ignore_id: Label of the ignored pixels.

    Returns:
      int64 [num_classes, num_classes].
    """
    truth, predicted = (tf.reshape(tf.cast(ids, tf.int32), [-1]) for ids in (truth, predicted))
    cells = truth * num_classes + predicted
    # Negative segments are dropped.
    cells = tf.where(mask_labels.counted(truth, ignore_id, num_classes), cells, -1)
    counts = tf.math.unsorted_segment_sum(tf.ones_like(cells), cells, num_classes**2)
    return tf.cast(tf.reshape(counts, [num_classes, num_classes]), tf.int64)


def compute_metrics(matrix: tf.Tensor, classes: Sequence[str], ignore_id: int | None = None) -> dict[str, tf.Tensor]:
    """Computes the metrics of a confusion matrix.

    Means are over the classes that occur in the ground truth or in the prediction.

    Args:
      matrix: int64 [C, C], rows are the ground truth.
      classes: Class names.
      ignore_id: If it is the id of a class, that class is ignored.

    Returns:
      `pixel_accuracy`, `mean_iou`, `dice` (the mean), and `iou/<class>` and `dice/<class>` (NaN if the class neither
      occurs nor is predicted), float32 [], range [0, 1].

    Reference: Long et al. 2015, https://arxiv.org/abs/1411.4038, section 5 (pixel accuracy, mean IU).
    """
    counts = tf.cast(matrix, tf.float64)
    correct, either = tf.linalg.diag_part(counts), tf.reduce_sum(counts, axis=0) + tf.reduce_sum(counts, axis=1)
    iou, dice = correct / (either - correct), 2.0 * correct / either
    counted = (either > 0) & (tf.range(len(classes)) != (-1 if ignore_id is None else ignore_id))
    metrics = {
        "pixel_accuracy": tf.math.divide_no_nan(tf.reduce_sum(correct), tf.reduce_sum(counts)),
        "mean_iou": _mean(iou, counted),
        "dice": _mean(dice, counted),
        **{f"iou/{name}": iou[index] for index, name in enumerate(classes)},
        **{f"dice/{name}": dice[index] for index, name in enumerate(classes)},
    }
    return {name: tf.cast(value, tf.float32) for name, value in metrics.items()}


def _mean(values: tf.Tensor, counted: tf.Tensor) -> tf.Tensor:
    total = tf.reduce_sum(tf.where(counted, values, 0.0))
    return tf.math.divide_no_nan(total, tf.reduce_sum(tf.cast(counted, values.dtype)))


def count_pixels(masks: tf.Tensor, num_classes: int) -> tf.Tensor:
    """Counts the pixels of every class: int [N, h, w] → int64 [N, num_classes]."""
    batch_size = tf.shape(masks)[0]
    ids = tf.cast(masks, tf.int32) + num_classes * tf.range(batch_size)[:, tf.newaxis, tf.newaxis]
    ones = tf.ones_like(ids, tf.int64)
    return tf.reshape(tf.math.unsorted_segment_sum(ones, ids, batch_size * num_classes), [batch_size, num_classes])
