"""Datasets whose images may have any number of classes: what counts as one, and its labels in canonical form.

A set of classes comes from names with separators, from columns of 0 and 1, from repeated features of TFRecords, or from
the boxes of an image. Sets are sorted, so that `cat|dog` and `dog|cat` are the same label.
"""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Sequence
from typing import TYPE_CHECKING

from components.image_example_gen import files, labels, tables
from components.image_example_gen.errors import DatasetError
from components.image_example_gen.stored_entries import collect
from trainer_module import features

if TYPE_CHECKING:
    from components.image_example_gen.entries import Entry
    from components.image_example_gen.layouts import Listing
    from components.image_example_gen.options import DataOptions
    from components.image_example_gen.stored_entries import EntryTotals

# Between class names in tables, and in responses of the model.
SEPARATOR = tables.LIST_SEPARATOR
_MOST_NAMES = 2


def split(text: str, separator: str | None) -> list[str]:
    """Returns the class names in a text: `cat| dog |` → `cat`, `dog`; the text itself without a separator."""
    if not separator:
        return [text]
    return [name for part in text.split(separator) if (name := part.strip())]


def convert(listing: Listing, options: DataOptions, root: str) -> Listing:
    """Turns a listing with one class per image, or with boxes, into one of sets of classes, if the options ask for it.

    Args:
      listing: From a layout. A class name with separators becomes several. Boxes stay as they are: they are checked
        against their image before its classes count.
      options: `[data]`.
      root: The data folder.

    Raises:
      DatasetError: If `labels_from` is "boxes", and the dataset has no boxes.
    """
    if options.labels_from == "boxes":
        if not labels.has_boxes(listing.label_features):
            raise DatasetError(
                f'data.labels_from = "boxes": {root} has {labels.noun(listing.label_features)}. Remove it.'
            )
        return dataclasses.replace(listing, label_features=labels.MULTI_LABEL)
    if not options.allows_label_sets or listing.label_features != labels.CLASS_LABEL:
        return listing
    separator = options.label_separator
    return dataclasses.replace(
        listing,
        label_features=labels.MULTI_LABEL,
        entries=collect(
            entry._replace(label=labels.of_classes(part for name in entry.classes for part in split(name, separator)))
            if entry.label
            else entry
            for entry in listing.entries
        ),
        class_names=frozenset(part for name in listing.class_names for part in split(name, separator)),
    )


def are_listed(listing: Listing) -> bool:
    """Whether images have sets of classes, and names of classes are known; those of boxes are read later."""
    return labels.has_sets(listing.label_features) and bool(listing.class_names)


class RemovedLabels:
    """Removes repeated classes, which renaming can cause, and classes that `data.classes` does not name: counts these.

    Attributes:
      counts: Number of removed labels by class.
    """

    def __init__(self, configured: Sequence[str] | None = None) -> None:
        """Removes the classes that are not configured; none by default."""
        self.counts: Counter[str] = Counter()
        self._paths: dict[str, list[str]] = {}
        self._configured = configured

    def normalized(self, entry: Entry) -> Entry:
        """Returns an entry with each of its classes once, as far as they are configured."""
        names = dict(entry.label).get(features.CLASS_TEXT)
        if names is None:
            return entry
        kept = [str(name) for name in names if self._configured is None or name in self._configured]
        for name in {*map(str, names)} - {*kept}:
            self._add(name, 1, [files.readable(entry.path)])
        return entry._replace(label=labels.of_classes(kept))

    def merge(self, later: RemovedLabels) -> None:
        """Adds those of later entries."""
        for name, count in later.counts.items():
            self._add(name, count, later._paths[name])

    def _add(self, name: str, count: int, paths: Sequence[str]) -> None:
        self.counts[name] += count
        known = self._paths.setdefault(name, [])
        if len(known) < _MOST_NAMES:
            known += paths[: _MOST_NAMES - len(known)]

    def notes(self) -> list[str]:
        """Returns a note for every class."""
        return [
            f"{count:,} labels `{name}` were removed, since data.classes does not name this class: "
            f"{', '.join(self._paths[name])}{', …' if count > _MOST_NAMES else ''}"
            for name, count in sorted(self.counts.items())
        ]


def without_removed(listing: Listing, removed: RemovedLabels, totals: EntryTotals) -> Listing:
    """Returns a listing without the classes that were removed from its entries, and with notes about them.

    Args:
      listing: All files, with classes renamed as configured; its entries do not matter.
      removed: The labels that were removed.
      totals: Numbers of the entries.
    """
    if not are_listed(listing):
        return listing
    return dataclasses.replace(
        listing,
        class_names=listing.class_names - removed.counts.keys(),
        notes=(*listing.notes, *removed.notes(), *_constant_classes(totals)),
    )


def _constant_classes(totals: EntryTotals) -> list[str]:
    """Reports classes that every image has."""
    num_images, counts = totals.images.total(), totals.classes()
    return [
        f"all {num_images:,} images have the class `{name}`: there is nothing to learn about it"
        for name in sorted(counts)
        if counts[name] == num_images
    ]


def refuse_separator(names: Sequence[str], root: str) -> None:
    """Refuses class names that would be ambiguous in responses of the model.

    Raises:
      DatasetError: If a name contains `|`.
    """
    ambiguous = sorted(name for name in names if SEPARATOR in name)
    if ambiguous:
        from components.image_example_gen.class_names import setting

        new_names = {name: " ".join(name.replace(SEPARATOR, " ").split()) for name in ambiguous}
        raise DatasetError(
            f"{root}: {len(ambiguous):,} class names contain `{SEPARATOR}`, such as `{ambiguous[0]}`, and images may "
            f"have several classes, whose names the model joins with it. If these are several classes, use "
            f"{setting('label_separator', SEPARATOR)}. If not, rename them: {setting('rename_classes', new_names)}."
        )
