"""Lists class folders apart from each other: the label of a file follows from its folder."""

from __future__ import annotations

import hashlib
import itertools
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple, Self

from components.image_example_gen import labels
from components.image_example_gen.entries import Entry
from components.image_example_gen.layouts import ClassFolder, MasksBesideImages
from components.image_example_gen.layouts.class_folders import list_folders
from components.image_example_gen.listing_tasks import Engine, ListedParts, list_parts
from components.image_example_gen.options import DataOptions
from trainer_module.locations import join

_FOLDERS_AT_A_TIME = 256


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
class ListedFolders(ListedParts):
    """Some class folders; what they contain but for the entries.

    Attributes:
      masks: Masks beside images.
    """

    masks: MasksBesideImages = field(default_factory=MasksBesideImages)

    def merge(self, later: Self) -> None:
        """Adds later folders."""
        super().merge(later)
        self.masks.merge(later.masks)


def list_dataset(
    root: str, folders: Sequence[DatasetFolder], options: DataOptions, engine: Engine | None = None
) -> tuple[Sequence[Entry], ListedFolders]:
    """Lists the class folders of a dataset.

    Args:
      root: The folder that all paths start from.
      folders: The class folders.
      options: `[data]`: `recursive`, `rename_classes`, and the patterns of groups and splits.
      engine: As in `list_parts`.

    Returns:
      The files to read, by path, and the rest.

    Raises:
      DatasetError: If a folder must not be read.
    """
    # Concatenated, the folders are in the order of all paths: names contain no slash, so that paths in different
    # folders differ before their last one ends.
    ordered = sorted(folders, key=lambda folder: f"{folder.path}/")
    return list_parts(ordered, _ListFolders(root, options), _FOLDERS_AT_A_TIME, engine)


@dataclass(frozen=True)
class _ListFolders:
    """Lists some folders; see `Lister`."""

    root: str
    options: DataOptions

    def __call__(self, parts: Sequence[DatasetFolder], take: Callable[[Sequence[Entry]], None]) -> ListedFolders:
        result = ListedFolders()
        for base, group in itertools.groupby(parts, key=lambda folder: folder.base):
            for entries in self._list(base, list(group), result):
                take(entries)
        return result

    def _list(self, base: str, folders: list[DatasetFolder], result: ListedFolders) -> Iterator[list[Entry]]:
        root = join(self.root, base)
        listings = list_folders(root, [folder.folder for folder in folders], recursive=self.options.recursive)
        for folder, inside in zip(folders, listings, strict=True):
            name = folder.folder.name
            label = labels.of_class(self.options.rename_classes.get(name, name))
            digest = hashlib.sha256(repr((folder.path, label, folder.slices)).encode())
            for block in inside:
                entries = self._completed(block.entries, folder, label)
                digest.update("".join(map(_identity, entries)).encode(errors="surrogateescape"))
                result.add(entries)
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


def _identity(entry: Entry) -> str:
    """Returns what a folder does not determine about an entry; no text in it contains a zero byte."""
    return f"{entry.path}\0{entry.size}\0{entry.changed_ns}\0{entry.split}\0{entry.group}\0"
