"""The size of the model input, and how images of another shape become one; needs no TensorFlow."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, NamedTuple

Size = tuple[int, int]  # height and width, pixels
Resize = Literal["stretch", "crop", "pad"]


def size_of(image_size: int | Sequence[int]) -> Size:
    """Returns height and width of a side, which makes a square, or of a pair."""
    height, width = (image_size, image_size) if isinstance(image_size, int) else image_size
    return int(height), int(width)


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
