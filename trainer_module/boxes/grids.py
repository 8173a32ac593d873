"""Grids of a feature pyramid: the sizes of its levels, their locations and the anchors around them.

The order is that of the flattened feature maps: level by level, row by row, and at each location anchor by anchor.
Everything is in pixels of the model input and known when a model is built, so these are NumPy arrays: constants of the
graph.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence

import numpy as np


def level_sizes(image_size: tuple[int, int], strides: Sequence[int]) -> list[tuple[int, int]]:
    """Computes the (height, width) of every level's feature map: with "same" padding, sizes are rounded up.

    Args:
      image_size: (height, width) of the model input, pixels.
      strides: Of each level, pixels.

    Raises:
      ValueError: If a size or a stride is not positive.
    """
    if min(image_size) < 1 or not strides or min(strides) < 1:
        raise ValueError(f"image size {image_size} and strides {tuple(strides)} must be positive")
    height, width = image_size
    return [(-(-height // stride), -(-width // stride)) for stride in strides]


def num_locations(image_size: tuple[int, int], strides: Sequence[int]) -> list[int]:
    """Computes the number of locations of every level; their sum is L."""
    return [height * width for height, width in level_sizes(image_size, strides)]


def locations(image_size: tuple[int, int], strides: Sequence[int]) -> np.ndarray:
    """Computes the centres of the cells of all feature maps.

    Args:
      image_size: (height, width) of the model input, pixels.
      strides: Of each level, pixels.

    Returns:
      float32 [L, 2], (y, x) = ((row + 1/2) stride, (column + 1/2) stride).

    Reference: Tian et al. 2019 (FCOS), https://arxiv.org/abs/1904.01355, section 3.1.
    """
    levels = []
    for (height, width), stride in zip(level_sizes(image_size, strides), strides, strict=True):
        cells = np.stack(np.meshgrid(np.arange(height), np.arange(width), indexing="ij"), axis=-1)
        levels.append((cells.reshape(-1, 2) + 0.5) * stride)
    return np.concatenate(levels).astype(np.float32)


def location_strides(image_size: tuple[int, int], strides: Sequence[int]) -> np.ndarray:
    """Returns the stride of every location, float32 [L]."""
    return np.repeat(np.asarray(strides, np.float32), num_locations(image_size, strides))


def anchors(
    image_size: tuple[int, int],
    strides: Sequence[int],
    scales: Sequence[float] = (4.0, 4.0 * 2 ** (1 / 3), 4.0 * 2 ** (2 / 3)),
    aspect_ratios: Sequence[float] = (0.5, 1.0, 2.0),
) -> np.ndarray:
    """Computes anchors around all locations.

    Args:
      image_size: (height, width) of the model input, pixels.
      strides: Of each level, pixels.
      scales: Square roots of the areas of the anchors, in strides; the default is RetinaNet's.
      aspect_ratios: Widths divided by heights.

    Returns:
      float32 [L * A, 4], where A is the number of scales times that of aspect ratios; at each location the aspect
      ratios of the first scale come first. Anchors are not clipped to the image.

    Reference: Lin et al. 2017 (RetinaNet), https://arxiv.org/abs/1708.02002, section 4.
    """
    half_sides = np.array(
        [
            (scale / math.sqrt(ratio) / 2, scale * math.sqrt(ratio) / 2)
            for scale, ratio in itertools.product(scales, aspect_ratios)
        ]
    )
    centers = locations(image_size, strides)[:, np.newaxis]
    sides = location_strides(image_size, strides)[:, np.newaxis, np.newaxis] * half_sides
    return np.concatenate([centers - sides, centers + sides], axis=-1).reshape(-1, 4).astype(np.float32)


def square_anchors(image_size: tuple[int, int], strides: Sequence[int], scale: float = 8.0) -> np.ndarray:
    """Computes one square anchor per location, float32 [L, 4], with which ATSS assigns boxes of an anchor-free head.

    Reference: Zhang et al. 2020 (ATSS), https://arxiv.org/abs/1912.02424, section 4.1 (anchors with side 8 strides).
    """
    return anchors(image_size, strides, scales=(scale,), aspect_ratios=(1.0,))
