"""Access to nested tables by dotted names: `training.epochs`."""

from __future__ import annotations

from typing import Any

from pipeline.config.messages import ConfigError

Table = dict[str, Any]


def get(table: Table, name: str) -> Any:
    """Returns the value of a dotted name, or None if it is not set."""
    value: Any = table
    for part in name.split("."):
        value = value.get(part) if isinstance(value, dict) else None
    return value


def section(table: Table, name: str) -> Table:
    """Returns the table of a dotted name; creates it if it is missing.

    Raises:
      ConfigError: If a part of the name has a value that is not a table.
    """
    for part in name.split(".") if name else []:
        table = table.setdefault(part, {})
        if not isinstance(table, dict):
            raise ConfigError(f"`{part}` must be a section, not a value.")
    return table


def put(table: Table, name: str, value: Any) -> None:
    """Sets the value of a dotted name."""
    head, _, key = name.rpartition(".")
    section(table, head)[key] = value


def remove(table: Table, name: str) -> None:
    """Removes a dotted name that is set, and its section if that is empty then."""
    head, _, key = name.rpartition(".")
    container = section(table, head)
    del container[key]
    if head and not container:
        remove(table, head)
