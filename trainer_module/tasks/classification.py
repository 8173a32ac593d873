"""Single-label classification: one class per image."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal

from pydantic import Field

from trainer_module import features
from trainer_module.evaluation import labels
from trainer_module.section import Rate
from trainer_module.tasks._image_classes import PooledHeadOptions, plain_image, pooled_head, whole_image_target
from trainer_module.tasks._spec import (
    Agreement,
    Drawing,
    Endpoint,
    Explanation,
    Export,
    Instances,
    Labeling,
    Monitoring,
    Objective,
    PredictionOutcomes,
    RawLabel,
    Subject,
    TaskSpec,
    same_outputs,
)

if TYPE_CHECKING:
    import keras
    import numpy as np
    import tensorflow as tf

    from trainer_module.monitored import MonitoredPredictions
    from trainer_module.options import TrainerOptions, TransformOptions


class Options(PooledHeadOptions):
    """`[task]` with `name = "classification"`."""

    name: Literal["classification"] = "classification"
    label_smoothing: Rate = Field(
        default=0.0,
        description="Share of a label that is distributed over all classes, in the training and the validation loss.",
    )
    class_weights: Literal["none", "balanced"] = Field(
        default="none",
        description="`balanced` weights an image in the training loss by the inverse of its class's share of the train "
        "split; the mean weight is 1.",
    )


# === Labels ===


def _example_label(class_ids: Sequence[int], classes: Sequence[str], image_size: int) -> dict[str, list[Any]]:
    return {features.CLASS_TEXT: [classes[class_ids[0]]]}


def _transform_label(inputs: Mapping[str, tf.Tensor], classes: Sequence[str], options: TransformOptions) -> tf.Tensor:
    """Maps the class name of a raw example to its id, int64 [N]; -1 for an unknown name, which the loss ignores."""
    import tensorflow as tf

    from trainer_module.tasks._class_table import class_table

    return class_table(classes, unknown=-1).lookup(tf.reshape(inputs[features.CLASS_TEXT], [-1]))


def _read_label(transformed: dict[str, tf.Tensor], options: TransformOptions) -> tf.Tensor:
    """Reads the class ids of a batch, int64 [n]."""
    return transformed[features.LABEL]


# === Training ===


def _sample_weight(train_data: tf.data.Dataset, options: TrainerOptions) -> tf.data.Dataset:
    """Adds a weight to every image if `task.class_weights` is "balanced".

    Args:
      train_data: (images, int64 [n]) batches.
      options: `task` and `classes` are read.

    Returns:
      (images, int64 [n], float32 [n]) batches, or the data unchanged. The validation data have no weights, as in Keras.
    """
    import tensorflow as tf

    from trainer_module import label_losses

    kind = Options.from_options(options).class_weights
    if kind == "none":
        return train_data
    weights = tf.constant(label_losses.class_weights(kind, train_data, len(options.classes)))
    return train_data.map(lambda images, labels: (images, labels, tf.gather(weights, tf.maximum(labels, 0))))


def _augment(options: TrainerOptions) -> Callable[..., tuple[tf.Tensor, ...]]:
    """Augments images; if images are mixed, labels become float32 [n, C]."""
    import tensorflow as tf

    from trainer_module import augmentation

    augment = options.augmentation

    def change(seed: tf.Tensor, images: tf.Tensor, *targets: tf.Tensor) -> tuple[tf.Tensor, ...]:
        images = augmentation.augment_images(images, augment, seed)
        if augment.mixes():
            labels, *weights = targets
            targets = (tf.one_hot(labels, len(options.classes)), *weights)
            images, targets = augmentation.mix(images, targets, augment, seed)
        return images, *targets

    return change


def _loss(options: TrainerOptions, train_data: tf.data.Dataset | None = None) -> keras.losses.Loss:
    """Returns the cross-entropy of logits and labels, integer or soft; class weights come with the data."""
    from trainer_module import label_losses

    return label_losses.LabelLoss(Options.from_options(options).label_smoothing)


def _training_metrics(options: TrainerOptions) -> list[keras.metrics.Metric]:
    import keras

    from trainer_module import label_losses

    return [keras.metrics.MeanMetricWrapper(label_losses.is_correct, name="accuracy")]


# === Export ===


def _signatures(
    model: keras.Model, options: TrainerOptions, tft_layer: Any, raw_feature_spec: dict[str, Any]
) -> dict[str, Endpoint]:
    """Builds the signatures of the SavedModel.

    Returns:
      Those of `_signatures.common_endpoints`, and with N the batch size and C the number of classes:
        serving_default: image_bytes string [N] → probabilities float32 [N, C], class_id int64 [N], label string [N],
          score float32 [N].
        classify: inputs string [N] (serialized raw examples) → classes string [N, C], scores float32 [N, C].
    """
    import keras
    import tensorflow as tf

    from trainer_module.tasks import _signatures

    names = tf.constant(options.classes)

    def predict(image_bytes: tf.Tensor) -> dict[str, tf.Tensor]:
        logits = model(_signatures.read_images(image_bytes, options).pixels, training=False)
        probabilities = _decode(logits)
        class_id = tf.argmax(probabilities, axis=-1)
        return {
            "probabilities": probabilities,
            "class_id": class_id,
            "label": tf.gather(names, class_id),
            "score": tf.reduce_max(probabilities, axis=-1),
        }

    embedding = keras.Model(model.inputs, model.get_layer(features.EMBEDDING_LAYER).output, name="embed")
    endpoints = _signatures.common_endpoints(
        model, options, tft_layer, raw_feature_spec, predict=predict, embedding=embedding
    )
    return endpoints | {
        features.CLASSIFY: _signatures.classify_endpoint(endpoints[features.SERVING_DEFAULT], options.classes)
    }


def _compare(
    response: Mapping[str, np.ndarray], expected: Sequence[np.ndarray], options: TrainerOptions, tolerance: float
) -> Agreement:
    """Compares probabilities; the tolerance is their largest allowed difference."""
    import numpy as np

    difference = float(np.max(np.abs(response["probabilities"] - np.stack(expected))))
    if not difference <= tolerance:  # NaN is a failure too
        detail = f"largest difference of a probability {difference:.2g}, allowed {tolerance:g}"
        return Agreement(False, detail, difference if math.isfinite(difference) else None)
    labels = [label.decode() for label in response["label"]]
    if labels != [options.classes[index] for index in response["probabilities"].argmax(axis=-1)]:
        return Agreement(False, "the labels do not belong to the most probable classes")
    return Agreement(True, f"largest difference of a probability {difference:.2g}", difference)


# === Explanation ===


def _score(logits: tf.Tensor, subject: Subject) -> tf.Tensor:
    """Returns the probability of the class, float32 [N]."""
    import tensorflow as tf

    return tf.gather(tf.nn.softmax(logits), subject.class_ids, axis=-1, batch_dims=1)


def _true_instances(ground_truth: np.ndarray, options: TrainerOptions) -> Instances:
    indices = (ground_truth >= 0).nonzero()[0]
    return Instances(indices, Subject(ground_truth[indices]))


def _outcomes(
    logits: tf.Tensor, subject: Subject, ground_truth: np.ndarray, options: TrainerOptions
) -> PredictionOutcomes:
    """Compares the most probable class with the ground truth; the explained class may be another."""
    import numpy as np
    import tensorflow as tf

    best, ids = (value.numpy() for value in tf.math.top_k(tf.nn.softmax(logits), 2))
    predicted = ids[:, 0].astype(np.int64)
    return PredictionOutcomes(
        predicted_ids=predicted,
        listed_ids=ground_truth,
        true_ids=ground_truth,
        confidence=best[:, 0],
        margin=best[:, 0] - best[:, 1],
        correct=predicted == ground_truth,
        exists=np.full(len(predicted), True),
    )


# === Drawing ===


def _decode(logits: tf.Tensor) -> tf.Tensor:
    """Computes probabilities, float32 [N, C]."""
    import tensorflow as tf

    return tf.nn.softmax(logits)


def _caption(label: Any, classes: Sequence[str]) -> list[str]:
    """Names the class, or the two largest shares and their classes.

    Args:
      label: int id, or float [C]: probabilities, or the shares of an image that is mixed from two.
      classes: Class names; the index is the id.
    """
    import numpy as np

    if np.ndim(label) == 0:
        return [classes[int(label)]]
    largest = np.argsort(-label, kind="stable")[:2]
    return [f"{classes[index]}: {label[index]:.0%}" for index in largest if label[index] >= 0.005]


# === Monitoring ===


def _monitored(outputs: Mapping[str, np.ndarray], num_classes: int) -> MonitoredPredictions:
    from trainer_module.monitored import MonitoredPredictions

    probabilities = outputs["probabilities"]
    return MonitoredPredictions(probabilities, probabilities.argmax(axis=1), probabilities.max(axis=1))


def _is_correct(
    outputs: Mapping[str, np.ndarray], index: int, label: Any, classes: Sequence[str], ignore_id: int | None
) -> float:
    """Whether the most probable class is the label; a class that the model does not know never is."""
    if not isinstance(label, str):
        raise ValueError("it is not a class name")
    return float(classes[int(outputs["probabilities"][index].argmax())] == label)


# === Labelling ===


def _uncertainty(outputs: Mapping[str, np.ndarray]) -> np.ndarray:
    """Returns 1 minus the margin between the two most probable classes, float64 [N].

    Reference: Scheffer et al. 2001, https://doi.org/10.1007/3-540-44816-0_31 (margin); Settles 2009, "Active Learning
    Literature Survey", section 3.1.
    """
    import numpy as np

    best = np.sort(np.asarray(outputs["probabilities"], np.float64), axis=-1)
    return np.asarray(1.0 - (best[:, -1] - best[:, -2]))


def _proposal(outputs: Mapping[str, np.ndarray], classes: Sequence[str]) -> list[RawLabel]:
    return [{features.CLASS_TEXT: [label.decode()]} for label in outputs["label"]]


def _agreement(label: RawLabel, other: RawLabel) -> float:
    return float(list(label[features.CLASS_TEXT]) == list(other[features.CLASS_TEXT]))


def _from_feedback(value: Any) -> RawLabel:
    if not isinstance(value, str) or not value:
        raise ValueError("it is not a class name")
    return {features.CLASS_TEXT: [value]}


TASK = TaskSpec(
    name="classification",
    label_noun="one class per image",
    options=Options,
    label_features={features.CLASS_TEXT: "string"},
    class_features=(features.CLASS_TEXT,),
    single_valued_features=(features.CLASS_TEXT,),
    example_label=_example_label,
    transform_label=_transform_label,
    read_label=_read_label,
    unsupported_augmentation=("crop",),
    augment=_augment,
    head=pooled_head,
    restore_outputs=same_outputs,
    loss=_loss,
    sample_weight=_sample_weight,
    training_metrics=_training_metrics,
    objectives=(Objective("val_loss", "min"), Objective("val_accuracy", "max")),
    loss_options=("label_smoothing",),
    evaluation=labels.EVALUATION,
    export=Export(
        required=(
            features.SERVING_DEFAULT,
            features.EXAMPLES,
            features.CLASSIFY,
            features.EXPLAIN,
            features.EMBED,
        ),
        signatures=_signatures,
        compare=_compare,
        command="predict IMAGE",
    ),
    explanation=Explanation(
        target=whole_image_target,
        score=_score,
        true_instances=_true_instances,
        outcomes=_outcomes,
        incorrect_caption="{label} predicted as {predicted}",
    ),
    decode=lambda logits, options, image_sizes=None: _decode(logits),
    drawing=Drawing(draw=plain_image, caption=_caption, legend=lambda classes, ignore_id, labels: []),
    monitoring=Monitoring(
        outputs=("probabilities",),
        predictions=_monitored,
        ground_truth=lambda raw: raw[features.CLASS_TEXT][0].decode(),
        label_classes=lambda label: (str(label),),
        quality_name="accuracy",
        quality=_is_correct,
    ),
    labeling=Labeling(
        outputs={features.SERVING_DEFAULT: ("probabilities", "label")},
        uncertainty=_uncertainty,
        proposal=_proposal,
        agreement=_agreement,
        from_feedback=_from_feedback,
    ),
)
