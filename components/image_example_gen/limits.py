"""Checks of the images that are usable: too few, or none of a class or split, stop the run. Pure functions."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping, Sequence

from components.image_example_gen.artifact import SplitCounts
from components.image_example_gen.errors import ClassWithoutTrainingImagesError, EmptySplitError, TooManyBadFilesError
from components.image_example_gen.layouts import RefusedFile
from trainer_module import features

# Reasons listed in an error; the log has all of them.
_MOST_REASONS = 10


def refuse_bad_files(refused: Iterable[RefusedFile], total: int, max_bad_fraction: float) -> None:
    """Refuses a dataset with too many unusable files.

    Args:
      refused: The unusable files.
      total: Number of all files.
      max_bad_fraction: `data.max_bad_fraction`.

    Raises:
      TooManyBadFilesError: If they are more than that fraction.
    """
    refused = sorted(refused)
    if len(refused) <= max_bad_fraction * total:
        return
    listed = "".join(f"\n  {file.path}: {file.reason}" for file in refused[:_MOST_REASONS])
    rest = f"\n  and {len(refused) - _MOST_REASONS} more" if len(refused) > _MOST_REASONS else ""
    raise TooManyBadFilesError(
        f"{len(refused)} of {total} files ({len(refused) / total:.1%}) are not usable images; "
        f"data.max_bad_fraction allows {max_bad_fraction:.1%}.{listed}{rest}\n"
        "Fix or remove them, or raise data.max_bad_fraction."
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
            raise EmptySplitError(
                f"Split `{split}` has no usable image. Add images, give the split a folder, or set "
                'data.splits.by = "class", which gives every split its exact fraction.'
            )
        absent = [name for name in classes if not counts.classes.get(name)]
        if absent:
            logging.warning("Split %s has no image of class %s.", split, ", ".join(absent))
