"""Object detection: a box, a class and a score for every object of an image."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal

from pydantic import Field, model_validator

from trainer_module import box_drawing, box_labels, decision_thresholds, features
from trainer_module.evaluation import boxes as box_evaluation
from trainer_module.group_normalization import normalize
from trainer_module.model_input import Size
from trainer_module.section import Fraction, TaskOptions
from trainer_module.tasks._spec import (
    Agreement,
    Comparison,
    Drawing,
    Endpoint,
    Explanation,
    Export,
    Instances,
    Labeling,
    LabelStatistic,
    Monitoring,
    Objective,
    PredictionOutcomes,
    RawLabel,
    Subject,
    Target,
    TaskSpec,
)

if TYPE_CHECKING:
    import keras
    import numpy as np
    import tensorflow as tf

    from trainer_module.models import FeatureMaps
    from trainer_module.monitored import MonitoredPredictions
    from trainer_module.options import TrainerOptions, TransformOptions

# Probability of every class at every position before training: focal losses need few confident errors at the start.
# Reference: Lin et al. 2017, https://arxiv.org/abs/1708.02002, section 4.1.
_PRIOR = 0.01
# Distance in strides to the sides of a box before training: half the side of the anchors with which objects are
# assigned.
_INITIAL_DISTANCE = 4.0
# Standard deviation of the kernels that compute the outputs, before training (Lin et al. 2017, section 4.1).
_INITIAL_DEVIATION = 0.01


# Outputs of `serving_default`: those of the TF Object Detection API, and the names of the classes.
_OUTPUTS = ("detection_boxes", "detection_scores", "detection_classes", "num_detections", "detection_labels")


class Options(TaskOptions):
    """`[task]` with `name = "detection"`."""

    name: Literal["detection"] = "detection"
    head_convolutions: int = Field(
        default=2, ge=0, le=8, description="Separable 3x3 convolutions before the classes, and before the boxes."
    )
    head: Literal["anchor_free", "anchor_based"] = Field(
        default="anchor_free",
        description="`anchor_free` predicts one box at every position (ATSS, quality focal loss), `anchor_based` one "
        "for each of nine anchors of three sizes and three aspect ratios (RetinaNet, focal loss).",
    )
    focal_beta: float = Field(
        default=2.0, ge=0.0, le=10.0, description="How strongly the loss down-weights scores near their targets."
    )
    train_difficult: bool = Field(
        default=True, description="Whether objects marked as difficult are learned; they are never misses in any case."
    )
    score_threshold: Fraction = Field(
        default=0.05,
        description="Detections with a lower score are not returned by the exported model. AP requires many detections "
        "of low score: with a threshold of 0.3, recalls that only they reach count as 0.",
    )
    served_threshold: Fraction = Field(
        default=0.4,
        description="Smallest score of a detection that counts as an object: for precision, recall, F1 and the "
        "confusion matrix, for drawings, and as the default of `tfx-vision detect --min-score`. The exported model "
        "returns it with every response. At least score_threshold, which is the default if it is more.",
    )
    iou_threshold: Fraction = Field(
        default=0.6, description="Largest IoU of two detections of a class; of others only the better one is returned."
    )
    max_detections: int = Field(default=100, ge=1, le=1000, description="Largest number of detections per image.")
    explained_detections: int = Field(
        default=4, ge=1, le=100, description="Largest number of detections that `explain_detections` explains."
    )

    @property
    def has_anchors(self) -> bool:
        """Whether the head predicts a box for every anchor."""
        return self.head == "anchor_based"

    @model_validator(mode="before")
    @classmethod
    def _default_is_at_least_what_is_returned(cls, values: Any) -> Any:
        if isinstance(values, dict) and "served_threshold" not in values:
            returned, default = values.get("score_threshold"), cls.model_fields["served_threshold"].default
            if isinstance(returned, int | float) and returned > default:
                return {**values, "served_threshold": returned}
        return values

    @model_validator(mode="after")
    def _served_detections_are_returned(self) -> Options:
        if self.served_threshold < self.score_threshold:
            raise ValueError(
                f"served_threshold = {self.served_threshold:g} is below score_threshold = {self.score_threshold:g}, "
                "the smallest score that the model returns: raise the former or lower the latter"
            )
        return self


# === Labels ===


def _example_label(class_ids: Sequence[int], classes: Sequence[str], image_size: int) -> dict[str, list[Any]]:
    """Returns a box per class, side by side."""
    num = len(class_ids)
    return {
        features.BOX_YMIN: [0.2] * num,
        features.BOX_XMIN: [(index + 0.2) / num for index in range(num)],
        features.BOX_YMAX: [0.8] * num,
        features.BOX_XMAX: [(index + 0.8) / num for index in range(num)],
        features.BOX_CLASSES: [classes[class_id] for class_id in class_ids],
        features.BOX_DIFFICULT: [0] * num,
        features.BOX_IS_CROWD: [0] * num,
    }


def _transform_label(inputs: Mapping[str, tf.Tensor], classes: Sequence[str], options: TransformOptions) -> tf.Tensor:
    """Packs the objects of raw examples: float32 [N, max_objects * 6], see `box_labels`.

    An image with an object of an unknown class does not train. More objects than fit are an error, never dropped.
    """
    import tensorflow as tf

    from trainer_module.tasks._class_table import class_table

    most = options.max_objects
    ids = class_table(classes, unknown=box_labels.UNKNOWN_CLASS)
    names = inputs[features.BOX_CLASSES]
    num = names.dense_shape[0]
    check = tf.debugging.assert_less_equal(
        names.dense_shape[1],
        tf.constant(most, tf.int64),
        f"an image has more than {most} objects; set transform.max_objects to the largest number",
    )

    def dense(sparse: tf.SparseTensor, padding: float) -> tf.Tensor:
        values = tf.cast(sparse.values, tf.float32)
        # Raw examples may leave out a flag that no object has.
        return tf.scatter_nd(sparse.indices, values - padding, [num, most]) + padding

    with tf.control_dependencies([check]):
        class_ids = dense(tf.SparseTensor(names.indices, ids.lookup(names.values), names.dense_shape), -1.0)
    difficult, crowd = (dense(inputs[key], 0.0) for key in (features.BOX_DIFFICULT, features.BOX_IS_CROWD))
    kind = tf.where(crowd > 0.0, float(box_labels.CROWD), tf.where(difficult > 0.0, float(box_labels.DIFFICULT), 0.0))
    coordinates = [dense(inputs[key], 0.0) for key in features.BOX_CORNERS]
    columns = tf.stack([*coordinates, class_ids, kind], axis=-1)
    return tf.reshape(columns, [-1, most * box_labels.NUM_COLUMNS])


def _read_label(transformed: dict[str, tf.Tensor], options: TransformOptions) -> tf.Tensor:
    """Reads the objects of a batch, float32 [n, max_objects, 6], relative to the model input.

    Objects that `crop` removes are not learned, but the evaluation counts them: it reads the label itself.
    """
    import tensorflow as tf

    from trainer_module import geometry

    labels = tf.reshape(transformed[features.LABEL], [-1, options.max_objects, box_labels.NUM_COLUMNS])
    sizes = tf.stack([transformed[key] for key in (features.IMAGE_HEIGHT, features.IMAGE_WIDTH)], axis=-1)
    return geometry.labels_in_input(labels, sizes, options.geometry)


# === Network ===


def _head(maps: FeatureMaps, num_classes: int, options: TrainerOptions) -> keras.KerasTensor:
    """Adds two towers of convolutions, which all levels share, for classes and for boxes.

    Normalisation is not shared: the statistics of the levels differ.

    Args:
      maps: The model's feature maps; `levels` is read.
      num_classes: Number of classes, C.
      options: `task`, `model` and `transform` are read.

    Returns:
      float32 [N, L, C + 4] for L positions on all levels, or for the anchors at them: class logits, and normalised
      boxes (ymin, xmin, ymax, xmax).

    Raises:
      ValueError: If the feature maps do not have the sizes that follow from their strides.

    Reference: Tian et al. 2019, https://arxiv.org/abs/1904.01355, sections 3.1 and 3.2, without centre-ness
    (`anchor_free`); Lin et al. 2017, https://arxiv.org/abs/1708.02002, section 4 (`anchor_based`); Tan et al. 2020,
    https://arxiv.org/abs/1911.09070, section 4 (separable convolutions, normalisation per level).
    """
    import math

    from keras import initializers, layers

    from trainer_module.box_anchors import PER_LOCATION, DecodeDeltas
    from trainer_module.box_grid import DecodeBoxes
    from trainer_module.boxes import grids

    own = Options.from_options(options)
    image_size, strides = options.transform.image_size, options.model.pyramid_strides()
    expected = grids.level_sizes(image_size, strides)
    sizes = [tuple(level.shape[1:3]) for level in maps.levels]
    if sizes != expected:
        raise ValueError(
            f"The feature maps of the model `{options.model.name}` have the sizes {sizes}; its strides {strides} and "
            f"transform.image_size = {list(image_size)} require {expected}. Set both sides of transform.image_size to "
            f"multiples of {max(strides)}."
        )
    channels = maps.levels[0].shape[-1]
    towers = {}
    for tower in ("class", "box"):
        convolutions = [
            layers.SeparableConv2D(channels, 3, padding="same", use_bias=False, name=f"{tower}_conv{index}")
            for index in range(own.head_convolutions)
        ]
        outputs = []
        for level, x in enumerate(maps.levels):
            for index, convolution in enumerate(convolutions):
                x = convolution(x)
                x = normalize(x, f"{tower}_norm{index}_{level}")
                x = layers.ReLU(name=f"{tower}_relu{index}_{level}")(x)
            outputs.append(x)
        towers[tower] = outputs

    def last(filters: int, bias: float, name: str) -> keras.Layer:
        # With small kernels, the first predictions are those of the biases. Otherwise the first steps can move all
        # boxes away from the objects: all targets of scores are 0 then, and nothing is learned for epochs.
        return layers.Conv2D(
            filters,
            3,
            padding="same",
            kernel_initializer=initializers.RandomNormal(stddev=_INITIAL_DEVIATION),
            bias_initializer=initializers.Constant(bias),
            dtype="float32",
            name=name,
        )

    def join(layer: keras.Layer, tower: str, columns: int, name: str) -> keras.KerasTensor:
        flat = [layers.Reshape([-1, columns], dtype="float32")(layer(x)) for x in towers[tower]]
        return flat[0] if len(flat) == 1 else layers.Concatenate(axis=1, dtype="float32", name=name)(flat)

    num = PER_LOCATION if own.has_anchors else 1
    classes = last(num * num_classes, -math.log((1.0 - _PRIOR) / _PRIOR), "classes")
    logits = join(classes, "class", num_classes, "class_logits")
    if own.has_anchors:
        boxes = DecodeDeltas(image_size, strides, name="boxes")(join(last(num * 4, 0.0, "deltas"), "box", 4, "sides"))
    else:
        distances = last(4, math.log(_INITIAL_DISTANCE), "distances")
        boxes = DecodeBoxes(image_size, strides, name="boxes")(join(distances, "box", 4, "sides"))
    return layers.Concatenate(axis=-1, dtype="float32", name=features.LOGITS_LAYER)([logits, boxes])


# === Training ===


def _augment(options: TrainerOptions) -> Callable[..., tuple[tf.Tensor, ...]]:
    """Moves images and boxes in the same way: (seed int [2], images, labels) → the same, augmented."""
    from trainer_module import augmentation

    return lambda seed, images, labels: augmentation.augment_images_and_boxes(
        images, labels, options.augmentation, seed
    )


def _loss(options: TrainerOptions, train_data: tf.data.Dataset | None = None) -> keras.losses.Loss:
    from trainer_module import box_losses

    own = Options.from_options(options)
    loss = box_losses.AnchorLoss if own.has_anchors else box_losses.DetectionLoss
    return loss(
        options.transform.image_size,
        options.model.pyramid_strides(),
        own.focal_beta,
        train_difficult=own.train_difficult,
    )


def _training_metrics(options: TrainerOptions) -> list[keras.metrics.Metric]:
    from trainer_module import box_losses

    own, strides = Options.from_options(options), options.model.pyramid_strides()
    return [box_losses.AssignedIou(options.transform.image_size, strides, has_anchors=own.has_anchors)]


# === Predictions ===


def _decode(outputs: tf.Tensor, options: TrainerOptions, image_sizes: tf.Tensor | None = None) -> tf.Tensor:
    """Selects the detections of N images, at most M = `max_detections` of each, the best first.

    Args:
      outputs: float32 [N, L, C + 4], those of the head.
      options: `task` and `transform` are read.
      image_sizes: int [N, 2], (height, width) of the original images, to which coordinates then refer; None for
        coordinates of the model input.

    Returns:
      float32 [N, M, 7]: the columns of `box_labels`, and the score, range (0, 1]; padded at the end.
    """
    import tensorflow as tf

    from trainer_module.boxes.suppression import suppress

    own, (boxes, scores) = Options.from_options(options), _candidates(outputs, options, image_sizes)
    detections = suppress(boxes, scores, own.score_threshold, own.iou_threshold, own.max_detections)
    exists = tf.sequence_mask(detections.num, own.max_detections)
    class_ids = tf.cast(tf.where(exists, detections.class_ids, box_labels.PADDING), tf.float32)
    kinds = tf.fill(tf.shape(class_ids), float(box_labels.OBJECT))
    columns = tf.stack([class_ids, kinds, detections.scores], axis=-1)
    return tf.concat([detections.boxes, columns], axis=-1)


def _candidates(
    outputs: tf.Tensor, options: TrainerOptions, image_sizes: tf.Tensor | None
) -> tuple[tf.Tensor, tf.Tensor]:
    """Returns the boxes that detections are selected from, and their scores: float32 [N, L, 4] and [N, L, C]."""
    import tensorflow as tf

    from trainer_module import geometry

    boxes = outputs[..., -4:]
    if image_sizes is not None:
        boxes = geometry.boxes_in_image(boxes, image_sizes, options.transform.geometry)
    return tf.clip_by_value(boxes, 0.0, 1.0), tf.sigmoid(outputs[..., :-4])


def _served(detections: np.ndarray, options: TrainerOptions) -> np.ndarray:
    """Returns the detections of an image that count as objects."""
    return box_drawing.at_least(detections, Options.from_options(options).served_threshold)


# === Export ===


def _signatures(
    model: keras.Model, options: TrainerOptions, tft_layer: Any, raw_feature_spec: dict[str, Any]
) -> dict[str, Endpoint]:
    """Builds the signatures of the SavedModel; `serving_default` has the outputs of the TF Object Detection API.

    Returns:
      Those of `_signatures.common_endpoints`, and with N the batch size and M = `max_detections`:
        serving_default: image_bytes string [N] → detection_boxes float32 [N, M, 4] (ymin, xmin, ymax, xmax, relative to
          the upright image, range [0, 1]), detection_scores float32 [N, M], detection_classes float32 [N, M] (from 1),
          num_detections float32 [N], detection_labels string [N, M]; the best first, padded with zeros and "";
          served_threshold float32 [N], the smallest score of a detection that counts as an object.
        transform_features: the label is float32 [N, max_objects * 6], see `box_labels`.
        explain: for the detection with the largest score, whose box the overlay shows.
        explain_detections: image_bytes string [N] → the same for every detection that counts as an object, the best M =
          `task.explained_detections` of them first: heatmaps float32 [N, M, h, w], overlay_png_bytes string [N, M],
          boxes float32 [N, M, 4] (as detection_boxes), class_ids int64 [N, M], labels string [N, M], scores float32
          [N, M]; padded with zeros, "" and -1.
        embed: the mean of the encoded map.

    Reference: https://github.com/tensorflow/models/blob/master/research/object_detection/exporter_main_v2.py
    """
    import keras
    import tensorflow as tf

    from trainer_module.tasks import _signatures

    names = tf.constant(options.classes)
    served_threshold = Options.from_options(options).served_threshold

    def predict(image_bytes: tf.Tensor) -> dict[str, tf.Tensor]:
        images = _signatures.read_images(image_bytes, options)
        detections = _decode(model(images.pixels, training=False), options, images.sizes)
        class_ids = detections[..., 4]
        exists = class_ids >= 0.0
        known_ids = tf.cast(tf.maximum(class_ids, 0.0), tf.int32)
        return {
            "detection_boxes": detections[..., :4],
            "detection_scores": detections[..., 6],
            "detection_classes": class_ids + 1.0,  # padding is 0
            "num_detections": tf.reduce_sum(tf.cast(exists, tf.float32), axis=-1),
            "detection_labels": tf.where(exists, tf.gather(names, known_ids), ""),
            "served_threshold": tf.fill(tf.shape(image_bytes), tf.constant(served_threshold, tf.float32)),
        }

    embedding = keras.Model(model.inputs, model.get_layer(features.FEATURES_LAYER).output, name="embed")
    endpoints = _signatures.common_endpoints(
        model, options, tft_layer, raw_feature_spec, predict=predict, embedding=embedding
    )
    return endpoints | {features.EXPLAIN_DETECTIONS: _signatures.explain_each(model, options, _explained_detections)}


def _explained_detections(
    outputs: tf.Tensor, image_sizes: tf.Tensor, options: TrainerOptions
) -> tuple[Subject, tf.Tensor]:
    """Chooses the best detections that count as objects, see `_signatures.explain_each`."""
    import tensorflow as tf

    own = Options.from_options(options)
    detections = _decode(outputs, options, image_sizes)[:, : own.explained_detections]
    class_ids = tf.cast(tf.maximum(detections[..., 4], 0.0), tf.int64)
    exists = (detections[..., 4] >= 0.0) & (detections[..., 6] >= own.served_threshold)
    return Subject(class_ids, None, _positions(detections, outputs, options, image_sizes)), exists


def _compare(
    response: Mapping[str, np.ndarray], expected: Sequence[np.ndarray], options: TrainerOptions, tolerance: float
) -> Agreement:
    """Compares detections; the tolerance is the largest allowed difference of a score or a coordinate.

    Detections with almost equal scores may be in another order. A detection may be absent where rounding decides: near
    the score threshold, near the largest IoU that suppression permits, or after the last one of `max_detections`.
    """
    import numpy as np

    if missing := [name for name in _OUTPUTS if name not in response]:
        return Agreement(False, f"missing outputs: {', '.join(missing)}")
    classes = np.array(options.classes)
    own = Options.from_options(options)
    limit = own.score_threshold + tolerance
    largest, num_compared = 0.0, 0
    for index, detections in enumerate(expected):
        count = round(float(response["num_detections"][index]))
        ids = response["detection_classes"][index, :count].astype(int) - 1
        labels = [label.decode() for label in response["detection_labels"][index, :count]]
        if (ids < 0).any() or (ids >= len(classes)).any() or classes[ids].tolist() != labels:
            return Agreement(False, "detection_labels do not belong to detection_classes")
        responded = np.column_stack(
            [response["detection_boxes"][index, :count], response["detection_scores"][index, :count], ids]
        )
        predicted = detections[detections[:, 4] >= 0][:, [0, 1, 2, 3, 6, 4]]
        num_compared += int((predicted[:, 4] > limit).sum())
        for rows, others in ((predicted, responded), (responded, predicted)):
            for row in rows[rows[:, 4] > limit]:
                same_class = others[others[:, 5] == row[5]]
                difference = float(np.abs(same_class[:, :5] - row[:5]).max(axis=-1).min(initial=np.inf))
                if difference > tolerance and _may_be_absent(row, others, own, tolerance):
                    continue
                if not len(same_class):
                    return Agreement(False, f"a detection of {classes[int(row[5])]} has no counterpart")
                if not difference <= tolerance:  # NaN is a failure too
                    detail = f"largest difference of a score or coordinate {difference:.2g}, allowed {tolerance:g}"
                    return Agreement(False, detail, difference if np.isfinite(difference) else None)
                largest = max(largest, difference)
    if not num_compared:
        return Agreement(True, "no detection is above task.score_threshold, so no box was compared", 0.0)
    detail = f"largest difference of a score or coordinate {largest:.2g}, {num_compared} detections"
    return Agreement(True, detail, largest)


def _may_be_absent(row: np.ndarray, others: np.ndarray, own: Options, tolerance: float) -> bool:
    """Whether rounding may have removed a detection from the others: (ymin, xmin, ymax, xmax, score, class) each."""
    import numpy as np

    from trainer_module.boxes.overlap import pairwise_iou

    if len(others) == own.max_detections and row[4] <= others[:, 4].min() + tolerance:
        return True
    better = others[(others[:, 5] == row[5]) & (others[:, 4] > row[4])]
    overlaps = pairwise_iou(row[np.newaxis, :4], better[:, :4])
    return bool((np.abs(overlaps - own.iou_threshold) <= 10 * tolerance).any())


# === Explanation ===

# Smallest IoU of a detection and an object at which the detection counts as correct.
_CORRECT_IOU = 0.5


def _target(outputs: tf.Tensor, subject: Subject, size: Size) -> Target:
    """Explains the class logit of one position: by default where the class has its largest score.

    Without class ids it is the class with the largest score of the image. With regions, only positions whose predicted
    box has its centre in the region count, if there are any; without, the region is the predicted box.

    Args:
      outputs: float32 [N, L, C + 4].
      subject: Class ids, regions and positions, or None.
      size: (height, width) of the model input, pixels.
    """
    import tensorflow as tf

    logits, (class_ids, regions, positions) = outputs[..., :-4], subject
    if class_ids is None:
        class_ids = tf.argmax(tf.reduce_max(logits, axis=1), axis=-1)
    class_ids = tf.cast(class_ids, tf.int64)
    of_class = tf.gather(logits, class_ids, axis=2, batch_dims=1)
    if positions is None:
        positions = _best_position(of_class, outputs[..., -4:], regions)
    subject = Subject(class_ids, regions, tf.cast(positions, tf.int64))
    if regions is None:
        subject = subject._replace(regions=_inside(_explained_boxes(outputs, subject), size))
    return Target(subject, tf.gather(of_class, positions, batch_dims=1))


def _explained_boxes(outputs: tf.Tensor, subject: Subject) -> tf.Tensor:
    """Returns the predicted boxes at the explained positions, relative to the model input, not clipped: [N, 4]."""
    import tensorflow as tf

    return tf.gather(outputs[..., -4:], subject.positions, batch_dims=1)


def _positions(
    detections: tf.Tensor, outputs: tf.Tensor, options: TrainerOptions, image_sizes: tf.Tensor | None
) -> tf.Tensor:
    """Returns the positions in the outputs that detections come from: those of their boxes and scores.

    The operation that suppresses boxes does not return them.

    Args:
      detections: float32 [N, M, 7], from `_decode` with the same outputs, options and image sizes.
      outputs: float32 [N, L, C + 4].
      options: `transform` is read.
      image_sizes: int [N, 2], or None.

    Returns:
      int64 [N, M]; any position for padding.
    """
    import tensorflow as tf

    boxes, scores = _candidates(outputs, options, image_sizes)
    class_ids = tf.cast(tf.maximum(detections[..., 4], 0.0), tf.int32)
    of_class = tf.gather(tf.transpose(scores, [0, 2, 1]), class_ids, batch_dims=1)
    difference = tf.abs(detections[..., 6:] - of_class)  # [N, M, L]
    for side in range(4):
        difference += tf.abs(detections[..., side : side + 1] - boxes[:, tf.newaxis, :, side])
    return tf.argmin(difference, axis=-1)


def _best_position(logits: tf.Tensor, boxes: tf.Tensor, regions: Any) -> tf.Tensor:
    """Returns the position with the largest logit, of those with the box's centre in the region: int64 [N]."""
    import tensorflow as tf

    if regions is not None:
        size = tf.cast(tf.shape(regions)[1:3], tf.float32)
        centers = (boxes[..., :2] + boxes[..., 2:]) / 2.0
        pixels = tf.clip_by_value(tf.cast(centers * size, tf.int32), 0, tf.cast(size, tf.int32) - 1)
        inside = tf.gather_nd(regions, pixels, batch_dims=1)
        usable = inside | ~tf.reduce_any(inside, axis=-1, keepdims=True)
        logits = tf.where(usable, logits, logits.dtype.min)
    return tf.argmax(logits, axis=-1)


def _inside(boxes: tf.Tensor, size: Size) -> tf.Tensor:
    """Returns the pixels of normalised boxes: float32 [N, 4] → bool [N, h, w]; at least one of each box."""
    import tensorflow as tf

    height, width = size
    y = (tf.range(height, dtype=tf.float32) + 0.5) / height
    x = (tf.range(width, dtype=tf.float32) + 0.5) / width
    ymin, xmin, ymax, xmax = tf.unstack(tf.clip_by_value(boxes, 0.0, 1.0), axis=-1)

    def covered(centers: tf.Tensor, low: tf.Tensor, high: tf.Tensor) -> tf.Tensor:
        middle = (low + high)[:, tf.newaxis] / 2.0
        nearest = tf.one_hot(tf.argmin(tf.abs(centers - middle), axis=-1), tf.shape(centers)[0], True, False)
        return ((centers >= low[:, tf.newaxis]) & (centers <= high[:, tf.newaxis])) | nearest

    return covered(y, ymin, ymax)[:, :, tf.newaxis] & covered(x, xmin, xmax)[:, tf.newaxis, :]


def _score(outputs: tf.Tensor, subject: Subject) -> tf.Tensor:
    """Returns the score of the class at the explained position, float32 [N]."""
    import tensorflow as tf

    logits = tf.gather(outputs[..., :-4], subject.positions, batch_dims=1)
    return tf.sigmoid(tf.gather(logits, subject.class_ids, batch_dims=1))


def _counted(labels: np.ndarray) -> np.ndarray:
    """Objects that can be explained: bool [N, max_objects]; crowds are not one object."""
    counted: np.ndarray = (labels[..., 4] >= 0) & (labels[..., 5] != box_labels.CROWD)
    return counted


def _true_instances(labels: np.ndarray, options: TrainerOptions) -> Instances:
    """Lists every object of every image; its id is its place in the label."""
    import numpy as np

    indices, objects = np.nonzero(_counted(labels))
    chosen = labels[indices, objects]
    subject = Subject(chosen[:, 4].astype(np.int64), _pixels(chosen[:, :4], options.transform.image_size))
    return Instances(indices, subject, objects)


def _predicted_instances(outputs: tf.Tensor, image_sizes: tf.Tensor, options: TrainerOptions) -> Instances:
    """Lists every detection that counts as an object; of an image without any, the largest score. Ids are positions."""
    import numpy as np
    import tensorflow as tf

    detections = _decode(outputs, options, image_sizes)
    class_ids, logits = detections[..., 4].numpy().astype(np.int64), outputs[..., :-4]
    counts = (class_ids >= 0) & (detections[..., 6].numpy() >= Options.from_options(options).served_threshold)
    most = max(1, int(counts.sum(axis=1).max(initial=0)))  # the best are first
    positions = _positions(detections[:, :most], outputs, options, image_sizes).numpy()
    nothing = ~counts.any(axis=1)
    class_ids[nothing, 0] = tf.argmax(tf.reduce_max(logits, axis=1), axis=-1).numpy()[nothing]
    positions[nothing, 0] = tf.argmax(tf.reduce_max(logits, axis=2), axis=-1).numpy()[nothing]
    counts[nothing, 0] = True
    indices, places = np.nonzero(counts)
    subject = Subject(class_ids[indices, places], None, positions[indices, places])
    return Instances(indices, subject, subject.positions)


def _pixels(boxes: np.ndarray, size: Size) -> np.ndarray:
    """Returns the pixels inside boxes, relative to the model input: [N, 4] → bool [N, h, w]; of NaN none."""
    import numpy as np

    regions = np.zeros((len(boxes), *size), bool)
    for index in np.flatnonzero(np.isfinite(boxes).all(axis=-1)):
        ymin, xmin, ymax, xmax = boxes[index].tolist()
        rows = slice(int(ymin * size[0]), max(int(ymin * size[0]) + 1, round(ymax * size[0])))
        regions[index, rows, int(xmin * size[1]) : max(int(xmin * size[1]) + 1, round(xmax * size[1]))] = True
    return regions


def _explained_objects(labels: np.ndarray, subject: Subject) -> np.ndarray:
    """Returns the box of the object that is explained: that of the class which overlaps most with the region.

    Args:
      labels: float32 [N, max_objects, 6].
      subject: Class ids and regions; the regions are boxes.

    Returns:
      float32 [N, 4], relative to the model input; NaN if no object of the class overlaps.
    """
    import numpy as np

    from trainer_module.boxes.overlap import pairwise_iou

    ids, regions = np.asarray(subject.class_ids), np.asarray(subject.regions)
    height, width = regions.shape[1:]
    same = _counted(labels) & (labels[..., 4] == ids[:, None])
    boxes = np.full((len(labels), 4), np.nan, np.float32)
    for index in np.flatnonzero(same.any(axis=1) & regions.any(axis=(1, 2))):
        rows, columns = (np.flatnonzero(regions[index].any(axis=axis)) for axis in (1, 0))
        region = [rows[0] / height, columns[0] / width, (rows[-1] + 1) / height, (columns[-1] + 1) / width]
        objects = labels[index, same[index], :4].astype(np.float32)
        overlaps = pairwise_iou(np.array([region], np.float32), objects)[0]
        if overlaps.max() > 0.0:
            boxes[index] = objects[overlaps.argmax()]
    return boxes


def _true_regions(labels: np.ndarray, subject: Subject) -> np.ndarray:
    """Returns the pixels inside the explained objects, bool [N, h, w]; none where no object of the class overlaps."""
    import numpy as np

    return _pixels(_explained_objects(labels, subject), np.shape(subject.regions)[1:])


def _outcomes(outputs: tf.Tensor, subject: Subject, labels: np.ndarray, options: TrainerOptions) -> PredictionOutcomes:
    """Compares the explained box with the object that it overlaps."""
    import numpy as np
    import tensorflow as tf

    from trainer_module.boxes.overlap import iou

    ids = np.asarray(subject.class_ids).astype(np.int64)
    scores = tf.sigmoid(tf.gather(outputs[..., :-4], subject.positions, batch_dims=1)).numpy()
    explained = tf.clip_by_value(_explained_boxes(outputs, subject), 0.0, 1.0).numpy()
    overlaps = np.asarray(iou(explained, _explained_objects(labels, subject)))
    confidence = scores[np.arange(len(ids)), ids]
    others = np.where(np.arange(scores.shape[-1]) == ids[:, None], 0.0, scores).max(axis=-1)
    return PredictionOutcomes(
        predicted_ids=scores.argmax(axis=-1).astype(np.int64),
        listed_ids=ids,
        true_ids=None,
        confidence=confidence,
        margin=np.clip(confidence - others, 0.0, 1.0),
        correct=overlaps >= _CORRECT_IOU,  # never of NaN
        exists=np.any(np.asarray(subject.regions), axis=(1, 2)),
    )


# === Monitoring ===


def _monitored(outputs: Mapping[str, np.ndarray], num_classes: int) -> MonitoredPredictions:
    """The score of a class is that of its best detection; the predicted class is that of the best one of all.

    The confidence is the best score. Detections below the served threshold are counted in scores, but predict nothing.
    """
    import numpy as np

    from trainer_module.monitored import MonitoredPredictions

    scores, ids = outputs["detection_scores"], outputs["detection_classes"].astype(np.int64) - 1
    images, places = np.nonzero((ids >= 0) & (ids < num_classes))
    best = np.zeros((len(scores), num_classes), np.float32)
    np.maximum.at(best, (images, ids[images, places]), scores[images, places])
    confidence = best.max(axis=1, initial=0.0)
    class_ids = np.where(confidence >= outputs["served_threshold"], best.argmax(axis=1), -1)
    return MonitoredPredictions(best, class_ids, confidence)


def _ground_truth(raw: Mapping[str, Sequence[Any]]) -> list[dict[str, Any]]:
    rows = zip(
        raw[features.BOX_CLASSES],
        zip(*(raw[key] for key in features.BOX_CORNERS), strict=True),
        raw[features.BOX_DIFFICULT],
        raw[features.BOX_IS_CROWD],
        strict=True,
    )
    return [
        {"label": name.decode(), "box": list(corners), "difficult": bool(difficult), "crowd": bool(crowd)}
        for name, corners, difficult, crowd in rows
    ]


def _box_f1(
    outputs: Mapping[str, np.ndarray], index: int, label: Any, classes: Sequence[str], ignore_id: int | None
) -> float:
    """Computes the F1 of the detections of an image from the served threshold on; the label is that of feedback."""
    import numpy as np

    # A class that the model does not know has an id that it never predicts.
    objects = box_labels.pack(_from_feedback(label), classes, unknown=len(classes))
    ids = outputs["detection_classes"][index] - 1.0
    scores = outputs["detection_scores"][index]
    kinds = np.full(len(ids), float(box_labels.OBJECT), np.float32)
    detections = np.column_stack([outputs["detection_boxes"][index], ids, kinds, scores]).astype(np.float32)
    threshold = float(outputs["served_threshold"][index])
    return box_drawing.f1(objects, box_drawing.at_least(detections, threshold), ignore_id)


def _label_classes(label: Any) -> tuple[str, ...]:
    return tuple(dict.fromkeys(each["label"] for each in label))


# === Labelling ===

_SAME_OBJECT = 0.5  # IoU, as COCO's lowest
# IoU from which boxes of two classes are taken for one object. Lower values would join objects that overlap.
_SAME_PLACE = 0.9


def _uncertainty(outputs: Mapping[str, np.ndarray]) -> np.ndarray:
    """Returns how close the score of a detection is to the served threshold: the largest of the image, float64 [N].

    Reference: Brust et al. 2019, https://arxiv.org/abs/1809.09875, section 3 (maximum over the detections).
    """
    import numpy as np

    scores = outputs["detection_scores"]
    exists = np.arange(scores.shape[1]) < outputs["num_detections"][:, np.newaxis]
    closeness = decision_thresholds.closeness(scores, outputs["served_threshold"][:, np.newaxis])
    return np.asarray(np.where(exists, closeness, 0.0).max(axis=1, initial=0.0))


def _proposal(outputs: Mapping[str, np.ndarray], classes: Sequence[str]) -> list[RawLabel]:
    """Returns the detections that count as objects; of those at the same place, only the one with the best score.

    The suppression in the model compares boxes of one class, so that an uncertain class gives the same box twice.
    """
    import numpy as np

    from trainer_module.boxes.overlap import pairwise_iou

    served = outputs["detection_scores"] >= outputs["served_threshold"][:, np.newaxis]
    served &= np.arange(served.shape[1]) < outputs["num_detections"][:, np.newaxis]
    labels: list[RawLabel] = []
    for boxes, names, kept in zip(outputs["detection_boxes"], outputs["detection_labels"], served, strict=True):
        same_place = np.tril(pairwise_iou(boxes, boxes) >= _SAME_PLACE, k=-1)  # better detections are first
        for index in np.flatnonzero(kept):
            kept[index] = not (same_place[index] & kept).any()
        corners = zip(features.BOX_CORNERS, np.asarray(boxes[kept], float).T, strict=True)
        label: dict[str, list[Any]] = {key: values.tolist() for key, values in corners}
        labels.append({**label, features.BOX_CLASSES: [name.decode() for name in names[kept]]})
    return labels


def _agreement(label: RawLabel, other: RawLabel) -> float:
    """Returns F1 of the boxes that have the same class and an IoU of at least 0.5; 1 if there are no boxes at all."""
    import numpy as np

    from trainer_module.boxes.overlap import pairwise_iou

    names, others = (np.array(entry[features.BOX_CLASSES], object) for entry in (label, other))
    if not len(names) + len(others):
        return 1.0
    boxes, other_boxes = (
        np.array([entry[key] for key in features.BOX_CORNERS], float).T.reshape(-1, 4) for entry in (label, other)
    )
    overlaps = np.array(pairwise_iou(boxes, other_boxes)) * (names[:, np.newaxis] == others)
    matched = 0
    while overlaps.size and overlaps.max() >= _SAME_OBJECT:
        row, column = np.unravel_index(np.argmax(overlaps), overlaps.shape)
        overlaps[row], overlaps[:, column] = 0.0, 0.0
        matched += 1
    return 2.0 * matched / (len(names) + len(others))


def _from_feedback(value: Any) -> RawLabel:
    """Reads a list of {"label": NAME, "box": [ymin, xmin, ymax, xmax]}; `difficult` and `crowd` are optional.

    Boxes are relative to the upright image.
    """
    label: dict[str, list[Any]] = {key: [] for key in (*features.BOX_CORNERS, features.BOX_CLASSES)}
    label |= {features.BOX_DIFFICULT: [], features.BOX_IS_CROWD: []}
    try:
        for each in value:
            corners = [float(side) for side in each["box"]]
            if not isinstance(each["label"], str) or len(corners) != len(features.BOX_CORNERS):
                raise ValueError
            for key, side in zip(features.BOX_CORNERS, corners, strict=True):
                label[key].append(side)
            label[features.BOX_CLASSES].append(each["label"])
            label[features.BOX_DIFFICULT].append(int(bool(each.get("difficult"))))
            label[features.BOX_IS_CROWD].append(int(bool(each.get("crowd"))))
    except (TypeError, KeyError, ValueError, AttributeError):
        raise ValueError('it is not a list of {"label": NAME, "box": [YMIN, XMIN, YMAX, XMAX]}') from None
    return label


TASK = TaskSpec(
    name="detection",
    label_noun="boxes with classes",
    options=Options,
    label_features={
        **dict.fromkeys(features.BOX_CORNERS, "float32"),
        features.BOX_CLASSES: "string",
        features.BOX_DIFFICULT: "int64",
        features.BOX_IS_CROWD: "int64",
    },
    class_features=(features.BOX_CLASSES,),
    label_limit=(features.BOX_CLASSES, "max_objects"),
    label_statistics=(
        LabelStatistic(
            features.BOX_COUNT, "Boxes per image", "Share of the images by number of boxes.", "Boxes", "images", "count"
        ),
        LabelStatistic(
            features.BOX_SIZE,
            "Size",
            "Share of the boxes by size: the square root of their share of the image's area, 1 for the whole image.",
            "Share of the image, root of the area",
            "boxes",
            "linear",
        ),
        LabelStatistic(
            features.BOX_ASPECT_RATIO,
            "Aspect ratio",
            "Share of the boxes by width divided by height: below 1 they are taller than wide.",
            "Width / height",
            "boxes",
            "ratio",
        ),
    ),
    example_label=_example_label,
    transform_label=_transform_label,
    read_label=_read_label,
    geometry_moves_labels=True,
    unsupported_augmentation=("crop", "random_erasing", "mixup", "cutmix"),
    augment=_augment,
    head=_head,
    loss=_loss,
    training_metrics=_training_metrics,
    objectives=(Objective("val_loss", "min"), Objective("val_box_iou", "max")),
    loss_options=("focal_beta", "train_difficult"),
    evaluation=box_evaluation.EVALUATION,
    export=Export(
        required=(
            features.SERVING_DEFAULT,
            features.EXAMPLES,
            features.EXPLAIN,
            features.EXPLAIN_DETECTIONS,
            features.EMBED,
        ),
        signatures=_signatures,
        compare=_compare,
        command="detect IMAGE --output-dir DIR",
    ),
    explanation=Explanation(
        target=_target,
        score=_score,
        true_instances=_true_instances,
        predicted_instances=_predicted_instances,
        true_regions=_true_regions,
        boxes=_explained_boxes,
        outcomes=_outcomes,
        incorrect_caption="misplaced: {predicted}",
        default_method="hires_cam",
        pixels_at_once=2**20,
    ),
    decode=_decode,
    drawing=Drawing(
        draw=box_drawing.draw,
        caption=lambda label, classes: [],
        legend=box_drawing.legend,
        comparison=Comparison(
            score_name="F1 of the boxes",
            score=box_drawing.f1,
            panels=box_drawing.panels,
            main_error=box_drawing.main_error,
            note=lambda options: (
                f"Detections are shown from the served threshold, {Options.from_options(options).served_threshold:g}. "
                "Detections with an error are dashed, and so are objects without a correct detection."
            ),
            counted=_served,
            error_types=box_evaluation.ERROR_MEANINGS,
            error_type=box_drawing.error_type,
        ),
    ),
    monitoring=Monitoring(
        outputs=("detection_boxes", "detection_scores", "detection_classes", "served_threshold"),
        predictions=_monitored,
        ground_truth=_ground_truth,
        label_classes=_label_classes,
        quality_name="F1 of the boxes",
        quality=_box_f1,
    ),
    labeling=Labeling(
        outputs={
            features.SERVING_DEFAULT: (
                "detection_boxes",
                "detection_scores",
                "num_detections",
                "detection_labels",
                "served_threshold",
            )
        },
        uncertainty=_uncertainty,
        proposal=_proposal,
        agreement=_agreement,
        from_feedback=_from_feedback,
    ),
)
