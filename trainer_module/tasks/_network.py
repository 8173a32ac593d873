"""What every task needs: the network from pixels to logits, and how pictures reach it in the exported model."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import keras
import tensorflow as tf

from trainer_module import features, grad_cam, models, overlays, precision, preprocessing
from trainer_module.feature_maps import find_layer
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


class Agreement(NamedTuple):
    """Whether an export answers what the Keras model does.

    Attributes:
      passed: The verdict.
      detail: The figure, or what went wrong.
      difference: What was held against the tolerance; None where something else went wrong, or it is not a number.
    """

    passed: bool
    detail: str
    difference: float | None = None


def build_model(options: TrainerOptions, statistics: PixelStatistics) -> keras.Model:
    """Builds the network from pixels to logits; normalisation is part of it, augmentation is not.

    Args:
      options: The whole configuration of the run.
      statistics: The train split's; used when `transform.normalization` is "dataset".

    Returns:
      Model from uint8 or float pixels [N, image_size, image_size, channels], range [0, 255], to logits, float32
      [N, num_classes]; with segmentation [N, image_size, image_size, num_classes].

    Raises:
      ValueError: If `grad_cam.layer` is no layer of it.
    """
    size, channels = options.transform.image_size, options.transform.channels
    with precision.policy(options.training.precision):
        inputs = keras.Input([size, size, channels], dtype="float32", name="pixels")
        if options.transform.normalization == "dataset":
            # Three numbers a channel, found by Transform and baked in: the .keras file and the SavedModel agree by
            # construction. A constant channel has variance 0; Keras guards the division.
            x = keras.layers.Normalization(
                mean=statistics.mean, variance=statistics.variance, dtype="float32", name="normalize"
            )(inputs)
        elif options.transform.normalization == "backbone":
            x = inputs
        else:
            x = keras.layers.Rescaling(1 / 127.5, offset=-1.0, dtype="float32", name="normalize")(inputs)
        logits = models.get(options.model.name).build(options.model, x=x, num_classes=len(options.classes))
        model = keras.Model(inputs, logits, name=options.model.name)
    if options.grad_cam.layer:  # to be told now, and not after the training
        find_layer(model, options.grad_cam.layer)
    return model


def pixels_of(image_bytes: tf.Tensor, options: TrainerOptions) -> tf.Tensor:
    """Files of any size, string [N] → what the network takes: float32 [N, s, s, channels], range [0, 255]."""
    transform = options.transform
    pixels = preprocessing.decode_and_resize(image_bytes, transform.image_size, transform.channels)
    return tf.cast(pixels, tf.float32)


def image_bytes_of(examples: tf.Tensor) -> tf.Tensor:
    """Serialised raw examples, string [N] → their pictures' files, string [N]."""
    spec = {features.IMAGE_ENCODED: tf.io.FixedLenFeature([], tf.string)}
    return tf.io.parse_example(examples, spec)[features.IMAGE_ENCODED]


def explain_signature(model: keras.Model, options: TrainerOptions) -> Callable[[tf.Tensor], dict[str, tf.Tensor]]:
    """What `explain` answers, the same for every task: the heat map of the predicted class, and all that goes with it.

    Args:
      model: As `build_model` makes it.
      options: `transform`, `classes` and of `grad_cam` the part that is served are read.

    Returns:
      image_bytes string [N] → heatmap float32 [N, s, s], overlay_png_bytes string [N], class_id int64 [N], label string
      [N], score float32 [N].
    """
    said = options.grad_cam
    explain = grad_cam.explainer(model, said.method, said.layer)
    colors = overlays.color_table(said.colormap)
    names = tf.constant(options.classes)

    def compute(image_bytes: tf.Tensor) -> dict[str, tf.Tensor]:
        pixels = pixels_of(image_bytes, options)
        explanation = explain(pixels)
        blended = overlays.overlay(pixels, explanation.heatmap, colors, said.alpha)
        return {
            "heatmap": explanation.heatmap,
            "overlay_png_bytes": overlays.encode_png(blended, overlays.QUICK),
            "class_id": explanation.class_id,
            "label": tf.gather(names, explanation.class_id),
            "score": explanation.score,
        }

    return compute
