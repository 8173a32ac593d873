"""Lists class folders apart from each other: data-parallel, with a block of entries in memory.

The label of a file follows from its folder, so that only sums connect the folders: numbers of images, files that are
not used, and digests. Entries go to files, in the order of their paths.
"""

from __future__ import annotations

import hashlib
import itertools
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from components.image_example_gen import labels
from components.image_example_gen.columns import Columns
from components.image_example_gen.entries import Entry, RefusedFile
from components.image_example_gen.errors import DatasetError
from components.image_example_gen.exchange import IMAGES_PER_PARTITION, Exchange, no_rows
from components.image_example_gen.files import UnreadableFileError
from components.image_example_gen.layouts import ClassFolder, MasksBesideImages
from components.image_example_gen.layouts.class_folders import list_folders
from components.image_example_gen.options import DataOptions
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
from trainer_module import locations
from trainer_module.locations import join

_FOLDERS = "folders"
# An engine starts as long as this process lists so many files.
_MOST_IN_PROCESS = 1_000_000
_FOLDERS_AT_A_TIME = 256
# Tasks of an engine: enough to keep its workers equally long at work, since the sizes of folders are not known.
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


class DatasetFolder(NamedTuple):
    """A class folder of a dataset.

    Attributes:
      base: The folder of its span; empty without spans.
      folder: The class folder; its path starts from the base.
      slices: Values of the columns of all images.
    """

    base: str
    folder: ClassFolder
    slices: tuple[str, ...] = ()

    @property
    def path(self) -> str:
        """The path from the root of the dataset."""
        return join(self.base, self.folder.path) if self.base else self.folder.path


@dataclass
class FolderListing:
    """The files of some class folders.

    Attributes:
      blocks: Files of entries.
      totals: Numbers of the entries.
      refused: The files that are not used.
      masks: Masks beside images.
      digests: A digest of the entries of every folder.
      sketch: Of the entries.
    """

    blocks: list[StoredBlock] = field(default_factory=list)
    totals: EntryTotals = field(default_factory=EntryTotals)
    refused: list[RefusedFile] = field(default_factory=list)
    masks: MasksBesideImages = field(default_factory=MasksBesideImages)
    digests: list[bytes] = field(default_factory=list)
    sketch: Sketch = ()

    @property
    def num_files(self) -> int:
        """Number of the files to read."""
        return sum(block.size for block in self.blocks)

    def merge(self, later: FolderListing) -> None:
        """Adds the files of later folders."""
        self.blocks += later.blocks
        self.totals.merge(later.totals)
        self.refused += later.refused
        self.masks.merge(later.masks)
        self.digests += later.digests
        self.sketch = sketch((), self.sketch, later.sketch)


class ListedFolders(NamedTuple):
    """The files of all class folders.

    Attributes:
      entries: The files to read, by path.
      listing: Everything else.
    """

    entries: Sequence[Entry]
    listing: FolderListing


def list_dataset(
    root: str, folders: Sequence[DatasetFolder], options: DataOptions, engine: Engine | None = None
) -> ListedFolders:
    """Lists the class folders of a dataset.

    Args:
      root: The folder that all paths start from.
      folders: The class folders.
      options: `[data]`: `recursive`, `rename_classes`, and the patterns of groups and splits.
      engine: Returns where folders are listed as soon as this process has listed a million files; if absent, it lists
        all of them.

    Raises:
      DatasetError: If a folder must not be read.
    """
    # Concatenated, the folders are in the order of all paths: names contain no slash, so that paths in different
    # folders differ before their last one ends.
    ordered = sorted(folders, key=lambda folder: f"{folder.path}/")
    temporary = TemporaryFolder.local()
    store, listing, first, num_tasks = WorkFolder(temporary.location), FolderListing(), 0, 0
    while first < len(ordered) and (engine is None or listing.num_files <= _MOST_IN_PROCESS):
        store.store(_FOLDERS, num_tasks, ordered[first : first + _FOLDERS_AT_A_TIME])
        listing.merge(_ListFolders(store, root, options)(num_tasks, []))
        first, num_tasks = first + _FOLDERS_AT_A_TIME, num_tasks + 1
    if engine is not None and first < len(ordered):
        entries = _list_on(engine(), root, ordered[first:], num_tasks, options, store, listing)
        temporary.delete()
    else:
        entries = StoredEntries(store, listing.blocks, temporary=temporary)
    if len(entries) > IMAGES_PER_PARTITION:
        return ListedFolders(entries, listing)
    small = tuple(entries)
    temporary.delete()
    return ListedFolders(small, listing)


def _list_on(
    place: ListingPlace,
    root: str,
    folders: Sequence[DatasetFolder],
    first_task: int,
    options: DataOptions,
    local: WorkFolder,
    listing: FolderListing,
) -> StoredEntries:
    """Lists the rest of the folders on an engine, whose workers get the entries of the others too."""
    for block in listing.blocks:
        locations.write(place.folder.path(*block[:2]), locations.read(local.path(*block[:2])))
    num_tasks = min(len(folders), _MOST_TASKS)
    for task in range(num_tasks):
        some = folders[task * len(folders) // num_tasks : (task + 1) * len(folders) // num_tasks]
        place.folder.store(_FOLDERS, first_task + task, some)  # a Beam graph with all of them could be too large
    lister = _ReportErrors(_ListFolders(place.folder, root, options, first_task))
    for part in place.exchange.run(range(num_tasks), no_rows, num_tasks, lister):
        if isinstance(part, Exception):
            raise part
        listing.merge(part)
    return StoredEntries(place.folder, listing.blocks, temporary=place.temporary, is_shared=True)


@dataclass(frozen=True)
class _ListFolders:
    """Lists the folders of a task; see `Reducer`."""

    store: WorkFolder
    root: str
    options: DataOptions
    first_task: int = 0

    def __call__(self, partition: int, blocks: list[Columns]) -> FolderListing:
        del blocks
        task = self.first_task + partition
        folders: list[DatasetFolder] = self.store.load(_FOLDERS, task)
        result, kind, waiting = FolderListing(), f"listed-{task:05d}", list[Entry]()

        def write(size: int) -> None:
            result.blocks.append(StoredEntries.store(self.store, kind, len(result.blocks), waiting[:size]))
            del waiting[:size]

        for base, group in itertools.groupby(folders, key=lambda folder: folder.base):
            for entries in self._list(base, list(group), result):
                waiting += entries
                while len(waiting) >= ENTRIES_PER_BLOCK:
                    write(ENTRIES_PER_BLOCK)
        if waiting:
            write(len(waiting))
        return result

    def _list(self, base: str, folders: list[DatasetFolder], result: FolderListing) -> Iterator[list[Entry]]:
        root = join(self.root, base)
        listings = list_folders(root, [folder.folder for folder in folders], recursive=self.options.recursive)
        for folder, inside in zip(folders, listings, strict=True):
            name = folder.folder.name
            label = labels.of_class(self.options.rename_classes.get(name, name))
            digest = hashlib.sha256(repr((folder.path, label, folder.slices)).encode())
            for block in inside:
                entries = self._completed(block.entries, folder, label)
                digest.update("".join(map(_identity, entries)).encode(errors="surrogateescape"))
                result.totals.merge(EntryTotals.of(entries))
                result.sketch = sketch(entries, result.sketch)
                result.refused += [
                    file._replace(path=join(base, file.path)) if base else file for file in block.refused
                ]
                result.masks.add(block, base)
                yield entries
            result.digests.append(digest.digest())

    def _completed(self, entries: list[Entry], folder: DatasetFolder, label: labels.Label) -> list[Entry]:
        options, base = self.options, folder.base
        if not (base or options.rename_classes or options.group_pattern or options.split_pattern or options.recursive):
            return entries
        completed = []
        for entry in entries:
            path = f"{base}/{entry.path}" if base else entry.path
            split = entry.split or options.split_of(path)
            group = options.group_of(entry.path)
            completed.append(Entry(path, entry.size, entry.changed_ns, label, (), split, group, folder.slices))
        return sorted(completed) if options.recursive else completed


@dataclass(frozen=True)
class _ReportErrors:
    """Returns the errors that users can fix; an engine would try again, and wrap them; see `Reducer`."""

    lister: _ListFolders

    def __call__(self, partition: int, blocks: list[Columns]) -> FolderListing | Exception:
        try:
            return self.lister(partition, blocks)
        except (DatasetError, OSError, UnreadableFileError) as error:
            return error


def _identity(entry: Entry) -> str:
    """Returns what a folder does not determine about an entry; no text in it contains a zero byte."""
    return f"{entry.path}\0{entry.size}\0{entry.changed_ns}\0{entry.split}\0{entry.group}\0"
