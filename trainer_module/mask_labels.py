"""The label of an image for segmentation: uint8 [height, width] with class ids, the ignored id and padding."""

from __future__ import annotations

import io
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import numpy as np

# Pixels of the model input that lie outside the image (`transform.resize = "pad"`): in no loss and no metric.
PADDING_ID = 255


def counted(mask: Any, ignore_id: int | None, num_classes: int = PADDING_ID) -> Any:
    """Finds the pixels that have a class.

    Args:
      mask: Integers [...], an array or a tensor.
      ignore_id: The id of pixels that do not count, if there is one.
      num_classes: Number of classes; only with 256 of them is `PADDING_ID` a class.

    Returns:
      bool [...].
    """
    inside = (mask != PADDING_ID) if num_classes <= PADDING_ID else (mask == mask)
    return inside if ignore_id is None else inside & (mask != ignore_id)


def decode(png: bytes) -> np.ndarray:
    """Reads a PNG file of class ids: uint8 [height, width].

    Raises:
      OSError: If it cannot be read.
    """
    import numpy as np
    from PIL import Image

    with Image.open(io.BytesIO(png), formats=("PNG",)) as image:
        return np.asarray(image)
