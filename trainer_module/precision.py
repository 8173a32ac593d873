"""Mixed precision: 16-bit activations, float32 weights."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import keras
import tensorflow as tf

# Flags in Linux's /proc/cpuinfo of processors that multiply numbers of these types; others emulate them.
_PROCESSOR_FLAGS = {
    "mixed_bfloat16": {"amx_bf16", "avx512_bf16"},
    "mixed_float16": {"amx_fp16", "avx512_fp16"},
}
_PROCESSORS = Path("/proc/cpuinfo")


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


def slowness(name: str) -> str:
    """Returns a warning if training with a dtype policy is slower than in float32 on this machine, else "".

    Machines with a GPU, and systems without `/proc/cpuinfo`, are not assessed.

    Args:
      name: As in `dtype_policy`.
    """
    wanted = _PROCESSOR_FLAGS.get(name)
    if wanted is None or tf.config.list_physical_devices("GPU") or not _PROCESSORS.is_file():
        return ""
    lists = re.findall(r"^flags\s*:(.*)$", _PROCESSORS.read_text(encoding="utf-8"), flags=re.MULTILINE)
    if not lists or wanted & set(lists[0].split()):
        return ""
    return (
        f'training.precision = "{name}" is slower than "float32" here: the processor has neither of the instructions '
        f"{' and '.join(sorted(wanted))}. Use --set training.precision=float32."
    )


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
