"""The base of every section of the configuration."""

from __future__ import annotations

from typing import Annotated, ClassVar, Self

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
