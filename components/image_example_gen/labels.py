"""Labels as raw example features: which kinds of label there are, and which features each of them has."""

from __future__ import annotations

from collections.abc import Iterable

from trainer_module import features

Value = str | bytes | int | float
# Raw example features and their values: hashable, so that entries can be compared and sorted.
Label = tuple[tuple[str, tuple[Value, ...]], ...]

CLASS_LABEL = (features.CLASS_TEXT,)
MASK_LABEL = (features.MASK_ENCODED, features.MASK_CLASSES)
# The first feature of a label tells that an example has it. An example with several has the label that comes first.
LABELS = (MASK_LABEL, CLASS_LABEL)


def of_class(name: str) -> Label:
    """Returns the label of an image of one class."""
    return ((features.CLASS_TEXT, (name,)),)


def has_class_ids(label_features: Iterable[str]) -> bool:
    """Whether the label contains class ids, so that the order of the class names matters."""
    return features.MASK_ENCODED in label_features
