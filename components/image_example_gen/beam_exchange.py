"""The exchange of the division on an engine.

Workers import this module for each of about ten jobs. It does not need TensorFlow, whose import takes most of the time
in which a worker starts.
"""

from __future__ import annotations

import math
import pickle
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

import apache_beam as beam

from components.image_example_gen.columns import Columns
from components.image_example_gen.exchange import PARTITION, Mapper, Reducer
from components.image_example_gen.shards import WorkFolder

# Partitions that tasks give rows to directly. With more, the blocks are so small that their number takes the time.
_MOST_DIRECT = 256


class BeamExchange:
    """Runs the halves of a step on the workers of an engine, and groups the blocks by its shuffle.

    Of P partitions, if they are many, a task gives blocks to √P ranges. The blocks from √P tasks for the same range, as
    many rows as a task has, are merged and then divided among the partitions: 2 P √P blocks instead of P².
    """

    def __init__(self, make_pipeline: Callable[[], beam.Pipeline], folder: WorkFolder) -> None:
        """Configures the exchange.

        Args:
          make_pipeline: Creates a Beam pipeline.
          folder: Takes the results.
        """
        self._make_pipeline = make_pipeline
        self._folder = folder
        self._num_runs = 0

    def run(self, tasks: Sequence[int], mapper: Mapper, num_partitions: int, reducer: Reducer) -> Iterator[Any]:
        """See `Exchange`."""
        # An empty block for every partition, so that each of them is reduced.
        seeds = [(partition, b"") for partition in range(num_partitions)]
        kind, self._num_runs = f"reduced-{self._num_runs}", self._num_runs + 1
        with self._make_pipeline() as pipeline:
            blocks = pipeline | "Tasks" >> beam.Create(list(tasks)) | "Spread" >> beam.Reshuffle()
            if num_partitions <= _MOST_DIRECT:
                blocks = blocks | "Map" >> beam.ParDo(_Map(mapper, len(tasks), 1, num_partitions))
            else:
                width = math.isqrt(num_partitions)
                blocks = blocks | "Map" >> beam.ParDo(_Map(mapper, width, width, num_partitions))
                blocks = blocks | "By range" >> beam.GroupByKey() | "Divide" >> beam.ParDo(_Divide())
            empty = pipeline | "Partitions" >> beam.Create(seeds)
            grouped = (blocks, empty) | "All blocks" >> beam.Flatten() | "By partition" >> beam.GroupByKey()
            _ = grouped | "Reduce" >> beam.ParDo(_Reduce(reducer, self._folder, kind))
        return (self._folder.load(kind, partition) for partition in range(num_partitions))


class _Map(beam.DoFn):
    """Divides the rows of a task among ranges of partitions; returns blocks with the number of their range.

    Args:
      mapper: See `Mapper`.
      num_tasks: So many tasks in a row have the same numbers, and others have other ones.
      width: Number of partitions in a range.
      num_partitions: Number of all partitions.
    """

    def __init__(self, mapper: Mapper, num_tasks: int, width: int, num_partitions: int) -> None:
        self._mapper = mapper
        self._num_tasks = num_tasks
        self._width = width
        self._num_partitions = num_partitions

    def process(self, task: int) -> Iterator[tuple[int, bytes]]:
        first = task // self._num_tasks * self._num_partitions
        for number, block in _divided(self._mapper(task), self._width):
            yield first + number, block


class _Divide(beam.DoFn):
    """Divides the blocks of a range among its partitions."""

    def process(self, grouped: tuple[int, Iterable[bytes]]) -> Iterator[tuple[int, bytes]]:
        _, encoded = grouped
        yield from _divided(map(pickle.loads, encoded), 1)


def _divided(blocks: Iterable[Columns], width: int) -> Iterator[tuple[int, bytes]]:
    parts = list(blocks)
    if parts:
        rows = parts[0].followed_by(parts[1:])
        for number, block in rows.by_partition(rows[PARTITION] // width):
            yield number, pickle.dumps(block, pickle.HIGHEST_PROTOCOL)


class _Reduce(beam.DoFn):
    def __init__(self, reducer: Reducer, folder: WorkFolder, kind: str) -> None:
        self._reducer = reducer
        self._folder = folder
        self._kind = kind

    def process(self, grouped: tuple[int, Iterable[bytes]]) -> None:
        partition, encoded = grouped
        blocks: list[Columns] = [pickle.loads(block).without(PARTITION) for block in encoded if block]
        self._folder.store(self._kind, partition, self._reducer(partition, blocks))
