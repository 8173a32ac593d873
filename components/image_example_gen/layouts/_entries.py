"""The listing of a layout: its entries, and what is known about all of them."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Self

from components.image_example_gen import files
from components.image_example_gen.class_list import NO_CLASS_LIST, ClassList
from components.image_example_gen.entries import Entry, RefusedFile
from components.image_example_gen.layouts._folder import is_image_name
from components.image_example_gen.stored_entries import collect
from components.image_example_gen.tables import Row

# Reason of files below a class folder that are not directly in it.
NESTED = "in a folder inside a class folder; `data.recursive = true` uses it"


@dataclass(frozen=True)
class Listing:
    """The files of one folder, as its layout arranges them.

    Attributes:
      label_features: Raw example features of the label that every example has.
      entries: The files to read; those of a large dataset may be in files (`StoredEntries`).
      refused: The files that are not used.
      columns: Names of the entries' slices.
      class_names: All class names in folders or tables; a class folder counts even if it is empty. Empty if class names
        are known only after reading.
      class_list: Class names in the order of their ids, if the dataset has such a list.
      notes: What users should know before the run.
      unresolved: Rows of a part of a table whose files must be compared with all others.
    """

    label_features: tuple[str, ...]
    entries: Sequence[Entry]
    refused: tuple[RefusedFile, ...] = ()
    columns: tuple[str, ...] = ()
    class_names: frozenset[str] = frozenset()
    class_list: ClassList = NO_CLASS_LIST
    notes: tuple[str, ...] = ()
    unresolved: tuple[Row, ...] = ()

    def merged(self, others: Iterable[Self]) -> Self:
        """Returns the files of this and other listings of the same label features; its columns and class list stay."""
        listings = [self, *others]
        return dataclasses.replace(
            self,
            entries=collect(entry for listing in listings for entry in listing.entries),
            refused=tuple(file for listing in listings for file in listing.refused),
            class_names=self.class_names.union(*(listing.class_names for listing in listings)),
            notes=tuple(dict.fromkeys(note for listing in listings for note in listing.notes)),
        )


def refuse(file: files.File, reason: str = "") -> RefusedFile:
    """Refuses a file for a reason, by default for its problem."""
    return RefusedFile(files.readable(file.path), reason or file.problem)


def refuse_images(candidates: Iterable[files.File], reason: str) -> list[RefusedFile]:
    """Refuses the files that look like images, where the layout does not expect any."""
    return [refuse(file, reason) for file in candidates if not file.is_folder and is_image_name(file.path)]
