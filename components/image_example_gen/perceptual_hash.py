"""Perceptual hashes: images that look alike have hashes that differ in few bits."""

from __future__ import annotations

import numpy as np

SIDE = 32  # of the reduced image, pixels
NUM_BITS = 63
_NUM_FREQUENCIES = 8
_COSINES = np.cos(
    np.pi * (2 * np.arange(SIDE)[np.newaxis] + 1) * np.arange(_NUM_FREQUENCIES)[:, np.newaxis] / (2 * SIDE)
)


def perceptual_hashes(reduced: np.ndarray) -> np.ndarray:
    """Computes which of the lowest frequencies of reduced grey images are above their median.

    Args:
      reduced: float [N, 32, 32].

    Returns:
      int64 [N], 63 bits.

    Reference: C. Zauner, Implementation and Benchmarking of Perceptual Image Hash Functions, 2010, the hash based on
    the discrete cosine transform.
    """
    # scipy.fft.dct computes all 32 frequencies of both axes, and is half as fast as this product with the eight that
    # are used. Its other rounding also changes hashes of symmetric images, whose spectrum is zero in many places.
    # The first frequency is the mean, which is not structure.
    spectrum = (_COSINES @ reduced @ _COSINES.T).reshape(len(reduced), -1)[:, 1:]
    above = spectrum > np.median(spectrum, axis=1, keepdims=True)
    result: np.ndarray = above @ (1 << np.arange(NUM_BITS, dtype=np.int64))
    return result
