"""Counts of usable images, which are added up from the parts of a dataset. Pure functions."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from typing import Any

from components.image_example_gen.artifact import SplitCounts
from components.image_example_gen.columns import Columns
from components.image_example_gen.observations import Occurrences
from components.image_example_gen.splits import IGNORED

_Counts = defaultdict[Any, Counter[Any]]


class Tally:
    """Counts images by split and class, and masks by class.

    Attributes:
      num_records: Number of usable images, those with conflicting labels included.
      examples: Number of images by split.
      named: Number of images by split and class name.
      drawn: Number of images whose split was drawn, by class name.
    """

    def __init__(self) -> None:
        """Starts without images."""
        self.num_records = 0
        self.examples: Counter[str] = Counter()
        self.named: _Counts = defaultdict(Counter)
        self.drawn: Counter[str] = Counter()
        self._masked: _Counts = defaultdict(Counter)
        self._pixels: _Counts = defaultdict(Counter)
        self._masks: dict[int, Occurrences] = {}

    def add(self, images: Columns, splits: Sequence[str]) -> None:
        """Counts images.

        Args:
          images: From `records.columns_of`.
          splits: The split of each; empty if it is refused.
        """
        self.num_records += len(images)
        kinds = Counter(zip(splits, images["classes"].tolist(), images["split"].tolist(), strict=True))
        for (split, classes, own_split), number in kinds.items():
            if not split:
                continue
            self.examples[split] += number
            for name in classes:
                self.named[split][name] += number
                if not own_split:
                    self.drawn[name] += number
        for path, pixels, split in zip(images["path"], images["pixels"], splits, strict=True):
            if pixels:
                self._add_mask(path, pixels, split)

    def _add_mask(self, path: str, pixels: Sequence[int], split: str) -> None:
        for number, count in zip(pixels[::2], pixels[1::2], strict=True):
            self._masks[number] = self.masks_with(number) + Occurrences(1, (path,))
            if split and number != IGNORED:
                self._masked[split][number] += 1
                self._pixels[split][number] += count

    def merge(self, other: Tally) -> None:
        """Adds the images of another part of the dataset."""
        self.num_records += other.num_records
        self.examples.update(other.examples)
        self.drawn.update(other.drawn)
        for mine, theirs in (
            (self.named, other.named),
            (self._masked, other._masked),
            (self._pixels, other._pixels),
        ):
            for split, counts in theirs.items():
                mine[split].update(counts)
        for number, occurrences in other._masks.items():
            self._masks[number] = self.masks_with(number) + occurrences

    def masks_with(self, number: int) -> Occurrences:
        """Returns the masks with a class id, or with `IGNORED`; those of refused images included."""
        return self._masks.get(number, Occurrences())

    def counts(self, split_names: Iterable[str], classes: Sequence[str]) -> dict[str, SplitCounts]:
        """Returns the examples and pixels of every split, with classes in alphabetical order.

        Args:
          split_names: The splits.
          classes: Class names, in the order of the ids where labels contain ids.
        """
        counts = {}
        for split in split_names:
            images = self.named[split] + Counter({classes[key]: n for key, n in self._masked[split].items()})
            pixels = {classes[number]: count for number, count in self._pixels[split].items()}
            counts[split] = SplitCounts(
                examples=self.examples[split], classes=dict(sorted(images.items())), pixels=dict(sorted(pixels.items()))
            )
        return counts
