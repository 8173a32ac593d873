"""From pictures to a trained network, reproducibly: once in Trainer, and in every trial of Tuner."""

from __future__ import annotations

from typing import NamedTuple

import keras
import tensorflow as tf

from trainer_module import distribution, input_pipeline, network, training
from trainer_module.checkpoints import CheckpointFile
from trainer_module.input_pipeline import PixelStatistics
from trainer_module.options import TrainerOptions


class Pictures(NamedTuple):
    """What a network is fitted on.

    Attributes:
      statistics: The train split's.
      train: (uint8 [h, w, c], label) examples, from `input_pipeline.examples`.
      validation: The same of the validation split.
    """

    statistics: PixelStatistics
    train: tf.data.Dataset
    validation: tf.data.Dataset


def fit(
    options: TrainerOptions,
    pictures: Pictures,
    run_dir: str,
    *,
    strategy: tf.distribute.Strategy | None = None,
    checkpoint: CheckpointFile | None = None,
    cache_dir: str | None = None,
) -> tuple[keras.Model, keras.callbacks.History]:
    """Builds and trains a network; the same options and pictures give the same weights.

    Args:
      options: The whole configuration of the training.
      pictures: Read as often as there are epochs; they may be used again.
      run_dir: Receives what `training.train` writes.
      strategy: That of `options`, if it had to be made earlier.
      checkpoint: As `training.train` takes it.
      cache_dir: As `training.train` takes it.

    Returns:
      The network from pixels to logits, and Keras's history.

    Raises:
      TrainingDivergedError: If the loss becomes NaN.
    """
    seed, batch_size = options.training.seed, options.training.batch_size
    keras.utils.set_random_seed(seed)
    with (strategy or distribution.strategy(options.training.distribution)).scope():
        model = network.build(options, pictures.statistics)
        history = training.train(
            model,
            options,
            train_data=input_pipeline.batched(pictures.train, batch_size, shuffle_seed=seed),
            validation_data=input_pipeline.batched(pictures.validation, batch_size),
            run_dir=run_dir,
            checkpoint=checkpoint,
            cache_dir=cache_dir,
        )
    return model, history
