"""The base of every section of the configuration."""

from __future__ import annotations

from typing import Annotated, ClassVar

from pydantic import BaseModel, ConfigDict, Field

Fraction = Annotated[float, Field(ge=0.0, le=1.0)]


class Section(BaseModel):
    """A frozen part of the configuration; a key that it does not know is an error, and so is NaN."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class ModelOptions(Section):
    """`[model]`: every model adds its own keys in its own file.

    Attributes:
      task: What the model is made for: a name of `trainer_module.tasks`.
    """

    task: ClassVar[str] = "classification"
    name: str

    def takes_pixels(self) -> bool:
        """Whether the network normalises by itself and so wants pixels as they are, range [0, 255]."""
        return False

    def smallest_image(self) -> int:
        """Side of the smallest picture, pixels, that the network can take."""
        return 1
