"""A dataset before its images are read: files, classes, splits, groups and slices, from names and tables only."""

from __future__ import annotations

import dataclasses
import hashlib
import itertools
import weakref
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from components.image_example_gen import (
    class_list,
    class_names,
    files,
    label_sets,
    labels,
    layouts,
    spans,
    tables,
)
from components.image_example_gen.artifact import Correction
from components.image_example_gen.class_list import Color
from components.image_example_gen.entries import Entry, RefusedFile
from components.image_example_gen.errors import DatasetError, LayoutError, UnnamedClassesError
from components.image_example_gen.folder_listing import DatasetFolder, list_dataset
from components.image_example_gen.layouts import NESTED, Listing
from components.image_example_gen.listing_tasks import Engine, ListedDataset
from components.image_example_gen.opened_folder import OpenedFolder, open_folder
from components.image_example_gen.options import DataOptions
from components.image_example_gen.span_listing import MOST_COUNTED, SPAN_COLUMN, list_spans
from components.image_example_gen.stored_entries import EntryTotals, Sketch, with_drawn_train
from trainer_module import features
from trainer_module.error_text import listed
from trainer_module.locations import join

# A column with more values than this (an address, a time) is not a slice unless the configuration names it.
MOST_SLICE_VALUES = 50
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
      entries: The files to read, by path, or by part and path if a table is listed in parts; those of a large dataset
        may be in files (`StoredEntries`).
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
      sketch: Of the entries.
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
      engine: Lists class folders, spans or parts of a table if there are very many images; see `list_parts`.

    Raises:
      DatasetError: If it does not exist, if its layout or a table contradicts itself, or if a class has no images, or
        too few to be both trained on and evaluated.
    """
    try:
        chosen = spans.resolve(location, options.spans) if spans.has_spans(location) else []
        above = spans.root_of(location)
        first, *others = [join(above, span.path) for span in chosen] or [location]
        opened = open_folder(first, options)
        root, are_separate, all_opened = above if chosen else opened.root, opened.has_separate_folders(), [opened]
        if are_separate:
            all_opened += [open_folder(each, options) for each in others]
            are_separate = all(each.has_separate_folders() for each in all_opened)
        if are_separate:
            whole = _list_separately(root, all_opened, chosen, options, engine)
        else:
            whole = list_spans(root, opened, chosen, options, engine)
    except files.UnreadableFileError as error:
        raise DatasetError(str(error)) from None
    class_names.check(whole.listing, options.classes, whole.root)
    dataset = _describe(whole, chosen, options)
    try:
        _refuse_untrainable(location, dataset, whole, is_detected=bool(whole.detection.evidence))
    except LayoutError as error:
        raise LayoutError(f"{error}{whole.detection}") from None
    return dataset


def list_folder(location: str, options: DataOptions) -> Listing:
    """Lists a folder by its layout, without judging whether it can be trained on.

    Raises:
      DatasetError: If its layout or a table contradicts itself.
    """
    return open_folder(location, options).list_files()


def _list_separately(
    root: str,
    opened: Sequence[OpenedFolder],
    chosen: Sequence[spans.Span],
    options: DataOptions,
    engine: Engine | None,
) -> ListedDataset:
    """Lists class folders, of all spans."""
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
    slice_values = {SPAN_COLUMN: {str(span.number) for span in chosen}} if chosen else {}
    return ListedDataset(root, opened[0].layout.name, opened[0].detection, listing, listed, slice_values)


# === Completing ===


def _describe(whole: ListedDataset, chosen: Sequence[spans.Span], options: DataOptions) -> Dataset:
    """Derives what follows from all entries: splits, classes, slices, fingerprint."""
    listing = whole.listing
    assigned = _assign_splits(listing.entries, whole.sums.totals, options)
    digest = hashlib.sha256(repr((assigned.has_drawn_train, *chosen)).encode())
    for part_digest in whole.sums.digests:
        digest.update(part_digest)
    refused = tuple(sorted(listing.refused))
    for file in refused:
        digest.update(repr(file).encode())
    slice_columns, notes = _slice_columns(listing.columns, whole.slice_values)
    classes = _classes(listing, options)
    if labels.has_sets(listing.label_features):
        label_sets.refuse_separator(classes, whole.root)
    _check_mask_settings(whole, classes, options)
    newest = chosen[-1] if chosen else None
    return Dataset(
        layout=whole.layout,
        root=whole.root,
        label_features=listing.label_features,
        entries=assigned.entries,
        refused=refused,
        classes=classes,
        ignore_id=listing.class_list.ignore_id if options.ignore_id is None else options.ignore_id,
        colors=listing.class_list.colors,
        ignored_colors=listing.class_list.ignored_colors,
        own_splits=assigned.own_splits,
        columns=listing.columns,
        slice_columns=slice_columns,
        span=newest.number if newest else 0,
        version=newest.version if newest else 0,
        fingerprint=digest.hexdigest(),
        corrections=whole.corrections,
        notes=(*listing.notes, *notes),
        totals=assigned.totals,
        sketch=whole.sums.sketch,
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


def _check_mask_settings(whole: ListedDataset, classes: Sequence[str], options: DataOptions) -> None:
    """Refuses settings of masks without masks, and values of masks that do not fit the classes."""
    if not labels.has_class_ids(whole.listing.label_features):
        for key in ("mask_colors", "mask_values"):
            if getattr(options, key):
                raise DatasetError(f"data.{key} is set, but {whole.root} has no masks. Remove it.")
    elif options.mask_values:
        if whole.listing.class_list.colors:
            raise DatasetError(
                f"{whole.root}: data.mask_values and the colours of the classes exclude each other. Remove one of them."
            )
        if classes and len(options.mask_values) != len(classes):
            raise DatasetError(
                f"{whole.root}: data.mask_values has {len(options.mask_values)} values for {len(classes)} classes "
                f"({listed(classes, _MOST_NAMES)}). The value at index i is class i."
            )


def _slice_columns(columns: Sequence[str], values: Mapping[str, Collection[str]]) -> tuple[tuple[str, ...], list[str]]:
    """Returns the columns that are slices by default, and notes about the others."""
    slice_columns, notes = [], []
    for column in columns:
        num_values = len(values.get(column, ()))
        if num_values <= MOST_SLICE_VALUES:
            slice_columns.append(column)
        else:
            number = f"{num_values:,}" if num_values <= MOST_COUNTED else f"more than {MOST_COUNTED:,}"
            notes.append(f"column `{column}` has {number} values; it is a slice only if evaluation.slices names it")
    return tuple(slice_columns), notes


# === Checking ===


def _refuse_untrainable(location: str, dataset: Dataset, whole: ListedDataset, *, is_detected: bool) -> None:
    """Refuses a dataset without images, with fewer than two classes, or with a class that cannot be trained on."""
    listing, totals = whole.listing, dataset.totals
    assert totals is not None
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
