"""Cuts a large table into parts of whole rows, which can be read apart from each other."""

from __future__ import annotations

import codecs
import io
from typing import Any, BinaryIO, NamedTuple

from components.image_example_gen import files

_PART_BYTES = 8 * 2**20
# Line ends in quotes that are tried as the end of a part.
_MOST_TRIED = 1000
DELIMITERS = (",", ";", "\t")


class IndivisibleTableError(Exception):
    """The parts of a table must be listed together; users never see it."""


class RowRange(NamedTuple):
    """Consecutive rows of a table.

    Attributes:
      header_size: Size of the header at the beginning of the file, bytes; 0 if it has none.
      start: Position of the first row, bytes.
      end: Position behind the last row, bytes.
      num_lines_before: Number of lines that precede the first row, apart from the header.
      file_size: Size of the whole file, bytes.
    """

    header_size: int
    start: int
    end: int
    num_lines_before: int
    file_size: int


def first_rows(location: str) -> RowRange | None:
    """Returns rows that show the columns of a table: none of CSV, whose header names them.

    Args:
      location: CSV with a header, or JSON Lines if the name ends in `.jsonl`.

    Returns:
      None if the table is too small to be cut, or if the end of its header is not known.

    Raises:
      UnreadableFileError: If it cannot be read.
    """
    with files.open_binary(location) as file:
        block = file.read(_PART_BYTES)
        size = file.seek(0, io.SEEK_END)
    header_size = _header_size(block, location)
    if size == len(block) or header_size is None:
        return None
    return RowRange(header_size, header_size, header_size if header_size else block.rfind(b"\n") + 1, 0, size)


def divide(location: str) -> list[RowRange]:
    """Cuts a table into parts of whole rows.

    Rows of CSV end at line ends outside of quotes. A quote within a value without quotes is ordinary, but counts here
    too: `tables.read` notices a part that ends in quotes.

    Args:
      location: As in `first_rows`.

    Returns:
      In their order, of about equal size; empty if the table has no row, or if the end of its header is not known.

    Raises:
      UnreadableFileError: If it cannot be read.
    """
    is_csv, cuts = not location.endswith(".jsonl"), list[tuple[int, int]]()
    count_lines = _num_csv_lines if is_csv else _num_lines
    position, num_quotes, num_lines, previous, header_size = 0, 0, 0, b"", 0
    with files.open_binary(location) as file:
        while block := file.read(_PART_BYTES):
            if not position:
                known_size = _header_size(block, location)
                if known_size is None:
                    return []
                end = header_size = known_size
            else:
                end = _row_end(block, is_quoted=is_csv and num_quotes % 2 == 1, has_quotes=is_csv)
            if end or not position:
                cuts.append((position + end, num_lines + count_lines(block[:end], previous)))
            position += len(block)
            num_lines += count_lines(block, previous)
            num_quotes += block.count(b'"')
            previous = block[-1:]
    cuts = [cut for cut in cuts if cut[0] < position]
    ends = [*(start for start, _ in cuts[1:]), position][: len(cuts)]
    return [
        RowRange(header_size, start, end, lines - cuts[0][1], position)
        for (start, lines), end in zip(cuts, ends, strict=True)
    ]


def open_part(location: str, part: RowRange) -> BinaryIO:
    """Opens the header and the rows of a part as one file.

    Raises:
      UnreadableFileError: With the system's reason, also if the file has changed; for a remote file also when it is
        read.
    """
    file = files.open_binary(location)
    if file.seek(0, io.SEEK_END) != part.file_size:
        file.close()
        raise files.UnreadableFileError("has changed while it was read. Run the command again.")
    file.seek(0)
    return io.BufferedReader(_PartOfFile(file, part))


def given_delimiter(line: str) -> str:
    """Returns the delimiter in a first line `sep=;`, which Excel writes; empty if it is another line."""
    line = line.strip()
    return line[4:] if line[:4].lower() == "sep=" and line[4:] in DELIMITERS else ""


class _PartOfFile(io.RawIOBase):
    def __init__(self, file: BinaryIO, part: RowRange) -> None:
        self._file, self._ranges = file, [(0, part.header_size), (part.start, part.end)]

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        while self._ranges:
            remaining = self._ranges[0][1] - self._file.tell()
            if content := self._file.read(min(len(buffer), remaining)) if remaining > 0 else b"":
                buffer[: len(content)] = content
                return len(content)
            del self._ranges[0]
            if self._ranges:
                self._file.seek(self._ranges[0][0])
        return 0

    def close(self) -> None:
        self._file.close()
        super().close()


def _num_lines(content: bytes, previous: bytes) -> int:
    """Counts line ends."""
    return content.count(b"\n")


def _num_csv_lines(content: bytes, previous: bytes) -> int:
    """Counts line ends as Python's text files do: also single carriage returns, but those of Windows once."""
    num_returns = content.count(b"\r")
    pairs = content.count(b"\r\n") if num_returns else 0  # takes longer than both others
    pairs += previous == b"\r" and content.startswith(b"\n")
    return content.count(b"\n") + num_returns - pairs


def _header_size(block: bytes, location: str) -> int | None:
    """Returns the size of the header of CSV, with a line for the delimiter; None if its end is not known."""
    if location.endswith(".jsonl"):
        return 0
    line_end = block.find(b"\n") + 1
    first = block[:line_end].removeprefix(codecs.BOM_UTF8).decode(errors="replace")
    start = line_end if given_delimiter(first) else 0
    end = _row_end(block[start:], is_quoted=False, has_quotes=True)
    header = block[: start + end]
    return start + end if end and header.count(b"\r") == header.count(b"\r\n") else None


def _row_end(block: bytes, *, is_quoted: bool, has_quotes: bool) -> int:
    """Returns the position behind the first line end outside of quotes; 0 if it is not known."""
    position = 0
    for _ in range(_MOST_TRIED):
        end = block.find(b"\n", position) + 1
        if not end:
            return 0
        is_quoted ^= has_quotes and block.count(b'"', position, end) % 2 == 1
        if not is_quoted:
            return end
        position = end
    return 0
