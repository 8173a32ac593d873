"""The losses of the detection heads, and the labels that they read."""

from __future__ import annotations

import functools
from typing import NamedTuple

import keras
import tensorflow as tf

from trainer_module.box_anchors import anchors
from trainer_module.box_grid import Grid
from trainer_module.box_labels import DIFFICULT, OBJECT, PADDING, UNKNOWN_CLASS
from trainer_module.boxes import assignment
from trainer_module.boxes.overlap import generalized_iou, giou_loss, iou
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


class _Configured(keras.losses.Loss):
    """A loss that is restored from the arguments of its constructor."""

    def __init__(self, name: str, image_size: int | Size, strides: tuple[int, ...], **options: object) -> None:
        super().__init__(name=name)
        self._config = {"image_size": size_of(image_size), "strides": tuple(strides), **options}

    def get_config(self) -> dict[str, object]:
        """The arguments of the constructor."""
        return {"name": self.name, **self._config}


@keras.saving.register_keras_serializable(package="tfx_vision")
class DetectionLoss(_Configured):
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
        super().__init__(name, image_size, strides, beta=beta, train_difficult=train_difficult)
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


@keras.saving.register_keras_serializable(package="tfx_vision")
class AnchorLoss(_Configured):
    """Focal loss of the class scores, plus the generalised IoU loss of the boxes.

    Objects are assigned to anchors by their IoU. The target of the score of an assigned anchor is 1 for the class of
    its object; that of all others is 0. Both parts are divided by the batch's mean number of assigned anchors of an
    image.

    Reference: Lin et al. 2017, https://arxiv.org/abs/1708.02002, section 3.2 and equation 5; Rezatofighi et al. 2019,
    https://arxiv.org/abs/1902.09630, algorithm 2.
    """

    def __init__(
        self,
        image_size: int | Size,
        strides: tuple[int, ...],
        gamma: float = 2.0,
        alpha: float = 0.25,
        train_difficult: bool = True,
        name: str = "anchor_loss",
    ) -> None:
        """Constructs the loss.

        Args:
          image_size: Side of the model input, or height and width, pixels.
          strides: Of the feature maps, pixels.
          gamma: How strongly scores near their targets are down-weighted.
          alpha: Weight of the targets of 1, range [0, 1]; that of the targets of 0 is 1 - alpha.
          train_difficult: As in `read_objects`.
          name: Keras's name.
        """
        super().__init__(name, image_size, strides, gamma=gamma, alpha=alpha, train_difficult=train_difficult)
        self._gamma, self._alpha, self._train_difficult = gamma, alpha, train_difficult
        self._anchors, self._size = anchors(image_size, tuple(strides)), size_of(image_size)

    def call(self, y_true: tf.Tensor, y_pred: tf.Tensor) -> tf.Tensor:
        """Computes the loss of every image.

        Args:
          y_true: float32 [N, max_objects, 6], see `box_labels`.
          y_pred: float32 [N, A, C + 4], class logits and normalised boxes.

        Returns:
          float32 [N].
        """
        logits, predicted = y_pred[..., :-4], scale(y_pred[..., -4:], self._size)
        objects = read_objects(y_true, self._size, self._train_difficult)
        assigned = assign_to_anchors(objects, self._anchors)
        counted = assigned.counted & objects.known[:, tf.newaxis]
        positive = assigned.positive & objects.known[:, tf.newaxis]
        targets = tf.one_hot(tf.where(positive, assigned.class_ids, -1), tf.shape(logits)[-1])
        class_losses = tf.reduce_sum(_focal_loss(targets, logits, self._gamma, self._alpha), axis=-1)
        class_loss = tf.reduce_sum(tf.where(counted, class_losses, 0.0), axis=-1)
        # Anchors without an object stand for it, so that every IoU is defined and has a finite gradient.
        boxes = tf.where(positive[..., tf.newaxis], assigned.boxes, self._anchors)
        box_losses = tf.where(positive, giou_loss(boxes, predicted), 0.0)
        per_image = tf.reduce_mean(tf.reduce_sum(tf.cast(positive, tf.float32), axis=-1))
        return (class_loss + _BOX_WEIGHT * tf.reduce_sum(box_losses, axis=-1)) / tf.maximum(per_image, 1.0)


def _focal_loss(targets: tf.Tensor, logits: tf.Tensor, gamma: float, alpha: float) -> tf.Tensor:
    """Computes the focal loss, element by element: float32 of one shape each, targets of 0 or 1.

    Keras's `binary_focal_crossentropy` computes it from clipped probabilities, which have no gradient where a score is
    entirely wrong.
    """
    scores = tf.sigmoid(logits)
    errors = tf.abs(targets - scores)
    weights = alpha * targets + (1.0 - alpha) * (1.0 - targets)
    return weights * errors**gamma * tf.nn.sigmoid_cross_entropy_with_logits(labels=targets, logits=logits)


class Assigned(NamedTuple):
    """Targets of every position, or of every anchor.

    Attributes:
      positive: bool [N, L], positions with an object.
      counted: bool [N, L], positions with an object, and background.
      boxes: float32 [N, L, 4], pixels; undefined without an object.
      class_ids: int32 [N, L]; undefined without an object.
    """

    positive: tf.Tensor
    counted: tf.Tensor
    boxes: tf.Tensor
    class_ids: tf.Tensor


def assign(objects: Objects, grid: Grid) -> Assigned:
    """Assigns the objects of a batch to the positions of a head without anchors, by ATSS."""
    assigned = assignment.assign(
        objects.boxes, objects.learned, grid.anchors, grid.num_locations, ignored=objects.ignored
    )
    return _targets(objects, assigned.indices)


def assign_to_anchors(objects: Objects, all_anchors: tf.Tensor) -> Assigned:
    """Assigns the objects of a batch to anchors, float32 [A, 4], pixels, by their IoU."""
    return _targets(
        objects, assignment.assign_by_iou(objects.boxes, objects.learned, all_anchors, ignored=objects.ignored)
    )


def _targets(objects: Objects, indices: tf.Tensor) -> Assigned:
    """Gathers the objects of indices, int32 [N, L]."""
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
    """Mean IoU of the objects and the boxes that are predicted where they are assigned, range [0, 1]."""

    def __init__(
        self, image_size: int | Size, strides: tuple[int, ...], name: str = "box_iou", has_anchors: bool = False
    ) -> None:
        """Constructs the metric.

        Args:
          image_size: Side of the model input, or height and width, pixels.
          strides: Of the feature maps, pixels.
          name: In the history.
          has_anchors: Whether objects are assigned as by `AnchorLoss`, otherwise as by `DetectionLoss`.
        """
        super().__init__(name=name)
        self._config = {"image_size": size_of(image_size), "strides": tuple(strides), "has_anchors": has_anchors}
        self._size = size_of(image_size)
        if has_anchors:
            self._assign = functools.partial(assign_to_anchors, all_anchors=anchors(image_size, tuple(strides)))
        else:
            self._assign = functools.partial(assign, grid=Grid.of(image_size, tuple(strides)))

    def update_state(self, y_true: tf.Tensor, y_pred: tf.Tensor, sample_weight: tf.Tensor | None = None) -> None:
        """Adds a batch, as the losses take it."""
        y_pred = tf.cast(y_pred, tf.float32)
        assigned = self._assign(read_objects(tf.cast(y_true, tf.float32), self._size))
        overlaps = iou(assigned.boxes, scale(y_pred[..., -4:], self._size))
        super().update_state(overlaps, sample_weight=tf.cast(assigned.positive, tf.float32))

    def get_config(self) -> dict[str, object]:
        """The arguments of the constructor."""
        return {"name": self.name, **self._config}
