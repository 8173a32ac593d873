"""A table that lists the images with their labels: `manifest.csv`, `manifest.jsonl`, or any file that is named."""

from __future__ import annotations

import dataclasses
import functools
import itertools
import shlex
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, NamedTuple, TypeVar

from components.image_example_gen import class_list, files, label_sets, labels, missing_files, table_parts, tables
from components.image_example_gen.entries import Entry, LabelFile, RefusedFile
from components.image_example_gen.errors import DatasetError, LayoutError, UnusableImageError
from components.image_example_gen.external_sort import grouped_by_key
from components.image_example_gen.layouts import _box_columns, _box_table, _columns, _pairs
from components.image_example_gen.layouts._columns import Columns
from components.image_example_gen.layouts._entries import Listing, refuse
from components.image_example_gen.layouts._folder import Folder, known_split_names, split_named
from components.image_example_gen.layouts._listed_files import ListedFiles
from components.image_example_gen.layouts._spec import Confidence, Evidence, LayoutSpec
from components.image_example_gen.layouts.mask_pairs import classes_of_masks
from components.image_example_gen.spooled_items import SpooledItems
from components.image_example_gen.stored_entries import collect
from components.image_example_gen.table_parts import IndivisibleTableError, RowRange
from trainer_module import features
from trainer_module.locations import join

if TYPE_CHECKING:
    from components.image_example_gen.options import DataOptions

_Group = TypeVar("_Group")
MANIFEST_FILES = ("manifest.csv", "manifest.jsonl")
_SHOWN_CELLS = 2
_MOST_FOLDERS = 10
# Rows of a part whose paths are not complete; they are in memory together.
_MOST_SET_ASIDE = 1000


def _detect(folder: Folder, options: DataOptions) -> Evidence:
    if options.manifest:
        return Evidence("manifest", Confidence.CONFIGURED, (f"data.manifest = {options.manifest}",))
    names = [file.path for file in folder.files if file.path in MANIFEST_FILES]
    if names:
        return Evidence("manifest", Confidence.INDEX_FILE, (f"a file {names[0]}",))
    listing, others, faulty, rival = _other_tables(folder, options)
    if not listing and not faulty:
        return Evidence("manifest", Confidence.NONE, contradicting=(f"no {' or '.join(MANIFEST_FILES)}", *others))
    if not listing:
        supporting = tuple(f"a table {name}, which cannot be used as it is" for name in faulty)
        return Evidence("manifest", Confidence.FOLDER_COMBINATION, supporting, tuple(others))
    # Beside folders that have a meaning of their own, a table is one of two interpretations.
    settings = f"--set data.manifest={shlex.quote(join(folder.root, listing[0]))}"
    supporting = tuple(f"a table {name} of images" for name in listing)
    return Evidence("manifest", rival or Confidence.INDEX_FILE, supporting, settings=settings)


def _rival(folder: Folder) -> Confidence | None:
    """Returns the confidence of the layout that the folders have without a table; None if they have none."""
    if _pairs.named_pairs(folder):
        return Confidence.FOLDER_COMBINATION
    for parent in folder.split_folders:
        if _have_images(folder, (f"{parent}/{name}" for name in sorted(folder.names_in(parent)))):
            return Confidence.FOLDER_NAME
    if folder.split_folders or _pairs.splits_of_images(folder):
        return None
    return Confidence.FALLBACK if _have_images(folder, folder.subfolders) else None


def _have_images(folder: Folder, paths: Iterable[str]) -> bool:
    """Whether several folders have images; lists only as many as it takes to know."""
    return len(list(itertools.islice(filter(folder.stems_directly, paths), 2))) == 2


class _Tables(NamedTuple):
    """The tables of other names than those of manifests.

    Attributes:
      listing: Those that list images.
      others: Why others do not.
      faulty: Those that cannot be used as they are.
      rival: The confidence of the layout that the folders have without a table.
    """

    listing: list[str]
    others: list[str]
    faulty: list[str]
    rival: Confidence | None


def _other_tables(folder: Folder, options: DataOptions) -> _Tables:
    """Reads the tables of other names.

    A table is faulty if it cannot be read, if it lists images that do not exist, or if its boxes are not corners, and
    if the folders mean nothing without it. Tables in split folders, and in folders without images, are read only if
    they have boxes, as programs for annotations write them.
    """
    listing, others, faulty, rival = list[str](), list[str](), list[str](), _rival(folder)
    without_images = [name for name in folder.subfolders[:_MOST_FOLDERS] if not folder.stems_directly(name)]
    inside = [
        files.File(f"{parent}/{name}")
        for parent in dict.fromkeys((*folder.split_folders, *without_images))
        for name in sorted(folder.names_in(parent))
        if name.lower().endswith(tables.SUFFIXES)
    ]
    for file in (*folder.files, *inside):
        is_table = not file.is_folder and not file.problem and file.path.lower().endswith(tables.SUFFIXES)
        if not is_table or (file.path == tables.METADATA_FILE and rival):
            continue
        try:
            table = tables.read(join(folder.root, file.path))
            if "/" in file.path and not _box_columns.has_boxes(table.columns):
                continue
            listed = ListedFiles(folder, _preferred(file.path))
            choices = [choice for choice in _columns.plausible(table, listed, options) if _has_labels(table, choice)]
        except DatasetError as error:
            if "/" not in file.path:
                others.append(str(error).rstrip("."))
                faulty.append(file.path)
            continue
        if boxes := _box_columns.other_boxes(table.columns):
            others.append(f"{file.path} {boxes}")
            faulty.append(file.path)
        elif not choices:
            others.append(f"{file.path} does not list images and labels")
        elif not any(_columns.lists_existing_files(table, listed, choice.path) for choice in choices):
            others.append(f"the files in {file.path} do not exist")
            faulty.append(file.path)
        elif all(_repeats_folders(table, listed, choice) for choice in choices):
            others.append(f"the labels in {file.path} are the names of the folders")
        else:
            listing.append(file.path)
    return _Tables(listing, others, [] if rival else faulty, rival)


def _has_labels(table: tables.Table, columns: Columns) -> bool:
    """Whether there are masks or at least two labels: a template for submissions has one."""
    first = next((row.values.get(columns.label) for row in table.rows), None)
    return (
        bool(columns.mask or columns.classes)
        or _box_columns.has_boxes(table.columns)
        or any(row.values[columns.label] != first for row in table.rows)
    )


def _repeats_folders(table: tables.Table, listed: ListedFiles, columns: Columns) -> bool:
    """Whether every label is the name of the folder of its file, so that the table has no other labels than these."""
    if columns.mask or columns.classes:
        return False
    rows = (row for row in table.rows if row.values[columns.path])
    return all(
        f"/{row.values[columns.label]}/" in f"/{known[row.values[columns.path]].path.rpartition('/')[0]}/"
        for batch, known in listed.in_batches(rows, (columns.path,))
        for row in batch
    )


def _list_entries(folder: Folder, options: DataOptions) -> Listing:
    locations = [options.manifest] if options.manifest else _find(folder, options)
    if len(locations) == 1 and not _split_folder(folder, locations[0]):
        return _list_table(folder, locations[0], options)
    listings = [_list_table(folder, location, options, _split_of(folder, location)) for location in locations]
    if len({(listing.columns, listing.label_features, listing.class_list) for listing in listings}) > 1:
        shown = ", ".join(map(_name, locations))
        raise DatasetError(f"{folder.root}: {shown} differ in columns. Give them the same, or choose one with --data.")
    return listings[0].merged(listings[1:])


# === Parts ===


class _TablePart(NamedTuple):
    """Rows of a table whose columns are known by their names.

    Attributes:
      location: Location of the table.
      columns: Those of the table.
      chosen: Which of them contain what.
      rows: Where they are in the file; or rows of any places whose paths may be incomplete.
    """

    location: str
    columns: tuple[str, ...]
    chosen: Columns
    rows: RowRange | tuple[tables.Row, ...]


def _parts(folder: Folder, options: DataOptions) -> list[_TablePart]:
    """Cuts a large manifest into parts, if no values decide about its columns, and it has no boxes."""
    location = options.manifest or _manifest_in(folder) or ""
    # Workers see the data folder, and perhaps nothing else.
    if not location.startswith(f"{folder.root}/") or _split_folder(folder, location):
        return []
    try:
        first = table_parts.first_rows(location)
        if first is None:
            return []
        table = tables.read(location, part=first)
        if not _columns.are_named(table, options) or _box_columns.has_boxes(table.columns):
            return []
        chosen = _choose_columns(table, ListedFiles(folder, table.name), options)
        if _may_have_separators(chosen, options):
            return []
        return [_TablePart(location, table.columns, chosen, rows) for rows in table_parts.divide(location)]
    except (DatasetError, IndivisibleTableError, files.UnreadableFileError):
        return []  # `list_entries` reports it


def _list_part(folder: Folder, options: DataOptions, part: _TablePart) -> Listing:
    """Lists a part of a table.

    Raises:
      IndivisibleTableError: If the columns differ from those of the other parts, or if many files do not exist.
      DatasetError: If a split is unknown.
    """
    set_aside = None
    if isinstance(part.rows, RowRange):
        table, set_aside = tables.read(part.location, part=part.rows), SpooledItems[tables.Row]()
    else:
        table = tables.Table(part.location, part.columns, part.rows)
    if table.columns != part.columns:
        raise IndivisibleTableError
    listed = ListedFiles(folder, _preferred(part.location.removeprefix(f"{folder.root}/")))
    searched = _SearchedPaths(table, (part.chosen.path, part.chosen.mask), listed)
    listing = _list_rows(folder, table, part.chosen, options, listed, searched, set_aside)
    if set_aside is None:
        return listing
    unresolved = tuple(itertools.islice(set_aside, _MOST_SET_ASIDE + 1))
    if len(unresolved) > _MOST_SET_ASIDE or searched.may_lack_most(len(unresolved)):
        raise IndivisibleTableError
    return dataclasses.replace(listing, unresolved=unresolved)


# === Whole tables ===


def _list_table(folder: Folder, location: str, options: DataOptions, split_of_table: str = "") -> Listing:
    table = tables.read(location)
    listed = ListedFiles(folder, _preferred(location.removeprefix(f"{folder.root}/")))
    chosen = _choose_columns(table, listed, options)
    if _box_columns.has_boxes(table.columns):
        searched = _SearchedPaths(table, (chosen.path,), listed)

        def located() -> Iterator[tuple[str, _box_table.LocatedRow]]:
            for batch, known in listed.in_batches(table.rows, (chosen.path,)):
                searched.add(known)
                for row in batch:
                    if path := row.values[chosen.path]:
                        yield path, _box_table.LocatedRow(row, known[path])
            searched.refuse_missing(folder.root)

        rows_of = grouped_by_key(located())
        first = list(itertools.islice(rows_of, 1))  # all files are known before the first group
        rows_of, notes = itertools.chain(first, rows_of), _notes(table, chosen, searched)
        return _box_table.list_table(table, chosen, rows_of, folder, options, notes, split_of_table)
    searched = _SearchedPaths(table, (chosen.path, chosen.mask), listed)
    listing = _list_rows(folder, table, chosen, options, listed, searched, split_of_table=split_of_table)
    searched.refuse_missing(folder.root)
    return listing


def _choose_columns(table: tables.Table, listed: ListedFiles, options: DataOptions) -> Columns:
    """Chooses the columns of a table.

    Raises:
      DatasetError: As `_columns.choose`, and if the table has boxes of another form, or lacks the column of the groups.
    """
    if table.name not in MANIFEST_FILES and (boxes := _box_columns.other_boxes(table.columns)):
        raise DatasetError(f"{table.location} {boxes}.")
    chosen = _columns.choose(table, listed, options)
    if options.group_column and options.group_column not in table.columns:
        raise DatasetError(f"data.group_column: {table.location} has no column `{options.group_column}`.")
    return chosen


def _list_rows(
    folder: Folder,
    table: tables.Table,
    chosen: Columns,
    options: DataOptions,
    listed: ListedFiles,
    searched: _SearchedPaths,
    set_aside: SpooledItems[tables.Row] | None = None,
    split_of_table: str = "",
) -> Listing:
    """Lists the rows of a table without boxes; those whose paths are not complete are set aside, or listed too."""
    reader = _RowReader(table, chosen, options, _separator(table, chosen, options), split_of_table)
    refused: list[RefusedFile] = []
    names, columns = set[str](), (chosen.path, chosen.mask)

    def entries() -> Iterator[Entry]:
        if set_aside is None:
            batches = listed.in_batches(table.rows, columns)
        else:
            batches = listed.complete_in_batches(table.rows, columns, set_aside)
        for batch, known in batches:
            searched.add(known)
            for row in batch:
                entry = reader.read(row, known)
                if isinstance(entry, RefusedFile):
                    refused.append(entry)
                else:
                    names.update(entry.classes)
                    yield entry

    collected = collect(entries())
    return Listing(
        reader.label_features,
        collected,
        tuple(refused),
        reader.columns,
        frozenset(names.union(chosen.classes if collected else ())),
        classes_of_masks(folder, options) if reader.has_masks else class_list.ClassList(),
        (*_notes(table, chosen, searched), *_note_on_sets(table, chosen, reader.separator)),
    )


@dataclass(frozen=True)
class _RowReader:
    """Reads the rows of a table without boxes.

    Attributes:
      table: The table.
      chosen: Its columns.
      options: `[data]`.
      separator: Of the classes of an image; empty if an image has one, or a mask.
      split_of_table: The split of rows without one; empty if it is drawn.
    """

    table: tables.Table
    chosen: Columns
    options: DataOptions
    separator: str
    split_of_table: str
    _labels: dict[str, labels.Label] = field(default_factory=dict)

    @property
    def has_masks(self) -> bool:
        return bool(self.chosen.mask)

    @property
    def label_features(self) -> tuple[str, ...]:
        if self.has_masks:
            return labels.MASK_LABEL
        return labels.MULTI_LABEL if self.chosen.classes or self.separator else labels.CLASS_LABEL

    @functools.cached_property
    def columns(self) -> tuple[str, ...]:
        """Columns that may be slices."""
        chosen = self.chosen
        own = {*chosen[:4], *chosen.classes, _columns.GROUP, self.options.group_column}
        if self.has_masks:
            own.add(_columns.LABEL)  # labels beside masks are neither
        return tuple(column for column in self.table.columns if column not in own)

    def read(self, row: tables.Row, known: Mapping[str, files.File]) -> Entry | RefusedFile:
        """Reads a row.

        Args:
          row: The row.
          known: The files that its cells mean.

        Raises:
          DatasetError: If the split is unknown.
        """
        path, _, mask, split = (row.values.get(key, "") for key in self.chosen[:4])
        if split and not split_named(split):
            raise DatasetError(
                f"{self.table.location}, line {row.line}: unknown split `{split}`. Names of splits: "
                f"{known_split_names()}."
            )
        line = f"{self.table.name}, line {row.line}"
        file, mask_file = known.get(path), known.get(mask)
        try:
            label = self._label(row)
        except UnusableImageError as error:
            return refuse(file, f"{error} ({line})") if file else RefusedFile(line, str(error))
        if file is None:
            return RefusedFile(line, "no path")
        if not (mask if self.has_masks else label):
            return refuse(file, f"no {_columns.MASK if self.has_masks else _columns.LABEL} ({line})")
        if file.is_folder:
            return refuse(file, f"a folder ({line})")
        if mask_file and (mask_file.problem or mask_file.is_folder):
            return refuse(file, f"unusable mask: {mask_file.path}: {mask_file.problem or 'a folder'}")
        if file.problem:
            return refuse(file)
        return Entry(
            *file[:3],
            label=label,
            label_files=(LabelFile(features.MASK_ENCODED, *mask_file[:3]),) if mask_file else (),
            split=split_named(split) or self.split_of_table,
            group=row.values.get(self.options.group_column or _columns.GROUP, "") or self.options.group_of(file.path),
            slices=tuple(row.values[column] or tables.UNKNOWN for column in self.columns),
        )

    def _label(self, row: tables.Row) -> labels.Label:
        """Reads the classes of an image; a mask is a file."""
        if self.has_masks:
            return ()
        if self.chosen.classes:
            return labels.of_classes(_columns.present_classes(row.values, self.chosen.classes))
        text = row.values[self.chosen.label]
        if text not in self._labels:  # images of one class have the same object, which is in memory once
            if self.separator:
                self._labels[text] = labels.of_classes(label_sets.split(text, self.separator))
            else:
                self._labels[text] = labels.of_class(text) if text else ()
        return self._labels[text]


def _separator(table: tables.Table, chosen: Columns, options: DataOptions) -> str:
    """Returns what separates the classes of an image; empty if an image has one class, or a mask."""
    if not chosen.label:
        return ""
    if options.label_separator or options.allows_label_sets:
        return options.label_separator or label_sets.SEPARATOR
    contains = _may_have_separators(chosen, options) and any(
        label_sets.SEPARATOR in row.values[chosen.label] for row in table.rows
    )
    return label_sets.SEPARATOR if contains else ""


def _may_have_separators(chosen: Columns, options: DataOptions) -> bool:
    """Whether labels with separators, if there are any, are several classes."""
    is_set = options.label_separator or options.allows_label_sets or options.labels_per_image is not None
    return not is_set and _columns.plain_name(chosen.label).endswith("labels")


def _note_on_sets(table: tables.Table, chosen: Columns, separator: str) -> list[str]:
    if chosen.classes:
        return [f"{table.name}: {len(chosen.classes):,} columns of 1 and 0 are the classes of the images"]
    return [f"{table.name}: `{separator}` separates the classes of an image in `{chosen.label}`"] if separator else []


class _SearchedPaths:
    """The paths of a table: those that were completed, and those that do not exist."""

    def __init__(self, table: tables.Table, columns: Sequence[str], listed: ListedFiles) -> None:
        """Searches the paths in some columns of a table."""
        self._table, self._columns, self._listed = table, columns, listed
        # Cells that are written in another way than the path of their file, with that path; paths that do not exist.
        # The same may occur several times.
        self._others, self._missing = SpooledItems[tuple[str, str]](), SpooledItems[tuple[str, None]]()
        self._most_missing = 0  # with repetitions
        self._num_found = 0  # at once; there may be more

    def add(self, known: Mapping[str, files.File]) -> None:
        """Adds the files of some cells."""
        problems = {file.path: file.problem for file in known.values()}
        # An absolute path is often that of another machine.
        missing = [
            (path, None)
            for path, problem in problems.items()
            if problem == files.MISSING or (path.startswith("/") and not files.is_file(path))
        ]
        self._missing.extend(missing)
        self._most_missing += len(missing)
        self._others.extend(
            (cell, file.path)
            for cell, file in known.items()
            if not file.problem and file.path != self._listed.path(cell)
        )
        self._num_found = max(self._num_found, len(problems))

    def may_lack_most(self, num_more: int) -> bool:
        """Whether most paths may not exist, with so many more that do not.

        False is certain, unless parts of a table list the same files again and again.
        """
        return 2 * (self._most_missing + num_more) > self._num_found

    def refuse_missing(self, root: str) -> None:
        """Refuses a table of which most paths do not exist: they are written in another way than the files are stored.

        Raises:
          DatasetError: With the nearest existing file and the fix.
        """
        if not self.may_lack_most(0):
            return
        num_missing, first = _counted(grouped_by_key(self._missing))
        if 2 * num_missing > self._num_found and 2 * num_missing > (num_paths := self._num_paths()):
            raise DatasetError(
                f"{self._table.location}: {num_missing:,} of {num_paths:,} paths do not exist in {root}, "
                f"{missing_files.describe(root, [path for path, _ in first])}"
            )

    def _num_paths(self) -> int:
        """Counts the different files that the cells mean."""
        cells = filter(None, (row.values.get(column) for row in self._table.rows for column in self._columns))
        items: Iterable[tuple[str, str | None]] = itertools.chain(self._others, ((cell, None) for cell in cells))
        paths = ((paths[0] or self._listed.path(cell), None) for cell, paths in grouped_by_key(items))
        return sum(1 for _ in grouped_by_key(paths))

    def notes(self) -> list[str]:
        """Returns a note about the paths that were completed."""
        completed = (item for item in self._others if self._listed.is_completed(*item))
        num_completed, first = _counted(grouped_by_key(completed))
        examples = ", ".join(f"`{cell}` is {files.readable(paths[0])}" for cell, paths in first)
        return [f"{self._table.name}: {num_completed:,} paths were completed: {examples}"] if first else []


def _counted(groups: Iterator[_Group]) -> tuple[int, list[_Group]]:
    """Returns the number of groups, and the first ones, which messages show."""
    first = list(itertools.islice(groups, _SHOWN_CELLS))
    return len(first) + sum(1 for _ in groups), first


def _notes(table: tables.Table, chosen: Columns, searched: _SearchedPaths) -> tuple[str, ...]:
    """Reports columns that were chosen by their names or values, and paths that were completed."""
    notes = []
    label = chosen.label or chosen.mask
    if label and (table.name not in MANIFEST_FILES or not {chosen.path, label} <= set(_columns.STANDARD)):
        notes.append(
            f"{table.name}: the column `{chosen.path}` has the paths and `{chosen.label or chosen.mask}` the "
            f"{'labels' if chosen.label else 'masks'}" + (f"; `{chosen.split}` has the splits" if chosen.split else "")
        )
    return (*notes, *searched.notes())


def _split_folder(folder: Folder, location: str) -> str:
    """Returns the split folder in which a table is; empty if it is in none."""
    parent = location.removeprefix(f"{folder.root}/").partition("/")[0]
    return parent if parent in folder.split_folders else ""


def _split_of(folder: Folder, location: str) -> str:
    return split_named(_split_folder(folder, location) or _stem(location))


def _preferred(path: str) -> str:
    """Returns the table's name or, in a split folder, that of the folder: names mean the images of this split first."""
    parent, _, name = path.rpartition("/")
    return f"{parent}.csv" if split_named(parent) else name


def _name(location: str) -> str:
    return location.rpartition("/")[2]


def _stem(location: str) -> str:
    return _name(location).rpartition(".")[0]


def _manifest_in(folder: Folder) -> str | None:
    return next(filter(None, map(folder.find, MANIFEST_FILES)), None)


def _find(folder: Folder, options: DataOptions) -> list[str]:
    """Returns the location of the manifest, or those of the tables of several splits (`train.csv`, `val.csv`).

    Raises:
      LayoutError: If there is no table, or if several list images of the same split.
    """
    location = _manifest_in(folder)
    if location is not None:
        return [location]
    listing, _, faulty, _ = _other_tables(folder, options)
    listing = listing or faulty
    if not listing:
        raise LayoutError(f"{folder.root} has no {' or '.join(MANIFEST_FILES)}. Name the file in data.manifest.")
    splits = {_split_of(folder, join(folder.root, name)) for name in listing}
    if len(splits - {""}) < len(listing) > 1:
        locations = {name: shlex.quote(join(folder.root, name)) for name in listing}
        choices = "".join(
            f"\n  {f'--set data.manifest={locations[name]}' if '/' in name else f'--data {locations[name]}'}"
            for name in listing
        )
        raise LayoutError(f"{folder.root} has {len(listing)} tables that list images. Choose one:{choices}\n")
    return [join(folder.root, name) for name in listing]


LAYOUT = LayoutSpec(
    name="manifest",
    interpretation="a table lists the images",
    detect=_detect,
    list_entries=_list_entries,
    parts=_parts,
    list_part=_list_part,
    unsupported_options={"metadata_csv": "The manifest itself has the slice columns. Remove it."},
)
