"""How pictures are laid out: which files, of which class, split and group. Reads names and tables, never a picture."""

from __future__ import annotations

import hashlib
import re
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from typing import NamedTuple

from components.image_example_gen import files, spans, tables
from components.image_example_gen.options import DataOptions, LayoutKind
from components.image_example_gen.tables import BUILT_IN_SLICE_NAMES as BUILT_IN_SLICE_NAMES
from trainer_module import features
from trainer_module.error_text import first_line
from trainer_module.locations import join

METADATA_FILE = "metadata.csv"
FILENAME_COLUMN = "filename"
CLASSES_FILE = "classes.txt"  # with masks: one name a line, the line's number (from 0) is the id
_IGNORED_LINE = re.compile(r"(\d+) ignored")  # the last line of that file, if wanted
MANIFEST_FILES = ("manifest.csv", "manifest.jsonl")
# Columns of a manifest that are not slices.
PATH, LABEL, MASK, SPLIT, GROUP = "path", "label", "mask", "split", "group"
SPAN_COLUMN = "span"
IMAGES_FOLDER, MASKS_FOLDER = "images", "masks"
UNKNOWN = "unknown"  # slice value of a picture that no table names

# A column with more values than this (an address, a time) is no slice unless it is asked for.
MOST_SLICE_VALUES = 50
# What looks like a picture and lies where none belongs is reported; a licence or a table there is not.
_PICTURE_SUFFIXES = (
    *(".jpg", ".jpeg", ".jfif", ".png", ".gif", ".bmp", ".webp", ".tif", ".tiff", ".heic", ".heif", ".avif"),
)
_TFRECORD_NAME = re.compile(r"(.*[._-])?tfrecords?(-\d+-of-\d+)?(\.gz)?")
_SPLIT_NAMES = {
    **{split: split for split in features.SPLITS},
    "training": features.TRAIN,
    "val": features.VALIDATION,
    "valid": features.VALIDATION,
    "testing": features.TEST,
}


class DatasetError(Exception):
    """The pictures cannot be trained on as they are; the message says what to change."""


class Entry(NamedTuple):
    """One picture (or one TFRecord file) and what is said of it.

    Attributes:
      path: Relative to the layout's root.
      size: Bytes.
      label: Class name; empty where a mask or the TFRecord says it.
      mask: Path of the mask; empty for classification.
      split: The split that the data name; empty if it is to be drawn.
      group: Stays on one side of the split with all others of that name; empty if it stands alone.
      slices: Values of the layout's columns.
    """

    path: str
    size: int
    label: str = ""
    mask: str = ""
    split: str = ""
    group: str = ""
    slices: tuple[str, ...] = ()


class Refused(NamedTuple):
    """A file that is not used, and why."""

    path: str
    reason: str


@dataclass(frozen=True)
class Layout:
    """What was found.

    Attributes:
      kind: How the pictures lie.
      root: The folder that all paths start from.
      with_masks: Whether pictures have masks instead of classes.
      entries: What there is to read, by path.
      refused: What is not read.
      classes: Class names: alphabetical, or with masks in the order of the ids.
      ignore_id: With masks, the id of pixels that count for nothing, if there is one.
      own_splits: Splits that the data name; the others get their share of what has none.
      columns: Columns of the manifest or metadata that may be slices.
      slice_columns: Those with few enough values.
      span: Number of the newest span; 0 where there are none.
      version: Of that span.
      fingerprint: Digest of every file's path, size, time of change and of what is said of it.
      notes: What people should know before the run.
    """

    kind: LayoutKind
    root: str
    with_masks: bool
    entries: tuple[Entry, ...]
    refused: tuple[Refused, ...] = ()
    classes: tuple[str, ...] = ()
    ignore_id: int | None = None
    own_splits: tuple[str, ...] = ()
    columns: tuple[str, ...] = ()
    slice_columns: tuple[str, ...] = ()
    span: int = 0
    version: int = 0
    fingerprint: str = ""
    notes: tuple[str, ...] = ()

    @property
    def num_files(self) -> Counter[str]:
        """Number of files of every class, over all splits; of no class for masks and TFRecords."""
        return Counter(entry.label for entry in self.entries if entry.label)


def inspect(location: str, options: DataOptions) -> Layout:
    """Looks at the data and refuses what could not be trained on.

    Args:
      location: A folder, a manifest, or a path with `{SPAN}`; local or any that TensorFlow's file system reads.
      options: `[data]`.

    Raises:
      DatasetError: If nothing is there, if the layout or a table contradicts itself, if a class is missing, or too
        small to be both trained on and evaluated.
    """
    try:
        if spans.has_spans(location):
            found = _all_spans(location, options)
        else:
            found = _one_folder(location, options)
    except (tables.TableError, spans.SpanError, files.UnreadableFileError) as error:
        raise DatasetError(str(error)) from None
    layout = _finished(found, options)
    _refuse_untrainable(location, layout, options)
    return layout


def parse_splits(own: Iterable[str]) -> tuple[str, ...]:
    """Splits in their usual order."""
    named = set(own)
    return tuple(split for split in features.SPLITS if split in named)


# --- Finding ----------------------------------------------------------------------------------------------------


class _Found:
    """A layout while it is put together."""

    def __init__(self, kind: LayoutKind, root: str) -> None:
        self.kind: LayoutKind = kind
        self.root = root
        self.with_masks = kind == "mask_pairs"
        self.entries: list[Entry] = []
        self.refused: list[Refused] = []
        self.columns: tuple[str, ...] = ()
        self.mask_classes: tuple[str, ...] = ()  # of classes.txt
        self.ignore_id: int | None = None  # of the same
        self.labels: set[str] = set()  # class folders count even while they are empty
        self.notes: list[str] = []
        self.span = self.version = 0
        self.digest = hashlib.sha256()

    def add(self, found: files.File, **said: str | tuple[str, ...]) -> None:
        if found.problem:
            self.refuse(found.path, found.problem)
            return
        self.entries.append(Entry(found.path, found.size, **said))  # type: ignore[arg-type]
        self.note(found)

    def note(self, found: files.File) -> None:
        self.digest.update(f"{found.path}\0{found.size}\0{found.changed_ns}\n".encode(errors="surrogateescape"))

    def refuse(self, path: str, reason: str) -> None:
        self.refused.append(Refused(files.readable(path), reason))


def _all_spans(pattern: str, options: DataOptions) -> _Found:
    chosen = spans.resolve(pattern, options.spans)
    root = spans.root_of(pattern)
    parts = [_one_folder(join(root, span.path), options) for span in chosen]
    if len(chosen) == 1:
        (whole,) = parts
        whole.span, whole.version = chosen[0].number, chosen[0].version
        whole.digest.update(f"{chosen[0]}".encode())
        _add_span_column(whole, chosen[0].number)
        return whole
    whole = _Found(parts[0].kind, root)
    whole.span, whole.version = chosen[-1].number, chosen[-1].version
    if len({part.kind for part in parts}) > 1 or len({part.columns for part in parts}) > 1:
        raise DatasetError(f"{root}: the spans do not have the same layout and columns; set data.spans to one of them.")
    if len({(part.mask_classes, part.ignore_id) for part in parts}) > 1:
        raise DatasetError(f"{root}: {CLASSES_FILE} is not the same in all spans. Set data.classes.")
    whole.with_masks, whole.mask_classes = parts[0].with_masks, parts[0].mask_classes
    whole.ignore_id = parts[0].ignore_id
    for span, part in zip(chosen, parts, strict=True):
        _add_span_column(part, span.number)
        whole.columns = part.columns
        whole.labels |= part.labels
        whole.notes += part.notes
        whole.digest.update(f"{span}{part.digest.hexdigest()}".encode())
        whole.refused += [refused._replace(path=f"{span.path}/{refused.path}") for refused in part.refused]
        whole.entries += [
            entry._replace(
                path=f"{span.path}/{entry.path}",
                mask=entry.mask and f"{span.path}/{entry.mask}",
            )
            for entry in part.entries
        ]
    return whole


def _add_span_column(found: _Found, number: int) -> None:
    """With one span too: the next run may read two, and slices should not come and go."""
    if found.kind == "tfrecord":
        return  # its records say all that there is to say
    if SPAN_COLUMN in found.columns:
        raise DatasetError(
            f"{found.root}: the column `{SPAN_COLUMN}` is the number of the span; give yours another name."
        )
    found.columns = (*found.columns, SPAN_COLUMN)
    found.entries = [entry._replace(slices=(*entry.slices, str(number))) for entry in found.entries]


def _one_folder(location: str, options: DataOptions) -> _Found:
    root, manifest = location.rstrip("/"), options.manifest
    if root.endswith((".csv", ".jsonl")) and files.is_file(root):
        root, manifest = root.rpartition("/")[0], root
    if not files.is_folder(root):
        raise DatasetError(f"The data folder {root} does not exist. Set data.path, or give --data DIR.")
    top = files.listing(root)
    for found in top:
        if found.problem and (found.is_folder or found.path in (*MANIFEST_FILES, METADATA_FILE, CLASSES_FILE)):
            raise DatasetError(f"{join(root, files.readable(found.path))}: {found.problem}.")
    kind = options.layout if options.layout != "auto" else _kind(root, top, manifest)
    if manifest and kind != "manifest":
        raise DatasetError(f'data.layout = "{kind}" does not go with the manifest {manifest}. Remove one of them.')
    if options.metadata_csv and kind in ("manifest", "tfrecord"):
        raise DatasetError(f"data.metadata_csv does not go with a {kind}, which names slices itself. Remove it.")
    if options.split_pattern and kind == "tfrecord":
        raise DatasetError("data.split_pattern does not go with TFRecords: name their splits by folders or file names.")
    if kind == "manifest":
        read = _from_manifest(root, manifest or _find_manifest(root, top), options)
    elif kind == "tfrecord":
        read = _from_tfrecords(root, top, options)
    else:
        reader = {
            "class_folders": _from_class_folders,
            "split_folders": _from_split_folders,
            "mask_pairs": _from_mask_pairs,
        }[kind]
        read = reader(root, top)
        _join_metadata(read, _find_metadata(root, top, options), options)
    read.mask_classes, read.ignore_id = _classes_of_masks(read, options)
    return read


def _classes_of_masks(found: _Found, options: DataOptions) -> tuple[tuple[str, ...], int | None]:
    """The names in `classes.txt` and the id that it says is ignored, where they are wanted and there."""
    if not found.with_masks or options.classes is not None or not files.is_file(join(found.root, CLASSES_FILE)):
        return (), None
    location = join(found.root, CLASSES_FILE)
    try:
        lines = files.read(found.root, CLASSES_FILE).decode("utf-8-sig").rstrip().splitlines()
    except (files.UnreadableFileError, UnicodeDecodeError) as error:
        raise DatasetError(f"{location} cannot be read: {first_line(error)}") from None
    names = [line.strip() for line in lines]
    ignored = _IGNORED_LINE.fullmatch(names[-1]) if names else None
    ignore_id = int(ignored.group(1)) if ignored else None
    if ignore_id is not None and not len(names := names[:-1]) <= ignore_id <= 255:
        raise DatasetError(
            f"{location}, line {len(lines)}: the ignored id is one above those of the classes (0 to {len(names) - 1}) "
            "and at most 255. To leave out a class, set data.ignore_id."
        )
    for number, name in enumerate(names):
        if not name:
            raise DatasetError(f"{location}, line {number + 1}: no name. The line's number, from 0, is the class's id.")
        if name in names[:number]:
            raise DatasetError(f"{location}, line {number + 1}: {name} stands here again.")
    return tuple(names), ignore_id


def _kind(root: str, top: list[files.File], manifest: str | None) -> LayoutKind:
    """What the folder looks like."""
    folders = {found.path for found in top if found.is_folder}
    if manifest or any(found.path in MANIFEST_FILES for found in top):
        return "manifest"
    split_folders = sorted(folders & _SPLIT_NAMES.keys())
    inside = [found for split in split_folders for found in files.listing(root, split)]
    if any(_TFRECORD_NAME.fullmatch(found.path) for found in [*top, *inside]):
        return "tfrecord"
    if {IMAGES_FOLDER, MASKS_FOLDER} <= (folders | {found.path.rpartition("/")[2] for found in inside}):
        return "mask_pairs"
    return "split_folders" if split_folders else "class_folders"


def _from_class_folders(root: str, top: list[files.File], split: str = "") -> _Found:
    found = _Found("class_folders", root)
    for folder in top:
        if not folder.is_folder:
            _note_stray(found, folder)
            continue
        if folder.problem:
            raise DatasetError(f"{join(root, files.readable(folder.path))}: {folder.problem}.")
        label = folder.path.rpartition("/")[2]
        if label != files.readable(label):
            raise DatasetError(f"{root}: the name of the folder {files.readable(label)!r} is not UTF-8. Rename it.")
        found.labels.add(label)
        for file in files.listing(root, folder.path):
            if file.is_folder and file.problem:
                raise DatasetError(f"{join(root, file.path)}: {file.problem}.")
            if not file.is_folder:
                found.add(file, label=label, split=split)
                continue
            for deeper in files.walk(root, file.path):
                found.refuse(deeper.path, deeper.problem or "in a folder inside a class folder; it is not used")
    return found


def _from_split_folders(root: str, top: list[files.File]) -> _Found:
    whole = _Found("split_folders", root)
    folders = [found.path for found in top if found.is_folder]
    split_of = _split_folders(root, folders)
    others = sorted(set(folders) - split_of.keys())
    if others:
        raise DatasetError(
            f"{root} has folders of splits ({', '.join(split_of)}) and others beside them ({', '.join(others)}). "
            f"Expected either one folder a class, or only {', '.join(features.SPLITS)} with the classes inside. If "
            'these are names of classes, set data.layout = "class_folders".'
        )
    for found in top:
        if not found.is_folder:
            _note_stray(whole, found)
            continue
        part = _from_class_folders(root, files.listing(root, found.path), split=split_of[found.path])
        if not part.labels:
            raise DatasetError(
                f"{join(root, found.path)} has no class folders. Add them, or remove the folder of this split."
            )
        whole.labels |= part.labels
        whole.entries += part.entries
        whole.refused += part.refused
        whole.digest.update(part.digest.digest())
    return whole


def _split_folders(root: str, folders: Iterable[str]) -> dict[str, str]:
    """Which folders are splits: folder → split.

    Raises:
      DatasetError: If two of them are the same split.
    """
    split_of = {folder: _SPLIT_NAMES[folder] for folder in sorted(folders) if folder in _SPLIT_NAMES}
    for split in features.SPLITS:
        same = [folder for folder, its_split in split_of.items() if its_split == split]
        if len(same) > 1:
            raise DatasetError(f"{root}: {' and '.join(same)} are the same split. Put them together.")
    return split_of


def _from_mask_pairs(root: str, top: list[files.File]) -> _Found:
    """`images/a.jpg` belongs to `masks/a.png`; both may lie in split folders, or have split folders inside."""
    found = _Found("mask_pairs", root)
    names = {folder.path for folder in top if folder.is_folder}
    split_of = _split_folders(root, names)
    if split_of and names & {IMAGES_FOLDER, MASKS_FOLDER}:
        raise DatasetError(
            f"{root} has {IMAGES_FOLDER} and {MASKS_FOLDER} both beside and inside of {', '.join(split_of)}. "
            "Keep one way."
        )
    for file in top:
        if file.is_folder and file.path not in {IMAGES_FOLDER, MASKS_FOLDER, *split_of}:
            raise DatasetError(
                f"{join(root, files.readable(file.path))}: expected {IMAGES_FOLDER} and {MASKS_FOLDER}, or folders of "
                "splits with these inside. Move it elsewhere."
            )
        _note_stray(found, file)
    for above in split_of or ("",):
        prefix = f"{above}/" if above else ""
        images, masks = (
            list(files.walk(root, prefix + kind)) if files.is_folder(join(root, prefix + kind)) else []
            for kind in (IMAGES_FOLDER, MASKS_FOLDER)
        )
        by_stem: dict[str, files.File] = {}
        for file in masks:
            stem = _stem(file.path, prefix + MASKS_FOLDER)
            rival = by_stem.get(stem)
            problem = f"there is {rival.path} too; which of them counts?" if rival else file.problem
            by_stem[stem] = file._replace(problem=problem)
        for image in images:
            stem = _stem(image.path, prefix + IMAGES_FOLDER)
            mask = by_stem.pop(stem, None)
            inside = stem.partition("/")[0] if "/" in stem else ""
            if mask is None:
                found.refuse(image.path, f"no mask {prefix}{MASKS_FOLDER}/{stem}.png belongs to it")
            elif mask.problem:
                found.refuse(image.path, f"its mask {mask.path}: {mask.problem}")
            else:
                split = split_of[above] if above else _SPLIT_NAMES.get(inside, "")
                found.add(image, mask=mask.path, split=split)
                found.note(mask)
        for mask in by_stem.values():
            found.refuse(mask.path, "a mask without a picture")
    return found


def _from_tfrecords(root: str, top: list[files.File], options: DataOptions) -> _Found:
    """`train/x.tfrecord`, `train-00000-of-00010.tfrecord.gz`, or any name if the split is to be drawn."""
    found = _Found("tfrecord", root)
    split_of = _split_folders(root, (folder.path for folder in top if folder.is_folder))
    for file in [*top, *(file for folder in split_of for file in files.listing(root, folder))]:
        folder, _, name = file.path.rpartition("/")
        if file.is_folder and file.path not in split_of:
            raise DatasetError(
                f"{join(root, files.readable(file.path))}: beside TFRecord files, only folders of splits are read."
            )
        if _TFRECORD_NAME.fullmatch(file.path) and not file.is_folder:
            found.add(file, split=split_of[folder] if folder else _split_in_name(name))
        elif not file.is_folder:
            _note_stray(found, file)
    if found.entries:
        keys = _first_keys(join(root, found.entries[0].path))
        if options.group_column and features.SLICE_PREFIX + options.group_column not in keys:
            raise DatasetError(
                f"data.group_column: {found.entries[0].path} has no feature "
                f"{features.SLICE_PREFIX}{options.group_column}."
            )
        found.with_masks = features.MASK_ENCODED in keys
        slices = {key.removeprefix(features.SLICE_PREFIX) for key in keys if key.startswith(features.SLICE_PREFIX)}
        found.columns = tuple(sorted(slices - set(BUILT_IN_SLICE_NAMES)))
    return found


def _split_in_name(name: str) -> str:
    """`birds-test.tfrecord-00000-of-00002` → `test`; empty if no word of the name, or more than one, is a split."""
    words = re.split(r"[^a-z]+", name.partition("tfrecord")[0])
    found = {_SPLIT_NAMES[word] for word in words if word in _SPLIT_NAMES}
    return found.pop() if len(found) == 1 else ""


def _first_keys(location: str) -> set[str]:
    """The features of the first example of a TFRecord file; the others are expected to be alike."""
    import tensorflow as tf

    try:
        for serialized in files.records(location).take(1).as_numpy_iterator():
            return set(tf.train.Example.FromString(serialized).features.feature)
    except Exception as error:  # TensorFlow's for the file, protobuf's for the record
        raise DatasetError(
            f"{files.readable(location)} is not a TFRecord file of tf.Example: {first_line(error)}"
        ) from None
    return set()


def _from_manifest(root: str, location: str, options: DataOptions) -> _Found:
    table = tables.read(location, required=PATH)
    found = _Found("manifest", root)
    if LABEL not in table.columns and MASK not in table.columns:
        raise DatasetError(f"{location} has neither a column `{LABEL}` nor a column `{MASK}`.")
    with_masks = found.with_masks = MASK in table.columns
    group_column = options.group_column or GROUP
    if options.group_column and options.group_column not in table.columns:
        raise DatasetError(f"data.group_column: {location} has no column `{options.group_column}`.")
    found.columns = tuple(
        column for column in table.columns if column not in (PATH, LABEL, MASK, SPLIT, GROUP, options.group_column)
    )
    paths = {_below(root, row.values[key]) for row in table.rows for key in (PATH, MASK) if row.values.get(key)}
    known = {file.path: file for file in files.describe(root, list(paths))}
    for row in table.rows:
        label, mask, path = (row.values.get(key, "") for key in (LABEL, MASK, PATH))
        split = row.values.get(SPLIT, "").lower()
        if split and split not in _SPLIT_NAMES:
            raise DatasetError(
                f"{location}, line {row.line}: unknown split `{split}`. Splits: {', '.join(features.SPLITS)}."
            )
        where = f"{table.name}, line {row.line}"
        file, mask_file = known.get(_below(root, path)), known.get(_below(root, mask))
        if file is None:
            found.refuse(where, "no path")
        elif not (mask if with_masks else label):
            found.refuse(file.path, f"no {MASK if with_masks else LABEL} ({where})")
        elif file.is_folder:
            found.refuse(file.path, f"a folder ({where})")
        elif with_masks and mask_file is not None and (mask_file.problem or mask_file.is_folder):
            found.refuse(file.path, f"its mask {mask_file.path}: {mask_file.problem or 'a folder'}")
        else:
            found.add(
                file,
                label="" if with_masks else label,
                mask=mask_file.path if with_masks and mask_file else "",
                split=_SPLIT_NAMES.get(split, ""),
                group=row.values.get(group_column, "") or matched_group(file.path, options),
                slices=tuple(row.values[column] or UNKNOWN for column in found.columns),
            )
            if with_masks and mask_file:
                found.note(mask_file)
    found.labels = {entry.label for entry in found.entries if entry.label}
    return found


def _below(root: str, path: str) -> str:
    """A manifest's path, relative to the data folder; one that starts with the folder's own location is shortened."""
    return path.removeprefix(root + "/").removeprefix("./")


def _note_stray(found: _Found, file: files.File) -> None:
    if file.path.lower().endswith(_PICTURE_SUFFIXES):
        found.refuse(file.path, "not inside a class folder; it is not used")


def _stem(path: str, folder: str) -> str:
    below = path.removeprefix(f"{folder}/")
    stem, dot, suffix = below.rpartition(".")
    return stem if dot and "/" not in suffix else below


def matched_group(path: str, options: DataOptions) -> str:
    """The group that `group_pattern` reads from a path; empty if it does not match."""
    match = re.search(options.group_pattern, path) if options.group_pattern else None
    return (match.group(1) or "") if match else ""


def matched_split(path: str, options: DataOptions) -> str:
    """The split that `split_pattern` reads from a path; empty if it does not match."""
    match = re.search(options.split_pattern, path) if options.split_pattern else None
    return next((split for split, text in match.groupdict().items() if text is not None), "") if match else ""


# --- Tables -----------------------------------------------------------------------------------------------------


def _find_manifest(root: str, top: list[files.File]) -> str:
    for found in top:
        if found.path in MANIFEST_FILES:
            return join(root, found.path)
    raise DatasetError(f"{root} has no {' or '.join(MANIFEST_FILES)}. Name the file in data.manifest.")


def _find_metadata(root: str, top: list[files.File], options: DataOptions) -> str | None:
    if options.metadata_csv is not None:
        if not files.is_file(options.metadata_csv):
            raise DatasetError(f"data.metadata_csv: {options.metadata_csv} does not exist.")
        return options.metadata_csv
    return join(root, METADATA_FILE) if any(found.path == METADATA_FILE for found in top) else None


def _join_metadata(found: _Found, location: str | None, options: DataOptions) -> None:
    """Adds slices and groups to the entries, and notes what of the table and of the files does not meet."""
    rows: dict[str, dict[str, str]] = {}
    columns: tuple[str, ...] = ()
    if location is not None:
        table = tables.read(location, required=FILENAME_COLUMN)
        columns = tuple(column for column in table.columns if column != FILENAME_COLUMN)
        rows = _by_filename(table, columns)
    if options.group_column and options.group_column not in columns:
        where = location or f"there is no {METADATA_FILE} in {found.root}"
        raise DatasetError(f"data.group_column: no column `{options.group_column}` ({where}).")
    found.columns = tuple(column for column in columns if column != options.group_column)
    without_row = 0
    matched = set()
    for index, entry in enumerate(found.entries):
        row = rows.get(files.readable(entry.path))
        if row is None:
            without_row += 1
            row = {}
        else:
            matched.add(files.readable(entry.path))
        group = row.get(options.group_column or "", "") or matched_group(entry.path, options)
        slices = tuple(row.get(column) or UNKNOWN for column in found.columns)
        found.entries[index] = entry._replace(group=group, slices=slices)
    if location is None:
        return
    if not matched:
        raise DatasetError(
            f"{location}: no row names a file of the data folder. `{FILENAME_COLUMN}` is the path from the data "
            "folder, with forward slashes, for example cat/7.jpg."
        )
    if unmatched := len(rows) - len(matched):
        found.notes.append(f"{table.name}: {unmatched:,} rows name no file")
    if without_row:
        found.notes.append(f"{table.name}: {without_row:,} files have no row and count as `{UNKNOWN}`")


def _by_filename(table: tables.Table, columns: tuple[str, ...]) -> dict[str, dict[str, str]]:
    rows: dict[str, dict[str, str]] = {}
    for row in table.rows:
        name = row.values[FILENAME_COLUMN].removeprefix("./")
        values = {column: row.values[column] for column in columns}
        if name and rows.setdefault(name, values) != values:
            raise DatasetError(f"{table.location}, line {row.line}: {name} stands here again, with other values.")
    return rows


# --- Checking ---------------------------------------------------------------------------------------------------


def _finished(found: _Found, options: DataOptions) -> Layout:
    """Draws together what follows from all entries: classes, splits, slices, fingerprint."""
    entries = [
        entry._replace(split=entry.split or matched_split(entry.path, options)) for entry in sorted(found.entries)
    ]
    own_splits = parse_splits(entry.split for entry in entries)
    wanted = options.written_splits(own_splits)
    if set(wanted) - set(own_splits) and all(entry.split for entry in entries):
        # A split without pictures of its own gets its share of those for training, if nothing else is left to draw.
        entries = [entry._replace(split="") if entry.split == features.TRAIN else entry for entry in entries]
    digest = found.digest
    for said in (*entries, *sorted(found.refused)):
        digest.update(repr(said).encode())
    slice_columns, notes = [], list(found.notes)
    for number, column in enumerate(found.columns):
        num_values = len({entry.slices[number] for entry in entries if entry.slices})
        if num_values <= MOST_SLICE_VALUES:
            slice_columns.append(column)
        else:
            notes.append(
                f"column `{column}` has {num_values:,} values; it is a slice only if evaluation.slices names it"
            )
    layout = Layout(
        kind=found.kind,
        root=found.root,
        with_masks=found.with_masks,
        entries=tuple(entries),
        refused=tuple(sorted(found.refused)),
        # Ids are alphabetical, but those of masks, which are in the masks.
        classes=(options.classes or found.mask_classes)
        if found.with_masks
        else tuple(sorted(options.classes or found.labels)),
        ignore_id=found.ignore_id if options.ignore_id is None else options.ignore_id,
        own_splits=own_splits,
        columns=found.columns,
        slice_columns=tuple(slice_columns),
        span=found.span,
        version=found.version,
        fingerprint=digest.hexdigest(),
        notes=tuple(notes),
    )
    if options.classes is not None and found.labels and found.labels != set(options.classes):
        differing = ", ".join(f"`{name}`" for name in sorted(found.labels ^ set(options.classes)))
        raise DatasetError(f"{found.root}: data.classes and the classes of the data differ: {differing}.")
    return layout


def _refuse_untrainable(location: str, layout: Layout, options: DataOptions) -> None:
    has_labels = layout.kind in ("class_folders", "split_folders") or bool(layout.num_files)
    if has_labels and not layout.classes:
        raise DatasetError(f"{location} has no class folders. Expected one folder a class with its pictures inside.")
    if not layout.classes:
        what = "TFRecords do not name" if layout.kind == "tfrecord" else "Masks hold ids, not names; name"
        where = f", or write {CLASSES_FILE} into the folder, one name a line" if layout.with_masks else ""
        raise DatasetError(
            f"{location}: {what} the classes in advance. Set data.classes, for example "
            f'--set data.classes=\'["cat", "dog"]\'{where}.'
        )
    if len(layout.classes) == 1:
        raise DatasetError(
            f"{location} has a single class ({layout.classes[0]}). A classifier needs at least two class folders."
        )
    if layout.own_splits and features.TRAIN not in layout.own_splits and all(entry.split for entry in layout.entries):
        raise DatasetError(f"{location} has split folders ({', '.join(layout.own_splits)}) but no `train` among them.")
    if not has_labels:
        if not layout.entries:
            listed = "".join(f"\n  {refused.path}: {refused.reason}" for refused in layout.refused[:5])
            raise DatasetError(f"{location} has nothing that can be used.{listed}")
        return
    count = layout.num_files
    empty = [name for name in layout.classes if not count[name]]
    if empty:
        raise DatasetError(f"{location}: no pictures in class {_names(empty)}. Add some, or remove the folder.")
    single = [name for name in layout.classes if count[name] == 1]
    if single:
        raise DatasetError(
            f"{location}: only one picture in class {_names(single)}. A class needs at least two, "
            "one to train on and one to evaluate; add pictures, or remove the folder."
        )
    trained = {entry.label for entry in layout.entries if entry.split in ("", features.TRAIN)}
    untrained = [name for name in layout.classes if name not in trained]
    if untrained:
        raise DatasetError(f"{join(location, features.TRAIN)}: no pictures of class {_names(untrained)} to train on.")


def _names(names: list[str]) -> str:
    shown = ", ".join(f"`{name}`" for name in names[:5])
    return shown + (f" and {len(names) - 5} more" if len(names) > 5 else "")
