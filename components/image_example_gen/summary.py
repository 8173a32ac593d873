"""Counts of the usable images, and the contents of the quarantine artifact. Pure functions."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence

from components.image_example_gen import corrections
from components.image_example_gen.artifact import (
    DuplicateCounts,
    DuplicateGroup,
    DuplicateImage,
    Quarantine,
    QuarantinedFile,
    SplitCounts,
    Summary,
)
from components.image_example_gen.dataset import Dataset
from components.image_example_gen.layouts import RefusedFile
from components.image_example_gen.splits import IGNORED, Division, Duplicates, Record
from trainer_module.model_input import Window


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


def summarize(
    dataset: Dataset,
    records: Sequence[Record],
    division: Division,
    refused: Iterable[RefusedFile],
    splits: Mapping[str, SplitCounts],
    *,
    window: Window | None = None,
    warnings: Iterable[str] = (),
) -> Quarantine:
    """Composes the quarantine artifact.

    Args:
      dataset: The dataset.
      records: All usable images.
      division: Their splits and duplicates.
      refused: All files that are not used, those with conflicting labels included.
      splits: From `count_splits`.
      window: Values of 16-bit images that are read as black and white; None if there are none.
      warnings: What users should know about the images.
    """
    files = tuple(QuarantinedFile(path=file.path, reason=file.reason) for file in sorted(refused))
    return Quarantine(
        Summary(
            examples=sum(counts.examples for counts in splits.values()),
            quarantined=len(files),
            reasons=dict(Counter(file.reason.split(":")[0] for file in files).most_common()),
            splits=dict(splits),
            duplicates={kind: _count_duplicates(kind, division) for kind in ("exact", "near")},
            span=dataset.span,
            version=dataset.version,
            window=window,
            warnings=tuple(warnings),
            corrections=corrections.count(dataset.corrections),
        ),
        files,
        tuple(_group(group, records, division) for group in division.duplicates),
        dataset.corrections,
    )


def _count_duplicates(kind: str, division: Division) -> DuplicateCounts:
    groups = [group for group in division.duplicates if group.kind == kind]
    return DuplicateCounts(
        groups=len(groups),
        duplicates=sum(len(group.members) - 1 for group in groups),
        leaking_groups=sum(division.is_leaking(group) for group in groups),
    )


def _group(group: Duplicates, records: Sequence[Record], division: Division) -> DuplicateGroup:
    images = [
        DuplicateImage(path=records[index].path, classes=records[index].classes, split=division.splits[index])
        for index in group.members
    ]
    return DuplicateGroup(kind=group.kind, images=tuple(images))
