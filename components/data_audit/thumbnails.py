"""Small copies of the most suspicious images, which the report shows."""

from __future__ import annotations

import io

from PIL import Image

from trainer_module import image_statistics
from trainer_module.model_input import FULL_WINDOW, Window

NUM_THUMBNAILS = 12
_SIDE = 256


def shrink(encoded: bytes, window: Window = FULL_WINDOW) -> bytes:
    """Returns an image file as PNG whose longer side has at most 256 pixels, as models decode it.

    Args:
      encoded: Bytes of the file.
      window: Which values of a 16-bit image become black and white; those of examples are reduced already.
    """
    return shrink_image(image_statistics.decode_rgb(encoded, window))


def shrink_image(image: Image.Image) -> bytes:
    """Returns an RGB image as PNG whose longer side has at most 256 pixels; the given one is shrunk."""
    image.thumbnail((_SIDE, _SIDE))
    buffer = io.BytesIO()
    image.save(buffer, "PNG")
    return buffer.getvalue()
