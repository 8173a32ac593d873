"""Runs the division of ImageExampleGen on records that a test has in memory."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Sequence
from typing import NamedTuple

from components.image_example_gen import division
from components.image_example_gen.artifact import DuplicateCounts, DuplicateGroup, Kind
from components.image_example_gen.exchange import Exchange, LocalExchange
from components.image_example_gen.observations import Occurrences
from components.image_example_gen.options import DataOptions
from components.image_example_gen.records import columns_of
from components.image_example_gen.shards import RECORDS, SPLITS, WorkFolder
from components.image_example_gen.splits import Record
from components.image_example_gen.tally import Tally


class Divided(NamedTuple):
    """The results, by the place of an image in the list.

    Attributes:
      splits: The split of each; empty if it is refused.
      refused: Reason by place.
      groups: Groups of duplicates.
      duplicates: Their numbers.
      similar: Identical images with similar boxes.
      tally: Counts.
    """

    splits: list[str]
    refused: dict[int, str]
    groups: list[DuplicateGroup]
    duplicates: dict[Kind, DuplicateCounts]
    similar: Occurrences
    tally: Tally


def divide(
    records: Sequence[Record],
    options: DataOptions,
    own_splits: Sequence[str] = (),
    *,
    per_shard: int = 2000,
    per_partition: int = 50_000,
    exchange: Exchange | None = None,
) -> Divided:
    """Divides records, so many in a shard and in a partition; their paths must differ."""
    with tempfile.TemporaryDirectory() as location:
        folder = WorkFolder(location)
        shards = [records[start : start + per_shard] for start in range(0, len(records), per_shard)] or [[]]
        for number, shard in enumerate(shards):
            folder.store(RECORDS, number, columns_of(shard))
        divided = division.divide(
            folder,
            [len(shard) for shard in shards],
            options,
            own_splits,
            exchange or LocalExchange(),
            per_partition=per_partition,
        )
        place_of = {record.path: place for place, record in enumerate(records)}
        assert len(place_of) == len(records)
        return Divided(
            list(_splits(folder, len(shards))),
            {place_of[file.path]: file.reason for file in divided.refused},
            list(divided.groups()),
            divided.duplicates,
            divided.similar,
            divided.tally,
        )


def _splits(folder: WorkFolder, num_shards: int) -> Iterator[str]:
    for shard in range(num_shards):
        content = folder.read(SPLITS, shard)
        assert content["num_shards"] == num_shards
        yield from content["splits"]
