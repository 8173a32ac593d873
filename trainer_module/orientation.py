"""EXIF orientation as graph operations: photographs are upright in training and in serving.

TensorFlow's decoders ignore it. The tag is read from the first APP1 segment of a JPEG file that begins with `Exif`; the
segments before it must be APPn or comments, which is where cameras and editors put it.

Reference: CIPA DC-008 (Exif 2.32), 4.5.4 (segments) and 4.6.4 A, tag 274 (orientation).
"""

from __future__ import annotations

import tensorflow as tf

_TAG = 0x0112
_LONG = 4  # type of a four-byte value; orientation should be a SHORT
_ENTRY_BYTES = 12
# A branch that is not taken costs time for each of its operations unless they are a function that is not inlined; for
# small images that was as much as decoding them.
_NOT_INLINED = tf.function(autograph=False, experimental_attributes={"_noinline": True})


def exif_orientation(encoded: tf.Tensor) -> tf.Tensor:
    """Reads the EXIF orientation of an image file: string [] → int32 [], 1 to 8.

    It is 1 (upright) if the file is not a JPEG, or the tag is missing or damaged.
    """
    return tf.cond(_is_jpeg(encoded), lambda: _read_jpeg(encoded), lambda: tf.constant(1))


def exif_orientations(encoded: tf.Tensor) -> tf.Tensor:
    """Reads the EXIF orientations of a batch, string [N] → int32 [N]; files that are not JPEG cost almost nothing."""
    return tf.cond(
        tf.reduce_any(_is_jpeg(encoded)),
        lambda: tf.map_fn(exif_orientation, encoded, fn_output_signature=tf.TensorSpec([], tf.int32)),
        lambda: tf.ones_like(tf.strings.length(encoded)),
    )


def upright(pixels: tf.Tensor, orientation: tf.Tensor) -> tf.Tensor:
    """Rotates and flips an image so that it is upright.

    Args:
      pixels: [height, width, channels].
      orientation: int32 [], from `exif_orientation`.

    Returns:
      [height, width, channels], or [width, height, channels] for orientations 5 to 8.
    """
    result = tf.cond(orientation > 1, lambda: _apply(pixels, orientation), lambda: pixels)
    return tf.ensure_shape(result, [None, None, pixels.shape[-1]])


def _is_jpeg(encoded: tf.Tensor) -> tf.Tensor:
    return tf.equal(tf.strings.substr(encoded, 0, 2), b"\xff\xd8")


@_NOT_INLINED
def _apply(pixels: tf.Tensor, orientation: tf.Tensor) -> tf.Tensor:
    """Transposes (5 to 8), then flips columns (2, 3, 6, 7) and rows (3, 4, 7, 8)."""
    result = tf.cond(orientation >= 5, lambda: tf.transpose(pixels, [1, 0, 2]), lambda: pixels)
    columns = tf.reduce_any(tf.equal(orientation, [2, 3, 6, 7]))
    rows = tf.reduce_any(tf.equal(orientation, [3, 4, 7, 8]))
    result = tf.cond(columns, lambda: tf.reverse(result, [1]), lambda: result)
    return tf.cond(rows, lambda: tf.reverse(result, [0]), lambda: result)


@_NOT_INLINED
def _read_jpeg(encoded: tf.Tensor) -> tf.Tensor:
    size = tf.strings.length(encoded)

    def segment_head(position: tf.Tensor) -> tf.Tensor:
        """Returns marker, length and the first six bytes of a segment: int32 [10], zeros after the end of the file."""
        start = tf.minimum(position, size)
        head = tf.io.decode_raw(tf.strings.substr(encoded, start, tf.minimum(10, size - start)), tf.uint8)
        return tf.pad(tf.cast(head, tf.int32), [[0, 10 - tf.size(head)]])

    def is_other_segment(position: tf.Tensor, head: tf.Tensor) -> tf.Tensor:
        del position
        is_application = ((head[1] >= 0xE0) & (head[1] <= 0xEF)) | (head[1] == 0xFE)
        return (head[0] == 0xFF) & (is_application | (head[1] == 0xFF)) & ~is_exif(head)

    def is_exif(head: tf.Tensor) -> tf.Tensor:
        return (head[1] == 0xE1) & tf.reduce_all(tf.equal(head[4:], list(b"Exif\0\0")))

    def next_segment(position: tf.Tensor, head: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        # Fill bytes FF may precede a marker.
        following = position + tf.where(head[1] == 0xFF, 1, 2 + tf.maximum(2, head[2] * 256 + head[3]))
        return following, segment_head(following)

    first = tf.constant(2)
    position, head = tf.while_loop(is_other_segment, next_segment, [first, segment_head(first)])

    def read_exif() -> tf.Tensor:
        start = tf.minimum(position + 10, size)
        num_bytes = tf.clip_by_value(head[2] * 256 + head[3] - 8, 0, size - start)
        return _read_tiff(tf.cast(tf.io.decode_raw(tf.strings.substr(encoded, start, num_bytes), tf.uint8), tf.int64))

    return tf.cond((head[0] == 0xFF) & is_exif(head), read_exif, lambda: tf.constant(1))


def _read_tiff(content: tf.Tensor) -> tf.Tensor:
    """Reads the tag from the first directory of a TIFF structure: int64 [n], one element per byte."""
    size = tf.size(content, out_type=tf.int64)
    content = tf.concat([content, tf.zeros([8], tf.int64)], 0)  # so that reading the header cannot fail
    is_little = tf.equal(content[0], ord("I"))

    def number(positions: tf.Tensor, num_bytes: int) -> tf.Tensor:
        little = [256**power for power in range(num_bytes)]
        values = tf.where(is_little, tf.constant(little, tf.int64), tf.constant(little[::-1], tf.int64))
        digits = tf.gather(content, positions[..., tf.newaxis] + tf.range(num_bytes, dtype=tf.int64))
        return tf.reduce_sum(digits * values, axis=-1)

    directory = tf.minimum(number(tf.constant(4, tf.int64), 4), size)
    max_entries = tf.maximum(size - directory - 2, 0) // _ENTRY_BYTES
    num_entries = tf.minimum(number(directory, 2), max_entries)
    entries = directory + 2 + _ENTRY_BYTES * tf.range(num_entries)
    values = tf.where(tf.equal(number(entries + 2, 2), _LONG), number(entries + 8, 4), number(entries + 8, 2))
    values = tf.boolean_mask(values, tf.equal(number(entries, 2), _TAG))
    value = tf.cast(tf.concat([values, [1]], 0)[0], tf.int32)
    return tf.where((value >= 1) & (value <= 8), value, 1)
