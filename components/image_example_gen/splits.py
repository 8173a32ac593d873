"""Which side of the split every picture goes to, what it is a copy of, and what contradicts itself. Pure functions."""

from __future__ import annotations

import hashlib
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

import numpy as np

from components.image_example_gen.duplicates import connected, near_duplicates
from components.image_example_gen.options import DataOptions
from trainer_module import features


class ClassTooSmallError(RuntimeError):
    """A class has too few different pictures to be on every side of the split."""


class Record(NamedTuple):
    """What a usable picture is, for dividing.

    Attributes:
      path: Relative to the data's root.
      label: Class name; empty with masks.
      split: The split that the data name, or empty.
      group: Stays together with all of that name; empty if it stands alone.
      sha256: Hex digest of the picture's bytes.
      truth: What the picture is said to be: the class, or the digest of the mask.
      perceptual_hash: 63 bits, or None for a picture without structure.
    """

    path: str
    label: str
    split: str
    group: str
    sha256: str
    truth: str
    perceptual_hash: int | None


class Duplicates(NamedTuple):
    """Pictures that are, or look, the same.

    Attributes:
      kind: `exact` (the same bytes) or `near` (their perceptual hashes differ in few bits).
      members: Indices of the records, ascending.
    """

    kind: str
    members: list[int]


class Division(NamedTuple):
    """What becomes of every record.

    Attributes:
      splits: The split of each; empty if it is refused.
      refused: Reason by index.
      duplicates: Exact and near ones, in the order of their first member.
    """

    splits: list[str]
    refused: dict[int, str]
    duplicates: list[Duplicates]


def divide(records: Sequence[Record], options: DataOptions, own_splits: Sequence[str]) -> Division:
    """Divides the pictures.

    The same bytes are never on two sides unless the data themselves put them there; the same bytes with two different
    labels are refused, all of them: nobody knows which is right. Groups stay together, and so do pictures that look
    alike if `near_duplicates` is `together`.

    Args:
      records: All usable pictures.
      options: Shares, and what to do with pictures that look alike.
      own_splits: Splits that the data name; the others are drawn from what has none.

    Raises:
      ClassTooSmallError: If a split that is drawn misses a class.
    """
    by_content: dict[str, list[int]] = defaultdict(list)
    for index, record in enumerate(records):
        by_content[record.sha256].append(index)
    refused: dict[int, str] = {}
    for same in by_content.values():
        if len({records[index].truth for index in same}) > 1:
            for index in same:
                rival = next(other for other in same if records[other].truth != records[index].truth)
                rival_label = records[rival].label or "another mask"
                refused[index] = f"conflicting labels: the same picture is {rival_label} in {records[rival].path}"
    duplicates = [Duplicates("exact", same) for same in by_content.values() if len(same) > 1]
    near = _near(records, options) if options.near_duplicates != "off" else []
    kept = [index for index in range(len(records)) if index not in refused]
    splits = [""] * len(records)
    for index, split in _draw(records, kept, near, options, own_splits).items():
        splits[index] = split
    _check_classes(records, splits, options, own_splits)
    return Division(splits, refused, sorted([*duplicates, *near], key=lambda found: found.members))


def summary(division: Division) -> dict[str, dict[str, int]]:
    """Counts for people: by kind, how many groups, how many pictures beyond the first of each, how many groups astride.

    A group is astride if its members are in more than one split.
    """
    counts = {kind: {"groups": 0, "copies": 0, "astride": 0} for kind in ("exact", "near")}
    for found in division.duplicates:
        entry = counts[found.kind]
        entry["groups"] += 1
        entry["copies"] += len(found.members) - 1
        entry["astride"] += len({division.splits[index] for index in found.members} - {""}) > 1
    return counts


def report(records: Sequence[Record], division: Division) -> Iterable[dict[str, Any]]:
    """One object a group, for `duplicates.jsonl`."""
    for found in division.duplicates:
        yield {
            "kind": found.kind,
            "pictures": [
                {"path": records[index].path, "class": records[index].label, "split": division.splits[index]}
                for index in found.members
            ],
        }


def _near(records: Sequence[Record], options: DataOptions) -> list[Duplicates]:
    """Groups of pictures that look alike and are not all the same bytes."""
    hashed = [index for index, record in enumerate(records) if record.perceptual_hash is not None]
    hashes = np.array([records[index].perceptual_hash for index in hashed], np.uint64)
    groups: dict[int, list[int]] = defaultdict(list)
    for index, group in zip(hashed, near_duplicates(hashes, options.near_duplicate_distance), strict=True):
        groups[group].append(index)
    return [
        Duplicates("near", members)
        for members in groups.values()
        if len(members) > 1 and len({records[index].sha256 for index in members}) > 1
    ]


def _draw(
    records: Sequence[Record],
    kept: Sequence[int],
    near: Sequence[Duplicates],
    options: DataOptions,
    own_splits: Sequence[str],
) -> dict[int, str]:
    """The split of every record: the one that it names, or that a member of its unit names, or one that is drawn.

    A unit is what belongs together. Where its members name several splits themselves, the others go to the first of
    them: they cannot be kept apart from all.
    """
    keys = _unit_keys(records, kept, near if options.near_duplicates == "together" else ())
    named: dict[str, str] = {}
    for index, key in zip(kept, keys, strict=True):
        if records[index].split:
            named[key] = min(records[index].split, named.get(key, records[index].split), key=features.SPLITS.index)
    shares = _shares(options, own_splits)
    if options.splits.by == "content":
        split_of = {key: named.get(key) or _at(position_of(key), shares) for key in set(keys)}
    else:
        split_of = named | _by_class(records, kept, keys, named, shares, options)
    return {index: records[index].split or split_of[key] for index, key in zip(kept, keys, strict=True)}


def _by_class(
    records: Sequence[Record],
    kept: Sequence[int],
    keys: Sequence[str],
    named: dict[str, str],
    shares: dict[str, float],
    options: DataOptions,
) -> dict[str, str]:
    """Divides the units of every class that no member names a split for."""
    units: dict[str, Counter[str]] = defaultdict(Counter)
    for index, key in zip(kept, keys, strict=True):
        if key not in named:
            units[key][records[index].label] += 1
    by_class: dict[str, list[str]] = defaultdict(list)
    for key in sorted(units):
        # A group may hold several classes: it counts for the one it has most of.
        by_class[min(units[key], key=lambda label: (-units[key][label], label))].append(key)
    split_of: dict[str, str] = {}
    for label, members in by_class.items():
        _check_size(label, len(members), shares, options)
        start = 0
        for split, count in _counts(len(members), shares).items():
            split_of |= dict.fromkeys(members[start : start + count], split)
            start += count
    return split_of


def position_of(key: str) -> float:
    """A unit's place in [0, 1), from its hex key: fixed for ever, whatever other pictures there are."""
    return int(key[:15], 16) / 16**15


def _unit_keys(records: Sequence[Record], kept: Sequence[int], near: Sequence[Duplicates]) -> list[str]:
    """A hex key for each record, equal for all that must stay together.

    A picture that stands alone has its own digest as key, and so have all its copies; one of a group has the digest of
    the group's name. So adding pictures changes no other picture's side, unless it ties two groups together.
    """
    anchors: dict[str, int] = {}
    pairs: list[tuple[int, int]] = []
    own: list[str] = []
    place = {index: position for position, index in enumerate(kept)}
    for position, index in enumerate(kept):
        record = records[index]
        group_key = hashlib.sha256(b"group\0" + record.group.encode()).hexdigest() if record.group else ""
        # A group's key sorts before a content's: in a unit with both, the group decides.
        own.append(f"0{group_key}" if group_key else f"1{record.sha256}")
        for key in filter(None, (record.sha256, group_key)):
            pairs.append((anchors.setdefault(key, position), position))
    for found in near:
        members = [place[index] for index in found.members if index in place]
        pairs += [(members[0], member) for member in members[1:]]
    if not own:
        return []
    units = connected(np.array(pairs), len(own))
    smallest: dict[int, str] = {}
    for unit, key in zip(units, own, strict=True):
        smallest[unit] = min(key, smallest.get(unit, key))
    return [smallest[unit][1:] for unit in units]


def _shares(options: DataOptions, own_splits: Sequence[str]) -> dict[str, float]:
    """Shares of the splits that are drawn; training takes what the splits with pictures of their own do not need."""
    shares = {features.VALIDATION: options.splits.validation, features.TEST: options.splits.test}
    drawn = {split: share for split, share in shares.items() if split not in own_splits and share > 0}
    return {**drawn, features.TRAIN: 1.0 - sum(drawn.values())}


def _at(position: float, shares: dict[str, float]) -> str:
    for split, share in shares.items():
        if position < share:
            return split
        position -= share
    return features.TRAIN


def _counts(num_units: int, shares: dict[str, float]) -> dict[str, int]:
    """How many units each split gets: its share, rounded, but never none."""
    counts = {split: max(1, round(num_units * share)) for split, share in shares.items() if split != features.TRAIN}
    while sum(counts.values()) >= num_units:  # some of a small class must be left to train on
        counts[max(counts, key=lambda split: counts[split])] -= 1
    return {**counts, features.TRAIN: num_units - sum(counts.values())}


def _check_size(label: str, num_units: int, shares: dict[str, float], options: DataOptions) -> None:
    if num_units >= len(shares):
        return
    what = "groups of pictures" if options.group_column or options.group_pattern else "different pictures"
    whose = f"Class `{label}` has" if label else "There are only"
    advice = ", or leave out the test split (data.splits.test = 0)" if features.TEST in shares else ""
    raise ClassTooSmallError(
        f"{whose} {num_units} {what}, too few for one in each of {', '.join(shares)}. Add more"
        f"{', remove the class' if label else ''}{advice}."
    )


def _check_classes(
    records: Sequence[Record], splits: Sequence[str], options: DataOptions, own_splits: Sequence[str]
) -> None:
    """A class that chance has kept out of a split would have no figure there, and nobody would notice."""
    present = {(splits[index], record.label) for index, record in enumerate(records) if splits[index]}
    counts = Counter(
        record.label for index, record in enumerate(records) if record.label and splits[index] and not record.split
    )
    for split in _shares(options, own_splits):
        for label, count in sorted(counts.items()):
            if (split, label) not in present:
                if options.splits.by == "class":
                    advice = "Its groups, or those of the pictures that it is tied to, are too few or too large."
                else:
                    advice = 'Set data.splits.by = "class" to give every class its share in every split, or add more.'
                raise ClassTooSmallError(
                    f"Class `{label}` has {count} pictures to divide, and none of them falls into the {split} split. "
                    f"{advice}"
                )
