"""Spans: deliveries of data that arrive one after another, each in a folder with its number or date.

The placeholders are those of TFX's ExampleGen: `{SPAN}`, `{VERSION}` (both with an optional width, `{SPAN:3}`) and
`{YYYY}`, `{MM}`, `{DD}`, whose span number is the number of days since 1970-01-01.
"""

from __future__ import annotations

import datetime
import re
from typing import NamedTuple

from components.image_example_gen import files

_PLACEHOLDER = re.compile(r"\{(SPAN|VERSION|YYYY|MM|DD)(?::(\d+))?\}")
_DATE_WIDTH = {"YYYY": 4, "MM": 2, "DD": 2}


class SpanError(Exception):
    """The spans that were asked for cannot be found; the message says what to change."""


class Span(NamedTuple):
    """One delivery.

    Attributes:
      number: Of the span.
      version: Of the span; 0 where there are none.
      path: The folder, relative to the pattern's root.
    """

    number: int
    version: int
    path: str


def has_spans(location: str) -> bool:
    """Whether a path names spans."""
    return _PLACEHOLDER.search(location) is not None


def root_of(pattern: str) -> str:
    """The folder above the first placeholder: `/data/day-{SPAN}/x` → `/data`."""
    return pattern[: _PLACEHOLDER.search(pattern).start()].rpartition("/")[0]  # type: ignore[union-attr]


def resolve(pattern: str, which: str) -> list[Span]:
    """Finds the spans, each in its newest version.

    Args:
      pattern: Path with placeholders.
      which: `newest`, `newest:3`, `7` or `3-7`.

    Returns:
      In ascending order, at least one.

    Raises:
      SpanError: If there is none, or if two folders are the same version of the same span.
    """
    root = root_of(pattern)
    if not files.is_folder(root):
        raise SpanError(f"The folder {root} of data.path = {pattern} does not exist.")
    names = {name for name, _ in _PLACEHOLDER.findall(pattern)}
    if "SPAN" not in names and not names >= set(_DATE_WIDTH):
        raise SpanError(f"data.path = {pattern} needs {{SPAN}}, or {{YYYY}}, {{MM}} and {{DD}}.")
    newest: dict[int, Span] = {}
    for span in _matches(root, pattern[len(root) :].strip("/").split("/")):
        rival = newest.get(span.number)
        if rival and rival.version == span.version:
            raise SpanError(
                f"{root}: {rival.path} and {span.path} are both span {span.number}, version {span.version}. Rename one."
            )
        if rival is None or span.version > rival.version:
            newest[span.number] = span
    if not newest:
        raise SpanError(f"No folder matches data.path = {pattern}.")
    found = [newest[number] for number in sorted(newest)]
    chosen = _choose(found, which)
    if not chosen:
        numbers = ", ".join(str(span.number) for span in found[-10:])
        raise SpanError(f"data.spans = {which}: there is no such span. The newest in {root}: {numbers}.")
    return chosen


def _choose(found: list[Span], which: str) -> list[Span]:
    if which.startswith("newest"):
        return found[-int(which.partition(":")[2] or 1) :]
    first, _, last = which.partition("-")
    return [span for span in found if int(first) <= span.number <= int(last or first)]


def _matches(root: str, levels: list[str]) -> list[Span]:
    """Goes down level by level; every folder that fits carries the values found so far."""
    reached: list[tuple[str, dict[str, str]]] = [("", {})]
    for level in levels:
        expression = re.compile(_expression(level))
        deeper = []
        for folder, values in reached:
            for found in files.listing(root, folder):
                match = expression.fullmatch(found.path.rpartition("/")[2])
                if match and found.problem:
                    raise SpanError(f"{files.readable(found.path)} in {root}: {found.problem}.")
                if found.is_folder and match:
                    named = match.groupdict()
                    if all(values.get(name, value) == value for name, value in named.items()):
                        deeper.append((found.path, values | named))
        reached = deeper
    spans = []
    for path, values in reached:
        number = _number(values)
        if number is not None:
            spans.append(Span(number, int(values.get("VERSION", 0)), path))
    return spans


def _expression(level: str) -> str:
    expression, position, seen = "", 0, set()
    for match in _PLACEHOLDER.finditer(level):
        name, width = match.groups()
        expression += re.escape(level[position : match.start()])
        digits = rf"\d{{{width or _DATE_WIDTH.get(name)}}}" if width or name in _DATE_WIDTH else r"\d+"
        expression += f"(?P={name})" if name in seen else f"(?P<{name}>{digits})"
        seen.add(name)
        position = match.end()
    return expression + re.escape(level[position:])


def _number(values: dict[str, str]) -> int | None:
    if "SPAN" in values:
        return int(values["SPAN"])
    try:
        date = datetime.date(int(values["YYYY"]), int(values["MM"]), int(values["DD"]))
    except ValueError:  # a folder like 2026-13-45
        return None
    return (date - datetime.date(1970, 1, 1)).days
