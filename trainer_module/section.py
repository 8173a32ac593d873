"""The base of every section of the configuration."""

from __future__ import annotations

from typing import Annotated, ClassVar, Self

from pydantic import BaseModel, ConfigDict, Field

Fraction = Annotated[float, Field(ge=0.0, le=1.0)]
Rate = Annotated[float, Field(ge=0.0, lt=1.0)]  # of dropout and the like: never all of it


class Section(BaseModel):
    """A frozen part of the configuration; a key that it does not know is an error, and so is NaN."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class ModelOptions(Section):
    """`[model]`: every model adds its own keys in its own file.

    Attributes:
      head_dense_units: Default size of the dense layer of a head that pools; 0 for none.
      head_dropout: Default dropout of such a head.
    """

    head_dense_units: ClassVar[int] = 0
    head_dropout: ClassVar[float] = 0.2
    name: str

    def smallest_image(self) -> int:
        """Side of the smallest picture, pixels, that the network can take."""
        return 1

    def has_backbone(self) -> bool:
        """Whether the network begins with a pre-trained one, which takes RGB pixels and normalises them itself."""
        return False

    def with_random_weights(self) -> Self:
        """The same network without pre-trained weights, for looking at its shape."""
        return self

    def begins_frozen(self) -> bool:
        """Whether the pre-trained network is frozen while what follows it is trained first."""
        return False

    def can_unfreeze(self) -> bool:
        """Whether there is a pre-trained network whose layers can be trained further."""
        return False


class TaskOptions(Section):
    """`[task]`: every task adds its own keys in its own file."""

    name: str
