"""The run-length encoding of Label Studio's brush: a stream of bits, over the RGBA values of an image.

32 bits: number of values; 5: bits of a value minus 1; four times 4: bits of the four kinds of lengths minus 1. Then for
every block one bit (1: a value that is repeated; 0: several values), two bits (kind of the length), the length minus 1,
and the value or values.

Source: thi.ng's rle-pack, https://github.com/thi-ng/umbrella/tree/develop/packages/rle-pack, which Label Studio uses;
Label Studio SDK, `label_studio_sdk.converter.brush`.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from components.image_example_gen.errors import UnusableImageError

_CHANNELS, _OPAQUE = 4, 255
_VALUE_BITS = 8
_LENGTH_BITS = (3, 4, 8, 16)
_MOST_VALUES = 2**30


def encode(inside: np.ndarray) -> list[int]:
    """Encodes pixels, bool [height, width], as opaque white on transparent black: bytes, range [0, 255]."""
    flat = np.asarray(inside, bool).ravel()
    bits = [f"{flat.size * _CHANNELS:032b}", f"{_VALUE_BITS - 1:05b}", *(f"{size - 1:04b}" for size in _LENGTH_BITS)]
    edges = np.flatnonzero(np.diff(flat, prepend=~flat[:1], append=~flat[-1:])) if flat.size else np.zeros(0, int)
    for start, length in zip(edges[:-1], np.diff(edges) * _CHANNELS, strict=True):
        value = f"{_OPAQUE if flat[start] else 0:0{_VALUE_BITS}b}"
        remaining = int(length)
        while remaining:
            kind = next((kind for kind, size in enumerate(_LENGTH_BITS) if remaining <= 2**size), len(_LENGTH_BITS) - 1)
            block = min(remaining, 2 ** _LENGTH_BITS[kind])
            bits.append(f"1{kind:02b}{block - 1:0{_LENGTH_BITS[kind]}b}{value}")
            remaining -= block
    stream = np.frombuffer("".join(bits).encode(), np.uint8) - ord("0")
    return np.packbits(stream).tolist()


def decode(encoded: Sequence[int], height: int, width: int) -> np.ndarray:
    """Decodes the pixels that are not transparent: bool [height, width].

    Raises:
      UnusableImageError: If the stream is damaged, or belongs to an image of another size.
    """
    try:
        bits = (np.unpackbits(np.array(encoded, np.uint8)) + ord("0")).tobytes().decode()
        values = _values(bits, expected=height * width * _CHANNELS)
    except (ValueError, OverflowError, TypeError):
        raise UnusableImageError("a damaged brush region") from None
    return np.asarray(values.reshape(height, width, _CHANNELS)[..., -1] > 0)


def _values(bits: str, expected: int) -> np.ndarray:
    position = 0

    def read(size: int) -> int:
        nonlocal position
        position += size
        if position > len(bits):
            raise ValueError("the stream ends too early")
        return int(bits[position - size : position], 2)

    count, value_bits = read(32), read(5) + 1
    length_bits = [read(4) + 1 for _ in range(4)]
    if count != expected or count > _MOST_VALUES:
        raise UnusableImageError(f"a brush region of another image: {count:,} values instead of {expected:,}")
    values = np.zeros(count, np.uint32)
    filled = 0
    while filled < count:
        is_run, length = read(1), read(length_bits[read(2)]) + 1
        if filled + length > count:
            raise ValueError("the stream has too many values")
        values[filled : filled + length] = read(value_bits) if is_run else [read(value_bits) for _ in range(length)]
        filled += length
    return values
