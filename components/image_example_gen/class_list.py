"""`classes.txt`: class names in the order of their ids, beside masks that contain only ids or colours."""

from __future__ import annotations

import re
from typing import NamedTuple

from components.image_example_gen import files
from components.image_example_gen.errors import DatasetError
from trainer_module.error_text import first_line

Color = tuple[int, int, int]  # red, green, blue, range [0, 255]

CLASSES_FILE = "classes.txt"  # one name per line; the line number, from 0, is the class id
_IGNORED = "ignored"
_IGNORED_LINE = re.compile(rf"(\d+) {_IGNORED}")  # an optional last line
_LARGEST_ID = 255

# `road 128 64 128`, `road,128,64,128`, `road #804080`; or with the colour first, as in CamVid's label_colors.txt.
_SEPARATOR = r"[\s,;]+"
_NUMBERS = _SEPARATOR.join([r"(\d{1,3})"] * 3)
_COLOR = rf"(?:{_NUMBERS}|#([0-9a-fA-F]{{6}}))"
_NAME_FIRST = re.compile(rf"(?P<name>.*?\S){_SEPARATOR}{_COLOR}")
_COLOR_FIRST = re.compile(rf"{_COLOR}{_SEPARATOR}(?P<name>\S.*)")
_HEADER = re.compile(r"(name|class|label)[\s,;]+r(ed)?[\s,;]+g(reen)?[\s,;]+b(lue)?|r,g,b,name", re.IGNORECASE)


class ClassList(NamedTuple):
    """The classes of a dataset.

    Attributes:
      names: Class names in the order of the ids; empty if the dataset has no list.
      ignore_id: The id of pixels that do not count, if there is one.
      colors: The colour of every class in masks; empty if masks contain ids.
      ignored_colors: Colours of pixels that do not count.
    """

    names: tuple[str, ...] = ()
    ignore_id: int | None = None
    colors: tuple[Color, ...] = ()
    ignored_colors: tuple[Color, ...] = ()


NO_CLASS_LIST = ClassList()


def read(location: str) -> ClassList:
    """Reads a list of classes, with or without colours.

    Raises:
      DatasetError: If it is not UTF-8, if a line is empty or occurs twice, if only some lines have a colour, if two
        have the same, or if the ignored id is a class's or above 255.
    """
    folder, _, file_name = location.rpartition("/")
    try:
        text = files.read(folder, file_name).decode("utf-8-sig").rstrip()
    except (files.UnreadableFileError, UnicodeDecodeError) as error:
        raise DatasetError(f"{location} cannot be read: {first_line(error)}") from None
    lines = [line.strip() for line in text.splitlines()]
    colored = _read_colors(location, lines)
    if colored is not None:
        return colored
    ignored = _IGNORED_LINE.fullmatch(lines[-1]) if lines else None
    ignore_id = int(ignored.group(1)) if ignored else None
    names = lines[:-1] if ignored else lines
    if ignore_id is not None and not len(names) <= ignore_id <= _LARGEST_ID:
        raise DatasetError(
            f"{location}, line {len(lines)}: the ignored id must be above those of the classes (0 to {len(names) - 1}) "
            f"and at most {_LARGEST_ID}. To ignore a class, set data.ignore_id."
        )
    for number, name in enumerate(names):
        if not name:
            raise DatasetError(f"{location}, line {number + 1}: no name. The line number, from 0, is the class id.")
        if name in names[:number]:
            raise DatasetError(f"{location}, line {number + 1}: duplicate class {name}.")
    return ClassList(tuple(names), ignore_id)


def _read_colors(location: str, lines: list[str]) -> ClassList | None:
    """Reads a colour table; None if no line has a colour.

    A line `ignored` with a colour, in either order, is a colour of pixels that do not count.
    """
    colors: dict[str, Color] = {}
    ignored: list[Color] = []
    ignore_id: int | None = None
    plain: list[int] = []  # numbers of lines without a colour
    line_of: dict[Color, int] = {}
    for number, line in enumerate(lines, start=1):
        if not line or (number == 1 and _HEADER.fullmatch(line)):
            continue
        match = _COLOR_FIRST.fullmatch(line) or _NAME_FIRST.fullmatch(line)
        if match is None:
            if not _IGNORED_LINE.fullmatch(line):
                plain.append(number)
            else:
                ignore_id = int(line.split()[0])
            continue
        name = match.group("name").strip("\"' ")
        color = _color(match)
        if max(color) > 255:
            raise DatasetError(f"{location}, line {number}: {color} is not a colour; red, green and blue are 0 to 255.")
        if color in line_of:
            raise DatasetError(f"{location}, line {number}: line {line_of[color]} has the same colour {color}.")
        line_of[color] = number
        if name == _IGNORED:
            ignored.append(color)
        elif name in colors:
            raise DatasetError(f"{location}, line {number}: duplicate class {name}.")
        else:
            colors[name] = color
    if not colors:
        return None
    if plain:
        raise DatasetError(
            f"{location}, line {plain[0]}: no colour, but line {min(line_of.values())} has one. Write all lines as "
            "`road 128 64 128`, or none."
        )
    if ignored and ignore_id is None:
        ignore_id = _LARGEST_ID
    if ignore_id is not None and not len(colors) <= ignore_id <= _LARGEST_ID:
        raise DatasetError(
            f"{location}: the ignored id must be above those of the classes (0 to {len(colors) - 1}) and at most "
            f"{_LARGEST_ID}."
        )
    return ClassList(tuple(colors), ignore_id, tuple(colors.values()), tuple(ignored))


def _color(match: re.Match[str]) -> Color:
    red, green, blue, code = match.groups()[:4] if match.re is _COLOR_FIRST else match.groups()[1:5]
    if code:
        red, green, blue = (str(int(code[start : start + 2], 16)) for start in (0, 2, 4))
    return int(red), int(green), int(blue)
