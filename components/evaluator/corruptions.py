"""Standard corruptions of an image: lower quality, in five severities, without moving anything.

Reference: Hendrycks & Dietterich 2019, https://arxiv.org/abs/1903.12261, section 3; the parameters are those of
ImageNet-C (https://github.com/hendrycks/robustness, `create_c/make_imagenet_c.py`), made for images of 224 pixels.
`dark` is their `brightness` with the opposite sign. Corruptions that move pixels are missing, since masks and boxes
would have to follow, and those that need OpenCV or ImageMagick.
"""

from __future__ import annotations

import hashlib
import io
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any

import numpy as np

SEVERITIES = (1, 2, 3, 4, 5)
_PUBLISHED_SIDE = 224

# Pixels [h, w, 3] in [0, 1], the parameter, random numbers → pixels, of gray images also [h, w, 1]; clipped to [0, 1]
# afterwards.
_Corrupt = Callable[[np.ndarray, Any, np.random.Generator], Any]


def _sensors(pixels: np.ndarray) -> np.ndarray:
    """Returns the values that a camera measures: one channel of a gray image, whose noise is gray too."""
    return pixels[..., :1] if (pixels == pixels[..., :1]).all() else pixels


def _noise(pixels: np.ndarray, deviation: float, random: np.random.Generator) -> Any:
    pixels = _sensors(pixels)
    return pixels + random.normal(0.0, deviation, pixels.shape)


def _shot_noise(pixels: np.ndarray, photons: float, random: np.random.Generator) -> Any:
    return random.poisson(_sensors(pixels) * photons) / photons


def _impulse_noise(pixels: np.ndarray, share: float, random: np.random.Generator) -> Any:
    pixels = _sensors(pixels)
    drawn = random.uniform(size=pixels.shape)
    return np.where(drawn < share / 2, 0.0, np.where(drawn < share, 1.0, pixels))


def _speckle_noise(pixels: np.ndarray, deviation: float, random: np.random.Generator) -> Any:
    pixels = _sensors(pixels)
    return pixels * (1.0 + random.normal(0.0, deviation, pixels.shape))


def _blur(pixels: np.ndarray, sigma: float, _: np.random.Generator) -> Any:
    from scipy import ndimage

    scaled = sigma * min(pixels.shape[:2]) / _PUBLISHED_SIDE
    return ndimage.gaussian_filter(pixels, (scaled, scaled, 0.0), mode="nearest")


def _contrast(pixels: np.ndarray, factor: float, _: np.random.Generator) -> Any:
    mean = pixels.mean(axis=(0, 1), keepdims=True)
    return (pixels - mean) * factor + mean


def _lightness(pixels: np.ndarray, shift: float, _: np.random.Generator) -> Any:
    """Shifts the value of hue, saturation and value."""
    value = pixels.max(axis=2, keepdims=True)
    shifted = np.clip(value + shift, 0.0, 1.0)
    return np.where(value > 0.0, pixels * shifted / np.maximum(value, 1e-9), shifted)


def _darkness(pixels: np.ndarray, shift: float, random: np.random.Generator) -> Any:
    return _lightness(pixels, -shift, random)


def _saturate(pixels: np.ndarray, change: tuple[float, float], _: np.random.Generator) -> Any:
    """Multiplies the saturation of hue, saturation and value, and adds to it; grey stays grey."""
    factor, shift = change
    value = pixels.max(axis=2, keepdims=True)
    chroma = value - pixels.min(axis=2, keepdims=True)
    saturation = chroma / np.maximum(value, 1e-9)
    changed = np.clip(saturation * factor + shift, 0.0, 1.0)
    return value - (value - pixels) * np.where(chroma > 0.0, changed / np.maximum(saturation, 1e-9), 0.0)


def _jpeg(pixels: np.ndarray, quality: int, _: np.random.Generator) -> Any:
    from PIL import Image

    buffer = io.BytesIO()
    Image.fromarray(_to_bytes(pixels)).save(buffer, "JPEG", quality=quality)
    return np.asarray(Image.open(buffer)) / 255.0


def _pixelate(pixels: np.ndarray, factor: float, _: np.random.Generator) -> Any:
    height, width = pixels.shape[:2]
    coarse = _resized(_to_bytes(pixels), max(1, int(height * factor)), max(1, int(width * factor)))
    return _resized(coarse, height, width) / 255.0


_CORRUPTIONS: Mapping[str, tuple[_Corrupt, tuple[Any, ...]]] = MappingProxyType(
    {
        "jpeg": (_jpeg, (25, 18, 15, 10, 7)),
        "blur": (_blur, (1, 2, 3, 4, 6)),
        "pixelate": (_pixelate, (0.6, 0.5, 0.4, 0.3, 0.25)),
        "noise": (_noise, (0.08, 0.12, 0.18, 0.26, 0.38)),
        "shot_noise": (_shot_noise, (60, 25, 12, 5, 3)),
        "impulse_noise": (_impulse_noise, (0.03, 0.06, 0.09, 0.17, 0.27)),
        "speckle_noise": (_speckle_noise, (0.15, 0.2, 0.35, 0.45, 0.6)),
        "dark": (_darkness, (0.1, 0.2, 0.3, 0.4, 0.5)),
        "bright": (_lightness, (0.1, 0.2, 0.3, 0.4, 0.5)),
        "contrast": (_contrast, (0.4, 0.3, 0.2, 0.1, 0.05)),
        "saturate": (_saturate, ((0.3, 0), (0.1, 0), (2, 0), (5, 0.1), (20, 0.2))),
    }
)
NAMES = tuple(_CORRUPTIONS)


class CorruptibleImage:
    """An image that is corrupted in several ways: what these have in common is computed once.

    A larger image is corrupted at the size that the model sees: reducing it afterwards would average the noise. It is
    enlarged to its own size again, so that masks and boxes still fit.
    """

    def __init__(self, pixels: np.ndarray, side: int) -> None:
        """Reduces the image.

        Args:
          pixels: uint8 [h, w, 3].
          side: Length to which the shorter side of a larger image is reduced, pixels.
        """
        self._height, self._width = height, width = pixels.shape[:2]
        factor = min(1.0, side / min(height, width))
        self._reduced = _resized(pixels, round(height * factor), round(width * factor)) / 255.0
        self._digest = hashlib.sha256(pixels.tobytes() + f"{pixels.shape}".encode())

    def corrupt(self, name: str, severity: int) -> np.ndarray:
        """Applies a corruption; the same image, name and severity give the same result.

        Args:
          name: One of `NAMES`.
          severity: One of `SEVERITIES`.

        Returns:
          uint8 [h, w, 3], as large as the image.
        """
        function, parameters = _CORRUPTIONS[name]
        digest = self._digest.copy()
        digest.update(f" {name} {severity}".encode())
        random = np.random.default_rng(list(digest.digest()[:16]))
        corrupted = np.clip(function(self._reduced, parameters[severity - 1], random), 0.0, 1.0)
        return _resized(_to_bytes(np.broadcast_to(corrupted, self._reduced.shape)), self._height, self._width)


def _to_bytes(pixels: np.ndarray) -> np.ndarray:
    """Range [0, 1] → uint8, rounded."""
    rounded: np.ndarray = np.round(pixels * 255.0).astype(np.uint8)
    return rounded


def _resized(pixels: np.ndarray, height: int, width: int) -> np.ndarray:
    """Averages the pixels of every new one, or repeats a pixel: uint8 [height, width, 3]."""
    from PIL import Image

    if pixels.shape[:2] == (height, width):
        return pixels
    return np.asarray(Image.fromarray(pixels).resize((width, height), Image.Resampling.BOX))
