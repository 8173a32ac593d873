"""The division in bounded memory against that of one process, and connected components in rounds."""

import hashlib
import itertools

import numpy as np
import pytest

from components.image_example_gen import boxes, connected_components
from components.image_example_gen.connected_components import Graph
from components.image_example_gen.duplicates import connected
from components.image_example_gen.errors import ClassTooSmallError
from components.image_example_gen.exchange import LocalExchange
from components.image_example_gen.observations import Occurrences
from components.image_example_gen.options import DataOptions
from components.image_example_gen.shards import WorkFolder
from components.image_example_gen.splits import IGNORED, Record

SPLITS = ("train", "validation", "test")
CLASSES = ("a", "b", "c", "rare")
BOXES = [
    boxes.encode([boxes.Box(*corners, name)], CLASSES)
    for corners, name in (((0.1, 0.2, 0.5, 0.6), "a"), ((0.11, 0.2, 0.5, 0.6), "a"), ((0.6, 0.6, 0.9, 0.9), "b"))
]


class Shuffled(LocalExchange):
    """Reduces the blocks in another order, as engines may."""

    def run(self, tasks, mapper, num_partitions, reducer):
        """Shuffles the blocks of every partition."""

        def shuffled(partition, blocks):
            np.random.default_rng(partition).shuffle(blocks)
            return reducer(partition, blocks)

        return super().run(tasks, mapper, num_partitions, shuffled)


def dataset(seed: int, num: int) -> list[Record]:
    """Draws images with everything that connects or distinguishes them."""
    rng = np.random.default_rng(seed)
    num_contents = max(1, int(num * rng.choice([0.5, 0.9, 1.0])))
    num_groups = int(rng.choice([0, 3, num // 2, num]))
    has_masks, has_boxes, has_splits = rng.random(3) < (0.2, 0.3, 0.4)
    originals = rng.integers(0, 2**63, max(1, num // 3), dtype=np.uint64)
    hashes = []
    for _ in range(num_contents):
        hashed = int(rng.choice(originals)) if rng.random() < 0.5 else int(rng.integers(0, 2**63))
        for bit in rng.integers(0, 63, rng.integers(0, 4)):
            hashed ^= 1 << int(bit)
        hashes.append(None if rng.random() < 0.1 else hashed)
    records = []
    for number in range(num):
        content = int(rng.integers(num_contents))
        label = CLASSES[: 1 + content % 3] if content % 17 else ("rare",)
        if has_masks or rng.random() < 0.05:
            label = ()
        elif rng.random() < 0.02:
            label = ("b",)
        pixels = {IGNORED: 3, number % 3: 5} if has_masks else {}
        box = int(rng.integers(len(BOXES))) if has_boxes and label else None
        records.append(
            Record(
                path=f"{number}.png",
                classes=label,
                split=str(rng.choice(["", "", "train", "test"])) if has_splits and rng.random() < 0.3 else "",
                group=f"g{rng.integers(num_groups)}" if num_groups and rng.random() < 0.6 else "",
                sha256=hashlib.sha256(str(content).encode()).hexdigest(),
                label_digest=f"{label}" if box is None else f"{box}",
                perceptual_hash=hashes[content],
                pixels=tuple(itertools.chain.from_iterable(pixels.items())),
                boxes="" if box is None else BOXES[box],
            )
        )
    return records


def settings(seed: int) -> DataOptions:
    rng = np.random.default_rng(seed)
    fractions = [(0.7, 0.15, 0.15), (0.8, 0.2, 0.0), (0.4, 0.3, 0.3)][rng.integers(3)]
    return DataOptions(
        near_duplicates=("report", "together", "off")[seed % 3],
        near_duplicate_distance=int(rng.integers(7)),
        splits=dict(zip(SPLITS, fractions, strict=True), by=("content", "class")[seed // 3 % 2]),
    )


def outcome_of_reference(reference, records, options, own_splits):
    """Divides in one process."""
    try:
        expected = reference.divide(records, options, own_splits)
    except ClassTooSmallError as error:
        return str(error)
    return (
        expected.splits,
        expected.refused,
        [reference.describe(group, records, expected) for group in expected.duplicates],
        {kind: reference.count_duplicates(kind, expected) for kind in ("exact", "near")},
        Occurrences.of(reference.similar_labels(records, expected)),
        reference.count_splits(records, expected, SPLITS, CLASSES),
    )


def outcome(divide, records, options, own_splits, **how):
    """Divides in steps."""
    try:
        divided = divide(records, options, own_splits, **how)
    except ClassTooSmallError as error:
        return str(error)
    return (*divided[:5], divided.tally.counts(SPLITS, CLASSES))


@pytest.mark.parametrize("seed", range(60))
def test_any_dataset_is_divided_as_in_one_process(divide, reference_division, seed):
    records = dataset(seed, (12, 60, 300, 900)[seed % 4])
    own_splits = tuple(split for split in SPLITS if split in {record.split for record in records})
    expected = outcome_of_reference(reference_division, records, settings(seed), own_splits)
    assert outcome(divide, records, settings(seed), own_splits) == expected
    small = {"per_shard": 7 + seed, "per_partition": 20 + 2 * seed, "exchange": Shuffled(30, 2 + seed % 5)}
    assert outcome(divide, records, settings(seed), own_splits, **small) == expected


def test_the_datasets_have_all_that_is_to_be_compared(reference_division):
    seen = set()
    for seed in range(60):
        records = dataset(seed, (12, 60, 300, 900)[seed % 4])
        own_splits = tuple(split for split in SPLITS if split in {record.split for record in records})
        divided = outcome_of_reference(reference_division, records, settings(seed), own_splits)
        if isinstance(divided, str):
            seen.add(f"refused: {divided.split()[-1]}")
        else:
            seen |= {
                name for name, part in zip(("", "conflict", "group", "", "similar"), divided, strict=False) if part
            }
            seen |= {f"{kind} {settings(seed).near_duplicates}" for kind, counts in divided[3].items() if counts.groups}
            seen.add("similar") if divided[4].num else None
    assert {"conflict", "group", "similar", "near report", "near together", "exact off"} <= seen
    assert any(name.startswith("refused") for name in seen)


def test_no_image_at_all(divide):
    divided = divide([], DataOptions())
    assert divided.splits == [] and divided.groups == [] and divided.tally.num_records == 0


def test_empty_and_long_shards_are_divided_as_others(divide):
    records = dataset(0, 300)
    expected = divide(records, DataOptions(max_bad_fraction=1.0))
    assert divide(records, DataOptions(max_bad_fraction=1.0), per_shard=1, per_partition=1).splits == expected.splits


# --- Connected components ---------------------------------------------------------------------------------------


def partition_of(vertex, num_partitions):
    return vertex * 7919 % num_partitions


def roots_of(pairs, tmp_path, most_edges):
    graph = Graph(WorkFolder(str(tmp_path)), ("edges",), "roots", 3, partition_of)
    for number in range(3):
        graph.folder.store("edges", number, pairs[number::3])
    exchange = Shuffled(5, most_parts=2)
    connected_components.find(graph, exchange, len(pairs), most_edges)
    roots = {}
    for number in range(3):
        part = graph.folder.load("roots", number)
        assert all(partition_of(vertex, 3) == number for vertex in part)
        roots |= part
    return roots


def chain(num):
    return [(number, number + 1) for number in range(num)]


@pytest.mark.parametrize(
    "pairs",
    [
        [],
        chain(200),
        [(199 - one, 199 - other) for one, other in chain(199)],
        [(0, leaf) for leaf in range(1, 50)],
        [(99, leaf) for leaf in range(99)],
        [(one, other) for one in range(12) for other in range(one)],
        [*chain(9), *((one + 20, other + 20) for one, other in chain(9)), (5, 25)],
    ],
)
def test_components_of_known_graphs(pairs, tmp_path):
    check(pairs, tmp_path)


@pytest.mark.parametrize("seed", range(15))
def test_components_of_random_graphs(seed, tmp_path):
    rng = np.random.default_rng(seed)
    size = int(rng.integers(2, 300))
    pairs = rng.integers(0, size, (int(rng.integers(1, size)), 2)).tolist()
    check([(one, other) for one, other in pairs if one != other], tmp_path)


def check(pairs, tmp_path):
    vertices = sorted({vertex for pair in pairs for vertex in pair})
    places = np.searchsorted(vertices, np.array(pairs, int).reshape(-1, 2))
    groups = connected(places, len(vertices)).tolist()
    smallest = {group: vertex for group, vertex in reversed(list(zip(groups, vertices, strict=True)))}
    expected = {vertex: smallest[group] for vertex, group in zip(vertices, groups, strict=True)}
    for name, most_edges in (("rounds", -1), ("memory", 10**6)):
        (tmp_path / name).mkdir()
        assert roots_of(pairs, tmp_path / name, most_edges) == expected


def test_a_long_chain_needs_few_rounds(tmp_path):
    roots_of(chain(3000), tmp_path, -1)
    rounds = {path.name.split("-")[2] for path in tmp_path.glob("roots-large-*")}
    assert 3 < len(rounds) <= 16  # log₂ 3000 is 11.6
