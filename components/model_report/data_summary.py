"""The dataset: numbers of examples, image sizes, duplicates, refused files, drift and skew."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from components.example_validator.artifact import DriftReport
from components.image_example_gen import corrections
from components.image_example_gen.artifact import (
    Correction,
    DuplicateCounts,
    DuplicateGroup,
    DuplicateImage,
    QuarantinedFile,
    SplitCounts,
    Summary,
)
from components.model_report.sources import ImageSizes, Sources
from components.model_report.tables import MAX_CLASSES, NO_VALUE, Cell, Column, Table, at_most, count

_MAX_LISTED = 50
_MAX_GROUPS = 20
_MAX_PATHS = 8


@dataclass(frozen=True)
class DataSummary:
    """The dataset of a run.

    Attributes:
      sentence: Number of images, classes and splits.
      warnings: What ImageExampleGen found in the images, one sentence each.
      classes: Images by class and split; None if an image has no class of its own.
      splits: Images by split, with their sizes.
      duplicates: Numbers of duplicates, one sentence per kind.
      groups: The first groups of duplicates, or None.
      quarantine: Number of refused files, in one sentence.
      refused: The first refused files, or None.
      corrections: Numbers of corrected images, in one sentence; empty if there are none.
      corrected: The first corrected images, or None.
      drift: Result of the comparison with the previous span, in one sentence; empty if there is none.
      drifted: The differences from the previous span.
      skew: Result of the comparison between splits, in one sentence.
      skewed: The differences between splits.
    """

    sentence: str
    warnings: list[str]
    classes: Table | None
    splits: Table
    duplicates: list[str]
    groups: Table | None
    quarantine: str
    refused: Table | None
    corrections: str
    corrected: Table | None
    drift: str
    drifted: list[str]
    skew: str
    skewed: list[str]


def summarize(sources: Sources) -> DataSummary:
    """Summarizes the dataset of a run."""
    summary, classes = sources.data, sources.evaluation.classes
    span = f", span {summary.span}" if summary.span else ""
    has_classes = any(counts.classes for counts in summary.splits.values())
    return DataSummary(
        sentence=f"{summary.examples:,} images, {len(classes)} classes, {len(summary.splits)} splits{span}.",
        warnings=list(summary.warnings),
        classes=_class_table(classes, summary.splits) if has_classes else None,
        splits=_split_table(summary.splits, sources.sizes),
        duplicates=[_duplicates(kind, counts) for kind, counts in summary.duplicates.items()],
        groups=_group_table(sources.duplicates),
        quarantine=_quarantine(summary),
        refused=_refused_table(sources.quarantined, summary.quarantined),
        corrections=_corrections(summary),
        corrected=_corrected_table(sources.corrections, sum(summary.corrections.values())),
        drift=_drift(sources.drift),
        drifted=list(map(str, sources.drift.drift[:_MAX_LISTED])),
        skew=_skew(sources.drift),
        skewed=list(map(str, (sources.drift.skew or ())[:_MAX_LISTED])),
    )


def _class_table(classes: Sequence[str], splits: Mapping[str, SplitCounts]) -> Table:
    columns = [
        Column("Class"),
        *[Column(split.capitalize(), numeric=True) for split in splits],
        Column("All", numeric=True),
    ]
    rows = []
    for name in classes:
        numbers = [counts.classes.get(name, 0) for counts in splits.values()]
        rows.append([Cell(name), *map(count, numbers), count(sum(numbers))])
    rows.sort(key=lambda row: row[-1].sort or 0.0)
    rows, caption = at_most(rows, MAX_CLASSES, "Images by class, the rarest first", Summary.FILE)
    return Table(caption, columns, rows, sorted_by=len(columns) - 1)


def _split_table(splits: Mapping[str, SplitCounts], sizes: Sequence[ImageSizes]) -> Table:
    by_split = {entry.split: entry for entry in sizes}
    columns = [Column("Split"), Column("Images", numeric=True)]
    if sizes:
        columns += [Column("Width", numeric=True), Column("Height", numeric=True), Column("Formats")]
    rows = []
    for split, counts in splits.items():
        row = [Cell(split), count(counts.examples)]
        if entry := by_split.get(split):
            formats = ", ".join(f"{name} {number:,}" for name, number in entry.formats.items())
            row += [_range(entry.widths), _range(entry.heights), Cell(formats)]
        elif sizes:
            row += [Cell(NO_VALUE, math.nan), Cell(NO_VALUE, math.nan), Cell(NO_VALUE)]
        rows.append(row)
    caption = "Images by split; width and height in pixels, median and range" if sizes else "Images by split"
    return Table(caption, columns, rows)


def _range(bounds: tuple[float, float, float]) -> Cell:
    low, median, high = bounds
    return Cell(f"{median:g}", median, f"{low:g} to {high:g}" if low != high else "all")


def _duplicates(kind: str, counts: DuplicateCounts) -> str:
    if not counts.groups:
        return f"No {kind} duplicates."
    text = f"{_number(counts.duplicates, f'{kind} duplicate')} in {_number(counts.groups, 'group')}"
    if counts.leaking_groups:
        text += f"; splits share {_number(counts.leaking_groups, 'group')} (leakage), which makes metrics too good"
    return text + "."


def _number(count: int, noun: str) -> str:
    return f"{count:,} {noun}{'' if count == 1 else 's'}"


def _group_table(groups: Sequence[DuplicateGroup]) -> Table | None:
    if not groups:
        return None
    rows = [
        [
            Cell(group.kind),
            Cell(", ".join(sorted({image.split or "quarantined" for image in group.images}))),
            Cell(_paths(group.images)),
        ]
        for group in groups[:_MAX_GROUPS]
    ]
    return Table(f"The first {len(rows)} groups", [Column("Kind"), Column("Splits"), Column("Images")], rows)


def _paths(images: Sequence[DuplicateImage]) -> str:
    more = f" and {len(images) - _MAX_PATHS:,} more" if len(images) > _MAX_PATHS else ""
    return ", ".join(image.path for image in images[:_MAX_PATHS]) + more


def _quarantine(summary: Summary) -> str:
    if not summary.quarantined:
        return "No refused files."
    reasons = ", ".join(f"{reason}: {number:,}" for reason, number in summary.reasons.items())
    return f"{_number(summary.quarantined, 'refused file')} ({reasons})."


def _refused_table(quarantined: Sequence[QuarantinedFile], total: int) -> Table | None:
    if not quarantined:
        return None
    rows = [[Cell(file.path), Cell(file.reason)] for file in quarantined[:_MAX_LISTED]]
    caption = "Refused files" if total <= len(rows) else f"The first {len(rows)} of {total:,} refused files"
    return Table(caption, [Column("File"), Column("Reason")], rows)


def _corrections(summary: Summary) -> str:
    return f"data.corrections: {corrections.describe(summary.corrections)}." if summary.corrections else ""


def _corrected_table(corrected: Sequence[Correction], total: int) -> Table | None:
    if not corrected:
        return None
    rows = [
        [Cell(each.path), Cell(each.action), Cell(", ".join(each.before)), Cell(", ".join(each.after))]
        for each in corrected[:_MAX_LISTED]
    ]
    caption = "Corrected images" if total <= len(rows) else f"The first {len(rows)} of {total:,} corrected images"
    return Table(caption, [Column("File"), Column("Action"), Column("Label in the dataset"), Column("Used")], rows)


def _drift(report: DriftReport) -> str:
    if report.previous_span is None:
        return ""
    if report.drift:
        return f"The data drifted from span {report.previous_span}; the drift was accepted."
    return f"No drift from span {report.previous_span}."


def _skew(report: DriftReport) -> str:
    if report.skew is None:
        return "Skew between splits was not checked."
    return "The splits differ:" if report.skew else "The splits agree."
