"""Images in RGB, enlarged by a whole factor: what every task draws on."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np


def enlarged_rgb(image: np.ndarray, scale: int = 1) -> np.ndarray:
    """Repeats pixels, and the channel of a gray image: uint8 [h, w, 1 or 3] → uint8 [scale * h, scale * w, 3]."""
    pixels = image.repeat(3, axis=-1) if image.shape[-1] == 1 else image
    return pixels.repeat(scale, axis=0).repeat(scale, axis=1)
