"""The division of a dataset that one process holds: what ImageExampleGen did before it divided in bounded memory.

The reference of `components.image_example_gen.division`, in its own words: only the types, and the comparison of two
annotations, are shared.
"""

from __future__ import annotations

import hashlib
import itertools
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from typing import Literal, NamedTuple

import numpy as np
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from components.image_example_gen import boxes
from components.image_example_gen.artifact import DuplicateCounts, DuplicateGroup, DuplicateImage, SplitCounts
from components.image_example_gen.errors import ClassTooSmallError
from components.image_example_gen.options import DataOptions
from components.image_example_gen.perceptual_hash import NUM_BITS
from components.image_example_gen.splits import IGNORED, Record
from trainer_module import features

_NO_CLASS = ("",)  # images without a class name count as one class
_FEWEST_EXPECTED = 15


class Duplicates(NamedTuple):
    """A group of images that are, or look, the same.

    Attributes:
      kind: `exact` (the same bytes) or `near` (their perceptual hashes differ in few bits).
      members: Indices of the records, ascending.
    """

    kind: Literal["exact", "near"]
    members: list[int]


class Division(NamedTuple):
    """The split of every record.

    Attributes:
      splits: The split of each; empty if it is refused.
      refused: Reason by index.
      duplicates: Exact and near ones, in the order of their first member.
    """

    splits: list[str]
    refused: dict[int, str]
    duplicates: list[Duplicates]

    def is_leaking(self, group: Duplicates) -> bool:
        """Whether the members of a group are in several splits, which makes metrics too good."""
        return len({self.splits[index] for index in group.members} - {""}) > 1


def divide(records: Sequence[Record], options: DataOptions, own_splits: Sequence[str]) -> Division:
    """Divides images among splits.

    The same bytes are never in two splits, unless the dataset itself assigns them so. The same bytes with two different
    labels are all refused: which label is right is unknown. Groups stay together, and so do near duplicates if
    `near_duplicates` is `together`.

    Args:
      records: All usable images.
      options: Fractions of the splits, and the treatment of near duplicates.
      own_splits: Splits that the dataset assigns; the others are drawn from the images without one.

    Raises:
      ClassTooSmallError: If a split that is drawn lacks a class.
    """
    by_content: dict[str, list[int]] = defaultdict(list)
    for index, record in enumerate(records):
        by_content[record.sha256].append(index)
    exact = [members for members in by_content.values() if len(members) > 1]
    refused = {index: reason for members in exact for index, reason in _conflicts(records, members)}
    near = _near(records, options) if options.near_duplicates != "off" else []
    kept = [index for index in range(len(records)) if index not in refused]
    splits = [""] * len(records)
    for index, split in _draw(records, kept, near, options, own_splits).items():
        splits[index] = split
    _check_classes(records, splits, options, own_splits)
    duplicates = [Duplicates("exact", members) for members in exact] + [Duplicates("near", members) for members in near]
    return Division(splits, refused, sorted(duplicates, key=lambda group: group.members))


def _conflicts(records: Sequence[Record], members: Sequence[int]) -> list[tuple[int, str]]:
    """Returns the reasons to refuse identical images, if their labels differ."""
    if len({records[index].label_digest for index in members}) == 1:
        return []
    rivals = {
        index: [records[other] for other in members if not _is_same_label(records[index], records[other])]
        for index in members
    }
    if not any(rivals.values()):
        return []
    reasons = []
    for index in members:
        # Similar boxes agree with both of two annotations that contradict each other.
        rival = (rivals[index] or [records[other] for other in members if other != index])[0]
        has_other_classes = rival.classes != records[index].classes
        label = f"class {', '.join(rival.classes)}" if rival.classes and has_other_classes else "another label"
        reasons.append((index, f"conflicting labels: the same image has {label} in {rival.path}"))
    return reasons


def _is_same_label(record: Record, other: Record) -> bool:
    if record.label_digest == other.label_digest:
        return True
    return bool(record.boxes and other.boxes) and boxes.agree(record.boxes, other.boxes)


def similar_labels(records: Sequence[Record], division: Division) -> list[str]:
    """Returns the paths of identical images whose boxes are similar, but not equal; all of them are used."""
    groups = [
        [records[index] for index in group.members if index not in division.refused]
        for group in division.duplicates
        if group.kind == "exact"
    ]
    differing = [group for group in groups if len({record.label_digest for record in group}) > 1]
    return sorted(record.path for group in differing for record in group)


def _near(records: Sequence[Record], options: DataOptions) -> list[list[int]]:
    """Returns groups of images that look alike and are not all the same bytes."""
    hashed = [index for index, record in enumerate(records) if record.perceptual_hash is not None]
    hashes = np.array([records[index].perceptual_hash for index in hashed], np.uint64)
    groups: dict[int, list[int]] = defaultdict(list)
    for index, group in zip(hashed, near_duplicates(hashes, options.near_duplicate_distance), strict=True):
        groups[group].append(index)
    return [
        members
        for members in groups.values()
        if len(members) > 1 and len({records[index].sha256 for index in members}) > 1
    ]


# === Drawing ===


def _draw(
    records: Sequence[Record],
    kept: Sequence[int],
    near: Sequence[Sequence[int]],
    options: DataOptions,
    own_splits: Sequence[str],
) -> dict[int, str]:
    """Returns the split of every record: its own, or that of a member of its unit, or one that is drawn.

    A unit is what belongs together. If its members have several splits of their own, the others go to the first of
    these: they cannot be kept apart from all.
    """
    keys = _unit_keys(records, kept, near if options.near_duplicates == "together" else ())
    assigned: dict[str, str] = {}
    for index, key in zip(kept, keys, strict=True):
        if split := records[index].split:
            assigned[key] = min(split, assigned.get(key, split), key=features.SPLITS.index)
    drawn: dict[str, tuple[str, ...]] = {}
    for index, key in zip(kept, keys, strict=True):
        if key not in assigned:
            classes = records[index].classes or _NO_CLASS
            known = drawn.setdefault(key, classes)
            if known != classes:
                drawn[key] = tuple(dict.fromkeys((*known, *classes)))
    split_of = assigned | _draw_units(drawn, _fractions(options, own_splits), options)
    return {index: records[index].split or split_of[key] for index, key in zip(kept, keys, strict=True)}


def _draw_units(
    classes_of: Mapping[str, Sequence[str]], fractions: dict[str, float], options: DataOptions
) -> dict[str, str]:
    """Draws the split of every unit.

    A unit counts for the rarest of its classes. The units of a small class are divided exactly by the fractions, in the
    order of their positions; so are those of every class if `splits.by` is `class`. In a large class, the position
    alone decides, and no other unit matters. A new unit in a small class moves at most three others.

    Args:
      classes_of: The classes of every unit, by its key.
      fractions: Of the splits that are drawn.
      options: `splits.by` is read.

    Reference: the order of the classes is that of K. Sechidis, G. Tsoumakas & I. Vlahavas, On the Stratification of
      Multi-Label Data, ECML PKDD 2011, section 4: the class with the fewest examples first.
    """
    num_units = Counter(name for classes in classes_of.values() for name in classes)
    smallest_fraction = min(fractions.values())
    exact = {
        name
        for name, number in num_units.items()
        if options.splits.by == "class" or number * smallest_fraction < _FEWEST_EXPECTED
    }
    for name in sorted(exact):
        # Images without boxes need not be in every split, unless no image has a class, as with masks.
        if name or len(num_units) == 1:
            _check_size(name, num_units[name], fractions, options)
    if not exact:
        return {key: _split_at(position_of(key), fractions) for key in classes_of}
    strata: dict[str, list[str]] = defaultdict(list)
    split_of: dict[str, str] = {}
    for key in sorted(classes_of):
        first, *others = classes_of[key]
        rarest = min(classes_of[key], key=lambda name: (num_units[name], name)) if others else first
        if rarest in exact:
            strata[rarest].append(key)
        else:
            split_of[key] = _split_at(position_of(key), fractions)
    for members in strata.values():
        start = 0
        for split, count in _counts(len(members), fractions).items():
            split_of |= dict.fromkeys(members[start : start + count], split)
            start += count
    return split_of


def position_of(key: str) -> float:
    """Returns the position of a unit in [0, 1), from its hex key: always the same, whatever other images there are."""
    return int(key[:15], 16) / 16**15


def _unit_keys(records: Sequence[Record], kept: Sequence[int], near: Sequence[Sequence[int]]) -> list[str]:
    """Returns a hex key for each record, equal for all that must stay together.

    An image on its own has its digest as key, and so have its duplicates; an image of a group has the digest of the
    group's name. So adding images changes the split of no other image, unless it connects two groups.
    """
    anchors: dict[str, int] = {}
    pairs: list[tuple[int, int]] = []
    own: list[str] = []
    position_in_kept = {index: position for position, index in enumerate(kept)}
    for position, index in enumerate(kept):
        record = records[index]
        group_key = hashlib.sha256(b"group\0" + record.group.encode()).hexdigest() if record.group else ""
        # The key of a group sorts before that of a content: in a unit with both, the group decides.
        own.append(f"0{group_key}" if group_key else f"1{record.sha256}")
        for key in filter(None, (record.sha256, group_key)):
            pairs.append((anchors.setdefault(key, position), position))
    for group in near:
        members = [position_in_kept[index] for index in group if index in position_in_kept]
        pairs += [(members[0], member) for member in members[1:]]
    if not own:
        return []
    units = connected(np.array(pairs), len(own))
    smallest: dict[int, str] = {}
    for unit, key in zip(units, own, strict=True):
        smallest[unit] = min(key, smallest.get(unit, key))
    return [smallest[unit][1:] for unit in units]


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


def _check_classes(
    records: Sequence[Record], splits: Sequence[str], options: DataOptions, own_splits: Sequence[str]
) -> None:
    """Refuses a split that lacks a class by chance: the class would have no metric there, and nobody would notice."""
    present = {(split, name) for record, split in zip(records, splits, strict=True) if split for name in record.classes}
    counts = Counter(
        name
        for record, split in zip(records, splits, strict=True)
        if split and not record.split
        for name in record.classes
    )
    for split in _fractions(options, own_splits):
        for name, count in sorted(counts.items()):
            if (split, name) not in present:
                raise ClassTooSmallError(
                    f"Class `{name}` has {count} images to divide, and none of them is in the {split} split: its "
                    "groups, or those of images that are connected with it, are too few or too large. Add images of "
                    "other groups, or make the groups smaller."
                )


# === Near duplicates ===


def near_duplicates(hashes: np.ndarray, distance: int) -> np.ndarray:
    """Groups hashes that a chain of near hashes connects.

    Of two hashes that differ in at most d bits, cut into d + 1 bands, at least one band is equal (the pigeonhole
    principle); only pairs with an equal band are compared, so that the cost grows with the number of images and not
    with its square.

    Args:
      hashes: uint64 [n].
      distance: Number of bits that may differ.

    Returns:
      int32 [n], one number per group.

    Reference: G. S. Manku, A. Jain & A. Das Sarma, Detecting Near-Duplicates for Web Crawling, WWW 2007, section 3.
    """
    unique, index_of = np.unique(hashes, return_inverse=True)
    pairs = [np.empty((0, 2), np.int64)]
    edges = [NUM_BITS * band // (distance + 1) for band in range(distance + 2)]
    for low, high in itertools.pairwise(edges):
        band = (unique >> np.uint64(low)) & np.uint64((1 << (high - low)) - 1)
        order = np.argsort(band, kind="stable")
        band, ordered = band[order], unique[order]
        first, step = np.arange(len(unique)), 1
        while len(first):
            first = first[first + step < len(unique)]
            first = first[band[first] == band[first + step]]
            near = first[np.bitwise_count(ordered[first] ^ ordered[first + step]) <= distance]
            pairs.append(np.stack([order[near], order[near + step]], axis=1))
            step += 1
    result: np.ndarray = connected(np.concatenate(pairs), len(unique))[index_of]
    return result


def connected(pairs: np.ndarray, size: int) -> np.ndarray:
    """Groups items that pairs connect, directly or through other items.

    Args:
      pairs: int [m, 2], in [0, size).
      size: Number of items.

    Returns:
      int32 [size], one number per group.
    """
    graph = coo_array((np.ones(len(pairs), np.int8), (pairs[:, 0], pairs[:, 1])), shape=(size, size))
    _, groups = connected_components(graph, directed=False)
    result: np.ndarray = groups
    return result


# === Counts ===


def count_splits(
    records: Iterable[Record], division: Division, split_names: Iterable[str], classes: Sequence[str]
) -> dict[str, SplitCounts]:
    """Counts the examples and pixels of every split, with classes in alphabetical order.

    Args:
      records: All usable images.
      division: Their splits.
      split_names: The splits.
      classes: Class names, in the order of the ids where labels contain ids.
    """
    examples = Counter(division.splits)
    images: dict[str, Counter[str]] = {split: Counter() for split in split_names}
    pixels: dict[str, Counter[str]] = {split: Counter() for split in split_names}
    for record, split in zip(records, division.splits, strict=True):
        if not split:
            continue
        images[split].update(record.classes)
        for number, count in zip(record.pixels[::2], record.pixels[1::2], strict=True):
            if number != IGNORED:
                images[split][classes[number]] += 1
                pixels[split][classes[number]] += count
    return {
        split: SplitCounts(
            examples=examples[split],
            classes=dict(sorted(images[split].items())),
            pixels=dict(sorted(pixels[split].items())),
        )
        for split in images
    }


def count_duplicates(kind: str, division: Division) -> DuplicateCounts:
    groups = [group for group in division.duplicates if group.kind == kind]
    return DuplicateCounts(
        groups=len(groups),
        duplicates=sum(len(group.members) - 1 for group in groups),
        leaking_groups=sum(division.is_leaking(group) for group in groups),
    )


def describe(group: Duplicates, records: Sequence[Record], division: Division) -> DuplicateGroup:
    images = [
        DuplicateImage(path=records[index].path, classes=records[index].classes, split=division.splits[index])
        for index in group.members
    ]
    return DuplicateGroup(kind=group.kind, images=tuple(images))
