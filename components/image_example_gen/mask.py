"""Masks: any lossless image file of class ids → one grey PNG of class ids."""

from __future__ import annotations

import io

import numpy as np
from PIL import Image

from components.image_example_gen.errors import UnusableImageError
from trainer_module.error_text import first_line

_FORMATS = ["PNG", "BMP", "TIFF", "GIF"]  # no lossy format: it would change ids


def normalize(
    encoded: bytes, *, height: int, width: int, num_classes: int, ignore_id: int | None
) -> tuple[bytes, list[int]]:
    """Checks a mask and writes it as a grey PNG.

    Args:
      encoded: Bytes of the file: grey, black and white, palette (the index is the id, as in Pascal VOC), or colours
        whose three channels are equal.
      height: Height of the upright image, pixels; the mask is drawn on that.
      width: Width of the upright image, pixels.
      num_classes: Ids are below it.
      ignore_id: An id that is allowed as well.

    Returns:
      PNG of uint8 [height, width], and the class ids that occur in it, ascending, without ignore_id.

    Raises:
      UnusableImageError: If it is damaged, has another size than its image, colours, or an unknown id.
    """
    try:
        with Image.open(io.BytesIO(encoded), formats=_FORMATS) as mask:
            if mask.size != (width, height):
                raise UnusableImageError(
                    f"its mask is {mask.width} x {mask.height}, the image {width} x {height} pixels"
                )
            ids = np.asarray(mask.convert("L") if mask.mode == "1" else mask) // _scale(encoded, mask.mode)
    except UnusableImageError:
        raise
    except Exception as error:  # a damaged file can break Pillow's parsers in any way
        raise UnusableImageError(f"damaged mask: {first_line(error)}") from None
    if not np.issubdtype(ids.dtype, np.integer):
        raise UnusableImageError("its mask contains fractions; expected class ids")
    if ids.ndim == 3:
        if ids.shape[-1] > 2 and not (ids[..., :3] == ids[..., :1]).all():
            raise UnusableImageError("its mask has colours; expected one channel of class ids")
        ids = ids[..., 0]
    present = np.unique(ids)
    classes = [int(value) for value in present if value != ignore_id]
    unknown = [value for value in classes if not 0 <= value < num_classes]
    if unknown:
        raise UnusableImageError(
            f"its mask has id {unknown[0]}, which is not one of the {num_classes} classes (0 to {num_classes - 1})"
            + ("" if ignore_id is None else f" and not the ignored id {ignore_id}")
        )
    buffer = io.BytesIO()
    Image.fromarray(ids.astype(np.uint8)).save(buffer, "PNG")
    return buffer.getvalue(), classes


def _scale(encoded: bytes, mode: str) -> int:
    """Returns the factor by which Pillow multiplies ids: it stretches grey of 1, 2 and 4 bits to the range of 8.

    Pillow does not report the bit depth of a file, so it is read from the header.

    Reference: PNG (W3C, third edition), 11.2.1: the bit depth is byte 24 of the file, the colour type byte 25.
    """
    if mode == "1":
        return 255
    is_grey_png = encoded.startswith(b"\x89PNG") and encoded[25] == 0
    return {2: 85, 4: 17}.get(encoded[24], 1) if is_grey_png else 1
