"""Training on one or several machines and GPUs."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import keras
import tensorflow as tf

from trainer_module import private_api


def strategy(name: str) -> tf.distribute.Strategy:
    """Returns the strategy under whose `scope()` the model is built and trained.

    Args:
      name: `none`; `mirrored` for all GPUs of this machine; `multi_worker` for all machines in `TF_CONFIG`, which must
        be called before TensorFlow computes anything.

    Raises:
      ValueError: If there is no GPU, or no `TF_CONFIG`.

    Reference: https://www.tensorflow.org/guide/distributed_training
    """
    if name == "mirrored":
        if not tf.config.list_physical_devices("GPU"):
            raise ValueError(
                'training.distribution = "mirrored" requires a GPU, and TensorFlow finds none; use "none" on a CPU'
            )
        return tf.distribute.MirroredStrategy()
    if name == "multi_worker":
        cluster = tf.distribute.cluster_resolver.TFConfigClusterResolver()
        if not cluster.cluster_spec():
            raise ValueError(
                'training.distribution = "multi_worker" requires the environment variable TF_CONFIG with the addresses '
                'of all workers; use "mirrored" or "none" on one machine'
            )
        return tf.distribute.MultiWorkerMirroredStrategy()
    return tf.distribute.get_strategy()


def is_chief(strategy: tf.distribute.Strategy) -> bool:
    """Whether the files of this process are the ones to keep."""
    resolver = strategy.cluster_resolver
    if resolver is None or not resolver.cluster_spec():
        return True
    has_chief = "chief" in resolver.cluster_spec().jobs
    return bool(resolver.task_type == "chief" or (not has_chief and resolver.task_id == 0))


def shard_by_data(data: tf.data.Dataset) -> tf.data.Dataset:
    """Shards the data among workers by batches; by default TensorFlow shards by files.

    The number of examples is known only for all files together, and there may be fewer files than workers.
    """
    options = tf.data.Options()
    options.experimental_distribute.auto_shard_policy = tf.data.experimental.AutoShardPolicy.DATA
    return data.with_options(options)


def prepare_fit(model: keras.Model, data: tf.data.Dataset) -> None:
    """Makes `fit` work with several workers, which Keras 3 does not support: keras-team/keras#20585.

    Under a strategy, Keras reads a batch and averages it over the workers outside of any TensorFlow function to get its
    shape, and it averages the metrics of a step along a dimension that they do not have.

    Args:
      model: Compiled.
      data: The training data.
    """
    strategy = tf.distribute.get_strategy()
    if not isinstance(strategy, tf.distribute.MultiWorkerMirroredStrategy):
        return
    batch = tf.nest.map_structure(
        lambda spec: keras.KerasTensor([side or 1 for side in spec.shape], spec.dtype.name), data.element_spec
    )
    private_api.prepare(private_api.MULTI_WORKER_FIT, lambda: _set_batch(model, batch))

    def over_workers(step: Callable[[Any], dict[str, Any]]) -> Callable[[Any], dict[str, Any]]:
        def function(iterator: Any) -> dict[str, Any]:
            metrics = strategy.run(step, args=(iterator.get_next(),))
            return {name: strategy.reduce("MEAN", value, axis=None) for name, value in metrics.items()}

        return tf.function(function)  # type: ignore[no-any-return]

    model.train_function = over_workers(model.train_step)
    model.test_function = over_workers(model.test_step)


def _set_batch(model: keras.Model, batch: Any) -> None:
    """Gives Keras the shapes of a batch, for which it would otherwise read one."""
    build, _ = model._symbolic_build, model._maybe_symbolic_build  # fails here if Keras renames one
    model._maybe_symbolic_build = lambda **_: build(data_batch=batch)
