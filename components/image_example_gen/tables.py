"""Tables beside the images: a manifest that lists them, or metadata about them."""

from __future__ import annotations

import codecs
import csv
import io
import json
import re
from typing import NamedTuple

from components.image_example_gen import files
from components.image_example_gen.errors import DatasetError
from trainer_module import features

# Slices that every image has; a column may not have one of these names.
BUILT_IN_SLICE_NAMES = tuple(key.removeprefix(features.SLICE_PREFIX) for key in features.BUILT_IN_SLICES)
SUFFIXES = (".csv", ".tsv", ".jsonl")
_DELIMITERS = (",", ";", "\t")
METADATA_FILE, FILENAME_COLUMN = "metadata.csv", "filename"
_DELIMITER_NAMES = {",": "comma", ";": "semicolon", "\t": "tab"}
_SINGLE = ("path", "mask", "split", "group")  # columns with one value
LIST_SEPARATOR = "|"  # a list of texts in JSON becomes one text
UNKNOWN = "unknown"  # slice value of an image for which no table has a value


class Row(NamedTuple):
    """One line.

    Attributes:
      line: Line number in the file, from 1.
      values: By column; missing values are empty.
    """

    line: int
    values: dict[str, str]


class Table(NamedTuple):
    """The contents of one file.

    Attributes:
      location: Location of the file.
      columns: Names, in the order of the file.
      rows: All lines that are not empty.
    """

    location: str
    columns: tuple[str, ...]
    rows: list[Row]

    @property
    def name(self) -> str:
        """Name of the file, without its folder."""
        return self.location.rpartition("/")[2]


def read(location: str, *, required: str = "") -> Table:
    """Reads CSV (with a header) or, if the name ends in `.jsonl`, JSON Lines (one object per line), in UTF-8.

    The delimiter of CSV is the comma, the semicolon or the tab, whichever is most frequent in the header.

    Args:
      location: Local path, or any that TensorFlow's file system reads.
      required: A required column; none by default.

    Raises:
      DatasetError: If it cannot be read, or if a column is missing, empty, duplicated, or named like a built-in slice.
    """
    folder, _, name = location.rpartition("/")
    try:
        text = files.read(folder, name).decode("utf-8-sig")
    except (files.UnreadableFileError, UnicodeDecodeError) as error:
        raise DatasetError(f"{location} {_unreadable(location, error)}") from None
    table = _read_jsonl(location, text) if location.endswith(".jsonl") else _read_csv(location, text)
    for row in table.rows:
        for value in row.values.values():
            if not is_printable(value):
                raise DatasetError(
                    f"{location}, line {row.line}: {value!r} contains characters that no file name or label may have."
                )
    if required and required not in table.columns:
        columns = ", ".join(table.columns) or "none"
        raise DatasetError(f"{location} has no column `{required}` (found: {columns}). Add it, or rename one.")
    for column in table.columns:
        if not column or table.columns.count(column) > 1 or column in BUILT_IN_SLICE_NAMES:
            raise DatasetError(
                f"{location}: column {column!r} is empty, duplicated, or the name of a built-in slice. Rename it; "
                "if the file has no header, write a line of column names above its first line."
            )
    return table


def is_printable(text: str) -> bool:
    """Whether a text may be a file name or a label: without null characters and halves of surrogate pairs."""
    return "\0" not in text and not any("\ud800" <= character <= "\udfff" for character in text)


def _unreadable(location: str, error: Exception) -> str:
    if not isinstance(error, UnicodeDecodeError):
        return f"cannot be read: {error}"
    # The two that Windows programs write.
    is_utf16 = error.object[:2] in (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)
    return (
        f"is not {_kind(location)} in UTF-8 (byte {error.start}). Save it in UTF-8, for example with "
        f"iconv -f {'UTF-16' if is_utf16 else 'WINDOWS-1252'} -t UTF-8."
    )


def _kind(location: str) -> str:
    return "JSON Lines" if location.endswith(".jsonl") else "CSV"


def _read_csv(location: str, text: str) -> Table:
    delimiter, text = _delimiter(text)
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter)
    try:
        columns = tuple(column.strip() for column in next(reader, []))
        rows = []
        for fields in reader:
            values = [field.strip() for field in fields]
            if not any(values):
                continue
            if len(values) > len(columns):
                raise DatasetError(
                    f"{location}, line {reader.line_num}: {len(values)} fields, but {len(columns)} columns. "
                    f'Put a value that contains a {_DELIMITER_NAMES[delimiter]} in quotes: "black{delimiter} white".'
                )
            # Missing fields at the end of a row are empty.
            rows.append(Row(reader.line_num, dict(zip(columns, values + [""] * len(columns), strict=False))))
    except csv.Error as error:
        raise DatasetError(f"{location} cannot be read as CSV in UTF-8: {error}") from None
    return Table(location, columns, rows)


def _delimiter(text: str) -> tuple[str, str]:
    """Returns the delimiter of CSV, and the text without the line `sep=;` that Excel writes."""
    first, _, rest = text.partition("\n")
    if first.strip()[:4].lower() == "sep=" and first.strip()[4:] in _DELIMITERS:
        return first.strip()[4:], rest
    unquoted = re.sub(r'"[^"]*"', "", first)
    return max(_DELIMITERS, key=unquoted.count), text


def _read_jsonl(location: str, text: str) -> Table:
    rows: list[Row] = []
    columns: dict[str, None] = {}
    for number, line in enumerate(text.split("\n"), start=1):
        if not line.strip():
            continue
        try:
            value = json.loads(line)
        except json.JSONDecodeError as error:
            raise DatasetError(f"{location}, line {number}: not JSON: {error}") from None
        if not isinstance(value, dict) or not all(_is_plain(key.strip(), field) for key, field in value.items()):
            raise DatasetError(f"{location}, line {number}: expected an object of plain values, or lists of texts.")
        texts = {key.strip(): _as_text(field) for key, field in value.items()}
        columns |= dict.fromkeys(texts)
        rows.append(Row(number, texts))
    return Table(location, tuple(columns), [Row(line, dict.fromkeys(columns, "") | values) for line, values in rows])


def _is_plain(key: str, field: object) -> bool:
    if isinstance(field, list):
        return key not in _SINGLE and all(isinstance(entry, str) and LIST_SEPARATOR not in entry for entry in field)
    return not isinstance(field, dict)


def _as_text(field: object) -> str:
    if isinstance(field, list):
        return LIST_SEPARATOR.join(entry.strip() for entry in field)
    return "" if field is None else field.strip() if isinstance(field, str) else json.dumps(field)
