"""Pictures inside of the page: small files as data URIs."""

from __future__ import annotations

import base64
import io
from collections.abc import Callable
from dataclasses import dataclass

from PIL import Image

# How many are shown: of wrong and of right decisions, each with its heat map; of masks, each picture with three more.
NUM_MISTAKES, NUM_RIGHT, NUM_MASKS = 12, 6, 12
# Bytes on the page that all of them take together, in base64; one takes no more than its share.
BUDGET = 3_000_000
MOST_BYTES = BUDGET // max(2 * (NUM_MISTAKES + NUM_RIGHT), 4 * NUM_MASKS) * 3 // 4
# Larger pictures are made smaller: they are shown at about half of this, on screens of two pixels a point.
MOST_PIXELS = 384
# Below this a picture is shown with its pixels as squares: smoothing would show what the model has not seen.
_CRISP_BELOW = 160
_QUALITY = 80
_SMALLER = 0.8


@dataclass(frozen=True)
class Picture:
    """A picture on the page.

    Attributes:
      uri: The whole file as `data:`.
      width: Pixels.
      height: Pixels.
      alt: What it shows, in words.
      reduced: Whether it was made smaller still, as it would have taken more than its share of the page.
    """

    uri: str
    width: int
    height: int
    alt: str
    reduced: bool = False

    @property
    def crisp(self) -> bool:
        """Whether its pixels are to be shown as squares."""
        return max(self.width, self.height) < _CRISP_BELOW and not self.reduced


def photograph(image: Image.Image, alt: str) -> Picture:
    """Encodes a picture as WebP or PNG, whichever is smaller: one is made for photographs, the other for drawings."""
    image = image.convert("RGB")

    def encode(image: Image.Image) -> tuple[str, bytes]:
        webp, png = _encode(image, "WEBP", quality=_QUALITY, method=4), _encode(image, "PNG", optimize=True)
        return ("webp", webp) if len(webp) < len(png) else ("png", png)

    return _fitting(image, alt, Image.Resampling.LANCZOS, encode)


def drawing(image: Image.Image, alt: str) -> Picture:
    """Encodes a picture of few colours without loss; a smaller one keeps its colours too."""
    return _fitting(image, alt, Image.Resampling.NEAREST, lambda image: ("png", _encode(image, "PNG", optimize=True)))


def _fitting(
    image: Image.Image,
    alt: str,
    resampling: Image.Resampling,
    encode: Callable[[Image.Image], tuple[str, bytes]],
) -> Picture:
    """Encodes a picture so small that it takes no more than its share of the page."""
    most, reduced = MOST_PIXELS, False
    while True:
        factor = min(1.0, most / max(image.size))
        size = (max(1, round(image.width * factor)), max(1, round(image.height * factor)))
        resized = image.resize(size, resampling) if size != image.size else image
        kind, encoded = encode(resized)
        if len(encoded) <= MOST_BYTES:
            break
        most, reduced = round(max(size) * _SMALLER), True
    uri = f"data:image/{kind};base64,{base64.b64encode(encoded).decode()}"
    return Picture(uri, *size, alt, reduced)


def _encode(image: Image.Image, format_: str, **options: object) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, format=format_, **options)
    return buffer.getvalue()
