"""What TFX Transform calls."""

from collections.abc import Callable
from typing import Any

import tensorflow as tf
import tensorflow_transform as tft

from trainer_module import features, preprocessing, tasks
from trainer_module.options import TransformOptions


# TFX Transform calls this function.
def preprocessing_fn(inputs: dict[str, tf.Tensor], custom_config: dict[str, Any]) -> dict[str, tf.Tensor]:
    """Raw features → model-sized pixels, label and the train split's pixel statistics.

    The statistics are a full pass over the train split, but not over its pixels: ImageExampleGen, which decodes every
    picture anyway, has written the moments of each. Every picture has the same weight, whatever its size.

    Args:
      inputs: Raw features, each [N, 1] or [N]: the encoded picture, its class or mask and the moments of its channels.
      custom_config: `classes`: class names in the order of their ids; `transform`: TransformOptions as JSON; `task`:
        a name of `trainer_module.tasks`.

    Returns:
      image_pixels string [N], label [N] (int64 for classification, string for segmentation), pixel_mean and
      pixel_variance float32 [N, channels].
    """
    options = TransformOptions.model_validate_json(custom_config["transform"])
    channels = (features.LUMA,) if options.channels == 1 else features.COLORS
    pixels = preprocessing.decode_and_resize(
        tf.reshape(inputs[features.IMAGE_ENCODED], [-1]), options.image_size, options.channels
    )
    batch_size = tf.shape(pixels)[0]

    def of_every_picture(key: Callable[[str], str]) -> tf.Tensor:
        return tf.stack([tf.reshape(inputs[key(channel)], [-1]) for channel in channels], axis=-1)

    def in_every_example(statistic: tf.Tensor) -> tf.Tensor:
        return tf.tile(tf.reshape(statistic, [1, len(channels)]), [batch_size, 1])

    means, deviations = of_every_picture(features.mean_key), of_every_picture(features.deviation_key)
    mean = tft.mean(means, reduce_instance_dims=False)
    # Law of total variance: the mean of the variances within, and the variance of the means between the pictures.
    variance = tft.mean(deviations**2, reduce_instance_dims=False) + tft.var(means, reduce_instance_dims=False)

    return {
        features.IMAGE_PIXELS: preprocessing.pack(pixels),
        features.LABEL: tasks.get(custom_config["task"]).transform_label(inputs, custom_config["classes"], options),
        features.PIXEL_MEAN: in_every_example(mean),
        features.PIXEL_VARIANCE: in_every_example(variance),
    }
