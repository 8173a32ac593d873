"""Pictures inside of the page: small files as data URIs."""

from __future__ import annotations

import base64
import io
from dataclasses import dataclass

from PIL import Image

# Larger pictures are made smaller: they are shown at about half of this, on screens of two pixels a point.
MOST_PIXELS = 384
# Below this a picture is shown with its pixels as squares: smoothing would show what the model has not seen.
_CRISP_BELOW = 160
_QUALITY = 80


@dataclass(frozen=True)
class Picture:
    """A picture on the page.

    Attributes:
      uri: The whole file as `data:`.
      width: Pixels.
      height: Pixels.
      alt: What it shows, in words.
    """

    uri: str
    width: int
    height: int
    alt: str

    @property
    def crisp(self) -> bool:
        """Whether its pixels are to be shown as squares."""
        return max(self.width, self.height) < _CRISP_BELOW


def photograph(image: Image.Image, alt: str) -> Picture:
    """Encodes a picture as WebP or PNG, whichever is smaller: one is made for photographs, the other for drawings."""
    image = image.convert("RGB")
    image.thumbnail((MOST_PIXELS, MOST_PIXELS), Image.Resampling.LANCZOS)
    encoded = {"webp": _encode(image, "WEBP", quality=_QUALITY, method=4), "png": _encode(image, "PNG", optimize=True)}
    kind = min(encoded, key=lambda name: len(encoded[name]))
    return _picture(image, kind, encoded[kind], alt)


def drawing(image: Image.Image, alt: str) -> Picture:
    """Encodes a picture of few colours without loss; a smaller one keeps its colours too."""
    if max(image.size) > MOST_PIXELS:
        factor = MOST_PIXELS / max(image.size)
        size = (max(1, round(image.width * factor)), max(1, round(image.height * factor)))
        image = image.resize(size, Image.Resampling.NEAREST)
    return _picture(image, "png", _encode(image, "PNG", optimize=True), alt)


def _encode(image: Image.Image, format_: str, **options: object) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, format=format_, **options)
    return buffer.getvalue()


def _picture(image: Image.Image, kind: str, encoded: bytes, alt: str) -> Picture:
    uri = f"data:image/{kind};base64,{base64.b64encode(encoded).decode()}"
    return Picture(uri, image.width, image.height, alt)
