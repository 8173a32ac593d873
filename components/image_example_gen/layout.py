"""How a folder of pictures is laid out: classes, splits, metadata. Reads names only, never a picture."""

from __future__ import annotations

import csv
import os
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from trainer_module import features

METADATA_FILE = "metadata.csv"
FILENAME_COLUMN = "filename"


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
      metadata_columns: Slice columns of the metadata CSV.
    """

    pattern: str
    split_folders: tuple[str, ...]
    classes: tuple[str, ...]
    num_files: dict[str, int]
    metadata_columns: tuple[str, ...]


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

    num_files: Counter[str] = Counter()
    for parent in [data_dir / split for split in split_folders] or [data_dir]:
        for class_folder in _folders(parent):
            num_files[class_folder] += sum(1 for _ in _visible(parent / class_folder))
    _refuse_untrainable(data_dir, num_files)
    return Layout(
        pattern="*/*/*" if split_folders else "*/*",
        split_folders=split_folders,
        classes=tuple(sorted(num_files)),
        num_files=dict(sorted(num_files.items())),
        metadata_columns=_metadata_columns(find_metadata(data_dir, metadata_csv)),
    )


def find_metadata(data_dir: Path, metadata_csv: Path | None) -> Path | None:
    """The metadata CSV that was named, or the one in the data folder, or None.

    Raises:
      DatasetError: If one was named and does not exist.
    """
    if metadata_csv is not None:
        if not metadata_csv.is_file():
            raise DatasetError(f"data.metadata_csv: {metadata_csv} does not exist.")
        return metadata_csv
    default = data_dir / METADATA_FILE
    return default if default.is_file() else None


def read_metadata(path: Path) -> dict[str, dict[str, str]]:
    """Reads slice values by file name (relative to the data folder, forward slashes).

    Raises:
      DatasetError: If a file is named twice with different values.
    """
    rows: dict[str, dict[str, str]] = {}
    with path.open(newline="", encoding="utf-8-sig") as file:
        for row in csv.DictReader(file):
            name = row.pop(FILENAME_COLUMN).strip()
            values = {column: (value or "").strip() for column, value in row.items() if column}
            if rows.setdefault(name, values) != values:
                raise DatasetError(f"{path} names {name} twice, with different values.")
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


def _metadata_columns(path: Path | None) -> tuple[str, ...]:
    if path is None:
        return ()
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            header = next(csv.reader(file), [])
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise DatasetError(f"{path} cannot be read as CSV: {error}") from None
    columns = [column.strip() for column in header]
    if FILENAME_COLUMN not in columns:
        raise DatasetError(f"{path} has no column `{FILENAME_COLUMN}` (found: {', '.join(columns) or 'none'}).")
    columns.remove(FILENAME_COLUMN)
    built_in = {slice_.removeprefix(features.SLICE_PREFIX) for slice_ in features.BUILT_IN_SLICES}
    for column in columns:
        if not column or columns.count(column) > 1 or column in built_in:
            raise DatasetError(f"{path}: column {column!r} is empty, doubled or the name of a built-in slice.")
    return tuple(columns)


def _visible(folder: Path) -> Iterator[os.DirEntry[str]]:
    with os.scandir(folder) as entries:
        yield from (entry for entry in entries if not entry.name.startswith("."))


def _folders(folder: Path) -> list[str]:
    return sorted(entry.name for entry in _visible(folder) if entry.is_dir())


def _names(names: list[str]) -> str:
    shown = ", ".join(f"`{name}`" for name in names[:5])
    return shown + (f" and {len(names) - 5} more" if len(names) > 5 else "")
