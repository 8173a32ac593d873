"""Single-label classification: the whole network, its loss and metrics, and what its SavedModel answers."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import keras
import tensorflow as tf

from trainer_module import features, grad_cam, models, preprocessing
from trainer_module.input_pipeline import PixelStatistics
from trainer_module.options import TrainerOptions


class Endpoint(NamedTuple):
    """One signature: what it computes and what it takes.

    Attributes:
      compute: Maps tensors to a dict of named tensors, all with a batch dimension.
      inputs: The specification of each argument, named.
    """

    compute: Callable[..., dict[str, tf.Tensor]]
    inputs: list[tf.TensorSpec]


def build_model(options: TrainerOptions, statistics: PixelStatistics) -> keras.Model:
    """Builds the network from pixels to logits; normalisation is part of it, augmentation is not.

    Args:
      options: The whole configuration of the run.
      statistics: The train split's; used when `transform.normalization` is "dataset".

    Returns:
      Model from uint8 or float pixels [N, image_size, image_size, channels], range [0, 255], to logits, float32
      [N, num_classes].
    """
    size, channels = options.transform.image_size, options.transform.channels
    inputs = keras.Input([size, size, channels], dtype="float32", name="pixels")
    if options.transform.normalization == "dataset":
        # Three numbers a channel, found by Transform and baked in: the .keras file and the SavedModel agree by
        # construction. A constant channel has variance 0; Keras guards the division.
        x = keras.layers.Normalization(mean=statistics.mean, variance=statistics.variance, name="normalize")(inputs)
    elif options.transform.normalization == "backbone":
        x = inputs
    else:
        x = keras.layers.Rescaling(1 / 127.5, offset=-1.0, name="normalize")(inputs)
    logits = models.get(options.model.name).build(options.model, x=x, num_classes=len(options.classes))
    return keras.Model(inputs, logits, name=options.model.name)


def loss() -> keras.losses.Loss:
    """Cross-entropy of integer labels and logits."""
    return keras.losses.SparseCategoricalCrossentropy(from_logits=True)


def metrics() -> list[keras.metrics.Metric]:
    """What is shown while training."""
    return [keras.metrics.SparseCategoricalAccuracy(name="accuracy")]


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
          [N], score float32 [N].
        embed: image_bytes string [N] → embedding float32 [N, D], unit length.
    """
    size, channels = options.transform.image_size, options.transform.channels
    names = tf.constant(options.classes)
    colors = grad_cam.color_table(options.grad_cam.colormap)
    explain = grad_cam.explainer(model)
    embedding_model = keras.Model(model.inputs, model.get_layer(features.EMBEDDING_LAYER).output, name="embed")

    def pixels_of(image_bytes: tf.Tensor) -> tf.Tensor:
        return preprocessing.decode_and_resize(image_bytes, size, channels)

    def image_bytes_of(examples: tf.Tensor) -> tf.Tensor:
        spec = {features.IMAGE_ENCODED: tf.io.FixedLenFeature([], tf.string)}
        return tf.io.parse_example(examples, spec)[features.IMAGE_ENCODED]

    def predict(image_bytes: tf.Tensor) -> dict[str, tf.Tensor]:
        logits = model(tf.cast(pixels_of(image_bytes), tf.float32), training=False)
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

    def explain_pictures(image_bytes: tf.Tensor) -> dict[str, tf.Tensor]:
        pixels = pixels_of(image_bytes)
        explanation = explain(pixels)
        blended = grad_cam.overlay(pixels, explanation.heatmap, colors, options.grad_cam.alpha)
        return {
            "heatmap": explanation.heatmap,
            "overlay_png_bytes": grad_cam.encode_png(blended),
            "class_id": explanation.class_id,
            "score": explanation.score,
        }

    def embed(image_bytes: tf.Tensor) -> dict[str, tf.Tensor]:
        vectors = embedding_model(tf.cast(pixels_of(image_bytes), tf.float32), training=False)
        return {"embedding": tf.math.l2_normalize(vectors, axis=-1)}

    image_bytes = [tf.TensorSpec([None], tf.string, name="image_bytes")]
    examples = [tf.TensorSpec([None], tf.string, name="examples")]
    return {
        features.SERVING_DEFAULT: Endpoint(predict, image_bytes),
        features.EXAMPLES: Endpoint(predict_examples, examples),
        features.CLASSIFY: Endpoint(classify, [tf.TensorSpec([None], tf.string, name="inputs")]),
        features.TRANSFORM_FEATURES: Endpoint(transform_features, examples),
        features.EXPLAIN: Endpoint(explain_pictures, image_bytes),
        features.EMBED: Endpoint(embed, image_bytes),
    }
