"""Headers of ordinary PNG files, without Pillow, which takes as long for them as decoding a small image.

Reference: Portable Network Graphics, third edition (W3C), 5.3 (chunks) and 11.2.1 (IHDR).
"""

from __future__ import annotations

import struct
import zlib
from typing import NamedTuple

_SIGNATURE = b"\x89PNG\r\n\x1a\n"
_CHUNK, _CRC = struct.Struct(">I4s"), struct.Struct(">I")
_IHDR = struct.Struct(">IIBBBBB")
# Bit depths by colour type.
_BIT_DEPTHS = {0: (1, 2, 4, 8, 16), 2: (8, 16), 3: (1, 2, 4, 8), 4: (8, 16), 6: (8, 16)}
# Chunks before the pixels that change nothing, and their sizes. All others, such as colour profiles, are Pillow's task.
_HARMLESS = {b"gAMA": 4, b"sRGB": 1, b"pHYs": 9, b"cHRM": 32}


class PngSize(NamedTuple):
    """Size of an image, pixels."""

    width: int
    height: int


def size_of_plain_png(encoded: bytes) -> PngSize | None:
    """Returns the size of a PNG file of one frame, with an undamaged header in which nothing needs attention.

    None for any other file.
    """
    if not encoded.startswith(_SIGNATURE):
        return None
    try:
        position, size = len(_SIGNATURE), None
        while True:
            length, kind = _CHUNK.unpack_from(encoded, position)
            if size is not None:
                if kind == b"IDAT":
                    return size
                if _HARMLESS.get(kind) != length:
                    return None
            elif kind != b"IHDR" or length != _IHDR.size:
                return None
            content_end = position + _CHUNK.size + length
            if zlib.crc32(encoded[position + 4 : content_end]) != _CRC.unpack_from(encoded, content_end)[0]:
                return None
            if size is None:
                width, height, depth, color, *methods = _IHDR.unpack_from(encoded, position + _CHUNK.size)
                is_valid = (
                    width and height and depth in _BIT_DEPTHS.get(color, ()) and methods in ([0, 0, 0], [0, 0, 1])
                )
                if not is_valid:
                    return None
                size = PngSize(width, height)
            position = content_end + _CRC.size
    except struct.error:  # the file ends
        return None
