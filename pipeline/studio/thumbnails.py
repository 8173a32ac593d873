"""Images for pages: files, thumbnails and drawings, with the headers that let browsers keep them."""

from __future__ import annotations

import io

import numpy as np
from PIL import Image
from starlette.responses import Response

from components.data_audit.thumbnails import shrink_image

# Contents do not change: their paths contain the key of the dataset.
_HEADERS = {"Cache-Control": "private, max-age=31536000, immutable"}
_MEDIA_TYPES = {"JPEG": "image/jpeg", "PNG": "image/png", "GIF": "image/gif"}


def respond(content: bytes, format_: str) -> Response:
    """Returns an image file."""
    return Response(content, media_type=_MEDIA_TYPES[format_], headers=_HEADERS)


def respond_drawing(pixels: np.ndarray) -> Response:
    """Returns pixels, uint8 [h, w, 3], as a PNG file."""
    return respond(png(Image.fromarray(pixels)), "PNG")


def png(image: Image.Image) -> bytes:
    """Encodes an image as PNG, quickly rather than small."""
    buffer = io.BytesIO()
    image.save(buffer, "PNG", compress_level=1)
    return buffer.getvalue()


def shrink_drawing(pixels: np.ndarray) -> bytes:
    """Returns a thumbnail of a drawing, uint8 [h, w, 3]."""
    return shrink_image(Image.fromarray(pixels))
