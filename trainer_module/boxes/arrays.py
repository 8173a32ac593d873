"""One definition for NumPy and TensorFlow: evaluation computes on NumPy arrays without TensorFlow, training in graphs.

Boxes are float [..., 4] in the order (ymin, xmin, ymax, xmax), in pixels or normalised to [0, 1]; y points down. A box
without positive height and width is empty: its area is 0. Padding is an empty box, usually four zeros.

Functions with several boxes per image take boxes [..., M, 4]; their arguments per image (a size, a window) have the
leading dimensions without M, or no leading dimensions if they are the same for all images.
"""

from __future__ import annotations

from typing import Any

import numpy as np

# Areas up to this are divided by as if they were 0, so that no quotient and no gradient overflows. It is the area of a
# square whose side is a millionth of the image, or of a pixel.
_SMALLEST_AREA = 1e-12

# np.ndarray or tf.Tensor; a function returns the kind that it is given.
Array = Any


def library(*arrays: Array) -> Any:
    """Returns the module whose functions compute on these arrays: `numpy`, or `tensorflow` if any is a tensor."""
    if all(isinstance(array, np.ndarray) for array in arrays):
        return np
    import tensorflow as tf

    return tf


def as_array(values: Any, like: Array) -> Array:
    """Converts numbers, or an array, to the kind and the type of another array."""
    if isinstance(like, np.ndarray):
        return np.asarray(values, like.dtype)
    import tensorflow as tf

    return tf.cast(tf.convert_to_tensor(values), like.dtype)


def as_float(array: Array) -> Array:
    """Converts an array of any type to float32; the kind stays the same."""
    lib = library(array)
    return array.astype(np.float32) if lib is np else lib.cast(array, np.float32)


def corners(boxes: Array) -> tuple[Array, Array, Array, Array]:
    """Returns ymin, xmin, ymax and xmax, each [...]."""
    return boxes[..., 0], boxes[..., 1], boxes[..., 2], boxes[..., 3]


def divide(areas: Array, by: Array) -> Array:
    """Divides areas by areas: float [...] each, broadcast → float [...]; 0 where the divisor is 0."""
    where = library(areas, by).where
    positive = by > _SMALLEST_AREA
    # The inner choice keeps the gradient of the branch that is not taken finite.
    return where(positive, areas / where(positive, by, 1.0), 0.0)
