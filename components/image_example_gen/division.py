"""Divides the usable images of a dataset among splits, and finds duplicates: data-parallel, in bounded memory.

Every step maps tasks to partitions and reduces these (`Exchange`); the files of a `WorkFolder` connect the steps.
Images are first grouped by content, then by perceptual hash, then by what belongs together (*units*), and last by the
shard that they came from. This process only adds up counts. The rules are those of `splits`.

A step never replaces a file that it or an earlier step has read: an engine may repeat any part of it.
"""

from __future__ import annotations

import bisect
import itertools
import math
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from components.image_example_gen import connected_components, splits
from components.image_example_gen.artifact import DuplicateCounts, DuplicateGroup, DuplicateImage, Kind
from components.image_example_gen.connected_components import Graph
from components.image_example_gen.duplicates import key_masks, near_pairs
from components.image_example_gen.errors import LostFilesError
from components.image_example_gen.exchange import Block, Exchange, spread
from components.image_example_gen.layouts import RefusedFile
from components.image_example_gen.observations import Occurrences
from components.image_example_gen.options import DataOptions
from components.image_example_gen.shards import RECORDS, SPLITS, WorkFolder
from components.image_example_gen.splits import Drawing, Record, Unit
from components.image_example_gen.tally import Tally

KINDS: tuple[Kind, ...] = ("exact", "near")

# Kinds of files, one for every partition; of `_MEMBERS` and `_GROUPS`, one for every task.
_CONTENTS, _RESOLVED, _IDENTICAL, _UNITS, _STRATA = "contents", "resolved", "identical", "units", "strata"
_HASHED, _HASHES, _NEAR, _PAIRS, _HASH_ROOTS = "hashed", "hashes", "near", "pairs", "hash-roots"
_GROUP_EDGES, _NEAR_EDGES, _UNIT_ROOTS = "group-edges", "near-edges", "unit-roots"
_MEMBERS, _GROUPS = "members", "groups"

# A reference to an image is the number of its shard, and its place there in the lower bits: they sort as the images.
_PLACE_BITS = 32
_GOLDEN = 0x9E3779B97F4A7C15  # 2⁶⁴ divided by the golden ratio: its multiples are spread evenly
_BITS = 64


@dataclass(frozen=True)
class Division:
    """The results of the division. The splits of the images are in the work folder, in files of `SPLITS`.

    Attributes:
      tally: Counts of the images by split and class.
      refused: Images with conflicting labels, in the order of the images.
      similar: Identical images whose boxes are similar, but not equal; all of them are used.
      duplicates: Number of duplicates by kind.
      folder: Contains the groups of duplicates.
      num_tasks: Number of their files.
    """

    tally: Tally
    refused: list[RefusedFile]
    similar: Occurrences
    duplicates: dict[Kind, DuplicateCounts]
    folder: WorkFolder
    num_tasks: int

    def groups(self) -> Iterator[DuplicateGroup]:
        """Reads the groups of duplicates, in the order of their first images."""
        if any(counts.groups for counts in self.duplicates.values()):
            for task in range(self.num_tasks):
                yield from self.folder.load(_GROUPS, task)


def divide(
    folder: WorkFolder,
    num_records: Sequence[int],
    options: DataOptions,
    own_splits: Sequence[str],
    exchange: Exchange,
    *,
    per_partition: int,
) -> Division:
    """Divides images among splits.

    The same bytes are never in two splits, unless the dataset itself assigns them so. The same bytes with two different
    labels are all refused: which label is right is unknown. Groups stay together, and so do near duplicates if
    `near_duplicates` is `together`.

    Args:
      folder: Contains the records of every shard, and takes the splits.
      num_records: Number of usable images of every shard.
      options: Fractions of the splits, and the treatment of near duplicates.
      own_splits: Splits that the dataset assigns; the others are drawn from the images without one.
      exchange: Runs the steps.
      per_partition: Number of images that a step has in memory.

    Raises:
      ClassTooSmallError: If a split that is drawn lacks a class.
    """
    plan = _Plan.of(folder, num_records, options, per_partition)
    partitions, tasks, num_partitions = range(plan.num_partitions), range(len(plan.first_shards)), plan.num_partitions
    num_unit_edges = sum(exchange.run(tasks, _ByContent(plan), num_partitions, _GroupByContent(plan)))
    if options.near_duplicates != "off":
        num_hashes = sum(exchange.run(partitions, _ByHash(plan), num_partitions, _GroupByHash(plan)))
        masks = tuple(key_masks(options.near_duplicate_distance, num_hashes))
        num_pairs = sum(exchange.run(partitions, _ByKey(plan, masks), num_partitions, _FindPairs(plan, masks)))
        connected_components.find(plan.hash_graph, exchange, num_pairs)
        num_unit_edges += sum(exchange.run(partitions, _ByLooks(plan), num_partitions, _GroupByLooks(plan)))
    if num_unit_edges:
        connected_components.find(plan.unit_graph, exchange, num_unit_edges)
        exchange.run(partitions, _ByAnchor(plan, _CONTENTS), num_partitions, _ResolveAnchors(plan))
    contents = _RESOLVED if num_unit_edges else _CONTENTS
    num_units = _added(exchange.run(partitions, _ByAnchor(plan, contents), num_partitions, _GroupByUnit(plan)))
    drawing = Drawing(num_units, options, own_splits)
    drawing.check_sizes()
    if drawing.has_strata:
        _number_strata(plan, exchange.run(partitions, _Alone(), num_partitions, _CountStrata(plan, drawing)))
    tally, refused, similar, num_members = Tally(), list[RefusedFile](), Occurrences(), 0
    for part in exchange.run(partitions, _ByShard(plan, drawing), len(tasks), _Assign(plan)):
        tally.merge(part.tally)
        refused += part.refused
        similar += part.similar
        num_members += part.num_members
    splits.check_classes(tally.named, tally.drawn, options, own_splits)
    duplicates = {kind: DuplicateCounts(groups=0, duplicates=0, leaking_groups=0) for kind in KINDS}
    if num_members:
        for counts in exchange.run(tasks, _ByFirst(plan), len(tasks), _WriteGroups(plan)):
            duplicates = {kind: _sum_of(duplicates[kind], counts[kind]) for kind in KINDS}
    return Division(tally, refused, similar, duplicates, folder, len(tasks))


def _added(counters: Iterable[Counter[str]]) -> Counter[str]:
    total = Counter[str]()
    for counter in counters:
        total.update(counter)
    return total


def _sum_of(one: DuplicateCounts, other: DuplicateCounts) -> DuplicateCounts:
    return DuplicateCounts(
        groups=one.groups + other.groups,
        duplicates=one.duplicates + other.duplicates,
        leaking_groups=one.leaking_groups + other.leaking_groups,
    )


@dataclass(frozen=True)
class _Plan:
    """The data that all steps share.

    Attributes:
      folder: Contains the files of the steps.
      num_shards: Number of shards.
      first_shards: The first shard of every task; a task is some shards in a row.
      num_partitions: Number of partitions by content, hash and unit.
      near_duplicates: `data.near_duplicates`.
      distance: `data.near_duplicate_distance`.
    """

    folder: WorkFolder
    num_shards: int
    first_shards: Sequence[int]
    num_partitions: int
    near_duplicates: str
    distance: int

    @classmethod
    def of(cls, folder: WorkFolder, num_records: Sequence[int], options: DataOptions, per_partition: int) -> _Plan:
        """Gives every task at least one shard, and more while they do not exceed a partition."""
        first_shards, size = list[int](), 0
        for shard, number in enumerate(num_records):
            size += number
            if not first_shards or size > per_partition:
                first_shards.append(shard)
                size = number
        num_partitions = max(1, math.ceil(sum(num_records) / per_partition))
        return cls(
            folder,
            len(num_records),
            tuple(first_shards),
            num_partitions,
            options.near_duplicates,
            options.near_duplicate_distance,
        )

    @property
    def hash_graph(self) -> Graph:
        """Perceptual hashes, and the pairs of them that differ in few bits."""
        return Graph(self.folder, (_PAIRS,), _HASH_ROOTS, self.num_partitions, _partition_of_hash)

    @property
    def unit_graph(self) -> Graph:
        """Keys of groups and contents, and what connects them."""
        edges = (_GROUP_EDGES, _NEAR_EDGES) if self.near_duplicates != "off" else (_GROUP_EDGES,)
        return Graph(self.folder, edges, _UNIT_ROOTS, self.num_partitions, _partition_of_key)

    def shards_of(self, task: int) -> range:
        """Returns the numbers of the shards of a task."""
        following = self.first_shards[task + 1] if task + 1 < len(self.first_shards) else self.num_shards
        return range(self.first_shards[task], following)

    def task_of(self, reference: int) -> int:
        """Returns the task of an image."""
        return bisect.bisect_right(self.first_shards, reference >> _PLACE_BITS) - 1

    def records_of(self, shard: int) -> Iterator[tuple[int, Record]]:
        """Reads the images of a shard, with their references."""
        for place, values in enumerate(self.folder.read(RECORDS, shard)):
            yield (shard << _PLACE_BITS) + place, Record.from_json(values)


def _partition_of_key(key: str, num_partitions: int) -> int:
    """Returns the partition of a unit, group or content. Every partition has a range of the keys, in their order."""
    return _partition_of_digest(key[1:], num_partitions)


def _partition_of_digest(digest: str, num_partitions: int) -> int:
    return int(digest[:8], 16) * num_partitions >> 32


def _partition_of_hash(hash_: int, num_partitions: int) -> int:
    mixed: int = hash_ * _GOLDEN % 2**_BITS
    return (mixed >> 32) * num_partitions >> 32


def _grouped(blocks: Iterable[Block]) -> dict[Any, list[Any]]:
    """Groups items, pairs of a key and a value, by their keys."""
    groups: dict[Any, list[Any]] = defaultdict(list)
    for key, value in itertools.chain.from_iterable(blocks):
        groups[key].append(value)
    return groups


@dataclass(frozen=True)
class _Step:
    plan: _Plan


# === By content: identical images, conflicts, and what connects groups ===


class _Content(NamedTuple):
    """Usable images with the same bytes.

    Attributes:
      anchor: Key of what they belong to: their first group, or else their content. Later, of their unit.
      images: Reference of each, and the split that the dataset assigns to it.
      classes: Their classes, each once.
    """

    anchor: str
    images: tuple[tuple[int, str], ...]
    classes: tuple[str, ...]


class _Identical(NamedTuple):
    """Further facts about the images of a partition.

    Attributes:
      groups: References of images with the same bytes.
      refused: Reference and reason of those with conflicting labels.
      similar: References of those with similar boxes.
    """

    groups: list[list[int]]
    refused: list[tuple[int, str]]
    similar: list[int]


class _Hashed(NamedTuple):
    """An image with a perceptual hash.

    Attributes:
      reference: Of the image.
      sha256: Digest of its bytes.
      anchor: As in `_Content`; empty if the image is refused.
    """

    reference: int
    sha256: str
    anchor: str


class _ByContent(_Step):
    def __call__(self, task: int) -> Iterator[tuple[int, Block]]:
        plan = self.plan
        yield from spread(
            (
                _partition_of_digest(record.sha256, plan.num_partitions),
                (record.sha256, (reference, record._replace(pixels=()) if record.pixels else record)),
            )
            for shard in plan.shards_of(task)
            for reference, record in plan.records_of(shard)
        )


class _GroupByContent(_Step):
    """Returns the number of connections between groups."""

    def __call__(self, partition: int, blocks: list[Block]) -> int:
        contents, hashed, edges = list[_Content](), list[tuple[int, _Hashed]](), list[tuple[str, str]]()
        identical = _Identical([], [], [])
        for sha256, images in _grouped(blocks).items():
            if len(images) == 1:  # almost all, and much faster than the general case
                ((reference, record),) = images
                (anchor,) = splits.anchor_keys((record,))
                contents.append(_Content(anchor, ((reference, record.split),), record.classes or splits.NO_CLASS))
                if record.perceptual_hash is not None:
                    hashed.append((record.perceptual_hash, _Hashed(reference, sha256, anchor)))
                continue
            images.sort(key=lambda image: image[0])
            references, records = zip(*images, strict=True)
            reasons = splits.conflicts(records)
            anchor = ""
            if reasons:
                identical.refused.extend(zip(references, reasons, strict=True))
            else:
                anchor, *others = splits.anchor_keys(records)
                edges += [(anchor, other) for other in others]
                own = tuple((reference, record.split) for reference, record in images)
                contents.append(_Content(anchor, own, splits.distinct_classes(record.classes for record in records)))
            identical.groups.append(list(references))
            if not reasons and len({record.label_digest for record in records}) > 1:
                identical.similar.extend(references)
            hashed += [
                (record.perceptual_hash, _Hashed(reference, sha256, anchor))
                for reference, record in images
                if record.perceptual_hash is not None
            ]
        store = self.plan.folder.store
        store(_CONTENTS, partition, contents)
        store(_IDENTICAL, partition, identical)
        store(_GROUP_EDGES, partition, edges)
        if self.plan.near_duplicates != "off":
            store(_HASHED, partition, hashed)
        return len(edges)


# === By perceptual hash: near duplicates ===


class _ByHash(_Step):
    def __call__(self, task: int) -> Iterator[tuple[int, Block]]:
        hashed = self.plan.folder.load(_HASHED, task)
        yield from spread((_partition_of_hash(item[0], self.plan.num_partitions), item) for item in hashed)


class _GroupByHash(_Step):
    """Returns the number of different hashes."""

    def __call__(self, partition: int, blocks: list[Block]) -> int:
        images_of = _grouped(blocks)
        self.plan.folder.store(_HASHES, partition, images_of)
        return len(images_of)


@dataclass(frozen=True)
class _ByKey(_Step):
    """Gives a hash to one partition for every mask, so that hashes with the same key are in the same partition.

    Blocks are uint64 [n, 2]: the index of the mask, and the hash.
    """

    masks: tuple[int, ...]

    def __call__(self, task: int) -> Iterator[tuple[int, Block]]:
        num_partitions = np.uint64(self.plan.num_partitions)
        hashes = np.fromiter(self.plan.folder.load(_HASHES, task), np.uint64)
        for index, mask in enumerate(self.masks):
            keys = (hashes & np.uint64(mask)) ^ np.uint64(index)
            partition_of = ((keys * np.uint64(_GOLDEN) >> np.uint64(32)) * num_partitions) >> np.uint64(32)
            order = np.argsort(partition_of, kind="stable")
            items = np.stack([np.full_like(hashes, index), hashes], axis=1)[order]
            partitions, starts, counts = np.unique(partition_of[order], return_index=True, return_counts=True)
            for partition, start, count in zip(partitions.tolist(), starts, counts, strict=True):
                yield partition, items[start : start + count]


@dataclass(frozen=True)
class _FindPairs(_Step):
    """Returns the number of pairs."""

    masks: tuple[int, ...]

    def __call__(self, partition: int, blocks: list[Block]) -> int:
        items = np.concatenate([np.empty((0, 2), np.uint64), *blocks])
        pairs = np.concatenate(
            [
                near_pairs(items[items[:, 0] == index, 1], mask, self.plan.distance)
                for index, mask in enumerate(self.masks)
            ]
        )
        pairs = np.unique(np.sort(pairs, axis=1), axis=0)  # several masks find the same pair
        self.plan.folder.store(_PAIRS, partition, [tuple(pair) for pair in pairs.tolist()])
        return len(pairs)


class _ByLooks(_Step):
    """Gives images that look like others to the partition of their root."""

    def __call__(self, task: int) -> Iterator[tuple[int, Block]]:
        images_of: dict[int, list[_Hashed]] = self.plan.folder.load(_HASHES, task)
        roots: dict[int, int] = self.plan.folder.load(_HASH_ROOTS, task)
        yield from spread(
            (_partition_of_hash(root, self.plan.num_partitions), (root, image))
            for hash_, images in images_of.items()
            for root in ([roots[hash_]] if hash_ in roots else [hash_] if len(images) > 1 else [])
            for image in images
        )


class _GroupByLooks(_Step):
    """Returns the number of connections that keep near duplicates together."""

    def __call__(self, partition: int, blocks: list[Block]) -> int:
        groups, edges = list[list[int]](), list[tuple[str, str]]()
        for images in _grouped(blocks).values():
            if len({image.sha256 for image in images}) == 1:
                continue
            groups.append(sorted(image.reference for image in images))
            if self.plan.near_duplicates == "together":
                first, *others = sorted({image.anchor for image in images if image.anchor}) or [""]
                edges += [(first, other) for other in others]
        self.plan.folder.store(_NEAR, partition, groups)
        self.plan.folder.store(_NEAR_EDGES, partition, edges)
        return len(edges)


# === By unit ===


@dataclass(frozen=True)
class _ByAnchor(_Step):
    """Gives contents to the partition of their anchor.

    Attributes:
      source: Kind of their files.
    """

    source: str

    def __call__(self, task: int) -> Iterator[tuple[int, Block]]:
        contents: list[_Content] = self.plan.folder.load(self.source, task)
        yield from spread(
            (_partition_of_key(each.anchor, self.plan.num_partitions), (each.anchor, each)) for each in contents
        )


class _ResolveAnchors(_Step):
    """Replaces the anchors of contents by the keys of their units."""

    def __call__(self, partition: int, blocks: list[Block]) -> None:
        roots: dict[str, str] = self.plan.folder.load(_UNIT_ROOTS, partition)
        contents = [
            content._replace(anchor=roots.get(anchor, anchor))
            for anchor, content in itertools.chain.from_iterable(blocks)
        ]
        self.plan.folder.store(_RESOLVED, partition, contents)


class _GroupByUnit(_Step):
    """Returns the number of units to draw, by class."""

    def __call__(self, partition: int, blocks: list[Block]) -> Counter[str]:
        units, num_units = list[tuple[Unit, tuple[tuple[int, str], ...]]](), Counter[str]()
        for key, contents in sorted(_grouped(blocks).items(), key=lambda item: item[0][1:]):
            images, classes = contents[0].images, contents[0].classes
            if len(contents) == 1 and len(images) == 1:  # almost all, as above
                unit = Unit(key[1:], images[0][1], classes)
            else:
                images = tuple(image for content in contents for image in content.images)
                unit = Unit.of(key[1:], (split for _, split in images), (content.classes for content in contents))
            units.append((unit, images))
            if not unit.split:
                for name in unit.classes:
                    num_units[name] += 1
        self.plan.folder.store(_UNITS, partition, units)
        return num_units


# === Drawing ===


class _Alone:
    """Gives nothing to any partition: the reducer reads the file of its partition."""

    def __call__(self, task: int) -> Iterator[tuple[int, Block]]:
        del task
        return iter(())


@dataclass(frozen=True)
class _CountStrata(_Step):
    """Returns the number of units of every stratum in the partition."""

    drawing: Drawing

    def __call__(self, partition: int, blocks: list[Block]) -> Counter[str]:
        del blocks
        units = self.plan.folder.load(_UNITS, partition)
        strata = (self.drawing.stratum_of(unit) for unit, _ in units if not unit.split)
        return Counter(stratum for stratum in strata if stratum is not None)


def _number_strata(plan: _Plan, counters: Iterable[Counter[str]]) -> None:
    """Stores, for every partition, how many units of its strata there are in all, and how many in those before it."""
    counts = list(counters)
    total, before = _added(counts), Counter[str]()
    for partition, counter in enumerate(counts):
        plan.folder.store(_STRATA, partition, {name: (total[name], before[name]) for name in counter})
        before.update(counter)


# A decision about an image: its reference; `split`, `refused`, `similar`, or a kind of duplicates; and the split, the
# reason, nothing, or the reference of the first image of its group.
_Decision = tuple[int, str, Any]


@dataclass(frozen=True)
class _ByShard(_Step):
    """Draws the units of a partition, and gives all decisions about an image to the task of its shard."""

    drawing: Drawing

    def __call__(self, task: int) -> Iterator[tuple[int, Block]]:
        for items in (self._splits(task), self._duplicates(task)):
            yield from spread((self.plan.task_of(item[0]), item) for item in items)

    def _splits(self, partition: int) -> Iterator[_Decision]:
        strata = self.plan.folder.load(_STRATA, partition) if self.drawing.has_strata else {}
        bounds = {name: self.drawing.bounds_of_stratum(total) for name, (total, _) in strata.items()}
        ranks = {name: itertools.count(before) for name, (_, before) in strata.items()}
        for unit, images in self.plan.folder.load(_UNITS, partition):
            split = unit.split
            if not split:
                stratum = self.drawing.stratum_of(unit)
                if stratum is None:
                    split = self.drawing.split_at_position(unit)
                else:
                    rank = next(ranks[stratum])
                    split = next(split for end, split in bounds[stratum] if rank < end)
            for reference, own_split in images:
                yield reference, "split", own_split or split

    def _duplicates(self, partition: int) -> Iterator[_Decision]:
        identical: _Identical = self.plan.folder.load(_IDENTICAL, partition)
        for reference, reason in identical.refused:
            yield reference, "refused", reason
        for reference in identical.similar:
            yield reference, "similar", None
        near = self.plan.folder.load(_NEAR, partition) if self.plan.near_duplicates != "off" else []
        for kind, groups in zip(KINDS, (identical.groups, near), strict=True):
            for references in groups:
                for reference in references:
                    yield reference, kind, references[0]


# === By shard ===


class _Part(NamedTuple):
    """The results for one task.

    Attributes:
      tally: Counts of its images.
      refused: Those with conflicting labels.
      similar: Identical images with similar boxes.
      num_members: Number of its images in groups of duplicates.
    """

    tally: Tally
    refused: list[RefusedFile]
    similar: Occurrences
    num_members: int


class _Assign(_Step):
    """Writes the splits of the images of every shard."""

    def __call__(self, partition: int, blocks: list[Block]) -> _Part:
        split_of = dict[int, str]()
        others: dict[int, dict[str, Any]] = defaultdict(dict)
        for reference, kind, value in itertools.chain.from_iterable(blocks):
            if kind == "split":
                split_of[reference] = value
            else:
                others[reference][kind] = value
        tally, refused, similar, members = Tally(), list[RefusedFile](), list[str](), list[Any]()
        for shard in self.plan.shards_of(partition):
            splits_of_shard = list[str]()
            for reference, record in self.plan.records_of(shard):
                split, decisions = split_of.get(reference, ""), others.get(reference, {})
                if bool(split) == ("refused" in decisions):
                    raise LostFilesError(
                        f"{record.path} was not assigned to exactly one split. This is a defect of tfx-vision, please "
                        "report it."
                    )
                splits_of_shard.append(split)
                tally.add(record, split)
                if not decisions:
                    continue
                if "refused" in decisions:
                    refused.append(RefusedFile(record.path, decisions["refused"]))
                if "similar" in decisions:
                    similar.append(record.path)
                image = (reference, record.path, record.classes, split)
                members += [((decisions[kind], kind), image) for kind in KINDS if kind in decisions]
            content = {"num_shards": self.plan.num_shards, "splits": splits_of_shard}
            self.plan.folder.write(SPLITS, shard, content)
        self.plan.folder.store(_MEMBERS, partition, members)
        return _Part(tally, refused, Occurrences.of(similar), len(members))


class _ByFirst(_Step):
    """Gives the members of a group of duplicates to the task of the first of them."""

    def __call__(self, task: int) -> Iterator[tuple[int, Block]]:
        members = self.plan.folder.load(_MEMBERS, task)
        yield from spread((self.plan.task_of(item[0][0]), item) for item in members)


class _WriteGroups(_Step):
    """Writes the groups of duplicates, sorted; returns their numbers by kind."""

    def __call__(self, partition: int, blocks: list[Block]) -> dict[Kind, DuplicateCounts]:
        counts = {kind: [0, 0, 0] for kind in KINDS}
        groups = []
        for (_, kind), members in _grouped(blocks).items():
            members.sort()
            images = tuple(DuplicateImage(path=path, classes=names, split=split) for _, path, names, split in members)
            groups.append(([reference for reference, *_ in members], DuplicateGroup(kind=kind, images=images)))
            is_leaking = len({image.split for image in images} - {""}) > 1
            counts[kind] = [sum(pair) for pair in zip(counts[kind], (1, len(images) - 1, is_leaking), strict=True)]
        # Two groups of different kinds with the same members: the exact one is first.
        groups.sort(key=lambda group: (group[0], KINDS.index(group[1].kind)))
        self.plan.folder.store(_GROUPS, partition, [group for _, group in groups])
        return {
            kind: DuplicateCounts(groups=number, duplicates=duplicates, leaking_groups=leaking)
            for kind, (number, duplicates, leaking) in counts.items()
        }
