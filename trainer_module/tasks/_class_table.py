"""Class names → class ids, in the transform graph."""

from __future__ import annotations

from collections.abc import Sequence

import tensorflow as tf


def class_table(classes: Sequence[str], unknown: int) -> tf.lookup.StaticHashTable:
    """Builds a table of class names, string → int64; `unknown` for other names.

    The ids follow the order of the configuration's class names: they do not depend on how often a class occurs, and a
    new class is an anomaly instead of a silent change of all ids.
    """
    return tf.lookup.StaticHashTable(
        tf.lookup.KeyValueTensorInitializer(tf.constant(classes), tf.range(len(classes), dtype=tf.int64)),
        default_value=unknown,
    )
