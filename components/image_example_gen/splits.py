"""The rules by which images are assigned to splits, and conflicting labels refused. Pure functions.

`division` applies them to datasets of any size.
"""

from __future__ import annotations

import hashlib
import itertools
import sys
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple, Self

from components.image_example_gen import boxes
from components.image_example_gen.errors import ClassTooSmallError
from components.image_example_gen.options import DataOptions
from trainer_module import features

# In `Record.pixels`: the id of all pixels that do not count.
IGNORED = -1
NO_CLASS = ("",)  # images without a class name count as one class
# A class that expects fewer units than this in some split is divided exactly. Drawing by position leaves a split of a
# larger one empty with a probability below exp(-15) = 3e-7.
_FEWEST_EXPECTED = 15


class Record(NamedTuple):
    """What the assignment to splits needs to know about a usable image.

    Attributes:
      path: Relative to the root of the dataset.
      classes: Class names; empty if the label has none, as with masks.
      split: The split that the dataset assigns, or empty.
      group: Stays in one split with all others of that name; empty if it is on its own.
      sha256: Hex digest of the image's bytes.
      label_digest: Differs between two labels.
      perceptual_hash: 63 bits, or None for an image without structure.
      pixels: Of a mask: class id, number of its pixels, next class id, and so on; flat, to save memory.
      boxes: From `boxes.encode`; empty without boxes.
    """

    path: str
    classes: tuple[str, ...]
    split: str
    group: str
    sha256: str
    label_digest: str
    perceptual_hash: int | None
    pixels: tuple[int, ...] = ()
    boxes: str = ""

    @classmethod
    def from_json(cls, values: Sequence[Any]) -> Self:
        """Restores a record that was stored as a JSON array."""
        path, classes, *others, pixels, encoded_boxes = values
        return cls._make([path, tuple(map(sys.intern, classes)), *others, tuple(pixels), encoded_boxes])


# === Identical images ===


def conflicts(members: Sequence[Record]) -> list[str]:
    """Returns the reasons to refuse images with the same bytes, one for each; empty if their labels agree.

    Which of two different labels is right is unknown, so that all are refused.
    """
    if len({record.label_digest for record in members}) == 1:
        return []
    rivals = [[other for other in members if not _is_same_label(record, other)] for record in members]
    if not any(rivals):
        return []
    reasons = []
    for index, record in enumerate(members):
        # Similar boxes agree with both of two annotations that contradict each other.
        rival = (rivals[index] or [*members[:index], *members[index + 1 :]])[0]
        has_other_classes = rival.classes != record.classes
        label = f"class {', '.join(rival.classes)}" if rival.classes and has_other_classes else "another label"
        reasons.append(f"conflicting labels: the same image has {label} in {rival.path}")
    return reasons


def _is_same_label(record: Record, other: Record) -> bool:
    if record.label_digest == other.label_digest:
        return True
    return bool(record.boxes and other.boxes) and boxes.agree(record.boxes, other.boxes)


# === Units ===


def content_key(record: Record) -> str:
    """Returns the key of the content of an image; as that of a group, it is a digit and a hex digest."""
    return f"1{record.sha256}"


def group_key(group: str) -> str:
    """Returns the key of a group.

    It sorts before that of any content: in a unit with both, the group decides. So adding images changes the split of
    no other image, unless it connects two groups.
    """
    return "0" + hashlib.sha256(b"group\0" + group.encode()).hexdigest()


def anchor_keys(members: Sequence[Record]) -> list[str]:
    """Returns the keys of what images with the same bytes belong to, in order: their groups, or else their content."""
    groups = sorted({group_key(record.group) for record in members if record.group})
    return groups or [content_key(members[0])]


def position_of(key: str) -> float:
    """Returns the position of a unit in [0, 1), from its hex key: always the same, whatever other images there are."""
    return int(key[:15], 16) / 16**15


def distinct_classes(classes: Iterable[tuple[str, ...]]) -> tuple[str, ...]:
    """Returns the classes of images, each once; one empty name for those without any, as with masks."""
    return tuple(dict.fromkeys(name for names in classes for name in names or NO_CLASS))


class Unit(NamedTuple):
    """Images that belong together: the same bytes, the same group, and near duplicates if they are kept together.

    Attributes:
      key: Hex key; the smallest of its groups, or else of its contents.
      split: The split that the dataset assigns to one of its images; empty if it is drawn. If images have several, the
        others go to the first of these: they cannot be kept apart from all.
      classes: The classes of its images, each once; one empty name if they have none, as with masks.
    """

    key: str
    split: str
    classes: tuple[str, ...]

    @classmethod
    def of(cls, key: str, own_splits: Iterable[str], classes: Iterable[tuple[str, ...]]) -> Self:
        """Joins images.

        Args:
          key: Hex key of the unit.
          own_splits: The split that the dataset assigns to each of the images, or empty.
          classes: The classes of each.
        """
        assigned = min(filter(None, own_splits), key=features.SPLITS.index, default="")
        return cls(key, assigned, distinct_classes(classes))


# === Drawing ===


class Drawing:
    """How the splits of units are drawn.

    A unit counts for the rarest of its classes. The units of a small class are divided exactly by the fractions, in the
    order of their positions; so are those of every class if `splits.by` is `class`. In a large class, the position
    alone decides, and no other unit matters. A new unit in a small class moves at most three others.

    Reference: the order of the classes is that of K. Sechidis, G. Tsoumakas & I. Vlahavas, On the Stratification of
      Multi-Label Data, ECML PKDD 2011, section 4: the class with the fewest examples first.
    """

    def __init__(self, num_units: Mapping[str, int], options: DataOptions, own_splits: Sequence[str]) -> None:
        """Decides which classes are divided exactly.

        Args:
          num_units: Number of units to draw, by class.
          options: Fractions of the splits, and `splits.by`.
          own_splits: Splits that the dataset assigns; the others are drawn from the images without one.
        """
        self._num_units = num_units
        self._options = options
        self._fractions = _fractions(options, own_splits)
        smallest_fraction = min(self._fractions.values())
        self._exact = {
            name
            for name, number in num_units.items()
            if options.splits.by == "class" or number * smallest_fraction < _FEWEST_EXPECTED
        }

    @property
    def has_strata(self) -> bool:
        """Whether a class is divided exactly."""
        return bool(self._exact)

    def check_sizes(self) -> None:
        """Refuses a class with fewer units than splits.

        Raises:
          ClassTooSmallError: For the first of them, with its number of units.
        """
        for name in sorted(self._exact):
            # Images without boxes need not be in every split, unless no image has a class, as with masks.
            if name or len(self._num_units) == 1:
                _check_size(name, self._num_units[name], self._fractions, self._options)

    def stratum_of(self, unit: Unit) -> str | None:
        """Returns the class for which a unit is divided exactly; None if its position decides."""
        rarest, *others = unit.classes
        if others:
            rarest = min(unit.classes, key=lambda name: (self._num_units[name], name))
        return rarest if rarest in self._exact else None

    def split_at_position(self, unit: Unit) -> str:
        """Returns the split of a unit of a large class."""
        return _split_at(position_of(unit.key), self._fractions)

    def bounds_of_stratum(self, num_units: int) -> list[tuple[int, str]]:
        """Returns the splits of the units of a stratum, in the order of their keys: the rank that ends each split."""
        counts = _counts(num_units, self._fractions)
        return list(zip(itertools.accumulate(counts.values()), counts, strict=True))


def _fractions(options: DataOptions, own_splits: Sequence[str]) -> dict[str, float]:
    """Returns the fractions of the splits that are drawn; train takes what the other drawn splits leave."""
    fractions = {features.VALIDATION: options.splits.validation, features.TEST: options.splits.test}
    drawn = {split: fraction for split, fraction in fractions.items() if split not in own_splits and fraction > 0}
    return {**drawn, features.TRAIN: 1.0 - sum(drawn.values())}


def _split_at(position: float, fractions: dict[str, float]) -> str:
    for split, fraction in fractions.items():
        if position < fraction:
            return split
        position -= fraction
    return features.TRAIN


def _counts(num_units: int, fractions: dict[str, float]) -> dict[str, int]:
    """Returns the number of units per split: its fraction, rounded, but at least one."""
    counts = {
        split: max(1, round(num_units * fraction)) for split, fraction in fractions.items() if split != features.TRAIN
    }
    while sum(counts.values()) >= num_units:  # some of a small class must be left to train on
        counts[max(counts, key=lambda split: counts[split])] -= 1
    return {**counts, features.TRAIN: num_units - sum(counts.values())}


# === Checking ===


def _check_size(name: str, num_units: int, fractions: dict[str, float], options: DataOptions) -> None:
    if num_units >= len(fractions):
        return
    grouped = bool(options.group_column or options.group_pattern)
    unit = ("group{} of images" if grouped else "different image{}").format("" if num_units == 1 else "s")
    subject = f"Class `{name}` has" if name else "There are only"
    without_test = f"--set data.splits.test=0 --set data.splits.train={options.splits.train + options.splits.test:g}"
    advice = f", or draw no test split ({without_test})" if features.TEST in fractions and num_units > 1 else ""
    raise ClassTooSmallError(
        f"{subject} {num_units} {unit} to divide, too few for one in each of {', '.join(fractions)}. Add more"
        f"{', remove the class' if name else ''}{advice}."
    )


def check_classes(
    present: Mapping[str, Counter[str]], drawn: Mapping[str, int], options: DataOptions, own_splits: Sequence[str]
) -> None:
    """Refuses a split that lacks a class by chance: the class would have no metric there, and nobody would notice.

    Args:
      present: Number of images by class, of every split.
      drawn: Number of images whose split was drawn, by class.
      options: Fractions of the splits.
      own_splits: Splits that the dataset assigns.

    Raises:
      ClassTooSmallError: For the first split and class.
    """
    for split in _fractions(options, own_splits):
        for name, count in sorted(drawn.items()):
            if not present[split][name]:
                raise ClassTooSmallError(
                    f"Class `{name}` has {count} images to divide, and none of them is in the {split} split: its "
                    "groups, or those of images that are connected with it, are too few or too large. Add images of "
                    "other groups, or make the groups smaller."
                )
