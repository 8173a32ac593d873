"""The font of drawings: DejaVu Sans of matplotlib, which has the letters of many languages. Imports no matplotlib."""

from __future__ import annotations

import functools
import importlib.util
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from PIL import ImageFont


@functools.lru_cache(maxsize=32)
def load(size: int, *, bold: bool = False) -> ImageFont.FreeTypeFont:
    """Loads the font.

    Args:
      size: Height of a line, pixels.
      bold: Whether to load the bold one.
    """
    from PIL import ImageFont

    spec = importlib.util.find_spec("matplotlib")
    assert spec is not None and spec.submodule_search_locations
    folder = Path(spec.submodule_search_locations[0], "mpl-data", "fonts", "ttf")
    return ImageFont.truetype(str(folder / ("DejaVuSans-Bold.ttf" if bold else "DejaVuSans.ttf")), size)
