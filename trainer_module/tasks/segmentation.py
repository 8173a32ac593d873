"""Semantic segmentation, a class for every pixel: label, loss and metrics, and what the SavedModel answers."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import keras
import numpy as np
import tensorflow as tf

from trainer_module import augmentation, features, overlays, pixel_losses, preprocessing
from trainer_module.options import TrainerOptions, TransformOptions
from trainer_module.pixel_metrics import PixelMetrics, count_pixels
from trainer_module.tasks import _network
from trainer_module.tasks._network import Agreement, Endpoint, image_bytes_of, pixels_of

REQUIRED_SIGNATURES = (features.SERVING_DEFAULT, features.EXAMPLES, features.EXPLAIN, features.EMBED)

# Pixels, normalisation, network: the network alone says what logits are of.
build_model = _network.build_model


def transform_label(inputs: Mapping[str, tf.Tensor], classes: Sequence[str], options: TransformOptions) -> tf.Tensor:
    """A raw example's mask → uint8 ids [image_size, image_size] in one string, string [N]."""
    encoded = tf.reshape(inputs[features.MASK_ENCODED], [-1])
    return preprocessing.pack(preprocessing.decode_and_resize_masks(encoded, options.image_size))


def read_label(transformed: dict[str, tf.Tensor], options: TransformOptions) -> tf.Tensor:
    """The masks of a batch, uint8 [n, image_size, image_size]."""
    return preprocessing.unpack(transformed[features.LABEL], options.image_size, channels=1)[..., 0]


def weighted(train_data: tf.data.Dataset, options: TrainerOptions) -> tf.data.Dataset:
    """The data themselves: pixels have weights, in the loss, and pictures have none."""
    return train_data


def augmented(
    model: keras.Model, train_data: tf.data.Dataset, options: TrainerOptions
) -> tuple[keras.Model, tf.data.Dataset]:
    """The data with random changes: a mask moves with its picture, and so they cannot be the model's."""
    seed = options.training.seed
    return model, augmentation.in_dataset(train_data, changes(options), options.augmentation, seed)


def changes(options: TrainerOptions) -> Callable[..., tuple[tf.Tensor, ...]]:
    """What happens to a batch in training: (seed int [2], images, masks) → the same, changed."""
    return lambda seed, images, masks: augmentation.change_pictures_and_masks(images, masks, options.augmentation, seed)


def loss(options: TrainerOptions, train_data: tf.data.Dataset | None = None) -> keras.losses.Loss:
    """The configured loss.

    Args:
      options: `segmentation`, `classes` and `ignore_id` are read.
      train_data: (images, uint8 [n, h, w]) batches, from which class weights are found.
    """
    chosen = options.segmentation
    weights = pixel_losses.class_weights(chosen.class_weights, train_data, len(options.classes), options.ignore_id)
    return pixel_losses.PixelLoss(
        chosen.loss, weights.tolist(), ignore_id=options.ignore_id, focal_gamma=chosen.focal_gamma
    )


def metrics(options: TrainerOptions) -> list[keras.metrics.Metric]:
    """What is shown while training."""
    return [PixelMetrics(options.classes, options.ignore_id)]


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
      By name, with N the batch size, C the number of classes, s the image size and D the bottleneck's channels:
        serving_default: image_bytes string [N] → mask_png_bytes string [N] (PNG of class ids, uint8 [s, s]),
          class_pixels int64 [N, C].
        examples: examples string [N] (serialised raw examples) → the same. TFMA takes an output by its name only
          where there are two or more.
        transform_features: examples string [N] → the transformed features but the pixels; the label as a PNG of ids
          and `ignore_id`, uint8 [s, s], as TFMA reads it.
        explain: image_bytes string [N] → heatmap float32 [N, s, s], overlay_png_bytes string [N], class_id int64 [N],
          label string [N], score float32 [N]; of the class, the first excepted, that takes up most of the mask.
        embed: image_bytes string [N] → embedding float32 [N, D], the bottleneck's mean, unit length.
    """
    bottleneck = keras.Model(model.inputs, model.get_layer(features.BOTTLENECK_LAYER).output, name="embed")

    def predict(image_bytes: tf.Tensor) -> dict[str, tf.Tensor]:
        masks = masks_of(model(pixels_of(image_bytes, options), training=False))
        return {"mask_png_bytes": _encode(masks), "class_pixels": count_pixels(masks, len(options.classes))}

    def predict_examples(examples: tf.Tensor) -> dict[str, tf.Tensor]:
        return predict(image_bytes_of(examples))

    def transform_features(examples: tf.Tensor) -> dict[str, tf.Tensor]:
        transformed = dict(tft_layer(tf.io.parse_example(examples, raw_feature_spec)))
        transformed.pop(features.IMAGE_PIXELS, None)
        return transformed | {features.LABEL: _encode(read_label(transformed, options.transform))}

    def embed(image_bytes: tf.Tensor) -> dict[str, tf.Tensor]:
        maps = tf.cast(bottleneck(pixels_of(image_bytes, options), training=False), tf.float32)
        return {"embedding": tf.math.l2_normalize(tf.reduce_mean(maps, axis=[1, 2]), axis=-1)}

    image_bytes = [tf.TensorSpec([None], tf.string, name="image_bytes")]
    examples = [tf.TensorSpec([None], tf.string, name="examples")]
    return {
        features.SERVING_DEFAULT: Endpoint(predict, image_bytes),
        features.EXAMPLES: Endpoint(predict_examples, examples),
        features.TRANSFORM_FEATURES: Endpoint(transform_features, examples),
        features.EXPLAIN: Endpoint(_network.explain_signature(model, options), image_bytes),
        features.EMBED: Endpoint(embed, image_bytes),
    }


def masks_of(logits: tf.Tensor) -> tf.Tensor:
    """The most probable class of every pixel: float32 [N, h, w, C] → uint8 [N, h, w]."""
    return tf.cast(tf.argmax(logits, axis=-1), tf.uint8)


def expected(model: keras.Model, options: TrainerOptions, image_bytes: Sequence[bytes]) -> np.ndarray:
    """The Keras model's own answer, masks uint8 [N, s, s]: the reference that an export is compared with."""
    pixels = pixels_of(tf.constant(list(image_bytes)), options)
    masks: np.ndarray = masks_of(model(pixels, training=False)).numpy()
    return masks


def compare(
    answer: Mapping[str, np.ndarray], expected: np.ndarray, options: TrainerOptions, tolerance: float
) -> Agreement:
    """Whether an export answers what the Keras model does.

    Args:
      answer: Outputs of `serving_default` or `examples`.
      expected: From `expected`.
      options: The configuration of the run.
      tolerance: Largest share of differing pixels that counts as equal: where two classes are equally probable, the
        last digit decides.
    """
    masks = np.stack([tf.io.decode_png(encoded).numpy()[..., 0] for encoded in answer["mask_png_bytes"]])
    if masks.shape != expected.shape:
        return Agreement(False, f"masks of shape {masks.shape}, expected {expected.shape}")
    differing = float(np.mean(masks != expected))
    if differing > tolerance:
        return Agreement(False, f"{differing:.2g} of the pixels differ, allowed {tolerance:g}", differing)
    if not np.array_equal(answer["class_pixels"], count_pixels(tf.constant(masks), len(options.classes))):
        return Agreement(False, "class_pixels are not those of the masks")
    return Agreement(True, f"{differing:.2g} of the pixels differ", differing)


def _encode(masks: tf.Tensor) -> tf.Tensor:
    """uint8 [N, h, w] → PNG files, string [N]."""
    return overlays.encode_png(masks[..., tf.newaxis])
