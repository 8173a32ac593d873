"""Multi-label classification: any number of classes per image, also none."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal

from pydantic import Field

from trainer_module import decision_thresholds, features
from trainer_module.evaluation import label_sets
from trainer_module.section import Fraction, Rate
from trainer_module.tasks._image_classes import PooledHeadOptions, plain_image, pooled_head, whole_image_target
from trainer_module.tasks._spec import (
    Agreement,
    Condition,
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

    from trainer_module.models import FeatureMaps
    from trainer_module.monitored import MonitoredPredictions
    from trainer_module.options import TrainerOptions, TransformOptions

# Between the classes of the output `labels`.
SEPARATOR = "|"
# Added to the label of an image with an unknown class: the others remain readable, and the loss ignores the image.
_UNKNOWN = -2.0
_MOST_LOGGED = 20


class Options(PooledHeadOptions):
    """`[task]` with `name = "multi_label"`."""

    name: Literal["multi_label"] = "multi_label"
    loss: Literal["binary_crossentropy", "asymmetric"] = Field(
        default="binary_crossentropy",
        description="`asymmetric` down-weights easy decisions, mostly on absent classes: for many rare classes.",
    )
    gamma_pos: float = Field(
        default=0.0, ge=0.0, le=10.0, description="Asymmetric loss: how strongly easy present classes count less."
    )
    gamma_neg: float = Field(
        default=4.0, ge=0.0, le=10.0, description="Asymmetric loss: how strongly easy absent classes count less."
    )
    clip: float = Field(
        default=0.05,
        ge=0.0,
        le=0.5,
        description="Asymmetric loss: absent classes with a lower probability have no loss; 0 for none.",
    )
    label_smoothing: Rate = Field(
        default=0.0,
        description="Smoothing s of the training and the validation loss: a present class counts as 1 - s / 2, an "
        "absent one as s / 2.",
    )
    positive_weights: Literal["none", "balanced"] = Field(
        default="none",
        description="`balanced` weights present classes in the loss by the number of train images without the class "
        "divided by those with it, at most 100.",
    )
    thresholds: Literal["best_f1"] | Fraction | tuple[Fraction, ...] = Field(
        default="best_f1",
        description="Probabilities from which classes are predicted: `best_f1` chooses one per class, with the largest "
        "F1 on the validation split; a number for all classes; or a list in the order of the class ids. They are "
        "exported with the model.",
    )
    explained_labels: int = Field(
        default=4, ge=1, le=32, description="Largest number of predicted classes that `explain_labels` explains."
    )


# === Labels ===


def _example_label(class_ids: Sequence[int], classes: Sequence[str], image_size: int) -> dict[str, list[Any]]:
    return {features.CLASS_TEXT: [classes[class_id] for class_id in dict.fromkeys(class_ids)]}


def _transform_label(inputs: Mapping[str, tf.Tensor], classes: Sequence[str], options: TransformOptions) -> tf.Tensor:
    """Maps the class names of a raw example to float32 [N, C]: 1 for a class of the image, 0 for another one.

    If one of the names is unknown, -1 and -2 instead: the image does not train.
    """
    import tensorflow as tf

    from trainer_module.tasks._class_table import class_table

    names = inputs[features.CLASS_TEXT]
    ids = class_table(classes, unknown=-1).lookup(names.values)
    rows, num = names.indices[:, 0], names.dense_shape[0]
    known = tf.cast(ids >= 0, tf.float32)
    shape = tf.stack([num, tf.constant(len(classes), tf.int64)])
    counts = tf.scatter_nd(tf.stack([rows, tf.maximum(ids, 0)], axis=-1), known, shape)
    num_unknown = tf.scatter_nd(rows[:, tf.newaxis], 1.0 - known, tf.reshape(num, [1]))
    label = tf.minimum(counts, 1.0) + tf.where(num_unknown > 0.0, _UNKNOWN, 0.0)[:, tf.newaxis]
    return tf.reshape(label, [-1, len(classes)])


def _read_label(transformed: dict[str, tf.Tensor], options: TransformOptions) -> tf.Tensor:
    """Reads the labels of a batch, float32 [n, C]."""
    return transformed[features.LABEL]


# === Network ===


def _head(maps: FeatureMaps, num_classes: int, options: TrainerOptions) -> keras.KerasTensor:
    """Adds the head of classification; its logits are independent of each other.

    Raises:
      ValueError: If `task.thresholds` does not have one threshold per class.
    """
    _thresholds(options)  # fails now, not after the training
    return pooled_head(maps, num_classes, options)


def _thresholds(options: TrainerOptions) -> np.ndarray:
    """Returns the decision thresholds, float32 [C]; 0.5 before they are chosen."""
    import numpy as np

    chosen, num = Options.from_options(options).thresholds, len(options.classes)
    if isinstance(chosen, str):
        chosen = decision_thresholds.DEFAULT
    values = np.array([chosen] * num if isinstance(chosen, float) else chosen, np.float32)
    if len(values) != num:
        raise ValueError(
            f"task.thresholds has {len(values)} values for {num} classes ({', '.join(options.classes[:5])}"
            f"{', …' if num > 5 else ''}). Give one per class, one number for all, or remove it."
        )
    return values


# === Training ===


def _augment(options: TrainerOptions) -> Callable[..., tuple[tf.Tensor, ...]]:
    """Augments images; if images are mixed, so are their labels."""
    from trainer_module import augmentation

    augment = options.augmentation

    def change(seed: tf.Tensor, images: tf.Tensor, *targets: tf.Tensor) -> tuple[tf.Tensor, ...]:
        images = augmentation.augment_images(images, augment, seed)
        if augment.mixes():
            images, targets = augmentation.mix(images, targets, augment, seed)
        return images, *targets

    return change


def _loss(options: TrainerOptions, train_data: tf.data.Dataset | None = None) -> keras.losses.Loss:
    """Returns the loss of logits and labels, both [N, C]; labels may be shares."""
    from trainer_module import label_set_losses

    own, weights = Options.from_options(options), None
    if own.positive_weights == "balanced" and train_data is not None:
        weights = label_set_losses.positive_weights(train_data, len(options.classes))
    if own.loss == "asymmetric":
        return label_set_losses.AsymmetricLoss(own.gamma_pos, own.gamma_neg, own.clip, own.label_smoothing, weights)
    return label_set_losses.BinaryCrossEntropy(own.label_smoothing, weights)


def _training_metrics(options: TrainerOptions) -> list[keras.metrics.Metric]:
    """Returns an approximation of the macro AP, from 200 thresholds: the evaluation computes the exact value."""
    import keras

    return [
        keras.metrics.AUC(
            curve="PR", multi_label=True, num_labels=len(options.classes), from_logits=True, name="macro_ap"
        )
    ]


def _calibrate(model: keras.Model, validation_data: tf.data.Dataset, options: TrainerOptions) -> TrainerOptions:
    """Chooses the decision thresholds on the validation split, unless they are configured."""
    import numpy as np
    import tensorflow as tf

    own = Options.from_options(options)
    if own.thresholds != "best_f1":
        return options

    @tf.function(reduce_retracing=True, autograph=False)
    def predict(images: tf.Tensor) -> tf.Tensor:
        return tf.sigmoid(tf.cast(model(tf.cast(images, tf.float32), training=False), tf.float32))

    probabilities, labels = [], []
    for images, batch_labels in validation_data:
        probabilities.append(predict(images).numpy())
        labels.append(label_sets.present(batch_labels.numpy()))
    chosen = decision_thresholds.best_f1(np.concatenate(probabilities), np.concatenate(labels))
    shown = [f"{name} {value:.3f}" for name, value in zip(options.classes, chosen, strict=True)][:_MOST_LOGGED]
    logging.getLogger(features.PROGRESS_LOGGER).info("decision thresholds: %s", ", ".join(shown))
    return options.model_copy(update={"task": own.model_copy(update={"thresholds": chosen})})


# === Predictions ===


def _decode(logits: tf.Tensor, options: TrainerOptions, image_sizes: tf.Tensor | None = None) -> tf.Tensor:
    """Computes predictions, float32 [N, C, 2]: the probability of every class, and 1 if it is predicted."""
    import tensorflow as tf

    probabilities = tf.sigmoid(tf.cast(logits, tf.float32))
    return tf.stack([probabilities, tf.cast(probabilities >= _thresholds(options), tf.float32)], axis=-1)


# === Export ===


def _signatures(
    model: keras.Model, options: TrainerOptions, tft_layer: Any, raw_feature_spec: dict[str, Any]
) -> dict[str, Endpoint]:
    """Builds the signatures of the SavedModel.

    The thresholds are the same for all images, and have a batch dimension because batching of TF Serving splits every
    output among the requests.

    Returns:
      Those of `_signatures.common_endpoints`, and with N the batch size and C the number of classes:
        serving_default: image_bytes string [N] → probabilities float32 [N, C], thresholds float32 [N, C], predicted
          bool [N, C] (probability >= threshold), labels string [N]: the predicted classes in the order of their ids,
          joined with `|`; empty if there is none.
        classify: inputs string [N] (serialized raw examples) → classes string [N, C], scores float32 [N, C].
        transform_features: the label is float32 [N, C].
        explain: for the most probable class.
        explain_labels: image_bytes string [N] → the same for every predicted class, the most probable M =
          `task.explained_labels` of them first: heatmaps float32 [N, M, h, w], overlay_png_bytes string [N, M],
          class_ids int64 [N, M], labels string [N, M], scores float32 [N, M]; padded with zeros, "" and -1.
    """
    import keras
    import tensorflow as tf

    from trainer_module.tasks import _signatures

    names, thresholds = tf.constant(options.classes), tf.constant(_thresholds(options))

    def predict(image_bytes: tf.Tensor) -> dict[str, tf.Tensor]:
        logits = model(_signatures.read_images(image_bytes, options).pixels, training=False)
        probabilities, decisions = tf.unstack(_decode(logits, options), axis=-1)
        predicted = decisions > 0.0
        joined = tf.strings.reduce_join(tf.where(predicted, names + SEPARATOR, ""), axis=-1)
        return {
            "probabilities": probabilities,
            "thresholds": tf.tile(thresholds[tf.newaxis, :], [tf.shape(probabilities)[0], 1]),
            "predicted": predicted,
            "labels": tf.strings.regex_replace(joined, r"\|$", ""),
        }

    embedding = keras.Model(model.inputs, model.get_layer(features.EMBEDDING_LAYER).output, name="embed")
    endpoints = _signatures.common_endpoints(
        model, options, tft_layer, raw_feature_spec, predict=predict, embedding=embedding
    )
    return endpoints | {
        features.CLASSIFY: _signatures.classify_endpoint(endpoints[features.SERVING_DEFAULT], options.classes),
        features.EXPLAIN_LABELS: _signatures.explain_each(model, options, _explained_labels),
    }


def _explained_labels(logits: tf.Tensor, image_sizes: tf.Tensor, options: TrainerOptions) -> tuple[Subject, tf.Tensor]:
    """Chooses the most probable predicted classes, see `_signatures.explain_each`."""
    import tensorflow as tf

    most = min(len(options.classes), Options.from_options(options).explained_labels)
    probabilities, decisions = tf.unstack(_decode(logits, options), axis=-1)
    scores, ids = tf.math.top_k(tf.where(decisions > 0.0, probabilities, -1.0), most)
    return Subject(tf.cast(ids, tf.int64)), scores >= 0.0


def _compare(
    response: Mapping[str, np.ndarray], expected: Sequence[np.ndarray], options: TrainerOptions, tolerance: float
) -> Agreement:
    """Compares probabilities; the tolerance is their largest allowed difference.

    A class whose probability is nearer to its threshold may be predicted or not.
    """
    import numpy as np

    probabilities, predicted = response["probabilities"], response["predicted"].astype(bool)
    reference, decisions = np.moveaxis(np.stack(expected), -1, 0)
    difference = float(np.max(np.abs(probabilities - reference)))
    if not difference <= tolerance:  # NaN is a failure too
        detail = f"largest difference of a probability {difference:.2g}, allowed {tolerance:g}"
        return Agreement(False, detail, difference if math.isfinite(difference) else None)
    thresholds = _thresholds(options)
    if np.max(np.abs(response["thresholds"] - thresholds)) > 1e-6:
        return Agreement(False, "the thresholds are not those of the options")
    decided = np.abs(reference - thresholds) > tolerance
    if (predicted != (decisions > 0.0))[decided].any():
        return Agreement(False, "the predicted classes do not follow from the probabilities and the thresholds")
    joined = [SEPARATOR.join(np.array(options.classes)[row]) for row in predicted]
    if [label.decode() for label in response["labels"]] != joined:
        return Agreement(False, "the labels are not the names of the predicted classes")
    return Agreement(True, f"largest difference of a probability {difference:.2g}", difference)


# === Explanation ===


def _score(logits: tf.Tensor, subject: Subject) -> tf.Tensor:
    """Returns the probability of the class, float32 [N]."""
    import tensorflow as tf

    return tf.gather(tf.sigmoid(logits), subject.class_ids, axis=-1, batch_dims=1)


def _true_instances(ground_truth: np.ndarray, options: TrainerOptions) -> Instances:
    return _instances(label_sets.present(ground_truth))


def _predicted_instances(logits: tf.Tensor, image_sizes: tf.Tensor, options: TrainerOptions) -> Instances:
    """Lists every predicted class of every image, and the most probable class of one without any."""
    import numpy as np

    probabilities, decisions = np.moveaxis(_decode(logits, options).numpy(), -1, 0)
    predicted = decisions > 0.0
    most_probable = np.arange(probabilities.shape[1]) == probabilities.argmax(axis=1)[:, None]
    return _instances(predicted | (most_probable & ~predicted.any(axis=1, keepdims=True)))


def _instances(chosen: np.ndarray) -> Instances:
    """Lists the chosen classes of every image, bool [N, C]."""
    import numpy as np

    indices, class_ids = np.nonzero(chosen)
    return Instances(indices, Subject(class_ids.astype(np.int64)))


def _outcomes(
    logits: tf.Tensor, subject: Subject, ground_truth: np.ndarray, options: TrainerOptions
) -> PredictionOutcomes:
    """Compares the decision about the explained class with the ground truth.

    The confidence is that in the decision: the probability of the class, or of its absence if it is not predicted.
    """
    import numpy as np

    ids = np.asarray(subject.class_ids).astype(np.int64)
    rows = np.arange(len(ids))
    probabilities, decisions = np.moveaxis(_decode(logits, options).numpy()[rows, ids], -1, 0)
    predicted = decisions > 0.0
    return PredictionOutcomes(
        predicted_ids=ids,
        listed_ids=ids,
        true_ids=None,
        confidence=np.where(predicted, probabilities, 1.0 - probabilities),
        margin=np.abs(probabilities - _thresholds(options)[ids]),
        correct=predicted == label_sets.present(ground_truth)[rows, ids],
        exists=np.full(len(ids), True),
    )


# === Drawing ===


def _caption(label: np.ndarray, classes: Sequence[str]) -> list[str]:
    """Names the classes of a label, the shares of a mixed one, or the predicted classes and their probabilities.

    Args:
      label: float [C], a label; or float [C, 2], a prediction from `_decode`.
      classes: Class names; the index is the id.
    """
    import numpy as np

    if np.ndim(label) == 1:
        values, shown = label, label >= 0.005
        is_mixed = bool(((label > 0.0) & (label < 1.0)).any())
    else:
        values, shown, is_mixed = label[:, 0], label[:, 1] > 0.0, True
    ids = np.flatnonzero(shown).tolist()
    lines = [f"{classes[index]}: {values[index]:.0%}" if is_mixed else classes[index] for index in ids]
    return lines or ["(none)"]


# === Monitoring ===


def _monitored(outputs: Mapping[str, np.ndarray], num_classes: int) -> MonitoredPredictions:
    """The predicted class of an image is the one that exceeds its threshold most.

    The confidence is the mean probability of the decisions about all classes.
    """
    import numpy as np

    from trainer_module.monitored import MonitoredPredictions

    probabilities, predicted = outputs["probabilities"], outputs["predicted"].astype(bool)
    margins = np.where(predicted, probabilities - outputs["thresholds"], -np.inf)
    class_ids = np.where(predicted.any(axis=1), margins.argmax(axis=1), -1)
    confidence = np.where(predicted, probabilities, 1.0 - probabilities).mean(axis=1)
    return MonitoredPredictions(probabilities, class_ids, confidence.astype(np.float32))


def _agreement(
    outputs: Mapping[str, np.ndarray], index: int, label: Any, classes: Sequence[str], ignore_id: int | None
) -> float:
    """Computes the F1 of the predicted classes of an image; 1 if there are none, as it should be."""
    names = _label_classes(label)
    predicted = {name for name, chosen in zip(classes, outputs["predicted"][index], strict=True) if chosen}
    total = len(predicted) + len(names)
    return 2.0 * len(predicted & set(names)) / total if total else 1.0


_NOT_CLASSES = "it is not a list of class names"


def _label_classes(label: Any) -> tuple[str, ...]:
    names = [label] if isinstance(label, str) else label
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        raise ValueError(_NOT_CLASSES)
    return tuple(dict.fromkeys(names))


# === Labelling ===


def _uncertainty(outputs: Mapping[str, np.ndarray]) -> np.ndarray:
    """Returns how close the probabilities are to their thresholds: the mean of all classes, float64 [N].

    Reference: Li & Guo 2013, "Active Learning with Multi-Label SVM Classification", IJCAI, section 3 (margins of the
    decisions of all classes).
    """
    import numpy as np

    return np.asarray(decision_thresholds.closeness(outputs["probabilities"], outputs["thresholds"]).mean(axis=-1))


def _proposal(outputs: Mapping[str, np.ndarray], classes: Sequence[str]) -> list[RawLabel]:
    return [
        {features.CLASS_TEXT: sorted(name for name, present in zip(classes, row, strict=True) if present)}
        for row in outputs["predicted"]
    ]


def _jaccard(label: RawLabel, other: RawLabel) -> float:
    """Returns the share of the classes of either label that both have; 1 if neither has any (Jaccard index)."""
    names, others = set(label[features.CLASS_TEXT]), set(other[features.CLASS_TEXT])
    return len(names & others) / len(names | others) if names | others else 1.0


def _from_feedback(value: Any) -> RawLabel:
    names = _label_classes(value)
    if not all(names):
        raise ValueError(_NOT_CLASSES)
    return {features.CLASS_TEXT: sorted(names)}


TASK = TaskSpec(
    name="multi_label",
    label_noun="any number of classes per image",
    options=Options,
    label_features={features.CLASS_TEXT: "string"},
    class_features=(features.CLASS_TEXT,),
    example_label=_example_label,
    transform_label=_transform_label,
    read_label=_read_label,
    unsupported_augmentation=("crop",),
    augment=_augment,
    head=_head,
    restore_outputs=same_outputs,
    loss=_loss,
    training_metrics=_training_metrics,
    objectives=(Objective("val_loss", "min"), Objective("val_macro_ap", "max")),
    loss_options=("loss", "gamma_pos", "gamma_neg", "clip", "label_smoothing", "positive_weights"),
    option_conditions={
        key: Condition('task.loss = "asymmetric"', lambda own: own.loss == "asymmetric")
        for key in ("gamma_pos", "gamma_neg", "clip")
    },
    calibrate=_calibrate,
    evaluation=label_sets.EVALUATION,
    export=Export(
        required=(
            features.SERVING_DEFAULT,
            features.EXAMPLES,
            features.CLASSIFY,
            features.EXPLAIN,
            features.EXPLAIN_LABELS,
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
        predicted_instances=_predicted_instances,
        outcomes=_outcomes,
        incorrect_caption="wrong decision: {predicted}",
    ),
    decode=_decode,
    drawing=Drawing(draw=plain_image, caption=_caption, legend=lambda classes, ignore_id, labels: []),
    monitoring=Monitoring(
        outputs=("probabilities", "thresholds", "predicted"),
        predictions=_monitored,
        ground_truth=lambda raw: [name.decode() for name in raw[features.CLASS_TEXT]],
        label_classes=_label_classes,
        quality_name="F1 of the classes",
        quality=_agreement,
    ),
    labeling=Labeling(
        outputs={features.SERVING_DEFAULT: ("probabilities", "thresholds", "predicted")},
        uncertainty=_uncertainty,
        proposal=_proposal,
        agreement=_jaccard,
        from_feedback=_from_feedback,
    ),
)
