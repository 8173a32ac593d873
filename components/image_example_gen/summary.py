"""The contents of the quarantine artifact. Pure functions."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping

from components.image_example_gen import corrections
from components.image_example_gen.artifact import Quarantine, QuarantinedFile, SplitCounts, Summary
from components.image_example_gen.dataset import Dataset
from components.image_example_gen.division import Division
from components.image_example_gen.entries import RefusedFile
from trainer_module.model_input import Window


def summarize(
    dataset: Dataset,
    division: Division,
    refused: Iterable[RefusedFile],
    splits: Mapping[str, SplitCounts],
    *,
    window: Window | None = None,
    warnings: Iterable[str] = (),
) -> Quarantine:
    """Composes the quarantine artifact, without the groups of duplicates.

    Args:
      dataset: The dataset.
      division: Counts of duplicates.
      refused: All files that are not used, those with conflicting labels included.
      splits: Counts per split.
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
            duplicates=division.duplicates,
            span=dataset.span,
            version=dataset.version,
            window=window,
            warnings=tuple(warnings),
            corrections=corrections.count(dataset.corrections),
        ),
        files,
        corrections=dataset.corrections,
    )
