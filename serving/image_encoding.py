"""Images in any form that a program has → the encoded bytes that a model takes. Nothing is resized."""

from __future__ import annotations

import io
import os
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np

from serving.errors import UnreadableImageError
from trainer_module import image_formats

if TYPE_CHECKING:
    from PIL import Image

ImageInput: TypeAlias = "str | os.PathLike[str] | bytes | Image.Image | np.ndarray"

# PNG stores these modes unchanged; every other mode is converted to RGB.
_PNG_MODES = ("1", "L", "LA", "P", "RGB", "RGBA")
# Larger files are not decoded here: the default of data.max_pixels.
_MOST_PIXELS = 50_000_000
# More than 8 bits per channel: only the caller knows how they map to [0, 255].
_WIDE_MODES = ("F", "I", "I;16", "I;16B", "I;16L", "I;16N")


def as_list(images: Iterable[ImageInput]) -> list[ImageInput]:
    """Returns the images as a list.

    Raises:
      TypeError: If it is a single image: its characters, bytes or rows would be taken for images.
    """
    single = isinstance(images, str | bytes | os.PathLike) or hasattr(images, "getexif")
    if single or (isinstance(images, np.ndarray) and images.dtype != object and images.ndim < 4):
        raise TypeError("images must be a list; pass a single image as a list of one.")
    return list(images)


def encode(image: ImageInput) -> bytes:
    """Reads or encodes one image.

    Args:
      image: A path; the bytes of a file; a PIL image; or an array, uint8 [h, w], [h, w, 1], [h, w, 3] or [h, w, 4],
        range [0, 255]. JPEG, PNG and GIF files are returned unchanged; WebP, BMP, TIFF, AVIF and HEIC files, PIL images
        and arrays are encoded as PNG, which is lossless. An EXIF orientation is applied, as a model does.

    Raises:
      UnreadableImageError: If the file does not exist, or it is not an image.
    """
    if isinstance(image, bytes):
        return _readable(image, "image")
    if isinstance(image, str | os.PathLike):
        try:
            return _readable(Path(image).read_bytes(), os.fspath(image))
        except OSError as error:
            raise _unreadable(f"{os.fspath(image)}: {error.strerror or error}") from None
        except ValueError as error:  # a NUL in the name
            raise _unreadable(f"{os.fspath(image)!r}: {error}") from None
    return _png(_from_array(image) if isinstance(image, np.ndarray) else image)


def _readable(encoded: bytes, name: str) -> bytes:
    """Converts a file in a format that models do not read; the server reports files of unknown formats."""
    if not image_formats.is_converted(encoded):
        return encoded
    try:
        return image_formats.to_png(encoded, _MOST_PIXELS).png
    except image_formats.ConversionError as error:
        raise _unreadable(f"{name}: {error}") from None


def _from_array(array: np.ndarray) -> Image.Image:
    from PIL import Image

    if array.dtype != np.uint8:
        raise _unreadable(f"array of dtype {array.dtype}; convert it to uint8, range [0, 255]")
    if array.ndim == 3 and array.shape[2] == 1:
        array = array[:, :, 0]
    if not (array.ndim == 2 or (array.ndim == 3 and array.shape[2] in (3, 4))) or 0 in array.shape:
        raise _unreadable(f"array of shape {list(array.shape)}; expected [h, w], [h, w, 3] or [h, w, 4]")
    return Image.fromarray(np.ascontiguousarray(array))


def _png(image: Any) -> bytes:
    from PIL import Image, ImageOps

    if not isinstance(image, Image.Image):
        raise TypeError(f"{type(image).__name__} is not an image: pass a path, bytes, a PIL image or a numpy array.")
    if image.mode in _WIDE_MODES:
        raise _unreadable(f"PIL image of mode {image.mode}; convert it to 8 bits per channel first")
    try:
        upright = ImageOps.exif_transpose(image)
        if upright.mode not in _PNG_MODES:
            upright = upright.convert("RGB")
        buffer = io.BytesIO()
        # The least compression: sending the extra bytes is faster than compressing them.
        upright.save(buffer, format="PNG", compress_level=1)
    except (OSError, ValueError, SyntaxError) as error:  # PIL reads a file only here, and it may be truncated
        raise _unreadable(f"PIL image: {error}") from None
    return buffer.getvalue()


def _unreadable(reason: str) -> UnreadableImageError:
    return UnreadableImageError("INVALID_ARGUMENT", reason)
