"""Rows as arrays, one for every column: a row costs some instructions instead of Python objects. Pure functions."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import numpy as np


class Columns:
    """Arrays [n, ...] of the same rows, by name.

    Columns of Python objects are possible. Equal ones should be the same object, which is then pickled once.
    """

    def __init__(self, **arrays: np.ndarray) -> None:
        """Takes the arrays, at least one."""
        self._arrays = arrays

    def __getitem__(self, name: str) -> np.ndarray:
        return self._arrays[name]

    def __len__(self) -> int:
        return len(next(iter(self._arrays.values())))

    def take(self, rows: np.ndarray | slice) -> Columns:
        """Returns some rows: their numbers, a bool for every row, or a slice, whose arrays are views."""
        return Columns(**{name: array[rows] for name, array in self._arrays.items()})

    def replace(self, **arrays: np.ndarray) -> Columns:
        """Returns the rows with other arrays of these names, or with further ones."""
        return Columns(**{**self._arrays, **arrays})

    def only(self, *names: str) -> Columns:
        """Returns the rows with some columns."""
        return Columns(**{name: self._arrays[name] for name in names})

    def without(self, *names: str) -> Columns:
        """Returns the rows without some columns."""
        return Columns(**{name: array for name, array in self._arrays.items() if name not in names})

    def followed_by(self, others: Iterable[Columns]) -> Columns:
        """Returns these rows, then those of the others, which have the same columns."""
        parts = [self, *others]
        return Columns(**{name: np.concatenate([part[name] for part in parts]) for name in self._arrays})

    def by_partition(self, partition_of: np.ndarray) -> Iterator[tuple[int, Columns]]:
        """Collects the rows of every partition that has any, in their order.

        Args:
          partition_of: Partition of every row, int [n].
        """
        if not len(self):
            return
        order = np.argsort(partition_of, kind="stable")
        partitions, ordered = partition_of[order], self.take(order)
        starts = starts_of_runs(partitions)
        ends = [*starts[1:].tolist(), len(order)]
        for partition, start, end in zip(partitions[starts].tolist(), starts.tolist(), ends, strict=True):
            yield partition, ordered.take(slice(start, end))


def objects(values: Iterable[Any], size: int) -> np.ndarray:
    """Returns so many Python objects as an array, tuples too."""
    return np.fromiter(values, np.dtype(object), size)


def starts_of_runs(*keys: np.ndarray) -> np.ndarray:
    """Returns the first row of every run of rows with equal keys: [n] or [n, k] each, sorted."""
    size = len(keys[0])
    is_first = np.zeros(size, bool)
    is_first[:1] = True
    for key in keys:
        differs = key[1:] != key[:-1]
        is_first[1:] |= differs if differs.ndim == 1 else differs.any(axis=1)
    return np.flatnonzero(is_first)


def sizes_of_runs(starts: np.ndarray, size: int) -> np.ndarray:
    """Returns the number of rows of every run.

    Args:
      starts: From `starts_of_runs`.
      size: Number of all rows.
    """
    return np.diff(starts, append=size)


# === Digests: uint64 [n, 4], most significant first ===

_NUM_WORDS = 4


def digests(hex_digests: Sequence[str]) -> np.ndarray:
    """Converts hex digests of SHA-256, so that arrays sort as the digests."""
    encoded = bytes.fromhex("".join(hex_digests))
    return np.frombuffer(encoded, ">u8").reshape(-1, _NUM_WORDS).astype(np.uint64)


def hex_digest(digest: np.ndarray) -> str:
    """Converts one digest, uint64 [4]."""
    return digest.astype(">u8").tobytes().hex()


def order_of(digest: np.ndarray, *further: np.ndarray) -> np.ndarray:
    """Returns the order of rows by a digest, and by further keys, each [n], among equal ones."""
    keys = further[::-1]
    order = np.lexsort((*keys, digest[:, 0]))
    # Different digests hardly ever begin alike, so that sorting by their beginning is enough.
    ordered = digest[order]
    same = ordered[1:, 0] == ordered[:-1, 0]
    if (ordered[1:][same] != ordered[:-1][same]).any():
        order = np.lexsort((*keys, *(digest[:, word] for word in reversed(range(_NUM_WORDS)))))
    return order
