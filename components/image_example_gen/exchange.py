"""Grouping by key outside of memory: tasks give items to partitions, and every partition is reduced on its own.

The same steps run in one process or on a Beam engine. A step never sees more than its task or its partition, so that
the memory of a process does not depend on the number of images.
"""

from __future__ import annotations

import contextlib
import gc
import os
import pickle
import tempfile
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, Protocol

# A list, or an array, of items: single items would cost more to hand over than to process.
Block = Any
# (task) → pairs of a partition and items for it.
Mapper = Callable[[int], Iterable[tuple[int, Block]]]
# (partition, all blocks for it, in any order) → a small result.
Reducer = Callable[[int, list[Block]], Any]

# Images of a task and of a partition, on average. All steps of ImageExampleGen have so many in memory at a time.
IMAGES_PER_PARTITION = 50_000


class Exchange(Protocol):
    """Runs the two halves of a step: mappers for all tasks, then reducers for all partitions."""

    def run(self, tasks: Sequence[int], mapper: Mapper, num_partitions: int, reducer: Reducer) -> Iterable[Any]:
        """Runs a step, then returns the results of the reducers.

        Returns:
          One result per partition, in order; a partition without items is reduced too. May be iterated once.
        """


def spread(items: Iterable[tuple[int, Any]]) -> Iterator[tuple[int, Block]]:
    """Collects items of the same partition in blocks."""
    blocks: dict[int, list[Any]] = defaultdict(list)
    for partition, item in items:
        blocks[partition].append(item)
    yield from blocks.items()


def no_blocks(task: int) -> Iterator[tuple[int, Block]]:
    """Gives nothing to any partition, if the reducer reads a file of its partition; a `Mapper`."""
    del task
    return iter(())


class LocalExchange:
    """Runs the tasks one after the other in this process; items beyond a buffer are on the local disk meanwhile."""

    def __init__(self, most_buffered: int = IMAGES_PER_PARTITION) -> None:
        """Configures the exchange.

        Args:
          most_buffered: Number of items in memory that are not reduced yet.
        """
        self._most_buffered = most_buffered

    def run(self, tasks: Sequence[int], mapper: Mapper, num_partitions: int, reducer: Reducer) -> list[Any]:
        """See `Exchange`."""
        with _no_garbage_collection(), tempfile.TemporaryDirectory(prefix="tfx-vision-exchange-") as folder:
            buffers: dict[int, list[Block]] = defaultdict(list)
            num_buffered = 0
            for task in tasks:
                for partition, block in mapper(task):
                    buffers[partition].append(block)
                    num_buffered += len(block)
                if num_buffered > self._most_buffered and num_partitions > 1:
                    for partition in list(buffers):
                        with open(os.path.join(folder, str(partition)), "ab") as file:
                            pickle.dump(buffers.pop(partition), file, pickle.HIGHEST_PROTOCOL)
                    num_buffered = 0
            return [
                reducer(partition, [*_blocks_on_disk(folder, partition), *buffers.pop(partition, [])])
                for partition in range(num_partitions)
            ]


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


def _blocks_on_disk(folder: str, partition: int) -> Iterator[Block]:
    path = os.path.join(folder, str(partition))
    if not os.path.exists(path):
        return
    with open(path, "rb") as file:
        end = os.path.getsize(path)
        while file.tell() < end:
            yield from pickle.load(file)  # this process has written it
    os.remove(path)
