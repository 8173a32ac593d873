"""The columns of a table that contain the paths of images and their labels: configured, by name, or by their values."""

from __future__ import annotations

import functools
import json
import re
import shlex
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, NamedTuple

from components.image_example_gen.errors import DatasetError, UnusableImageError
from components.image_example_gen.layouts import _box_columns
from components.image_example_gen.layouts._folder import is_image_name, split_named
from components.image_example_gen.layouts._listed_files import ListedFiles, share_of_files
from components.image_example_gen.tables import Table
from trainer_module.error_text import did_you_mean

if TYPE_CHECKING:
    from components.image_example_gen.options import DataOptions

PATH, LABEL, MASK, SPLIT, GROUP = "path", "label", "mask", "split", "group"
STANDARD = (PATH, LABEL, MASK)

_LABEL_NAMES = frozenset(
    (
        "label",
        "labels",
        "class",
        "classname",
        "classid",
        "category",
        "target",
        "diagnosis",
        "species",
        "breed",
        "y",
        "labelname",
    )
)
# Values of a column that tells for every image whether it has a class.
_PRESENT = frozenset(("1", "1.0", "true", "yes"))
_ABSENT = frozenset(("0", "0.0", "false", "no"))
_FEWEST_CLASS_COLUMNS = 2  # one alone is a column of two labels
_SPLIT_NAMES = frozenset(("split", "set", "subset", "partition"))
_MOST_CELLS = 50
_ENOUGH_FILES = 0.8
_MOST_LABELS = 200_000  # of a column whose name does not tell that it has labels; all are in memory
_MOST_CHOICES = 6


class Columns(NamedTuple):
    """The columns of a table.

    Attributes:
      path: Column of the paths.
      label: Column of the labels; empty if there are masks or columns of classes.
      mask: Column of the masks' paths, or empty.
      split: Column of the splits, or empty.
      classes: Columns of 1 and 0, one per class; empty if one column has the labels.
    """

    path: str
    label: str
    mask: str = ""
    split: str = ""
    classes: tuple[str, ...] = ()

    def __str__(self) -> str:
        """The options of the command that choose these columns."""
        settings = f"--set data.path_column={shlex.quote(self.path)}"
        if self.classes:
            return f"{settings} --set data.label_columns={shlex.quote(json.dumps(self.classes, ensure_ascii=False))}"
        return f"{settings} --set data.label_column={shlex.quote(self.label)}" if self.label else settings


def choose(table: Table, listed: ListedFiles, options: DataOptions) -> Columns:
    """Chooses the columns of a table.

    Raises:
      DatasetError: If a configured column does not exist, if the table has no header, or if not exactly one choice is
        plausible; the message has the settings for each.
    """
    choices = plausible(table, listed, options)
    if len(choices) == 1:
        return choices[0]
    shown = "".join(f"\n  {choice}" for choice in choices[:_MOST_CHOICES])
    if choices:
        raise DatasetError(f"{table.location}: several columns may be paths or labels. Choose one of each:{shown}")
    paths = _path_columns(table, listed, options)
    known = ", ".join(table.columns) or "none"
    if not paths:
        raise DatasetError(
            f"{table.location} has no column `{PATH}` (found: {known}), and no other column contains the names of "
            "images in the data folder. Set data.path_column."
        )
    raise DatasetError(
        f"{table.location} has neither a column `{LABEL}` nor a column `{MASK}` (found: {known}), and no other column "
        "contains labels that occur several times. Set data.label_column."
    )


def plausible(table: Table, listed: ListedFiles, options: DataOptions) -> list[Columns]:
    """Returns all choices of columns that a table allows.

    Raises:
      DatasetError: If a configured column does not exist, or if the table has no header.
    """
    for column in filter(is_image_name, table.columns):
        if share_of_files(listed, [column]):
            raise DatasetError(
                f"{table.location}: the first line is not a header, but contains the file {column}. Write a line of "
                f"column names above it, for example {_box_columns.header_for(table.columns)}."
            )
    configured = [(key, getattr(options, key)) for key in ("path_column", "label_column")]
    for key, column in [*configured, *(("label_columns", column) for column in options.label_columns or ())]:
        if column and column not in table.columns:
            suggestion = did_you_mean(column, table.columns) or f". Columns: {', '.join(table.columns)}."
            raise DatasetError(f"data.{key}: {table.location} has no column `{column}`{suggestion}")
    split = _split_column(table)
    # Every column of a large table is read once, whatever the number of choices.
    is_repeated = functools.cache(lambda column: _is_repeated(row.values[column] for row in table.rows))
    choices = []
    for path in _path_columns(table, listed, options):
        if MASK in table.columns and not options.label_column:
            choices.append(Columns(path, "", MASK, split))
            continue
        used = (path, split)
        classes = options.label_columns or _class_columns(table, options, used)
        if classes:
            choices.append(Columns(path, "", "", split, classes))
        if not classes or not options.allows_label_sets:
            # Columns of 0 and 1 are labels of their own only if there is nothing else.
            single = [column for column in _label_columns(table, options, used, is_repeated) if column not in classes]
            choices += [Columns(path, label, "", split) for label in single]
    return choices


def are_named(table: Table, options: DataOptions) -> bool:
    """Whether the options and the names of the columns decide what they contain, and no values."""
    columns, used = table.columns, (options.path_column or PATH, SPLIT)
    has_path = bool(options.path_column) or PATH in columns
    has_split = SPLIT in columns or not any(column.lower() in _SPLIT_NAMES for column in columns)
    has_label = MASK in columns or options.label_columns or _named_label_columns(table, options, used)
    return has_path and has_split and bool(options.label_column or has_label)


def _class_columns(table: Table, options: DataOptions, used: Sequence[str]) -> tuple[str, ...]:
    """Returns the columns of 1 and 0 if there are several; none if a column is named like one of labels."""
    if options.label_column or _named_label_columns(table, options, used) or not table.rows:
        return ()
    if _box_columns.has_boxes(table.columns):
        return ()
    known = _PRESENT | _ABSENT
    columns = _other_columns(table, options, used)
    for row in table.rows:
        columns = [column for column in columns if row.values[column].lower() in known]
        if len(columns) < _FEWEST_CLASS_COLUMNS:
            return ()
    return tuple(columns)


def present_classes(values: Mapping[str, str], columns: Sequence[str]) -> list[str]:
    """Reads the classes of an image from columns of 1 and 0.

    Args:
      values: The values of a row, by column.
      columns: The columns.

    Raises:
      UnusableImageError: If a value is neither.
    """
    for column in columns:
        if values[column].lower() not in _PRESENT | _ABSENT:
            raise UnusableImageError(f"column {column} is `{values[column][:20]}`; expected 1 or 0")
    return [column for column in columns if values[column].lower() in _PRESENT]


def _path_columns(table: Table, listed: ListedFiles, options: DataOptions) -> list[str]:
    if options.path_column or PATH in table.columns:
        return [options.path_column or PATH]
    others = (MASK, *_box_columns.box_columns(table.columns))
    cells_of = _cells(table, [column for column in table.columns if column not in others])
    existing = [
        column for column, cells in cells_of.items() if cells and share_of_files(listed, cells) >= _ENOUGH_FILES
    ]
    # Names of images whose files are missing are reported later.
    return existing or [
        column
        for column, cells in cells_of.items()
        if cells and sum(map(is_image_name, cells)) >= _ENOUGH_FILES * len(cells)
    ]


def lists_existing_files(table: Table, listed: ListedFiles, column: str) -> bool:
    """Whether most values of a column are files of the data folder."""
    return share_of_files(listed, _cells(table, [column])[column]) >= _ENOUGH_FILES


def _label_columns(
    table: Table, options: DataOptions, used: Sequence[str], is_repeated: Callable[[str], bool]
) -> list[str]:
    if options.label_column:
        return [options.label_column]
    if named := _named_label_columns(table, options, used):
        return named
    return list(filter(is_repeated, _other_columns(table, options, used)))


def _named_label_columns(table: Table, options: DataOptions, used: Sequence[str]) -> list[str]:
    """Returns the column `label`, or those with a similar name."""
    if LABEL in table.columns and LABEL not in used:
        return [LABEL]
    return [column for column in _other_columns(table, options, used) if plain_name(column) in _LABEL_NAMES]


def _other_columns(table: Table, options: DataOptions, used: Sequence[str]) -> list[str]:
    own = (*used, GROUP, options.group_column, *_box_columns.box_columns(table.columns))
    return [column for column in table.columns if column not in own]


def plain_name(column: str) -> str:
    """Returns the name of a column in lower case, without separators."""
    return re.sub(r"[\W_]+", "", column.lower())


def _is_repeated(values: Iterable[str]) -> bool:
    """Whether values look like labels: at least two, none of them empty, each twice on average."""
    distinct, number = set[str](), 0
    for number, value in enumerate(values, start=1):  # noqa: B007
        distinct.add(value)
        if not value or len(distinct) > _MOST_LABELS:
            return False
    return 2 <= len(distinct) <= number / 2


def _split_column(table: Table) -> str:
    """Returns the column of splits: `split`, or one with such a name and only names of splits."""
    if SPLIT in table.columns:
        return SPLIT
    for column in table.columns:
        if column.lower() in _SPLIT_NAMES and table.rows:
            if all(split_named(row.values[column]) for row in table.rows):
                return column
    return ""


def _cells(table: Table, columns: Iterable[str]) -> dict[str, list[str]]:
    """Returns some of the values of columns, evenly spread over the whole length of each; reads the table once."""
    samples = {column: _Sample() for column in columns}
    for row in table.rows:
        for column, sample in samples.items():
            if cell := row.values[column]:
                sample.add(cell)
    return {column: list(dict.fromkeys(sample.cells)) for column, sample in samples.items()}


class _Sample:
    """Evenly spread values of a column."""

    def __init__(self) -> None:
        self.cells: list[str] = []
        self._stride, self._number = 1, 0

    def add(self, cell: str) -> None:
        """Takes the next value, or skips it."""
        if self._number % self._stride == 0:
            self.cells.append(cell)
            if len(self.cells) == 2 * _MOST_CELLS:
                self.cells, self._stride = self.cells[::2], 2 * self._stride
        self._number += 1
