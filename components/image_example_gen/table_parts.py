"""Cuts a large table into parts of whole rows, which can be read apart from each other."""

from __future__ import annotations

import codecs
import io
from typing import Any, BinaryIO, NamedTuple

from components.image_example_gen import files

_PART_BYTES = 8 * 2**20
# Line ends in quotes that are tried as the end of a part.
_MOST_TRIED = 1000
_SEPARATOR_LINES = (b"sep=,", b"sep=;")  # which Excel writes


class IndivisibleTableError(Exception):
    """The parts of a table must be listed together; users never see it."""


class Part(NamedTuple):
    """Consecutive rows of a table.

    Attributes:
      header_size: Size of the header at the beginning of the file, bytes; 0 if it has none.
      start: Position of the first row, bytes.
      end: Position behind the last row, bytes.
      num_lines_before: Number of lines that precede the first row and that a reader of the part does not see.
    """

    header_size: int
    start: int
    end: int
    num_lines_before: int


def divide(location: str) -> list[Part]:
    """Cuts a table into parts; a small one is a single part. None if its lines end in another way.

    Rows of CSV end at line ends outside of quotes. A quote within a value without quotes is ordinary, but counts here
    too: `tables.read` notices a part that ends in quotes.

    Args:
      location: CSV with a header, or JSON Lines if the name ends in `.jsonl`.

    Raises:
      UnreadableFileError: If it cannot be read.
    """
    is_csv, cuts = not location.endswith(".jsonl"), list[tuple[int, int]]()
    count_lines = _num_csv_lines if is_csv else _num_lines
    position, num_quotes, num_lines, previous, header_size = 0, 0, 0, b"", 0
    with files.open_binary(location) as file:
        while block := file.read(_PART_BYTES):
            if not position:
                header_size = _header_end(block) if is_csv else 0
                if header_size < 0:
                    return []
                end = header_size
            else:
                end = _row_end(block, is_quoted=is_csv and num_quotes % 2 == 1, has_quotes=is_csv)
            if end or not position:
                cuts.append((position + end, num_lines + count_lines(block[:end], previous)))
            position += len(block)
            num_lines += count_lines(block, previous)
            num_quotes += block.count(b'"')
            previous = block[-1:]
    ends = [*(start for start, _ in cuts[1:]), position] if cuts else []
    return [Part(header_size, start, end, lines - cuts[0][1]) for (start, lines), end in zip(cuts, ends, strict=True)]


def open_part(location: str, part: Part) -> BinaryIO:
    """Opens the header and the rows of a part as one file.

    Raises:
      UnreadableFileError: With the system's reason; for a remote file also when it is read.
    """
    return io.BufferedReader(_PartOfFile(files.open_binary(location), part))


class _PartOfFile(io.RawIOBase):
    def __init__(self, file: BinaryIO, part: Part) -> None:
        self._file, self._ranges = file, [(0, part.header_size), (part.start, part.end)]
        self._file.seek(0)

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
    pairs = content.count(b"\r\n") + (previous == b"\r" and content.startswith(b"\n"))
    return content.count(b"\n") + content.count(b"\r") - pairs


def _header_end(block: bytes) -> int:
    """Returns the position behind the header of CSV, and of a line with the delimiter; -1 if it is not known."""
    line_end = block.find(b"\n") + 1
    first = block[:line_end].removeprefix(codecs.BOM_UTF8).strip().lower()
    start = line_end if first in _SEPARATOR_LINES else 0
    end = _row_end(block[start:], is_quoted=False, has_quotes=True)
    header = block[: start + end]
    return start + end if end and header.count(b"\r") == header.count(b"\r\n") else -1


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
