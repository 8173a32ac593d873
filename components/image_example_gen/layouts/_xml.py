"""Reads XML of unknown origin: no entities, no external references."""

from __future__ import annotations

from typing import Any

from components.image_example_gen.errors import UnusableImageError
from trainer_module.error_text import first_line


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
        return ElementTree.fromstring(encoded)
    except defusedxml.DefusedXmlException:
        raise UnusableImageError("it declares entities, which are not read") from None
    except Exception as error:  # expat's errors, unknown encodings, and whatever else damaged bytes cause
        raise UnusableImageError(f"not XML: {first_line(error)}") from None
