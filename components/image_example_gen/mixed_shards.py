"""Divides the entries of a dataset among shards, and writes the list of each: in memory, or from files.

A shard takes every n-th file in the order of the hashes of their names, so that no part of it has a single class.
"""

from __future__ import annotations

import itertools
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from components.image_example_gen.columns import Columns
from components.image_example_gen.entries import Entry
from components.image_example_gen.exchange import IMAGES_PER_PARTITION, Exchange, items_of, spread
from components.image_example_gen.shards import ENTRIES, WorkFolder, make_shards, mixing_key, num_shards
from components.image_example_gen.stored_entries import ENTRIES_PER_BLOCK, StoredEntries

_LISTS, _MIXED = "lists", "mixed"
_KEY_BITS = 64


def write(entries: Sequence[Entry], folder: WorkFolder, exchange: Exchange, files_per_shard: int) -> list[int]:
    """Writes the entries of all shards.

    Args:
      entries: The files to read. Those in files are mixed in steps of the exchange, whose workers must see them.
      folder: Takes the lists.
      exchange: Runs the steps.
      files_per_shard: Most files of a shard.

    Returns:
      The number of files of every shard.
    """
    if isinstance(entries, StoredEntries):
        return _write_stored(entries, folder, exchange, files_per_shard)
    shards = make_shards(entries, files_per_shard)
    for shard in shards:
        folder.write(ENTRIES, shard.number, shard.entries)
    return [len(shard.entries) for shard in shards]


def _write_stored(entries: StoredEntries, folder: WorkFolder, exchange: Exchange, files_per_shard: int) -> list[int]:
    """Sorts the files by their keys, part by part; from then on the number of files before each is known."""
    per_task = max(1, IMAGES_PER_PARTITION // ENTRIES_PER_BLOCK)
    tasks = [entries.blocks[start : start + per_task] for start in range(0, len(entries.blocks), per_task)]
    for task, some in enumerate(tasks):
        folder.store(_LISTS, task, some)
    num_parts = -(-len(entries) // IMAGES_PER_PARTITION)
    by_key = _ByKey(folder, entries.without_blocks(), num_parts)
    sorted_parts = exchange.run(range(len(tasks)), by_key, num_parts, _Sort(folder))
    sizes, num_bytes = zip(*sorted_parts, strict=True)
    count = num_shards(len(entries), sum(num_bytes), files_per_shard)
    firsts = [0, *itertools.accumulate(sizes)]
    per_group = max(1, IMAGES_PER_PARTITION // files_per_shard)
    deal, collect = _ByShard(folder, firsts, count, per_group), _Write(folder, count, per_group)
    groups = exchange.run(range(num_parts), deal, -(-count // per_group), collect)
    return [size for group in groups for size in group]


# A file and its place: its key, or its number in the order of the keys.
_Keyed = tuple[bytes, tuple[object, ...]]
_Numbered = tuple[int, tuple[object, ...]]


@dataclass(frozen=True)
class _ByKey:
    """Gives files to the part of their keys."""

    folder: WorkFolder
    entries: StoredEntries
    num_parts: int

    def __call__(self, task: int) -> Iterator[Columns]:
        for block in self.folder.load(_LISTS, task):
            yield from spread(map(self._keyed, self.entries.load(block)))

    def _keyed(self, entry: Entry) -> tuple[int, _Keyed]:
        key = mixing_key(entry)
        return int.from_bytes(key[:8]) * self.num_parts >> _KEY_BITS, (key, tuple(entry))


@dataclass(frozen=True)
class _Sort:
    """Stores the files of a part in the order of their keys; returns their number and size."""

    folder: WorkFolder

    def __call__(self, part: int, blocks: list[Columns]) -> tuple[int, int]:
        keyed: list[_Keyed] = sorted(items_of(blocks))
        entries = [Entry._make(values) for _, values in keyed]
        self.folder.store(_MIXED, part, [values for _, values in keyed])
        return len(entries), sum(entry.size for entry in entries)


@dataclass(frozen=True)
class _ByShard:
    """Deals the files of a part to groups of shards."""

    folder: WorkFolder
    firsts: Sequence[int]
    num_shards: int
    per_group: int

    def __call__(self, part: int) -> Iterator[Columns]:
        numbered = enumerate(self.folder.load(_MIXED, part), start=self.firsts[part])
        yield from spread((number % self.num_shards // self.per_group, (number, values)) for number, values in numbered)


@dataclass(frozen=True)
class _Write:
    """Writes the lists of a group of shards; returns their lengths."""

    folder: WorkFolder
    num_shards: int
    per_group: int

    def __call__(self, group: int, blocks: list[Columns]) -> list[int]:
        entries: dict[int, list[tuple[object, ...]]] = defaultdict(list)
        numbered: list[_Numbered] = sorted(items_of(blocks))
        for number, values in numbered:
            entries[number % self.num_shards].append(values)
        first = group * self.per_group
        shards = range(first, min(first + self.per_group, self.num_shards))
        for shard in shards:
            self.folder.write(ENTRIES, shard, entries[shard])
        return [len(entries[shard]) for shard in shards]
