"""Decides whether a file is an image that the rest of the pipeline can use, and measures its properties."""

from __future__ import annotations

import functools
import io
import os
import warnings
from collections.abc import Iterable, Iterator
from typing import NamedTuple

import numpy as np
import tensorflow as tf
from PIL import Image, UnidentifiedImageError

from components.image_example_gen import bit_depth, image_properties
from components.image_example_gen.bit_depth import UsedBits
from components.image_example_gen.errors import UnusableImageError
from components.image_example_gen.image_properties import ImageProperties
from trainer_module.error_text import first_line

# Phones write JPEG files with a second image behind the first; Pillow calls them MPO, every decoder reads the first.
_FORMATS = {"JPEG": "JPEG", "MPO": "JPEG", "PNG": "PNG", "GIF": "GIF"}
# First bytes of other formats. WebP, BMP and TIFF are not read by every release of TensorFlow Serving, or not as other
# programs read them. Pillow would name them too, but only by running its parsers on untrusted bytes.
_OTHER_FORMATS = ((b"BM", "BMP"), (b"II*\0", "TIFF"), (b"MM\0*", "TIFF"), (b"RIFF", "WebP"), (b"%PDF", "PDF"))

# Chunks with the properties of a PNG come before its pixels.
_MOST_HEADER_BYTES = 4096
_ORIENTATION_TAG = 0x0112
# Standard deviation, grey levels, of an image of one colour; rounding can leave a little.
_ONE_COLOUR = 1e-3

# Decoded images are in memory together, and so are the files of a chunk.
_MOST_THREADS = 8
_MOST_TOGETHER = 32
_MOST_BYTES_TOGETHER = 32 * 2**20
_MOST_BYTES_WAITING = 128 * 2**20


class Examined(NamedTuple):
    """One file after examination.

    Attributes:
      encoded: Its bytes; reduced to 8 bits if it has 16 and the dataset uses fewer.
      result: The properties of the image, or why it cannot be used.
      used_bits: Bits that a 16-bit image uses; None for other images.
    """

    encoded: bytes
    result: ImageProperties | UnusableImageError
    used_bits: UsedBits | None = None


def examine(encoded: bytes, max_pixels: int) -> ImageProperties:
    """Examines one file; see `examine_all`.

    Raises:
      UnusableImageError: If it is not a usable image.
    """
    return _measure_alone(encoded, _format_of(encoded, max_pixels))


def examine_all(
    contents: Iterable[bytes | UnusableImageError], max_pixels: int, depth: int = bit_depth.HIGHEST
) -> Iterator[Examined]:
    """Reads headers, refuses what is too large, then decodes with the decoder that Transform and serving use.

    Reading and the headers run in one thread, decoding and everything that reads pixels in TensorFlow's own threads,
    and the caller's work in a third: an image costs as much as the slowest of them.

    Args:
      contents: The bytes of the files, or why there are none; a few more are taken than are returned so far.
      max_pixels: Limit of height x width, checked before anything is decoded.
      depth: Number of bits that 16-bit images use. Below 16, they are reduced to 8 bits.

    Yields:
      In the same order, the bytes (none where the header was refused), and the properties of the image or why it cannot
      be used: empty, of another format, animated, too large, or damaged.

    Raises:
      Exception: Whatever `contents` raises.
    """
    measure = image_properties.measure_function()
    threads = min(_MOST_THREADS, os.cpu_count() or 1)
    waiting: dict[int, tuple[bytes, str | UnusableImageError, UsedBits | None]] = {}
    failures: list[Exception] = []

    def decodable() -> Iterator[tuple[list[int], list[bytes]]]:
        positions: list[int] = []
        chunk: list[bytes] = []
        for position, content in enumerate(contents):
            try:
                if isinstance(content, UnusableImageError):
                    raise content
                format_ = _format_of(content, max_pixels)
                used_bits = bit_depth.used_bits(content) if bit_depth.is_deep(content) else None
                if used_bits and depth < bit_depth.HIGHEST:
                    content = bit_depth.reduce(content, depth)
                waiting[position] = content, format_, used_bits
            except UnusableImageError as error:
                waiting[position] = b"", error, None
                continue
            positions.append(position)
            chunk.append(content)
            if len(chunk) == _MOST_TOGETHER or sum(map(len, chunk)) >= _MOST_BYTES_TOGETHER:
                yield positions, chunk
                positions, chunk = [], []
                if sum(len(content) for content, *_ in list(waiting.values())) > _MOST_BYTES_WAITING:
                    # Results come in batches of what can be decoded: fillers complete a batch if nothing else does.
                    # Their positions are negative (~p is -p - 1); all up to p has been tried before them.
                    yield [~position] * _MOST_TOGETHER, [_filler()] * _MOST_TOGETHER
        if chunk:
            yield positions, chunk

    def decodable_or_end() -> Iterator[tuple[list[int], list[bytes]]]:
        """Keeps an error, which `ignore_errors` would take for the end of the data."""
        try:
            yield from decodable()
        except Exception as error:
            failures.append(error)

    measured = (
        tf.data.Dataset.from_generator(
            decodable_or_end,
            output_signature=(tf.TensorSpec([None], tf.int64), tf.TensorSpec([None], tf.string)),
        )
        .unbatch()
        .map(lambda position, content: (position, *measure(content)), num_parallel_calls=threads, deterministic=True)
        .ignore_errors()
        .batch(_MOST_TOGETHER)
    )
    returned = 0

    def examined(properties: dict[int, ImageProperties], until: int) -> Iterator[Examined]:
        """Completes the order: an image without properties was refused by its header, or cannot be decoded."""
        for position in range(returned, until):
            content, format_, used_bits = waiting.pop(position)
            if isinstance(format_, UnusableImageError):
                yield Examined(content, format_)
            elif position in properties:
                yield Examined(content, properties[position], used_bits)
            else:
                try:
                    yield Examined(content, _measure_alone(content, format_), used_bits)
                except UnusableImageError as error:
                    yield Examined(content, error)

    for batch_positions, *batch in measured.as_numpy_iterator():
        positions = batch_positions.tolist()
        formats = [str(waiting[position][1]) if position in waiting else "" for position in positions]
        properties = dict(zip(positions, image_properties.finish(formats, batch), strict=True))
        until = max(returned, *((position if position >= 0 else ~position) + 1 for position in positions))
        yield from examined(properties, until)
        returned = until
    if failures:
        raise failures[0]
    yield from examined({}, returned + len(waiting))


def _format_of(encoded: bytes, max_pixels: int) -> str:
    """Reads the header only."""
    if not encoded:
        raise UnusableImageError("empty file")
    try:
        # `formats` keeps Pillow's other, less used parsers away from untrusted bytes. Our own limit is checked below,
        # and gives a reason instead of a warning.
        with (
            warnings.catch_warnings(action="ignore", category=Image.DecompressionBombWarning),
            Image.open(io.BytesIO(encoded), formats=["JPEG", "PNG", "GIF"]) as header,
        ):
            width, height = header.size
            name = _FORMATS[header.format or ""]
            # TensorFlow unpacks every frame of a GIF before it takes the first. Of MPO the first is an ordinary JPEG.
            frames = getattr(header, "n_frames", 1) if name != "JPEG" else 1
    except Image.DecompressionBombError:
        # Pillow's own limit, twice its warning's, applies whatever data.max_pixels is.
        limit = min(max_pixels, 2 * (Image.MAX_IMAGE_PIXELS or max_pixels))
        raise UnusableImageError(f"more than data.max_pixels = {limit} pixels") from None
    except UnidentifiedImageError:
        raise UnusableImageError(_other_format(encoded)) from None
    except Exception as error:  # a damaged header can break Pillow's parsers in any way
        raise UnusableImageError(f"damaged header: {first_line(error)}") from None
    if width * height > max_pixels:
        raise UnusableImageError(f"more than data.max_pixels = {max_pixels} pixels: {width} x {height}")
    if frames > 1:
        raise UnusableImageError(f"animated: {frames} frames")
    return name


@functools.cache
def _filler() -> bytes:
    """The smallest image."""
    buffer = io.BytesIO()
    Image.new("L", (1, 1)).save(buffer, "PNG")
    return buffer.getvalue()


def ignored_orientation(encoded: bytes) -> int:
    """Returns the EXIF orientation of a PNG, 1 to 8: decoders do not apply it. 1 for every other format."""
    if not encoded.startswith(b"\x89PNG") or b"eXIf" not in encoded[:_MOST_HEADER_BYTES]:
        return 1
    try:
        with Image.open(io.BytesIO(encoded), formats=["PNG"]) as header:
            exif = Image.Exif()
            exif.load(header.info.get("exif", b""))
        return int(exif.get(_ORIENTATION_TAG, 1))
    except Exception:  # a damaged chunk can break Pillow's parsers in any way; the pixels are still usable
        return 1


def has_object_in_alpha(encoded: bytes, properties: ImageProperties) -> bool:
    """Whether an image has one colour, and more than one transparency, which decoders drop."""
    if properties.format != "PNG" or max(properties.deviation.values()) > _ONE_COLOUR:
        return False
    try:
        with Image.open(io.BytesIO(encoded), formats=["PNG"]) as image:
            if image.mode not in ("LA", "PA", "RGBA") and "transparency" not in image.info:
                return False
            alpha = np.asarray(image.convert("RGBA"))[..., -1]
    except Exception:  # Pillow is stricter than the decoder, for which the file is usable
        return False
    return bool(alpha.min() != alpha.max())


def _other_format(encoded: bytes) -> str:
    for start, name in _OTHER_FORMATS:
        if encoded.startswith(start):
            return f"a {name} file; save it as JPEG or PNG"
    if encoded[4:8] == b"ftyp":
        return "a HEIC, AVIF or video file; save it as JPEG or PNG"
    return "not a JPEG, PNG or GIF file"


def _measure_alone(encoded: bytes, format_: str) -> ImageProperties:
    try:
        measured = image_properties.measure_function()(tf.constant(encoded))
    except tf.errors.OpError as error:
        raise UnusableImageError(f"damaged or truncated {format_}: {first_line(error)}") from None
    (properties,) = image_properties.finish([format_], [tensor.numpy()[np.newaxis] for tensor in measured])
    return properties
