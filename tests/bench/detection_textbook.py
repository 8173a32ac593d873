"""A RetinaNet as tutorials write it, with the encoder, the images and the evaluation of `detection.py`.

python tests/bench/detection_textbook.py DATA --weights FILE --cpu-minutes 20 [--measure validation] [--channels 256]

An encoder trained on ImageNet with fixed batch normalization, a feature pyramid with the strides 8 to 128, two towers
of four convolutions, nine anchors per position, which take an object from an IoU of 0.5 and are background below 0.4
(the best anchor of an object always takes it), focal loss, smooth L1 loss of scaled deltas, Adam, images
mirrored at random. The learning rate rises during the first twentieth of the time, and is a tenth of its peak in the
last fifth. The time is processor time of all cores, as in `detection.py`. Prints one line per epoch and, last, one JSON
object.
"""

from __future__ import annotations

import argparse
import functools
import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import detection
import keras
import numpy as np
import tensorflow as tf
from detection import Part
from keras import layers

from pipeline.config import loading
from trainer_module import backbones, box_labels, precision
from trainer_module.evaluation.boxes import EVALUATION
from trainer_module.evaluation.spec import Parameters
from trainer_module.model_input import Geometry
from trainer_module.options import TransformOptions

STRIDES = (8, 16, 32, 64, 128)
_RATIOS = (0.5, 1.0, 2.0)
_SCALES = (2**0, 2 ** (1 / 3), 2 ** (2 / 3))
_SMALLEST_ANCHOR = 4  # in strides
_VARIANCES = (0.1, 0.1, 0.2, 0.2)
_POSITIVE_IOU, _NEGATIVE_IOU = 0.5, 0.4
_ALPHA, _GAMMA = 0.25, 2.0
_BACKGROUND, _IGNORED = -1, -2
_SCORE_THRESHOLD, _IOU_THRESHOLD, _MAX_DETECTIONS = 0.05, 0.5, 100


# === Anchors ===


def anchors(size: int, strides: tuple[int, ...] = STRIDES) -> np.ndarray:
    """Computes all anchors, float32 [A, 4], as (center y, center x, height, width), pixels."""
    levels = []
    for stride in strides:
        centers = (np.arange(-(-size // stride)) + 0.5) * stride
        y, x = np.meshgrid(centers, centers, indexing="ij")
        sides = [
            (_SMALLEST_ANCHOR * stride * scale / ratio**0.5, _SMALLEST_ANCHOR * stride * scale * ratio**0.5)
            for ratio in _RATIOS
            for scale in _SCALES
        ]
        level = [np.stack([y, x, np.full_like(y, height), np.full_like(y, width)], axis=-1) for height, width in sides]
        levels.append(np.stack(level, axis=2).reshape(-1, 4))
    return np.concatenate(levels).astype(np.float32)


def to_corners(boxes: Any) -> tf.Tensor:
    """(center y, center x, height, width) → (ymin, xmin, ymax, xmax), each [..., 4]."""
    return tf.concat([boxes[..., :2] - boxes[..., 2:] / 2, boxes[..., :2] + boxes[..., 2:] / 2], axis=-1)


def _to_centers(boxes: tf.Tensor) -> tf.Tensor:
    return tf.concat([(boxes[..., :2] + boxes[..., 2:]) / 2, boxes[..., 2:] - boxes[..., :2]], axis=-1)


def match(boxes: tf.Tensor, valid: tf.Tensor, anchor_corners: tf.Tensor) -> tf.Tensor:
    """Assigns an object to every anchor.

    Args:
      boxes: float32 [M, 4], corners, pixels.
      valid: bool [M].
      anchor_corners: float32 [A, 4].

    Returns:
      int32 [A]: an index of `boxes`, `_BACKGROUND` or `_IGNORED`.
    """
    top_left = tf.maximum(anchor_corners[:, tf.newaxis, :2], boxes[:, :2])
    bottom_right = tf.minimum(anchor_corners[:, tf.newaxis, 2:], boxes[:, 2:])
    common = tf.reduce_prod(tf.maximum(bottom_right - top_left, 0.0), axis=-1)
    areas = tf.reduce_prod(boxes[:, 2:] - boxes[:, :2], axis=-1)
    anchor_areas = tf.reduce_prod(anchor_corners[:, 2:] - anchor_corners[:, :2], axis=-1, keepdims=True)
    overlaps = tf.where(valid, common / (areas + anchor_areas - common), -1.0)
    best = tf.argmax(overlaps, axis=1, output_type=tf.int32)
    largest = tf.reduce_max(overlaps, axis=1)
    matched = tf.where(
        largest >= _POSITIVE_IOU, best, tf.where(largest < _NEGATIVE_IOU, _BACKGROUND, tf.constant(_IGNORED))
    )
    rows = tf.where(valid)
    own = tf.gather(tf.argmax(overlaps, axis=0), rows[:, 0])
    return tf.tensor_scatter_nd_update(matched, own[:, tf.newaxis], tf.cast(rows[:, 0], tf.int32))


def encode(label: tf.Tensor, size: int, all_anchors: np.ndarray) -> tf.Tensor:
    """Turns objects, float32 [MAX_OBJECTS, 6], into targets, float32 [A, 5]: scaled deltas, and the class."""
    valid = (label[:, 4] >= 0) & (label[:, 5] != box_labels.CROWD)
    count = tf.maximum(tf.reduce_sum(tf.cast(label[:, 4] != box_labels.PADDING, tf.int32)), 1)
    label, valid = label[:count], valid[:count]
    boxes = label[:, :4] * float(size)
    matched = match(boxes, valid, to_corners(all_anchors))
    centers = tf.gather(_to_centers(boxes), tf.maximum(matched, 0))
    deltas = tf.concat(
        [
            (centers[:, :2] - all_anchors[:, :2]) / all_anchors[:, 2:],
            tf.math.log(tf.maximum(centers[:, 2:], 1e-3) / all_anchors[:, 2:]),
        ],
        axis=-1,
    )
    ids = tf.where(matched >= 0, tf.gather(label[:, 4], tf.maximum(matched, 0)), tf.cast(matched, tf.float32))
    return tf.concat([deltas / _VARIANCES, ids[:, tf.newaxis]], axis=-1)


# === Network ===


def build(size: int, num_classes: int, encoder: str, weights: str, channels: int) -> keras.Model:
    """From pixels [0, 255] to [N, A, 4 + C]: scaled deltas, and class logits."""
    record = backbones.get(encoder)
    whole = record.build(image_size=size, weights=weights)
    for layer in whole.layers:
        if isinstance(layer, layers.BatchNormalization):
            layer.trainable = False
    skips = dict(zip(record.skip_strides, record.skips(whole), strict=True))
    c3, c4, c5 = skips[8], skips[16], whole.output
    p3, p4, p5 = (layers.Conv2D(channels, 1)(x) for x in (c3, c4, c5))
    p4 = p4 + layers.UpSampling2D()(p5)
    p3 = p3 + layers.UpSampling2D()(p4)
    p3, p4, p5 = (layers.Conv2D(channels, 3, padding="same")(x) for x in (p3, p4, p5))
    p6 = layers.Conv2D(channels, 3, strides=2, padding="same")(c5)
    p7 = layers.Conv2D(channels, 3, strides=2, padding="same")(layers.ReLU()(p6))

    num_anchors = len(_RATIOS) * len(_SCALES)

    def tower(outputs: int, bias: float) -> Callable[[Any], Any]:
        convolutions = [
            layers.Conv2D(channels, 3, padding="same", activation="relu", kernel_initializer="he_normal")
            for _ in range(4)
        ]
        last = layers.Conv2D(
            num_anchors * outputs,
            3,
            padding="same",
            kernel_initializer=keras.initializers.RandomNormal(0.0, 0.01),
            bias_initializer=keras.initializers.Constant(bias),
        )
        reshape = layers.Reshape([-1, outputs])
        return lambda x: functools.reduce(lambda x, layer: layer(x), [*convolutions, last, reshape], x)

    class_tower, box_tower = tower(num_classes, -np.log((1 - 0.01) / 0.01)), tower(4, 0.0)
    levels = [layers.Concatenate(axis=-1)([box_tower(x), class_tower(x)]) for x in (p3, p4, p5, p6, p7)]
    return keras.Model(whole.input, layers.Concatenate(axis=1, dtype="float32")(levels))


def focal_loss(ids: tf.Tensor, logits: tf.Tensor) -> tf.Tensor:
    """Class loss of every anchor: ids int32 [N, A] (or background, or ignored), logits [N, A, C] → float32 [N, A]."""
    is_class = tf.one_hot(ids, tf.shape(logits)[-1])
    probabilities = tf.sigmoid(logits)
    alpha = tf.where(is_class == 1.0, _ALPHA, 1.0 - _ALPHA)
    wrong = tf.where(is_class == 1.0, 1.0 - probabilities, probabilities)
    entropy = tf.nn.sigmoid_cross_entropy_with_logits(labels=is_class, logits=logits)
    return tf.where(ids == _IGNORED, 0.0, tf.reduce_sum(alpha * wrong**_GAMMA * entropy, axis=-1))


def loss(targets: tf.Tensor, outputs: tf.Tensor) -> tf.Tensor:
    """Focal loss plus smooth L1 loss of every image, float32 [N], divided by its number of positive anchors."""
    ids = tf.cast(targets[..., 4], tf.int32)
    positive = tf.cast(ids >= 0, tf.float32)
    difference = tf.abs(targets[..., :4] - outputs[..., :4])
    smooth = tf.reduce_sum(tf.where(difference < 1.0, 0.5 * difference**2, difference - 0.5), axis=-1)
    both = tf.reduce_sum(focal_loss(ids, outputs[..., 4:]) + positive * smooth, axis=-1)
    return both / tf.maximum(tf.reduce_sum(positive, axis=-1), 1.0)


# === Training ===


class _Clock(keras.callbacks.Callback):
    """Sets the learning rate by the share of the time that has passed, and ends the training."""

    def __init__(self, cpu_minutes: float, peak: float) -> None:
        super().__init__()
        self._start, self._seconds, self._peak = time.process_time(), 60 * cpu_minutes, peak

    def on_train_batch_begin(self, batch: int, logs: dict[str, Any] | None = None) -> None:
        share = (time.process_time() - self._start) / self._seconds
        factor = min(1.0, 0.01 + share / 0.05) if share < 0.8 else 0.1
        self.model.optimizer.learning_rate = self._peak * factor

    def on_train_batch_end(self, batch: int, logs: dict[str, Any] | None = None) -> None:
        self.model.stop_training = time.process_time() - self._start > self._seconds


def train(
    part: Part,
    num_classes: int,
    weights: str,
    cpu_minutes: float,
    *,
    encoder: str = "mobilenet_v2",
    channels: int = 256,
    batch_size: int = 4,
    learning_rate: float = 3e-4,
    seed: int = 17,
    dtype: str = "float32",
) -> keras.Model:
    """Trains for so many minutes of processor time, and returns the model of the last step."""
    keras.utils.set_random_seed(seed)
    size = part.images.shape[1]
    all_anchors = anchors(size)

    def prepare(image: tf.Tensor, label: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        if tf.random.uniform([]) < 0.5:
            image = image[:, ::-1]
            mirrored = tf.stack([label[:, 0], 1.0 - label[:, 3], label[:, 2], 1.0 - label[:, 1]], axis=-1)
            label = tf.concat([mirrored, label[:, 4:]], axis=-1)
        return image, encode(label, size, all_anchors)

    data = part.examples(TransformOptions()).shuffle(len(part.images)).map(prepare, num_parallel_calls=tf.data.AUTOTUNE)
    data = data.batch(batch_size).prefetch(tf.data.AUTOTUNE)
    with precision.dtype_policy(dtype):
        model = build(size, num_classes, encoder, weights, channels)
    optimizer = keras.optimizers.Adam(learning_rate, global_clipnorm=10.0)
    model.compile(optimizer, loss)
    model.fit(data, epochs=10_000, callbacks=[_Clock(cpu_minutes, learning_rate)], verbose=2)
    return model


# === Predictions ===


def detect(model: keras.Model, images: np.ndarray) -> np.ndarray:
    """Detects objects, float32 [N, M, 7]: the columns of `box_labels` and the score, padded at the end."""
    size = images.shape[1]
    all_anchors = anchors(size)
    outputs = model(tf.cast(images, tf.float32), training=False)
    deltas = outputs[..., :4] * _VARIANCES
    centers = deltas[..., :2] * all_anchors[:, 2:] + all_anchors[:, :2]
    sides = tf.exp(tf.minimum(deltas[..., 2:], 4.0)) * all_anchors[:, 2:]
    boxes = to_corners(tf.concat([centers, sides], axis=-1)) / float(size)
    selected = tf.image.combined_non_max_suppression(
        boxes[:, :, tf.newaxis],
        tf.sigmoid(outputs[..., 4:]),
        max_output_size_per_class=_MAX_DETECTIONS,
        max_total_size=_MAX_DETECTIONS,
        iou_threshold=_IOU_THRESHOLD,
        score_threshold=_SCORE_THRESHOLD,
    )
    exists = tf.sequence_mask(selected.valid_detections, _MAX_DETECTIONS)
    ids = tf.where(exists, selected.nmsed_classes, float(box_labels.PADDING))
    columns = tf.stack([ids, tf.zeros_like(ids), selected.nmsed_scores], axis=-1)
    detections: np.ndarray = tf.concat([selected.nmsed_boxes, columns], axis=-1).numpy()
    return detections


def evaluate(model: keras.Model, part: Part, classes: tuple[str, ...]) -> dict[str, Any]:
    """The metrics of `detection.py`."""
    parameters = Parameters(len(classes), top_k=1)
    counts = EVALUATION.accumulator(parameters)
    for index in range(len(part.images)):
        (detections,) = detect(model, part.images[index : index + 1])
        example = detection.to_example(detections, part.labels[index], part.sizes[index])
        counts.add(EVALUATION.element(*example, parameters))
    return detection.summarize(counts, classes)


def main() -> None:
    """Trains, measures and prints."""
    parser = argparse.ArgumentParser()
    parser.add_argument("data", type=Path)
    parser.add_argument("--preset", default="bccd", help="sets the size of the images, and the encoder")
    parser.add_argument("--measure", default="1/5", help="a split of the dataset, or NUMBER/FOLDS")
    parser.add_argument("--weights", default="imagenet", help="of the encoder")
    parser.add_argument("--cpu-minutes", type=float, default=20.0)
    parser.add_argument("--channels", type=int, default=256, help="of the pyramid and the towers")
    parser.add_argument("--batch-size", type=int, default=4)
    parser.add_argument("--learning-rate", type=float, default=3e-4)
    parser.add_argument("--precision", default="float32", help="float32 or mixed_bfloat16")
    parser.add_argument("--seed", type=int, default=17)
    parser.add_argument("--set", action="append", default=[], help="as for tfx-vision run")
    arguments = parser.parse_args()

    overrides = [f"model.weights='{arguments.weights}'", *arguments.set]
    chosen = loading.load(arguments.preset, data=str(arguments.data), overrides=overrides)
    # All splits that the dataset assigns stay: no test split is drawn.
    data = chosen.data.options()
    data = data.model_copy(update={"splits": data.splits.model_copy(update={"test": 0.0})})
    classes, images = detection.read_dataset(arguments.data, Geometry.of(max(chosen.transform.image_size)), data)
    part, measured = detection.divide(images, arguments.measure)
    start, cpu_start = time.perf_counter(), time.process_time()
    model = train(
        part,
        len(classes),
        arguments.weights,
        arguments.cpu_minutes,
        encoder=chosen.trainer_options(classes).model.backbone,
        channels=arguments.channels,
        batch_size=arguments.batch_size,
        learning_rate=arguments.learning_rate,
        seed=arguments.seed,
        dtype=arguments.precision,
    )
    minutes, cpu_minutes = (time.perf_counter() - start) / 60, (time.process_time() - cpu_start) / 60
    report = {
        "data": arguments.data.name,
        "form": "textbook",
        "measure": arguments.measure,
        "seed": arguments.seed,
        "channels": arguments.channels,
        "precision": arguments.precision,
        "images": [len(part.images), len(measured.images)],
        "parameters": model.count_params(),
        "minutes": round(minutes, 1),
        "cpu_minutes": round(cpu_minutes, 1),
        **evaluate(model, measured, classes),
    }
    print(json.dumps(report), flush=True)


if __name__ == "__main__":
    main()
