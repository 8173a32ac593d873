"""Refuses images whose header announces more pixels than the server should decode.

A PNG of a few kilobytes can decode to gigabytes of pixels; its header contains the size. Sources: PNG
specification, 11.2.2 (IHDR); ITU-T T.81, B.2.2 (SOF); GIF89a, 18 (logical screen) and 20 (image descriptor).
"""

from __future__ import annotations

import re
import struct
from collections.abc import Mapping

import numpy as np

from serving.local_server.errors import invalid_argument

_PNG = b"\x89PNG\r\n\x1a\n"
_JPEG = b"\xff\xd8\xff"
_GIF = re.compile(rb"GIF8[79]a")
# Start-of-frame markers: C0 to CF except DHT (C4), JPG (C8) and DAC (CC).
_FRAMES = {0xC0, 0xC1, 0xC2, 0xC3, 0xC5, 0xC6, 0xC7, 0xC9, 0xCA, 0xCB, 0xCD, 0xCE, 0xCF}
_STANDALONE = {0x01, *range(0xD0, 0xD9)}


def refuse_large_images(inputs: Mapping[str, np.ndarray], max_pixels: int) -> None:
    """Checks every string of a request that is, or contains (as a serialized tf.Example), a JPEG, PNG or GIF file.

    Args:
      inputs: Arrays by tensor name; arrays that do not contain strings are skipped.
      max_pixels: Limit of height x width.

    Raises:
      RequestError: INVALID_ARGUMENT.
    """
    for name, values in inputs.items():
        if values.dtype != object:
            continue
        for index, value in enumerate(values.flat):
            size = image_size(value) if isinstance(value, bytes) else None
            if size and size[0] * size[1] > max_pixels:
                raise invalid_argument(
                    f"Image {index} of input {name} has {size[1]} x {size[0]} pixels, more than {max_pixels}."
                )


def image_size(value: bytes) -> tuple[int, int] | None:
    """Returns (height, width) of the first image in a string; None without a complete header.

    The longer a format's signature, the less likely it occurs in the data of another format by chance: JPEG, which has
    the shortest, is searched last, unless the string begins with it.
    """
    if not value.startswith(_JPEG):
        at = value.find(_PNG)
        if at >= 0:
            if len(value) < at + 24:
                return None
            width, height = struct.unpack_from(">II", value, at + 16)
            return height, width
        if match := _GIF.search(value):
            return _gif(value, match.end()) if len(value) >= match.end() + 7 else None
    at = value.find(_JPEG)
    return _jpeg(value, at + 2) if at >= 0 else None


def _jpeg(value: bytes, at: int) -> tuple[int, int] | None:
    """Skips the segments before the frame header."""
    while at + 9 <= len(value) and value[at] == 0xFF:
        marker = value[at + 1]
        if marker == 0xFF:  # fill
            at += 1
        elif marker in _FRAMES:
            height, width = struct.unpack_from(">HH", value, at + 5)
            return height, width
        elif marker in _STANDALONE:
            at += 2
        else:
            at += 2 + max(struct.unpack_from(">H", value, at + 2)[0], 2)
    return None


def _gif(value: bytes, at: int) -> tuple[int, int]:
    """Returns the larger of the logical screen and the first image, if that follows the colour table."""
    width, height, packed = struct.unpack_from("<HHB", value, at)
    at += 7 + (3 << (packed & 7) + 1 if packed & 0x80 else 0)
    while at + 2 < len(value) and value[at] == 0x21:  # an extension: blocks with a length each, until an empty one
        at += 2
        while at < len(value) and value[at]:
            at += value[at] + 1
        at += 1
    if at + 9 <= len(value) and value[at] == 0x2C:
        image_width, image_height = struct.unpack_from("<HH", value, at + 5)
        return max(height, image_height), max(width, image_width)
    return height, width
