"""What the model was made and measured with: counts, sizes, copies, refused files, drift."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from components.image_example_gen.artifact import (
    DuplicateCounts,
    DuplicateGroup,
    DuplicateImage,
    QuarantinedFile,
    SplitCounts,
    Summary,
)
from components.model_report.sources import Sizes, Sources
from components.model_report.tables import MOST_CLASSES, NO_VALUE, Cell, Column, Table, at_most, count

_MOST_LISTED = 50
_MOST_GROUPS = 20
_MOST_PATHS = 8


@dataclass(frozen=True)
class Data:
    """What the model was made and measured with.

    Attributes:
      sentence: How many, in how many classes and splits.
      classes: Pictures by class and split; None for masks, which have many classes a picture.
      splits: Pictures by split, with their sizes.
      duplicates: Counts of copies, in sentences.
      groups: The first groups of copies, or None.
      quarantine: In a sentence.
      refused: The first refused files, or None.
      drift: In a sentence; empty where spans are not used.
      drifted: What has drifted.
      skew: Whether the splits differ, in a sentence.
      skewed: In what they differ.
    """

    sentence: str
    classes: Table | None
    splits: Table
    duplicates: list[str]
    groups: Table | None
    quarantine: str
    refused: Table | None
    drift: str
    drifted: list[str]
    skew: str
    skewed: list[str]


def summarize(sources: Sources) -> Data:
    """What the model was made and measured with."""
    summary = sources.data
    span = f", span {summary.span}" if summary.span else ""
    sentence = (
        f"{summary.examples:,} images, {len(sources.evaluation.classes)} classes, {len(summary.splits)} splits{span}."
    )
    has_classes = any(counts.classes for counts in summary.splits.values())
    return Data(
        sentence=sentence,
        classes=_class_counts(sources.evaluation.classes, summary.splits) if has_classes else None,
        splits=_split_table(summary.splits, sources.sizes),
        duplicates=[_duplicate_sentence(kind, counts) for kind, counts in summary.duplicates.items()],
        groups=_groups_table(sources.duplicates),
        quarantine=_quarantine_sentence(summary),
        refused=_refused_table(sources.quarantined, summary.quarantined),
        drift=_drift_sentence(sources.drift),
        drifted=list(sources.drift.get("found", []))[:_MOST_LISTED],
        skew=_skew_sentence(sources.drift),
        skewed=list(sources.drift.get("skew") or [])[:_MOST_LISTED],
    )


def _class_counts(classes: Sequence[str], splits: dict[str, SplitCounts]) -> Table:
    columns = [
        Column("Class"),
        *[Column(split.capitalize(), numeric=True) for split in splits],
        Column("All", numeric=True),
    ]
    rows = []
    for name in classes:
        counts = [split_counts.classes.get(name, 0) for split_counts in splits.values()]
        rows.append([Cell(name), *map(count, counts), count(sum(counts))])
    rows.sort(key=lambda row: row[-1].sort or 0.0)
    rows, caption = at_most(rows, MOST_CLASSES, "Pictures by class, the rarest first", Summary.FILE)
    return Table(caption, columns, rows, sorted_by=len(columns) - 1)


def _split_table(splits: dict[str, SplitCounts], sizes: Sequence[Sizes]) -> Table:
    by_split = {of.split: of for of in sizes}
    columns = [Column("Split"), Column("Pictures", numeric=True)]
    if sizes:
        columns += [Column("Width", numeric=True), Column("Height", numeric=True), Column("Formats")]
    rows = []
    for split, counts in splits.items():
        row = [Cell(split), count(counts.examples)]
        if sizes:
            of = by_split.get(split)
            row += (
                [_range(of.widths), _range(of.heights)] if of else [Cell(NO_VALUE, math.nan), Cell(NO_VALUE, math.nan)]
            )
            row.append(Cell(", ".join(f"{name} {found:,}" for name, found in of.formats.items()) if of else NO_VALUE))
        rows.append(row)
    caption = "Pictures by split; sides in pixels, median and range" if sizes else "Pictures by split"
    return Table(caption, columns, rows)


def _range(bounds: tuple[float, float, float]) -> Cell:
    low, median, high = bounds
    return Cell(f"{median:g}", median, f"{low:g} to {high:g}" if low != high else "all")


def _duplicate_sentence(kind: str, counts: DuplicateCounts) -> str:
    if not counts.groups:
        return f"No {kind} duplicates."
    leakage = f"; {counts.leaking_groups:,} groups span several splits (leakage), which makes metrics too good"
    text = f"{counts.duplicates:,} {kind} duplicates in {counts.groups:,} groups"
    return f"{text}{leakage if counts.leaking_groups else ''}."


def _groups_table(groups: Sequence[DuplicateGroup]) -> Table | None:
    if not groups:
        return None
    rows = [
        [
            Cell(f"{group.kind} duplicates"),
            Cell(", ".join(sorted({image.split or "quarantined" for image in group.images}))),
            Cell(_paths(group.images)),
        ]
        for group in groups[:_MOST_GROUPS]
    ]
    return Table(f"The first {len(rows)} groups", [Column("Kind"), Column("Splits"), Column("Images")], rows)


def _paths(images: Sequence[DuplicateImage]) -> str:
    more = f" and {len(images) - _MOST_PATHS:,} more" if len(images) > _MOST_PATHS else ""
    return ", ".join(image.path for image in images[:_MOST_PATHS]) + more


def _quarantine_sentence(summary: Summary) -> str:
    if not summary.quarantined:
        return "No file was refused."
    reasons = ", ".join(f"{reason}: {number:,}" for reason, number in summary.reasons.items())
    return f"{summary.quarantined:,} file{'s were' if summary.quarantined > 1 else ' was'} refused ({reasons})."


def _refused_table(quarantined: Sequence[QuarantinedFile], total: int) -> Table | None:
    if not quarantined:
        return None
    rows = [[Cell(file.path), Cell(file.reason)] for file in quarantined[:_MOST_LISTED]]
    caption = "Refused files" if total <= len(rows) else f"The first {len(rows)} of {total:,} refused files"
    return Table(caption, [Column("File"), Column("Reason")], rows)


def _drift_sentence(drift: dict[str, Any]) -> str:
    span = drift.get("previous_span")
    if span is None:
        return ""
    found = drift.get("found", [])
    return f"Drift against span {span} was found and accepted." if found else f"No drift against span {span}."


def _skew_sentence(drift: dict[str, Any]) -> str:
    found = drift.get("skew")
    if found is None:
        return "Whether the splits differ was not looked for."
    return "The splits differ:" if found else "The splits agree."
