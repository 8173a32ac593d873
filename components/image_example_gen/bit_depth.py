"""16-bit PNG files: which of their values a dataset uses, and their reduction to 8 bits.

Cameras and X-ray detectors of 10, 12 or 14 bits write files of 16 bits. The high byte, which decoders for 8 bits keep,
then contains almost nothing of the image.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

import numpy as np
import tensorflow as tf

from trainer_module import preprocessing
from trainer_module.model_input import HIGHEST_BIT_DEPTH, LOWEST_BIT_DEPTH, Window

_GREY = (0, 4)  # colour types in the header, without and with transparency


class UsedBits(NamedTuple):
    """Number of bits, 8 to 16, that the values of an image need.

    Attributes:
      largest: Bits of the largest value.
      typical: Bits of the value that 99 % of the values do not exceed: markers and defects do not count.
    """

    largest: int
    typical: int


def used_bits(encoded: bytes) -> UsedBits | None:
    """Measures a 16-bit PNG, without its transparency; None if it cannot be decoded."""
    try:
        pixels = tf.io.decode_png(encoded, channels=3, dtype=tf.uint16).numpy()
    except tf.errors.OpError:
        return None
    flat = (pixels[..., 0] if encoded[25] in _GREY else pixels).ravel()
    typical = np.partition(flat, rank := (flat.size - 1) * 99 // 100)[rank]
    return UsedBits(*(max(LOWEST_BIT_DEPTH, int(value).bit_length()) for value in (flat.max(), typical)))


def reduce(encoded: bytes, window: Window) -> bytes:
    """Reduces a 16-bit PNG to one of 8 bits with the pixels that the served model decodes from it.

    Args:
      encoded: Bytes of the file.
      window: The values that the dataset uses; others are clipped.

    Raises:
      tf.errors.OpError: If the file cannot be decoded.
    """
    pixels = preprocessing.decode(tf.constant(encoded), channels=3, window=window)
    reduced: bytes = tf.io.encode_png(pixels[..., :1] if encoded[25] in _GREY else pixels).numpy()
    return reduced


def detect(used: Iterable[int]) -> Window:
    """Returns the window of a dataset from the bits that its 16-bit images use; all values if there are none."""
    return Window.of_bits(max(used, default=HIGHEST_BIT_DEPTH))
