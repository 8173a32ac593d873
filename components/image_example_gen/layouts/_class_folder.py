"""Class folders: the label of a file follows from its folder, so that folders can be listed apart from each other."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass, field
from typing import NamedTuple

from components.image_example_gen.entries import Entry, RefusedFile

_SHOWN_MASKS = 2


class ClassFolder(NamedTuple):
    """A folder whose images have one class.

    Attributes:
      path: Relative to the root.
      split: The split of all images; empty if it is drawn.
    """

    path: str
    split: str = ""

    @property
    def name(self) -> str:
        """The class."""
        return self.path.rpartition("/")[2]

    @property
    def parent(self) -> str:
        """The folder that it is in; empty for the root."""
        return self.path.rpartition("/")[0]


class ClassFolders(NamedTuple):
    """The class folders of a dataset, and the images outside of them, which are not used."""

    folders: tuple[ClassFolder, ...]
    refused: tuple[RefusedFile, ...] = ()


@dataclass
class ClassFolderBlock:
    """Some files of a class folder.

    Attributes:
      folder: The folder.
      entries: The files to read.
      refused: The files that are not used.
      masks: Masks beside their images.
    """

    folder: ClassFolder
    entries: list[Entry] = field(default_factory=list)
    refused: list[RefusedFile] = field(default_factory=list)
    masks: list[str] = field(default_factory=list)


class MasksBesideImages:
    """The masks beside images, which are not used: their number and the first of them, for each folder of classes."""

    def __init__(self) -> None:
        """Begins with none."""
        self._counts: dict[tuple[str, str], int] = defaultdict(int)
        self._first: dict[tuple[str, str], list[str]] = defaultdict(list)

    def add(self, block: ClassFolderBlock, base: str = "") -> None:
        """Adds those of a block; the base is the folder of its span."""
        if block.masks:
            key = base, block.folder.parent
            self._counts[key] += len(block.masks)
            self._first[key] = (self._first[key] + block.masks)[:_SHOWN_MASKS]

    def merge(self, later: MasksBesideImages) -> None:
        """Adds those of later folders."""
        for key, count in later._counts.items():
            self._counts[key] += count
            self._first[key] = (self._first[key] + later._first[key])[:_SHOWN_MASKS]

    def notes(self) -> tuple[str, ...]:
        """Returns a note for each folder of classes that has any."""
        return tuple(
            f"{count:,} masks beside their images are not used, such as {', '.join(self._first[key])}"
            for key, count in self._counts.items()
        )
