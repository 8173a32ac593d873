"""Is this file a picture that the rest of the pipeline can use, and what kind of picture is it?"""

from __future__ import annotations

import io
import warnings
from dataclasses import dataclass

import tensorflow as tf
from PIL import Image, UnidentifiedImageError

from trainer_module import preprocessing
from trainer_module.error_text import first_line

# Phones write JPEG files with a second picture behind the first; Pillow calls them MPO, every decoder reads the first.
_FORMATS = {"JPEG": "JPEG", "MPO": "JPEG", "PNG": "PNG"}


class UnreadablePictureError(Exception):
    """The file goes to quarantine; the message is the reason."""


@dataclass(frozen=True)
class Picture:
    """What is known of a readable picture.

    Attributes:
      format: "JPEG" or "PNG".
      height: Pixels.
      width: Pixels.
      brightness: Mean luma, range [0, 255].
    """

    format: str
    height: int
    width: int
    brightness: float


def examine(encoded: bytes, max_pixels: int) -> Picture:
    """Reads the header, refuses what is too large, then decodes with the decoder that Transform and serving use.

    Args:
      encoded: The file's bytes.
      max_pixels: Limit of height x width, checked before anything is decoded.

    Raises:
      UnreadablePictureError: If the file is empty, not a JPEG or PNG, animated, too large, or damaged.
    """
    if not encoded:
        raise UnreadablePictureError("empty file")
    try:
        with _open_header(encoded) as header:
            width, height = header.size
            name = _FORMATS[header.format or ""]
            frames = getattr(header, "n_frames", 1) if header.format == "PNG" else 1
    except Image.DecompressionBombError:
        raise UnreadablePictureError(f"more than data.max_pixels = {max_pixels} pixels") from None
    except UnidentifiedImageError:
        raise UnreadablePictureError("not a JPEG or PNG file") from None
    except Exception as error:  # a damaged header can break Pillow's parsers in any way
        raise UnreadablePictureError(f"damaged header: {first_line(error)}") from None
    if width * height > max_pixels:
        raise UnreadablePictureError(f"{width} x {height} is more than data.max_pixels = {max_pixels} pixels")
    if frames > 1:
        raise UnreadablePictureError(f"animated: {frames} frames")
    try:
        pixels = preprocessing.decode(tf.constant(encoded), channels=3).numpy()
    except tf.errors.OpError as error:
        raise UnreadablePictureError(f"damaged or truncated {name}: {first_line(error)}") from None
    mean_red, mean_green, mean_blue = pixels.reshape(-1, 3).mean(axis=0)
    # Luma of ITU-R BT.601, section 2.5.1.
    brightness = 0.299 * mean_red + 0.587 * mean_green + 0.114 * mean_blue
    return Picture(name, height, width, float(brightness))


def slices_of(picture: Picture) -> dict[str, str]:
    """The built-in slice values, by slice name.

    brightness: mean luma below 85 is dark, from 170 bright. resolution: shorter side below 128 pixels is small, from
    512 large. orientation: square where the sides differ by less than a tenth.
    """
    shorter = min(picture.height, picture.width)
    aspect = picture.width / picture.height
    return {
        "brightness": "dark" if picture.brightness < 85 else "bright" if picture.brightness >= 170 else "normal",
        "resolution": "small" if shorter < 128 else "large" if shorter >= 512 else "medium",
        "orientation": "portrait" if aspect < 1 / 1.1 else "landscape" if aspect > 1.1 else "square",
    }


def _open_header(encoded: bytes) -> Image.Image:
    with warnings.catch_warnings():
        # Our own limit is checked by the caller, and means a reason instead of a warning.
        warnings.simplefilter("ignore", Image.DecompressionBombWarning)
        # `formats` keeps Pillow's other, less used parsers away from untrusted bytes.
        return Image.open(io.BytesIO(encoded), formats=["JPEG", "PNG"])
