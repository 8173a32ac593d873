"""Near duplicates: the banded search against every pair."""

import numpy as np
import pytest

from components.image_example_gen.duplicates import near_duplicates


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


@pytest.mark.parametrize("distance", range(9))
def test_the_same_groups_as_by_comparing_every_pair(rng, distance):
    originals = rng.integers(0, 2**63, 40, dtype=np.uint64)
    hashes = []
    for _ in range(150):
        hashed = int(rng.choice(originals))
        for bit in rng.integers(0, 63, rng.integers(0, 12)):
            hashed ^= 1 << int(bit)
        hashes.append(hashed)
    hashes = np.array(hashes, np.uint64)
    assert partition(near_duplicates(hashes, distance)) == partition(by_every_pair(hashes, distance))


def test_no_hash_and_one_hash():
    assert len(near_duplicates(np.empty(0, np.uint64), 4)) == 0
    assert list(near_duplicates(np.array([7], np.uint64), 4)) == [0]


def test_many_equal_hashes_are_fast():
    groups = near_duplicates(np.full(200_000, 12345, np.uint64), 4)
    assert set(groups) == {0}
