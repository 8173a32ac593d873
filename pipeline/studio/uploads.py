"""Images that a user gives to the page: checked by their header before anything decodes their pixels."""

from __future__ import annotations

import io
import warnings

from trainer_module import features

# Formats that models decode; others are re-encoded without loss.
_UPRIGHT_FORMAT = "PNG"


class UnusableUploadError(Exception):
    """The bytes are not an image that can be sent to a model."""


def prepare(content: bytes, max_pixels: int) -> bytes:
    """Returns the image in a format that models read; JPEG, PNG and GIF are not changed.

    Args:
      content: The file.
      max_pixels: Largest image, pixels.

    Raises:
      UnusableUploadError: If it is not an image, or too large.
    """
    from PIL import Image, ImageOps, UnidentifiedImageError

    if not content:
        raise UnusableUploadError("The request contains no image.")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)
            with Image.open(io.BytesIO(content)) as image:
                if image.width * image.height > max_pixels:
                    raise UnusableUploadError(
                        f"The image has {image.width} x {image.height} pixels; at most {max_pixels:,} are allowed."
                    )
                if image.format in features.IMAGE_FORMATS:
                    return content
                buffer = io.BytesIO()
                ImageOps.exif_transpose(image).convert("RGB").save(buffer, _UPRIGHT_FORMAT)
                return buffer.getvalue()
    except (UnidentifiedImageError, Image.DecompressionBombError, OSError, ValueError, SyntaxError) as error:
        raise UnusableUploadError("This file is not an image that can be read. Use JPEG, PNG, GIF or WebP.") from error
