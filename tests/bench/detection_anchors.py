"""The measurement of `detection.py` with an anchor-based head: only head, assignment and class loss differ.

python tests/bench/detection_anchors.py DATA --preset bccd --measure validation --set fine_tuning.epochs=20

All options are those of `detection.py`. Each position has nine anchors (three sizes, three aspect ratios), assigned by
IoU as in `detection_textbook.py`; the class loss is the focal loss of RetinaNet. Towers, loss of the boxes (generalised
IoU), backbone, augmentation and schedule are those of the task. An epoch takes longer than with the task's own head:
for equal processor time, set fewer epochs.
"""

from __future__ import annotations

import dataclasses
import math
from typing import Any

import detection
import detection_textbook as textbook
import keras
import tensorflow as tf
from keras import layers

from trainer_module import box_losses, features
from trainer_module.boxes import coding, grids, transforms
from trainer_module.boxes.overlap import generalized_iou
from trainer_module.group_normalization import normalize
from trainer_module.model_input import Size
from trainer_module.models import FeatureMaps
from trainer_module.options import TrainerOptions
from trainer_module.tasks import detection as task

_PER_POSITION = 9
_BOX_WEIGHT = 2.0  # as of the task's loss
_WEIGHTS = (10.0, 10.0, 5.0, 5.0)


def _anchors(options: TrainerOptions) -> tf.Tensor:
    return tf.constant(grids.anchors(options.transform.image_size, options.model.pyramid_strides()))


class DecodeDeltas(layers.Layer):
    """Deltas to anchors, float32 [N, A, 4], → normalised boxes, float32 [N, A, 4]."""

    def __init__(self, anchors: tf.Tensor, image_size: Size) -> None:
        """Args: float32 [A, 4], pixels; side of the model input, pixels."""
        super().__init__(dtype="float32", trainable=False, name="boxes")
        self._anchors, self._factors = anchors, 1.0 / tf.constant(image_size, tf.float32)

    def call(self, deltas: tf.Tensor) -> tf.Tensor:
        """Computes the boxes; they are not clipped to the image."""
        return transforms.scale(coding.decode_deltas(deltas, self._anchors, _WEIGHTS), self._factors)


def head(maps: FeatureMaps, num_classes: int, options: TrainerOptions) -> keras.KerasTensor:
    """Adds the towers of the task, and predictions for every anchor: float32 [N, A, C + 4]."""
    channels = maps.levels[0].shape[-1]

    def tower(name: str) -> list[keras.KerasTensor]:
        convolutions = [
            layers.SeparableConv2D(channels, 3, padding="same", use_bias=False, name=f"{name}_conv{index}")
            for index in range(options.task.head_convolutions)
        ]
        outputs = []
        for level, x in enumerate(maps.levels):
            for index, convolution in enumerate(convolutions):
                x = convolution(x)
                x = normalize(x, f"{name}_norm{index}_{level}")
                x = layers.ReLU(name=f"{name}_relu{index}_{level}")(x)
            outputs.append(x)
        return outputs

    def predict(outputs: list[keras.KerasTensor], number: int, bias: float) -> keras.KerasTensor:
        last = layers.Conv2D(
            _PER_POSITION * number,
            3,
            padding="same",
            kernel_initializer=keras.initializers.RandomNormal(0.0, 0.01),
            bias_initializer=keras.initializers.Constant(bias),
            dtype="float32",
        )
        return layers.Concatenate(axis=1, dtype="float32")(
            [layers.Reshape([-1, number], dtype="float32")(last(x)) for x in outputs]
        )

    logits = predict(tower("class"), num_classes, -math.log((1 - 0.01) / 0.01))
    deltas = predict(tower("box"), 4, 0.0)
    boxes = DecodeDeltas(_anchors(options), options.transform.image_size)(deltas)
    return layers.Concatenate(axis=-1, dtype="float32", name=features.LOGITS_LAYER)([logits, boxes])


class AnchorLoss(keras.losses.Loss):
    """Focal loss of the classes plus generalised IoU loss of the boxes, divided by the number of positive anchors."""

    def __init__(self, options: TrainerOptions) -> None:
        """Reads `transform` and `model`."""
        super().__init__(name="anchor_loss")
        self._anchors, self._size = _anchors(options), options.transform.image_size

    def call(self, y_true: tf.Tensor, y_pred: tf.Tensor) -> tf.Tensor:
        """float32 [N, MAX_OBJECTS, 6] and [N, A, C + 4] → float32 [N]."""
        objects = box_losses.read_objects(y_true, self._size)
        matched = tf.map_fn(
            lambda image: textbook.match(image[0], image[1], self._anchors),
            (objects.boxes, objects.learned),
            fn_output_signature=tf.int32,
        )
        matched = tf.ensure_shape(matched, [None, self._anchors.shape[0]])
        positive, chosen = matched >= 0, tf.maximum(matched, 0)
        boxes = tf.where(
            positive[..., tf.newaxis], tf.gather(objects.boxes, chosen, batch_dims=1), self._anchors[tf.newaxis]
        )
        ids = tf.where(positive, tf.gather(objects.class_ids, chosen, batch_dims=1), matched)
        class_loss = textbook.focal_loss(ids, y_pred[..., :-4])
        box_loss = tf.where(positive, 1.0 - generalized_iou(boxes, transforms.scale(y_pred[..., -4:], self._size)), 0.0)
        num_images = tf.cast(tf.shape(y_pred)[0], tf.float32)
        per_image = tf.maximum(tf.reduce_sum(tf.cast(positive, tf.float32)) / num_images, 1.0)
        return (tf.reduce_sum(class_loss, axis=-1) + _BOX_WEIGHT * tf.reduce_sum(box_loss, axis=-1)) / per_image


def _loss(options: TrainerOptions, train_data: tf.data.Dataset | None = None) -> keras.losses.Loss:
    return AnchorLoss(options)


def _no_metrics(options: TrainerOptions) -> list[Any]:
    return []


if __name__ == "__main__":
    task.TASK = dataclasses.replace(task.TASK, head=head, loss=_loss, training_metrics=_no_metrics)
    detection.main()
