"""What the model was made and measured with: counts, sizes, copies, refused files, drift."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from components.evaluator import metric_names
from components.image_example_gen.quarantine import SUMMARY_FILE
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
    splits: dict[str, dict[str, int]] = summary["splits"]
    with_masks = sources.evaluation.task == metric_names.SEGMENTATION
    span = f", span {summary['span']}" if summary.get("span") else ""
    sentence = (
        f"{summary['examples']:,} pictures, {len(sources.evaluation.classes)} classes, {len(splits)} splits{span}."
    )
    return Data(
        sentence=sentence,
        classes=None if with_masks else _class_counts(sources.evaluation.classes, splits),
        splits=_split_table(splits, sources.sizes),
        duplicates=[_duplicate_sentence(kind, found) for kind, found in summary.get("duplicates", {}).items()],
        groups=_groups_table(sources.duplicates),
        quarantine=_quarantine_sentence(summary),
        refused=_refused_table(sources.quarantined, summary.get("quarantined", 0)),
        drift=_drift_sentence(sources.drift),
        drifted=list(sources.drift.get("found", []))[:_MOST_LISTED],
        skew=_skew_sentence(sources.drift),
        skewed=list(sources.drift.get("skew") or [])[:_MOST_LISTED],
    )


def _class_counts(classes: Sequence[str], splits: dict[str, dict[str, int]]) -> Table:
    columns = [
        Column("Class"),
        *[Column(split.capitalize(), numeric=True) for split in splits],
        Column("All", numeric=True),
    ]
    rows = []
    for name in classes:
        counts = [of.get(name, 0) for of in splits.values()]
        rows.append([Cell(name), *map(count, counts), count(sum(counts))])
    rows.sort(key=lambda row: row[-1].sort or 0.0)
    rows, caption = at_most(rows, MOST_CLASSES, "Pictures by class, the rarest first", SUMMARY_FILE)
    return Table(caption, columns, rows, sorted_by=len(columns) - 1)


def _split_table(splits: dict[str, dict[str, int]], sizes: Sequence[Sizes]) -> Table:
    by_split = {of.split: of for of in sizes}
    columns = [Column("Split"), Column("Pictures", numeric=True)]
    if sizes:
        columns += [Column("Width", numeric=True), Column("Height", numeric=True), Column("Formats")]
    rows = []
    for split, counts in splits.items():
        row = [Cell(split), count(sum(counts.values()))]
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


def _duplicate_sentence(kind: str, found: dict[str, int]) -> str:
    what = "are exact copies of others" if kind == "exact" else "look like others"
    if not found["groups"]:
        return f"No pictures {what}."
    text = f"{found['copies']:,} pictures {what}, in {found['groups']:,} groups"
    if found["astride"]:
        text += (
            f"; {found['astride']:,} groups lie on two sides of the split, so that figures look better than they are"
        )
    return text + "."


def _groups_table(groups: Sequence[dict[str, Any]]) -> Table | None:
    if not groups:
        return None
    rows = [
        [
            Cell("exact copies" if group["kind"] == "exact" else "look alike"),
            Cell(", ".join(sorted({str(picture["split"]) or "left out" for picture in group["pictures"]}))),
            Cell(_paths(group["pictures"])),
        ]
        for group in groups[:_MOST_GROUPS]
    ]
    return Table(f"The first {len(rows)} groups", [Column("Kind"), Column("Splits"), Column("Pictures")], rows)


def _paths(found: Sequence[dict[str, Any]]) -> str:
    more = f" and {len(found) - _MOST_PATHS:,} more" if len(found) > _MOST_PATHS else ""
    return ", ".join(str(picture["path"]) for picture in found[:_MOST_PATHS]) + more


def _quarantine_sentence(summary: dict[str, Any]) -> str:
    quarantined = summary.get("quarantined", 0)
    if not quarantined:
        return "No file was refused."
    reasons = ", ".join(f"{reason}: {found:,}" for reason, found in summary.get("reasons", {}).items())
    return f"{quarantined:,} file{'s were' if quarantined > 1 else ' was'} refused ({reasons})."


def _refused_table(quarantined: Sequence[dict[str, str]], total: int) -> Table | None:
    if not quarantined:
        return None
    rows = [[Cell(record["path"]), Cell(record["reason"])] for record in quarantined[:_MOST_LISTED]]
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
