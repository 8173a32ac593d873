"""Near duplicates: the search by keys against every pair."""

import numpy as np
import pytest

from components.image_example_gen.duplicates import connected, key_masks, near_pairs


def near_duplicates(hashes, distance, num_hashes=None):
    """Groups hashes by the pairs that all masks find; more masks, as for so many hashes."""
    unique, index_of = np.unique(hashes, return_inverse=True)
    masks = key_masks(distance, len(unique) if num_hashes is None else num_hashes)
    pairs = np.concatenate([near_pairs(unique, mask, distance) for mask in masks])
    return connected(np.searchsorted(unique, pairs), len(unique))[index_of]


def by_every_pair(hashes, distance):
    groups = list(range(len(hashes)))
    for i in range(len(hashes)):
        for j in range(i):
            if (int(hashes[i]) ^ int(hashes[j])).bit_count() <= distance and groups[i] != groups[j]:
                old, new = groups[i], groups[j]
                groups = [new if group == old else group for group in groups]
    return groups


def partition(groups):
    members = {}
    for index, group in enumerate(groups):
        members.setdefault(group, []).append(index)
    return sorted(members.values())


@pytest.mark.parametrize("num_hashes", [None, 10**7, 10**9])
@pytest.mark.parametrize("distance", range(9))
def test_the_same_groups_as_by_comparing_every_pair(rng, distance, num_hashes):
    originals = rng.integers(0, 2**63, 40, dtype=np.uint64)
    hashes = []
    for _ in range(150):
        hashed = int(rng.choice(originals))
        for bit in rng.integers(0, 63, rng.integers(0, 12)):
            hashed ^= 1 << int(bit)
        hashes.append(hashed)
    hashes = np.array(hashes, np.uint64)
    assert partition(near_duplicates(hashes, distance, num_hashes)) == partition(by_every_pair(hashes, distance))


def test_no_hash_and_one_hash():
    assert len(near_duplicates(np.empty(0, np.uint64), 4)) == 0
    assert list(near_duplicates(np.array([7], np.uint64), 4)) == [0]


def test_many_equal_hashes_are_fast():
    groups = near_duplicates(np.full(200_000, 12345, np.uint64), 4)
    assert set(groups) == {0}


def test_more_hashes_have_longer_keys_in_more_masks():
    few, many = key_masks(4, 10_000), key_masks(4, 10**9)
    assert len(few) == 5 and {mask.bit_count() for mask in few} == {12, 13}
    assert len(many) == 35 and all(mask.bit_count() == 27 for mask in many)
    for masks in (few, many):
        union = 0
        for mask in masks:
            union |= mask
        assert union == 2**63 - 1
