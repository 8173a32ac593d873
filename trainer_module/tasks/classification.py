"""Single-label classification: the whole network, its loss and metrics, and what its SavedModel answers."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence

import keras
import numpy as np
import tensorflow as tf

from trainer_module import augmentation, features, input_pipeline, label_losses
from trainer_module.options import TrainerOptions, TransformOptions
from trainer_module.tasks import _network
from trainer_module.tasks._network import Agreement, Endpoint, image_bytes_of, pixels_of

REQUIRED_SIGNATURES = (
    features.SERVING_DEFAULT,
    features.EXAMPLES,
    features.CLASSIFY,
    features.EXPLAIN,
    features.EMBED,
)

build_model = _network.build_model
read_label = input_pipeline.read_class_id


def transform_label(inputs: Mapping[str, tf.Tensor], classes: Sequence[str], options: TransformOptions) -> tf.Tensor:
    """A raw example's class name → its id, int64 [N]; -1 for an unknown name.

    The vocabulary is the configuration's, in alphabetical order: ids do not depend on how often a class occurs, and a
    class that appears later is an anomaly, not a silent change of every id.
    """
    ids = tf.lookup.StaticHashTable(
        tf.lookup.KeyValueTensorInitializer(tf.constant(classes), tf.range(len(classes), dtype=tf.int64)),
        default_value=-1,
    )
    return ids.lookup(tf.reshape(inputs[features.CLASS_TEXT], [-1]))


def weighted(train_data: tf.data.Dataset, options: TrainerOptions) -> tf.data.Dataset:
    """The data with a weight for every picture, as Keras reads it; validation goes without, as with Keras's own.

    Args:
      train_data: (images, int64 [n]) batches.
      options: `training.class_weights` is read.

    Returns:
      (images, int64 [n], float32 [n]) batches; the data themselves where no weights are asked for.
    """
    kind = options.training.class_weights
    if kind == "none":
        return train_data
    weights = tf.constant(label_losses.class_weights(kind, train_data, len(options.classes)))
    return train_data.map(lambda images, labels: (images, labels, tf.gather(weights, labels)))


def augmented(
    model: keras.Model, train_data: tf.data.Dataset, options: TrainerOptions
) -> tuple[keras.Model, tf.data.Dataset]:
    """The model, or the data, with random changes; labels become float32 [n, C] where pictures are mixed.

    Args:
      model: From pixels to logits.
      train_data: (images, int64 [n]) batches, with weights float32 [n] if there are any.
      options: `augmentation`, `training.seed` and `classes` are read.
    """
    chosen, seed = options.augmentation, options.training.seed
    if chosen.placement == "in_dataset" or chosen.mixes():
        return model, augmentation.in_dataset(train_data, changes(options), chosen, seed)
    return augmentation.in_model(model, chosen, seed), train_data


def changes(options: TrainerOptions) -> Callable[..., tuple[tf.Tensor, ...]]:
    """What happens to a batch in training: (seed int [2], images, labels, *weights) → the same, changed."""
    chosen = options.augmentation

    def change(seed: tf.Tensor, images: tf.Tensor, *targets: tf.Tensor) -> tuple[tf.Tensor, ...]:
        images = augmentation.change_pictures(images, chosen, seed)
        if chosen.mixes():
            labels, *weights = targets
            targets = (tf.one_hot(labels, len(options.classes)), *weights)
            images, targets = augmentation.mix(images, targets, chosen, seed)
        return images, *targets

    return change


def loss(options: TrainerOptions, train_data: tf.data.Dataset | None = None) -> keras.losses.Loss:
    """Cross-entropy of logits and labels, integer or soft; weights of classes come with the data (`weighted`)."""
    return label_losses.LabelLoss(options.training.label_smoothing)


def metrics(options: TrainerOptions) -> list[keras.metrics.Metric]:
    """What is shown while training."""
    return [keras.metrics.MeanMetricWrapper(label_losses.is_hit, name="accuracy")]


def endpoints(
    model: keras.Model, options: TrainerOptions, tft_layer: tf.keras.layers.Layer, raw_feature_spec: dict[str, object]
) -> dict[str, Endpoint]:
    """The signatures of the exported SavedModel.

    Args:
      model: As `build_model` makes it.
      options: The whole configuration of the run.
      tft_layer: The transform graph: raw features → transformed features.
      raw_feature_spec: How to parse a raw example.

    Returns:
      By name, with N the batch size, C the number of classes, s the image size and D the embedding's size:
        serving_default: image_bytes string [N] → probabilities float32 [N, C], class_id int64 [N],
          label string [N], score float32 [N].
        examples: examples string [N] (serialised raw examples) → the same.
        classify: inputs string [N] (serialised raw examples) → classes string [N, C], scores float32 [N, C].
        transform_features: examples string [N] → the transformed features but the pixels, the label
          among them.
        explain: image_bytes string [N] → heatmap float32 [N, s, s], overlay_png_bytes string [N], class_id int64
          [N], label string [N], score float32 [N]; of the predicted class.
        embed: image_bytes string [N] → embedding float32 [N, D], unit length.
    """
    names = tf.constant(options.classes)
    embedding_model = keras.Model(model.inputs, model.get_layer(features.EMBEDDING_LAYER).output, name="embed")

    def predict(image_bytes: tf.Tensor) -> dict[str, tf.Tensor]:
        logits = model(pixels_of(image_bytes, options), training=False)
        probabilities = tf.nn.softmax(logits)
        class_id = tf.argmax(probabilities, axis=-1)
        return {
            "probabilities": probabilities,
            "class_id": class_id,
            "label": tf.gather(names, class_id),
            "score": tf.reduce_max(probabilities, axis=-1),
        }

    def predict_examples(examples: tf.Tensor) -> dict[str, tf.Tensor]:
        return predict(image_bytes_of(examples))

    def classify(inputs: tf.Tensor) -> dict[str, tf.Tensor]:
        scores = predict_examples(inputs)["probabilities"]
        return {"classes": tf.tile(names[tf.newaxis, :], [tf.shape(scores)[0], 1]), "scores": scores}

    def transform_features(examples: tf.Tensor) -> dict[str, tf.Tensor]:
        transformed = dict(tft_layer(tf.io.parse_example(examples, raw_feature_spec)))
        # The pixels are left out: who wants a prediction asks `examples`, and should not decode every picture twice.
        transformed.pop(features.IMAGE_PIXELS, None)
        return transformed

    def embed(image_bytes: tf.Tensor) -> dict[str, tf.Tensor]:
        vectors = embedding_model(pixels_of(image_bytes, options), training=False)
        return {"embedding": tf.math.l2_normalize(vectors, axis=-1)}

    image_bytes = [tf.TensorSpec([None], tf.string, name="image_bytes")]
    examples = [tf.TensorSpec([None], tf.string, name="examples")]
    return {
        features.SERVING_DEFAULT: Endpoint(predict, image_bytes),
        features.EXAMPLES: Endpoint(predict_examples, examples),
        features.CLASSIFY: Endpoint(classify, [tf.TensorSpec([None], tf.string, name="inputs")]),
        features.TRANSFORM_FEATURES: Endpoint(transform_features, examples),
        features.EXPLAIN: Endpoint(_network.explain_signature(model, options), image_bytes),
        features.EMBED: Endpoint(embed, image_bytes),
    }


def expected(model: keras.Model, options: TrainerOptions, image_bytes: Sequence[bytes]) -> np.ndarray:
    """The Keras model's own answer, probabilities float32 [N, C]: the reference that an export is compared with."""
    pixels = pixels_of(tf.constant(list(image_bytes)), options)
    probabilities: np.ndarray = tf.nn.softmax(model(pixels, training=False)).numpy()
    return probabilities


def compare(
    answer: Mapping[str, np.ndarray], expected: np.ndarray, options: TrainerOptions, tolerance: float
) -> Agreement:
    """Whether an export answers what the Keras model does.

    Args:
      answer: Outputs of `serving_default` or `examples`.
      expected: From `expected`.
      options: The configuration of the run.
      tolerance: Largest difference of a probability that counts as equal.
    """
    difference = float(np.max(np.abs(answer["probabilities"] - expected)))
    if not difference <= tolerance:  # NaN is a failure too
        detail = f"largest difference of a probability {difference:.2g}, allowed {tolerance:g}"
        return Agreement(False, detail, difference if math.isfinite(difference) else None)
    labels = [label.decode() for label in answer["label"]]
    if labels != [options.classes[index] for index in answer["probabilities"].argmax(axis=-1)]:
        return Agreement(False, "the labels are not those of the most probable classes")
    return Agreement(True, f"largest difference of a probability {difference:.2g}", difference)
