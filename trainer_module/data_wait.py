"""How long training steps wait for their pictures."""

from __future__ import annotations

from typing import Any

import tensorflow as tf


class DataWait:
    """Measures, inside tf.data, the time from a step's request for a batch to the batch.

    What prefetching had ready costs nothing here; what it had not is time in which the processor that trains stood
    still.
    """

    def __init__(self) -> None:
        """Starts at 0 seconds."""
        with tf.device("CPU"):
            self._seconds = tf.Variable(0.0, dtype=tf.float64, trainable=False)

    def measured(self, data: tf.data.Dataset) -> tf.data.Dataset:
        """The same batches, each request timed; `data` should end with a prefetch."""

        # Of a zip the parts are asked in order: the clock is read, then the batch is waited for.
        def requested(_: tf.Tensor) -> tf.Tensor:
            return tf.timestamp()

        def received(since: tf.Tensor, batch: Any) -> Any:
            with tf.control_dependencies(tf.nest.flatten(batch)):
                added = self._seconds.assign_add(tf.timestamp() - since)
            with tf.control_dependencies([added]):
                return tf.nest.map_structure(tf.identity, batch)

        clock = tf.data.Dataset.range(tf.int64.max).map(requested)
        timed = tf.data.Dataset.zip(clock, data).map(received)
        options = tf.data.Options()
        # Otherwise TensorFlow would ask for the next batch ahead of the step, and that would be what is measured.
        options.experimental_optimization.inject_prefetch = False
        options.experimental_optimization.map_parallelization = False
        return timed.with_options(options)

    def take(self) -> float:
        """Seconds since the last call."""
        seconds = float(self._seconds.numpy())
        self._seconds.assign(0.0)
        return seconds
