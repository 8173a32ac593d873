"""A table that lists the images with their labels: `manifest.csv`, `manifest.jsonl`, or any file that is named."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

from components.image_example_gen import class_list, files, labels, missing_files, tables
from components.image_example_gen.errors import DatasetError, LayoutError
from components.image_example_gen.layouts._entries import Entry, LabelFile, Listing, RefusedFile, refuse
from components.image_example_gen.layouts._folder import Folder, known_split_names, split_named
from components.image_example_gen.layouts._spec import Confidence, Evidence, LayoutSpec
from components.image_example_gen.layouts.mask_pairs import classes_of_masks
from trainer_module import features

if TYPE_CHECKING:
    from components.image_example_gen.options import DataOptions

MANIFEST_FILES = ("manifest.csv", "manifest.jsonl")
# Columns that are not slices.
PATH, LABEL, MASK, SPLIT, GROUP = "path", "label", "mask", "split", "group"


def _detect(folder: Folder, options: DataOptions) -> Evidence:
    if options.manifest:
        return Evidence("manifest", Confidence.CONFIGURED, (f"data.manifest = {options.manifest}",))
    names = [file.path for file in folder.files if file.path in MANIFEST_FILES]
    if names:
        return Evidence("manifest", Confidence.INDEX_FILE, (f"a file {names[0]}",))
    return Evidence("manifest", Confidence.NONE, contradicting=(f"no {' or '.join(MANIFEST_FILES)}",))


def _list_entries(folder: Folder, options: DataOptions) -> Listing:
    table = tables.read(options.manifest or _find(folder), required=PATH)
    if LABEL not in table.columns and MASK not in table.columns:
        raise DatasetError(f"{table.location} has neither a column `{LABEL}` nor a column `{MASK}`.")
    if options.group_column and options.group_column not in table.columns:
        raise DatasetError(f"data.group_column: {table.location} has no column `{options.group_column}`.")
    has_masks = MASK in table.columns
    columns = tuple(
        column for column in table.columns if column not in (PATH, LABEL, MASK, SPLIT, GROUP, options.group_column)
    )
    paths = {
        _relative(folder.root, row.values[key]) for row in table.rows for key in (PATH, MASK) if row.values.get(key)
    }
    known = {file.path: file for file in files.describe(folder.root, list(paths))}
    entries: list[Entry] = []
    refused: list[RefusedFile] = []
    for row in table.rows:
        path, label, mask = (row.values.get(key, "") for key in (PATH, LABEL, MASK))
        split = row.values.get(SPLIT, "")
        if split and not split_named(split):
            raise DatasetError(
                f"{table.location}, line {row.line}: unknown split `{split}`. Names of splits: {known_split_names()}."
            )
        line = f"{table.name}, line {row.line}"
        file, mask_file = known.get(_relative(folder.root, path)), known.get(_relative(folder.root, mask))
        if file is None:
            refused.append(RefusedFile(line, "no path"))
        elif not (mask if has_masks else label):
            refused.append(refuse(file, f"no {MASK if has_masks else LABEL} ({line})"))
        elif file.is_folder:
            refused.append(refuse(file, f"a folder ({line})"))
        elif has_masks and mask_file and (mask_file.problem or mask_file.is_folder):
            refused.append(refuse(file, f"unusable mask: {mask_file.path}: {mask_file.problem or 'a folder'}"))
        elif file.problem:
            refused.append(refuse(file))
        else:
            entries.append(
                Entry(
                    *file[:3],
                    label=() if has_masks else labels.of_class(label),
                    label_files=(LabelFile(features.MASK_ENCODED, *mask_file[:3]),) if has_masks and mask_file else (),
                    split=split_named(split),
                    group=row.values.get(options.group_column or GROUP, "") or options.group_of(file.path),
                    slices=tuple(row.values[column] or tables.UNKNOWN for column in columns),
                )
            )
    _refuse_missing(table, folder.root, known.values())
    return Listing(
        labels.MASK_LABEL if has_masks else labels.CLASS_LABEL,
        tuple(entries),
        tuple(refused),
        columns,
        frozenset(name for entry in entries for name in entry.classes),
        classes_of_masks(folder, options) if has_masks else class_list.ClassList(),
    )


def _refuse_missing(table: tables.Table, root: str, described: Iterable[files.File]) -> None:
    """Refuses a table of which most paths do not exist: they are written in another way than the files are stored.

    Raises:
      DatasetError: With the nearest existing file and the fix.
    """
    paths = {file.path: file.problem for file in described}
    # An absolute path is often that of another machine.
    missing = sorted(
        path
        for path, problem in paths.items()
        if problem == files.MISSING or (path.startswith("/") and not files.is_file(path))
    )
    if 2 * len(missing) > len(paths):
        raise DatasetError(
            f"{table.location}: {len(missing):,} of {len(paths):,} paths do not exist in {root}, "
            f"{missing_files.describe(root, missing)}"
        )


def _find(folder: Folder) -> str:
    location = next(filter(None, map(folder.find, MANIFEST_FILES)), None)
    if location is None:
        raise LayoutError(f"{folder.root} has no {' or '.join(MANIFEST_FILES)}. Name the file in data.manifest.")
    return location


def _relative(root: str, path: str) -> str:
    """Returns a path relative to the data folder; one that begins with the folder's own location is shortened."""
    return path.removeprefix(root + "/").removeprefix("./")


LAYOUT = LayoutSpec(
    name="manifest",
    interpretation="a table lists the images",
    detect=_detect,
    list_entries=_list_entries,
    unsupported_options={"metadata_csv": "The manifest itself has the slice columns. Remove it."},
)
