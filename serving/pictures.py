"""Pictures in any form a program has them → the encoded bytes that a model takes. Nothing is resized."""

from __future__ import annotations

import io
import os
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np

from serving.errors import UnreadablePictureError

if TYPE_CHECKING:
    from PIL import Image

Picture: TypeAlias = "str | os.PathLike[str] | bytes | Image.Image | np.ndarray"

# What PNG can hold as it is; every other mode is converted to RGB.
_PNG_MODES = ("1", "L", "LA", "P", "RGB", "RGBA")
# Without a meaning for a model of 8 bits a channel: how they map to [0, 255] is for the caller to say.
_WIDE_MODES = ("F", "I", "I;16", "I;16B", "I;16L", "I;16N")


def as_list(images: Iterable[Picture]) -> list[Picture]:
    """Checks that several pictures were given.

    Raises:
      TypeError: If it is one picture: its characters, bytes or rows would be taken for pictures.
    """
    one = isinstance(images, str | bytes | os.PathLike) or hasattr(images, "getexif")
    if one or (isinstance(images, np.ndarray) and images.dtype != object and images.ndim < 4):
        raise TypeError("Give a list of pictures; for one picture a list of one.")
    return list(images)


def encoded(picture: Picture) -> bytes:
    """Reads or encodes one picture.

    Args:
      picture: A path; the bytes of a JPEG, PNG or GIF file, which are passed on as they are; a PIL image; or an
        array, uint8 [h, w], [h, w, 1], [h, w, 3] or [h, w, 4], range [0, 255]. The latter two are encoded as PNG,
        which loses nothing; a PIL image that came with an EXIF orientation is turned upright, as a model does it.

    Raises:
      UnreadablePictureError: If there is no such file, or it is no picture.
    """
    if isinstance(picture, bytes):
        return picture
    if isinstance(picture, str | os.PathLike):
        try:
            return Path(picture).read_bytes()
        except OSError as error:
            raise _unreadable(f"{os.fspath(picture)}: {error.strerror or error}") from None
        except ValueError as error:  # a NUL in the name
            raise _unreadable(f"{os.fspath(picture)!r}: {error}") from None
    return _png(_from_array(picture) if isinstance(picture, np.ndarray) else picture)


def _from_array(array: np.ndarray) -> Image.Image:
    from PIL import Image

    if array.dtype != np.uint8:
        raise _unreadable(f"an array of {array.dtype}; give uint8, range [0, 255]")
    if array.ndim == 3 and array.shape[2] == 1:
        array = array[:, :, 0]
    if not (array.ndim == 2 or (array.ndim == 3 and array.shape[2] in (3, 4))) or 0 in array.shape:
        raise _unreadable(f"an array of the shape {list(array.shape)}; give [h, w], [h, w, 3] or [h, w, 4]")
    return Image.fromarray(np.ascontiguousarray(array))


def _png(image: Any) -> bytes:
    from PIL import Image, ImageOps

    if not isinstance(image, Image.Image):
        raise TypeError(f"{type(image).__name__} is no picture: give a path, bytes, a PIL image or a numpy array.")
    if image.mode in _WIDE_MODES:
        raise _unreadable(f"a PIL image of the mode {image.mode}; convert it to 8 bits a channel first")
    try:
        upright = ImageOps.exif_transpose(image)
        if upright.mode not in _PNG_MODES:
            upright = upright.convert("RGB")
        buffer = io.BytesIO()
        # The least compression: the time is better spent on sending.
        upright.save(buffer, format="PNG", compress_level=1)
    except (OSError, ValueError, SyntaxError) as error:  # PIL reads a file only here, and it may be cut off
        raise _unreadable(f"a PIL image: {error}") from None
    return buffer.getvalue()


def _unreadable(why: str) -> UnreadablePictureError:
    return UnreadablePictureError("INVALID_ARGUMENT", why)
