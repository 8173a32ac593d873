"""Grouping by key outside of memory: tasks give rows to partitions, and every partition is reduced on its own.

The same steps run in one process or on a Beam engine. A step never sees more than its task or its partition, so that
the memory of a process does not depend on the number of images.
"""

from __future__ import annotations

import contextlib
import gc
import itertools
import os
import pickle
import tempfile
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, Protocol

import numpy as np

from components.image_example_gen.columns import Columns, objects

# The column of the partition that a row goes to.
PARTITION = "partition"
# (task) → rows with their partitions; all of a step have the same columns.
Mapper = Callable[[int], Iterable[Columns]]
# (partition, all its rows without that column, in blocks in any order) → a small result.
Reducer = Callable[[int, list[Columns]], Any]

# Images of a task and of a partition, on average. All steps of ImageExampleGen have so many in memory at a time.
IMAGES_PER_PARTITION = 50_000
# Rows of a task go to so many places at most. With more, the blocks are so small that their number takes the time.
_MOST_PARTS = 32


class Exchange(Protocol):
    """Runs the two halves of a step: mappers for all tasks, then reducers for all partitions."""

    def run(self, tasks: Sequence[int], mapper: Mapper, num_partitions: int, reducer: Reducer) -> Iterable[Any]:
        """Runs a step, then returns the results of the reducers.

        Returns:
          One result per partition, in order; a partition without items is reduced too. May be iterated once.
        """


def spread(items: Iterable[tuple[int, Any]]) -> Iterator[Columns]:
    """Makes rows of Python objects, given with their partitions."""
    pairs = list(items)
    if pairs:
        partitions = np.fromiter((partition for partition, _ in pairs), np.int64, len(pairs))
        yield Columns(partition=partitions, item=objects((item for _, item in pairs), len(pairs)))


def items_of(blocks: Iterable[Columns]) -> Iterator[Any]:
    """Returns the objects of `spread`."""
    for block in blocks:
        yield from block["item"].tolist()


def no_rows(task: int) -> Iterator[Columns]:
    """Gives nothing to any partition, if the reducer reads a file of its partition; a `Mapper`."""
    del task
    return iter(())


class LocalExchange:
    """Runs the tasks one after the other in this process; rows beyond a buffer are on the local disk meanwhile.

    Many partitions are reached in several passes: the rows first go to a few files, of many partitions each. Therefore
    the time of a row grows with the logarithm of the number of partitions, and not with the number.
    """

    def __init__(self, most_buffered: int = IMAGES_PER_PARTITION, most_parts: int = _MOST_PARTS) -> None:
        """Configures the exchange.

        Args:
          most_buffered: Number of rows in memory that are not reduced yet.
          most_parts: Number of files that a pass divides its rows among, at least 2.
        """
        self._most_buffered = most_buffered
        self._most_parts = most_parts

    def run(self, tasks: Sequence[int], mapper: Mapper, num_partitions: int, reducer: Reducer) -> list[Any]:
        """See `Exchange`."""
        with _no_garbage_collection(), tempfile.TemporaryDirectory(prefix="tfx-vision-exchange-") as folder:
            mapped = itertools.chain.from_iterable(map(mapper, tasks))
            return list(self._reduced(mapped, range(num_partitions), reducer, _Spill(folder)))

    def _reduced(self, mapped: Iterable[Columns], partitions: range, reducer: Reducer, spill: _Spill) -> Iterator[Any]:
        """Groups rows by their partitions, and returns the results of these."""
        width = -(-len(partitions) // self._most_parts)
        parts = [partitions[start : start + width] for start in range(0, len(partitions), width)]
        buffers = self._distribute(mapped, parts, spill)
        for part in parts:
            blocks = itertools.chain(spill.read(part), buffers.pop(part))
            if width == 1:
                yield reducer(part.start, [block.without(PARTITION) for block in blocks])
            else:
                yield from self._reduced(_merged(blocks, self._most_buffered // 2), part, reducer, spill)

    def _distribute(self, mapped: Iterable[Columns], parts: Sequence[range], spill: _Spill) -> _Buffers:
        """Gives rows to the files of their parts, or returns all of them if they are few."""
        first, width = parts[0].start, len(parts[0])
        buffers: _Buffers = {part: [] for part in parts}
        num_buffered, are_many = 0, width > 1
        for rows in mapped:
            numbers = (rows[PARTITION] - first) // width
            for number, block in rows.by_partition(numbers.astype(np.uint16)):  # small integers sort much faster
                buffers[parts[number]].append(block)
            num_buffered += len(rows)
            if num_buffered > self._most_buffered and len(parts) > 1:
                spill.write(buffers)
                num_buffered, are_many = 0, True
        if are_many:
            spill.write(buffers)  # the reducers need the memory
        return buffers


# Blocks by the range of partitions that they go to.
_Buffers = dict[range, list[Columns]]


class _Spill:
    """Blocks in files, one for each range of partitions."""

    def __init__(self, folder: str) -> None:
        self._folder = folder

    def write(self, buffers: _Buffers) -> None:
        """Appends the blocks to the files, and empties the buffers."""
        for part, blocks in buffers.items():
            if blocks:
                with open(self._path(part), "ab") as file:
                    pickle.dump(blocks, file, pickle.HIGHEST_PROTOCOL)
                blocks.clear()

    def read(self, part: range) -> Iterator[Columns]:
        """Reads the blocks of a file, and deletes it."""
        path = self._path(part)
        if not os.path.exists(path):
            return
        with open(path, "rb") as file:
            end = os.path.getsize(path)
            while file.tell() < end:
                yield from pickle.load(file)  # this process has written it
        os.remove(path)

    def _path(self, part: range) -> str:
        return os.path.join(self._folder, f"{part.start}-{part.stop}")


def _merged(blocks: Iterable[Columns], size: int) -> Iterator[Columns]:
    """Concatenates blocks until they have so many rows: divided again, they would become too small."""
    waiting, num_rows = list[Columns](), 0
    for block in blocks:
        waiting.append(block)
        num_rows += len(block)
        if num_rows >= size:
            merged = waiting[0].followed_by(waiting[1:])
            waiting, num_rows = [], 0
            yield merged
            del merged
    if waiting:
        yield waiting[0].followed_by(waiting[1:])


@contextlib.contextmanager
def _no_garbage_collection() -> Iterator[None]:
    """Pauses the search for cycles: it would visit the many items again and again, and they have none."""
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_enabled:
            gc.enable()
