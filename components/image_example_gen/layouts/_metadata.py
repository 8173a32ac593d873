"""`metadata.csv`: slices and groups of images whose labels the layout already knows."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING

from components.image_example_gen import files, missing_files, tables
from components.image_example_gen.errors import DatasetError
from components.image_example_gen.layouts._entries import Listing
from components.image_example_gen.layouts._folder import Folder
from components.image_example_gen.tables import FILENAME_COLUMN, METADATA_FILE

if TYPE_CHECKING:
    from components.image_example_gen.options import DataOptions


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
    names = [files.readable(entry.path) for entry in listing.entries]
    rows = _by_filename(table, columns, frozenset(names)) if table else {}
    slice_columns = tuple(column for column in columns if column != group_column)
    entries = []
    for name, entry in zip(names, listing.entries, strict=True):
        row = rows.get(name, {})
        group = row.get(group_column, "") or options.group_of(entry.path)
        slices = tuple(row.get(column) or tables.UNKNOWN for column in slice_columns)
        entries.append(entry._replace(group=group, slices=slices))
    notes = _notes(table, rows, names, folder) if table else ()
    return dataclasses.replace(listing, entries=tuple(entries), columns=slice_columns, notes=(*listing.notes, *notes))


def _choose(columns: tuple[str, ...]) -> str:
    return f"set another one: {', '.join(columns)}" if columns else "remove the setting"


def _find(folder: Folder, options: DataOptions) -> str | None:
    if options.metadata_csv is None:
        return folder.find(METADATA_FILE)
    if not files.is_file(options.metadata_csv):
        raise DatasetError(f"data.metadata_csv: {options.metadata_csv} does not exist.")
    return options.metadata_csv


def _by_filename(table: tables.Table, columns: tuple[str, ...], names: frozenset[str]) -> dict[str, dict[str, str]]:
    rows: dict[str, dict[str, str]] = {}
    for row in table.rows:
        name = row.values[FILENAME_COLUMN]
        name = (name if name in names else name.replace("\\", "/")).removeprefix("./")
        values = {column: row.values[column] for column in columns}
        if name and rows.setdefault(name, values) != values:
            raise DatasetError(
                f"{table.location}, line {row.line}: duplicate row for {name} with different values. Remove one of "
                "them."
            )
    return rows


def _notes(table: tables.Table, rows: dict[str, dict[str, str]], names: list[str], folder: Folder) -> list[str]:
    matched = rows.keys() & set(names)
    if not rows:
        raise DatasetError(f"{table.location} has no rows. Add them, or remove the file.")
    if not matched:
        raise DatasetError(
            f"{table.location}: no row matches a file in the data folder. `{FILENAME_COLUMN}` is the path from the "
            f"data folder, with forward slashes. The table has {len(rows):,} paths, "
            f"{missing_files.describe(folder.root, sorted(rows))}"
        )
    notes = []
    if unmatched := len(rows) - len(matched):
        notes.append(f"{table.name}: {unmatched:,} rows match no file")
    if without_row := sum(name not in rows for name in names):
        notes.append(f"{table.name}: {without_row:,} files have no row; their slices are `{tables.UNKNOWN}`")
    return notes
