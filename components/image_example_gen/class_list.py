"""`classes.txt`: class names in the order of their ids, beside masks that contain only ids."""

from __future__ import annotations

import re
from typing import NamedTuple

from components.image_example_gen import files
from components.image_example_gen.errors import DatasetError
from trainer_module.error_text import first_line

CLASSES_FILE = "classes.txt"  # one name per line; the line number, from 0, is the class id
_IGNORED_LINE = re.compile(r"(\d+) ignored")  # an optional last line
_LARGEST_ID = 255


class ClassList(NamedTuple):
    """The classes of a dataset.

    Attributes:
      names: Class names in the order of the ids; empty if the dataset has no list.
      ignore_id: The id of pixels that do not count, if there is one.
    """

    names: tuple[str, ...] = ()
    ignore_id: int | None = None


NO_CLASS_LIST = ClassList()


def read(location: str) -> ClassList:
    """Reads a list of classes.

    Raises:
      DatasetError: If it is not UTF-8, if a line is empty or occurs twice, or if the ignored id is a class's or above
        255.
    """
    folder, _, file_name = location.rpartition("/")
    try:
        lines = files.read(folder, file_name).decode("utf-8-sig").rstrip().splitlines()
    except (files.UnreadableFileError, UnicodeDecodeError) as error:
        raise DatasetError(f"{location} cannot be read: {first_line(error)}") from None
    names = [line.strip() for line in lines]
    ignored = _IGNORED_LINE.fullmatch(names[-1]) if names else None
    ignore_id = int(ignored.group(1)) if ignored else None
    if ignore_id is not None and not len(names := names[:-1]) <= ignore_id <= _LARGEST_ID:
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
