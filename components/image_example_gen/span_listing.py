"""Lists spans apart from each other, each by its layout; without spans, parts of a large table or the whole dataset."""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import hashlib
import itertools
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple, Self

from components.image_example_gen import class_list, class_names, corrections, label_sets, labels, layouts, tables
from components.image_example_gen.entries import Entry
from components.image_example_gen.errors import DatasetError
from components.image_example_gen.layouts import Detection, Listing
from components.image_example_gen.listing_tasks import Engine, ListedDataset, ListedParts, list_parts
from components.image_example_gen.opened_folder import OpenedFolder, open_folder
from components.image_example_gen.options import DataOptions
from components.image_example_gen.spans import Span
from components.image_example_gen.stored_entries import ENTRIES_PER_BLOCK, collect, sorted_by_path
from components.image_example_gen.table_parts import IndivisibleTableError
from trainer_module.locations import join

SPAN_COLUMN = "span"
_MOST_UNRESOLVED = 100_000  # rows that are in memory
MOST_COUNTED = 10_000  # values of a column; each is in memory meanwhile


class _Unit(NamedTuple):
    """A span, a part of a table, or a whole dataset, which is listed apart from the rest.

    Attributes:
      span: A span; None without spans.
      part: A part of a dataset without spans, as its layout divides it; None if it is listed as a whole.
    """

    span: Span | None = None
    part: Any = None


class _Described(NamedTuple):
    """A unit without its files.

    Attributes:
      span: The span; None without spans.
      layout: Its layout.
      detection: Why that layout was chosen.
      listing: Its listing, without entries, refused files and class names.
      num_entries: Number of its entries.
    """

    span: Span | None
    layout: str
    detection: Detection
    listing: Listing
    num_entries: int


@dataclass
class _ListedUnits(ListedParts):
    """Some units; what they contain but for the entries.

    Attributes:
      described: The units.
      class_names: All class names in folders or tables.
      removed: Labels that were removed from images with sets of classes.
      slice_values: Values of the columns, as far as they are counted.
      unresolved: Rows of parts that are listed at the end.
    """

    described: list[_Described] = field(default_factory=list)
    class_names: set[str] = field(default_factory=set)
    removed: label_sets.RemovedLabels = field(default_factory=label_sets.RemovedLabels)
    slice_values: dict[str, set[str]] = field(default_factory=dict)
    unresolved: list[tables.Row] = field(default_factory=list)

    def merge(self, later: Self) -> None:
        """Adds later units."""
        super().merge(later)
        self.described += later.described
        self.class_names |= later.class_names
        self.removed.merge(later.removed)
        self.unresolved += later.unresolved
        if len(self.unresolved) > _MOST_UNRESOLVED:
            raise IndivisibleTableError
        for column, values in later.slice_values.items():
            self.add_values(column, values)

    def add_values(self, column: str, values: Iterable[str]) -> None:
        """Adds values of a column, until they are too many."""
        known = self.slice_values.setdefault(column, set())
        if len(known) <= MOST_COUNTED:
            known.update(values)

    def count(self, entries: Iterable[Entry], columns: Sequence[str]) -> Iterator[list[Entry]]:
        """Counts the entries of a unit, and returns them in blocks."""
        digest, remaining = hashlib.sha256(repr(tuple(columns)).encode()), iter(entries)
        while block := list(itertools.islice(remaining, ENTRIES_PER_BLOCK)):
            digest.update("".join(map(repr, block)).encode())
            # Files of many examples have no values.
            for column, values in zip(columns, zip(*(entry.slices for entry in block), strict=False), strict=False):
                self.add_values(column, values)
            self.add(block)
            yield block
        self.digests.append(digest.digest())


def list_spans(
    root: str, opened: OpenedFolder, chosen: Sequence[Span], options: DataOptions, engine: Engine | None
) -> ListedDataset:
    """Lists the spans of a dataset, or a dataset without spans.

    Spans may differ in layout, unless one consists of files of many examples, and in columns: an image without a value
    has `tables.UNKNOWN`. Paths start from the folder above the spans, even if there is only one: the next run may read
    two, and slices and paths, which corrections refer to, should not change.

    Args:
      root: The folder that all paths start from.
      opened: The folder of a dataset without spans; spans are opened where they are listed.
      chosen: The spans; none if the dataset has none.
      options: `[data]`.
      engine: As in `list_parts`.

    Raises:
      DatasetError: If a layout or a table contradicts itself, or if spans do not fit each other.
    """
    # In the order of all paths: names contain no slash.
    units = [_Unit(span) for span in sorted(chosen, key=lambda span: f"{span.path}/")]
    lister = _ListUnits(root, options, None if chosen else opened)
    if not chosen:
        units = [_Unit(part=part) for part in opened.parts()]
    result = None
    with contextlib.suppress(IndivisibleTableError):
        result = list_parts(units or [_Unit()], lister, 1, engine, functools.partial(_remainder, units))
    entries, listed = result or list_parts([_Unit()], lister, 1)
    described = sorted(listed.described, key=lambda each: each.span.number if each.span else 0)
    first = described[0]
    listing = dataclasses.replace(_merged(root, described), class_names=frozenset(listed.class_names))
    has_containers = layouts.get(first.layout).entries_are_containers  # whose entries have no values
    if not has_containers and any(each.listing.columns != listing.columns for each in described):
        entries = _with_columns(entries, listed, listing.columns)
    listing = class_names.rename(listing, options.rename_classes, root)
    listing = label_sets.without_removed(listing, listed.removed, listed.totals)
    listing = dataclasses.replace(listing, entries=entries, refused=tuple(listed.refused))
    listing, corrected = corrections.apply(listing, options, root, has_spans=bool(chosen))
    if listing.entries is not entries:
        listed = _ListedUnits()
        for _ in listed.count(listing.entries, listing.columns):
            pass
    if chosen and SPAN_COLUMN in listing.columns:
        listed.slice_values[SPAN_COLUMN] = {str(span.number) for span in chosen}
    return ListedDataset(root, first.layout, first.detection, listing, listed, listed.slice_values, corrected)


def _remainder(units: Sequence[_Unit], listed: _ListedUnits) -> list[_Unit]:
    """Returns the rows that parts have left unresolved, as another part."""
    return [_Unit(part=units[0].part._replace(rows=tuple(listed.unresolved)))] if listed.unresolved else []


@dataclass(frozen=True)
class _ListUnits:
    """Lists some units; see `Lister`."""

    root: str
    options: DataOptions
    opened: OpenedFolder | None = None

    def __call__(self, parts: Sequence[_Unit], take: Callable[[Sequence[Entry]], None]) -> _ListedUnits:
        result = _ListedUnits(removed=label_sets.RemovedLabels(self.options.classes))
        for unit in parts:
            self._list(unit, take, result)
        return result

    def _list(self, unit: _Unit, take: Callable[[Sequence[Entry]], None], result: _ListedUnits) -> None:
        span = unit.span
        opened = self.opened or open_folder(join(self.root, span.path) if span else self.root, self.options)
        listing = opened.list_files() if unit.part is None else opened.list_part(unit.part)
        result.unresolved += listing.unresolved
        number = tuple[str, ...]()
        if span and not opened.layout.entries_are_containers:  # these have all their slices
            number = (str(span.number),)
            if SPAN_COLUMN in listing.columns:
                raise DatasetError(
                    f"{opened.root}: the column `{SPAN_COLUMN}` is reserved for the number of the span. Rename it."
                )
            listing = dataclasses.replace(listing, columns=(*listing.columns, SPAN_COLUMN))
        has_sets = label_sets.are_listed(listing)
        new_names = self.options.rename_classes if listing.class_names else {}

        def completed() -> Iterator[Entry]:
            for entry in listing.entries:
                if number:
                    entry = entry._replace(slices=(*entry.slices, *number))
                if span:
                    entry = entry.below(span.path)
                if new_names:
                    entry = class_names.renamed(entry, new_names)
                if has_sets:
                    entry = result.removed.normalized(entry)
                yield entry._replace(split=entry.split or self.options.split_of(entry.path))

        num_entries = 0
        for block in result.count(sorted_by_path(completed()), listing.columns):
            num_entries += len(block)
            take(block)
        base = f"{span.path}/" if span else ""
        result.refused += [file._replace(path=f"{base}{file.path}") for file in listing.refused]
        result.class_names |= listing.class_names
        described = dataclasses.replace(listing, entries=(), refused=(), class_names=frozenset(), unresolved=())
        result.described.append(_Described(span, opened.layout.name, opened.detection, described, num_entries))


def _merged(root: str, described: Sequence[_Described]) -> Listing:
    """Merges the listings of spans; their columns may differ.

    Raises:
      DatasetError: If they do not fit each other.
    """
    listings = [each.listing for each in described]
    layout_names = {each.layout for each in described}
    has_containers = any(layouts.get(name).entries_are_containers for name in layout_names)
    if (has_containers and len(layout_names) > 1) or len({listing.label_features for listing in listings}) > 1:
        raise DatasetError(f"{root}: the spans differ in layout or labels. Set data.spans to one of them.")
    known_lists = {listing.class_list for listing in listings} - {class_list.NO_CLASS_LIST}
    has_ids = labels.has_class_ids(listings[0].label_features)
    if len(known_lists) > 1 or (has_ids and len({listing.class_list for listing in listings}) > 1):
        raise DatasetError(f"{root}: {class_list.CLASSES_FILE} is not the same in all spans. Set data.classes.")
    merged = listings[0].merged(listings[1:])
    return dataclasses.replace(
        merged,
        columns=tuple(dict.fromkeys(column for listing in listings for column in listing.columns)),
        class_list=next(iter(known_lists), class_list.NO_CLASS_LIST),
    )


def _with_columns(entries: Iterable[Entry], listed: _ListedUnits, columns: Sequence[str]) -> Sequence[Entry]:
    """Gives entries the columns of all spans, and counts the value of those that have none."""

    def completed() -> Iterator[Entry]:
        remaining = iter(entries)
        for each in listed.described:
            own = each.listing.columns
            places = [own.index(column) if column in own else None for column in columns]
            for entry in itertools.islice(remaining, each.num_entries):
                values = (tables.UNKNOWN if place is None else entry.slices[place] for place in places)
                yield entry._replace(slices=tuple(values))

    for column in columns:
        if any(each.num_entries and column not in each.listing.columns for each in listed.described):
            listed.add_values(column, [tables.UNKNOWN])
    return collect(completed())
