"""Rows as arrays: partitions, runs and the order of digests."""

import hashlib

import numpy as np
import pytest

from components.image_example_gen.columns import (
    Columns,
    digests,
    hex_digest,
    objects,
    order_of,
    sizes_of_runs,
    starts_of_runs,
)


def test_rows_keep_their_order_in_partitions(rng):
    partition_of = rng.integers(0, 7, 200)
    labels = objects((("a",) * (number % 3) for number in range(200)), 200)
    rows = Columns(number=np.arange(200), label=labels)
    parts = dict(rows.by_partition(partition_of))
    assert parts.keys() == set(partition_of.tolist())
    for partition, part in parts.items():
        assert part["number"].tolist() == np.flatnonzero(partition_of == partition).tolist()
        assert part["label"].tolist() == [labels[number] for number in part["number"]]
    first, *others = parts.values()
    assert sorted(first.followed_by(others)["number"].tolist()) == list(range(200))


def test_no_rows():
    rows = Columns(number=np.empty(0, int))
    assert len(rows) == 0 and list(rows.by_partition(rows["number"])) == []
    assert len(starts_of_runs(rows["number"])) == len(sizes_of_runs(starts_of_runs(rows["number"]), 0)) == 0


def test_runs_of_several_keys():
    digest, kind = np.array([[1, 1], [1, 1], [1, 2], [1, 2]], np.uint64), np.array([0, 1, 1, 1])
    assert starts_of_runs(digest).tolist() == [0, 2]
    starts = starts_of_runs(digest, kind)
    assert starts.tolist() == [0, 1, 2] and sizes_of_runs(starts, 4).tolist() == [1, 1, 2]


@pytest.mark.parametrize("alike", [0, 16, 40])
def test_digests_are_sorted_as_their_hex_forms(alike, rng):
    names = [hashlib.sha256(str(number % 150).encode()).hexdigest() for number in range(400)]
    names = ["f" * alike + name[alike:] for name in names]
    reference = rng.permutation(400)
    encoded = digests(names)
    assert [hex_digest(each) for each in encoded] == names
    assert order_of(encoded, reference).tolist() == sorted(range(400), key=lambda row: (names[row], reference[row]))
