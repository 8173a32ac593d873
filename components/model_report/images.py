"""Images inside the page: small files as data URIs."""

from __future__ import annotations

import base64
import io
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from PIL import Image

from components.data_audit.thumbnails import NUM_THUMBNAILS
from trainer_module.model_input import limited

# Images per report: incorrect and correct predictions, each with an overlay, or compared examples with three panels.
NUM_INCORRECT, NUM_CORRECT, NUM_COMPARED = 12, 6, 12
# Bytes of all images together, in base64. One image takes at most its share.
BUDGET = 3_000_000
MAX_BYTES = BUDGET // (max(2 * (NUM_INCORRECT + NUM_CORRECT), 4 * NUM_COMPARED) + NUM_THUMBNAILS) * 3 // 4
# Larger images are reduced: the page shows them at about half this size, for screens with two pixels per point.
MAX_SIDE = 384
# Smaller images are shown with square pixels: smoothing would show details that the model does not see.
_CRISP_BELOW = 160
_QUALITY = 80
_REDUCTION = 0.8


@dataclass(frozen=True)
class EmbeddedImage:
    """An image on the page.

    Attributes:
      uri: The whole file as `data:`.
      width: Pixels.
      height: Pixels.
      alt: Its content in words.
      reduced: Whether it is smaller than MAX_SIDE requires, to fit into its share of the page.
    """

    uri: str
    width: int
    height: int
    alt: str
    reduced: bool = False

    @property
    def crisp(self) -> bool:
        """Whether its pixels are shown as squares."""
        return max(self.width, self.height) < _CRISP_BELOW and not self.reduced


def embed_photo(image: Image.Image, alt: str) -> EmbeddedImage:
    """Encodes an image as WebP or PNG, whichever is smaller: WebP suits photographs, PNG suits drawings."""

    def encode(image: Image.Image) -> tuple[str, bytes]:
        webp, png = _encode(image, "WEBP", quality=_QUALITY, method=4), _encode(image, "PNG", optimize=True)
        return ("webp", webp) if len(webp) < len(png) else ("png", png)

    return _fit(image.convert("RGB"), alt, Image.Resampling.LANCZOS, encode)


def embed_drawing(pixels: np.ndarray, alt: str) -> EmbeddedImage:
    """Encodes a drawing: without loss and with the same colours at any size, unless it has more than 256 of them.

    Args:
      pixels: uint8 [h, w, 3].
      alt: Its content in words.
    """
    packed = pixels.astype(np.uint32) @ np.array([1 << 16, 1 << 8, 1], np.uint32)
    colors, ids = np.unique(packed, return_inverse=True)
    if len(colors) > 256:
        return embed_photo(Image.fromarray(pixels), alt)
    image = Image.fromarray(ids.reshape(packed.shape).astype(np.uint8))
    image.putpalette([int(color) >> shift & 255 for color in colors for shift in (16, 8, 0)])
    return _fit(image, alt, Image.Resampling.NEAREST, lambda image: ("png", _encode(image, "PNG", optimize=True)))


def _fit(
    image: Image.Image,
    alt: str,
    resampling: Image.Resampling,
    encode: Callable[[Image.Image], tuple[str, bytes]],
) -> EmbeddedImage:
    """Encodes an image, reduced until it fits into its share of the page."""
    side, reduced = MAX_SIDE, False
    while True:
        size = limited(image.size, side)
        kind, encoded = encode(image.resize(size, resampling) if size != image.size else image)
        if len(encoded) <= MAX_BYTES:
            break
        side, reduced = round(max(size) * _REDUCTION), True
    uri = f"data:image/{kind};base64,{base64.b64encode(encoded).decode()}"
    return EmbeddedImage(uri, *size, alt, reduced)


def _encode(image: Image.Image, format_: str, **options: object) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, format=format_, **options)
    return buffer.getvalue()
