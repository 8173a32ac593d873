"""Spans: parts of a dataset that arrive one after another, each in a folder with its number or date.

The placeholders are those of TFX's ExampleGen: `{SPAN}`, `{VERSION}` (both with an optional width, `{SPAN:3}`) and
`{YYYY}`, `{MM}`, `{DD}`, whose span number is the number of days since 1970-01-01.
"""

from __future__ import annotations

import datetime
import re
from typing import NamedTuple

from components.image_example_gen import files
from components.image_example_gen.errors import DatasetError

_PLACEHOLDER = re.compile(r"\{(SPAN|VERSION|YYYY|MM|DD)(?::(\d+))?\}")
_DATE_WIDTH = {"YYYY": 4, "MM": 2, "DD": 2}


class Span(NamedTuple):
    """One part of the dataset.

    Attributes:
      number: Number of the span.
      version: Version of the span; 0 without versions.
      path: The folder, relative to the root of the pattern.
    """

    number: int
    version: int
    path: str


def has_spans(location: str) -> bool:
    """Whether a path contains placeholders."""
    return _PLACEHOLDER.search(location) is not None


def root_of(pattern: str) -> str:
    """Returns the folder above the first placeholder: `/data/day-{SPAN}/x` → `/data`."""
    match = _PLACEHOLDER.search(pattern)
    return pattern[: match.start() if match else None].rpartition("/")[0]


def resolve(pattern: str, selection: str) -> list[Span]:
    """Finds the spans, each in its newest version.

    Args:
      pattern: Path with placeholders.
      selection: `all`, `newest`, `newest:3`, `7` or `3-7`.

    Returns:
      In ascending order, at least one.

    Raises:
      DatasetError: If no span matches, or if two folders are the same version of the same span.
    """
    root = root_of(pattern)
    newest: dict[int, Span] = {}
    for span in _find(pattern):
        rival = newest.get(span.number)
        if rival and rival.version == span.version:
            raise DatasetError(
                f"{root}: {rival.path} and {span.path} are both span {span.number}, version {span.version}. Rename one."
            )
        if rival is None or span.version > rival.version:
            newest[span.number] = span
    if not newest:
        raise DatasetError(f"data.path = {pattern}: no folder matches.")
    spans = [newest[number] for number in sorted(newest)]
    selected = _select(spans, selection)
    if not selected:
        numbers = ", ".join(str(span.number) for span in spans[-10:])
        raise DatasetError(f"data.spans = {selection}: no such span. The newest spans in {root} are {numbers}.")
    return selected


def next_span(pattern: str, today: datetime.date) -> Span:
    """Returns the span that follows the newest one; its folder does not exist yet.

    Args:
      pattern: Path with placeholders.
      today: Of the next span, if the pattern has a date.

    Raises:
      DatasetError: If the folder of the pattern does not exist, if its numbers have too few digits for another span, or
        if spans are dates and today has one.
    """
    existing = {span.number for span in _find(pattern)}
    has_numbers = "{SPAN" in pattern
    number = max(existing, default=0) + 1 if has_numbers else _day(today)
    if number in existing:
        raise DatasetError(f"data.path = {pattern}: there is a span of {today} already. Write the next one tomorrow.")
    values = {"SPAN": number, "VERSION": 1, "YYYY": today.year, "MM": today.month, "DD": today.day}

    def text(match: re.Match[str]) -> str:
        name, width = match.group(1), int(match.group(2) or _DATE_WIDTH.get(match.group(1), 1))
        shown = f"{values[name]:0{width}d}"
        if match.group(2) and len(shown) > width:
            raise DatasetError(
                f"data.path = {pattern}: span {shown} has more than {width} digits. Rename the folders, and use "
                f"{{{name}:{len(shown)}}}."
            )
        return shown

    path = _PLACEHOLDER.sub(text, pattern[len(root_of(pattern)) :]).strip("/")
    return Span(number, values["VERSION"] if "{VERSION" in pattern else 0, path)


def _find(pattern: str) -> list[Span]:
    """Finds all versions of all spans."""
    root = root_of(pattern)
    if not files.is_folder(root):
        raise DatasetError(f"data.path = {pattern}: the folder {root} does not exist.")
    names = {name for name, _ in _PLACEHOLDER.findall(pattern)}
    if "SPAN" not in names and not names >= set(_DATE_WIDTH):
        raise DatasetError(f"data.path = {pattern} needs {{SPAN}}, or all of {{YYYY}}, {{MM}} and {{DD}}.")
    return _matches(root, pattern[len(root) :].strip("/").split("/"))


def _select(spans: list[Span], selection: str) -> list[Span]:
    if selection == "all":
        return spans
    if selection.startswith("newest"):
        return spans[-int(selection.partition(":")[2] or 1) :]
    first, _, last = selection.partition("-")
    return [span for span in spans if int(first) <= span.number <= int(last or first)]


def _matches(root: str, levels: list[str]) -> list[Span]:
    """Descends level by level; every matching folder carries the values of the placeholders so far."""
    reached: list[tuple[str, dict[str, str]]] = [("", {})]
    for level in levels:
        expression = re.compile(_expression(level))
        deeper = []
        for folder, values in reached:
            for file in files.listing(root, folder):
                match = expression.fullmatch(file.path.rpartition("/")[2])
                if match and file.problem:
                    raise DatasetError(f"{files.readable(file.path)} in {root}: {file.problem}.")
                if file.is_folder and match:
                    named = match.groupdict()
                    if all(values.get(name, value) == value for name, value in named.items()):
                        deeper.append((file.path, values | named))
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
        return _day(datetime.date(int(values["YYYY"]), int(values["MM"]), int(values["DD"])))
    except ValueError:  # a folder like 2026-13-45
        return None


def _day(date: datetime.date) -> int:
    return (date - datetime.date(1970, 1, 1)).days
