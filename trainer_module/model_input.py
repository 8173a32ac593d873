"""The size of the model input, how images of another shape become one, and how 16-bit images become 8-bit ones.

Needs no TensorFlow.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, NamedTuple

Size = tuple[int, int]  # height and width, pixels
Resize = Literal["stretch", "crop", "pad"]


def size_of(image_size: int | Sequence[int]) -> Size:
    """Returns height and width of a side, which makes a square, or of a pair."""
    height, width = (image_size, image_size) if isinstance(image_size, int) else image_size
    return int(height), int(width)


def limited(size: Size, longest: int) -> Size:
    """Returns the size of an image that is reduced, if necessary, to a longest side; at least one pixel each."""
    factor = min(1.0, longest / max(size))
    first, second = (max(1, round(side * factor)) for side in size)
    return first, second


class Geometry(NamedTuple):
    """The size of the model input, and how an image of another shape becomes one.

    Attributes:
      size: Height and width of the model input, pixels.
      resize: `stretch` changes the aspect ratio; `crop` enlarges or reduces the image until it covers the input, and
        removes what protrudes on both sides; `pad` does so until it fits in the input, and centres it.
    """

    size: Size
    resize: Resize = "stretch"

    @classmethod
    def of(cls, image_size: int | Sequence[int], resize: Resize = "stretch") -> Geometry:
        """Constructs the record from a side or a pair."""
        return cls(size_of(image_size), resize)


class Window(NamedTuple):
    """Range of 16-bit values that the 256 values of 8 bits represent, in equal steps; others are clipped.

    Attributes:
      low: The value that becomes black, 0.
      high: The value that becomes white, 255.
    """

    low: int
    high: int

    @classmethod
    def of_bits(cls, bit_depth: int) -> Window:
        """The values of this many bits, of which the 8 highest are kept."""
        return cls(0, 2**bit_depth - 1)

    @property
    def bit_depth(self) -> int | None:
        """The number of bits whose values these are; None if there is none."""
        bits = self.high.bit_length()
        return bits if self == Window.of_bits(bits) else None


LOWEST_BIT_DEPTH, HIGHEST_BIT_DEPTH = 8, 16
FULL_WINDOW = Window.of_bits(HIGHEST_BIT_DEPTH)  # the high byte is kept, as decoders for 8 bits do
