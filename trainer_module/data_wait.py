"""Measures how long training steps wait for their data."""

from __future__ import annotations

from typing import Any

import tensorflow as tf


class DataWait:
    """Measures, inside tf.data, the time from a step's request for a batch to the batch.

    A batch that is already prefetched costs nothing; waiting for another one is time in which the training device is
    idle.
    """

    def __init__(self) -> None:
        """Starts at 0 seconds."""
        with tf.device("CPU"):
            self._seconds = tf.Variable(0.0, dtype=tf.float64, trainable=False)

    def measure(self, data: tf.data.Dataset) -> tf.data.Dataset:
        """Returns the same batches, each request timed; `data` should end with a prefetch."""

        # A zip reads its parts in order: first the clock, then the batch.
        @tf.autograph.experimental.do_not_convert
        def request_time(_: tf.Tensor) -> tf.Tensor:
            return tf.timestamp()

        @tf.autograph.experimental.do_not_convert
        def add_wait(since: tf.Tensor, batch: Any) -> Any:
            with tf.control_dependencies(tf.nest.flatten(batch)):
                added = self._seconds.assign_add(tf.timestamp() - since)
            with tf.control_dependencies([added]):
                return tf.nest.map_structure(tf.identity, batch)

        clock = tf.data.Dataset.range(tf.int64.max).map(request_time)
        timed = tf.data.Dataset.zip(clock, data).map(add_wait)
        options = tf.data.Options()
        # Otherwise TensorFlow would request the next batch before the step does, and that would be measured.
        options.experimental_optimization.inject_prefetch = False
        options.experimental_optimization.map_parallelization = False
        return timed.with_options(options)

    def pop(self) -> float:
        """Returns the seconds since the last call."""
        seconds = float(self._seconds.numpy())
        self._seconds.assign(0.0)
        return seconds
