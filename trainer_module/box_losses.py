"""The loss of the detection head, and the labels that it reads."""

from __future__ import annotations

from typing import NamedTuple

import keras
import tensorflow as tf

from trainer_module.box_grid import Grid
from trainer_module.box_labels import DIFFICULT, OBJECT, PADDING, UNKNOWN_CLASS
from trainer_module.boxes import assignment
from trainer_module.boxes.overlap import generalized_iou, iou
from trainer_module.boxes.transforms import scale
from trainer_module.model_input import Size, size_of

_OBJECTS_STEP = 20
# Weight of the loss of the boxes, relative to that of the classes (Li et al. 2020, section 4).
_BOX_WEIGHT = 2.0


class Objects(NamedTuple):
    """The objects of N images, M at most.

    Attributes:
      boxes: float32 [N, M, 4], pixels of the model input.
      class_ids: int32 [N, M]; negative for padding and unknown classes.
      learned: bool [N, M], objects that the head learns to detect.
      ignored: bool [N, M], regions in which it may detect or not.
      known: bool [N], images without objects of unknown classes.
    """

    boxes: tf.Tensor
    class_ids: tf.Tensor
    learned: tf.Tensor
    ignored: tf.Tensor
    known: tf.Tensor


def read_objects(labels: tf.Tensor, image_size: Size, train_difficult: bool = True) -> Objects:
    """Reads labels.

    Args:
      labels: float32 [N, max_objects, 6], see `box_labels`.
      image_size: Height and width of the model input, pixels.
      train_difficult: Whether difficult objects are learned; otherwise their regions are ignored.

    Returns:
      The objects, with M the largest number in the batch, rounded up to a multiple of 20.
    """
    class_ids = tf.cast(labels[..., 4], tf.int32)
    counts = tf.reduce_sum(tf.cast(class_ids != PADDING, tf.int32), axis=-1)
    # TensorFlow keeps native memory for every size that it meets: few sizes.
    most = tf.maximum(1, -(-tf.reduce_max(counts) // _OBJECTS_STEP)) * _OBJECTS_STEP
    labels, class_ids = labels[:, :most], class_ids[:, :most]
    kind = tf.cast(labels[..., 5], tf.int32)
    exists = class_ids >= 0
    learned = exists & ((kind == OBJECT) | (kind == DIFFICULT)) if train_difficult else exists & (kind == OBJECT)
    known = tf.reduce_all(class_ids != UNKNOWN_CLASS, axis=-1)
    return Objects(scale(labels[..., :4], image_size), class_ids, learned, exists & ~learned, known)


@keras.saving.register_keras_serializable(package="tfx_vision")
class DetectionLoss(keras.losses.Loss):
    """Quality focal loss of the class scores, plus the generalised IoU loss of the boxes.

    ATSS assigns objects to positions. The target of an assigned position's class score is the IoU of its predicted box
    with the object, so that a high score promises an accurate box; that of all others is 0. Both parts are divided by
    the batch's number of assigned positions, and boxes are weighted by the predicted score.

    Reference: Li et al. 2020, https://arxiv.org/abs/2006.04388, equations 2 and 5 (without the distribution focal
    loss); Zhang et al. 2020, https://arxiv.org/abs/1912.02424, algorithm 1; Rezatofighi et al. 2019,
    https://arxiv.org/abs/1902.09630, algorithm 1.
    """

    def __init__(
        self,
        image_size: int | Size,
        strides: tuple[int, ...],
        beta: float = 2.0,
        train_difficult: bool = True,
        name: str = "detection_loss",
    ) -> None:
        """Constructs the loss.

        Args:
          image_size: Side of the model input, or height and width, pixels.
          strides: Of the feature maps, pixels.
          beta: How strongly scores near their targets are down-weighted.
          train_difficult: As in `read_objects`.
          name: Keras's name.
        """
        super().__init__(name=name)
        self._config = {
            "image_size": size_of(image_size),
            "strides": tuple(strides),
            "beta": beta,
            "train_difficult": train_difficult,
        }
        self._beta, self._train_difficult = beta, train_difficult
        self._grid = Grid.of(image_size, tuple(strides))

    def call(self, y_true: tf.Tensor, y_pred: tf.Tensor) -> tf.Tensor:
        """Computes the loss of every image.

        Args:
          y_true: float32 [N, max_objects, 6], see `box_labels`.
          y_pred: float32 [N, L, C + 4], class logits and normalised boxes.

        Returns:
          float32 [N].
        """
        logits, predicted = y_pred[..., :-4], scale(y_pred[..., -4:], self._grid.image_size)
        objects = read_objects(y_true, self._grid.image_size, self._train_difficult)
        assigned = assign(objects, self._grid)
        counted = assigned.counted & objects.known[:, tf.newaxis]
        positive = assigned.positive & objects.known[:, tf.newaxis]
        # Positions without an object get a box around them, so that every IoU is defined and has a finite gradient.
        boxes = tf.where(positive[..., tf.newaxis], assigned.boxes, self._grid.anchors)
        quality = tf.stop_gradient(iou(boxes, predicted))
        is_class = tf.one_hot(tf.where(positive, assigned.class_ids, -1), tf.shape(logits)[-1])
        targets = is_class * quality[..., tf.newaxis]
        scores = tf.sigmoid(logits)
        entropy = tf.nn.sigmoid_cross_entropy_with_logits(labels=targets, logits=logits)
        class_losses = tf.reduce_sum(tf.abs(targets - scores) ** self._beta * entropy, axis=-1)
        class_loss = tf.reduce_sum(tf.where(counted, class_losses, 0.0), axis=-1)

        weights = tf.stop_gradient(tf.where(positive, tf.reduce_max(scores, axis=-1), 0.0))
        box_loss = tf.reduce_sum(weights * (1.0 - generalized_iou(boxes, predicted)), axis=-1)
        num_images = tf.cast(tf.shape(logits)[0], tf.float32)
        per_image = tf.reduce_sum(tf.cast(positive, tf.float32)) / num_images
        weight_per_image = tf.reduce_sum(weights) / num_images
        return class_loss / tf.maximum(per_image, 1.0) + _BOX_WEIGHT * tf.math.divide_no_nan(box_loss, weight_per_image)

    def get_config(self) -> dict[str, object]:
        """The arguments of the constructor."""
        return {"name": self.name, **self._config}


class Assigned(NamedTuple):
    """Targets of every position.

    Attributes:
      positive: bool [N, L], positions with an object.
      counted: bool [N, L], positions with an object, and background outside ignored regions.
      boxes: float32 [N, L, 4], pixels; undefined without an object.
      class_ids: int32 [N, L]; undefined without an object.
    """

    positive: tf.Tensor
    counted: tf.Tensor
    boxes: tf.Tensor
    class_ids: tf.Tensor


def assign(objects: Objects, grid: Grid) -> Assigned:
    """Assigns the objects of a batch to positions by ATSS."""
    indices = assignment.assign(
        objects.boxes, objects.learned, grid.anchors, grid.num_locations, ignored=objects.ignored
    ).indices
    positive = indices >= 0
    chosen = tf.maximum(indices, 0)
    return Assigned(
        positive,
        indices != assignment.IGNORED,
        tf.gather(objects.boxes, chosen, batch_dims=1),
        tf.gather(objects.class_ids, chosen, batch_dims=1),
    )


@keras.saving.register_keras_serializable(package="tfx_vision")
class AssignedIou(keras.metrics.Mean):
    """Mean IoU of the objects and the boxes predicted at the positions that are assigned to them, range [0, 1]."""

    def __init__(self, image_size: int | Size, strides: tuple[int, ...], name: str = "box_iou") -> None:
        """Args: size of the model input and strides of the feature maps, pixels; name in the history."""
        super().__init__(name=name)
        self._config = {"image_size": size_of(image_size), "strides": tuple(strides)}
        self._grid = Grid.of(image_size, tuple(strides))

    def update_state(self, y_true: tf.Tensor, y_pred: tf.Tensor, sample_weight: tf.Tensor | None = None) -> None:
        """Adds a batch, as `DetectionLoss.call` takes it."""
        y_pred = tf.cast(y_pred, tf.float32)
        assigned = assign(read_objects(tf.cast(y_true, tf.float32), self._grid.image_size), self._grid)
        overlaps = iou(assigned.boxes, scale(y_pred[..., -4:], self._grid.image_size))
        super().update_state(overlaps, sample_weight=tf.cast(assigned.positive, tf.float32))

    def get_config(self) -> dict[str, object]:
        """The arguments of the constructor."""
        return {"name": self.name, **self._config}
