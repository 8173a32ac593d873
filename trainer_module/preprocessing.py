"""Decode and resize: the one definition that ImageExampleGen, Transform and the serving signatures share."""

from __future__ import annotations

import functools
from collections.abc import Callable

import tensorflow as tf

from trainer_module import orientation


def decode(encoded: tf.Tensor, channels: int) -> tf.Tensor:
    """Decodes one picture and turns it upright, as its EXIF orientation asks.

    Args:
      encoded: string [], a JPEG, PNG or GIF file's bytes; of a GIF the first frame. Transparency is dropped, 16 bits
        a channel become 8.
      channels: 1 (grey) or 3 (RGB).

    Returns:
      uint8 [height, width, channels], range [0, 255].

    Raises:
      tf.errors.InvalidArgumentError: If the bytes are not a complete picture.
    """
    pixels = orientation.upright(_decode_as_stored(encoded), orientation.exif_orientation(encoded))
    return tf.image.rgb_to_grayscale(pixels) if channels == 1 else pixels


def resize(pixels: tf.Tensor, image_size: int) -> tf.Tensor:
    """Resizes one picture to a square, bilinear with antialiasing; the aspect ratio is not kept.

    Args:
      pixels: uint8 [height, width, channels].
      image_size: Side of the result, pixels.

    Returns:
      uint8 [image_size, image_size, channels], rounded to the nearest value.
    """

    def resized() -> tf.Tensor:
        result = tf.image.resize(pixels, [image_size, image_size], method="bilinear", antialias=True)
        return tf.cast(tf.clip_by_value(tf.round(result), 0.0, 255.0), tf.uint8)

    # Half of the time for a small picture that has its size already goes into resizing it to itself.
    fits = tf.reduce_all(tf.equal(tf.shape(pixels)[:2], image_size))
    return tf.ensure_shape(tf.cond(fits, lambda: pixels, resized), [image_size, image_size, pixels.shape[-1]])


def decode_and_resize(encoded: tf.Tensor, image_size: int, channels: int) -> tf.Tensor:
    """Turns a batch of files into model-sized pixels.

    Args:
      encoded: string [N], JPEG or PNG files of any size.
      image_size: Side of the result, pixels.
      channels: 1 or 3.

    Returns:
      uint8 [N, image_size, image_size, channels].

    Raises:
      tf.errors.InvalidArgumentError: If any file of the batch is not a complete picture.
    """
    decoded: tf.Tensor = _batch_decoder(image_size, channels)(encoded)
    return decoded


@functools.cache
def _batch_decoder(image_size: int, channels: int) -> Callable[[tf.Tensor], tf.Tensor]:
    """Traced once a process: Transform and every signature of the export would each trace it again."""

    def each(
        decode_one: Callable[[tf.Tensor, tf.Tensor], tf.Tensor], encoded: tf.Tensor, orientations: tf.Tensor
    ) -> tf.Tensor:
        def model_sized(one: tuple[tf.Tensor, tf.Tensor]) -> tf.Tensor:
            pixels = decode_one(*one)
            return resize(tf.image.rgb_to_grayscale(pixels) if channels == 1 else pixels, image_size)

        return tf.map_fn(
            model_sized,
            (encoded, orientations),
            fn_output_signature=tf.TensorSpec([image_size, image_size, channels], tf.uint8),
        )

    @tf.function(input_signature=[tf.TensorSpec([None], tf.string)], autograph=False)
    def decoder(encoded: tf.Tensor) -> tf.Tensor:
        orientations = orientation.exif_orientations(encoded)
        # Whether pictures have to be turned is asked once a batch: asking once a picture would take as long as decoding
        # a small one.
        return tf.cond(
            tf.reduce_all(tf.equal(orientations, 1)),
            lambda: each(lambda one, _: _decode_as_stored(one), encoded, orientations),
            lambda: each(lambda one, held: orientation.upright(_decode_as_stored(one), held), encoded, orientations),
        )

    traced: Callable[[tf.Tensor], tf.Tensor] = decoder
    return traced


def decode_and_resize_masks(encoded: tf.Tensor, image_size: int) -> tf.Tensor:
    """Turns a batch of masks into model-sized class ids.

    Ids cannot be averaged: every pixel takes the id of the one in which its centre lies, floor((i + 1/2) * side /
    image_size). `resize` has its centres at the same places, so that picture and mask stay one upon the other.

    Args:
      encoded: string [N], grey PNG files of any size, upright as ImageExampleGen writes them.
      image_size: Side of the result, pixels.

    Returns:
      uint8 [N, image_size, image_size].

    Raises:
      tf.errors.InvalidArgumentError: If any file of the batch is not a complete PNG.
    """

    def model_sized(one: tf.Tensor) -> tf.Tensor:
        ids = tf.ensure_shape(tf.io.decode_png(one, channels=1), [None, None, 1])
        return tf.image.resize(ids, [image_size, image_size], method="nearest")[..., 0]

    return tf.map_fn(model_sized, encoded, fn_output_signature=tf.TensorSpec([image_size, image_size], tf.uint8))


def pack(pixels: tf.Tensor) -> tf.Tensor:
    """Turns pixels into one string of raw bytes a picture: a transform graph can give floats, int64 and strings only.

    TensorFlow has no operation for this, but a serialised TensorProto of uint8 ends with the raw content.

    Args:
      pixels: uint8 [N, image_size, image_size, channels], or masks without channels; all but N static.

    Returns:
      string [N], each image_size * image_size * channels bytes long, row-major.
    """
    num_bytes = pixels.shape[1:].num_elements()
    serialized = tf.map_fn(tf.io.serialize_tensor, pixels, fn_output_signature=tf.TensorSpec([], tf.string))
    return tf.strings.substr(serialized, -num_bytes, num_bytes)


def unpack(packed: tf.Tensor, image_size: int, channels: int) -> tf.Tensor:
    """The inverse of `pack`.

    Args:
      packed: string [N].
      image_size: Side of the picture, pixels.
      channels: 1 or 3.

    Returns:
      uint8 [N, image_size, image_size, channels].
    """
    flat = tf.io.decode_raw(packed, tf.uint8)
    return tf.reshape(flat, [-1, image_size, image_size, channels])


def _decode_as_stored(encoded: tf.Tensor) -> tf.Tensor:
    # Always as RGB: libjpeg cannot make grey of CMYK, and one file would be a picture here and none there.
    pixels = tf.io.decode_image(encoded, channels=3, expand_animations=False)
    return tf.ensure_shape(pixels, [None, None, 3])
