"""What a training run can be told: the sections of the configuration that the trainer module itself reads.

`pipeline.config` composes them into the whole configuration. Nothing here imports TensorFlow, so that a wrong
value is reported at once.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field, SerializeAsAny, field_validator, model_validator

from trainer_module import models, tasks
from trainer_module.error_text import did_you_mean
from trainer_module.section import Fraction, ModelOptions, Rate, Section, TaskOptions

# What is measured of explanations, and whether more of it is better.
FAITHFULNESS = {
    "deletion_auc": False,
    "insertion_auc": True,
    "average_drop": False,
    "increase_in_confidence": True,
    "pointing_game": True,
    "energy_inside": True,
}
OF_MASKS = ("pointing_game", "energy_inside")  # need to know where a class is

Count = Annotated[int, Field(ge=0, le=100)]


class TransformOptions(Section):
    """`[transform]`: what a picture becomes before the model sees it."""

    image_size: int = Field(default=96, ge=8, le=1024, description="Side of the square model input, pixels.")
    channels: Literal[1, 3] = Field(default=3, description="1 reads every picture as grey, 3 as RGB.")
    normalization: Literal["dataset", "rescale", "backbone"] = Field(
        default="dataset",
        description="`dataset` subtracts the train split's mean and divides by its deviation, per channel; "
        "`rescale` maps [0, 255] to [-1, 1]; `backbone` leaves it to the pre-trained network.",
    )


class AugmentationOptions(Section):
    """`[augmentation]`: random changes of training pictures; none of them is active outside training."""

    placement: Literal["auto", "in_model", "in_dataset"] = Field(
        default="auto",
        description="`in_model` changes pictures where the model runs, `in_dataset` while they are read, on several "
        "processors; `auto` is `in_dataset` with masks, `mixup` or `cutmix`, which need it, otherwise `in_model`.",
    )
    horizontal_flip: bool = Field(default=False, description="Mirror half of the pictures.")
    vertical_flip: bool = Field(default=False, description="Turn half of the pictures upside down.")
    rotation: Fraction = Field(default=0.0, description="Largest angle, as a fraction of a full turn.")
    zoom: Rate = Field(default=0.0, description="Largest change of scale: 0.2 shows things 0.8 to 1.2 times as large.")
    translation: Fraction = Field(
        default=0.0,
        description="Largest shift, as a fraction of the side; in whole pixels, at least one, where nothing is turned "
        "or zoomed.",
    )
    contrast: Fraction = Field(default=0.0, description="Largest relative change of contrast.")
    brightness: Fraction = Field(default=0.0, description="Largest shift, as a fraction of the full range.")
    random_erasing: Fraction = Field(
        default=0.0,
        description="Share of the pictures in which a rectangle of 0.02 to 0.33 of the area, 0.3 to 3.3 times as high "
        "as wide, becomes noise. Not with masks.",
    )
    mixup: float = Field(
        default=0.0,
        ge=0.0,
        le=100.0,
        description="Blend every picture, and its label, with another; the shares are drawn from Beta(mixup, mixup), "
        "0 is off. Not with masks.",
    )
    cutmix: float = Field(
        default=0.0,
        ge=0.0,
        le=100.0,
        description="Replace a rectangle by that of another picture, and as much of the label; the area is drawn from "
        "Beta(cutmix, cutmix), 0 is off. With mixup too, every batch takes one of them. Not with masks.",
    )

    @model_validator(mode="after")
    def _mixing_comes_last(self) -> AugmentationOptions:
        if self.placement == "in_model" and self.mixes():
            raise ValueError(
                "mixup and cutmix change labels too, and come after all other changes: set "
                'augmentation.placement = "in_dataset" (or "auto")'
            )
        return self

    def mixes(self) -> bool:
        """Whether labels become shares of several classes."""
        return bool(self.mixup or self.cutmix)

    def active(self) -> dict[str, bool | float]:
        """The changes that are asked for, and how strong they are."""
        return {key: value for key, value in self.model_dump(exclude={"placement"}).items() if value}


class TrainingOptions(Section):
    """`[training]`: how the weights are found."""

    batch_size: int = Field(default=32, ge=1, le=65536, description="Pictures a step, over all accelerators.")
    epochs: int = Field(default=20, ge=1, le=10_000, description="Most passes over the train split.")
    learning_rate: float = Field(
        default=1e-3, gt=0.0, le=10.0, description="At the start, or the highest of a schedule."
    )
    optimizer: Literal["adam", "adamw", "sgd"] = Field(
        default="adam", description="`adamw` is Adam with weight decay; `sgd` has momentum."
    )
    momentum: Rate = Field(default=0.9, description="Of `sgd`.")
    nesterov: bool = Field(default=False, description="With `sgd`: look ahead along the momentum.")
    weight_decay: float = Field(
        default=0.0,
        ge=0.0,
        le=1.0,
        description="Part of a weight that a step takes away, times the rate; of `adamw` and `sgd`, and not of vectors "
        "(biases, batch normalisation).",
    )
    clip_norm: float = Field(
        default=0.0, ge=0.0, description="Longest gradient, all weights taken together; 0 clips nothing."
    )
    schedule: Literal["constant", "plateau", "cosine", "one_cycle"] = Field(
        default="plateau",
        description="`plateau` lowers the rate when the validation loss stands still; `cosine` lets it fall to 0 over "
        "all epochs; `one_cycle` lets it rise for three tenths of them and fall for the rest.",
    )
    warmup_epochs: float = Field(
        default=0.0,
        ge=0.0,
        le=1000.0,
        description="With `cosine`: epochs, of each phase, in which the rate grows to its highest first.",
    )
    plateau_patience: int = Field(
        default=2, ge=1, description="Epochs without a better validation loss before the rate is reduced."
    )
    plateau_factor: float = Field(default=0.5, gt=0.0, lt=1.0, description="What the rate is multiplied by.")
    early_stopping_patience: int = Field(
        default=5,
        ge=0,
        description="Epochs without a better validation loss before training ends; 0 goes on to the last. The best "
        "epoch's weights are kept either way.",
    )
    precision: Literal["float32", "mixed_bfloat16", "mixed_float16"] = Field(
        default="float32",
        description="What layers compute in while training; weights and the exported model are float32. Of use where "
        "the hardware has it: GPUs since 2017 for `mixed_float16`; TPUs, GPUs since 2020 and CPUs with AMX for "
        "`mixed_bfloat16`.",
    )
    distribution: Literal["none", "mirrored", "multi_worker"] = Field(
        default="none", description="`mirrored`: all GPUs of a machine; `multi_worker`: all machines in `TF_CONFIG`."
    )
    cache: Literal["auto", "memory", "disk", "none"] = Field(
        default="auto",
        description="Where the pictures of a split, decoded and resized once, are kept for later epochs: `auto` is "
        "memory up to 2 GiB, else a file that is deleted in the end; `none` decodes anew in every epoch.",
    )
    seed: int = Field(default=17, ge=0, le=2**31 - 1, description="Of weights, order of the pictures and augmentation.")

    @model_validator(mode="after")
    def _keys_agree(self) -> TrainingOptions:
        if self.weight_decay and self.optimizer == "adam":
            raise ValueError('weight_decay must be 0 with optimizer = "adam": take "adamw", which is Adam with it')
        if self.optimizer == "adamw" and not self.weight_decay:
            raise ValueError(
                "adamw without weight_decay is adam: set training.weight_decay (Keras's default is 0.004) or take adam"
            )
        if self.nesterov and self.optimizer != "sgd":
            raise ValueError(f'nesterov is of optimizer = "sgd" (given: "{self.optimizer}")')
        if self.warmup_epochs and self.schedule != "cosine":
            raise ValueError(f'warmup_epochs is of schedule = "cosine" (given: "{self.schedule}")')
        if self.warmup_epochs >= self.epochs:
            raise ValueError(f"warmup_epochs must be less than epochs = {self.epochs} (given: {self.warmup_epochs:g})")
        return self


class FineTuningOptions(Section):
    """`[fine_tuning]`: the second phase of a model with a pre-trained base."""

    epochs: int = Field(default=0, ge=0, le=10_000, description="Most further passes; 0 leaves the base as it was.")
    learning_rate: float = Field(default=1e-5, gt=0.0, le=10.0, description="As in `[training]`, of this phase.")
    unfreeze_layers: int = Field(
        default=0, ge=0, description="Layers of the base, from its end, that are trained; never batch normalisation."
    )


class ServedExplanationOptions(Section):
    """The part of `[grad_cam]` that the exported model holds."""

    method: Literal["grad_cam", "grad_cam_plus_plus"] = Field(
        default="grad_cam",
        description="How the channels of the feature map are weighed; `grad_cam_plus_plus` shows several things of one "
        "class more evenly.",
    )
    layer: str = Field(
        default="",
        description="The layer whose map is explained, as `tfx-vision model --expand` names it; inside a pre-trained "
        "network also `backbone/NAME`. Empty for the last spatial one, with masks the bottleneck.",
    )
    colormap: str = Field(default="jet", description="Name of a matplotlib colour map.")
    alpha: Fraction = Field(default=0.4, description="Weight of the heat map in the overlay.")

    @field_validator("colormap")
    @classmethod
    def _known_colormap(cls, value: str) -> str:
        if value == "jet":  # matplotlib takes a third of a second to import
            return value
        import matplotlib

        if value not in matplotlib.colormaps:
            raise ValueError(f"matplotlib has no colour map `{value}`; it has, for example, viridis, magma, turbo")
        return value


class ExplanationOptions(ServedExplanationOptions):
    """`[grad_cam]`: how decisions are explained, which of them, and how faithful the explanations must be."""

    target: str = Field(
        default="predicted",
        min_length=1,
        description="The class that is explained: `predicted`, `true` or a class's name. With masks `predicted` is "
        "that of the most pixels but the first, the background, and `true` every class in the mask, where it is.",
    )
    select: Literal["chosen", "everything"] = Field(
        default="chosen",
        description="`chosen` explains as many pictures as the next three keys say of every class, and of every value "
        "of `slices`; `everything` all pictures of the split, and only the chosen are drawn.",
    )
    most_confident_right: Count = Field(default=2, description="Right decisions, the most confident ones.")
    most_confident_wrong: Count = Field(default=2, description="Wrong decisions, the most confident ones.")
    least_certain: Count = Field(
        default=1, description="Decisions whose two most probable classes are nearest to each other."
    )
    slices: tuple[str, ...] | None = Field(
        default=None, description="Slices of whose values pictures are chosen too; those of `[evaluation]` when absent."
    )
    faithfulness: bool = Field(
        default=True, description="Measure, on a sample, whether the model heeds what the heat maps show."
    )
    faithfulness_sample: int = Field(
        default=64, ge=1, le=100_000, description="Pictures of that sample, drawn by the hash of their bytes."
    )
    faithfulness_steps: int = Field(
        default=10, ge=2, le=1000, description="Parts in which pixels are deleted and inserted; each is a prediction."
    )
    thresholds: dict[str, float] = Field(
        default={},
        description="Bounds on the figures of faithfulness: `insertion_auc`, `increase_in_confidence`, with masks "
        "`pointing_game` and `energy_inside` (at least), `deletion_auc`, `average_drop` (at most). A model beyond one "
        "is not pushed.",
    )

    @model_validator(mode="after")
    def _figures_are_measured(self) -> ExplanationOptions:
        for name, bound in self.thresholds.items():
            if name not in FAITHFULNESS:
                raise ValueError(
                    f"thresholds: no figure is called `{name}`"
                    f"{did_you_mean(name, FAITHFULNESS) or '; there are ' + ', '.join(FAITHFULNESS)}"
                )
            if not 0.0 <= bound <= 1.0:
                raise ValueError(f"thresholds.{name} must lie between 0 and 1 (given: {bound:g})")
        if self.thresholds and not self.faithfulness:
            raise ValueError("thresholds are on figures that faithfulness = false does not measure: remove one of them")
        return self


class TrainerOptions(Section):
    """All that the Transform and Trainer hooks receive."""

    classes: tuple[str, ...] = Field(min_length=2, description="Class names: id = index. Alphabetical, but for masks.")
    ignore_id: int | None = Field(default=None, ge=0, le=255, description="In masks: pixels that count for nothing.")
    transform: TransformOptions = TransformOptions()
    augmentation: AugmentationOptions = AugmentationOptions()
    task: SerializeAsAny[TaskOptions] = Field(default_factory=lambda: parse_task({}))
    model: SerializeAsAny[ModelOptions]
    training: TrainingOptions = TrainingOptions()
    fine_tuning: FineTuningOptions = FineTuningOptions()
    grad_cam: ExplanationOptions = ExplanationOptions()

    @field_validator("model", mode="before")
    @classmethod
    def _model_by_name(cls, value: Any) -> Any:
        return parse_model(value)

    @field_validator("task", mode="before")
    @classmethod
    def _task_by_name(cls, value: Any) -> Any:
        return parse_task(value)

    @model_validator(mode="after")
    def _sections_agree(self) -> TrainerOptions:
        check_model(self.model, self.transform)
        check_fine_tuning(self.model, self.training, self.fine_tuning)
        check_labels(self.task, self.augmentation, self.training)
        check_explanations(self.task, self.grad_cam)
        return self


def check_model(model: ModelOptions, transform: TransformOptions) -> None:
    """Compares what a model takes with what it would get.

    Raises:
      ValueError: If a pre-trained base would not get the pixels it was trained with, or another model unscaled ones.
    """
    if model.has_backbone() and transform.normalization != "backbone":
        raise ValueError(
            f'model.name = "{model.name}" brings its own normalisation: set transform.normalization = "backbone" '
            f'(given: "{transform.normalization}")'
        )
    if model.has_backbone() and transform.channels != 3:
        raise ValueError(f'model.name = "{model.name}" was trained on colour pictures: set transform.channels = 3')
    if transform.normalization == "backbone" and not model.has_backbone():
        raise ValueError(
            f'transform.normalization = "backbone" needs a model with a pre-trained base; model.name = "{model.name}" '
            'has none: take "dataset" or "rescale"'
        )


def check_fine_tuning(model: ModelOptions, training: TrainingOptions, fine_tuning: FineTuningOptions) -> None:
    """Compares the second phase with the model and with the keys that both phases read.

    Raises:
      ValueError: If there is a second phase, and nothing for it to train, or no epoch at the full rate.
    """
    if not fine_tuning.epochs:
        return
    if not model.begins_frozen():
        raise ValueError(f'fine_tuning.epochs must be 0: model.name = "{model.name}" has no base that begins frozen')
    if not model.can_unfreeze():
        raise ValueError("fine_tuning.epochs must be 0: a SavedModel's layers cannot be trained")
    if not fine_tuning.unfreeze_layers:
        raise ValueError(
            f"fine_tuning.epochs = {fine_tuning.epochs} with fine_tuning.unfreeze_layers = 0 would train the head "
            "alone once more: say how many layers of the base are trained, or set fine_tuning.epochs = 0"
        )
    if training.warmup_epochs >= fine_tuning.epochs:
        raise ValueError(
            f"training.warmup_epochs = {training.warmup_epochs:g} is of each phase and must be less than "
            f"fine_tuning.epochs = {fine_tuning.epochs}: lower the one or raise the other"
        )


def check_labels(task: TaskOptions, augmentation: AugmentationOptions, training: TrainingOptions) -> None:
    """Rejects augmentation that does not fit the labels.

    Raises:
      ValueError: If a batch has nothing to mix, or if the task's labels cannot follow the augmentation.
    """
    if augmentation.mixes() and training.batch_size == 1:
        raise ValueError(
            "mixup and cutmix mix images of one batch, and training.batch_size is 1: raise it, or set both to 0"
        )
    spec = tasks.get(task.name)
    for key in spec.unsupported_augmentation:
        if getattr(augmentation, key):
            raise ValueError(
                f'augmentation.{key} does not support labels of task.name = "{task.name}" ({spec.label_noun}): set it '
                "to 0"
            )
    if spec.geometry_moves_labels and augmentation.placement == "in_model":
        raise ValueError(
            f'task.name = "{task.name}" has labels that move with the image: set augmentation.placement = "in_dataset" '
            '(or "auto")'
        )


def check_explanations(task: TaskOptions, explanations: ExplanationOptions) -> None:
    """Compares the required explanation metrics with the labels.

    Raises:
      ValueError: If a metric needs regions of ground truth, and the task's labels have none.
    """
    for name in OF_MASKS:
        if name in explanations.thresholds and not tasks.get(task.name).explanation.has_regions:
            raise ValueError(
                f'grad_cam.thresholds.{name} requires labels with regions, and task.name = "{task.name}" has '
                f"{tasks.get(task.name).label_noun}: remove it"
            )


def parse_task(value: Any) -> Any:
    """Turns the `[task]` table into the options class of the task that its `name` asks for."""
    if not isinstance(value, dict):
        return value
    return tasks.get(value.get("name", tasks.DEFAULT)).options.model_validate(value)


def parse_model(value: Any) -> Any:
    """Turns the `[model]` table into the options class of the model that its `name` asks for."""
    if not isinstance(value, dict):
        return value
    name = value.get("name", models.DEFAULT)
    options: type[ModelOptions] = models.get(name).Options
    return options.model_validate(value)
