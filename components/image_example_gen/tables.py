"""Tables beside the images: a manifest that lists them, or metadata about them."""

from __future__ import annotations

import codecs
import csv
import io
import itertools
import json
import re
from collections.abc import Collection, Iterator, Sequence
from typing import NamedTuple, TextIO

from components.image_example_gen import files
from components.image_example_gen.errors import DatasetError
from components.image_example_gen.table_parts import (
    DELIMITERS,
    IndivisibleTableError,
    RowRange,
    given_delimiter,
    open_part,
)
from trainer_module import features

# Slices that every image has; a column may not have one of these names.
BUILT_IN_SLICE_NAMES = tuple(key.removeprefix(features.SLICE_PREFIX) for key in features.BUILT_IN_SLICES)
SUFFIXES = (".csv", ".tsv", ".jsonl")
METADATA_FILE, FILENAME_COLUMN = "metadata.csv", "filename"
_DELIMITER_NAMES = {",": "comma", ";": "semicolon", "\t": "tab"}
_SINGLE = ("path", "mask", "split", "group")  # columns with one value
LIST_SEPARATOR = "|"  # a list of texts in JSON becomes one text
_UNPRINTABLE = re.compile("[\0\ud800-\udfff]")
_MOST_ROWS = 50_000  # in memory
_BLOCK_BYTES = 2**20
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
      rows: All lines that are not empty. Those of a large file are read again for every iteration.
    """

    location: str
    columns: tuple[str, ...]
    rows: Collection[Row]

    @property
    def name(self) -> str:
        """Name of the file, without its folder."""
        return self.location.rpartition("/")[2]


def read(location: str, *, required: str = "", part: RowRange | None = None) -> Table:
    """Reads CSV (with a header) or, if the name ends in `.jsonl`, JSON Lines (one object per line), in UTF-8.

    The delimiter of CSV is the comma, the semicolon or the tab, whichever is most frequent in the header.

    Args:
      location: Local path, or any that TensorFlow's file system reads.
      required: A required column; none by default.
      part: The rows to read; all by default.

    Raises:
      DatasetError: If it cannot be read, or if a column is missing, empty, duplicated, or named like a built-in slice.
      IndivisibleTableError: If quotes in a part are not regular, so that it may not end at the end of a row.
    """
    columns: list[str] = []
    parsed = _parse(location, columns, part)
    rows = list(itertools.islice(parsed, _MOST_ROWS + 1))
    num_rows = len(rows) + sum(1 for _ in parsed)
    if required and required not in columns:
        raise DatasetError(
            f"{location} has no column `{required}` (found: {', '.join(columns) or 'none'}). Add it, or rename one."
        )
    for column in columns:
        if not column or columns.count(column) > 1 or column in BUILT_IN_SLICE_NAMES:
            raise DatasetError(
                f"{location}: column {column!r} is empty, duplicated, or the name of a built-in slice. Rename it; "
                "if the file has no header, write a line of column names above its first line."
            )
    names = tuple(columns)
    if num_rows > _MOST_ROWS:
        return Table(location, names, _RowsOfFile(location, names, num_rows, part))
    return Table(location, names, [_completed(row, names) for row in rows])


class _RowsOfFile(Collection[Row]):
    """The rows of a large file, which has been read once without an error."""

    def __init__(self, location: str, columns: Sequence[str], num_rows: int, part: RowRange | None) -> None:
        self._location, self._columns, self._num_rows, self._part = location, columns, num_rows, part

    def __len__(self) -> int:
        return self._num_rows

    def __iter__(self) -> Iterator[Row]:
        number, columns = 0, frozenset(self._columns)
        for row in _parse(self._location, [], self._part):
            number += 1
            if not row.values.keys() <= columns:
                raise self._changed()
            yield _completed(row, self._columns)
        if number != self._num_rows:
            raise self._changed()

    def __contains__(self, row: object) -> bool:
        return any(row == each for each in self)

    def _changed(self) -> DatasetError:
        return DatasetError(f"{self._location} has changed while it was read. Run the command again.")


def _completed(row: Row, columns: Sequence[str]) -> Row:
    """Adds empty values for the columns that a row does not have."""
    return row if len(row.values) == len(columns) else Row(row.line, dict.fromkeys(columns, "") | row.values)


def _parse(location: str, columns: list[str], part: RowRange | None = None) -> Iterator[Row]:
    """Reads a file line by line; adds its columns, at the latest when the rows end.

    Raises:
      DatasetError: If it cannot be read.
    """
    is_jsonl = location.endswith(".jsonl")
    try:
        with (
            open_part(location, part) if part else files.open_binary(location) as binary,
            # CSV contains line ends of any kind in quotes.
            io.TextIOWrapper(binary, encoding="utf-8-sig", newline="\n" if is_jsonl else "") as text,
        ):
            for row in (_parse_jsonl if is_jsonl else _parse_csv)(location, text, columns, part):
                if not is_printable("".join(row.values.values())):
                    value = next(value for value in row.values.values() if not is_printable(value))
                    raise DatasetError(
                        f"{location}, line {row.line}: {value!r} contains characters that no file name or label may "
                        "have."
                    )
                yield row
    except (files.UnreadableFileError, UnicodeDecodeError, OSError) as error:
        raise DatasetError(f"{location} {_reason(location, error)}") from None


def _reason(location: str, error: Exception) -> str:
    """Returns why a file cannot be read."""
    if isinstance(error, UnicodeDecodeError):
        return _not_utf8(location)
    return f"cannot be read: {error.strerror}" if isinstance(error, OSError) else str(error)


def is_printable(text: str) -> bool:
    """Whether a text may be a file name or a label: without null characters and halves of surrogate pairs."""
    return _UNPRINTABLE.search(text) is None


def _not_utf8(location: str) -> str:
    """Returns where a file is not UTF-8, and how to save it so."""
    decoder, position = codecs.getincrementaldecoder("utf-8")(), 0
    with files.open_binary(location) as binary:
        first = binary.read(_BLOCK_BYTES)
        block = first
        try:
            while block:
                decoder.decode(block)
                position += len(block)
                block = binary.read(_BLOCK_BYTES)
            decoder.decode(b"", final=True)
        except UnicodeDecodeError as error:
            # The decoder has kept the beginning of a character that the block before ended with.
            position += len(block) - len(error.object) + error.start
    # The two that Windows programs write.
    is_utf16 = first[:2] in (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)
    kind = "JSON Lines" if location.endswith(".jsonl") else "CSV"
    encoding = "UTF-16" if is_utf16 else "WINDOWS-1252"
    return f"is not {kind} in UTF-8 (byte {position}). Save it in UTF-8, for example with iconv -f {encoding} -t UTF-8."


def _parse_csv(location: str, text: TextIO, columns: list[str], part: RowRange | None) -> Iterator[Row]:
    first, num_before = text.readline(), part.num_lines_before if part else 0
    lines: Iterator[str] = text
    if delimiter := given_delimiter(first):
        num_before += 1
    else:
        unquoted = re.sub(r'"[^"]*"', "", first)
        delimiter, lines = max(DELIMITERS, key=unquoted.count), itertools.chain([first], text)
    reader = csv.reader(lines, delimiter=delimiter, strict=part is not None)  # a part must not end in quotes
    try:
        names = [column.strip() for column in next(reader, [])]
        columns += names
        for fields in reader:
            values = [field.strip() for field in fields]
            if not any(values):
                continue
            line = reader.line_num + num_before
            if len(values) > len(names):
                raise DatasetError(
                    f"{location}, line {line}: {len(values)} fields, but {len(names)} columns. "
                    f'Put a value that contains a {_DELIMITER_NAMES[delimiter]} in quotes: "black{delimiter} white".'
                )
            # Missing fields at the end of a row are empty.
            yield Row(line, dict(zip(names, values + [""] * (len(names) - len(values)), strict=True)))
    except csv.Error as error:
        if part:
            raise IndivisibleTableError from None
        raise DatasetError(f"{location} cannot be read as CSV in UTF-8: {error}") from None


def _parse_jsonl(location: str, text: TextIO, columns: list[str], part: RowRange | None) -> Iterator[Row]:
    for number, line in enumerate(text, start=1 + (part.num_lines_before if part else 0)):
        if not line.strip():
            continue
        try:
            value = json.loads(line.removesuffix("\n"))  # an error at its end is not in the next line
        except (ValueError, RecursionError) as error:  # also numbers of very many digits
            raise DatasetError(f"{location}, line {number}: not JSON: {error}") from None
        if not isinstance(value, dict) or not all(_is_plain(key.strip(), field) for key, field in value.items()):
            raise DatasetError(f"{location}, line {number}: expected an object of plain values, or lists of texts.")
        texts = {key.strip(): _as_text(field) for key, field in value.items()}
        columns += [column for column in texts if column not in columns]
        yield Row(number, texts)


def _is_plain(key: str, field: object) -> bool:
    if isinstance(field, list):
        return key not in _SINGLE and all(isinstance(entry, str) and LIST_SEPARATOR not in entry for entry in field)
    return not isinstance(field, dict)


def _as_text(field: object) -> str:
    if isinstance(field, list):
        return LIST_SEPARATOR.join(entry.strip() for entry in field)
    return "" if field is None else field.strip() if isinstance(field, str) else json.dumps(field)
