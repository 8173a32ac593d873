"""Parts that the tasks with classes per image share: the head, the explained scalar, the drawing."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Literal

from pydantic import Field

from trainer_module import features
from trainer_module.image_drawing import enlarged_rgb
from trainer_module.model_input import Size
from trainer_module.section import Rate, TaskOptions
from trainer_module.tasks._spec import Subject, Target

if TYPE_CHECKING:
    import keras
    import numpy as np
    import tensorflow as tf

    from trainer_module.models import FeatureMaps
    from trainer_module.options import TrainerOptions


class PooledHeadOptions(TaskOptions):
    """The keys of `[task]` that the head reads."""

    pooling: Literal["global_average", "global_max", "flatten"] = Field(
        default="global_average",
        description="How the head reads the last feature map: the mean of every channel, its maximum, or all values; "
        "with `flatten` the number of parameters grows with the image.",
    )
    dense_units: int | None = Field(
        default=None,
        ge=0,
        le=65536,
        description="Size of the dense layer in the head, whose output is the embedding; 0 for none. If absent, the "
        "model's default: 256 for `scratch_cnn`, otherwise 0.",
    )
    dropout: Rate | None = Field(
        default=None,
        description="Dropout before the class layer. If absent, the model's default: 0.5 for `scratch_cnn`, otherwise "
        "0.2.",
    )


def pooled_head(maps: FeatureMaps, num_classes: int, options: TrainerOptions) -> keras.KerasTensor:
    """Adds pooling, an optional dense layer with ReLU, dropout and the class layer.

    Args:
      maps: The model's feature maps; `encoded` is read.
      num_classes: Number of classes.
      options: `task` and the defaults of `model` are read.

    Returns:
      Logits, float32 [N, num_classes]. The layers `pooled` and `embedding` (see `trainer_module.features`) are part of
      the graph.

    Reference: Lin et al. 2014, https://arxiv.org/abs/1312.4400, section 3.2 (global average pooling); Kornblith et al.
    2019, https://arxiv.org/abs/1805.08974, section 4.
    """
    from keras import layers

    own = PooledHeadOptions.from_options(options)
    units = options.model.head_dense_units if own.dense_units is None else own.dense_units
    dropout = options.model.head_dropout if own.dropout is None else own.dropout
    pooling = {
        "global_average": layers.GlobalAveragePooling2D,
        "global_max": layers.GlobalMaxPooling2D,
        "flatten": layers.Flatten,
    }
    x = pooling[own.pooling](name=features.POOLED_LAYER)(maps.encoded)
    if units:
        x = layers.Dense(units, activation="relu", name=features.EMBEDDING_LAYER)(x)
    else:
        x = layers.Activation("linear", name=features.EMBEDDING_LAYER)(x)
    x = layers.Dropout(dropout, name="head_dropout")(x)
    return layers.Dense(num_classes, dtype="float32", name=features.LOGITS_LAYER)(x)


def whole_image_target(logits: tf.Tensor, subject: Subject, size: Size) -> Target:
    """Explains the most probable class, or the given one, over the whole image."""
    import tensorflow as tf

    class_ids = tf.argmax(logits, axis=-1) if subject.class_ids is None else tf.cast(subject.class_ids, tf.int64)
    return Target(Subject(class_ids), tf.gather(logits, class_ids, axis=-1, batch_dims=1))


def plain_image(
    image: np.ndarray, label: Any, classes: Sequence[str], ignore_id: int | None, scale: int = 1
) -> np.ndarray:
    """Returns the image in RGB, enlarged by a whole factor: the caption names its classes."""
    return enlarged_rgb(image, scale)
