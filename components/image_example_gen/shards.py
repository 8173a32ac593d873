"""Shards: the units of work of both passes, and the files in which their work lists and results are."""

from __future__ import annotations

import hashlib
import json
import math
import pickle
from collections.abc import Iterable
from typing import Any, NamedTuple

from components.image_example_gen.entries import Entry
from trainer_module import locations

# Kinds of files: the entries to read; the examples, records and other results of the first pass; the splits that the
# second assigns.
ENTRIES, EXAMPLES, RECORDS, RESULTS, SPLITS = "entries", "examples", "records", "results", "splits"

# Large enough that the overhead of a shard does not matter, small enough for many workers.
FILES_PER_SHARD = 2000
_BYTES_PER_SHARD = 512 * 2**20


class Shard(NamedTuple):
    """Some files of the dataset, and the number that the files written for them carry.

    Attributes:
      number: Number of the shard.
      num_shards: Number of all shards.
      entries: Files to read.
    """

    number: int
    num_shards: int
    entries: list[Entry]


def make_shards(entries: Iterable[Entry], files_per_shard: int = FILES_PER_SHARD) -> list[Shard]:
    """Divides files among shards, mixed by the hash of their names, so that no part of a shard has a single class."""
    mixed = sorted(entries, key=lambda entry: (mixing_key(entry), entry))
    count = num_shards(len(mixed), sum(entry.size for entry in mixed), files_per_shard)
    return [Shard(index, count, mixed[index::count]) for index in range(count)]


def mixing_key(entry: Entry) -> bytes:
    """Returns the hash of a file's name, by which files are mixed."""
    return hashlib.md5(entry.path.encode(errors="surrogateescape"), usedforsecurity=False).digest()


def num_shards(num_files: int, num_bytes: int, files_per_shard: int) -> int:
    """Returns the number of shards: with so many files at most, unless a file is larger than a shard."""
    by_size = min(num_files, math.ceil(num_bytes / _BYTES_PER_SHARD))
    return max(1, math.ceil(num_files / files_per_shard), by_size)


class WorkFolder(NamedTuple):
    """The files that the passes exchange.

    Lists reach the workers as files: a Beam graph with a million names would be refused by a cluster.

    Attributes:
      location: Of the folder, local or remote.
    """

    location: str

    def path(self, kind: str, number: int) -> str:
        """Returns the path of a file of one shard, or of one partition."""
        return locations.join(self.location, f"{kind}-{number:05d}")

    def write(self, kind: str, number: int, content: Any) -> None:
        """Stores a JSON document."""
        locations.write(self.path(kind, number), json.dumps(content).encode())

    def read(self, kind: str, number: int) -> Any:
        """Loads a JSON document."""
        return json.loads(locations.read(self.path(kind, number)))

    def store(self, kind: str, number: int, content: Any) -> None:
        """Stores Python objects, which only this run reads."""
        locations.write(self.path(kind, number), pickle.dumps(content, pickle.HIGHEST_PROTOCOL))

    def load(self, kind: str, number: int) -> Any:
        """Loads Python objects."""
        return pickle.loads(locations.read(self.path(kind, number)))
