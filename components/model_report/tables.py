"""Tables as plain values: what stands in a cell, and what its column is sorted by."""

from __future__ import annotations

import math
from dataclasses import dataclass, field

MOST_CLASSES = 300
# As wide as a digit, and read out as what they are.
NO_VALUE, MINUS = "\N{EN DASH}", "\N{MINUS SIGN}"


@dataclass(frozen=True)
class Cell:
    """One cell.

    Attributes:
      text: What is shown.
      sort: What the column is sorted by; the text where it is None.
      note: Shown smaller below, such as an interval.
      tone: `good`, `bad` or `soft`; says nothing that the text does not say too.
    """

    text: str
    sort: float | None = None
    note: str = ""
    tone: str = ""


@dataclass(frozen=True)
class Column:
    """One column.

    Attributes:
      name: Its header.
      numeric: Whether it is set to the right and sorted by number.
    """

    name: str
    numeric: bool = False


@dataclass(frozen=True)
class Table:
    """A table; the first cell of every row is its header.

    Attributes:
      caption: What it shows, and in which order.
      columns: From left to right.
      rows: In the order in which they are shown at first.
      pinned: Rows that stay on top however the others are sorted.
      sorted_by: Column by which the rows are sorted at first, or None.
      descending: In which direction.
    """

    caption: str
    columns: list[Column]
    rows: list[list[Cell]]
    pinned: list[list[Cell]] = field(default_factory=list)
    sorted_by: int | None = None
    descending: bool = False


def at_most(rows: list[list[Cell]], most: int, caption: str, rest: str = "") -> tuple[list[list[Cell]], str]:
    """The first rows of many, and a caption that says so: a page of thousands would not be read by anybody.

    Args:
      rows: All of them, in order.
      most: As many are shown.
      caption: What they are.
      rest: The file that has all.
    """
    if len(rows) <= most:
        return rows, caption
    return rows[:most], f"{caption}; the first {most:,} of {len(rows):,}" + (f" ({rest} has all)" if rest else "")


def number(value: float, *, note: str = "", tone: str = "") -> Cell:
    """A figure with four digits behind the point; one that does not exist sorts as NaN, that is last."""
    if math.isnan(value):
        return Cell(NO_VALUE, math.nan, note, "soft")
    return Cell(f"{value:.4f}", value, note, tone)


def count(value: float) -> Cell:
    """A whole number with separators."""
    return Cell(NO_VALUE, math.nan, tone="soft") if math.isnan(value) else Cell(f"{round(value):,}", value)


def interval(bounds: tuple[float, float] | None) -> str:
    """A confidence interval in words, or nothing."""
    if bounds is None or any(math.isnan(bound) for bound in bounds):
        return ""
    return f"{bounds[0]:.3f} to {bounds[1]:.3f}".replace("-", MINUS)


def signed(difference: float) -> str:
    """A difference of figures, with its sign."""
    if math.isnan(difference):
        return NO_VALUE
    text = f"{difference:+.4f}"
    return "±0.0000" if float(text) == 0.0 else text.replace("-", MINUS)
