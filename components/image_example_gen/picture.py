"""Is this file a picture that the rest of the pipeline can use, and what kind of picture is it?"""

from __future__ import annotations

import functools
import io
import os
import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import tensorflow as tf
from PIL import Image, UnidentifiedImageError

from trainer_module import features, preprocessing
from trainer_module.error_text import first_line

# Phones write JPEG files with a second picture behind the first; Pillow calls them MPO, every decoder reads the first.
_FORMATS = {"JPEG": "JPEG", "MPO": "JPEG", "PNG": "PNG", "GIF": "GIF"}
# What a file of another kind begins with. WebP, BMP and TIFF are not read by every release of TensorFlow Serving, or
# not as other programs read them.
_OTHER_KINDS = ((b"BM", "BMP"), (b"II*\0", "TIFF"), (b"MM\0*", "TIFF"), (b"RIFF", "WebP"), (b"%PDF", "PDF"))

# Luma of ITU-R BT.601, section 2.5.1, from red, green and blue.
_LUMA_WEIGHTS = np.array([0.299, 0.587, 0.114])
# Larger pictures are sampled on a regular grid: their moments need no more, and a copy of fifty million pixels in
# floats would need a gigabyte.
_MOST_SAMPLED_SIDE = 1024
_HASHED_SIDE, _HASHED_FREQUENCIES = 32, 8
# Below this deviation, grey levels, a picture has no structure that a hash could tell from another's.
_FLAT = 1.0
# Decoded pictures are in memory together, and so are the files of a chunk.
_MOST_THREADS = 8
_MOST_TOGETHER = 32
_MOST_BYTES_TOGETHER = 32 * 2**20
_MOST_BYTES_WAITING = 128 * 2**20


class UnreadablePictureError(Exception):
    """The file goes to quarantine; the message is the reason."""


@dataclass(frozen=True)
class Picture:
    """What is known of a readable picture.

    Attributes:
      format: "JPEG", "PNG" or "GIF".
      height: Pixels, upright.
      width: Pixels, upright.
      mean: Mean of every channel, by the names of `features.CHANNELS`, range [0, 255].
      deviation: Standard deviation of every channel.
      perceptual_hash: 63 bits, or None for a picture without structure. Pictures that look alike differ in few bits.
    """

    format: str
    height: int
    width: int
    mean: dict[str, float]
    deviation: dict[str, float]
    perceptual_hash: int | None = None


class Examined(NamedTuple):
    """One file after examination.

    Attributes:
      encoded: Its bytes.
      result: What is known of the picture, or why it is none.
    """

    encoded: bytes
    result: Picture | UnreadablePictureError


def examine(encoded: bytes, max_pixels: int) -> Picture:
    """Examines one file; see `examine_all`.

    Raises:
      UnreadablePictureError: If it is not a usable picture.
    """
    return _describe_alone(encoded, _format_of(encoded, max_pixels))


def examine_all(contents: Iterable[bytes | UnreadablePictureError], max_pixels: int) -> Iterator[Examined]:
    """Reads headers, refuses what is too large, then decodes with the decoder that Transform and serving use.

    Reading and the headers run in one thread, decoding and all that looks at pixels in TensorFlow's own, and the
    caller's work in a third: a picture costs what the slowest of them costs.

    Args:
      contents: The files' bytes, or why there are none; taken a few ahead of what is given.
      max_pixels: Limit of height x width, checked before anything is decoded.

    Yields:
      In the same order, the bytes (none where the header was refused), and what is known of the picture or why it is
      none: empty, of another format, animated, too large, or damaged.

    Raises:
      Exception: Whatever `contents` raises.
    """
    describe = _describe_function()
    threads = min(_MOST_THREADS, os.cpu_count() or 1)
    waiting: dict[int, tuple[bytes, str | UnreadablePictureError]] = {}
    failures: list[Exception] = []

    def decodable() -> Iterator[tuple[list[int], list[bytes]]]:
        positions: list[int] = []
        chunk: list[bytes] = []
        for position, content in enumerate(contents):
            try:
                if isinstance(content, UnreadablePictureError):
                    raise content
                waiting[position] = content, _format_of(content, max_pixels)
            except UnreadablePictureError as error:
                waiting[position] = b"", error
                continue
            positions.append(position)
            chunk.append(content)
            if len(chunk) == _MOST_TOGETHER or sum(map(len, chunk)) >= _MOST_BYTES_TOGETHER:
                yield positions, chunk
                positions, chunk = [], []
                if sum(len(content) for content, _ in list(waiting.values())) > _MOST_BYTES_WAITING:
                    # Results come in batches of what can be decoded: these fill a batch up if nothing else does.
                    # Below zero (~p is -p - 1), since they are nobody's; all up to p has been tried before them.
                    yield [~position] * _MOST_TOGETHER, [_filler()] * _MOST_TOGETHER
        if chunk:
            yield positions, chunk

    def decodable_or_end() -> Iterator[tuple[list[int], list[bytes]]]:
        """`ignore_errors` would take an error in here for the end of the data."""
        try:
            yield from decodable()
        except Exception as error:
            failures.append(error)

    described = (
        tf.data.Dataset.from_generator(
            decodable_or_end,
            output_signature=(tf.TensorSpec([None], tf.int64), tf.TensorSpec([None], tf.string)),
        )
        .unbatch()
        .map(lambda position, content: (position, *describe(content)), num_parallel_calls=threads, deterministic=True)
        .ignore_errors()
        .batch(_MOST_TOGETHER)
    )
    given = 0

    def give(pictures: dict[int, Picture], until: int) -> Iterator[Examined]:
        """In order; what was left out on the way was refused by its header, or cannot be decoded."""
        for position in range(given, until):
            content, kind = waiting.pop(position)
            if isinstance(kind, UnreadablePictureError):
                yield Examined(content, kind)
            elif position in pictures:
                yield Examined(content, pictures[position])
            else:
                try:
                    yield Examined(content, _describe_alone(content, kind))
                except UnreadablePictureError as error:
                    yield Examined(content, error)

    for batch_positions, *batch in described.as_numpy_iterator():
        positions = batch_positions.tolist()
        formats = [str(waiting.get(position, ("", ""))[1]) for position in positions]
        pictures = dict(zip(positions, _finish(formats, batch), strict=True))
        until = max(given, *((position if position >= 0 else ~position) + 1 for position in positions))
        yield from give(pictures, until)
        given = until
    if failures:
        raise failures[0]
    yield from give({}, given + len(waiting))


def slices_of(picture: Picture) -> dict[str, str]:
    """The built-in slice values, by slice name.

    brightness: mean luma below 85 is dark, from 170 bright. resolution: shorter side below 128 pixels is small, from
    512 large. orientation: square where the sides differ by less than a tenth.
    """
    shorter = min(picture.height, picture.width)
    aspect = picture.width / picture.height
    luma = picture.mean[features.LUMA]
    return {
        "brightness": "dark" if luma < 85 else "bright" if luma >= 170 else "normal",
        "resolution": "small" if shorter < 128 else "large" if shorter >= 512 else "medium",
        "orientation": "portrait" if aspect < 1 / 1.1 else "landscape" if aspect > 1.1 else "square",
    }


def _format_of(encoded: bytes, max_pixels: int) -> str:
    """Reads the header only."""
    if not encoded:
        raise UnreadablePictureError("empty file")
    try:
        # `formats` keeps Pillow's other, less used parsers away from untrusted bytes. Our own limit is checked below,
        # and means a reason instead of a warning.
        with (
            warnings.catch_warnings(action="ignore", category=Image.DecompressionBombWarning),
            Image.open(io.BytesIO(encoded), formats=["JPEG", "PNG", "GIF"]) as header,
        ):
            width, height = header.size
            name = _FORMATS[header.format or ""]
            # TensorFlow unpacks every frame of a GIF before it takes the first. Of MPO the first is an ordinary JPEG.
            frames = getattr(header, "n_frames", 1) if name != "JPEG" else 1
    except Image.DecompressionBombError:
        # Pillow's own limit, twice its warning's, which holds whatever data.max_pixels says.
        limit = min(max_pixels, 2 * (Image.MAX_IMAGE_PIXELS or max_pixels))
        raise UnreadablePictureError(f"more than data.max_pixels = {limit} pixels") from None
    except UnidentifiedImageError:
        raise UnreadablePictureError(_other_kind(encoded)) from None
    except Exception as error:  # a damaged header can break Pillow's parsers in any way
        raise UnreadablePictureError(f"damaged header: {first_line(error)}") from None
    if width * height > max_pixels:
        raise UnreadablePictureError(f"more than data.max_pixels = {max_pixels} pixels: {width} x {height}")
    if frames > 1:
        raise UnreadablePictureError(f"animated: {frames} frames")
    return name


@functools.cache
def _filler() -> bytes:
    """The smallest picture."""
    buffer = io.BytesIO()
    Image.new("L", (1, 1)).save(buffer, "PNG")
    return buffer.getvalue()


def _other_kind(encoded: bytes) -> str:
    for start, name in _OTHER_KINDS:
        if encoded.startswith(start):
            return f"a {name} file; save it as JPEG or PNG"
    if encoded[4:8] == b"ftyp":
        return "a HEIC, AVIF or video file; save it as JPEG or PNG"
    return "not a JPEG, PNG or GIF file"


def _describe_alone(encoded: bytes, name: str) -> Picture:
    try:
        described = _describe_function()(tf.constant(encoded))
    except tf.errors.OpError as error:
        raise UnreadablePictureError(f"damaged or truncated {name}: {first_line(error)}") from None
    (picture,) = _finish([name], [tensor.numpy()[np.newaxis] for tensor in described])
    return picture


@functools.cache
def _describe_function() -> Callable[[tf.Tensor], tuple[tf.Tensor, ...]]:
    """The graph of everything that touches all pixels, traced once in a process.

    Per picture it does no more than has to be done per picture: a dozen small operations take as long as decoding a
    small one. What follows from its results is computed for many pictures at once, by `_finish`.
    """

    @tf.function(input_signature=[tf.TensorSpec([], tf.string)], autograph=False)
    def describe(encoded: tf.Tensor) -> tuple[tf.Tensor, ...]:
        pixels = preprocessing.decode(encoded, channels=3)
        shape = tf.shape(pixels)[:2]
        step = 1 + (tf.reduce_max(shape) - 1) // _MOST_SAMPLED_SIDE
        sampled = tf.ensure_shape(pixels[::step, ::step], [None, None, 3])
        # Whole numbers up to 2^53 are exact in float64; a float32 sum of a million pixels is off by a hundredth.
        flat = tf.reshape(tf.cast(sampled, tf.float64), [-1, 3])
        sums, products = tf.reduce_sum(flat, axis=0), tf.matmul(flat, flat, transpose_a=True)
        small = tf.raw_ops.ResizeArea(images=sampled[tf.newaxis], size=[_HASHED_SIDE, _HASHED_SIDE])
        return shape, tf.shape(flat)[0], sums, products, small[0]

    traced: Callable[[tf.Tensor], tuple[tf.Tensor, ...]] = describe
    return traced


def _finish(formats: Sequence[str], described: Sequence[np.ndarray]) -> list[Picture]:
    """Finishes a batch of pictures.

    Args:
      formats: Of each.
      described: What `describe` gives, batched: shapes [N, 2], numbers of sampled pixels [N], sums [N, 3] and sums of
        products [N, 3, 3] of the colours, small pictures [N, 32, 32, 3].
    """
    shapes, num_sampled, sums, products, small = described
    colors = sums / num_sampled[:, np.newaxis]
    covariance = products / num_sampled[:, np.newaxis, np.newaxis] - colors[:, :, np.newaxis] * colors[:, np.newaxis]
    # Luma is a weighted sum of the colours, and so its variance follows from theirs.
    means = np.column_stack([colors, colors @ _LUMA_WEIGHTS])
    variances = np.column_stack(
        [np.diagonal(covariance, axis1=1, axis2=2), np.einsum("i,nij,j->n", _LUMA_WEIGHTS, covariance, _LUMA_WEIGHTS)]
    )
    deviations = np.sqrt(np.maximum(variances, 0.0))
    hashes = perceptual_hashes(small @ _LUMA_WEIGHTS)
    return [
        Picture(
            name,
            height,
            width,
            dict(zip(features.CHANNELS, mean, strict=True)),
            dict(zip(features.CHANNELS, deviation, strict=True)),
            hashed if deviation[-1] >= _FLAT else None,
        )
        for name, (height, width), mean, deviation, hashed in zip(
            formats, shapes.tolist(), means.tolist(), deviations.tolist(), hashes.tolist(), strict=True
        )
    ]


def perceptual_hashes(small: np.ndarray) -> np.ndarray:
    """Which of the lowest frequencies of pictures, seen small and grey, are above their median.

    Args:
      small: float [N, 32, 32].

    Returns:
      int64 [N], 63 bits.

    Reference: C. Zauner, Implementation and Benchmarking of Perceptual Image Hash Functions, 2010, the hash based on
    the discrete cosine transform.
    """
    frequencies = np.arange(_HASHED_FREQUENCIES)[:, np.newaxis]
    places = np.arange(_HASHED_SIDE)[np.newaxis]
    cosines = np.cos(np.pi * (2 * places + 1) * frequencies / (2 * _HASHED_SIDE))
    # The first frequency is the mean, which is no structure.
    spectrum = (cosines @ small @ cosines.T).reshape(len(small), -1)[:, 1:]
    above = spectrum > np.median(spectrum, axis=1, keepdims=True)
    result: np.ndarray = above @ (1 << np.arange(above.shape[1], dtype=np.int64))
    return result
