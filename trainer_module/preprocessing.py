"""Decodes and resizes images: the one definition for ImageExampleGen, Transform and the serving signatures.

`encoded` are JPEG, PNG or GIF files, `geometry` is the size of the model input [h, w] and how images are resized to it,
`channels` is 1 (grey) or 3 (RGB). A file that is not a complete image raises tf.errors.InvalidArgumentError, also if it
is one of a batch.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import NamedTuple

import tensorflow as tf

from trainer_module import orientation
from trainer_module.geometry import resize_mask, resize_pixels
from trainer_module.model_input import FULL_WINDOW, Geometry, Size, Window

_PNG_SIGNATURE = b"\x89PNG\r\n\x1a\n"
_PNG_BIT_DEPTH = 24  # position in the file; PNG (W3C, third edition), 11.2.1


def decode(encoded: tf.Tensor, channels: int, window: Window = FULL_WINDOW) -> tf.Tensor:
    """Decodes one image, upright by its EXIF orientation: string [] → uint8 [height, width, channels], range [0, 255].

    Of a GIF the first frame is decoded. Transparency is dropped. `window` applies to PNG files of 16 bits per channel.
    """
    pixels = orientation.upright(decode_as_stored(encoded, window), orientation.exif_orientation(encoded))
    return tf.image.rgb_to_grayscale(pixels) if channels == 1 else pixels


class Images(NamedTuple):
    """N images as model inputs.

    Attributes:
      pixels: uint8 [N, h, w, channels].
      sizes: int32 [N, 2], height and width of the upright images, pixels.
    """

    pixels: tf.Tensor
    sizes: tf.Tensor


def decode_and_resize(encoded: tf.Tensor, geometry: Geometry, channels: int, window: Window = FULL_WINDOW) -> tf.Tensor:
    """Decodes a batch of files to model-sized pixels: string [N] → uint8 [N, h, w, channels]."""
    return decode_images(encoded, geometry, channels, window).pixels


def decode_images(encoded: tf.Tensor, geometry: Geometry, channels: int, window: Window = FULL_WINDOW) -> Images:
    """Decodes a batch of files to model-sized pixels, and returns the sizes of the images too: string [N]."""
    return Images(*_batch_decoder(geometry, channels, window)(encoded))


@functools.cache
def _batch_decoder(
    geometry: Geometry, channels: int, window: Window
) -> Callable[[tf.Tensor], tuple[tf.Tensor, tf.Tensor]]:
    """Builds the decoder once per process: otherwise Transform and every signature would trace their own."""

    def decode_each(
        decode_one: Callable[[tf.Tensor, tf.Tensor], tf.Tensor], encoded: tf.Tensor, orientations: tf.Tensor
    ) -> tuple[tf.Tensor, tf.Tensor]:
        def decode_and_resize_one(image: tuple[tf.Tensor, tf.Tensor]) -> tuple[tf.Tensor, tf.Tensor]:
            pixels = decode_one(*image)
            grey = tf.image.rgb_to_grayscale(pixels) if channels == 1 else pixels
            return resize_pixels(grey, geometry), tf.shape(pixels)[:2]

        specs = tf.TensorSpec([*geometry.size, channels], tf.uint8), tf.TensorSpec([2], tf.int32)
        pixels, sizes = tf.map_fn(decode_and_resize_one, (encoded, orientations), fn_output_signature=specs)
        return pixels, sizes

    @tf.function(input_signature=[tf.TensorSpec([None], tf.string)], autograph=False)
    def decoder(encoded: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        orientations = orientation.exif_orientations(encoded)
        # One check per batch: a check per image would take as long as decoding a small one.
        pixels, sizes = tf.cond(
            tf.reduce_all(tf.equal(orientations, 1)),
            lambda: decode_each(lambda image, _: decode_as_stored(image, window), encoded, orientations),
            lambda: decode_each(
                lambda image, tag: orientation.upright(decode_as_stored(image, window), tag),
                encoded,
                orientations,
            ),
        )
        return pixels, sizes

    traced: Callable[[tf.Tensor], tuple[tf.Tensor, tf.Tensor]] = decoder
    return traced


def decode_masks(encoded: tf.Tensor, geometry: Geometry, padding_id: int) -> tf.Tensor:
    """Decodes a batch of masks to model-sized class ids: string [N] → uint8 [N, h, w].

    The files are grey PNG of any size, upright as ImageExampleGen writes them. Pixels outside an image have
    `padding_id`.
    """

    def decode_one(mask: tf.Tensor) -> tf.Tensor:
        ids = tf.ensure_shape(tf.io.decode_png(mask, channels=1), [None, None, 1])
        return resize_mask(ids[..., 0], geometry, padding_id)

    return tf.map_fn(decode_one, encoded, fn_output_signature=tf.TensorSpec(geometry.size, tf.uint8))


def pack(pixels: tf.Tensor) -> tf.Tensor:
    """Packs pixels as one string of raw bytes per image: a transform graph outputs only float32, int64 and strings.

    TensorFlow has no operation for this, but a serialized TensorProto of uint8 ends with the raw content.

    Args:
      pixels: uint8 [N, h, w, channels], or masks without channels; all but N static.

    Returns:
      string [N], each h * w * channels bytes long, row-major.
    """
    num_bytes = pixels.shape[1:].num_elements()
    serialized = tf.map_fn(tf.io.serialize_tensor, pixels, fn_output_signature=tf.TensorSpec([], tf.string))
    return tf.strings.substr(serialized, -num_bytes, num_bytes)


def unpack(packed: tf.Tensor, size: Size, channels: int) -> tf.Tensor:
    """Inverts `pack`: string [N] → uint8 [N, *size, channels]."""
    return tf.reshape(tf.io.decode_raw(packed, tf.uint8), [-1, *size, channels])


def decode_as_stored(encoded: tf.Tensor, window: Window = FULL_WINDOW) -> tf.Tensor:
    """Decodes one image without rotating it: see `decode`.

    Returns:
      uint8 [height, width, 3].
    """

    def high_byte() -> tf.Tensor:
        # Always as RGB: libjpeg cannot convert CMYK to gray, so with 1 channel such a file would not be readable.
        pixels = tf.io.decode_image(encoded, channels=3, expand_animations=False)
        return tf.ensure_shape(pixels, [None, None, 3])

    if window == FULL_WINDOW:
        return high_byte()

    def windowed() -> tf.Tensor:
        values = tf.cast(tf.io.decode_png(encoded, channels=3, dtype=tf.uint16), tf.int32)
        above = tf.clip_by_value(values, window.low, window.high) - window.low
        return tf.ensure_shape(tf.cast(above * 256 // (window.high - window.low + 1), tf.uint8), [None, None, 3])

    return tf.cond(_is_16_bit_png(encoded), windowed, high_byte)


def _is_16_bit_png(encoded: tf.Tensor) -> tf.Tensor:
    # `substr` fails behind the end of a string, so that short files are extended.
    head = tf.strings.join([tf.strings.substr(encoded, 0, _PNG_BIT_DEPTH + 1), b"\0" * (_PNG_BIT_DEPTH + 1)])
    is_png = tf.equal(tf.strings.substr(head, 0, len(_PNG_SIGNATURE)), _PNG_SIGNATURE)
    return is_png & tf.equal(tf.strings.substr(head, _PNG_BIT_DEPTH, 1), b"\x10")
