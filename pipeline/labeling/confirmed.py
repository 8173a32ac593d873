"""Labels that a person, or a later measurement, has confirmed. Predictions of a model never become one of these."""

from __future__ import annotations

import functools
import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from components.image_example_gen.labels import Value

# Raw example features of a label and their values. Class names: `image/class/text`. Boxes: `image/object/…`, relative
# to the upright image. Masks: `mask/encoded`, a PNG file of class ids, upright.
Label = Mapping[str, Sequence[Value]]


@dataclass(frozen=True)
class ConfirmedImage:
    """An image with a confirmed label, for the next span.

    Attributes:
      filename: Name for the file; other images may have the same.
      encoded: Bytes of the image file.
      label: Its label.
      confirmed_by: Who or what confirmed it: `feedback`, `label_studio`, `cvat`, `table`, `studio`.
      source: Where the image comes from: a path, or the request log.
      request_id: Of the request that contained it; empty if there is none.
      split: Split that the label was given for; empty if it is drawn.
    """

    filename: str
    encoded: bytes = field(repr=False)
    label: Label
    confirmed_by: str
    source: str = ""
    request_id: str = ""
    split: str = ""

    def __post_init__(self) -> None:
        """Refuses a label that nobody has confirmed."""
        if not self.confirmed_by:
            raise ValueError(f"{self.filename}: confirmed_by is empty; only confirmed labels become training data.")

    @functools.cached_property
    def sha256(self) -> str:
        """Hex digest of the image file."""
        return hashlib.sha256(self.encoded).hexdigest()


def same_label(label: Label, other: Label) -> bool:
    """Whether two labels of the same image are equal; the order of class names does not matter."""

    def canonical(values: Label) -> dict[str, list[Value]]:
        return {key: sorted(entries, key=repr) for key, entries in values.items() if entries}

    return canonical(label) == canonical(other)
