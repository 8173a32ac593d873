"""The rules by which images are assigned to splits, and conflicting labels refused. Pure functions.

`division` applies them to datasets of any size.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np

from components.image_example_gen import boxes
from components.image_example_gen.errors import ClassTooSmallError
from components.image_example_gen.options import DataOptions
from trainer_module import features

# In `Record.pixels`: the id of all pixels that do not count.
IGNORED = -1
NO_CLASS = ("",)  # images without a class name count as one class
# Splits by their codes in columns; the first is that of an image whose split is drawn, or which is refused.
SPLIT_NAMES = ("", *features.SPLITS)
SPLIT_CODES = {name: code for code, name in enumerate(SPLIT_NAMES)}
# A class that expects fewer units than this in some split is divided exactly. Drawing by position leaves a split of a
# larger one empty with a probability below exp(-15) = 3e-7.
_FEWEST_EXPECTED = 15


class Record(NamedTuple):
    """Properties of a usable image that decide its split.

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


# === Identical images ===


class Labelled(NamedTuple):
    """The label of one of several images with the same bytes; the attributes are those of `Record`."""

    path: str
    classes: tuple[str, ...]
    label_digest: str
    boxes: str


def conflicts(members: Sequence[Labelled]) -> list[str]:
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


def _is_same_label(record: Labelled, other: Labelled) -> bool:
    if record.label_digest == other.label_digest:
        return True
    return bool(record.boxes and other.boxes) and boxes.agree(record.boxes, other.boxes)


# === Drawing ===


def positions_of(digest: np.ndarray) -> np.ndarray:
    """Returns the positions of units in [0, 1): always the same, whatever other images there are.

    Args:
      digest: uint64 [n], the beginning of the digest of each.
    """
    positions: np.ndarray = np.ldexp((digest >> np.uint64(4)).astype(np.float64), -60)
    return positions


class Drawing:
    """How the splits of units are drawn.

    A unit is the images that belong together: the same bytes, the same group, and near duplicates if they are kept
    together. Its key is the smallest digest of its groups, or else of its contents.

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

    def stratum_of(self, classes: Sequence[str]) -> str | None:
        """Returns the class for which a unit with these is divided exactly; None if its position decides."""
        rarest, *others = classes
        if others:
            rarest = min(classes, key=lambda name: (self._num_units[name], name))
        return rarest if rarest in self._exact else None

    def splits_at(self, positions: np.ndarray) -> np.ndarray:
        """Returns the splits of units of large classes, by their positions: codes, uint8 [n]."""
        return _splits_at(positions, self._fractions)

    def splits_of_ranks(self, stratum: np.ndarray, ranks: np.ndarray, sizes: Sequence[int]) -> np.ndarray:
        """Returns the splits of units of strata: codes, uint8 [n].

        Args:
          stratum: Number of the stratum of every unit, int [n].
          ranks: Number of units before each in its stratum, in the order of their keys; int [n].
          sizes: Number of units of every stratum.
        """
        # The order of the splits is the same in every stratum.
        counts = [_counts(size, self._fractions) for size in sizes]
        ends = np.cumsum([list(count.values()) for count in counts], axis=1)
        codes = np.array([SPLIT_CODES[split] for split in counts[0]], np.uint8)
        result: np.ndarray = codes[(ranks[:, np.newaxis] >= ends[stratum]).sum(axis=1)]
        return result


def _fractions(options: DataOptions, own_splits: Sequence[str]) -> dict[str, float]:
    """Returns the fractions of the splits that are drawn; train takes what the other drawn splits leave."""
    fractions = {features.VALIDATION: options.splits.validation, features.TEST: options.splits.test}
    drawn = {split: fraction for split, fraction in fractions.items() if split not in own_splits and fraction > 0}
    return {**drawn, features.TRAIN: 1.0 - sum(drawn.values())}


def _splits_at(positions: np.ndarray, fractions: Mapping[str, float]) -> np.ndarray:
    codes = np.full(len(positions), SPLIT_CODES[features.TRAIN], np.uint8)
    is_open = np.ones(len(positions), bool)
    for split, fraction in fractions.items():
        is_inside = is_open & (positions < fraction)
        codes[is_inside] = SPLIT_CODES[split]
        is_open &= ~is_inside
        positions = positions - fraction
    return codes


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
