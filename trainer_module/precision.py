"""Mixed precision: 16-bit activations, float32 weights."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import keras


@contextmanager
def dtype_policy(name: str) -> Iterator[None]:
    """Sets the dtype policy of the layers that are built inside the block, and restores the previous one after it.

    Args:
      name: `float32`, `mixed_bfloat16` or `mixed_float16`.

    Reference: Micikevicius et al. 2018, https://arxiv.org/abs/1710.03740, section 3.1 (weights stay float32).
    """
    before = keras.config.dtype_policy()
    keras.config.set_dtype_policy(name)
    try:
        yield
    finally:
        keras.config.set_dtype_policy(before)


def to_float32(model: keras.Model) -> None:
    """Makes a trained model compute in float32, in place.

    The weights are float32 already. A served model must not depend on the accelerator that trained it: without hardware
    support, bfloat16 is slower than float32, and explanations lose digits.
    """
    for layer in model.layers:
        if isinstance(layer, keras.Model):
            to_float32(layer)
        layer.dtype_policy = keras.DTypePolicy("float32")
    model.dtype_policy = keras.DTypePolicy("float32")
