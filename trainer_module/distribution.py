"""One machine or several, one GPU or several."""

from __future__ import annotations

import tensorflow as tf


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
