"""How the masks of a dataset encode classes: ids, other values, or colours. Imports nothing heavy."""

from __future__ import annotations

import functools
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from components.image_example_gen.class_list import Color

Source = Literal["auto", "values", "alpha"]
Orientation = Literal["auto", "upright", "stored"]

UNKNOWN = -1  # instead of an id: a value or colour that no class has
# Values of two classes in a transparency: transparent pixels are the first class, opaque ones the second.
_OPAQUE = (0, 255)


@dataclass(frozen=True)
class MaskEncoding:
    """How the masks of a dataset encode classes.

    Attributes:
      num_classes: Number of classes.
      ignore_id: The id of pixels that do not count, if there is one.
      class_names: In the order of the ids, for messages about colours.
      colors: The colour of every class; empty if masks contain ids or values.
      ignored_colors: Colours of pixels that do not count.
      values: The value of every class (`data.mask_values`); empty if values are ids.
      source: Which part of a mask is read, see `data.mask_source`.
      orientation: Whether masks are drawn on the upright or the stored pixels, see `data.mask_orientation`.
    """

    num_classes: int
    ignore_id: int | None = None
    class_names: tuple[str, ...] = ()
    colors: tuple[Color, ...] = ()
    ignored_colors: tuple[Color, ...] = ()
    values: tuple[int, ...] = ()
    source: Source = "auto"
    orientation: Orientation = "auto"

    @property
    def class_values(self) -> tuple[int, ...]:
        """The value of every class; empty if values are ids."""
        return _OPAQUE if self.source == "alpha" and self.num_classes == 2 and not self.values else self.values

    def id_of_value(self, value: int) -> int:
        """Returns the class id, or the ignored id, of a value; UNKNOWN if it has none."""
        values = self.class_values
        if value in values:
            return values.index(value)
        if not values and 0 <= value < self.num_classes:
            return value
        return UNKNOWN if self.ignore_id is None or value != self.ignore_id else self.ignore_id

    @functools.cached_property
    def id_of_color(self) -> Mapping[int, int]:
        """The id of every colour in the table, by the packed colour."""
        ids = {pack(color): number for number, color in enumerate(self.colors)}
        ignored = UNKNOWN if self.ignore_id is None else self.ignore_id
        return ids | {pack(color): ignored for color in self.ignored_colors}


def pack(color: Color) -> int:
    """Packs a colour into one number: red * 65536 + green * 256 + blue."""
    return color[0] << 16 | color[1] << 8 | color[2]


def unpack(packed: int) -> Color:
    """Inverts `pack`."""
    return packed >> 16, packed >> 8 & 255, packed & 255
