"""A manifest with one row per box: `path`, `xmin`, `ymin`, `xmax`, `ymax` and `label`."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, NamedTuple

from components.image_example_gen import files, tables
from components.image_example_gen.boxes import Annotation, Box
from components.image_example_gen.entries import RefusedFile
from components.image_example_gen.errors import DatasetError, UnusableImageError
from components.image_example_gen.external_sort import grouped_by_key
from components.image_example_gen.layouts._box_columns import FLAGS, corners_of, size_of
from components.image_example_gen.layouts._boxes import AnnotatedImage, make_listing
from components.image_example_gen.layouts._columns import GROUP, LABEL, Columns
from components.image_example_gen.layouts._entries import Listing, refuse
from components.image_example_gen.layouts._folder import Folder, known_split_names, split_named

if TYPE_CHECKING:
    from components.image_example_gen.options import DataOptions


class LocatedRow(NamedTuple):
    """A row, and the file that its path means."""

    row: tables.Row
    file: files.File


_TRUE, _FALSE = ("1", "true", "yes"), ("", "0", "false", "no")


def list_table(
    table: tables.Table,
    chosen: Columns,
    rows_of: Iterable[tuple[str, Sequence[LocatedRow]]],
    folder: Folder,
    options: DataOptions,
    notes: Iterable[str] = (),
    split_of_table: str = "",
) -> Listing:
    """Lists the images of a table; a row without a box is an image without objects.

    Coordinates are pixels, or fractions of the image if none of the table is above 1.

    Args:
      table: The manifest.
      chosen: Its columns of paths, labels and splits.
      rows_of: Its rows that have a path, by path.
      folder: The data folder.
      options: `[data]`.
      notes: What users should know.
      split_of_table: The split of rows without one; empty if it is drawn.

    Raises:
      DatasetError: If there is no column of labels, or if a split is unknown.
    """
    group_column = options.group_column or GROUP
    corners, size = corners_of(table.columns), size_of(table.columns)
    assert corners
    own = {group_column, *corners, *size, *FLAGS}
    if not chosen.label or chosen.label in own:
        raise DatasetError(f"{table.location} has boxes, but no column `{LABEL}`. Set data.label_column.")
    own |= {*chosen[:4]}
    columns = tuple(column for column in table.columns if column not in own)
    refused: list[RefusedFile] = []

    def rows_with_splits() -> Iterator[tables.Row]:
        for row in table.rows:
            split = row.values.get(chosen.split, "")
            if split and not split_named(split):
                raise DatasetError(
                    f"{table.location}, line {row.line}: unknown split `{split}`. Names of splits: "
                    f"{known_split_names()}."
                )
            if not row.values[chosen.path]:
                refused.append(RefusedFile(f"{table.name}, line {row.line}", "no path"))
            yield row

    relative = _are_fractions(rows_with_splits(), corners)

    def image(located: Sequence[LocatedRow]) -> AnnotatedImage | RefusedFile:
        file, rows = located[0].file, [each.row for each in located]
        try:
            if file.problem:
                raise UnusableImageError(file.problem)
            per_image = (chosen.split, group_column, *size, *columns)
            if len({tuple(row.values.get(column, "") for column in per_image) for row in rows}) > 1:
                lines = f"{table.name}, lines {rows[0].line} to {rows[-1].line}"
                raise UnusableImageError(f"rows of one image differ in split, group, size or another column ({lines})")
            annotation = _annotation(rows, chosen.label, corners, size, table.name, relative)
        except UnusableImageError as error:
            return refuse(file, str(error))
        values = rows[0].values
        return AnnotatedImage(
            file,
            annotation,
            split_named(values.get(chosen.split, "")) or split_of_table,
            values.get(group_column, "") or options.group_of(file.path),
            tuple(values[column] or tables.UNKNOWN for column in columns),
        )

    def annotated() -> Iterator[AnnotatedImage]:
        images = ((f"{located[0].row.line:012}", image(located)) for _, located in rows_of)
        for _, (each,) in grouped_by_key(images):  # in the order of the table
            if isinstance(each, RefusedFile):
                refused.append(each)
            else:
                yield each

    return make_listing(folder, options, annotated(), refused, notes, columns=columns)


def _are_fractions(rows: Iterable[tables.Row], corners: Sequence[str]) -> bool:
    """Whether all coordinates are at most 1."""
    return max(_coordinates(rows, corners), default=math.inf) <= 1.0


def _coordinates(rows: Iterable[tables.Row], corners: Sequence[str]) -> Iterator[float]:
    for row in rows:
        for column in corners:
            try:
                yield float(row.values[column])
            except ValueError:
                continue


def _annotation(
    rows: Iterable[tables.Row], label: str, corners: Sequence[str], size: Sequence[str], name: str, relative: bool
) -> Annotation:
    boxes = []
    sides: list[float] = []
    for row in rows:
        place = f"{name}, line {row.line}"
        sides = [_number(row.values.get(column, "") or "0", column, place) for column in size]
        texts = [row.values[column] for column in corners]
        if not any((*texts, row.values[label])):
            continue
        if not row.values[label]:
            raise UnusableImageError(f"a box without a label ({place})")
        xmin, ymin, xmax, ymax = (_number(row.values[column], column, place) for column in corners)
        flags = [_flag(row.values.get(column, ""), column, place) for column in FLAGS]
        boxes.append(Box(xmin, ymin, xmax, ymax, row.values[label], *flags))
    width, height = sides
    known = width > 0 and height > 0
    return Annotation(tuple(boxes), width if known else 0.0, height if known else 0.0, relative)


def _number(text: str, column: str, place: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not math.isfinite(value):
        raise UnusableImageError(f"an incomplete box: {column} is `{text[:20]}` ({place})")
    return value


def _flag(text: str, column: str, place: str) -> bool:
    if text.lower() not in (*_TRUE, *_FALSE):
        raise UnusableImageError(f"{column} is `{text[:20]}`; expected 0 or 1 ({place})")
    return text.lower() in _TRUE
