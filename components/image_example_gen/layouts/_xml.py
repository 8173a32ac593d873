"""Reads XML of unknown origin: no entities, no external references."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterable, Iterator
from typing import Any, BinaryIO
from xml.etree.ElementTree import TreeBuilder

from components.image_example_gen.errors import UnusableImageError
from trainer_module.error_text import first_line

_DECLARATION = re.compile(rb"\s*<\?xml[^>]{0,99}?encoding\s*=\s*[\"']([\w.-]{1,40})[\"'][^>]{0,99}\?>")
_MULTIBYTE = re.compile(rb"gb|big5|cp9|euc|shift|sjis|iso-2022", re.IGNORECASE)
_HEAD_BYTES, _BLOCK_BYTES = 2**10, 2**16


def parse(encoded: bytes) -> Any:
    """Parses a document.

    Returns:
      Its root, an `xml.etree.ElementTree.Element`.

    Raises:
      UnusableImageError: If it is damaged, or declares entities.
    """
    from defusedxml import ElementTree

    with _reasons():
        return ElementTree.fromstring(_decoded(encoded))


class ChildrenOfRoot(Iterable[Any]):
    """The elements directly in the root of a document, each an `xml.etree.ElementTree.Element`.

    Attributes:
      root_tag: Name of the root; complete after the first iteration, as the file may be read once.
    """

    def __init__(self, file: BinaryIO) -> None:
        """Takes a file, of which one element and a block are in memory."""
        self.root_tag = ""
        self._file = file

    def __iter__(self) -> Iterator[Any]:
        """Yields the elements.

        Raises:
          UnusableImageError: If the document is damaged, or declares entities.
          OSError: If it cannot be read.
        """
        from defusedxml import ElementTree

        target = _ChildrenBuilder()
        parser = ElementTree.DefusedXMLParser(target=target)
        head = self._file.read(_HEAD_BYTES)
        with _reasons():
            block = _decoded(head + self._file.read()) if _unknown_encoding(head) else head
        while block:
            with _reasons():
                parser.feed(block)
            yield from target.take()
            block = self._file.read(_BLOCK_BYTES)
        with _reasons():
            parser.close()
        self.root_tag = target.root_tag
        yield from target.take()


class _ChildrenBuilder:
    """Builds the elements directly in the root, for a parser."""

    def __init__(self) -> None:
        self.root_tag, self._depth = "", 0
        self._builder, self._complete = TreeBuilder(), list[Any]()

    def take(self) -> list[Any]:
        """Returns the complete elements and removes them."""
        complete, self._complete = self._complete, []
        return complete

    def start(self, tag: str, attributes: dict[str, str]) -> None:
        self._depth += 1
        if self._depth == 1:
            self.root_tag = tag
        else:
            self._builder.start(tag, attributes)

    def data(self, text: str) -> None:
        if self._depth > 1:
            self._builder.data(text)

    def end(self, tag: str) -> None:
        self._depth -= 1
        if self._depth > 0:
            self._builder.end(tag)
        if self._depth == 1:
            self._complete.append(self._builder.close())
            self._builder = TreeBuilder()


@contextlib.contextmanager
def _reasons() -> Iterator[None]:
    """Gives a reason for every error of a parser."""
    import defusedxml

    try:
        yield
    except defusedxml.DefusedXmlException:
        raise UnusableImageError("it declares entities, which are not read") from None
    except Exception as error:  # expat's errors, unknown encodings, and whatever else damaged bytes cause
        raise UnusableImageError(f"not XML: {first_line(error)}") from None


def _decoded(encoded: bytes) -> bytes | str:
    """Decodes what expat does not."""
    declaration = _unknown_encoding(encoded)
    return encoded[declaration.end() :].decode(declaration[1].decode()) if declaration else encoded


def _unknown_encoding(encoded: bytes) -> re.Match[bytes] | None:
    """Returns the declaration of an encoding that expat does not decode; None if it does.

    It knows Unicode and encodings of one byte, but not GB2312 or Shift-JIS.
    """
    declaration = _DECLARATION.match(encoded)
    return declaration if declaration and _MULTIBYTE.match(declaration[1]) else None
