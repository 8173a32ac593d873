"""One machine or several, one GPU or several."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import keras
import tensorflow as tf

from trainer_module import private_api


def strategy(name: str) -> tf.distribute.Strategy:
    """The strategy under whose `scope()` the model is built and trained.

    Args:
      name: `none`; `mirrored` for all GPUs of this machine; `multi_worker` for those of all machines in `TF_CONFIG`,
        which must be asked for before TensorFlow has computed anything.

    Raises:
      ValueError: If there is nothing to distribute over.

    Reference: https://www.tensorflow.org/guide/distributed_training
    """
    if name == "mirrored":
        if not tf.config.list_physical_devices("GPU"):
            raise ValueError(
                'training.distribution = "mirrored" needs a GPU, and TensorFlow finds none here; on a CPU take `none`.'
            )
        return tf.distribute.MirroredStrategy()
    if name == "multi_worker":
        cluster = tf.distribute.cluster_resolver.TFConfigClusterResolver()
        if not cluster.cluster_spec():
            raise ValueError(
                'training.distribution = "multi_worker" needs the environment variable TF_CONFIG, with the addresses '
                "of all workers; on one machine take `mirrored` or `none`."
            )
        return tf.distribute.MultiWorkerMirroredStrategy()
    return tf.distribute.get_strategy()


def is_chief(chosen: tf.distribute.Strategy) -> bool:
    """Whether this process is the one whose files are kept."""
    resolver = chosen.cluster_resolver
    if resolver is None or not resolver.cluster_spec():
        return True
    has_chief = "chief" in resolver.cluster_spec().jobs
    return bool(resolver.task_type == "chief" or (not has_chief and resolver.task_id == 0))


def divided(data: tf.data.Dataset) -> tf.data.Dataset:
    """The same batches, of which every worker takes its part; TensorFlow would rather give each its own files.

    The number of examples is known of all files together, and there may be fewer files than workers.
    """
    options = tf.data.Options()
    options.experimental_distribute.auto_shard_policy = tf.data.experimental.AutoShardPolicy.DATA
    return data.with_options(options)


def prepare(fitted: keras.Model, data: tf.data.Dataset) -> None:
    """Makes `fit` work with several workers, which Keras 3 alone cannot: keras-team/keras#20585.

    Under a strategy it reads a batch and averages it over the workers, outside of any TensorFlow function, to learn
    its shape; and it averages the figures of a step along a dimension that they do not have.

    Args:
      fitted: Compiled.
      data: What it will be fitted to.
    """
    strategy = tf.distribute.get_strategy()
    if not isinstance(strategy, tf.distribute.MultiWorkerMirroredStrategy):
        return
    batch = tf.nest.map_structure(
        lambda spec: keras.KerasTensor([side or 1 for side in spec.shape], spec.dtype.name), data.element_spec
    )
    private_api.prepare(private_api.MULTI_WORKER_FIT, lambda: _set_batch(fitted, batch))

    def over_workers(step: Callable[[Any], dict[str, Any]]) -> Callable[[Any], dict[str, Any]]:
        def function(iterator: Any) -> dict[str, Any]:
            figures = strategy.run(step, args=(iterator.get_next(),))
            return {name: strategy.reduce("MEAN", value, axis=None) for name, value in figures.items()}

        return tf.function(function)  # type: ignore[no-any-return]

    fitted.train_function = over_workers(fitted.train_step)
    fitted.test_function = over_workers(fitted.test_step)


def _set_batch(fitted: keras.Model, batch: Any) -> None:
    """Gives Keras the shapes of a batch, for which it would otherwise read one."""
    build, _ = fitted._symbolic_build, fitted._maybe_symbolic_build  # a renamed one fails here
    fitted._maybe_symbolic_build = lambda **_: build(data_batch=batch)
