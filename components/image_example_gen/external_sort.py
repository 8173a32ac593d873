"""Sorting outside of memory: sorted runs in temporary files, which are merged.

SQLite sorts so too, but maps its files into memory: a million entries took 287 MiB, and 130 MiB here.
"""

from __future__ import annotations

import heapq
import itertools
import operator
from collections.abc import Iterable, Iterator
from typing import TypeVar

from components.image_example_gen.exchange import IMAGES_PER_PARTITION
from components.image_example_gen.spooled_items import SpooledItems

_Value = TypeVar("_Value")
_KEY = operator.itemgetter(0)
# Each run is an open file with a batch in memory. More of them become one run of the next level.
_MOST_RUNS = 32


def grouped_by_key(items: Iterable[tuple[str, _Value]]) -> Iterator[tuple[str, list[_Value]]]:
    """Groups pairs of a key and a value, in the order of the keys; the values of one key stay in their order.

    Only the values of one key, and as many pairs as a partition has, are in memory.
    """
    for key, same in itertools.groupby(sorted_by_key(items, IMAGES_PER_PARTITION), _KEY):
        yield key, [value for _, value in same]


def sorted_by_key(items: Iterable[tuple[str, _Value]], most_in_memory: int) -> Iterator[tuple[str, _Value]]:
    """Sorts pairs of a key and a value; those of one key stay in their order.

    Args:
      items: The pairs. Values that can be pickled.
      most_in_memory: Number of pairs that are sorted in memory; more are in temporary files meanwhile.
    """
    iterator = iter(items)
    some = sorted(itertools.islice(iterator, most_in_memory), key=_KEY)
    following = list(itertools.islice(iterator, 1))
    if not following:
        yield from some
        return
    iterator = itertools.chain(following, iterator)
    levels: list[list[SpooledItems[tuple[str, _Value]]]] = []
    while some:
        run = SpooledItems(some, most_bytes_in_memory=1)
        for level in itertools.count():
            if level == len(levels):
                levels.append([])
            levels[level].append(run)
            if len(levels[level]) < _MOST_RUNS:
                break
            run = SpooledItems(heapq.merge(*levels[level], key=_KEY), most_bytes_in_memory=1)
            levels[level].clear()
        some = sorted(itertools.islice(iterator, most_in_memory), key=_KEY)
    # The runs of higher levels are the earlier ones, and the merge takes equal keys from these first.
    yield from heapq.merge(*itertools.chain.from_iterable(reversed(levels)), key=_KEY)
