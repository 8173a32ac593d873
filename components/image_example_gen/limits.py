"""Checks of the images that are usable: too few, or none of a class or split, stop the run. Pure functions."""

from __future__ import annotations

import logging
import math
import re
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

from components.image_example_gen.artifact import SplitCounts
from components.image_example_gen.entries import RefusedFile
from components.image_example_gen.errors import ClassWithoutTrainingImagesError, EmptySplitError, TooManyBadFilesError
from trainer_module import features

# Reasons listed in an error; the log has all of them.
_MOST_REASONS = 10
_SHOWN_FILES = 2
# Up to this fraction, unusable files are exceptions, and a run without them can be meant. Beyond it, something is
# systematically wrong: a run on the remaining files would be a run on other data.
_MOST_EXCEPTIONS = 0.2
# What differs between the reasons of two files that have the same fault: numbers, names and the library's detail.
_VARIABLE = re.compile(r"\d+|`[^`]*`|:.*", re.DOTALL)


class ReasonGroup(NamedTuple):
    """The files that are unusable for the same reason.

    Attributes:
      reason: The reason of the first file, with its remedy.
      paths: All files, in alphabetical order.
    """

    reason: str
    paths: tuple[str, ...]

    def __str__(self) -> str:
        """One line: the number of files, the reason, two file names."""
        if len(self.paths) == 1:
            return f"{self.paths[0]}: {self.reason}"
        names = ", ".join(self.paths[:_SHOWN_FILES]) + (", …" if len(self.paths) > _SHOWN_FILES else "")
        return f"{len(self.paths):,} files: {self.reason} ({names})"


def group_by_reason(refused: Iterable[RefusedFile]) -> list[ReasonGroup]:
    """Groups unusable files by reason, the most frequent first; numbers and names in a reason do not count."""
    groups: dict[str, list[RefusedFile]] = defaultdict(list)
    for file in sorted(refused):
        groups[_VARIABLE.sub("", file.reason)].append(file)
    ordered = sorted(groups.values(), key=lambda files: -len(files))
    return [ReasonGroup(files[0].reason, tuple(file.path for file in files)) for files in ordered]


def describe_groups(groups: Sequence[ReasonGroup]) -> str:
    """Lists groups as the indented lines of a message."""
    listed = "".join(f"\n  {group}" for group in groups[:_MOST_REASONS])
    return listed + (f"\n  and {len(groups) - _MOST_REASONS} more reasons" if len(groups) > _MOST_REASONS else "")


def refuse_bad_files(refused: Iterable[RefusedFile], total: int, max_bad_fraction: float) -> None:
    """Refuses a dataset with too many unusable files.

    Args:
      refused: The unusable files.
      total: Number of all files.
      max_bad_fraction: `data.max_bad_fraction`.

    Raises:
      TooManyBadFilesError: If they are more than that fraction.
    """
    refused = tuple(refused)
    if len(refused) <= max_bad_fraction * total:
        return
    fraction = len(refused) / total
    advice = "Fix or remove them."
    if fraction <= _MOST_EXCEPTIONS:
        enough = math.ceil(fraction * 1000) / 1000  # rounded up: with the advice, the next run passes
        advice = f"Fix or remove them, or run without them: --set data.max_bad_fraction={enough:g}."
    raise TooManyBadFilesError(
        f"{len(refused):,} of {total:,} files ({fraction:.1%}) are not usable; data.max_bad_fraction allows "
        f"{max_bad_fraction:.1%}.{describe_groups(group_by_reason(refused))}\n{advice}"
    )


def refuse_untrainable(splits: Mapping[str, SplitCounts], classes: Sequence[str]) -> None:
    """Refuses splits that cannot be trained on and evaluated; warns of a class that is not in every split.

    Args:
      splits: Number of examples per split.
      classes: Class names that labels have; empty if labels have none.

    Raises:
      ClassWithoutTrainingImagesError: If a class has no image in the train split.
      EmptySplitError: If a split has no image.
    """
    untrained = [name for name in classes if not splits[features.TRAIN].classes.get(name)]
    if untrained:
        raise ClassWithoutTrainingImagesError(
            f"No usable image of class {', '.join(f'`{name}`' for name in untrained)} is in the train split. "
            "Add images of it, or change data.splits."
        )
    for split, counts in splits.items():
        if not counts.examples:
            raise EmptySplitError(f"Split `{split}` has no usable image. Add images, or give the split a folder.")
        absent = [name for name in classes if not counts.classes.get(name)]
        if absent:
            logging.warning("Split %s has no image of class %s.", split, ", ".join(absent))
