"""Tables as plain values: the text of every cell, and the value that its column is sorted by."""

from __future__ import annotations

import math
from dataclasses import dataclass, field

MAX_CLASSES = 300
# As wide as a digit, and screen readers name them.
NO_VALUE, MINUS = "\N{EN DASH}", "\N{MINUS SIGN}"


@dataclass(frozen=True)
class Cell:
    """One cell.

    Attributes:
      text: The content.
      sort: The value by which the column is sorted; None for the text.
      note: Shown smaller below the text, such as an interval.
      tone: `good`, `bad` or `soft`; only repeats what the text says.
      title: Tooltip of the text.
    """

    text: str
    sort: float | None = None
    note: str = ""
    tone: str = ""
    title: str = ""


UNDEFINED = Cell(NO_VALUE, math.nan, tone="soft")


@dataclass(frozen=True)
class Column:
    """One column.

    Attributes:
      name: Its header.
      numeric: Whether it is right-aligned and sorted by number.
      title: Tooltip of the header.
    """

    name: str
    numeric: bool = False
    title: str = ""


@dataclass(frozen=True)
class Table:
    """A table; the first cell of every row is its header.

    Attributes:
      caption: The content and its order.
      columns: From left to right.
      rows: In their initial order.
      pinned: Rows that stay on top in every order.
      sorted_by: Column by which the rows are sorted initially, or None.
      descending: Direction of that order.
    """

    caption: str
    columns: list[Column]
    rows: list[list[Cell]]
    pinned: list[list[Cell]] = field(default_factory=list)
    sorted_by: int | None = None
    descending: bool = False


def at_most(rows: list[list[Cell]], limit: int, caption: str, file: str = "") -> tuple[list[list[Cell]], str]:
    """Cuts a long table, and mentions it in the caption.

    Args:
      rows: All rows, in order.
      limit: Number of rows to show.
      caption: The caption of all rows.
      file: The file that contains all of them.
    """
    if len(rows) <= limit:
        return rows, caption
    return rows[:limit], f"{caption}; the first {limit:,} of {len(rows):,}" + (f" (all: {file})" if file else "")


def number(value: float, format_: str = ".4f", *, note: str = "") -> Cell:
    """Formats a value, with four decimals unless another format is given; NaN is sorted last."""
    return Cell(NO_VALUE, math.nan, note, "soft") if math.isnan(value) else Cell(f"{value:{format_}}", value, note)


def count(value: float) -> Cell:
    """Formats a whole number with separators."""
    return UNDEFINED if math.isnan(value) else Cell(f"{round(value):,}", value)


def interval(bounds: tuple[float, float] | None) -> str:
    """Formats a confidence interval; empty if it is undefined."""
    if bounds is None or any(math.isnan(bound) for bound in bounds):
        return ""
    return f"{bounds[0]:.3f} to {bounds[1]:.3f}".replace("-", MINUS)


def signed(difference: float) -> str:
    """Formats a difference with its sign."""
    if math.isnan(difference):
        return NO_VALUE
    text = f"{difference:+.4f}"
    return "±0.0000" if float(text) == 0.0 else text.replace("-", MINUS)
