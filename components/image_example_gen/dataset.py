"""A dataset before its images are read: files, classes, splits, groups and slices, from names and tables only."""

from __future__ import annotations

import dataclasses
import hashlib
import weakref
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

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
from components.image_example_gen.errors import DatasetError, LayoutError, UnnamedClassesError
from components.image_example_gen.layouts import NESTED, Detection, Entry, Folder, LayoutSpec, Listing, RefusedFile
from components.image_example_gen.options import AUTO, DataOptions
from trainer_module import features
from trainer_module.error_text import listed
from trainer_module.locations import join

SPAN_COLUMN = "span"

# A column with more values than this (an address, a time) is not a slice unless the configuration names it.
MOST_SLICE_VALUES = 50
_MOST_NAMES = 5


@dataclass(frozen=True)
class Dataset:
    """All images of a run.

    Attributes:
      layout: Name of the layout.
      root: The folder that all paths start from.
      label_features: Raw example features of the label that every example has.
      entries: The files to read, by path.
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
    """

    layout: str
    root: str
    label_features: tuple[str, ...]
    entries: tuple[Entry, ...]
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

    @property
    def num_bytes(self) -> int:
        """Size of all files that are read, bytes."""
        return sum(entry.size + sum(file.size for file in entry.label_files) for entry in self.entries)

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


def listed_dataset(location: str, options: DataOptions, fingerprint: str) -> Dataset:
    """Returns the dataset as this process has listed it for the definition of the pipeline, or lists it.

    Args:
      location: As in `inspect_dataset`.
      options: `[data]`.
      fingerprint: That of the definition.

    Raises:
      DatasetError: As in `inspect_dataset`.
    """
    dataset = _LISTED.get((location, options.model_dump_json()))
    if dataset is not None and dataset.fingerprint == fingerprint:
        return dataset
    return inspect_dataset(location, options)


def inspect_dataset(location: str, options: DataOptions) -> Dataset:
    """Lists a dataset, and refuses one that cannot be trained on.

    Args:
      location: A folder, a manifest, or a path with `{SPAN}`; local, or any that TensorFlow's file system reads.
      options: `[data]`.

    Raises:
      DatasetError: If it does not exist, if its layout or a table contradicts itself, or if a class has no images, or
        too few to be both trained on and evaluated.
    """
    try:
        if spans.has_spans(location):
            chosen = spans.resolve(location, options.spans)
            root = spans.root_of(location)
            parts = [_list_folder(join(root, span.path), options) for span in chosen]
            whole = _merge_spans(root, chosen, parts)
        else:
            chosen, whole = [], _list_folder(location, options)
    except files.UnreadableFileError as error:
        raise DatasetError(str(error)) from None
    dataset = _complete(whole, chosen, options)
    try:
        _refuse_untrainable(location, dataset, whole.listing, is_detected=bool(whole.detection.evidence))
    except LayoutError as error:
        raise LayoutError(f"{error}{whole.detection}") from None
    return dataset


# === Listing ===


def list_folder(location: str, options: DataOptions) -> Listing:
    """Lists a folder by its layout, without judging whether it can be trained on.

    Raises:
      DatasetError: If its layout or a table contradicts itself.
    """
    return _list_folder(location, options).listing


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


def _list_folder(location: str, options: DataOptions) -> _Part:
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
    try:
        listing = label_sets.convert(layout.list_entries(folder, options), options, root)
        return _Part(root, layout, detection, listing)
    except LayoutError as error:
        raise LayoutError(f"{error}{detection}") from None


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
    entries = tuple(entry._replace(slices=(*entry.slices, str(number))) for entry in listing.entries)
    return dataclasses.replace(listing, entries=entries, columns=(*listing.columns, SPAN_COLUMN))


# === Completing ===


def _complete(part: _Part, chosen: Sequence[spans.Span], options: DataOptions) -> Dataset:
    """Derives what follows from all entries: classes, splits, slices, fingerprint."""
    listing = class_names.rename(part.listing, options.rename_classes, part.root)
    listing = label_sets.normalize(listing, options.classes)
    listing, corrected = corrections.apply(listing, options, part.root, has_spans=bool(chosen))
    class_names.check(listing, options.classes, part.root)
    entries, own_splits = _assign_splits(listing.entries, options)
    refused = tuple(sorted(listing.refused))
    digest = hashlib.sha256()
    for item in (*chosen, *entries, *refused):
        digest.update(repr(item).encode())
    slice_columns, notes = _slice_columns(listing.columns, entries)
    classes = _classes(listing, options)
    if labels.has_sets(listing.label_features):
        label_sets.refuse_separator(classes, part.root)
    _check_mask_settings(part, classes, options)
    newest = chosen[-1] if chosen else None
    return Dataset(
        layout=part.layout.name,
        root=part.root,
        label_features=listing.label_features,
        entries=entries,
        refused=refused,
        classes=classes,
        ignore_id=listing.class_list.ignore_id if options.ignore_id is None else options.ignore_id,
        colors=listing.class_list.colors,
        ignored_colors=listing.class_list.ignored_colors,
        own_splits=own_splits,
        columns=listing.columns,
        slice_columns=slice_columns,
        span=newest.number if newest else 0,
        version=newest.version if newest else 0,
        fingerprint=digest.hexdigest(),
        corrections=corrected,
        notes=(*listing.notes, *notes),
    )


def _assign_splits(entries: Iterable[Entry], options: DataOptions) -> tuple[tuple[Entry, ...], tuple[str, ...]]:
    """Returns the entries by path, with the splits that the dataset assigns, and the names of these splits."""
    assigned = [entry._replace(split=entry.split or options.split_of(entry.path)) for entry in sorted(entries)]
    named = {entry.split for entry in assigned}
    own_splits = tuple(split for split in features.SPLITS if split in named)
    if "" not in named and set(options.written_splits(own_splits)) - named:
        # A split without images of its own gets its fraction of the training images, if there are no others to draw.
        assigned = [entry._replace(split="") if entry.split == features.TRAIN else entry for entry in assigned]
    return tuple(assigned), own_splits


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


def _slice_columns(columns: Sequence[str], entries: Sequence[Entry]) -> tuple[tuple[str, ...], list[str]]:
    """Returns the columns that are slices by default, and notes about the others."""
    slice_columns, notes = [], []
    for number, column in enumerate(columns):
        num_values = len({entry.slices[number] for entry in entries if entry.slices})
        if num_values <= MOST_SLICE_VALUES:
            slice_columns.append(column)
        else:
            notes.append(
                f"column `{column}` has {num_values:,} values; it is a slice only if evaluation.slices names it"
            )
    return tuple(slice_columns), notes


# === Checking ===


def _refuse_untrainable(location: str, dataset: Dataset, listing: Listing, *, is_detected: bool) -> None:
    """Refuses a dataset without images, with fewer than two classes, or with a class that cannot be trained on."""
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
    if len(dataset.classes) == 1 and not _may_have_one_class(dataset):
        raise LayoutError(f"{location} has a single class ({dataset.classes[0]}). {_advice_for_single(dataset)}")
    splits = {entry.split for entry in dataset.entries}
    if dataset.own_splits and not splits & {"", features.TRAIN}:
        raise DatasetError(
            f"{location} has the splits {', '.join(dataset.own_splits)}, but no `train` among them. Add it, or rename "
            "one."
        )
    if listing.class_names:
        _refuse_small_classes(location, dataset)


def _may_have_one_class(dataset: Dataset) -> bool:
    """Whether one class can be learned: objects of it are found, or images have it or not."""
    is_known = not layouts.get(dataset.layout).entries_are_containers
    lacking = not is_known or any(not entry.classes for entry in dataset.entries)
    return labels.has_boxes(dataset.label_features) or (labels.has_sets(dataset.label_features) and lacking)


def _advice_for_single(dataset: Dataset) -> str:
    """Returns the folder to use if there is one folder above the classes, as in many archives."""
    if dataset.layout != "class_folders":
        return "At least two are required."
    names = [entry.path for entry in dataset.entries] + [file.path for file in dataset.refused]
    paths = [name.split("/") for name in names]
    inside = sorted({path[1] for path in paths if len(path) > 2})
    table = next((path for path in paths if len(path) == 2 and path[1].lower().endswith(tables.SUFFIXES)), None)
    if table:
        return f"It contains the table {files.readable(table[1])}: use --data {join(dataset.root, table[0])}."
    if not inside or any(len(path) == 2 for path in paths):
        return "At least two are required."
    return f"It contains the folders {listed(inside, _MOST_NAMES)}: use --data {join(dataset.root, paths[0][0])}."


def _refuse_small_classes(location: str, dataset: Dataset) -> None:
    counts: Counter[str] = Counter()
    trained: set[str] = set()
    for entry in dataset.entries:
        names = entry.classes
        counts.update(names)
        if entry.split in ("", features.TRAIN):
            trained.update(names)
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
