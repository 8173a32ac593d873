"""Statistics and a thumbnail of an image file, by which requests are compared with the test split.

Needs Pillow and NumPy only: the same function reads the images of the test split and those of requests.
"""

from __future__ import annotations

import io
import math
import warnings
from collections.abc import Iterable
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from trainer_module.model_input import FULL_WINDOW, Window

if TYPE_CHECKING:
    from PIL import Image

# brightness: mean luma, [0, 255]. contrast: its standard deviation. sharpness: mean absolute difference of neighbouring
# pixels. noise: estimated standard deviation of noise. saturation: mean difference of the largest and the smallest
# channel. chroma_red, chroma_blue: mean Cr and Cb of JFIF. width, height: pixels, upright.
NAMES = (
    "brightness",
    "contrast",
    "sharpness",
    "noise",
    "saturation",
    "chroma_red",
    "chroma_blue",
    "width",
    "height",
    "aspect_ratio",
)
# Larger images are reduced by a whole factor: what disappears then, a network of this input size does not see either.
_LONGEST_SIDE = 512
# Immerkaer 1996, Fast Noise Variance Estimation, section 2: a second difference in both directions.
_NOISE_SCALE = math.sqrt(math.pi / 2.0) / 6.0
_THUMBNAIL_SIDE = 8


class Measured(NamedTuple):
    """An image, or N images.

    Attributes:
      statistics: float32 [len(NAMES)] or [N, len(NAMES)].
      thumbnail: float32 [64] or [N, 64], luma, range [0, 255]: means of the parts of an 8 x 8 grid.
    """

    statistics: np.ndarray
    thumbnail: np.ndarray


def measure_all(encoded: Iterable[bytes], window: Window = FULL_WINDOW) -> Measured:
    """Measures image files; see `measure`."""
    return stack(measure(each, window) for each in encoded)


def stack(images: Iterable[Measured]) -> Measured:
    """Stacks what was measured of single images."""
    rows = list(images)
    if not rows:
        return Measured(np.zeros((0, len(NAMES)), np.float32), np.zeros((0, _THUMBNAIL_SIDE**2), np.float32))
    return Measured(*map(np.stack, zip(*rows, strict=True)))


def measure(encoded: bytes, window: Window = FULL_WINDOW) -> Measured:
    """Measures an image file.

    Args:
      encoded: Bytes of a file that the model decodes.
      window: Which values of a 16-bit image become black and white.

    Returns:
      Statistics and thumbnail; all of them NaN if Pillow cannot read the file.
    """
    from PIL import Image

    try:
        with warnings.catch_warnings(action="ignore"):
            image = decode_rgb(encoded, window)
    except Exception:  # a damaged file can break Pillow's parsers in any way
        return Measured(np.full(len(NAMES), np.nan, np.float32), np.full(_THUMBNAIL_SIDE**2, np.nan, np.float32))
    width, height = image.size
    factor = math.ceil(max(width, height) / _LONGEST_SIDE)
    reduced = image.reduce(factor) if factor > 1 else image
    statistics = [*_of_pixels(np.asarray(reduced, np.float32)), width, height, width / height]
    thumbnail = reduced.convert("L").resize((_THUMBNAIL_SIDE, _THUMBNAIL_SIDE), Image.Resampling.BOX)
    return Measured(np.array(statistics, np.float32), np.asarray(thumbnail, np.float32).ravel())


def decode_rgb(encoded: bytes, window: Window = FULL_WINDOW) -> Image.Image:
    """Decodes an image as models do: 8 bits per channel, upright by its EXIF orientation, which PNG files do not apply.

    Pillow reads only the high byte of 16-bit colours, so that these have fewer different values than the model sees.

    Args:
      encoded: Bytes of the file.
      window: Which values of a 16-bit image become black and white.

    Raises:
      Exception: If Pillow cannot read the file.
    """
    from PIL import Image, ImageOps

    with Image.open(io.BytesIO(encoded)) as opened:
        image = opened if opened.format == "PNG" else ImageOps.exif_transpose(opened)
        if image.mode.startswith("I"):  # Pillow would clip the values instead of scaling them
            return _reduced(np.asarray(image, np.int64), window)
        rgb = image.convert("RGB")
    if window != FULL_WINDOW and is_deep_png(encoded):
        return _reduced(np.asarray(rgb, np.int64) * 257, window)
    return rgb


def is_deep_png(encoded: bytes) -> bool:
    """Whether a file is a PNG of 16 bits per channel."""
    return encoded.startswith(b"\x89PNG") and len(encoded) > 24 and encoded[24] == 16


def _reduced(values: np.ndarray, window: Window) -> Image.Image:
    """Reduces 16-bit values, int64 [h, w] or [h, w, 3]; the same as `preprocessing.decode_as_stored`."""
    from PIL import Image

    above = np.clip(values, window.low, window.high) - window.low
    return Image.fromarray((above * 256 // (window.high - window.low + 1)).astype(np.uint8)).convert("RGB")


def _of_pixels(pixels: np.ndarray) -> tuple[float, ...]:
    """Measures float32 [h, w, 3], range [0, 255]."""
    red, green, blue = np.moveaxis(pixels, -1, 0)
    luma = 0.299 * red + 0.587 * green + 0.114 * blue  # ITU-R BT.601, section 2.5.1
    across, down = np.abs(np.diff(luma, axis=1)), np.abs(np.diff(luma, axis=0))
    brightness = float(luma.mean())
    return (
        brightness,
        float(luma.std()),
        _mean(across) + _mean(down),
        _NOISE_SCALE * _mean(np.abs(np.diff(np.diff(luma, n=2, axis=0), n=2, axis=1))),
        float((pixels.max(axis=-1) - pixels.min(axis=-1)).mean()),
        0.713 * (float(red.mean()) - brightness) + 128.0,
        0.564 * (float(blue.mean()) - brightness) + 128.0,
    )


def _mean(values: np.ndarray) -> float:
    return float(values.mean()) if values.size else 0.0


def slices(height: float, width: float, brightness: float) -> dict[str, str]:
    """Returns the built-in slice values of an image, by slice name.

    brightness: mean luma below 85 is dark, from 170 bright. resolution: shorter side below 128 pixels is small, from
    512 large. orientation: square if the sides differ by less than a tenth.
    """
    shorter, aspect = min(height, width), width / height
    return {
        "brightness": "dark" if brightness < 85 else "bright" if brightness >= 170 else "normal",
        "resolution": "small" if shorter < 128 else "large" if shorter >= 512 else "medium",
        "orientation": "portrait" if aspect < 1 / 1.1 else "landscape" if aspect > 1.1 else "square",
    }


def slices_of(row: np.ndarray) -> dict[str, str]:
    """Returns the same from the statistics of an image; none if it could not be read."""
    values = dict(zip(NAMES, row.tolist(), strict=True))
    return {} if math.isnan(values["width"]) else slices(values["height"], values["width"], values["brightness"])
