"""Images that a user gives to the page: checked by their header before anything decodes their pixels."""

from __future__ import annotations

import io
import warnings

from trainer_module import features, image_formats


class UnusableUploadError(Exception):
    """The bytes are not an image that can be sent to a model."""


def prepare(content: bytes, max_pixels: int) -> bytes:
    """Returns the image in a format that models read: JPEG, PNG and GIF unchanged, others as PNG without loss.

    Args:
      content: The file.
      max_pixels: Largest image, pixels.

    Raises:
      UnusableUploadError: If it is not an image, or too large.
    """
    from PIL import Image, UnidentifiedImageError

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
        return image_formats.to_png(content, max_pixels).png
    except image_formats.ConversionError as error:
        raise UnusableUploadError(f"This file is not an image that can be sent to a model: {error}.") from None
    except (UnidentifiedImageError, Image.DecompressionBombError, OSError, ValueError, SyntaxError) as error:
        raise UnusableUploadError("This file is not an image that can be read. Use JPEG, PNG, GIF or WebP.") from error
