"""Near duplicates: images whose perceptual hashes differ in few bits, found without comparing every pair."""

from __future__ import annotations

import itertools
import math

import numpy as np
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from components.image_example_gen.perceptual_hash import NUM_BITS

# Sorting and moving a hash costs as much as comparing so many pairs of them.
_COST_OF_KEY = 10
# More blocks make tables whose number exceeds what they save.
_MOST_ADDITIONAL_BLOCKS = 6


def key_masks(distance: int, num_hashes: int) -> list[int]:
    """Returns masks of bits, so that two hashes which differ in at most `distance` bits are equal in one of them.

    The bits are cut into blocks. At most `distance` of them differ (the pigeonhole principle), and so all bits of some
    combination of the others are equal. More blocks make longer keys, which fewer other hashes share, but more masks:
    the number of blocks is the cheapest for the number of hashes, so that the cost grows with it and not with its
    square.

    Args:
      distance: Number of bits that may differ.
      num_hashes: Number of different hashes.

    Reference: G. S. Manku, A. Jain & A. Das Sarma, Detecting Near-Duplicates for Web Crawling, WWW 2007, section 3.
    """

    def cost(num_blocks: int) -> float:
        num_key_bits = NUM_BITS * (num_blocks - distance) // num_blocks
        return math.comb(num_blocks, distance) * (_COST_OF_KEY + math.ldexp(num_hashes, -num_key_bits))

    num_blocks = min(range(distance + 1, distance + 2 + _MOST_ADDITIONAL_BLOCKS), key=cost)
    edges = [NUM_BITS * block // num_blocks for block in range(num_blocks + 1)]
    blocks = [(1 << high) - (1 << low) for low, high in itertools.pairwise(edges)]
    return [sum(chosen) for chosen in itertools.combinations(blocks, num_blocks - distance)]


def near_pairs(hashes: np.ndarray, mask: int, distance: int) -> np.ndarray:
    """Finds the pairs of hashes that are equal in all bits of a mask and differ in at most `distance` others.

    Args:
      hashes: uint64 [n], each once.
      mask: From `key_masks`.
      distance: Number of bits that may differ.

    Returns:
      uint64 [m, 2].
    """
    keys = hashes & np.uint64(mask)
    order = np.argsort(keys)
    keys, ordered = keys[order], hashes[order]
    pairs = [np.empty((0, 2), np.uint64)]
    first, step = np.arange(len(ordered)), 1
    while len(first):
        first = first[first + step < len(ordered)]
        first = first[keys[first] == keys[first + step]]
        near = first[np.bitwise_count(ordered[first] ^ ordered[first + step]) <= distance]
        pairs.append(np.stack([ordered[near], ordered[near + step]], axis=1))
        step += 1
    return np.concatenate(pairs)


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
