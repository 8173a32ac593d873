"""The base of every section of the configuration."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, ClassVar, Self

from pydantic import BaseModel, ConfigDict, Field

from trainer_module.model_input import Size

if TYPE_CHECKING:
    from trainer_module.options import TrainerOptions

Fraction = Annotated[float, Field(ge=0.0, le=1.0)]
Rate = Annotated[float, Field(ge=0.0, lt=1.0)]  # a share below 1, such as of dropout


class Section(BaseModel):
    """A frozen section of the configuration; an unknown key is an error, and so is NaN."""

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
        """Returns the side of the smallest image, pixels, that the network accepts."""
        return 1

    def has_backbone(self) -> bool:
        """Whether the network starts with a pre-trained backbone, which takes RGB pixels and normalises them itself."""
        return False

    def pyramid_strides(self) -> tuple[int, ...]:
        """Returns the strides of `FeatureMaps.levels` in pixels; by default that of a backbone's last map."""
        return (32,)

    def accepts_any_size(self) -> bool:
        """Whether the network computes maps of images of any size, not only of the one for which it is built."""
        return False

    def with_random_weights(self) -> Self:
        """Returns the same network without pre-trained weights, to inspect its layers."""
        return self

    def has_feature_map(self) -> bool:
        """Whether the network has a feature map of several positions, which Grad-CAM needs."""
        return True

    def check_weights(self, image_size: Size) -> None:
        """Checks that pre-trained weights are available; downloads them if necessary.

        Args:
          image_size: Height and width of the images, pixels.

        Raises:
          MissingWeightsError: If they are not available; the message says how to get them.
        """

    def begins_frozen(self) -> bool:
        """Whether the backbone is frozen in the first training phase."""
        return False

    def can_unfreeze(self) -> bool:
        """Whether fine-tuning can train layers of a pre-trained backbone."""
        return False


class TaskOptions(Section):
    """`[task]`: every task adds its own keys in its own file."""

    name: str

    @classmethod
    def from_options(cls, options: TrainerOptions) -> Self:
        """Returns the `[task]` section of a run of this task.

        Raises:
          TypeError: If it is a run of another task.
        """
        if not isinstance(options.task, cls):
            raise TypeError(f"the options of task.name = {options.task.name!r} are not {cls.__module__}.{cls.__name__}")
        return options.task
