"""The exchange of the division on an engine.

Workers import this module for each of about ten jobs. It does not need TensorFlow, whose import takes most of the time
in which a worker starts.
"""

from __future__ import annotations

import pickle
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

import apache_beam as beam

from components.image_example_gen.columns import Columns
from components.image_example_gen.exchange import PARTITION, Mapper, Reducer
from components.image_example_gen.shards import WorkFolder


class BeamExchange:
    """Runs the halves of a step on the workers of an engine, and groups the blocks by its shuffle."""

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
            blocks = blocks | "Map" >> beam.ParDo(_Map(mapper))
            empty = pipeline | "Partitions" >> beam.Create(seeds)
            grouped = (blocks, empty) | "All blocks" >> beam.Flatten() | "By partition" >> beam.GroupByKey()
            _ = grouped | "Reduce" >> beam.ParDo(_Reduce(reducer, self._folder, kind))
        return (self._folder.load(kind, partition) for partition in range(num_partitions))


class _Map(beam.DoFn):
    def __init__(self, mapper: Mapper) -> None:
        self._mapper = mapper

    def process(self, task: int) -> Iterator[tuple[int, bytes]]:
        for rows in self._mapper(task):
            for partition, block in rows.by_partition(rows[PARTITION]):
                yield partition, pickle.dumps(block.without(PARTITION), pickle.HIGHEST_PROTOCOL)


class _Reduce(beam.DoFn):
    def __init__(self, reducer: Reducer, folder: WorkFolder, kind: str) -> None:
        self._reducer = reducer
        self._folder = folder
        self._kind = kind

    def process(self, grouped: tuple[int, Iterable[bytes]]) -> None:
        partition, encoded = grouped
        blocks: list[Columns] = [pickle.loads(block) for block in encoded if block]
        self._folder.store(self._kind, partition, self._reducer(partition, blocks))
