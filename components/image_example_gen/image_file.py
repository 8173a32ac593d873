"""Decides whether a file is an image that the rest of the pipeline can use, and measures its properties."""

from __future__ import annotations

import functools
import io
import itertools
import os
import warnings
from collections.abc import Callable, Iterable, Iterator
from typing import NamedTuple

import numpy as np
import tensorflow as tf
from PIL import Image, UnidentifiedImageError

from components.image_example_gen import bit_depth, image_properties, png_header
from components.image_example_gen.bit_depth import UsedBits
from components.image_example_gen.errors import UnusableImageError
from components.image_example_gen.image_properties import ImageProperties
from components.image_example_gen.observations import CONVERTED, FRAMES, PROFILE
from components.image_example_gen.options import DataOptions
from components.image_example_gen.png_header import PngSize
from trainer_module import image_formats, image_statistics
from trainer_module.error_text import first_line
from trainer_module.model_input import FULL_WINDOW, Window

# Chunks with the properties of a PNG come before its pixels.
_MOST_HEADER_BYTES = 4096
_ORIENTATION_TAG = 0x0112
# Standard deviation, grey levels, of an image of one colour; rounding can leave a little.
_ONE_COLOUR = 1e-3

# Decoded images are in memory together, and so are the files of a chunk.
_MOST_THREADS = 8
_MOST_TOGETHER = 32
# Larger images take longer to decode than what is saved when several are measured together.
_MOST_PIXELS_TOGETHER = 128 * 128
_MOST_BYTES_TOGETHER = 32 * 2**20
_MOST_BYTES_WAITING = 128 * 2**20


class Prepared(NamedTuple):
    """A file that the decoder of the run reads, before it is decoded.

    Attributes:
      encoded: Bytes of a JPEG, PNG or GIF file.
      format: "JPEG", "PNG" or "GIF".
      orientation: EXIF orientation that a conversion has applied, 1 (none) to 8.
      observations: Kinds and details of what was converted or is ignored.
      size: Of a PNG, if the header shows nothing that needs attention.
    """

    encoded: bytes
    format: str
    orientation: int = 1
    observations: tuple[tuple[str, str], ...] = ()
    size: PngSize | None = None


class Examined(NamedTuple):
    """One file after examination.

    Attributes:
      encoded: Its bytes; converted if the decoder does not read its format, and reduced to 8 bits if it has 16 and the
        dataset uses fewer.
      result: The properties of the image, or why it cannot be used.
      used_bits: Bits that a 16-bit image uses; None for other images.
      observations: Kinds and details of what was converted or is ignored.
    """

    encoded: bytes
    result: ImageProperties | UnusableImageError
    used_bits: UsedBits | None = None
    observations: tuple[tuple[str, str], ...] = ()


def examine(prepared: Prepared) -> ImageProperties:
    """Decodes and measures one file; see `examine_all`.

    Raises:
      UnusableImageError: If it is not a usable image.
    """
    return _with_orientation(_measure_alone(prepared.encoded, prepared.format), prepared)


def examine_all(
    contents: Iterable[bytes | UnusableImageError], options: DataOptions, window: Window = FULL_WINDOW
) -> Iterator[Examined]:
    """Reads headers, refuses what is too large, then decodes with the decoder that Transform and serving use.

    Reading and the headers run in one thread, decoding and everything that reads pixels in TensorFlow's own threads,
    and the caller's work in a third: an image costs as much as the slowest of them.

    Args:
      contents: The bytes of the files, or why there are none; a few more are taken than are returned so far.
      options: `max_pixels` and `animated` are read.
      window: The values that 16-bit images use. Unless these are all, the images are reduced to 8 bits.

    Yields:
      In the same order, the bytes (none where the header was refused), and the properties of the image or why it cannot
      be used: empty, of another format, animated, too large, or damaged.

    Raises:
      Exception: Whatever `contents` raises.
    """
    waiting: dict[int, tuple[Prepared, UsedBits | None] | UnusableImageError] = {}
    failures: list[Exception] = []

    def decodable() -> Iterator[_Chunk]:
        chunk = _Chunk([], [], [])
        for position, content in enumerate(contents):
            try:
                if isinstance(content, UnusableImageError):
                    raise content
                prepared = prepare(content, options)
                is_deep = image_statistics.is_deep_png(prepared.encoded)
                used_bits = bit_depth.used_bits(prepared.encoded) if is_deep else None
                if used_bits and window != FULL_WINDOW:
                    prepared = prepared._replace(encoded=bit_depth.reduce(prepared.encoded, window))
                waiting[position] = prepared, used_bits
            except UnusableImageError as error:
                waiting[position] = error
                continue
            chunk.positions.append(position)
            chunk.encoded.append(prepared.encoded)
            chunk.sizes.append(prepared.size)
            if len(chunk.encoded) == _MOST_TOGETHER or sum(map(len, chunk.encoded)) >= _MOST_BYTES_TOGETHER:
                yield chunk
                chunk = _Chunk([], [], [])
                if sum(map(_num_bytes, list(waiting.values()))) > _MOST_BYTES_WAITING:
                    # Results come in batches of what can be decoded: fillers complete a batch if nothing else does.
                    # Their positions are negative (~p is -p - 1); all up to p has been tried before them.
                    yield _Chunk([~position] * _MOST_TOGETHER, [_filler()] * _MOST_TOGETHER, [None])
        if chunk.positions:
            yield chunk

    def decodable_or_end() -> Iterator[_Chunk]:
        """Keeps an error, which `ignore_errors` would take for the end of the data."""
        try:
            yield from decodable()
        except Exception as error:
            failures.append(error)

    returned = 0

    def examined(properties: dict[int, ImageProperties], until: int) -> Iterator[Examined]:
        """Completes the order: an image without properties was refused by its header, or cannot be decoded."""
        for position in range(returned, until):
            waited = waiting.pop(position)
            if isinstance(waited, UnusableImageError):
                yield Examined(b"", waited)
                continue
            prepared, used_bits = waited
            content, observations = prepared.encoded, prepared.observations
            try:
                measured = properties.get(position) or _measure_alone(content, prepared.format)
                yield Examined(content, _with_orientation(measured, prepared), used_bits, observations)
            except UnusableImageError as error:
                yield Examined(content, error)

    for batch_positions, *batch in _measured(decodable_or_end()):
        positions = batch_positions.tolist()
        formats = [_format_of_waiting(waiting.get(position)) for position in positions]
        properties = dict(zip(positions, image_properties.finish(formats, batch), strict=True))
        until = max(returned, *((position if position >= 0 else ~position) + 1 for position in positions))
        yield from examined(properties, until)
        returned = until
    if failures:
        raise failures[0]
    yield from examined({}, returned + len(waiting))


class _Chunk(NamedTuple):
    """Files that are given to TensorFlow together.

    Attributes:
      positions: Their positions among all files.
      encoded: Their bytes.
      sizes: As in `Prepared`.
    """

    positions: list[int]
    encoded: list[bytes]
    sizes: list[PngSize | None]

    @property
    def is_uniform(self) -> bool:
        """Whether the images are small and of one size."""
        first, *others = set(self.sizes)
        return not others and first is not None and first.width * first.height <= _MOST_PIXELS_TOGETHER


def _measured(chunks: Iterator[_Chunk]) -> Iterator[tuple[np.ndarray, ...]]:
    """Measures files; returns their positions and the results of `measure_function`, in batches.

    As long as all images are small and of one size, a chunk is measured together. Building the graph for single images,
    which reads orientations, then takes no time either.
    """
    rest = list(itertools.islice(chunks, 1))
    is_uniform = all(chunk.is_uniform for chunk in rest)

    def uniform() -> Iterator[tuple[list[int], list[bytes]]]:
        for chunk in itertools.chain([rest.pop()], chunks):
            if not chunk.is_uniform:
                rest.append(chunk)
                return
            yield chunk.positions, chunk.encoded

    def others() -> Iterator[tuple[list[int], list[bytes]]]:
        for chunk in itertools.chain(rest, chunks):
            yield chunk.positions, chunk.encoded

    if rest and is_uniform:
        yield from _map(uniform, image_properties.measure_together_function()).as_numpy_iterator()
    if rest:
        yield from _map(others, image_properties.measure_function(), _MOST_TOGETHER).as_numpy_iterator()


def _map(
    generator: Callable[[], Iterator[tuple[list[int], list[bytes]]]],
    measure: Callable[[tf.Tensor], tuple[tf.Tensor, ...]],
    batch_size: int = 0,
) -> tf.data.Dataset:
    """Measures chunks, or if there is a batch size, single files."""

    @tf.autograph.experimental.do_not_convert
    def with_positions(positions: tf.Tensor, encoded: tf.Tensor) -> tuple[tf.Tensor, ...]:
        return positions, *measure(encoded)

    files = tf.data.Dataset.from_generator(
        generator, output_signature=(tf.TensorSpec([None], tf.int64), tf.TensorSpec([None], tf.string))
    )
    files = files.unbatch() if batch_size else files
    threads = min(_MOST_THREADS, os.cpu_count() or 1)
    measured = files.map(with_positions, num_parallel_calls=threads, deterministic=True).ignore_errors()
    return measured.batch(batch_size) if batch_size else measured


def _num_bytes(waited: tuple[Prepared, UsedBits | None] | UnusableImageError) -> int:
    return 0 if isinstance(waited, UnusableImageError) else len(waited[0].encoded)


def _format_of_waiting(waited: tuple[Prepared, UsedBits | None] | UnusableImageError | None) -> str:
    return "" if waited is None or isinstance(waited, UnusableImageError) else waited[0].format


def _with_orientation(properties: ImageProperties, prepared: Prepared) -> ImageProperties:
    """Adds the orientation that a conversion has applied: masks and boxes may refer to the stored pixels."""
    if prepared.orientation == 1:
        return properties
    return properties._replace(orientation=prepared.orientation)


def prepare(encoded: bytes, options: DataOptions) -> Prepared:
    """Reads the header, and converts a file that the decoder of the run does not read.

    Raises:
      UnusableImageError: If it is empty, in an unknown format, animated, too large, or damaged.
    """
    if not encoded:
        raise UnusableImageError("empty file")
    plain = png_header.size_of_plain_png(encoded)
    if plain and plain.width * plain.height <= min(options.max_pixels, Image.MAX_IMAGE_PIXELS or options.max_pixels):
        return Prepared(encoded, "PNG", size=plain)
    if image_formats.is_converted(encoded):
        return _convert(encoded, options)
    try:
        # `formats` keeps Pillow's other, less used parsers away from untrusted bytes. Our own limit is checked below,
        # and gives a reason instead of a warning.
        with (
            warnings.catch_warnings(action="ignore", category=Image.DecompressionBombWarning),
            Image.open(io.BytesIO(encoded), formats=image_formats.NATIVE) as header,
        ):
            width, height = header.size
            name = "JPEG" if header.format == "MPO" else str(header.format)
            # TensorFlow unpacks every frame of a GIF before it takes the first. Of MPO the first is an ordinary JPEG.
            frames = getattr(header, "n_frames", 1) if name != "JPEG" else 1
            profile = image_formats.profile_of(header.info)
    except Image.DecompressionBombError:
        # Pillow's own limit, twice its warning's, applies whatever data.max_pixels is.
        limit = min(options.max_pixels, 2 * (Image.MAX_IMAGE_PIXELS or options.max_pixels))
        raise UnusableImageError(f"more than data.max_pixels = {limit} pixels") from None
    except UnidentifiedImageError:
        raise UnusableImageError(_unknown_format(encoded)) from None
    except Exception as error:  # a damaged header can break Pillow's parsers in any way
        raise UnusableImageError(f"damaged header: {first_line(error)}") from None
    if width * height > options.max_pixels:
        raise UnusableImageError(f"more than data.max_pixels = {options.max_pixels} pixels: {width} x {height}")
    if frames > 1:
        return _convert(encoded, options)
    return Prepared(encoded, name, observations=((PROFILE, profile),) if profile else ())


def _convert(encoded: bytes, options: DataOptions) -> Prepared:
    try:
        converted = image_formats.to_png(encoded, options.max_pixels, first_frame=options.animated == "first")
    except image_formats.TooManyPixelsError as error:
        raise UnusableImageError(str(error).replace("more than ", "more than data.max_pixels = ", 1)) from None
    except image_formats.ConversionError as error:
        raise UnusableImageError(str(error)) from None
    observations = [(CONVERTED, converted.source)]
    if converted.num_frames > 1:
        observations.append((FRAMES, converted.source))
    return Prepared(converted.png, "PNG", converted.orientation, tuple(observations))


@functools.cache
def _filler() -> bytes:
    """The smallest image."""
    buffer = io.BytesIO()
    Image.new("L", (1, 1)).save(buffer, "PNG")
    return buffer.getvalue()


def ignored_orientation(encoded: bytes) -> int:
    """Returns the EXIF orientation of a PNG, 1 to 8: decoders do not apply it. 1 for every other format."""
    if not encoded.startswith(b"\x89PNG") or encoded.find(b"eXIf", 0, _MOST_HEADER_BYTES) < 0:
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


def _unknown_format(encoded: bytes) -> str:
    name = image_formats.name_of(encoded)
    if name in image_formats.NATIVE:
        return f"damaged header of a {name} file"
    return f"a {name} file; save it as JPEG or PNG" if name else "not an image file"


def _measure_alone(encoded: bytes, format_: str) -> ImageProperties:
    try:
        measured = image_properties.measure_function()(tf.constant(encoded))
    except tf.errors.OpError as error:
        raise UnusableImageError(f"damaged or truncated {format_}: {first_line(error)}") from None
    (properties,) = image_properties.finish([format_], [tensor.numpy()[np.newaxis] for tensor in measured])
    return properties
