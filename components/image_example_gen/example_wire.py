"""Serializes tf.train.Example without its message objects, which take longer than everything else about small images.

Reference: Protocol Buffers, Encoding; tensorflow/core/example/example.proto and feature.proto.
"""

from __future__ import annotations

import functools
import itertools
import struct
from collections.abc import Iterable, Sequence

# Tags of fields with a length: (number << 3) | 2. Field 1 is that of Example, of Features and of all three lists.
_FIRST, _SECOND, _THIRD = b"\x0a", b"\x12", b"\x1a"
_VARINT_BITS = 7
_MORE = 1 << _VARINT_BITS
# Names and sizes of values that are remembered: of a dataset, except for the sizes of images, they are few.
_MOST_PREFIXES = 4096


def bytes_feature(name: str, values: Sequence[bytes]) -> bytes:
    """Serializes a feature of strings."""
    if len(values) == 1:
        return _prefix(name, _FIRST, len(values[0])) + values[0]
    content = b"".join([_field(_FIRST, value) for value in values])
    return _entry_prefix(name, _FIRST, len(content)) + content


def float_feature(name: str, values: Sequence[float]) -> bytes:
    """Serializes a feature of float32."""
    if not values:
        return _entry_prefix(name, _SECOND, 0)
    return _prefix(name, _SECOND, 4 * len(values)) + struct.pack(f"<{len(values)}f", *values)


def single_floats(names: tuple[str, ...], values: Iterable[float]) -> bytes:
    """Serializes features of one float32 each: a call for each would take longer than all of them together."""
    layout, prefixes = _single_floats(names)
    return layout.pack(*itertools.chain.from_iterable(zip(prefixes, values, strict=True)))


@functools.lru_cache(_MOST_PREFIXES)
def _single_floats(names: tuple[str, ...]) -> tuple[struct.Struct, list[bytes]]:
    prefixes = [_prefix(name, _SECOND, 4) for name in names]
    return struct.Struct("<" + "".join(f"{len(prefix)}sf" for prefix in prefixes)), prefixes


def int_feature(name: str, values: Sequence[int]) -> bytes:
    """Serializes a feature of int64."""
    if not values:
        return _entry_prefix(name, _THIRD, 0)
    packed = b"".join([_varint(value & 0xFFFF_FFFF_FFFF_FFFF) for value in values])
    return _prefix(name, _THIRD, len(packed)) + packed


def example(features: Iterable[bytes]) -> bytes:
    """Serializes an example of serialized features."""
    return _field(_FIRST, b"".join(features))


@functools.lru_cache(_MOST_PREFIXES)
def _prefix(name: str, kind: bytes, size: int) -> bytes:
    """Returns what comes before the bytes of one string, or of all numbers: the entry of the map of features."""
    value = _FIRST + _varint(size)
    return _entry_prefix(name, kind, len(value) + size) + value


def _entry_prefix(name: str, kind: bytes, list_size: int) -> bytes:
    feature = kind + _varint(list_size)
    feature_size = len(feature) + list_size
    head = _field(_FIRST, name.encode()) + _SECOND + _varint(feature_size) + feature
    return _FIRST + _varint(len(head) + list_size) + head


def _field(tag: bytes, content: bytes) -> bytes:
    return tag + _varint(len(content)) + content


def _varint(number: int) -> bytes:
    if number < _MORE:
        return _ONE_BYTE[number]
    encoded = bytearray()
    while number >= _MORE:
        encoded.append(number % _MORE | _MORE)
        number >>= _VARINT_BITS
    encoded.append(number)
    return bytes(encoded)


_ONE_BYTE = [bytes((number,)) for number in range(_MORE)]
