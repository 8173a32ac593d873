"""What TFX Transform calls."""

from typing import Any

import tensorflow as tf
import tensorflow_transform as tft

from trainer_module import features, preprocessing
from trainer_module.options import TransformOptions


# TFX Transform calls this function.
def preprocessing_fn(inputs: dict[str, tf.Tensor], custom_config: dict[str, Any]) -> dict[str, tf.Tensor]:
    """Raw features → model-sized pixels, label id and the train split's pixel statistics.

    Args:
      inputs: Raw features, each [N, 1] or [N]; `image/encoded` and `image/class/text` are read.
      custom_config: `classes`: class names in alphabetical order; `transform`: TransformOptions as JSON.

    Returns:
      image_pixels string [N], label int64 [N], pixel_mean and pixel_variance float32 [N, channels].
    """
    options = TransformOptions.model_validate_json(custom_config["transform"])
    classes, channels = custom_config["classes"], options.channels
    pixels = preprocessing.decode_and_resize(
        tf.reshape(inputs[features.IMAGE_ENCODED], [-1]), options.image_size, channels
    )
    by_channel = tf.reshape(tf.cast(pixels, tf.float32), [-1, channels])
    batch_size = tf.shape(pixels)[0]

    def in_every_example(statistic: tf.Tensor) -> tf.Tensor:
        return tf.tile(tf.reshape(statistic, [1, channels]), [batch_size, 1])

    # The vocabulary is the configuration's, in alphabetical order: ids do not depend on how often a class occurs,
    # and a class that appears later is an anomaly, not a silent change of every id.
    ids = tf.lookup.StaticHashTable(
        tf.lookup.KeyValueTensorInitializer(tf.constant(classes), tf.range(len(classes), dtype=tf.int64)),
        default_value=-1,
    )
    return {
        features.IMAGE_PIXELS: preprocessing.pack(pixels),
        features.LABEL: ids.lookup(tf.reshape(inputs[features.CLASS_TEXT], [-1])),
        features.PIXEL_MEAN: in_every_example(tft.mean(by_channel, reduce_instance_dims=False)),
        features.PIXEL_VARIANCE: in_every_example(tft.var(by_channel, reduce_instance_dims=False)),
    }
