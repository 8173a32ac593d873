"""Builds the whole network of a run: pixels, normalisation, model, head of the task."""

from __future__ import annotations

import keras

from trainer_module import models, precision, tasks
from trainer_module.feature_maps import find_layer
from trainer_module.input_pipeline import PixelStatistics
from trainer_module.options import TrainerOptions


def build(options: TrainerOptions, statistics: PixelStatistics) -> keras.Model:
    """Builds the network from pixels to the outputs of the task's head, with normalisation and without augmentation.

    Args:
      options: The whole configuration of the run.
      statistics: Pixel statistics of the train split; used if `transform.normalization` is "dataset".

    Returns:
      Model from uint8 or float pixels [N, *image_size, channels], range [0, 255], to what `TaskSpec.head` returns.

    Raises:
      ValueError: If `grad_cam.layer` is not one of its layers.
    """
    with precision.dtype_policy(options.training.precision):
        shape = [*options.transform.image_size, options.transform.num_channels]
        inputs = keras.Input(shape, dtype="float32", name="pixels")
        if options.transform.normalization == "dataset":
            # The statistics become weights, so the .keras file and the SavedModel always agree. A constant channel has
            # variance 0; Keras avoids the division by zero.
            x = keras.layers.Normalization(
                mean=statistics.mean, variance=statistics.variance, dtype="float32", name="normalize"
            )(inputs)
        elif options.transform.normalization == "backbone":
            x = inputs
        else:
            x = keras.layers.Rescaling(1 / 127.5, offset=-1.0, dtype="float32", name="normalize")(inputs)
        maps = models.get(options.model.name).build(options.model, x)
        outputs = tasks.get(options.task.name).head(maps, len(options.classes), options)
        model = keras.Model(inputs, outputs, name=options.model.name)
    if options.grad_cam.layer:  # fail now, not after the training
        find_layer(model, options.grad_cam.layer)
    return model
