"""Reads XML of unknown origin: no entities, no external references."""

from __future__ import annotations

import re
from typing import Any

from components.image_example_gen.errors import UnusableImageError
from trainer_module.error_text import first_line

_DECLARATION = re.compile(rb"\s*<\?xml[^>]{0,99}?encoding\s*=\s*[\"']([\w.-]{1,40})[\"'][^>]{0,99}\?>")


def parse(encoded: bytes) -> Any:
    """Parses a document.

    Returns:
      Its root, an `xml.etree.ElementTree.Element`.

    Raises:
      UnusableImageError: If it is damaged, or declares entities.
    """
    import defusedxml
    from defusedxml import ElementTree

    try:
        return ElementTree.fromstring(_decoded(encoded))
    except defusedxml.DefusedXmlException:
        raise UnusableImageError("it declares entities, which are not read") from None
    except Exception as error:  # expat's errors, unknown encodings, and whatever else damaged bytes cause
        raise UnusableImageError(f"not XML: {first_line(error)}") from None


def _decoded(encoded: bytes) -> bytes | str:
    """Decodes what expat does not: it knows Unicode and encodings of one byte, but not GB2312 or Shift-JIS."""
    declaration = _DECLARATION.match(encoded)
    if declaration is None or not re.match(rb"gb|big5|cp9|euc|shift|sjis|iso-2022", declaration[1], re.IGNORECASE):
        return encoded
    return encoded[declaration.end() :].decode(declaration[1].decode())
