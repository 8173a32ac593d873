"""The images of an audit, and the kinds of suspicion."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np

LABEL_ISSUE, OUTLIER = "label issue", "outlier"
NEAR_DUPLICATE, CONFLICTING_DUPLICATE = "near duplicate", "near duplicate with another label"


class LabelledImage(NamedTuple):
    """One image.

    Attributes:
      filename: Relative to the data folder.
      classes: The class names of its label; empty if the label has none.
    """

    filename: str
    classes: tuple[str, ...]


class Disagreement(NamedTuple):
    """How much a model's prediction of a mask or of boxes differs from the label.

    Attributes:
      score: Range [0, 1]; 0 if they are equal.
      error_type: The most frequent error, in words.
    """

    score: float
    error_type: str


@dataclass(frozen=True)
class AuditedImages:
    """All images of an audit; N is their number.

    Attributes:
      images: The images.
      embeddings: float32 [N, D].
      classes: Class names; the index is the id. Empty if the label of an image does not consist of classes.
      has_sets: Whether an image may have any number of classes.
      disagreements: By file name; for labels that are compared with predictions.
      reviewed: File names whose labels a person has confirmed.
      source: What the embeddings come from, in words.
    """

    images: Sequence[LabelledImage]
    embeddings: np.ndarray
    classes: Sequence[str]
    has_sets: bool = False
    disagreements: Mapping[str, Disagreement] = field(default_factory=dict)
    reviewed: frozenset[str] = frozenset()
    source: str = ""

    def memberships(self) -> np.ndarray:
        """Returns the classes of every image, bool [N, C]."""
        ids = {name: class_id for class_id, name in enumerate(self.classes)}
        members = np.zeros((len(self.images), len(self.classes)), bool)
        for index, image in enumerate(self.images):
            members[index, [ids[name] for name in image.classes if name in ids]] = True
        return members


def join_names(names: Iterable[str]) -> str:
    """Returns a label as tables have it: the names of a set with `|` between them."""
    return "|".join(sorted(names))
