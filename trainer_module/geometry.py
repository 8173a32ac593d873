"""How images of any size become model inputs of one size, and how predictions come back: the one definition.

Training, evaluation, Grad-CAM, export and previews use these functions. Coordinates are continuous: pixel i of a row
covers [i, i + 1], so an image covers (0, 0, height, width). The placement of an image is one affine map per axis,
target = scale * source + offset, computed on NumPy arrays or tensors; pixels, masks, boxes and heat maps follow it.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import tensorflow as tf

from trainer_module import box_labels
from trainer_module.boxes.arrays import Array, as_array, as_float, library
from trainer_module.boxes.transforms import clip_visible, scale, shift
from trainer_module.model_input import Geometry

# Colour of the pixels outside an image that is padded: after the normalisation of pre-trained networks it is almost 0,
# which is what their convolutions read beyond the border.
PADDING_COLOR = 128.0
_ROWS_AT_ONCE = 64  # of an image that is restored; limits memory


class Placement(NamedTuple):
    """Placement of an image in another: target = scale * source + offset, for y and x.

    Attributes:
      scale: float [..., 2].
      offset: float [..., 2], in units of the target.
    """

    scale: Array
    offset: Array


# === The plan ===


def place(image_size: Array, geometry: Geometry) -> Placement:
    """Computes where images are placed in the model input.

    The resized image has whole pixels, `placed_size`, so both scales may differ by the rounding; with them boxes and
    masks follow the pixels exactly. Offsets are whole numbers, rounded down; with `crop` they are not positive.

    Args:
      image_size: int [..., 2], (height, width) of the images, pixels; an array or a tensor.
      geometry: The model input.

    Returns:
      Pixels of the image → pixels of the model input.
    """
    lib = library(image_size)
    size = as_float(image_size)
    target = as_array(geometry.size, size)
    ratios = target / size
    if geometry.resize == "stretch":
        return Placement(ratios, 0.0 * ratios)
    if geometry.resize == "pad":
        ratio = lib.minimum(ratios[..., :1], ratios[..., 1:])
        content = lib.minimum(lib.maximum(lib.floor(size * ratio + 0.5), 1.0), target)
    else:
        ratio = lib.maximum(ratios[..., :1], ratios[..., 1:])
        content = lib.maximum(lib.floor(size * ratio + 0.5), target)
    return Placement(content / size, lib.floor((target - content) / 2.0))


def placed_size(placement: Placement, image_size: Array) -> Array:
    """Computes the size of the resized image: int [..., 2] → float [..., 2], whole pixels."""
    lib = library(placement.scale)
    return lib.floor(placement.scale * as_array(image_size, placement.scale) + 0.5)


def inverse(placement: Placement) -> Placement:
    """Returns the placement from the target back to the image."""
    return Placement(1.0 / placement.scale, -placement.offset / placement.scale)


# === Boxes ===


def move(boxes: Array, placement: Placement) -> Array:
    """Moves boxes with their image: float [..., M, 4], pixels of the image → pixels of the target."""
    return shift(scale(boxes, placement.scale), placement.offset)


def boxes_in_input(boxes: Array, image_size: Array, geometry: Geometry) -> Array:
    """Moves normalised boxes from images to the model input.

    Args:
      boxes: float [..., M, 4], relative to the images.
      image_size: int [..., 2], (height, width) of the images, pixels.
      geometry: The model input.

    Returns:
      float [..., M, 4], relative to the model input, not clipped: with `crop` boxes may lie outside.
    """
    if geometry.resize == "stretch":
        return boxes
    moved = move(scale(boxes, as_array(image_size, boxes)), place(image_size, geometry))
    return scale(moved, 1.0 / as_array(geometry.size, boxes))


def boxes_in_image(boxes: Array, image_size: Array, geometry: Geometry) -> Array:
    """Inverts `boxes_in_input`; the result is not clipped."""
    if geometry.resize == "stretch":
        return boxes
    moved = move(scale(boxes, as_array(geometry.size, boxes)), inverse(place(image_size, geometry)))
    return scale(moved, 1.0 / as_array(image_size, boxes))


def labels_in_input(labels: tf.Tensor, image_size: tf.Tensor, geometry: Geometry) -> tf.Tensor:
    """Moves the boxes of labels from images to the model input.

    Objects of which `crop` leaves less than `boxes.transforms.MIN_VISIBILITY` of the area become padding.

    Args:
      labels: float32 [N, max_objects, 6], see `box_labels`.
      image_size: int [N, 2], (height, width) of the images, pixels.
      geometry: The model input.
    """
    if geometry.resize == "stretch":
        return labels
    moved = clip_visible(boxes_in_input(labels[..., :4], image_size, geometry))
    return keep_visible(tf.concat([moved.boxes, labels[..., 4:]], axis=-1), moved.visible)


def keep_visible(labels: tf.Tensor, visible: tf.Tensor) -> tf.Tensor:
    """Turns objects that are not visible into padding; objects stay before padding.

    Args:
      labels: float32 [N, max_objects, 6], see `box_labels`.
      visible: bool [N, max_objects].
    """
    exists = (labels[..., 4] != box_labels.PADDING) & visible
    order = tf.argsort(tf.cast(~exists, tf.int32), axis=-1, stable=True)
    padding = tf.constant([0.0] * 4 + [float(box_labels.PADDING), 0.0])
    return tf.gather(tf.where(exists[..., tf.newaxis], labels, padding), order, batch_dims=1)


# === Pixels and masks ===


def resize_pixels(pixels: tf.Tensor, geometry: Geometry) -> tf.Tensor:
    """Places one image in the model input, bilinearly with antialiasing; pixels outside it have `PADDING_COLOR`.

    Args:
      pixels: uint8 [height, width, channels].
      geometry: The model input.

    Returns:
      uint8 [*geometry.size, channels], rounded to the nearest value.
    """
    # The operation fills with 0 outside the image.
    fill = PADDING_COLOR if geometry.resize == "pad" else 0.0

    def resized() -> tf.Tensor:
        placement = place(tf.shape(pixels)[:2], geometry)
        result = tf.raw_ops.ScaleAndTranslate(
            images=tf.cast(pixels, tf.float32)[tf.newaxis] - fill,
            size=geometry.size,
            scale=placement.scale,
            translation=placement.offset,
            kernel_type="triangle",  # bilinear; `tf.image.resize` with antialiasing is the same operation
            antialias=True,
        )[0]
        return tf.cast(tf.clip_by_value(tf.round(result + fill), 0.0, 255.0), tf.uint8)

    # Resizing a small image to its own size would take half of the total time.
    has_size = tf.reduce_all(tf.equal(tf.shape(pixels)[:2], geometry.size))
    return tf.ensure_shape(tf.cond(has_size, lambda: pixels, resized), [*geometry.size, pixels.shape[-1]])


def resize_mask(mask: tf.Tensor, geometry: Geometry, padding_id: int) -> tf.Tensor:
    """Places one mask in the model input: uint8 [height, width] → uint8 [*geometry.size].

    Ids cannot be averaged: a pixel takes the id of the source pixel that contains its centre, outside the image
    `padding_id`.
    """
    size = tf.shape(mask)
    placement = place(size, geometry)
    sides, contents = tf.cast(size, tf.float32), placed_size(placement, size)

    def sources(axis: int) -> tuple[tf.Tensor, tf.Tensor]:
        centers = tf.range(geometry.size[axis], dtype=tf.float32) + 0.5 - placement.offset[axis]
        indices = tf.cast(tf.floor(centers * (sides[axis] / contents[axis])), tf.int32)
        return tf.clip_by_value(indices, 0, size[axis] - 1), (centers > 0.0) & (centers < contents[axis])

    (rows, in_rows), (columns, in_columns) = sources(0), sources(1)
    resized = tf.gather(tf.gather(mask, rows), columns, axis=1)
    if geometry.resize == "pad":
        inside = in_rows[:, tf.newaxis] & in_columns[tf.newaxis]
        resized = tf.where(inside, resized, tf.constant(padding_id, mask.dtype))
    return tf.ensure_shape(resized, geometry.size)


# === Back to the image ===


class Samples(NamedTuple):
    """Rows (or columns) of a map of the model input that a row of positions in an image reads.

    Attributes:
      first, second: int32 [n], the nearest pixels of the map before and after each position.
      weight: float32 [n], weight of the second.
      seen: bool [n], whether the position is part of the model input: `crop` removes some.
    """

    first: tf.Tensor
    second: tf.Tensor
    weight: tf.Tensor
    seen: tf.Tensor

    def at(self, indices: tf.Tensor) -> Samples:
        """Selects positions."""
        return Samples(*(tf.gather(values, indices) for values in self))

    def read(self, maps: tf.Tensor, axis: int) -> tf.Tensor:
        """Interpolates along an axis of float32 maps."""
        first, second = tf.gather(maps, self.first, axis=axis), tf.gather(maps, self.second, axis=axis)
        shape = [1] * len(maps.shape)
        shape[axis] = -1
        return first + tf.reshape(self.weight, shape) * (second - first)


def samples(image_size: tf.Tensor, geometry: Geometry, grid: tf.Tensor) -> tuple[Samples, Samples]:
    """Computes which rows and columns of the model input belong to a grid over the whole image.

    Positions that `crop` removed read the nearest pixel of the model input.

    Args:
      image_size: int [2], height and width of the image, pixels.
      geometry: The model input.
      grid: int [2], number of rows and columns; the size of the image for one sample per pixel.
    """
    placement = place(image_size, geometry)
    low = tf.maximum(placement.offset, 0.0)
    high = tf.minimum(placement.offset + placed_size(placement, image_size), tf.constant(geometry.size, tf.float32))
    sides = tf.cast(image_size, tf.float32)

    def along(axis: int) -> Samples:
        count = grid[axis]
        centers = (tf.range(tf.cast(count, tf.float32)) + 0.5) * (sides[axis] / tf.cast(count, tf.float32))
        positions = centers * placement.scale[axis] + placement.offset[axis]
        seen = (positions >= low[axis]) & (positions <= high[axis])
        positions = tf.clip_by_value(positions - 0.5, low[axis], high[axis] - 1.0)
        first = tf.floor(positions)
        second = tf.minimum(first + 1.0, high[axis] - 1.0)
        return Samples(tf.cast(first, tf.int32), tf.cast(second, tf.int32), positions - first, seen)

    return along(0), along(1)


def restore_mask(logits: tf.Tensor, image_size: tf.Tensor, geometry: Geometry) -> tf.Tensor:
    """Computes the most probable class of every pixel of the image: logits are interpolated bilinearly.

    Pixels that `crop` removed have the class of the nearest pixel of the model input: every pixel needs a class, and
    not every dataset has one for the unknown.

    Args:
      logits: float32 [*geometry.size, C], of one image.
      image_size: int [2], height and width of the image, pixels.
      geometry: The model input.

    Returns:
      uint8 [height, width].
    """
    rows, columns = samples(image_size, geometry, image_size)

    def classify(indices: tf.Tensor) -> tf.Tensor:
        values = columns.read(rows.at(indices).read(logits, axis=0), axis=1)
        return tf.cast(tf.argmax(values, axis=-1), tf.uint8)

    return in_blocks(classify, image_size[0], tf.TensorSpec([_ROWS_AT_ONCE, None], tf.uint8))


def restore_heatmaps(heatmaps: tf.Tensor, image_sizes: tf.Tensor, geometry: Geometry) -> tf.Tensor:
    """Maps heat maps to the images: the same number of rows and columns, but over the whole image.

    Pixels that `crop` removed have no heat: they cannot be evidence.

    Args:
      heatmaps: float32 [N, *geometry.size], over the model input.
      image_sizes: int [N, 2], height and width of the images, pixels.
      geometry: The model input.

    Returns:
      float32 [N, *geometry.size]; resized to an image, a heat map lies exactly over it.
    """
    if geometry.resize == "stretch":
        return heatmaps

    def restore(one: tuple[tf.Tensor, tf.Tensor]) -> tf.Tensor:
        heatmap, image_size = one
        rows, columns = samples(image_size, geometry, tf.constant(geometry.size))
        values = columns.read(rows.read(heatmap, axis=0), axis=1)
        return tf.where(rows.seen[:, tf.newaxis] & columns.seen[tf.newaxis], values, 0.0)

    spec = tf.TensorSpec(geometry.size, tf.float32)
    return tf.map_fn(restore, (heatmaps, image_sizes), fn_output_signature=spec)


def in_blocks(function: Callable[[tf.Tensor], tf.Tensor], height: tf.Tensor, spec: Any) -> tf.Tensor:
    """Calls a function for blocks of rows, and joins the results along the first axis.

    Args:
      function: int32 [64], indices of rows → tensor [64, ...]; the last block repeats the last row.
      height: int [], number of rows.
      spec: tf.TensorSpec of one result.
    """
    height = tf.cast(height, tf.int32)
    count = -(-height // _ROWS_AT_ONCE)
    indices = tf.minimum(tf.range(count * _ROWS_AT_ONCE), height - 1)
    blocks = tf.map_fn(
        function, tf.reshape(indices, [-1, _ROWS_AT_ONCE]), fn_output_signature=spec, parallel_iterations=2
    )
    return tf.reshape(blocks, tf.concat([[-1], tf.shape(blocks)[2:]], axis=0))[:height]
