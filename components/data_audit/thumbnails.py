"""Small copies of the most suspicious images, which the report shows."""

from __future__ import annotations

import io

from PIL import Image, ImageOps

NUM_THUMBNAILS = 12
_SIDE = 256


def shrink(encoded: bytes) -> bytes:
    """Returns an image file as PNG whose longer side has at most 256 pixels, upright by its EXIF orientation."""
    with Image.open(io.BytesIO(encoded)) as image:
        small = ImageOps.exif_transpose(image).convert("RGB")
    small.thumbnail((_SIDE, _SIDE))
    buffer = io.BytesIO()
    small.save(buffer, "PNG")
    return buffer.getvalue()
