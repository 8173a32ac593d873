"""Labels as raw example features: which kinds of label there are, and which features each of them has."""

from __future__ import annotations

from collections.abc import Iterable

from trainer_module import features

Value = str | bytes | int | float
# Raw example features and their values: hashable, so that entries can be compared and sorted.
Label = tuple[tuple[str, tuple[Value, ...]], ...]

CLASS_LABEL = (features.CLASS_TEXT,)
MULTI_LABEL = (features.CLASS_TEXT, features.CLASS_COUNT)
MASK_LABEL = (features.MASK_ENCODED, features.MASK_CLASSES)
BOX_LABEL = (
    features.BOX_CLASSES,
    *features.BOX_CORNERS,
    features.BOX_DIFFICULT,
    features.BOX_IS_CROWD,
    features.BOX_COUNT,
    features.BOX_SIZE,
    features.BOX_ASPECT_RATIO,
)
# An example has a label if it has the label's first feature; if it has several labels, the first of them counts.
# `MULTI_LABEL` is not among them: whether an image may have several classes is not visible in one example.
LABELS = (MASK_LABEL, BOX_LABEL, CLASS_LABEL)
_NOUNS = {
    MASK_LABEL: "a mask per image",
    BOX_LABEL: "boxes",
    CLASS_LABEL: "one class per image",
    MULTI_LABEL: "any number of classes per image",
}

# Features with the class names of an image, by which images are counted and divided.
CLASS_NAMES = (features.CLASS_TEXT, features.BOX_CLASSES)


def class_names(label: Iterable[tuple[str, Iterable[Value]]]) -> tuple[str, ...]:
    """Returns the class names in a label, each once; empty if the label has none, as with masks."""
    return tuple(dict.fromkeys(str(value) for feature, values in label if feature in CLASS_NAMES for value in values))


def of_class(name: str) -> Label:
    """Returns the label of an image of one class."""
    return ((features.CLASS_TEXT, (name,)),)


def of_classes(names: Iterable[str]) -> Label:
    """Returns the label of an image of any number of classes; order and repetition of the names do not matter."""
    ordered = tuple(sorted(set(names)))
    return ((features.CLASS_TEXT, ordered), (features.CLASS_COUNT, (len(ordered),)))


def has_sets(label_features: Iterable[str]) -> bool:
    """Whether an image may have any number of classes."""
    return features.CLASS_COUNT in label_features


def has_class_ids(label_features: Iterable[str]) -> bool:
    """Whether the label contains class ids, so that the order of the class names matters."""
    return features.MASK_ENCODED in label_features


def has_boxes(label_features: Iterable[str]) -> bool:
    """Whether the label consists of boxes."""
    return features.BOX_CLASSES in label_features


def noun(label_features: tuple[str, ...]) -> str:
    """Returns what one example is labelled with, in messages."""
    return _NOUNS[label_features]


def built_in_slices(label_features: Iterable[str]) -> tuple[str, ...]:
    """Returns the names of the slices that every image has."""
    keys = features.BUILT_IN_SLICES + (features.BOX_SLICES if has_boxes(label_features) else ())
    return tuple(key.removeprefix(features.SLICE_PREFIX) for key in keys)
