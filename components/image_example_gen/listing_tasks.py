"""Lists a dataset in tasks: data-parallel, with a block of entries in memory.

A task lists a part of the dataset. Only sums connect the parts: numbers of images, files that are not used, and
digests. Entries go to files, in the order of the parts.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Generic, NamedTuple, Self, TypeVar

from components.image_example_gen.artifact import Correction
from components.image_example_gen.columns import Columns
from components.image_example_gen.entries import Entry, RefusedFile
from components.image_example_gen.errors import DatasetError
from components.image_example_gen.exchange import IMAGES_PER_PARTITION, Exchange, no_rows
from components.image_example_gen.files import UnreadableFileError
from components.image_example_gen.layouts import Detection, Listing
from components.image_example_gen.shards import WorkFolder
from components.image_example_gen.stored_entries import (
    ENTRIES_PER_BLOCK,
    EntryTotals,
    Sketch,
    StoredEntries,
    TemporaryFolder,
    sketch,
)
from components.image_example_gen.stored_entries import Block as StoredBlock
from components.image_example_gen.table_parts import IndivisibleTableError
from trainer_module import locations

_PARTS, _LISTER = "parts", "lister"
# An engine starts as long as this process lists so many files.
_MOST_IN_PROCESS = 1_000_000
# Tasks of an engine: enough to keep its workers equally long at work, since the sizes of parts are not known.
_MOST_TASKS = 1000


class ListingPlace(NamedTuple):
    """An engine, and the folder that it shares with this process.

    Attributes:
      exchange: Runs the tasks.
      folder: Takes the entries; all workers see it.
      temporary: The folder, if it is deleted together with the entries.
    """

    exchange: Exchange
    folder: WorkFolder
    temporary: TemporaryFolder | None = None


Engine = Callable[[], ListingPlace]


@dataclass
class ListedParts:
    """Some parts of a dataset; what they contain but for the entries.

    Attributes:
      totals: Numbers of the entries.
      refused: The files that are not used.
      digests: A digest of the entries of every part.
      sketch: Of the entries.
    """

    totals: EntryTotals = field(default_factory=EntryTotals)
    refused: list[RefusedFile] = field(default_factory=list)
    digests: list[bytes] = field(default_factory=list)
    sketch: Sketch = ()

    def add(self, entries: Sequence[Entry]) -> None:
        """Counts entries."""
        self.totals.merge(EntryTotals.of(entries))
        self.sketch = sketch(entries, self.sketch)

    def merge(self, later: Self) -> None:
        """Adds later parts."""
        self.totals.merge(later.totals)
        self.refused += later.refused
        self.digests += later.digests
        self.sketch = sketch((), self.sketch, later.sketch)


class ListedDataset(NamedTuple):
    """A whole dataset, before its splits are assigned.

    Attributes:
      root: The folder that all paths start from.
      layout: Name of the layout.
      detection: Why that layout was chosen.
      listing: All files, with classes renamed as configured, and corrections applied.
      sums: Sums over the entries.
      slice_values: Values of the columns, as far as they are counted.
      corrections: The images that `data.corrections` decides about.
    """

    root: str
    layout: str
    detection: Detection
    listing: Listing
    sums: ListedParts
    slice_values: Mapping[str, Collection[str]]
    corrections: tuple[Correction, ...] = ()


# (parts, function that takes the entries of each, block by block) → everything else about them.
_Parts = TypeVar("_Parts", bound=ListedParts)
Lister = Callable[[Sequence[Any], Callable[[Sequence[Entry]], None]], _Parts]


def list_parts(
    parts: Sequence[Any],
    lister: Lister[_Parts],
    per_task: int,
    engine: Engine | None = None,
    remainder: Callable[[_Parts], Sequence[Any]] = lambda listed: (),
) -> tuple[Sequence[Entry], _Parts]:
    """Lists the parts of a dataset.

    Args:
      parts: What the lister lists, at least one.
      lister: Lists some of them. For an engine, it and the parts are pickled.
      per_task: Number of parts that this process lists at a time.
      engine: Returns where parts are listed as soon as this process has listed a million files; if absent, it lists
        all of them.
      remainder: Returns what this process lists after all parts.

    Returns:
      The entries of all parts, one part after another, and the rest.

    Raises:
      DatasetError: If a part must not be read.
      IndivisibleTableError: If parts must be listed together.
    """
    (store, temporary), is_shared = _local_folder(), False
    total, first = _list_task(store, 0, lister, parts[:per_task]), per_task
    while first < len(parts) and (engine is None or total.num_files <= _MOST_IN_PROCESS):
        total.merge(_list_task(store, first, lister, parts[first : first + per_task]))
        first += per_task
    if engine is not None and first < len(parts):
        place = engine()
        for block in total.blocks:  # the workers get these too
            locations.write(place.folder.path(*block[:2]), locations.read(store.path(*block[:2])))
        store, temporary, is_shared = place.folder, place.temporary, True
        _list_on(place, lister, parts[first:], first, total)
    if last := remainder(total.rest):
        total.merge(_list_task(store, len(parts), lister, last))
    entries = StoredEntries(store, total.blocks, temporary=temporary, is_shared=is_shared)
    return (entries if len(entries) > IMAGES_PER_PARTITION else tuple(entries)), total.rest


def _local_folder() -> tuple[WorkFolder, TemporaryFolder | None]:
    temporary = TemporaryFolder.local()
    return WorkFolder(temporary.location), temporary


@dataclass
class _Listed(Generic[_Parts]):
    """The results of tasks."""

    blocks: list[StoredBlock]
    rest: _Parts

    @property
    def num_files(self) -> int:
        return sum(block.size for block in self.blocks)

    def merge(self, later: _Listed[_Parts]) -> None:
        self.blocks += later.blocks
        self.rest.merge(later.rest)


def _list_task(store: WorkFolder, task: int, lister: Lister[_Parts], parts: Sequence[Any]) -> _Listed[_Parts]:
    """Lists some parts, and writes their entries."""
    kind, blocks, waiting = f"listed-{task:05d}", list[StoredBlock](), list[Entry]()

    def write(size: int) -> None:
        blocks.append(StoredEntries.store(store, kind, len(blocks), waiting[:size]))
        del waiting[:size]

    def take(entries: Sequence[Entry]) -> None:
        waiting.extend(entries)
        while len(waiting) >= ENTRIES_PER_BLOCK:
            write(ENTRIES_PER_BLOCK)

    rest = lister(parts, take)
    if waiting:
        write(len(waiting))
    return _Listed(blocks, rest)


def _list_on(
    place: ListingPlace, lister: Lister[_Parts], parts: Sequence[Any], first_task: int, total: _Listed[_Parts]
) -> None:
    """Lists parts on an engine."""
    num_tasks = min(len(parts), _MOST_TASKS)
    for task in range(num_tasks):
        some = parts[task * len(parts) // num_tasks : (task + 1) * len(parts) // num_tasks]
        place.folder.store(_PARTS, first_task + task, some)  # a Beam graph with all of them could be too large
    place.folder.store(_LISTER, first_task, lister)  # which may have the names of many files
    reducer = _Task(place.folder, first_task)
    for result in place.exchange.run(range(num_tasks), no_rows, num_tasks, reducer):
        if isinstance(result, Exception):
            raise result
        total.merge(result)


@dataclass(frozen=True)
class _Task:
    """Lists the parts of a task on an engine; see `Reducer`."""

    store: WorkFolder
    first_task: int

    def __call__(self, partition: int, blocks: list[Columns]) -> _Listed[Any] | Exception:
        del blocks
        task = self.first_task + partition
        try:
            lister = self.store.load(_LISTER, self.first_task)
            return _list_task(self.store, task, lister, self.store.load(_PARTS, task))
        except (DatasetError, IndivisibleTableError, OSError, UnreadableFileError) as error:
            return error  # users can fix it; the engine would try again, and wrap it
