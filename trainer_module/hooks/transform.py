"""The hook of TFX Transform."""

from collections.abc import Callable
from typing import Any

import tensorflow as tf
import tensorflow_transform as tft

from trainer_module import features, preprocessing, tasks
from trainer_module.options import TransformOptions


# TFX Transform calls this function.
@tf.autograph.experimental.do_not_convert
def preprocessing_fn(inputs: dict[str, tf.Tensor], custom_config: dict[str, Any]) -> dict[str, tf.Tensor]:
    """Maps raw features to model-sized pixels, the label and the pixel statistics of the train split.

    The statistics are a full pass over the train split, but not over its pixels: ImageExampleGen, which decodes every
    image anyway, has stored the moments of each. Every image has the same weight, whatever its size.

    Args:
      inputs: Raw features, each [N, 1] or [N]: the encoded image, its label and the moments of its channels.
      custom_config: `classes`: class names in the order of their ids; `transform`: TransformOptions as JSON; `task`:
        name of a task in `trainer_module.tasks`.

    Returns:
      image_pixels string [N], label [N] (see the task's `transform_label`), height and width of the original image
      int64 [N], pixel_mean and pixel_variance float32 [N, channels].
    """
    options = TransformOptions.model_validate_json(custom_config["transform"])
    channels = (features.LUMA,) if options.num_channels == 1 else features.COLORS
    pixels = preprocessing.decode_and_resize(
        tf.reshape(inputs[features.IMAGE_ENCODED], [-1]), options.geometry, options.num_channels
    )
    batch_size = tf.shape(pixels)[0]

    def stack_channels(key: Callable[[str], str]) -> tf.Tensor:
        return tf.stack([tf.reshape(inputs[key(channel)], [-1]) for channel in channels], axis=-1)

    def repeat_per_example(statistic: tf.Tensor) -> tf.Tensor:
        return tf.tile(tf.reshape(statistic, [1, len(channels)]), [batch_size, 1])

    means, deviations = stack_channels(features.mean_key), stack_channels(features.deviation_key)
    mean = tft.mean(means, reduce_instance_dims=False)
    # Law of total variance: the mean of the variances within images, plus the variance of the means between them.
    variance = tft.mean(deviations**2, reduce_instance_dims=False) + tft.var(means, reduce_instance_dims=False)

    return {
        features.IMAGE_PIXELS: preprocessing.pack(pixels),
        features.LABEL: tasks.get(custom_config["task"]).transform_label(inputs, custom_config["classes"], options),
        features.IMAGE_HEIGHT: tf.reshape(inputs[features.IMAGE_HEIGHT], [-1]),
        features.IMAGE_WIDTH: tf.reshape(inputs[features.IMAGE_WIDTH], [-1]),
        features.PIXEL_MEAN: repeat_per_example(mean),
        features.PIXEL_VARIANCE: repeat_per_example(variance),
    }
