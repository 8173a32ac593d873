"""JSON files that list a dataset: which program wrote them, from their first bytes, and their content within limits."""

from __future__ import annotations

import functools
import json
import re
from collections.abc import Callable, Iterable, Iterator
from typing import Any, BinaryIO, NamedTuple

import orjson

from components.image_example_gen import files
from components.image_example_gen.errors import DatasetError
from components.image_example_gen.layouts._boxes import names_below
from components.image_example_gen.layouts._folder import Folder
from trainer_module.error_text import first_line
from trainer_module.locations import join

COCO, LABEL_STUDIO = "COCO", "Label Studio"
ANNOTATION_FOLDERS = ("annotations", "annotation", "labels")

# Lists of a larger file are read in parts. ijson 3.6 is as fast, but would read other values: it refuses NaN and large
# numbers, and changes halves of surrogate pairs.
_MOST_BYTES_IN_MEMORY = 2**24
_MOST_BYTES = 2**30  # in memory, of a file that cannot be read in parts
_BLOCK_BYTES = 2**20
_MOST_DEPTH = 12  # of elements; Label Studio's have 8 levels
_HEAD_BYTES = 2**16
_MARK = b"\xef\xbb\xbf"
# Where values end; whether they are JSON is not checked here. Possessive quantifiers need no memory.
_TEXT = rb'[^"\[\]{}]++|"(?:[^"\\]++|\\.)*+"'
_INSIDE = functools.reduce(
    lambda inside, _: rb"(?:%b|[\[{]%b[\]}])*+" % (_TEXT, inside), range(_MOST_DEPTH), rb"(?:%b)*+" % _TEXT
)
_OBJECTS = re.compile(rb'(?:[^"\[\]{}]*+[\[{]%b[\]}])*+' % _INSIDE, re.DOTALL)
_LIST_END = re.compile(rb"(?:%b)*+\]" % _TEXT, re.DOTALL)
_OBJECT_START = re.compile(rb"\s*\{?")
_OUTSIDE = re.compile(rb"(?:%b|\{%b\})*+" % (_TEXT, _INSIDE), re.DOTALL)
_COCO_KEYS = rb"images|annotations|categories|info|licenses|videos|type"
_COCO_START = re.compile(rb'\{\s*"(' + _COCO_KEYS + rb')"\s*:')
_COCO_LISTS = re.compile(rb'"(images|annotations|categories)"\s*:\s*\[')
_CREATEML = re.compile(rb'"coordinates"\s*:\s*\{')
_OTHER_FILES = ("notes.json",)  # Label Studio writes it beside YOLO labels


def find(folder: Folder, kind: str) -> list[str]:
    """Finds the JSON files of a program in the data folder and in folders of annotations or splits, by their heads."""
    return [path for path in candidates(folder) if kind_of(_head(folder.root, path)) == kind]


def candidates(folder: Folder) -> list[str]:
    """Returns the JSON files in the data folder and in folders of annotations or splits."""
    return sorted(
        path
        for path in names_below(folder, ANNOTATION_FOLDERS)
        if path.lower().endswith(".json") and path.rpartition("/")[2] not in _OTHER_FILES
    )


def _head(root: str, path: str) -> bytes:
    try:
        return files.read(root, path, _HEAD_BYTES)
    except files.UnreadableFileError:
        return b""


def kind_of(head: bytes) -> str:
    """Returns the program that wrote a file, from its first bytes; empty if it is none of those that are read."""
    start = head.removeprefix(b"\xef\xbb\xbf").lstrip()
    if _COCO_START.match(start) or (start.startswith(b"{") and len(set(_COCO_LISTS.findall(start))) > 1):
        return COCO
    if not re.match(rb"\[\s*\{", start) or _CREATEML.search(start):
        return ""
    return LABEL_STUDIO if re.search(rb'"(annotations|completions|annotator|data|rectanglelabels)"\s*:', start) else ""


def read(root: str, path: str) -> Any:
    """Reads a file.

    Returns:
      Its value. If it is large, a list that is the value itself, or directly in its object, is a `LargeList`.

    Raises:
      DatasetError: If it cannot be read, is not JSON, or is nested too deeply.
    """
    location, shown = join(root, path), join(root, files.readable(path))
    (file,) = files.describe(root, [path])
    if file.problem:
        raise DatasetError(f"{shown}: {file.problem}.")
    reason = ""
    for loads in (orjson.loads, _python_loads) if file.size > _MOST_BYTES_IN_MEMORY else ():
        try:
            return _read_parts(location, shown, loads)
        except (files.UnreadableFileError, OSError) as error:
            raise DatasetError(f"{shown} {_reason(error)}") from None
        except ValueError as error:
            reason = first_line(error)
    if file.size > _MOST_BYTES:
        raise DatasetError(f"{shown} is not JSON: {reason}")
    try:
        content = files.read(root, path).removeprefix(_MARK)
    except files.UnreadableFileError as error:
        raise DatasetError(f"{shown} {error}") from None
    try:
        return orjson.loads(content)
    except orjson.JSONDecodeError as error:
        try:
            return json.loads(content)  # Python programs write NaN, which is not JSON
        except (ValueError, RecursionError):
            raise DatasetError(f"{shown} is not JSON: {first_line(error)}") from None


def is_list(value: Any) -> bool:
    """Whether a value of a file is a list."""
    return isinstance(value, list | LargeList)


# === Large files ===


class _Part(NamedTuple):
    """Elements of a list that follow each other.

    Attributes:
      offset: Of the first byte after the elements before, from the beginning of the file.
      num_bytes: Including the comma before the first element.
      num_elements: At least one.
    """

    offset: int
    num_bytes: int
    num_elements: int


class LargeList(Iterable[Any]):
    """A list of a large file, which has been read once without an error; every iteration reads its elements again."""

    def __init__(self, location: str, shown: str, loads: Callable[[bytes], Any]) -> None:
        """Creates a list without elements.

        Args:
          location: Of the file.
          shown: The same in messages.
          loads: Reads JSON.
        """
        self._location, self._shown, self._loads = location, shown, loads
        self._parts: list[_Part] = []

    def add(self, offset: int, part: bytes) -> None:
        """Adds the elements in a part of the file.

        Raises:
          ValueError: If they are not JSON.
        """
        try:
            elements = self._elements(part, is_first=not self._parts)
        except ValueError as error:
            raise ValueError(f"a list is damaged after byte {offset:,}") from error
        if elements:
            self._parts.append(_Part(offset, len(part), len(elements)))

    def _elements(self, part: bytes, is_first: bool) -> list[Any]:
        text = part.strip(b" \t\n\r")
        if not text:
            return []
        if not is_first and not text.startswith(b","):
            raise ValueError("a comma between two elements is missing")
        elements: list[Any] = self._loads(b"[%b]" % (text if is_first else text[1:]))
        if not elements:
            raise ValueError("an element after a comma is missing")
        return elements

    def __iter__(self) -> Iterator[Any]:
        try:
            with files.open_binary(self._location) as file:
                for part in self._parts:
                    file.seek(part.offset)
                    elements = self._elements(file.read(part.num_bytes), is_first=part is self._parts[0])
                    if len(elements) != part.num_elements:
                        raise ValueError("another number of elements")
                    yield from elements
        except (files.UnreadableFileError, OSError) as error:
            raise DatasetError(f"{self._shown} {_reason(error)}") from None
        except ValueError:
            raise DatasetError(f"{self._shown} has changed while it was read. Run the command again.") from None


class _Unread:
    """The rest of a file, whose beginning is in memory.

    Attributes:
      text: The beginning.
      offset: Number of bytes before it.
    """

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self.text, self.offset = b"", 0

    def read(self) -> bool:
        """Reads further bytes, as many as there are in memory; returns whether there are any."""
        if len(self.text) > _MOST_BYTES:
            raise ValueError("a value does not end")
        more = self._file.read(max(_BLOCK_BYTES, len(self.text)))
        self.text += more
        return bool(more)

    def take(self, num_bytes: int) -> bytes:
        """Returns the first bytes, at most so many, and removes them."""
        taken, self.text = self.text[:num_bytes], self.text[num_bytes:]
        self.offset += len(taken)
        return taken


def _read_parts(location: str, shown: str, loads: Callable[[bytes], Any]) -> Any:
    """Reads the value of a large file, as `read`: checks all of it, and keeps what is outside of the lists.

    Raises:
      ValueError: If it is not JSON, or is nested so deeply that it has to be read as a whole.
    """
    lists: list[LargeList] = []
    with files.open_binary(location) as file:
        unread = _Unread(file)
        while not unread.text.removeprefix(_MARK).strip() and unread.read():
            pass
        if unread.text.startswith(_MARK):
            unread.take(len(_MARK))
        outside = unread.take(_OBJECT_START.match(unread.text).end())  # type: ignore[union-attr]
        while unread.text or unread.read():
            end = _OUTSIDE.match(unread.text).end()  # type: ignore[union-attr]
            if unread.text[end : end + 1] in (b"{", b'"'):
                if not unread.read():
                    raise ValueError("an object or a text does not end")
                continue
            outside += unread.take(end + 1)
            if outside.endswith(b"["):
                outside += b"%d" % len(lists)  # the list itself is read from the file
                lists.append(_read_list(unread, LargeList(location, shown, loads)))
    value = loads(outside)
    if isinstance(value, dict):
        return {key: lists[each[0]] if isinstance(each, list) else each for key, each in value.items()}
    return lists[value[0]] if isinstance(value, list) else value


def _read_list(unread: _Unread, elements: LargeList) -> LargeList:
    """Reads a list up to the bracket that ends it."""
    while True:
        end = _OBJECTS.match(unread.text).end()  # type: ignore[union-attr]
        if last := _LIST_END.match(unread.text, end):
            end = last.end() - 1
        if end:
            elements.add(unread.offset, unread.take(end))
        if last:
            return elements
        if not end and not unread.read():
            raise ValueError("a list does not end")


def _python_loads(text: bytes) -> Any:
    return json.loads(text.decode("utf-8", "surrogatepass"))  # as `json` decodes bytes


def _reason(error: Exception) -> str:
    return f"cannot be read: {error.strerror}" if isinstance(error, OSError) else str(error)
