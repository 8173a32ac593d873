"""Counts of the usable images, and the contents of the quarantine artifact. Pure functions."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

from components.image_example_gen.dataset import Dataset
from components.image_example_gen.layouts import RefusedFile
from components.image_example_gen.splits import Division, Record


class SplitCounts(NamedTuple):
    """Number of examples in a split: all of them, and per class name, if labels have class names."""

    examples: int
    classes: dict[str, int]


def count_splits(records: Iterable[Record], division: Division, split_names: Iterable[str]) -> dict[str, SplitCounts]:
    """Counts the examples of every split, with classes in alphabetical order."""
    examples = Counter(division.splits)
    classes = Counter(
        (split, name) for record, split in zip(records, division.splits, strict=True) for name in record.classes
    )
    by_split: dict[str, dict[str, int]] = {split: {} for split in split_names}
    for (split, name), count in sorted(classes.items()):
        if split:
            by_split[split][name] = count
    return {split: SplitCounts(examples=examples[split], classes=counts) for split, counts in by_split.items()}


def summarize(
    dataset: Dataset, division: Division, refused: Sequence[RefusedFile], splits: Mapping[str, SplitCounts]
) -> dict[str, Any]:
    """Composes the summary."""
    return {
        "examples": sum(counts.examples for counts in splits.values()),
        "quarantined": len(refused),
        "reasons": dict(Counter(file.reason.split(":")[0] for file in sorted(refused)).most_common()),
        "splits": {split: counts.classes or {"": counts.examples} for split, counts in splits.items()},
        "duplicates": {kind: _count_duplicates(kind, division) for kind in ("exact", "near")},
        "span": dataset.span,
        "version": dataset.version,
    }


def _count_duplicates(kind: str, division: Division) -> dict[str, int]:
    groups = [group for group in division.duplicates if group.kind == kind]
    return {
        "groups": len(groups),
        "copies": sum(len(group.members) - 1 for group in groups),
        "astride": sum(division.is_leaking(group) for group in groups),
    }


def duplicate_groups(records: Sequence[Record], division: Division) -> Iterable[dict[str, Any]]:
    """Returns one object per group, for `duplicates.jsonl`."""
    for group in division.duplicates:
        yield {
            "kind": group.kind,
            "pictures": [
                {"path": records[index].path, "class": "".join(records[index].classes), "split": division.splits[index]}
                for index in group.members
            ],
        }
