"""`metadata.csv`: slices and groups of images whose labels the layout already knows."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING

from components.image_example_gen import files, missing_files, tables
from components.image_example_gen.entries import Entry
from components.image_example_gen.errors import DatasetError
from components.image_example_gen.external_sort import grouped_by_key
from components.image_example_gen.layouts._entries import Listing
from components.image_example_gen.layouts._folder import Folder
from components.image_example_gen.stored_entries import collect
from components.image_example_gen.tables import FILENAME_COLUMN, METADATA_FILE

if TYPE_CHECKING:
    from components.image_example_gen.options import DataOptions

_SHOWN_PATHS = 2


def join(listing: Listing, folder: Folder, options: DataOptions) -> Listing:
    """Adds the slices and groups of the metadata table to the entries; notes rows and files that do not match.

    Raises:
      DatasetError: If the table cannot be used, matches no file, or lacks `data.group_column`.
    """
    location = _find(folder, options)
    table = tables.read(location, required=FILENAME_COLUMN) if location else None
    columns = tuple(column for column in table.columns if column != FILENAME_COLUMN) if table else ()
    group_column = options.group_column or ""
    if group_column and group_column not in columns:
        place = location or f"there is no {METADATA_FILE} in {folder.root}"
        raise DatasetError(f"data.group_column: no column `{group_column}` ({place}). Add it, or {_choose(columns)}.")
    slice_columns = tuple(column for column in columns if column != group_column)
    matches = _Matches(table, columns) if table else None

    def entries() -> Iterator[Entry]:
        no_row: dict[str, str] = {}
        for entry, row in matches.of(listing.entries) if matches else ((entry, no_row) for entry in listing.entries):
            group = row.get(group_column, "") or options.group_of(entry.path)
            slices = tuple(row.get(column) or tables.UNKNOWN for column in slice_columns)
            yield entry._replace(group=group, slices=slices)

    collected = collect(entries())
    notes = matches.notes(folder.root) if matches else ()
    return dataclasses.replace(listing, entries=collected, columns=slice_columns, notes=(*listing.notes, *notes))


def _choose(columns: tuple[str, ...]) -> str:
    return f"set another one: {', '.join(columns)}" if columns else "remove the setting"


def _find(folder: Folder, options: DataOptions) -> str | None:
    if options.metadata_csv is None:
        return folder.find(METADATA_FILE)
    if not files.is_file(options.metadata_csv):
        raise DatasetError(f"data.metadata_csv: {options.metadata_csv} does not exist.")
    return options.metadata_csv


class _Matches:
    """The entries of a listing with their rows of a table: both are sorted by path, so that neither are in memory."""

    def __init__(self, table: tables.Table, columns: tuple[str, ...]) -> None:
        self._table, self._columns = table, columns
        self._num_matched, self._num_without_row, self._num_unmatched = 0, 0, 0
        self._first_unmatched: list[str] = []

    def of(self, entries: Iterable[Entry]) -> Iterator[tuple[Entry, Mapping[str, str]]]:
        """Yields every entry with the values of its row; empty if it has none.

        Raises:
          DatasetError: If two rows of an image have different values.
        """
        items: Iterable[tuple[str, tables.Row | Entry]] = itertools.chain(
            ((_key(row.values[FILENAME_COLUMN]), row) for row in self._table.rows),
            ((_key(files.readable(entry.path)), entry) for entry in entries),
        )
        for key, same in grouped_by_key(items):
            yield from self._join(key, same)

    def _join(self, key: str, same: Sequence[tables.Row | Entry]) -> Iterator[tuple[Entry, Mapping[str, str]]]:
        """Joins rows and entries whose names differ at most by backslashes."""
        entries = [(files.readable(item.path), item) for item in same if isinstance(item, Entry)]
        names = {name for name, _ in entries}
        rows: dict[str, dict[str, str]] = {}
        for row in same:
            if isinstance(row, Entry):
                continue
            name = row.values[FILENAME_COLUMN]
            name = name if name in names else key
            values = {column: row.values[column] for column in self._columns}
            if name and rows.setdefault(name, values) != values:
                raise DatasetError(
                    f"{self._table.location}, line {row.line}: duplicate row for {name} with different values. Remove "
                    "one of them."
                )
        for name, entry in entries:
            self._num_matched += name in rows
            self._num_without_row += name not in rows
            yield entry, rows.get(name, {})
        unmatched = rows.keys() - names
        self._num_unmatched += len(unmatched)
        self._first_unmatched = (self._first_unmatched + sorted(unmatched))[:_SHOWN_PATHS]

    def notes(self, root: str) -> list[str]:
        """Reports rows without an entry, and entries without a row.

        Raises:
          DatasetError: If no row has an entry.
        """
        name, location = self._table.name, self._table.location
        if not self._num_matched + self._num_unmatched:
            raise DatasetError(f"{location} has no rows. Add them, or remove the file.")
        if not self._num_matched:
            raise DatasetError(
                f"{location}: no row matches a file in the data folder. `{FILENAME_COLUMN}` is the path from the data "
                f"folder, with forward slashes. The table has {self._num_unmatched:,} paths, "
                f"{missing_files.describe(root, self._first_unmatched)}"
            )
        notes = []
        if self._num_unmatched:
            notes.append(f"{name}: {self._num_unmatched:,} rows match no file")
        if self._num_without_row:
            notes.append(f"{name}: {self._num_without_row:,} files have no row; their slices are `{tables.UNKNOWN}`")
        return notes


def _key(name: str) -> str:
    """Returns a path with slashes, which may come from Windows."""
    return name.replace("\\", "/").removeprefix("./")
