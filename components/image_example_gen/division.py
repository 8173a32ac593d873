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
from components.image_example_gen.columns import (
    Columns,
    digests,
    hex_digest,
    objects,
    order_of,
    sizes_of_runs,
    starts_of_runs,
)
from components.image_example_gen.connected_components import Graph
from components.image_example_gen.duplicates import key_masks, near_pairs
from components.image_example_gen.entries import RefusedFile
from components.image_example_gen.errors import LostFilesError
from components.image_example_gen.exchange import Exchange, items_of, no_rows, spread
from components.image_example_gen.observations import Occurrences
from components.image_example_gen.options import DataOptions
from components.image_example_gen.records import GROUP, NO_HASH, columns_of
from components.image_example_gen.shards import RECORDS, SPLITS, WorkFolder
from components.image_example_gen.splits import SPLIT_NAMES, Drawing, Labelled
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
_BITS, _HALF = 64, np.uint64(32)

_NO_IMAGES = columns_of([]).replace(reference=np.empty(0, np.int64))


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
    grouped = list(exchange.run(tasks, _ByContent(plan), num_partitions, _GroupByContent(plan)))
    num_unit_edges = sum(each.num_edges for each in grouped)
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
    # Without groups and connections, the units are the contents, which are in their partitions already.
    stay = not num_unit_edges and not any(each.has_groups for each in grouped)
    by_unit = no_rows if stay else _ByAnchor(plan, contents)
    num_units = _added(exchange.run(partitions, by_unit, num_partitions, _GroupByUnit(plan, are_contents=stay)))
    drawing = Drawing(num_units, options, own_splits)
    drawing.check_sizes()
    if drawing.has_strata:
        _number_strata(plan, exchange.run(partitions, no_rows, num_partitions, _CountStrata(plan, drawing)))
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

    def images_of(self, shard: int) -> Columns:
        """Reads the images of a shard, with their references."""
        images: Columns = self.folder.load(RECORDS, shard)
        return images.replace(reference=(shard << _PLACE_BITS) + np.arange(len(images)))

    def tasks_of(self, references: np.ndarray) -> np.ndarray:
        """Returns the tasks of images."""
        return np.searchsorted(self.first_shards, references >> _PLACE_BITS, side="right") - 1


# The partitions of arrays, and of single vertices of the graphs, are the same.


def _partitions_of_digests(words: np.ndarray, num_partitions: int) -> np.ndarray:
    """Returns the partitions of digests by their beginning. Each has a range of the digests, in their order."""
    return ((words >> _HALF) * np.uint64(num_partitions) >> _HALF).astype(np.uint32)


def _partition_of_key(key: str, num_partitions: int) -> int:
    """Returns the partition of a unit, group or content."""
    return int(key[1:9], 16) * num_partitions >> 32


def _partitions_of_hashes(hashes: np.ndarray, num_partitions: int) -> np.ndarray:
    return _partitions_of_digests(hashes.astype(np.uint64) * np.uint64(_GOLDEN), num_partitions)


def _partition_of_hash(hash_: int, num_partitions: int) -> int:
    mixed: int = hash_ * _GOLDEN % 2**_BITS
    return (mixed >> 32) * num_partitions >> 32


def _key(kind: int, digest: np.ndarray) -> str:
    """Returns the vertex of a group or content."""
    return f"{kind}{hex_digest(digest)}"


def _grouped(blocks: Iterable[Columns]) -> dict[Any, list[Any]]:
    """Groups items, pairs of a key and a value, by their keys."""
    groups: dict[Any, list[Any]] = defaultdict(list)
    for key, value in items_of(blocks):
        groups[key].append(value)
    return groups


@dataclass(frozen=True)
class _Step:
    plan: _Plan


# === By content: identical images, conflicts, and what connects groups ===


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


class _Grouped(NamedTuple):
    """Facts about the contents of a partition.

    Attributes:
      num_edges: Number of connections between groups.
      has_groups: Whether an image belongs to a group.
    """

    num_edges: int
    has_groups: bool


class _ByContent(_Step):
    def __call__(self, task: int) -> Iterator[Columns]:
        plan = self.plan
        images = _NO_IMAGES.followed_by(plan.images_of(shard) for shard in plan.shards_of(task)).without("pixels")
        yield images.replace(partition=_partitions_of_digests(images["sha256"][:, 0], plan.num_partitions))


class _GroupByContent(_Step):
    """Stores the images in the order of their contents, with the anchor of each content."""

    def __call__(self, partition: int, blocks: list[Columns]) -> _Grouped:
        images = _NO_IMAGES.without("pixels").followed_by(blocks)
        images = images.take(order_of(images["sha256"], images["reference"]))
        starts = starts_of_runs(images["sha256"])
        sizes = sizes_of_runs(starts, len(images))
        is_used = np.ones(len(images), bool)
        # The arrays of `images` are copies.
        anchors, kinds = images["anchor"], images["anchor_kind"]
        identical, edges = _Identical([], [], []), list[tuple[str, str]]()
        for start, size in zip(starts[sizes > 1].tolist(), sizes[sizes > 1].tolist(), strict=True):
            rows = slice(start, start + size)
            references = images["reference"][rows].tolist()
            labels = [
                Labelled(*values) for values in zip(*(images[name][rows] for name in Labelled._fields), strict=True)
            ]
            reasons = splits.conflicts(labels)
            identical.groups.append(references)
            if reasons:
                identical.refused.extend(zip(references, reasons, strict=True))
                is_used[rows] = False
                continue
            if len({label.label_digest for label in labels}) > 1:
                identical.similar.extend(references)
            in_groups = [row for row in range(start, start + size) if kinds[row] == GROUP]
            if in_groups:
                first, *others = sorted({_key(GROUP, anchors[row]): row for row in in_groups}.items())
                anchors[rows], kinds[rows] = anchors[first[1]], GROUP
                edges += [(first[0], key) for key, _ in others]
        store = self.plan.folder.store
        units = images.take(is_used)
        store(_CONTENTS, partition, units.only("reference", "split", "classes", "anchor_kind", "anchor"))
        store(_IDENTICAL, partition, identical)
        store(_GROUP_EDGES, partition, edges)
        if self.plan.near_duplicates != "off":
            hashed = images.replace(is_used=is_used).take(images["hash"] != NO_HASH)
            names = ["hash", "reference", "sha256"]
            if self.plan.near_duplicates == "together":
                names += ["is_used", "anchor_kind", "anchor"]
            store(_HASHED, partition, hashed.only(*names))
        return _Grouped(len(edges), bool((kinds == GROUP).any()))


# === By perceptual hash: near duplicates ===


class _ByHash(_Step):
    def __call__(self, task: int) -> Iterator[Columns]:
        hashed: Columns = self.plan.folder.load(_HASHED, task)
        yield hashed.replace(partition=_partitions_of_hashes(hashed["hash"], self.plan.num_partitions))


class _GroupByHash(_Step):
    """Stores the images in the order of their hashes; returns the number of different hashes."""

    def __call__(self, partition: int, blocks: list[Columns]) -> int:
        if not blocks:
            self.plan.folder.store(_HASHES, partition, Columns(hash=np.empty(0, np.int64)))
            return 0
        first, *others = blocks
        images: Columns = first.followed_by(others)
        images = images.take(np.argsort(images["hash"], kind="stable"))
        self.plan.folder.store(_HASHES, partition, images)
        return len(starts_of_runs(images["hash"]))


@dataclass(frozen=True)
class _ByKey(_Step):
    """Gives a hash to one partition for every mask, so that hashes with the same key are in the same partition.

    Rows are the index of the mask, uint8, and the hash, uint64.
    """

    masks: tuple[int, ...]

    def __call__(self, task: int) -> Iterator[Columns]:
        hashes = self.plan.folder.load(_HASHES, task)["hash"]
        hashes = hashes[starts_of_runs(hashes)].astype(np.uint64)
        for index, mask in enumerate(self.masks):
            keys = (hashes & np.uint64(mask)) ^ np.uint64(index)
            partitions = _partitions_of_hashes(keys, self.plan.num_partitions)
            yield Columns(partition=partitions, mask=np.full(len(hashes), index, np.uint8), hash=hashes)


_NO_KEYS = Columns(mask=np.empty(0, np.uint8), hash=np.empty(0, np.uint64))


@dataclass(frozen=True)
class _FindPairs(_Step):
    """Returns the number of pairs."""

    masks: tuple[int, ...]

    def __call__(self, partition: int, blocks: list[Columns]) -> int:
        rows = _NO_KEYS.followed_by(blocks)
        blocks.clear()
        pairs = np.concatenate(
            [
                near_pairs(rows["hash"][rows["mask"] == index], mask, self.plan.distance)
                for index, mask in enumerate(self.masks)
            ]
        )
        pairs = np.unique(np.sort(pairs, axis=1), axis=0)  # several masks find the same pair
        self.plan.folder.store(_PAIRS, partition, [tuple(pair) for pair in pairs.tolist()])
        return len(pairs)


class _ByLooks(_Step):
    """Gives images that look like others to the partition of their root."""

    def __call__(self, task: int) -> Iterator[Columns]:
        images: Columns = self.plan.folder.load(_HASHES, task)
        roots: dict[int, int] = self.plan.folder.load(_HASH_ROOTS, task)
        starts = starts_of_runs(images["hash"])
        sizes = sizes_of_runs(starts, len(images))
        hashes = images["hash"][starts]
        root_of = hashes.copy()
        has_root = np.zeros(len(hashes), bool)
        vertices = np.fromiter(roots, np.int64, len(roots))
        places = np.searchsorted(hashes, vertices)
        root_of[places], has_root[places] = np.fromiter(roots.values(), np.int64, len(roots)), True
        similar = images.replace(root=np.repeat(root_of, sizes)).take(np.repeat(has_root | (sizes > 1), sizes))
        yield similar.replace(partition=_partitions_of_hashes(similar["root"], self.plan.num_partitions))


class _GroupByLooks(_Step):
    """Returns the number of connections that keep near duplicates together."""

    def __call__(self, partition: int, blocks: list[Columns]) -> int:
        groups, edges = list[list[int]](), list[tuple[str, str]]()
        if blocks:
            first, *others = blocks
            images: Columns = first.followed_by(others)
            images = images.take(np.lexsort((images["reference"], images["root"])))
            starts = starts_of_runs(images["root"])
            for start, size in zip(starts.tolist(), sizes_of_runs(starts, len(images)).tolist(), strict=True):
                rows = slice(start, start + size)
                if (images["sha256"][rows] == images["sha256"][start]).all():
                    continue
                groups.append(images["reference"][rows].tolist())
                if self.plan.near_duplicates == "together":
                    edges += self._edges(images.take(np.arange(start, start + size)))
        self.plan.folder.store(_NEAR, partition, groups)
        self.plan.folder.store(_NEAR_EDGES, partition, edges)
        return len(edges)

    def _edges(self, images: Columns) -> list[tuple[str, str]]:
        used = images.take(images["is_used"])
        anchors = zip(used["anchor_kind"].tolist(), used["anchor"], strict=True)
        first, *others = sorted({_key(kind, digest) for kind, digest in anchors}) or [""]
        return [(first, other) for other in others]


# === By unit ===


@dataclass(frozen=True)
class _ByAnchor(_Step):
    """Gives images to the partition of their anchor.

    Attributes:
      source: Kind of their files.
    """

    source: str

    def __call__(self, task: int) -> Iterator[Columns]:
        images: Columns = self.plan.folder.load(self.source, task)
        yield images.replace(partition=_partitions_of_digests(images["anchor"][:, 0], self.plan.num_partitions))


_NO_CONTENTS = _NO_IMAGES.only("reference", "split", "classes", "anchor_kind", "anchor")


class _ResolveAnchors(_Step):
    """Replaces the anchors of images by the keys of their units."""

    def __call__(self, partition: int, blocks: list[Columns]) -> None:
        images = _NO_CONTENTS.followed_by(blocks)
        roots: dict[str, str] = self.plan.folder.load(_UNIT_ROOTS, partition)
        if roots:
            vertices = digests([vertex[1:] for vertex in roots])
            # Rows whose anchors begin like a vertex; almost all others need no further look.
            candidates = np.flatnonzero(np.isin(images["anchor"][:, 0], vertices[:, 0]))
            for row in candidates.tolist():
                root = roots.get(_key(images["anchor_kind"][row], images["anchor"][row]))
                if root is not None:
                    images["anchor_kind"][row], images["anchor"][row] = int(root[0]), digests([root[1:]])[0]
        self.plan.folder.store(_RESOLVED, partition, images)


@dataclass(frozen=True)
class _GroupByUnit(_Step):
    """Stores the units, in the order of their keys, and their images.

    Returns the number of units to draw, by class.

    Attributes:
      are_contents: Whether the units of the partition are its contents, and no images come from others.
    """

    are_contents: bool

    def __call__(self, partition: int, blocks: list[Columns]) -> Counter[str]:
        load = self.plan.folder.load
        images: Columns = load(_CONTENTS, partition) if self.are_contents else _NO_CONTENTS.followed_by(blocks)
        images = images.take(order_of(images["anchor"], images["anchor_kind"], images["reference"]))
        starts = starts_of_runs(images["anchor"], images["anchor_kind"])
        sizes = sizes_of_runs(starts, len(images))
        names = objects((names or splits.NO_CLASS for names in images["classes"]), len(images))
        classes = names[starts]
        for unit in np.flatnonzero(sizes > 1).tolist():
            rows = slice(starts[unit], starts[unit] + sizes[unit])
            classes[unit] = tuple(dict.fromkeys(itertools.chain.from_iterable(names[rows])))
        units = Columns(
            first_word=images["anchor"][starts, 0],
            split=_first_splits(images["split"], starts),
            classes=classes,
            size=sizes,
        )
        self.plan.folder.store(_UNITS, partition, (units, images.only("reference", "split")))
        num_units = Counter[str]()
        for names_of_unit, number in Counter(classes[units["split"] == 0].tolist()).items():
            for name in names_of_unit:
                num_units[name] += number
        return num_units


def _first_splits(own_splits: np.ndarray, starts: np.ndarray) -> np.ndarray:
    """Returns the split that the dataset assigns to one of the images of every unit; 0 if it is drawn.

    If images have several, the others go to the first of these: they cannot be kept apart from all.
    """
    if not len(starts):
        return own_splits
    undrawn = np.where(own_splits == 0, len(SPLIT_NAMES), own_splits)
    firsts = np.minimum.reduceat(undrawn, starts)
    return np.where(firsts == len(SPLIT_NAMES), 0, firsts).astype(np.uint8)


# === Drawing ===


@dataclass(frozen=True)
class _CountStrata(_Step):
    """Returns the number of units of every stratum in the partition."""

    drawing: Drawing

    def __call__(self, partition: int, blocks: list[Columns]) -> Counter[str]:
        del blocks
        units, _ = self.plan.folder.load(_UNITS, partition)
        counts = Counter[str]()
        for classes, number in Counter(units["classes"][units["split"] == 0].tolist()).items():
            stratum = self.drawing.stratum_of(classes)
            if stratum is not None:
                counts[stratum] += number
        return counts


def _number_strata(plan: _Plan, counters: Iterable[Counter[str]]) -> None:
    """Stores, for every partition, how many units of its strata there are in all, and how many in those before it."""
    counts = list(counters)
    total, before = _added(counts), Counter[str]()
    for partition, counter in enumerate(counts):
        plan.folder.store(_STRATA, partition, {name: (total[name], before[name]) for name in counter})
        before.update(counter)


# Facts about an image: its reference; `refused`, `similar`, or a kind of duplicates; and the reason, nothing, or the
# reference of the first image of its group.
_Fact = tuple[int, str, Any]


@dataclass(frozen=True)
class _ByShard(_Step):
    """Draws the units of a partition, and gives the splits of images, and facts about them, to the tasks of the images.

    A row has a split, or a fact.
    """

    drawing: Drawing

    def __call__(self, task: int) -> Iterator[Columns]:
        units, images = self.plan.folder.load(_UNITS, task)
        drawn = np.repeat(self._splits(task, units), units["size"])
        own = images["split"]
        yield self._rows(images["reference"], np.where(own, own, drawn), np.full(len(images), None))
        facts = list(self._facts(task))
        references = np.fromiter((reference for reference, *_ in facts), np.int64, len(facts))
        yield self._rows(references, np.zeros(len(facts), np.uint8), objects(facts, len(facts)))

    def _rows(self, references: np.ndarray, codes: np.ndarray, facts: np.ndarray) -> Columns:
        return Columns(partition=self.plan.tasks_of(references), reference=references, split=codes, fact=facts)

    def _splits(self, partition: int, units: Columns) -> np.ndarray:
        """Returns the split of every unit."""
        result = np.where(
            units["split"], units["split"], self.drawing.splits_at(splits.positions_of(units["first_word"]))
        )
        strata = self.plan.folder.load(_STRATA, partition) if self.drawing.has_strata else {}
        if not strata:
            return result
        number_of = {name: number for number, name in enumerate(strata)}
        numbers: dict[tuple[str, ...], int] = {}
        for classes in set(units["classes"].tolist()):
            stratum = self.drawing.stratum_of(classes)
            numbers[classes] = -1 if stratum is None else number_of.get(stratum, -1)
        stratum_of = np.fromiter(map(numbers.__getitem__, units["classes"]), np.int64, len(units))
        stratum_of[units["split"] > 0] = -1
        order = np.argsort(stratum_of, kind="stable")
        order = order[stratum_of[order] >= 0]
        ordered = stratum_of[order]
        starts = starts_of_runs(ordered)
        places = np.arange(len(ordered)) - np.repeat(starts, sizes_of_runs(starts, len(ordered)))
        sizes, before = zip(*strata.values(), strict=True)
        result[order] = self.drawing.splits_of_ranks(ordered, places + np.array(before)[ordered], sizes)
        return result

    def _facts(self, partition: int) -> Iterator[_Fact]:
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


_NO_ROWS = _NO_IMAGES.only("reference", "split").replace(fact=np.empty(0, object))


class _Assign(_Step):
    """Writes the splits of the images of every shard."""

    def __call__(self, partition: int, blocks: list[Columns]) -> _Part:
        rows = _NO_ROWS.followed_by(blocks)
        has_fact = rows["fact"].astype(bool)
        facts_of: dict[int, dict[str, Any]] = defaultdict(dict)
        for reference, kind, value in rows["fact"][has_fact]:
            facts_of[reference][kind] = value
        assigned = rows.take(~has_fact)
        shard_of = assigned["reference"] >> _PLACE_BITS
        split_codes = {shard: part for shard, part in assigned.by_partition(shard_of)}
        facts_by_shard: dict[int, list[int]] = defaultdict(list)
        for reference in sorted(facts_of):
            facts_by_shard[reference >> _PLACE_BITS].append(reference)
        tally, refused, similar, members = Tally(), list[RefusedFile](), list[str](), list[Any]()
        for shard in self.plan.shards_of(partition):
            images = self.plan.images_of(shard)
            first = shard << _PLACE_BITS
            codes, is_refused = np.zeros(len(images), np.uint8), np.zeros(len(images), bool)
            if shard in split_codes:
                codes[split_codes[shard]["reference"] - first] = split_codes[shard]["split"]
            is_refused[[ref - first for ref in facts_by_shard[shard] if "refused" in facts_of[ref]]] = True
            lost = np.flatnonzero((codes > 0) == is_refused)
            if len(lost):
                raise LostFilesError(
                    f"{images['path'][lost[0]]} was not assigned to exactly one split. This is a defect of tfx-vision, "
                    "please report it."
                )
            splits_of_shard = [SPLIT_NAMES[code] for code in codes.tolist()]
            tally.add(images, splits_of_shard)
            for reference in facts_by_shard[shard]:
                place, facts = reference - first, facts_of[reference]
                path = images["path"][place]
                if "refused" in facts:
                    refused.append(RefusedFile(path, facts["refused"]))
                if "similar" in facts:
                    similar.append(path)
                image = (reference, path, images["classes"][place], splits_of_shard[place])
                members += [((facts[kind], kind), image) for kind in KINDS if kind in facts]
            content = {"num_shards": self.plan.num_shards, "splits": splits_of_shard}
            self.plan.folder.write(SPLITS, shard, content)
        self.plan.folder.store(_MEMBERS, partition, members)
        return _Part(tally, refused, Occurrences.of(similar), len(members))


class _ByFirst(_Step):
    """Gives the members of a group of duplicates to the task of the first of them."""

    def __call__(self, task: int) -> Iterator[Columns]:
        members = self.plan.folder.load(_MEMBERS, task)
        yield from spread((self.plan.task_of(item[0][0]), item) for item in members)


class _WriteGroups(_Step):
    """Writes the groups of duplicates, sorted; returns their numbers by kind."""

    def __call__(self, partition: int, blocks: list[Columns]) -> dict[Kind, DuplicateCounts]:
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
