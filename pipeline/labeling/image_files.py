"""Sizes of upright images, masks of labels, and names of files, read without TensorFlow."""

from __future__ import annotations

import io
import re
from pathlib import PurePosixPath
from typing import NamedTuple

import numpy as np

from components.image_example_gen.errors import DatasetError
from pipeline.labeling.confirmed import Label
from trainer_module import features, image_formats
from trainer_module.error_text import first_line

_ORIENTATION_TAG = 0x0112
_SUFFIXES = {
    **{"JPEG": ".jpg", "PNG": ".png", "GIF": ".gif", "WebP": ".webp", "BMP": ".bmp", "TIFF": ".tif"},
    **{"AVIF": ".avif", "HEIC": ".heic"},
}
_MOST_CHARACTERS = 80


class UprightSize(NamedTuple):
    """Width and height of an upright image, pixels, and the EXIF orientation of its pixels, 1 to 8."""

    width: int
    height: int
    orientation: int = 1


def upright_size(filename: str, encoded: bytes) -> UprightSize:
    """Reads the size from the header.

    Raises:
      DatasetError: If it cannot be read.
    """
    from PIL import Image

    try:
        with Image.open(io.BytesIO(encoded)) as header:
            # Decoders apply that of JPEG files only.
            orientation = int(header.getexif().get(_ORIENTATION_TAG, 1)) if header.format in ("JPEG", "MPO") else 1
            width, height = header.size
    except Exception as error:  # a damaged header can break Pillow's parsers in any way
        raise DatasetError(f"{filename} cannot be read: {first_line(error)}.") from None
    return UprightSize(height, width, orientation) if orientation >= 5 else UprightSize(width, height, orientation)


def mask_ids(label: Label) -> np.ndarray:
    """Reads the mask of a label: uint8 [height, width], class ids."""
    from PIL import Image

    encoded = label[features.MASK_ENCODED][0]
    assert isinstance(encoded, bytes)
    with Image.open(io.BytesIO(encoded)) as image:
        return np.asarray(image.convert("L") if image.mode not in ("L", "P") else image)


def file_name(name: str, encoded: bytes, sha256: str, taken: set[str]) -> str:
    """Returns a name without special characters, with the suffix of the format; its stem is not yet taken.

    Args:
      name: The wanted name, or a path.
      encoded: Bytes of the image file.
      sha256: Hex digest of these, which distinguishes images of the same name.
      taken: Stems in lower case; receives that of the name.

    Raises:
      DatasetError: If it is not an image file.
    """
    suffix = _SUFFIXES.get(image_formats.name_of(encoded))
    if suffix is None:
        raise DatasetError(f"{name} is not an image file.")
    stem = re.sub(r"[^A-Za-z0-9._-]+", "-", PurePosixPath(name).stem)[:_MOST_CHARACTERS].strip(".-_") or "image"
    if stem.lower() in taken:
        stem = f"{stem}-{sha256[:16]}"
    taken.add(stem.lower())
    return f"{stem}{suffix}"
