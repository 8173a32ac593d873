"""Masks: whatever file says which class every pixel is of → one PNG of class ids."""

from __future__ import annotations

import io

import numpy as np
from PIL import Image

from trainer_module.error_text import first_line

_FORMATS = ["PNG", "BMP", "TIFF", "GIF"]  # nothing that changes values to save space


class UnusableMaskError(Exception):
    """The picture goes to quarantine with its mask; the message is the reason."""


def normalize(
    encoded: bytes, *, height: int, width: int, num_classes: int, ignore_id: int | None
) -> tuple[bytes, list[int]]:
    """Checks a mask and writes it as a grey PNG.

    Args:
      encoded: The file's bytes: grey, black and white, palette (the index is the id, as in Pascal VOC), or colours
        whose three channels are equal.
      height: Of the picture as it stands upright; the mask is drawn on that.
      width: Of the picture, upright.
      num_classes: Ids are below it.
      ignore_id: An id that is allowed besides.

    Returns:
      PNG of uint8 [height, width], and the ids of classes that occur in it, ascending, without ignore_id.

    Raises:
      UnusableMaskError: If it is damaged, has another size than its picture, colours, or an unknown id.
    """
    try:
        with Image.open(io.BytesIO(encoded), formats=_FORMATS) as image:
            if image.size != (width, height):
                raise UnusableMaskError(
                    f"its mask is {image.width} x {image.height}, the picture {width} x {height} pixels"
                )
            ids = np.asarray(image.convert("L") if image.mode == "1" else image) // _scale(encoded, image.mode)
    except UnusableMaskError:
        raise
    except Exception as error:  # a damaged file can break Pillow's parsers in any way
        raise UnusableMaskError(f"damaged mask: {first_line(error)}") from None
    if not np.issubdtype(ids.dtype, np.integer):
        raise UnusableMaskError("its mask holds fractions; expected class ids")
    if ids.ndim == 3:
        if ids.shape[-1] > 2 and not (ids[..., :3] == ids[..., :1]).all():
            raise UnusableMaskError("its mask has colours; expected one channel of class ids")
        ids = ids[..., 0]
    present = np.unique(ids)
    classes = [int(value) for value in present if value != ignore_id]
    unknown = [value for value in classes if not 0 <= value < num_classes]
    if unknown:
        raise UnusableMaskError(
            f"its mask has id {unknown[0]}, which is none of the {num_classes} classes (0 to {num_classes - 1})"
            + ("" if ignore_id is None else f" and not the ignored id {ignore_id}")
        )
    buffer = io.BytesIO()
    Image.fromarray(ids.astype(np.uint8)).save(buffer, "PNG")
    return buffer.getvalue(), classes


def _scale(encoded: bytes, mode: str) -> int:
    """What Pillow multiplies the values with: it stretches grey of 1, 2 and 4 bits to the range of 8.

    Reference: PNG (W3C, third edition), 11.2.1: the bit depth is byte 24 of the file, the colour type byte 25.
    """
    if mode == "1":
        return 255
    is_grey_png = encoded.startswith(b"\x89PNG") and encoded[25] == 0
    return {2: 85, 4: 17}.get(encoded[24], 1) if is_grey_png else 1
