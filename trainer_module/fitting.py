"""Trains a network on images, reproducibly: once in Trainer, and in every trial of Tuner."""

from __future__ import annotations

from typing import NamedTuple

import keras
import tensorflow as tf

from trainer_module import distribution, input_pipeline, network, training
from trainer_module.checkpoints import CheckpointFile
from trainer_module.input_pipeline import PixelStatistics
from trainer_module.options import TrainerOptions


class TrainingData(NamedTuple):
    """The data that a network is trained on.

    Attributes:
      statistics: Pixel statistics of the train split.
      train: (uint8 [h, w, c], label) examples, from `input_pipeline.read_examples`.
      validation: The same of the validation split.
    """

    statistics: PixelStatistics
    train: tf.data.Dataset
    validation: tf.data.Dataset


def fit(
    options: TrainerOptions,
    data: TrainingData,
    run_dir: str,
    *,
    strategy: tf.distribute.Strategy | None = None,
    checkpoint: CheckpointFile | None = None,
    cache_dir: str | None = None,
) -> tuple[keras.Model, keras.callbacks.History]:
    """Builds and trains a network; the same options and data give the same weights.

    Args:
      options: The whole configuration of the training.
      data: Read once per epoch; can be used again. With several workers, `train` is the shard of this one.
      run_dir: Receives the files that `training.train` writes.
      strategy: The strategy of `options`, if the caller has already created it.
      checkpoint: See `training.train`.
      cache_dir: See `training.train`.

    Returns:
      The network from pixels to logits, and Keras's history.

    Raises:
      TrainingDivergedError: If the loss becomes NaN.
    """
    seed, batch_size = options.training.seed, options.training.batch_size
    keras.utils.set_random_seed(seed)
    with (strategy or distribution.strategy(options.training.distribution)).scope():
        own_batch_size = distribution.shard().batch_size(batch_size)
        model = network.build(options, data.statistics)
        history = training.train(
            model,
            options,
            train_data=input_pipeline.batch_examples(data.train, own_batch_size, shuffle_seed=seed),
            validation_data=input_pipeline.batch_examples(data.validation, batch_size),
            run_dir=run_dir,
            checkpoint=checkpoint,
            cache_dir=cache_dir,
        )
    return model, history
