"""Near duplicates: images whose perceptual hashes differ in few bits, found without comparing every pair."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable

import numpy as np
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from components.image_example_gen.perceptual_hash import NUM_BITS

# Sorting and moving a hash costs as much as comparing so many pairs of them.
_COST_OF_KEY = 10
# More blocks make tables whose number exceeds what they save.
_MOST_ADDITIONAL_BLOCKS = 6
_WORD = 64  # bits of a hash as an array stores it
# Neighbours are compared without indices while more than one in so many has the same key.
_DENSE = 4


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

    Some pairs that differ in few bits of the mask may be among them; they too differ in at most `distance` bits.

    Args:
      hashes: uint64 [n], each once.
      mask: From `key_masks`.
      distance: Number of bits that may differ.

    Returns:
      uint64 [m, 2].
    """
    moves = _moves(mask)
    ordered = np.sort(_rearrange(hashes, moves))  # several times as fast as np.argsort
    key_bits = np.uint64(_WORD - mask.bit_count())
    pairs = [np.empty((0, 2), np.uint64)]
    first, step = np.arange(0), 1
    # Neighbours at a growing distance in the order, without indices as long as most of them have the same key.
    is_dense = True
    while step < len(ordered):
        if is_dense:
            one, other = ordered[:-step], ordered[step:]
        else:
            first = first[first + step < len(ordered)]
            one, other = ordered[first], ordered[first + step]
        differing = one ^ other
        near = np.bitwise_count(differing) <= distance
        if near.any():
            pairs.append(np.stack([one[near], other[near]], axis=1))
        same = np.flatnonzero(differing >> key_bits == 0)
        if not len(same):
            break
        first = same if is_dense else first[same]
        is_dense = is_dense and _DENSE * len(same) > len(ordered)
        step += 1
    return _rearrange(np.concatenate(pairs), [(target, source, size) for source, target, size in moves])


# Bits of a hash that are moved together: their lowest one, the place where it goes, and their number.
_Move = tuple[int, int, int]


def _moves(mask: int) -> list[_Move]:
    """Returns the moves that place the bits of a mask above the others."""
    runs: dict[bool, list[tuple[int, int]]] = {True: [], False: []}
    for is_set, bits in itertools.groupby(range(_WORD), lambda bit: bool(mask >> bit & 1)):
        run = list(bits)
        runs[is_set].append((run[0], len(run)))
    moves, target = list[_Move](), _WORD
    for lowest, size in runs[True] + runs[False]:
        target -= size
        moves.append((lowest, target, size))
    return moves


def _rearrange(hashes: np.ndarray, moves: Iterable[_Move]) -> np.ndarray:
    result = np.zeros_like(hashes)
    for source, target, size in moves:
        result |= (hashes >> np.uint64(source) & np.uint64((1 << size) - 1)) << np.uint64(target)
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
