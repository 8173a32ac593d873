"""Is this file a picture that the rest of the pipeline can use, and what kind of picture is it?"""

from __future__ import annotations

import io
import warnings
from dataclasses import dataclass

import numpy as np
import tensorflow as tf
from PIL import Image, UnidentifiedImageError

from trainer_module import features, preprocessing
from trainer_module.error_text import first_line

# Phones write JPEG files with a second picture behind the first; Pillow calls them MPO, every decoder reads the first.
_FORMATS = {"JPEG": "JPEG", "MPO": "JPEG", "PNG": "PNG"}

# Luma of ITU-R BT.601, section 2.5.1, from red, green and blue.
_LUMA_WEIGHTS = np.array([0.299, 0.587, 0.114])


class UnreadablePictureError(Exception):
    """The file goes to quarantine; the message is the reason."""


@dataclass(frozen=True)
class Picture:
    """What is known of a readable picture.

    Attributes:
      format: "JPEG" or "PNG".
      height: Pixels.
      width: Pixels.
      mean: Mean of every channel, by the names of `features.CHANNELS`, range [0, 255].
      deviation: Standard deviation of every channel.
    """

    format: str
    height: int
    width: int
    mean: dict[str, float]
    deviation: dict[str, float]


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
        # Pillow's own limit, twice its warning's, which holds whatever data.max_pixels says.
        limit = min(max_pixels, 2 * (Image.MAX_IMAGE_PIXELS or max_pixels))
        raise UnreadablePictureError(f"more than data.max_pixels = {limit} pixels") from None
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
    return Picture(name, height, width, *moments(pixels))


def moments(pixels: np.ndarray) -> tuple[dict[str, float], dict[str, float]]:
    """Mean and standard deviation of red, green, blue and luma.

    All eight follow from the channels' means and their products' means, which is one matrix product over the pixels.

    Args:
      pixels: uint8 [height, width, 3].
    """
    flat = pixels.reshape(-1, 3).astype(np.float32)
    mean = flat.mean(axis=0, dtype=np.float64)
    flat -= mean.astype(np.float32)  # so that the products of large pictures stay exact enough in float32
    covariance = (flat.T @ flat).astype(np.float64) / len(flat)
    means = [*mean, _LUMA_WEIGHTS @ mean]
    variances = [*np.diag(covariance), _LUMA_WEIGHTS @ covariance @ _LUMA_WEIGHTS]
    deviations = np.sqrt(np.maximum(variances, 0.0))
    return (
        {channel: float(value) for channel, value in zip(features.CHANNELS, means, strict=True)},
        {channel: float(value) for channel, value in zip(features.CHANNELS, deviations, strict=True)},
    )


def slices_of(picture: Picture) -> dict[str, str]:
    """The built-in slice values, by slice name.

    brightness: mean luma below 85 is dark, from 170 bright. resolution: shorter side below 128 pixels is small, from
    512 large. orientation: square where the sides differ by less than a tenth.
    """
    shorter = min(picture.height, picture.width)
    aspect = picture.width / picture.height
    luma = picture.mean[features.LUMA]
    return {
        "brightness": "dark" if luma < 85 else "bright" if luma >= 170 else "normal",
        "resolution": "small" if shorter < 128 else "large" if shorter >= 512 else "medium",
        "orientation": "portrait" if aspect < 1 / 1.1 else "landscape" if aspect > 1.1 else "square",
    }


def _open_header(encoded: bytes) -> Image.Image:
    with warnings.catch_warnings():
        # Our own limit is checked by the caller, and means a reason instead of a warning.
        warnings.simplefilter("ignore", Image.DecompressionBombWarning)
        # `formats` keeps Pillow's other, less used parsers away from untrusted bytes.
        return Image.open(io.BytesIO(encoded), formats=["JPEG", "PNG"])
