"""TFRecord files of tf.Example: `train/x.tfrecord`, `train-00000-of-00010.tfrecord.gz`, or any name without a split."""

from __future__ import annotations

import itertools
import re
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from components.image_example_gen import files, label_sets, labels, tables
from components.image_example_gen.class_list import ClassList
from components.image_example_gen.entries import Entry, RefusedFile
from components.image_example_gen.errors import DamagedContainerError, DatasetError, LayoutError, UnusableImageError
from components.image_example_gen.labels import Value
from components.image_example_gen.layouts import _example_boxes
from components.image_example_gen.layouts._boxes import of_classes
from components.image_example_gen.layouts._entries import Listing, refuse, refuse_images
from components.image_example_gen.layouts._folder import Folder, split_named
from components.image_example_gen.layouts._spec import Candidate, Confidence, Evidence, LayoutSpec
from components.image_example_gen.layouts.mask_pairs import classes_of_masks
from trainer_module import features
from trainer_module.error_text import first_line
from trainer_module.locations import join

if TYPE_CHECKING:
    from components.image_example_gen.options import DataOptions, ExampleGenOptions

_LABEL_MAP = ".pbtxt"
_ITEM = re.compile(r"item\s*\{([^}]*)\}")
_FIELD = re.compile(r"(\w+)\s*:\s*(?:([\"'])(.*?)\2|(\w+))")
_MOST_BYTES = 2**20
_MOST_FIRST = 1000  # examples at the beginning of a file of which one should have a label
_NAME = re.compile(r"(.*[._-])?tfrecords?(-\d+-of-\d+)?(\.gz)?")


def _detect(folder: Folder, options: DataOptions) -> Evidence:
    del options
    names = sorted(filter(_NAME.fullmatch, {file.path for file in folder.files} | folder.names_in_splits))
    if not names:
        return Evidence("tfrecord", Confidence.NONE, contradicting=("no TFRecord files",))
    return Evidence("tfrecord", Confidence.FILE_FORMAT, (f"TFRecord files such as {files.readable(names[0])}",))


def _list_entries(folder: Folder, options: DataOptions) -> Listing:
    split_of = folder.split_of()
    entries: list[Entry] = []
    refused: list[RefusedFile] = []
    inside = (file for name in split_of for file in files.listing(folder.root, name))
    for file in itertools.chain(folder.files, inside):
        parent, _, name = file.path.rpartition("/")
        if file.is_folder:
            if file.path not in split_of:
                raise LayoutError(
                    f"{join(folder.root, files.readable(file.path))}: only split folders are read beside TFRecord "
                    "files. Move it elsewhere."
                )
        elif not _NAME.fullmatch(file.path):
            refused += refuse_images([file], "not a TFRecord file; it is not used")
        elif file.problem:
            refused.append(refuse(file))
        else:
            entries.append(Entry(*file[:3], split=split_of[parent] if parent else _split_in_name(name)))
    keys = _first_keys(join(folder.root, entries[0].path)) if entries else set[str]()
    slices = {key.removeprefix(features.SLICE_PREFIX) for key in keys if key.startswith(features.SLICE_PREFIX)}
    if entries and options.group_column and options.group_column not in slices:
        raise DatasetError(
            f"data.group_column: {entries[0].path} has no feature {features.SLICE_PREFIX}{options.group_column}."
        )
    label_features = next((label for label in labels.LABELS if _has_label(keys, label)), labels.CLASS_LABEL)
    if options.allows_label_sets and label_features == labels.CLASS_LABEL:
        label_features = labels.MULTI_LABEL
    return Listing(
        label_features,
        tuple(entries),
        tuple(refused),
        tuple(sorted(slices - set(labels.built_in_slices(label_features)))),
        class_list=_class_list(folder, options, label_features),
    )


def _has_label(keys: Collection[str], label: tuple[str, ...]) -> bool:
    """Whether an example with these features has a label; boxes may have ids instead of names."""
    return label[0] in keys or (label == labels.BOX_LABEL and set(features.BOX_CORNERS) <= set(keys))


def _class_list(folder: Folder, options: DataOptions, label_features: tuple[str, ...]) -> ClassList:
    if labels.has_class_ids(label_features):
        return classes_of_masks(folder, options)
    if not labels.has_boxes(label_features) or options.classes:
        return ClassList()
    paths = [file.path for file in folder.files]
    paths += [f"{split}/{name}" for split in folder.split_folders for name in folder.names_in(split)]
    described = files.describe(folder.root, sorted(path for path in paths if path.endswith(_LABEL_MAP)))
    maps = {files.readable(file.path): _label_map(folder.root, file) for file in described}
    class_maps = {path: names for path, names in maps.items() if names}
    if len(set(class_maps.values())) > 1:
        raise DatasetError(f"{folder.root}: the classes in {' and '.join(class_maps)} differ. Set data.classes.")
    return ClassList(next(iter(class_maps.values()), ()))


def _label_map(root: str, file: files.File) -> tuple[str, ...]:
    """Reads the names in a label map of the TensorFlow Object Detection API, whose ids begin at 1.

    Returns:
      Class names in the order of the ids; empty if it is another file, such as a schema.

    Raises:
      DatasetError: If it cannot be read, or if the ids are not 1 to the number of names.
    """
    location = join(root, files.readable(file.path))
    try:
        if file.problem:
            raise files.UnreadableFileError(file.problem)
        text = files.read(root, file.path, _MOST_BYTES).decode("utf-8-sig")
    except (files.UnreadableFileError, UnicodeDecodeError) as error:
        raise DatasetError(f"{location} cannot be read: {first_line(error)}") from None
    names: dict[int, str] = {}
    for item in _ITEM.findall(text):
        keys = {key: quoted or plain for key, _, quoted, plain in _FIELD.findall(item)}
        if keys.get("id", "").isdecimal():
            names[int(keys["id"])] = keys.get("name") or keys.get("display_name", "")
    if sorted(names) != list(range(1, len(names) + 1)) or not all(names.values()):
        raise DatasetError(f"{location}: the ids of the items are not 1, 2, … with a name each. Set data.classes.")
    return tuple(names[number] for number in sorted(names))


def _split_in_name(name: str) -> str:
    """`birds-test.tfrecord-00000-of-00002` → `test`; empty if no word of the name, or more than one, is a split."""
    words = re.split(r"[^a-z]+", name.partition("tfrecord")[0].lower())
    splits = set(filter(None, map(split_named, words)))
    return splits.pop() if len(splits) == 1 else ""


def _first_keys(location: str) -> set[str]:
    """Returns the features of the first example, and the label of the first one of a file that has a label.

    The other examples are expected to have the same.
    """
    import tensorflow as tf

    first = set[str]()
    try:
        for serialized in files.records(location).take(_MOST_FIRST).as_numpy_iterator():
            own = set(tf.train.Example.FromString(serialized).features.feature)
            first = first or own
            # An image without boxes may lack their features.
            if label := next((label[0] for label in labels.LABELS if _has_label(own, label)), None):
                return {*first, label}
    except Exception as error:  # TensorFlow's for the file, protobuf's for the example
        raise DatasetError(
            f"{files.readable(location)} is not a TFRecord file of tf.Example: {first_line(error)}"
        ) from None
    return first


def _read(root: str, entries: Sequence[Entry], options: ExampleGenOptions) -> Iterator[Candidate]:
    """Reads examples that another program has written, with the keys of the raw contract."""
    import tensorflow as tf

    for entry in entries:
        path, number, records = files.readable(entry.path), 0, files.records(join(root, entry.path))
        try:
            for number, serialized in enumerate(records.as_numpy_iterator(), start=1):
                yield _candidate(serialized, f"{path}#{number - 1}", entry.split, options)
        except tf.errors.OpError as error:
            raise DamagedContainerError(
                f"{path} is damaged after example {number} ({first_line(error)}). Write it again, or remove it."
            ) from None


def _candidate(serialized: bytes, place: str, split: str, options: ExampleGenOptions) -> Candidate:
    import tensorflow as tf

    try:
        feature = tf.train.Example.FromString(serialized).features.feature
    except Exception:  # protobuf's decode error has another class in every implementation
        return Candidate(place, problem="not a tf.Example")

    def value(key: str) -> bytes:
        values = feature[key].bytes_list.value if key in feature else ()
        return bytes(values[0]) if values else b""

    def text(key: str) -> str:
        return value(key).decode(errors="replace")

    source = labels.BOX_LABEL if options.data.labels_from == "boxes" else options.label_features
    names = [
        options.data.rename_classes.get(name, name)
        for name in _class_names(feature, options.data.label_separator if labels.has_sets(source) else None)
    ]
    keys = {key for key in feature if value(key)}
    label: Mapping[str, Sequence[Value]] = {}
    if labels.has_sets(source):
        keys.add(source[0])  # an image without classes has no value
        label = dict(labels.of_classes(names))
    if labels.has_boxes(source):
        keys.add(source[0])  # an image without boxes has no value
        try:
            annotation = _example_boxes.annotation_of(feature, options.data.rename_classes, options.classes)
        except UnusableImageError as error:
            return Candidate(place, problem=str(error))
        label = dict(of_classes(annotation, options.data).to_label())
    problem = _problem(keys, names, source, options)
    if not problem and source == labels.CLASS_LABEL and len(names) > 1:
        shown = ", ".join(f"`{name}`" for name in names[:3])
        problem = f"{len(names)} classes ({shown}); expected exactly one in {features.CLASS_TEXT}"
    if problem:
        return Candidate(place, problem=problem)
    name, key = text(features.IMAGE_FILENAME) or place, source[0]
    return Candidate(
        name,
        value(features.IMAGE_ENCODED),
        label or {key: (names[0] if key == features.CLASS_TEXT else value(key),)},
        split,
        text(features.SLICE_PREFIX + (options.data.group_column or "")) or options.data.group_of(name),
        tuple(text(features.SLICE_PREFIX + column) or tables.UNKNOWN for column in options.columns),
    )


def _class_names(feature: Mapping[str, Any], separator: str | None) -> list[str]:
    """Returns the class names of an example; with a separator, a text may contain several."""
    values = feature[features.CLASS_TEXT].bytes_list.value if features.CLASS_TEXT in feature else ()
    texts = [value.decode(errors="replace") for value in values]
    return [name for text in texts for name in label_sets.split(text, separator)]


def _problem(keys: Iterable[str], names: Sequence[str], source: Sequence[str], options: ExampleGenOptions) -> str:
    """Explains why an example cannot be used beside the others; empty if it can."""
    expected = source[0]
    other = next((label[0] for label in labels.LABELS if label[0] in keys), "")
    if features.IMAGE_ENCODED not in keys:
        return f"no feature {features.IMAGE_ENCODED}"
    if expected not in keys:
        return f"no feature {expected}, which other examples have"
    if other != expected:
        return f"a feature {other}, which other examples do not have"
    if expected == features.CLASS_TEXT:
        # Of several classes, only label sets need all of them; another label has a problem of its own.
        unknown = [name for name in (names if labels.has_sets(source) else names[:1]) if name not in options.classes]
        if unknown:
            return f"class `{unknown[0]}` is not in data.classes"
    return ""


LAYOUT = LayoutSpec(
    name="tfrecord",
    interpretation="TFRecord files contain the images",
    detect=_detect,
    list_entries=_list_entries,
    read=_read,
    entries_are_containers=True,
    unsupported_options={
        "manifest": "Remove one of them.",
        "metadata_csv": "The examples themselves have the slices. Remove it.",
        "corrections": "Correct the examples where they are written. Remove it.",
        "split_pattern": "Name the splits by folders or file names.",
    },
)
