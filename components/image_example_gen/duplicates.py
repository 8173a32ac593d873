"""Near duplicates: images whose perceptual hashes differ in few bits, found without comparing every pair."""

from __future__ import annotations

import itertools

import numpy as np
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from components.image_example_gen.perceptual_hash import NUM_BITS


def near_duplicates(hashes: np.ndarray, distance: int) -> np.ndarray:
    """Groups hashes that a chain of near hashes connects.

    Of two hashes that differ in at most d bits, cut into d + 1 bands, at least one band is equal (the pigeonhole
    principle); only pairs with an equal band are compared, so that the cost grows with the number of images and not
    with its square.

    Args:
      hashes: uint64 [n].
      distance: Number of bits that may differ.

    Returns:
      int32 [n], one number per group.

    Reference: G. S. Manku, A. Jain & A. Das Sarma, Detecting Near-Duplicates for Web Crawling, WWW 2007, section 3.
    """
    unique, index_of = np.unique(hashes, return_inverse=True)
    pairs = [np.empty((0, 2), np.int64)]
    edges = [NUM_BITS * band // (distance + 1) for band in range(distance + 2)]
    for low, high in itertools.pairwise(edges):
        band = (unique >> np.uint64(low)) & np.uint64((1 << (high - low)) - 1)
        order = np.argsort(band, kind="stable")
        band, ordered = band[order], unique[order]
        first, step = np.arange(len(unique)), 1
        while len(first):
            first = first[first + step < len(unique)]
            first = first[band[first] == band[first + step]]
            near = first[np.bitwise_count(ordered[first] ^ ordered[first + step]) <= distance]
            pairs.append(np.stack([order[near], order[near + step]], axis=1))
            step += 1
    result: np.ndarray = connected(np.concatenate(pairs), len(unique))[index_of]
    return result


def connected(pairs: np.ndarray, size: int) -> np.ndarray:
    """Groups items that pairs connect, directly or through other items.

    Args:
      pairs: int [m, 2], in [0, size).
      size: Number of items.

    Returns:
      int32 [size], one number per group.
    """
    graph = coo_array((np.ones(len(pairs), np.int8), (pairs[:, 0], pairs[:, 1])), shape=(size, size))
    _, groups = connected_components(graph, directed=False)
    result: np.ndarray = groups
    return result
