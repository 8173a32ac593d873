"""Properties that the images of a dataset share, counted while they are read. Pure functions, bounded memory."""

from __future__ import annotations

import heapq
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple, Self

# Names of images that are kept per observation.
_MOST_NAMES = 2
# Details of one kind, for example colours of palettes. More are not needed to see that they differ.
_MOST_DETAILS = 4096

# Kinds of observations, and their details.
ORIENTATION = "orientation"  # EXIF orientation other than 1 of an image with a mask: its number
USED_BITS = "used bits"  # a 16-bit image: number of bits of its largest value
TYPICAL_BITS = "typical bits"  # a 16-bit image: number of bits that 99 % of its values need
EIGHT_BITS = "8 bits"  # any other image: no detail
IGNORED_ORIENTATION = "ignored orientation"  # an EXIF orientation other than 1 that is not applied: its number
ALPHA_ONLY = "alpha only"  # an image of one colour that varies only in its transparency: no detail
CONVERTED = "converted"  # an image that was converted to PNG: its format
FRAMES = "frames"  # an image of several frames or pages, of which the first is used: its format
PROFILE = "profile"  # a JPEG or PNG with a colour profile other than sRGB, which decoders do not apply: its name
PALETTE = "palette"  # a mask whose ids are indices of a palette: its digest
PALETTE_COLOR = "palette colour"  # an id in such a mask and its colour: "1 255 0 0"


class Occurrences(NamedTuple):
    """Images with the same observation.

    Attributes:
      num: Number of images.
      names: The first two, in alphabetical order.
    """

    num: int = 0
    names: tuple[str, ...] = ()

    @classmethod
    def of(cls, names: Iterable[str]) -> Self:
        """Counts images by their names."""
        listed = list(names)
        return cls(len(listed), tuple(heapq.nsmallest(_MOST_NAMES, listed)))

    def __add__(self, other: Occurrences) -> Occurrences:  # type: ignore[override]
        num = self.num + other.num
        if len(self.names) == _MOST_NAMES and other.names and other.names[0] >= self.names[-1]:
            return Occurrences(num, self.names)
        return Occurrences(num, tuple(sorted({*self.names, *other.names})[:_MOST_NAMES]))

    def __str__(self) -> str:
        """The names, in a message."""
        return ", ".join(self.names) + (", …" if self.num > len(self.names) else "")


class Observations:
    """Counts observations by kind and detail."""

    def __init__(self) -> None:
        """Starts without any."""
        self._by_kind: dict[str, dict[str, Occurrences]] = defaultdict(dict)

    def add(self, kind: str, name: str, detail: str = "") -> None:
        """Adds an observation of the image with this name."""
        self._add(kind, detail, Occurrences(1, (name,)))

    def merge(self, other: Observations) -> None:
        """Adds all observations of another part of the dataset."""
        for kind, by_detail in other._by_kind.items():
            for detail, occurrences in by_detail.items():
                self._add(kind, detail, occurrences)

    def details(self, kind: str) -> Mapping[str, Occurrences]:
        """Returns the observations of a kind by detail."""
        return self._by_kind.get(kind, {})

    def total(self, kind: str) -> Occurrences:
        """Returns all observations of a kind together."""
        return sum(self.details(kind).values(), Occurrences())

    def to_json(self) -> dict[str, dict[str, Occurrences]]:
        """Returns a JSON value."""
        return dict(self._by_kind)

    @classmethod
    def from_json(cls, values: Mapping[str, Mapping[str, Sequence[Any]]]) -> Self:
        """Restores observations that were stored as JSON."""
        observations = cls()
        for kind, by_detail in values.items():
            for detail, (count, names) in by_detail.items():
                observations._add(kind, detail, Occurrences(count, tuple(names)))
        return observations

    def _add(self, kind: str, detail: str, occurrences: Occurrences) -> None:
        known = self._by_kind[kind]
        if detail in known or len(known) < _MOST_DETAILS:
            known[detail] = known.get(detail, Occurrences()) + occurrences
