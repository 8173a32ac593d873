"""How a folder of pictures is laid out: classes, splits, metadata. Reads names only, never a picture."""

from __future__ import annotations

import csv
import hashlib
import os
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from trainer_module import features

METADATA_FILE = "metadata.csv"
FILENAME_COLUMN = "filename"
# A column with more values than this (an address, a time) is no slice unless it is asked for.
MOST_SLICE_VALUES = 50
# Slices that every picture has; a metadata column may not take their names.
BUILT_IN_SLICE_NAMES = tuple(key.removeprefix(features.SLICE_PREFIX) for key in features.BUILT_IN_SLICES)


class DatasetError(Exception):
    """The data folder cannot be trained on as it is; the message says what to change."""


@dataclass(frozen=True)
class Layout:
    """What was found in a data folder.

    Attributes:
      pattern: Glob of all files below the folder: `*/*` (class folders) or `*/*/*` (split, then class folders).
      split_folders: Splits that have a folder of their own; empty for plain class folders.
      classes: Class names in alphabetical order.
      num_files: Number of files of every class, over all splits.
      metadata_columns: Columns of the metadata CSV, beside the file name.
      slice_columns: Those of them that have few enough values to be slices.
      fingerprint: Digest of every file's path, size and time of change. TFX's own leaves the path out, and so does
        not see a picture that was moved to another class.
      notes: What people should know before the run.
    """

    pattern: str
    split_folders: tuple[str, ...]
    classes: tuple[str, ...]
    num_files: dict[str, int]
    metadata_columns: tuple[str, ...]
    slice_columns: tuple[str, ...]
    fingerprint: str
    notes: tuple[str, ...]


def inspect(data_dir: Path, metadata_csv: Path | None = None) -> Layout:
    """Looks at a data folder and refuses what could not be trained on.

    Args:
      data_dir: `<class>/<file>`, or `<train|validation|test>/<class>/<file>`. Hidden entries are ignored.
      metadata_csv: CSV with a column `filename`; `metadata.csv` in data_dir when absent.

    Raises:
      DatasetError: If the folder is missing, has no or only one class, a class without pictures, a class too small
        to be both trained on and evaluated, or if the metadata CSV is unusable.
    """
    if not data_dir.is_dir():
        raise DatasetError(f"The data folder {data_dir} does not exist. Set data.path, or give --data DIR.")
    if any(character in str(data_dir) for character in "*?[]"):
        raise DatasetError(f"The path of the data folder holds one of the characters * ? [ ]: {data_dir}. Rename it.")
    folders = _folders(data_dir)
    split_folders = tuple(split for split in features.SPLITS if split in folders)
    if split_folders and set(folders) != set(split_folders):
        others = ", ".join(sorted(set(folders) - set(split_folders)))
        raise DatasetError(
            f"{data_dir} has folders of splits ({', '.join(split_folders)}) and others beside them ({others}). "
            f"Expected either one folder a class, or only {', '.join(features.SPLITS)} with the classes inside."
        )
    if split_folders and features.TRAIN not in split_folders:
        raise DatasetError(f"{data_dir} has split folders ({', '.join(split_folders)}) but no `train` among them.")

    digest = hashlib.sha256()
    num_files: Counter[str] = Counter()
    in_train: Counter[str] = Counter()
    metadata = _Metadata(find_metadata(data_dir, metadata_csv))
    for parent in [data_dir / split for split in split_folders] or [data_dir]:
        class_folders = _folders(parent)
        if not class_folders and parent != data_dir:
            raise DatasetError(f"{parent} has no class folders. Add them, or remove the folder of this split.")
        for class_folder in class_folders:
            files = _files(parent / class_folder, data_dir)
            for relative, size, changed_ns in files:
                digest.update(f"{relative}\0{size}\0{changed_ns}\n".encode())
                metadata.note_file(relative)
            num_files[class_folder] += len(files)
            if parent.name != features.VALIDATION and parent.name != features.TEST:
                in_train[class_folder] += len(files)
    _refuse_untrainable(data_dir, num_files)
    untrained = sorted(name for name in num_files if not in_train[name])
    if split_folders and untrained:
        raise DatasetError(f"{data_dir / features.TRAIN}: no pictures of class {_names(untrained)} to train on.")
    return Layout(
        pattern="*/*/*" if split_folders else "*/*",
        split_folders=split_folders,
        classes=tuple(sorted(num_files)),
        num_files=dict(sorted(num_files.items())),
        metadata_columns=metadata.columns,
        slice_columns=metadata.slice_columns(),
        fingerprint=digest.hexdigest(),
        notes=metadata.notes(),
    )


class _Metadata:
    """The metadata CSV while the files are gone through: which of its rows belong to a file."""

    def __init__(self, path: Path | None) -> None:
        self._path = path
        self._rows = read_metadata(path) if path else {}
        self.columns = _metadata_columns(path) if path else ()
        self._matched = self._without_row = 0

    def note_file(self, relative: str) -> None:
        if relative in self._rows:
            self._matched += 1
        else:
            self._without_row += 1

    def slice_columns(self) -> tuple[str, ...]:
        return tuple(column for column in self.columns if self._num_values(column) <= MOST_SLICE_VALUES)

    def notes(self) -> tuple[str, ...]:
        if self._path is None:
            return ()
        if not self._matched:
            raise DatasetError(
                f"{self._path}: no row names a file of the data folder. `{FILENAME_COLUMN}` is the path from the data "
                "folder, with forward slashes, for example cat/7.jpg."
            )
        notes = []
        if unmatched := len(self._rows) - self._matched:
            notes.append(f"{self._path.name}: {unmatched:,} rows name no file")
        if self._without_row:
            notes.append(f"{self._path.name}: {self._without_row:,} files have no row and count as `unknown`")
        for column in self.columns:
            if self._num_values(column) > MOST_SLICE_VALUES:
                notes.append(
                    f"{self._path.name}: column `{column}` has {self._num_values(column):,} values; it is a slice only "
                    "if evaluation.slices names it"
                )
        return tuple(notes)

    def _num_values(self, column: str) -> int:
        return len({row.get(column) for row in self._rows.values()})


def find_metadata(data_dir: Path, metadata_csv: Path | None) -> Path | None:
    """The metadata CSV that was named, or the one in the data folder, or None.

    Raises:
      DatasetError: If one was named and does not exist.
    """
    if metadata_csv is not None:
        metadata_csv = metadata_csv.expanduser()
        if not metadata_csv.is_file():
            raise DatasetError(f"data.metadata_csv: {metadata_csv} does not exist.")
        return metadata_csv
    default = data_dir / METADATA_FILE
    return default if default.is_file() else None


def read_metadata(path: Path) -> dict[str, dict[str, str]]:
    """Reads slice values by file name (relative to the data folder, forward slashes).

    Raises:
      DatasetError: If the file is not a CSV in UTF-8, has no column `filename`, or names a file twice with different
        values.
    """
    columns = _metadata_columns(path)
    rows: dict[str, dict[str, str]] = {}
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            reader = csv.reader(file)
            header = [column.strip() for column in next(reader)]
            for fields in reader:
                # Missing fields at the end of a row are empty.
                row = dict(zip(header, [*fields, *[""] * len(header)], strict=False))
                name = row[FILENAME_COLUMN].strip().removeprefix("./")
                if not name:
                    continue
                values = {column: row[column].strip() for column in columns}
                if rows.setdefault(name, values) != values:
                    raise DatasetError(f"{path}, line {reader.line_num}: {name} stands here again, with other values.")
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise DatasetError(f"{path} cannot be read as CSV in UTF-8: {error}") from None
    return rows


def _refuse_untrainable(data_dir: Path, num_files: Counter[str]) -> None:
    if not num_files:
        raise DatasetError(f"{data_dir} has no class folders. Expected one folder a class with its pictures inside.")
    if len(num_files) == 1:
        raise DatasetError(
            f"{data_dir} has a single class ({next(iter(num_files))}). A classifier needs at least two class folders."
        )
    empty = sorted(name for name, count in num_files.items() if count == 0)
    if empty:
        raise DatasetError(f"{data_dir}: no pictures in class {_names(empty)}. Add some, or remove the folder.")
    single = sorted(name for name, count in num_files.items() if count == 1)
    if single:
        raise DatasetError(
            f"{data_dir}: only one picture in class {_names(single)}. A class needs at least two, "
            "one to train on and one to evaluate; add pictures, or remove the folder."
        )


def _metadata_columns(path: Path) -> tuple[str, ...]:
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            header = next(csv.reader(file), [])
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise DatasetError(f"{path} cannot be read as CSV in UTF-8: {error}") from None
    columns = [column.strip() for column in header]
    if FILENAME_COLUMN not in columns:
        raise DatasetError(f"{path} has no column `{FILENAME_COLUMN}` (found: {', '.join(columns) or 'none'}).")
    columns.remove(FILENAME_COLUMN)
    for column in columns:
        if not column or columns.count(column) > 1 or column in BUILT_IN_SLICE_NAMES:
            raise DatasetError(f"{path}: column {column!r} is empty, doubled or the name of a built-in slice.")
    return tuple(columns)


def _visible(folder: Path) -> Iterator[os.DirEntry[str]]:
    with os.scandir(folder) as entries:
        yield from (entry for entry in entries if not entry.name.startswith("."))


def _folders(folder: Path) -> list[str]:
    names = sorted(entry.name for entry in _visible(folder) if entry.is_dir())
    for name in names:
        try:
            name.encode()
        except UnicodeEncodeError:
            raise DatasetError(f"{folder}: the name of the folder {name!r} is not UTF-8. Rename it.") from None
    return names


def _files(folder: Path, data_dir: Path) -> list[tuple[str, int, int]]:
    """Path from the data folder, size and time of change (ns) of everything in a class folder, by name."""
    found = []
    for entry in sorted(_visible(folder), key=lambda entry: entry.name):
        try:
            stat = entry.stat()
        except FileNotFoundError:
            raise DatasetError(f"{entry.path} is a link to a file that does not exist. Remove it.") from None
        relative = os.path.relpath(entry.path, data_dir).replace(os.sep, "/")
        found.append(
            (relative.encode(errors="surrogateescape").decode(errors="replace"), stat.st_size, stat.st_mtime_ns)
        )
    return found


def _names(names: list[str]) -> str:
    shown = ", ".join(f"`{name}`" for name in names[:5])
    return shown + (f" and {len(names) - 5} more" if len(names) > 5 else "")
