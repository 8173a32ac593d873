"""Training on one or several machines and GPUs."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import keras
import numpy as np
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


class Shard(NamedTuple):
    """The part of the training data that one worker reads.

    Attributes:
      number: That of the worker, from 0.
      num_shards: Number of workers.
    """

    number: int
    num_shards: int

    def of(self, examples: tf.data.Dataset, num_examples: int) -> tf.data.Dataset:
        """Takes every n-th example of so many; the first ones are repeated, so that all workers have equally many.

        With unequal numbers, the worker with more would wait for the others at the end of an epoch.
        """
        if self.num_shards == 1:
            return examples
        padded = examples.repeat().take(self.num_shards * self.size(num_examples))
        return padded.shard(self.num_shards, self.number)

    def size(self, num_examples: int) -> int:
        """Returns the number of examples of each worker."""
        return -(-num_examples // self.num_shards)

    def batch_size(self, global_batch_size: int) -> int:
        """Returns the number of examples of each worker in a step.

        Raises:
          ValueError: If workers, or accelerators of one, would have different numbers.
        """
        num_replicas = tf.distribute.get_strategy().num_replicas_in_sync
        if self.num_shards > 1 and global_batch_size % num_replicas:
            raise ValueError(
                f"training.batch_size = {global_batch_size} is not a multiple of {num_replicas}, the number of "
                f"accelerators of all workers; use {-(-global_batch_size // num_replicas) * num_replicas}"
            )
        return global_batch_size // self.num_shards


ALL_EXAMPLES = Shard(0, 1)


def shard(strategy: tf.distribute.Strategy | None = None) -> Shard:
    """Returns the shard of this process, by default under the current strategy; without workers, it is everything."""
    strategy = strategy or tf.distribute.get_strategy()
    resolver = strategy.cluster_resolver
    if not isinstance(strategy, tf.distribute.MultiWorkerMirroredStrategy) or not resolver.cluster_spec():
        return ALL_EXAMPLES
    jobs = resolver.cluster_spec().as_dict()
    num_chiefs = len(jobs.get("chief", ()))
    number = resolver.task_id + (num_chiefs if resolver.task_type == "worker" else 0)
    return Shard(number, num_chiefs + len(jobs.get("worker", ())))


def sum_over_workers(values: np.ndarray) -> np.ndarray:
    """Adds integers that every worker has counted in its shard; without workers, returns them as they are."""
    strategy, num_shards = tf.distribute.get_strategy(), shard().num_shards
    if num_shards == 1:
        return values
    total = strategy.reduce("SUM", strategy.run(lambda: tf.constant(values)), axis=None)
    return total.numpy() // (strategy.num_replicas_in_sync // num_shards)  # type: ignore[no-any-return]


def distribute_train_data(data: tf.data.Dataset, global_batch_size: int) -> tf.data.Dataset:
    """Prepares the batches of this worker's shard for `fit`, which would otherwise divide them among all workers."""
    strategy, num_shards = tf.distribute.get_strategy(), shard().num_shards
    if num_shards == 1:
        return data
    if strategy.num_replicas_in_sync > num_shards:
        data = data.rebatch(global_batch_size // strategy.num_replicas_in_sync)
    return strategy.distribute_datasets_from_function(lambda _: data)


def shard_by_data(data: tf.data.Dataset) -> tf.data.Dataset:
    """Shards data that every worker reads by batches; by default TensorFlow shards by files.

    There may be fewer files than workers. No example is repeated, unlike in a `Shard`.
    """
    return _with_policy(data, tf.data.experimental.AutoShardPolicy.DATA)


def _with_policy(data: tf.data.Dataset, policy: tf.data.experimental.AutoShardPolicy) -> tf.data.Dataset:
    options = tf.data.Options()
    options.experimental_distribute.auto_shard_policy = policy
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

        return tf.function(function, autograph=False)  # type: ignore[no-any-return]

    model.train_function = over_workers(model.train_step)
    model.test_function = over_workers(model.test_step)


class StatisticsAverage(keras.callbacks.Callback):
    """Averages the moving statistics of all accelerators, each of which has seen only its own images.

    Otherwise the model that is exported, or restored from a checkpoint, has those of the first one.
    """

    def on_test_begin(self, logs: dict[str, Any] | None = None) -> None:
        """Runs before the validation of an epoch."""
        strategy = tf.distribute.get_strategy()
        if strategy.num_replicas_in_sync == 1:
            return
        for variable in self.model.non_trainable_variables:
            if variable.dtype.startswith("float"):
                values = strategy.run(lambda variable=variable: tf.identity(variable.value))
                variable.assign(strategy.reduce("MEAN", values, axis=None))


def _set_batch(model: keras.Model, batch: Any) -> None:
    """Gives Keras the shapes of a batch, for which it would otherwise read one."""
    build, _ = model._symbolic_build, model._maybe_symbolic_build  # fails here if Keras renames one
    model._maybe_symbolic_build = lambda **_: build(data_batch=batch)
