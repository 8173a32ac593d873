"""Building blocks of the signatures that every task exports."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import tensorflow as tf

from trainer_module import features, geometry, grad_cam, overlays, preprocessing, tasks
from trainer_module.options import TrainerOptions
from trainer_module.preprocessing import Images
from trainer_module.tasks._spec import Endpoint

if TYPE_CHECKING:
    import keras

Outputs = dict[str, tf.Tensor]


def read_images(image_bytes: tf.Tensor, options: TrainerOptions) -> Images:
    """Decodes image files, string [N], to the model input: float32 [N, h, w, channels], range [0, 255], and sizes."""
    transform = options.transform
    images = preprocessing.decode_images(image_bytes, transform.geometry, transform.num_channels, options.window)
    return images._replace(pixels=tf.cast(images.pixels, tf.float32))


def read_image_bytes(examples: tf.Tensor) -> tf.Tensor:
    """Reads the image files of serialized raw examples: string [N] → string [N]."""
    spec = {features.IMAGE_ENCODED: tf.io.FixedLenFeature([], tf.string)}
    return tf.io.parse_example(examples, spec)[features.IMAGE_ENCODED]


def classify_endpoint(serving_default: Endpoint, classes: Sequence[str]) -> Endpoint:
    """Builds the signature of TensorFlow Serving's Classify call from the output `probabilities`, float32 [N, C].

    Args:
      serving_default: The endpoint with this output.
      classes: Class names; the index is the id.

    Returns:
      inputs string [N] (serialized raw examples) → classes string [N, C], scores float32 [N, C].
    """
    names = tf.constant(classes)

    def classify(inputs: tf.Tensor) -> Outputs:
        scores = serving_default.compute(read_image_bytes(inputs))["probabilities"]
        return {"classes": tf.tile(names[tf.newaxis, :], [tf.shape(scores)[0], 1]), "scores": scores}

    return Endpoint(classify, [tf.TensorSpec([None], tf.string, name="inputs")])


def common_endpoints(
    model: keras.Model,
    options: TrainerOptions,
    tft_layer: Any,
    raw_feature_spec: dict[str, Any],
    *,
    predict: Callable[[tf.Tensor], Outputs],
    embedding: keras.Model,
    label: Callable[[Outputs, Outputs], tf.Tensor] = lambda raw, transformed: transformed[features.LABEL],
) -> dict[str, Endpoint]:
    """Builds the signatures that do not depend on the task's output.

    Args:
      model: From `network.build`.
      options: The whole configuration of the run.
      tft_layer: The transform graph: raw features → transformed features.
      raw_feature_spec: How to parse a raw example.
      predict: image_bytes string [N] → the outputs of `serving_default`.
      embedding: Model from pixels to vectors [N, D] or maps [N, h, w, D], whose mean over positions is taken.
      label: Raw and transformed features of a batch → the label, in coordinates of the original image, as the Evaluator
        reads it.

    Returns:
      By name, with N the batch size, (h, w) the size of the model input and D the embedding's size:
        serving_default: image_bytes string [N] → the outputs of `predict`.
        examples: examples string [N] (serialized raw examples) → the same.
        transform_features: examples string [N] → the transformed features without pixels, the label among them; and
          the height and the width of the original image.
        explain: image_bytes string [N] → heatmap float32 [N, h, w] over the whole original image, overlay_png_bytes
          string [N] (of the size of the upright image), class_id int64 [N], label string [N], score float32 [N]; for
          the predicted class.
        embed: image_bytes string [N] → embedding float32 [N, D], unit length.
    """
    image_bytes = [tf.TensorSpec([None], tf.string, name="image_bytes")]
    examples = [tf.TensorSpec([None], tf.string, name="examples")]
    serving_default = Endpoint(predict, image_bytes).traced()  # other endpoints call it: one graph of the network

    def predict_examples(examples: tf.Tensor) -> Outputs:
        return serving_default.compute(read_image_bytes(examples))

    def transform_features(examples: tf.Tensor) -> Outputs:
        raw = tf.io.parse_example(examples, raw_feature_spec)
        transformed = dict(tft_layer(raw))
        # `examples` decodes the image for the prediction; this signature should not decode it a second time.
        transformed.pop(features.IMAGE_PIXELS, None)
        return transformed | {features.LABEL: label(raw, transformed)}

    def embed(image_bytes: tf.Tensor) -> Outputs:
        vectors = embedding(read_images(image_bytes, options).pixels, training=False)
        if len(vectors.shape) == 4:
            vectors = tf.reduce_mean(tf.cast(vectors, tf.float32), axis=[1, 2])
        return {"embedding": tf.math.l2_normalize(vectors, axis=-1)}

    return {
        features.SERVING_DEFAULT: serving_default,
        features.EXAMPLES: Endpoint(predict_examples, examples),
        features.TRANSFORM_FEATURES: Endpoint(transform_features, examples),
        features.EXPLAIN: Endpoint(_explain(model, options), image_bytes),
        features.EMBED: Endpoint(embed, image_bytes),
    }


def _explain(model: keras.Model, options: TrainerOptions) -> Callable[[tf.Tensor], Outputs]:
    served = options.grad_cam
    explain = grad_cam.explainer(model, tasks.get(options.task.name).explanation, served.method, served.layer)
    names = tf.constant(options.classes)

    def compute(image_bytes: tf.Tensor) -> Outputs:
        images = read_images(image_bytes, options)
        explained = explain(images.pixels)
        heatmaps = geometry.restore_heatmaps(explained.heatmap, images.sizes, options.transform.geometry)
        return {
            "heatmap": heatmaps,
            "overlay_png_bytes": overlay_files(image_bytes, heatmaps[:, tf.newaxis], options)[:, 0],
            "class_id": explained.class_id,
            "label": tf.gather(names, explained.class_id),
            "score": explained.score,
        }

    return compute


def overlay_files(image_bytes: tf.Tensor, heatmaps: tf.Tensor, options: TrainerOptions) -> tf.Tensor:
    """Blends heat maps over their images, at the size of the upright images.

    Args:
      image_bytes: string [N], image files.
      heatmaps: float32 [N, M, h, w] over the whole images, range [0, 1].
      options: `grad_cam`, `transform.channels` and `window` are read.

    Returns:
      string [N, M], PNG files.
    """
    served = options.grad_cam
    colors = overlays.color_table(served.colormap)

    def overlay(one: tuple[tf.Tensor, tf.Tensor]) -> tf.Tensor:
        encoded, maps = one
        image = preprocessing.decode(encoded, options.transform.num_channels, options.window)

        def encode(heatmap: tf.Tensor) -> tf.Tensor:
            blended = overlays.blend(image, heatmap, colors, served.alpha)
            return tf.io.encode_png(blended, compression=overlays.FAST_COMPRESSION)

        return tf.map_fn(encode, maps, fn_output_signature=tf.TensorSpec([], tf.string), parallel_iterations=1)

    spec = tf.TensorSpec([heatmaps.shape[1]], tf.string)
    # Decoded a second time: images of different sizes do not fit into one tensor.
    return tf.map_fn(overlay, (image_bytes, heatmaps), fn_output_signature=spec, parallel_iterations=1)
