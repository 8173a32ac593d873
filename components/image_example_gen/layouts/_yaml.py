"""Reads YAML of unknown origin: plain values, no aliases, within limits."""

from __future__ import annotations

from typing import Any

from components.image_example_gen.errors import DatasetError
from trainer_module.error_text import first_line

_MOST_BYTES = 2**18


def parse(encoded: bytes, location: str) -> Any:
    """Parses a document.

    Raises:
      DatasetError: If it is larger than 256 KB, is not YAML, has aliases (a few of them can stand for gigabytes), or is
        nested too deeply.
    """
    import yaml

    class PlainLoader(yaml.SafeLoader):
        def compose_node(self, parent: Any, index: Any) -> Any:
            if self.check_event(yaml.AliasEvent):
                raise yaml.YAMLError("aliases are not read")
            return super().compose_node(parent, index)

    if len(encoded) > _MOST_BYTES:
        raise DatasetError(f"{location} is larger than 256 KB.")
    try:
        return yaml.load(encoded.decode("utf-8-sig"), PlainLoader)
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        raise DatasetError(f"{location} cannot be read as YAML: {first_line(error)}") from None
