"""The entries of a large dataset: in files, and a block of them in memory."""

from __future__ import annotations

import bisect
import contextlib
import hashlib
import heapq
import itertools
import tempfile
import weakref
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple, Self, overload

from components.image_example_gen.entries import Entry
from components.image_example_gen.exchange import IMAGES_PER_PARTITION
from components.image_example_gen.external_sort import grouped_by_key
from components.image_example_gen.shards import WorkFolder
from trainer_module import features, locations

ENTRIES_PER_BLOCK = 10_000
# Number of files that represent a dataset, whatever its size.
SKETCH_SIZE = 64


@dataclass
class EntryTotals:
    """Numbers of entries and bytes.

    Attributes:
      images: Number of entries by the split that the dataset assigns and by classes.
      num_bytes: Size of all files that are read.
    """

    images: Counter[tuple[str, tuple[str, ...]]] = field(default_factory=Counter)
    num_bytes: int = 0

    @classmethod
    def of(cls, entries: Iterable[Entry]) -> Self:
        """Counts entries."""
        totals, label, names = cls(), None, tuple[str, ...]()
        for entry in entries:
            if entry.label is not label:  # files of a class folder have the same one
                label, names = entry.label, entry.classes
            totals.images[entry.split, names] += 1
            totals.num_bytes += entry.num_bytes
        return totals

    def merge(self, other: Self) -> None:
        """Adds other entries."""
        self.images.update(other.images)
        self.num_bytes += other.num_bytes

    @property
    def splits(self) -> frozenset[str]:
        """The splits that the dataset assigns; empty for images whose split is drawn."""
        return frozenset(split for split, _ in self.images)

    def classes(self, splits: Iterable[str] | None = None) -> Counter[str]:
        """Returns the number of images of every class, in all splits or in some."""
        counts: Counter[str] = Counter()
        for (split, names), number in self.images.items():
            if splits is None or split in splits:
                for name in names:
                    counts[name] += number
        return counts

    def has_images_without_class(self) -> bool:
        """Whether an image has no class."""
        return any(not names for _, names in self.images)

    def with_drawn_train(self) -> Self:
        """Returns the numbers if the images of the train split are drawn from."""
        images: Counter[tuple[str, tuple[str, ...]]] = Counter()
        for (split, names), number in self.images.items():
            images["" if split == features.TRAIN else split, names] += number
        return type(self)(images, self.num_bytes)


# Entries with the digests of their paths, in the order of these.
Sketch = tuple[tuple[str, Entry], ...]


def sketch(entries: Iterable[Entry], *others: Sketch) -> Sketch:
    """Returns the entries whose paths have the smallest digests: always the same, whatever order they come in.

    Args:
      entries: Any entries.
      others: Sketches of further entries.
    """
    digested = (
        (hashlib.sha256(entry.path.encode(errors="surrogateescape")).hexdigest()[:16], entry) for entry in entries
    )
    return tuple(heapq.nsmallest(SKETCH_SIZE, itertools.chain(digested, *others)))


class Block(NamedTuple):
    """A file of entries.

    Attributes:
      kind: Kind of file in the work folder.
      number: Number of the file.
      size: Number of entries.
    """

    kind: str
    number: int
    size: int


class TemporaryFolder:
    """A folder that is deleted when nobody refers to this object."""

    def __init__(self, location: str) -> None:
        """Creates the folder, local or remote."""
        self.location = location
        files = locations.file_system(location)
        files.makedirs(location)
        self._delete = weakref.finalize(self, _delete, location)

    @classmethod
    def local(cls) -> Self:
        """Creates a folder of any name among the temporary files of this machine."""
        return cls(tempfile.mkdtemp(prefix="tfx-vision-listing-"))

    def delete(self) -> None:
        """Deletes the folder."""
        self._delete()


def _delete(location: str) -> None:
    with contextlib.suppress(Exception):  # the process may be about to end
        locations.file_system(location).rmtree(location)


class StoredEntries(Sequence[Entry]):
    """The entries of blocks."""

    def __init__(
        self,
        folder: WorkFolder,
        blocks: Sequence[Block],
        *,
        has_drawn_train: bool = False,
        temporary: TemporaryFolder | None = None,
        is_shared: bool = False,
    ) -> None:
        """Takes the blocks, in the order of their entries.

        Args:
          folder: Contains them.
          blocks: The files.
          has_drawn_train: Whether the images of the train split are drawn from.
          temporary: The folder, if it is deleted together with this object.
          is_shared: Whether the workers of an engine see the folder.
        """
        self.folder = folder
        self.blocks = tuple(blocks)
        self.has_drawn_train = has_drawn_train
        self.is_shared = is_shared
        self._temporary = temporary
        self._ends = list(itertools.accumulate(block.size for block in self.blocks))
        self._loaded: tuple[int, list[Entry]] = (-1, [])

    @staticmethod
    def store(folder: WorkFolder, kind: str, number: int, entries: Sequence[Entry]) -> Block:
        """Writes a block."""
        folder.store(kind, number, [tuple(entry) for entry in entries])
        return Block(kind, number, len(entries))

    def load(self, block: Block) -> list[Entry]:
        """Reads a block."""
        entries = [Entry._make(values) for values in self.folder.load(block.kind, block.number)]
        if self.has_drawn_train:
            entries = list(map(_without_train, entries))
        return entries

    def with_drawn_train(self) -> StoredEntries:
        """Returns the entries without the split of those of the train split."""
        return StoredEntries(
            self.folder, self.blocks, has_drawn_train=True, temporary=self._temporary, is_shared=self.is_shared
        )

    def without_blocks(self) -> StoredEntries:
        """Returns a reader of the blocks that does not contain their list."""
        return StoredEntries(self.folder, (), has_drawn_train=self.has_drawn_train)

    def __len__(self) -> int:
        return self._ends[-1] if self._ends else 0

    def __iter__(self) -> Iterator[Entry]:
        for block in self.blocks:
            yield from self.load(block)

    @overload
    def __getitem__(self, index: int) -> Entry: ...
    @overload
    def __getitem__(self, index: slice) -> list[Entry]: ...
    def __getitem__(self, index: int | slice) -> Entry | list[Entry]:
        if isinstance(index, slice):
            return [self[place] for place in range(*index.indices(len(self)))]
        place = index + len(self) if index < 0 else index
        if not 0 <= place < len(self):
            raise IndexError(f"{index} of {len(self)} entries")
        number = bisect.bisect_right(self._ends, place)
        if self._loaded[0] != number:
            self._loaded = number, self.load(self.blocks[number])
        return self._loaded[1][place - (self._ends[number] - self.blocks[number].size)]


def collect(entries: Iterable[Entry]) -> Sequence[Entry]:
    """Keeps entries in their order: in memory if they are few, else in a folder that is deleted together with them."""
    iterator = iter(entries)
    first = tuple(itertools.islice(iterator, IMAGES_PER_PARTITION + 1))
    if len(first) <= IMAGES_PER_PARTITION:
        return first
    waiting = itertools.chain(first, iterator)
    del first  # only the chain refers to them, and drops them
    temporary = TemporaryFolder.local()
    folder, blocks = WorkFolder(temporary.location), list[Block]()
    while some := list(itertools.islice(waiting, ENTRIES_PER_BLOCK)):
        blocks.append(StoredEntries.store(folder, "collected", len(blocks), some))
    return StoredEntries(folder, blocks, temporary=temporary)


def sorted_by_path(entries: Iterable[Entry]) -> Iterator[Entry]:
    """Sorts entries outside of memory: by their paths, and by the rest where these are equal."""
    groups = grouped_by_key((entry.path, tuple(entry)) for entry in entries)
    return (Entry._make(values) for _, same in groups for values in sorted(same))


def with_drawn_train(entries: Sequence[Entry]) -> Sequence[Entry]:
    """Returns the entries without the split of those of the train split, which are drawn from."""
    return entries.with_drawn_train() if isinstance(entries, StoredEntries) else tuple(map(_without_train, entries))


def _without_train(entry: Entry) -> Entry:
    return entry._replace(split="") if entry.split == features.TRAIN else entry
