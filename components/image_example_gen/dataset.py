"""A dataset before its images are read: files, classes, splits, groups and slices, from names and tables only."""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import itertools
import weakref
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from components.image_example_gen import (
    class_list,
    class_names,
    corrections,
    files,
    label_sets,
    labelled_span,
    labels,
    layouts,
    spans,
    tables,
)
from components.image_example_gen.artifact import Correction
from components.image_example_gen.class_list import Color
from components.image_example_gen.entries import Entry, RefusedFile
from components.image_example_gen.errors import DatasetError, LayoutError, UnnamedClassesError
from components.image_example_gen.folder_listing import DatasetFolder, Engine, list_dataset
from components.image_example_gen.layouts import NESTED, Detection, Folder, LayoutSpec, Listing
from components.image_example_gen.options import AUTO, DataOptions
from components.image_example_gen.stored_entries import EntryTotals, Sketch, collect, collect_sorted, with_drawn_train
from trainer_module import features
from trainer_module.error_text import listed
from trainer_module.locations import join

SPAN_COLUMN = "span"

# A column with more values than this (an address, a time) is not a slice unless the configuration names it.
MOST_SLICE_VALUES = 50
_MOST_COUNTED = 10_000  # of them; each is in memory meanwhile
_MOST_NAMES = 5
# The splits of entries that may be trained on.
_TRAINED = frozenset(("", features.TRAIN))


@dataclass(frozen=True)
class Dataset:
    """All images of a run.

    Attributes:
      layout: Name of the layout.
      root: The folder that all paths start from.
      label_features: Raw example features of the label that every example has.
      entries: The files to read, by path; those of a large dataset may be in files (`StoredEntries`).
      refused: The files that are not used.
      classes: Class names in the order of their ids: as configured or as the dataset lists them, else alphabetical.
      ignore_id: The id of mask pixels that do not count, if there is one.
      colors: The colour of every class in masks; empty if masks contain ids or values.
      ignored_colors: Colours of mask pixels that do not count.
      own_splits: Splits that the dataset assigns; the others get their fraction of the images without one.
      columns: Columns of the manifest or metadata that may be slices.
      slice_columns: Those with few enough values.
      span: Number of the newest span; 0 without spans.
      version: Version of that span.
      fingerprint: Digest of the path, size and time of change of every file, and of its label.
      corrections: The images that `data.corrections` decides about; dropped ones are not among the entries.
      notes: What users should know before the run.
      is_grey: Whether the images of a sample have no colours; False if they were not examined.
      totals: Numbers of the entries, if they are counted.
      sketch: Of the entries, if they were listed folder by folder.
    """

    layout: str
    root: str
    label_features: tuple[str, ...]
    entries: Sequence[Entry]
    refused: tuple[RefusedFile, ...] = ()
    classes: tuple[str, ...] = ()
    ignore_id: int | None = None
    colors: tuple[Color, ...] = ()
    ignored_colors: tuple[Color, ...] = ()
    own_splits: tuple[str, ...] = ()
    columns: tuple[str, ...] = ()
    slice_columns: tuple[str, ...] = ()
    span: int = 0
    version: int = 0
    fingerprint: str = ""
    corrections: tuple[Correction, ...] = ()
    notes: tuple[str, ...] = ()
    is_grey: bool = False
    totals: EntryTotals | None = None
    sketch: Sketch = ()

    @property
    def num_bytes(self) -> int:
        """Size of all files that are read, bytes."""
        return sum(entry.num_bytes for entry in self.entries) if self.totals is None else self.totals.num_bytes

    @property
    def built_in_slices(self) -> tuple[str, ...]:
        """Names of the slices that every image has."""
        return labels.built_in_slices(self.label_features)


# Datasets that this process has listed and still uses, by location and options.
_LISTED: weakref.WeakValueDictionary[tuple[str, str], Dataset] = weakref.WeakValueDictionary()


def remember(location: str, options: DataOptions, dataset: Dataset) -> Dataset:
    """Keeps a dataset for `listed_dataset` as long as somebody else keeps it."""
    _LISTED[location, options.model_dump_json()] = dataset
    return dataset


def listed_dataset(location: str, options: DataOptions, fingerprint: str, engine: Engine | None = None) -> Dataset:
    """Returns the dataset as this process has listed it for the definition of the pipeline, or lists it.

    Args:
      location: As in `inspect_dataset`.
      options: `[data]`.
      fingerprint: That of the definition.
      engine: As in `inspect_dataset`.

    Raises:
      DatasetError: As in `inspect_dataset`.
    """
    dataset = _LISTED.get((location, options.model_dump_json()))
    if dataset is not None and dataset.fingerprint == fingerprint:
        return dataset
    return inspect_dataset(location, options, engine)


def inspect_dataset(location: str, options: DataOptions, engine: Engine | None = None) -> Dataset:
    """Lists a dataset, and refuses one that cannot be trained on.

    Args:
      location: A folder, a manifest, or a path with `{SPAN}`; local, or any that TensorFlow's file system reads.
      options: `[data]`.
      engine: Lists class folders if there are very many images; see `list_dataset`.

    Raises:
      DatasetError: If it does not exist, if its layout or a table contradicts itself, or if a class has no images, or
        too few to be both trained on and evaluated.
    """
    try:
        chosen = spans.resolve(location, options.spans) if spans.has_spans(location) else []
        root = spans.root_of(location)
        places = [join(root, span.path) for span in chosen] or [location]
        opened = [_open(each, options) for each in places]
        if all(map(_has_separate_folders, opened)):
            listed = _list_separately(root if chosen else opened[0].root, opened, chosen, options, engine)
        else:
            parts = [_list(each) for each in opened]
            listed = _complete(_merge_spans(root, chosen, parts) if chosen else parts[0], chosen, options)
    except files.UnreadableFileError as error:
        raise DatasetError(str(error)) from None
    dataset = _describe(listed, chosen, options)
    try:
        _refuse_untrainable(location, dataset, listed, is_detected=bool(listed.part.detection.evidence))
    except LayoutError as error:
        raise LayoutError(f"{error}{listed.part.detection}") from None
    return dataset


# === Listing ===


def list_folder(location: str, options: DataOptions) -> Listing:
    """Lists a folder by its layout, without judging whether it can be trained on.

    Raises:
      DatasetError: If its layout or a table contradicts itself.
    """
    return _list(_open(location, options)).listing


@dataclass(frozen=True)
class _Opened:
    """A folder whose layout is known.

    Attributes:
      root: The folder that all paths start from.
      folder: The files and folders directly in it.
      options: `[data]`, as the folder requires it.
      layout: Its layout.
      detection: Why that layout was chosen.
    """

    root: str
    folder: Folder
    options: DataOptions
    layout: LayoutSpec
    detection: Detection

    @contextlib.contextmanager
    def with_evidence(self) -> Iterator[None]:
        """Adds the evidence to the errors of the layout."""
        try:
            yield
        except LayoutError as error:
            raise LayoutError(f"{error}{self.detection}") from None


@dataclass(frozen=True)
class _Part:
    """One folder, or several spans of the same layout.

    Attributes:
      root: The folder that all paths start from.
      layout: Its layout.
      detection: Why that layout was chosen.
      listing: Its files.
    """

    root: str
    layout: LayoutSpec
    detection: Detection
    listing: Listing


def _open(location: str, options: DataOptions) -> _Opened:
    root = location.rstrip("/")
    if root.endswith(tables.SUFFIXES) and files.is_file(root):
        options = options.model_copy(update={"manifest": root})
        root = root.rpartition("/")[0]
    if not files.is_folder(root):
        raise DatasetError(f"The data folder {root} does not exist. Set data.path, or give --data DIR.")
    # Corrections in the data folder are not another table of labels.
    folder = Folder(root, tuple(file for file in files.listing(root) if join(root, file.path) != options.corrections))
    for file in folder.files:
        if file.is_folder and file.problem:
            raise DatasetError(f"{join(root, files.readable(file.path))}: {file.problem}.")
    if labelled_span.is_one(root):
        options = labelled_span.options_of(options)
    detection = layouts.detect(folder, options) if options.layout == AUTO else Detection(options.layout)
    layout = layouts.get(detection.layout)
    for key, advice in layout.unsupported_options.items():
        if value := getattr(options, key):
            raise DatasetError(f'data.{key} = {value} cannot be used with data.layout = "{layout.name}". {advice}')
    return _Opened(root, folder, options, layout, detection)


def _list(opened: _Opened) -> _Part:
    root, options = opened.root, opened.options
    with opened.with_evidence():
        listing = label_sets.convert(opened.layout.list_entries(opened.folder, options), options, root)
    return _Part(root, opened.layout, opened.detection, listing)


def _merge_spans(root: str, chosen: Sequence[spans.Span], parts: Sequence[_Part]) -> _Part:
    """Merges the listings of spans; paths start from the folder above the spans.

    Spans may differ in layout, unless one consists of files of many examples, and in columns: an image without a value
    has `tables.UNKNOWN`. A single span is not an exception: the next run may read two, and slices and paths, which
    corrections refer to, should not change.
    """
    listings = [_add_span_column(part, span.number) for part, span in zip(parts, chosen, strict=True)]
    layout_names = {part.layout.name for part in parts}
    has_containers = any(part.layout.entries_are_containers for part in parts)
    if (has_containers and len(layout_names) > 1) or len({listing.label_features for listing in listings}) > 1:
        raise DatasetError(f"{root}: the spans differ in layout or labels. Set data.spans to one of them.")
    known_lists = {listing.class_list for listing in listings} - {class_list.NO_CLASS_LIST}
    has_ids = labels.has_class_ids(listings[0].label_features)
    if len(known_lists) > 1 or (has_ids and len({listing.class_list for listing in listings}) > 1):
        raise DatasetError(f"{root}: {class_list.CLASSES_FILE} is not the same in all spans. Set data.classes.")
    columns = tuple(dict.fromkeys(column for listing in listings for column in listing.columns))
    first, *others = (
        listing.with_columns(columns, tables.UNKNOWN).below(span.path)
        for span, listing in zip(chosen, listings, strict=True)
    )
    first = dataclasses.replace(first, class_list=next(iter(known_lists), class_list.NO_CLASS_LIST))
    return dataclasses.replace(parts[0], root=root, listing=first.merged(others))


def _add_span_column(part: _Part, number: int) -> Listing:
    listing = part.listing
    if part.layout.entries_are_containers:
        return listing  # the examples have all their slices
    if SPAN_COLUMN in listing.columns:
        raise DatasetError(
            f"{part.root}: the column `{SPAN_COLUMN}` is reserved for the number of the span. Rename it."
        )
    entries = collect(entry._replace(slices=(*entry.slices, str(number))) for entry in listing.entries)
    return dataclasses.replace(listing, entries=entries, columns=(*listing.columns, SPAN_COLUMN))


# === Listing folder by folder ===


def _has_separate_folders(opened: _Opened) -> bool:
    """Whether folders decide about their files, and nothing else does: no table, and no label that is a set."""
    options = opened.options
    tables_ = (options.metadata_csv, options.group_column, options.corrections)
    return (
        opened.layout.class_folders is not None
        and not any(tables_)
        and all(file.path != tables.METADATA_FILE for file in opened.folder.files)
        and not options.allows_label_sets
        and options.labels_from == AUTO
    )


def _list_separately(
    root: str,
    opened: Sequence[_Opened],
    chosen: Sequence[spans.Span],
    options: DataOptions,
    engine: Engine | None,
) -> _Listed:
    """Lists class folders, and does what `_complete` does, folder by folder."""
    folders, refused = list[DatasetFolder](), list[RefusedFile]()
    for number, each in enumerate(opened):
        base, slices = (chosen[number].path, (str(chosen[number].number),)) if chosen else ("", ())
        assert each.layout.class_folders is not None
        with each.with_evidence():
            among = each.layout.class_folders(each.folder, each.options)
        folders += [DatasetFolder(base, folder, slices) for folder in among.folders]
        refused += [file._replace(path=join(base, file.path)) if base else file for file in among.refused]
    names = frozenset(folder.folder.name for folder in folders)
    listing = Listing(labels.CLASS_LABEL, (), columns=(SPAN_COLUMN,) if chosen else (), class_names=names)
    listing = class_names.rename(listing, options.rename_classes, root)
    entries, listed = list_dataset(root, folders, options, engine)
    refused += listed.refused
    listing = dataclasses.replace(listing, entries=entries, refused=tuple(refused), notes=listed.masks.notes())
    class_names.check(listing, options.classes, root)
    assigned = _assign_splits(entries, listed.totals, options)
    digest = hashlib.sha256(repr((assigned.has_drawn_train, *chosen)).encode())
    for folder_digest in listed.digests:
        digest.update(folder_digest)
    part = _Part(root, opened[0].layout, opened[0].detection, listing)
    return _Listed(part, assigned.entries, assigned.totals, assigned.own_splits, digest, sketch=listed.sketch)


# === Completing ===


class _Listed(NamedTuple):
    """A dataset with its classes and splits.

    Attributes:
      part: Its listing.
      entries: The files to read, by path, with the splits that the dataset assigns.
      totals: Numbers of the entries.
      own_splits: The splits that the dataset assigns.
      digest: Of the entries.
      corrections: The images that `data.corrections` decides about.
      sketch: As in `Dataset`.
    """

    part: _Part
    entries: Sequence[Entry]
    totals: EntryTotals
    own_splits: tuple[str, ...]
    digest: Any
    corrections: tuple[Correction, ...] = ()
    sketch: Sketch = ()


def _complete(part: _Part, chosen: Sequence[spans.Span], options: DataOptions) -> _Listed:
    """Renames classes, applies corrections, and assigns splits."""
    listing = class_names.rename(part.listing, options.rename_classes, part.root)
    listing = label_sets.normalize(listing, options.classes)
    listing, corrected = corrections.apply(listing, options, part.root, has_spans=bool(chosen))
    class_names.check(listing, options.classes, part.root)
    entries = collect_sorted(
        entry._replace(split=entry.split or options.split_of(entry.path)) for entry in listing.entries
    )
    assigned = _assign_splits(entries, EntryTotals.of(entries), options)
    digest = hashlib.sha256()
    for item in itertools.chain(chosen, assigned.entries):
        digest.update(repr(item).encode())
    part = dataclasses.replace(part, listing=listing)
    return _Listed(part, assigned.entries, assigned.totals, assigned.own_splits, digest, corrected)


def _describe(listed: _Listed, chosen: Sequence[spans.Span], options: DataOptions) -> Dataset:
    """Derives what follows from all entries: classes, slices, fingerprint."""
    part, listing = listed.part, listed.part.listing
    refused = tuple(sorted(listing.refused))
    for file in refused:
        listed.digest.update(repr(file).encode())
    slice_columns, notes = _slice_columns(listing.columns, listed.entries, chosen)
    classes = _classes(listing, options)
    if labels.has_sets(listing.label_features):
        label_sets.refuse_separator(classes, part.root)
    _check_mask_settings(part, classes, options)
    newest = chosen[-1] if chosen else None
    return Dataset(
        layout=part.layout.name,
        root=part.root,
        label_features=listing.label_features,
        entries=listed.entries,
        refused=refused,
        classes=classes,
        ignore_id=listing.class_list.ignore_id if options.ignore_id is None else options.ignore_id,
        colors=listing.class_list.colors,
        ignored_colors=listing.class_list.ignored_colors,
        own_splits=listed.own_splits,
        columns=listing.columns,
        slice_columns=slice_columns,
        span=newest.number if newest else 0,
        version=newest.version if newest else 0,
        fingerprint=listed.digest.hexdigest(),
        corrections=listed.corrections,
        notes=(*listing.notes, *notes),
        totals=listed.totals,
        sketch=listed.sketch,
    )


class _AssignedSplits(NamedTuple):
    """The splits that a dataset assigns.

    Attributes:
      entries: The files to read, with these splits.
      totals: Numbers of the entries.
      own_splits: Their names.
      has_drawn_train: Whether images of the train split are drawn from: a split without images of its own gets its
        fraction of them, if there are no others to draw.
    """

    entries: Sequence[Entry]
    totals: EntryTotals
    own_splits: tuple[str, ...]
    has_drawn_train: bool


def _assign_splits(entries: Sequence[Entry], totals: EntryTotals, options: DataOptions) -> _AssignedSplits:
    own_splits = tuple(split for split in features.SPLITS if split in totals.splits)
    lacking = set(options.written_splits(own_splits)) - totals.splits
    if lacking and "" not in totals.splits:
        return _AssignedSplits(with_drawn_train(entries), totals.with_drawn_train(), own_splits, True)
    return _AssignedSplits(entries, totals, own_splits, False)


def _classes(listing: Listing, options: DataOptions) -> tuple[str, ...]:
    return options.classes or listing.class_list.names or tuple(sorted(listing.class_names))


def _check_mask_settings(part: _Part, classes: Sequence[str], options: DataOptions) -> None:
    """Refuses settings of masks without masks, and values of masks that do not fit the classes."""
    if not labels.has_class_ids(part.listing.label_features):
        for key in ("mask_colors", "mask_values"):
            if getattr(options, key):
                raise DatasetError(f"data.{key} is set, but {part.root} has no masks. Remove it.")
    elif options.mask_values:
        if part.listing.class_list.colors:
            raise DatasetError(
                f"{part.root}: data.mask_values and the colours of the classes exclude each other. Remove one of them."
            )
        if classes and len(options.mask_values) != len(classes):
            raise DatasetError(
                f"{part.root}: data.mask_values has {len(options.mask_values)} values for {len(classes)} classes "
                f"({listed(classes, _MOST_NAMES)}). The value at index i is class i."
            )


def _slice_columns(
    columns: Sequence[str], entries: Sequence[Entry], chosen: Sequence[spans.Span]
) -> tuple[tuple[str, ...], list[str]]:
    """Returns the columns that are slices by default, and notes about the others."""
    values: dict[str, set[str]] = {column: set() for column in columns}
    if has_spans := bool(chosen) and SPAN_COLUMN in columns:
        values[SPAN_COLUMN] = {str(span.number) for span in chosen}
    # A dataset without other columns is not read for them.
    for entry in entries if len(columns) > has_spans else ():
        for column, value in zip(columns, entry.slices, strict=False):  # files of many examples have none
            if len(values[column]) <= _MOST_COUNTED:
                values[column].add(value)
    slice_columns, notes = [], []
    for column, known in values.items():
        if len(known) <= MOST_SLICE_VALUES:
            slice_columns.append(column)
        else:
            number = f"{len(known):,}" if len(known) <= _MOST_COUNTED else f"more than {_MOST_COUNTED:,}"
            notes.append(f"column `{column}` has {number} values; it is a slice only if evaluation.slices names it")
    return tuple(slice_columns), notes


# === Checking ===


def _refuse_untrainable(location: str, dataset: Dataset, listed: _Listed, *, is_detected: bool) -> None:
    """Refuses a dataset without images, with fewer than two classes, or with a class that cannot be trained on."""
    listing, totals = listed.part.listing, listed.totals
    if not dataset.entries and not listing.class_names:
        examples = "".join(f"\n  {file.path}: {file.reason}" for file in dataset.refused[:_MOST_NAMES])
        notes = "".join(f"\n  {note}" for note in dataset.notes)
        raise LayoutError(f"{location} has no usable files.{examples}{notes}")
    if not dataset.classes:
        has_ids = labels.has_class_ids(dataset.label_features)
        reason = "the masks contain class ids, not names" if has_ids else "the class names are not known in advance"
        alternative = f", or write {class_list.CLASSES_FILE} into the folder, one name per line" if has_ids else ""
        if has_ids and is_detected and dataset.layout == "mask_pairs":
            pair = [dataset.entries[0].path, dataset.entries[0].label_files[0].path] if dataset.entries else []
            alternative += (
                f". The layout is mask_pairs ({' and '.join(map(files.readable, pair))}); if every folder is a class, "
                "use --set data.layout=class_folders"
            )
        raise UnnamedClassesError(
            f'{location}: {reason}. Set data.classes, for example --set data.classes=\'["cat", "dog"]\'{alternative}.',
            dataset.label_features,
        )
    if len(dataset.classes) == 1 and not _may_have_one_class(dataset, totals):
        raise LayoutError(f"{location} has a single class ({dataset.classes[0]}). {_advice_for_single(dataset)}")
    if dataset.own_splits and not totals.splits & _TRAINED:
        raise DatasetError(
            f"{location} has the splits {', '.join(dataset.own_splits)}, but no `train` among them. Add it, or rename "
            "one."
        )
    if listing.class_names:
        _refuse_small_classes(location, dataset, totals)


def _may_have_one_class(dataset: Dataset, totals: EntryTotals) -> bool:
    """Whether one class can be learned: objects of it are found, or images have it or not."""
    is_known = not layouts.get(dataset.layout).entries_are_containers
    lacking = not is_known or totals.has_images_without_class()
    return labels.has_boxes(dataset.label_features) or (labels.has_sets(dataset.label_features) and lacking)


def _advice_for_single(dataset: Dataset) -> str:
    """Returns the folder to use if there is one folder above the classes, as in many archives."""
    if dataset.layout != "class_folders":
        return "At least two are required."
    names = itertools.chain((entry.path for entry in dataset.entries), (file.path for file in dataset.refused))
    outer, inside, has_direct = "", set[str](), False
    for path in (name.split("/") for name in names):
        outer = outer or path[0]
        if len(path) > 2:
            inside.add(path[1])
        elif len(path) == 2 and path[1].lower().endswith(tables.SUFFIXES):
            return f"It contains the table {files.readable(path[1])}: use --data {join(dataset.root, path[0])}."
        else:
            has_direct |= len(path) == 2
    if not inside or has_direct:
        return "At least two are required."
    shown = listed(sorted(inside), _MOST_NAMES)
    return f"It contains the folders {shown}: use --data {join(dataset.root, outer)}."


def _refuse_small_classes(location: str, dataset: Dataset, totals: EntryTotals) -> None:
    counts, trained = totals.classes(), totals.classes(_TRAINED)
    nested = [file.path for file in dataset.refused if file.reason == NESTED]
    if nested and not all(counts[name] for name in dataset.classes):
        raise DatasetError(
            f"{location}: {len(nested):,} images are in folders inside class folders, such as {', '.join(nested[:2])}. "
            "Use --set data.recursive=true, or move them up."
        )
    removal = (
        "leave the class out by naming the others in data.classes"
        if labels.has_boxes(dataset.label_features) or labels.has_sets(dataset.label_features)
        else "remove the class"
    )
    if empty := [name for name in dataset.classes if not counts[name]]:
        raise DatasetError(f"{location}: no images of class {listed(empty, _MOST_NAMES)}. Add some, or {removal}.")
    if single := [name for name in dataset.classes if counts[name] == 1]:
        raise DatasetError(
            f"{location}: only one image of class {listed(single, _MOST_NAMES)}. A class needs one to train on and one "
            f"to evaluate. Add images, or {removal}."
        )
    if untrained := [name for name in dataset.classes if name not in trained]:
        raise DatasetError(
            f"{location}: no images of class {listed(untrained, _MOST_NAMES)} are in the split `{features.TRAIN}`. Add "
            "some to it, or remove the class."
        )
