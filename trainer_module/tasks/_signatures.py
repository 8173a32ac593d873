"""Building blocks of the signatures that every task exports."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import tensorflow as tf

from trainer_module import features, geometry, grad_cam, overlays, preprocessing, tasks
from trainer_module.options import TrainerOptions
from trainer_module.preprocessing import Images
from trainer_module.tasks._spec import Endpoint, Subject

if TYPE_CHECKING:
    import keras

    from trainer_module.grad_cam import ExplainedBatch

Outputs = dict[str, tf.Tensor]


def read_images(image_bytes: tf.Tensor, options: TrainerOptions) -> Images:
    """Decodes image files, string [N], to the model input: float32 [N, h, w, channels], range [0, 255], and sizes."""
    transform = options.transform
    images = preprocessing.decode_images(image_bytes, transform.geometry, transform.num_channels, options.window)
    return images._replace(pixels=tf.cast(images.pixels, tf.float32))


def _image_bytes() -> list[tf.TensorSpec]:
    return [tf.TensorSpec([None], tf.string, name="image_bytes")]


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
    image_bytes = _image_bytes()
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
        heatmaps, boxes = _restored(explained, images.sizes, 1, options)
        return {
            "heatmap": heatmaps[:, 0],
            "overlay_png_bytes": _overlay_files(image_bytes, heatmaps, boxes, options)[:, 0],
            "class_id": explained.subject.class_ids,
            "label": tf.gather(names, explained.subject.class_ids),
            "score": explained.score,
        }

    return compute


def explain_each(
    model: keras.Model,
    options: TrainerOptions,
    choose: Callable[[tf.Tensor, tf.Tensor, TrainerOptions], tuple[Subject, tf.Tensor]],
) -> Endpoint:
    """Explains several predictions of every image: the network runs once to predict, and once for each of them.

    Args:
      model: From `network.build`.
      options: The whole configuration of the run.
      choose: (outputs, image sizes int [N, 2], options) → what is explained, as tensors [N, M], and which of it exists,
        bool [N, M].

    Returns:
      image_bytes string [N] → heatmaps float32 [N, M, h, w], overlay_png_bytes string [N, M], class_ids int64 [N, M],
      labels string [N, M], scores float32 [N, M], and boxes float32 [N, M, 4] in the upright image if predictions have
      them; padded with zeros, "" and -1.
    """
    served = options.grad_cam
    explain = grad_cam.explainer(model, tasks.get(options.task.name).explanation, served.method, served.layer)
    names = tf.constant(options.classes)

    def compute(image_bytes: tf.Tensor) -> Outputs:
        pixels, sizes = read_images(image_bytes, options)
        subject, exists = choose(grad_cam.as_float32(model(pixels, training=False)), sizes, options)
        most = exists.shape[1]
        explained = explain(
            tf.repeat(pixels, most, axis=0),
            Subject(*(None if values is None else tf.reshape(values, [-1]) for values in subject)),
        )
        heatmaps, boxes = _restored(explained, sizes, most, options)
        outputs = {
            "heatmaps": tf.where(exists[..., tf.newaxis, tf.newaxis], heatmaps, 0.0),
            "overlay_png_bytes": tf.where(exists, _overlay_files(image_bytes, heatmaps, boxes, options), ""),
            "class_ids": tf.where(exists, subject.class_ids, -1),
            "labels": tf.where(exists, tf.gather(names, subject.class_ids), ""),
            "scores": tf.where(exists, tf.reshape(explained.score, [-1, most]), 0.0),
        }
        return outputs if boxes is None else outputs | {"boxes": tf.where(exists[..., tf.newaxis], boxes, 0.0)}

    return Endpoint(compute, _image_bytes())


def _restored(
    explained: ExplainedBatch, image_sizes: tf.Tensor, number: int, options: TrainerOptions
) -> tuple[tf.Tensor, tf.Tensor | None]:
    """Moves heat maps and boxes from model inputs to the whole upright images.

    Args:
      explained: M = `number` explanations of each of N images.
      image_sizes: int [N, 2], (height, width), pixels.
      number: M.
      options: `transform` is read.

    Returns:
      float32 [N, M, h, w], and boxes float32 [N, M, 4], range [0, 1]; None if predictions have none.
    """
    own, sizes = options.transform.geometry, tf.repeat(image_sizes, number, axis=0)
    heatmaps = tf.reshape(
        geometry.restore_heatmaps(explained.heatmap, sizes, own), [-1, number, *options.transform.image_size]
    )
    if explained.boxes is None:
        return heatmaps, None
    boxes = geometry.boxes_in_image(tf.reshape(explained.boxes, [-1, number, 4]), image_sizes, own)
    return heatmaps, tf.clip_by_value(boxes, 0.0, 1.0)


def _overlay_files(
    image_bytes: tf.Tensor, heatmaps: tf.Tensor, boxes: tf.Tensor | None, options: TrainerOptions
) -> tf.Tensor:
    """Blends heat maps over their images, at the size of the upright images.

    Args:
      image_bytes: string [N], image files.
      heatmaps: float32 [N, M, h, w] over the whole images, range [0, 1].
      boxes: float32 [N, M, 4], range [0, 1], outlined; None to outline nothing.
      options: `grad_cam`, `transform.channels` and `window` are read.

    Returns:
      string [N, M], PNG files.
    """
    served = options.grad_cam
    colors = overlays.color_table(served.colormap)

    def overlay(one: tuple[tf.Tensor, ...]) -> tf.Tensor:
        encoded, *explanations = one
        image = preprocessing.decode(encoded, options.transform.num_channels, options.window)

        def encode(explanation: tuple[tf.Tensor, ...]) -> tf.Tensor:
            heatmap, *box = explanation
            blended = overlays.blend(image, heatmap, colors, served.alpha)
            if box:
                blended = overlays.outline(blended, box[0])
            return tf.io.encode_png(blended, compression=overlays.FAST_COMPRESSION)

        spec = tf.TensorSpec([], tf.string)
        return tf.map_fn(encode, tuple(explanations), fn_output_signature=spec, parallel_iterations=1)

    spec = tf.TensorSpec([heatmaps.shape[1]], tf.string)
    # Decoded a second time: images of different sizes do not fit into one tensor.
    inputs = (image_bytes, heatmaps) if boxes is None else (image_bytes, heatmaps, boxes)
    return tf.map_fn(overlay, inputs, fn_output_signature=spec, parallel_iterations=1)
