"""Small copies of the most suspicious images, which the report shows."""

from __future__ import annotations

import io

from PIL import Image, ImageOps

NUM_THUMBNAILS = 12
_SIDE = 256


def shrink(encoded: bytes) -> bytes:
    """Returns an image file as PNG whose longer side has at most 256 pixels, upright by its EXIF orientation."""
    with Image.open(io.BytesIO(encoded)) as image:
        return shrink_image(ImageOps.exif_transpose(image).convert("RGB"))


def shrink_image(image: Image.Image) -> bytes:
    """Returns an RGB image as PNG whose longer side has at most 256 pixels; the given one is shrunk."""
    image.thumbnail((_SIDE, _SIDE))
    buffer = io.BytesIO()
    image.save(buffer, "PNG")
    return buffer.getvalue()
