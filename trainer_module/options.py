"""The sections of the configuration that the trainer module reads.

`pipeline.config` composes them into the whole configuration. Nothing here imports TensorFlow, so that a wrong value is
reported immediately.
"""

from __future__ import annotations

import math
from typing import Annotated, Any, Literal, Protocol

from pydantic import BeforeValidator, Field, SerializeAsAny, field_serializer, field_validator, model_validator

from trainer_module import box_labels, faithfulness, models, tasks
from trainer_module.error_text import did_you_mean
from trainer_module.model_input import FULL_WINDOW, Geometry, Resize, Size, Window
from trainer_module.section import Fraction, ModelOptions, Rate, Section, TaskOptions
from trainer_module.tasks import ChosenExplanationMethod

Count = Annotated[int, Field(ge=0, le=100)]
Side = Annotated[int, Field(ge=8, le=1024)]


def _pair(value: Any) -> Any:
    """Turns the side of a square into height and width; all other values are checked later."""
    return value if isinstance(value, list | tuple) else (value, value)


ImageSize = Annotated[tuple[Side, Side], BeforeValidator(_pair)]


def _thresholds_text() -> str:
    """Describes the keys of `grad_cam.thresholds`."""
    return ", ".join(
        f"`{metric.name}` (at {'least' if metric.higher_is_better else 'most'}"
        f"{'; only if the labels are masks or boxes' if metric.needs_regions else ''})"
        for metric in faithfulness.METRICS
    )


class TransformOptions(Section):
    """`[transform]`: how an image becomes the model input."""

    image_size: ImageSize = Field(
        default=(96, 96), description="Size of the model input, pixels: the side of a square, or `[height, width]`."
    )
    resize: Resize = Field(
        default="stretch",
        description="How an image of another shape becomes the model input: `stretch` changes its aspect ratio; `crop` "
        "resizes it to cover the input and keeps the centre; `pad` resizes it to fit in and adds grey borders "
        "(letterbox). Predictions always refer to the original image.",
    )
    channels: Literal["auto", 1, 3] = Field(
        default=3,
        description="1 reads every image as grayscale, 3 as RGB. `auto` is 1 if the images of a sample have no colours "
        "and the model has no pre-trained backbone, which requires RGB (grey is then repeated); otherwise 3.",
    )
    normalization: Literal["dataset", "rescale", "backbone"] = Field(
        default="dataset",
        description="`dataset` subtracts the train split's mean and divides by its deviation, per channel; "
        "`rescale` maps [0, 255] to [-1, 1]; `backbone` uses that of the pre-trained network.",
    )
    max_objects: int = Field(
        default=box_labels.MAX_OBJECTS,
        ge=1,
        le=10_000,
        description='Largest number of boxes in an image, for `task.name = "detection"`. An image with more stops the '
        "run; every image has memory for this number.",
    )

    @field_serializer("image_size")
    def _side_of_a_square(self, size: Size) -> int | Size:
        # As configurations state it: the settings of runs stay comparable.
        return size[0] if size[0] == size[1] else size

    @property
    def num_channels(self) -> Literal[1, 3]:
        """1 or 3; without a dataset, `auto` is 3."""
        return 3 if self.channels == "auto" else self.channels

    def with_channels(self, detected: Literal[1, 3]) -> TransformOptions:
        """Replaces `auto` by a number of channels; another value stays."""
        return self.model_copy(update={"channels": detected}) if self.channels == "auto" else self

    @property
    def geometry(self) -> Geometry:
        """Size of the model input, and how images are resized to it."""
        return Geometry(self.image_size, self.resize)


class AugmentationOptions(Section):
    """`[augmentation]`: random changes of training images; none is active outside training."""

    placement: Literal["auto", "in_model", "in_dataset"] = Field(
        default="auto",
        description="`in_model` augments on the device of the model, `in_dataset` in tf.data on all cores; `auto` is "
        "`in_dataset` with masks, boxes, `mixup` or `cutmix`, which require it, otherwise `in_model`.",
    )
    horizontal_flip: bool = Field(default=False, description="Mirror half of the images.")
    vertical_flip: bool = Field(default=False, description="Flip half of the images upside down.")
    rotation: Fraction = Field(default=0.0, description="Largest angle, as a fraction of 360 degrees.")
    zoom: Rate = Field(default=0.0, description="Largest change of scale: 0.2 scales by 0.8 to 1.2.")
    translation: Fraction = Field(
        default=0.0,
        description="Largest shift, as a fraction of the side; whole pixels, at least one, if rotation and zoom are 0.",
    )
    crop: Rate = Field(
        default=0.0,
        description="Train on parts of the images at random positions, with this share of the height and of the width, "
        "rounded to a multiple of the largest stride of the network; 0 trains on whole images. Validation, evaluation "
        "and export use whole images. Only with masks and `model.name` = `unet`.",
    )
    contrast: Fraction = Field(default=0.0, description="Largest relative change of contrast.")
    brightness: Fraction = Field(default=0.0, description="Largest shift, as a fraction of the full range.")
    saturation: Fraction = Field(
        default=0.0,
        description="Largest relative change of saturation: 0.3 multiplies it by 0.7 to 1.3; lightness stays. Gray "
        "images do not change.",
    )
    hue: float = Field(
        default=0.0,
        ge=0.0,
        le=0.5,
        description="Largest rotation of the hue, as a fraction of 360 degrees; lightness stays. Gray images do not "
        "change.",
    )
    blur: float = Field(
        default=0.0,
        ge=0.0,
        le=10.0,
        description="Blur half of the images with a Gaussian; its standard deviation is up to this, in pixels of the "
        "model input.",
    )
    noise: Fraction = Field(
        default=0.0,
        description="Add noise to half of the images; its standard deviation is up to this fraction of the full range.",
    )
    jpeg_quality: int = Field(
        default=0,
        ge=0,
        le=100,
        description="Compress half of the images as JPEG with a quality from this one to 100; 0 is off.",
    )
    random_erasing: Fraction = Field(
        default=0.0,
        description="Share of the images in which a rectangle of 0.02 to 0.33 of the area, with an aspect ratio of "
        "0.3 to 3.3, becomes noise. Not with masks or boxes.",
    )
    mixup: float = Field(
        default=0.0,
        ge=0.0,
        le=100.0,
        description="Blend every image and its label with another; the shares are drawn from Beta(mixup, mixup), 0 is "
        "off. Not with masks or boxes.",
    )
    cutmix: float = Field(
        default=0.0,
        ge=0.0,
        le=100.0,
        description="Replace a rectangle by that of another image, and the same share of the label; the area is drawn "
        "from Beta(cutmix, cutmix), 0 is off. With mixup too, every batch uses one of them. Not with masks "
        "or boxes.",
    )

    @model_validator(mode="after")
    def _mixing_comes_last(self) -> AugmentationOptions:
        if self.placement == "in_model" and self.mixes():
            raise ValueError(
                "mixup and cutmix change labels and run after all other augmentation: set "
                'augmentation.placement = "in_dataset" (or "auto")'
            )
        return self

    def mixes(self) -> bool:
        """Whether labels become shares of several classes."""
        return bool(self.mixup or self.cutmix)

    def active(self) -> dict[str, bool | float]:
        """Returns the active augmentation and its strength."""
        return {key: value for key, value in self.model_dump(exclude={"placement"}).items() if value}


class TrainingOptions(Section):
    """`[training]`: optimisation of the weights."""

    batch_size: int = Field(default=32, ge=1, le=65536, description="Images per step, over all accelerators.")
    epochs: int = Field(default=20, ge=1, le=10_000, description="Maximum number of passes over the train split.")
    learning_rate: float = Field(
        default=1e-3, gt=0.0, le=10.0, description="Initial learning rate, or the peak of a schedule."
    )
    optimizer: Literal["adam", "adamw", "sgd"] = Field(
        default="adam", description="`adamw` is Adam with weight decay; `sgd` has momentum."
    )
    momentum: Rate = Field(default=0.9, description="Momentum of `sgd`.")
    nesterov: bool = Field(default=False, description="With `sgd`: look ahead along the momentum.")
    weight_decay: float = Field(
        default=0.0,
        ge=0.0,
        le=1.0,
        description="Decoupled weight decay of `adamw` and `sgd`, multiplied by the learning rate; not applied to "
        "biases and batch normalisation.",
    )
    clip_norm: float = Field(
        default=0.0, ge=0.0, description="Largest global norm of the gradients; 0 disables clipping."
    )
    weight_average: Rate = Field(
        default=0.0,
        description="Evaluate, keep and export a moving average of the weights: the share that it keeps in every step "
        "(0.99 averages over about 100 steps); 0 is off.",
    )
    schedule: Literal["constant", "plateau", "cosine", "one_cycle"] = Field(
        default="plateau",
        description="`plateau` reduces the learning rate when the validation loss stops improving; `cosine` decays it "
        "to "
        "0 over all epochs; `one_cycle` increases it for 30 % of the epochs and decreases it for the rest.",
    )
    warmup_epochs: float = Field(
        default=0.0,
        ge=0.0,
        le=1000.0,
        description="With `cosine`: epochs at the start of each phase in which the learning rate grows to its peak.",
    )
    plateau_patience: int = Field(
        default=2, ge=1, description="Epochs without a better validation loss before the learning rate is reduced."
    )
    plateau_factor: float = Field(
        default=0.5, gt=0.0, lt=1.0, description="Factor by which the learning rate is multiplied."
    )
    early_stopping_patience: int = Field(
        default=5,
        ge=0,
        description="Epochs without a better validation loss before training ends; 0 trains all epochs.",
    )
    kept_epoch: Literal["best", "last"] = Field(
        default="best",
        description="`best` keeps the weights of the epoch with the lowest validation loss; `last` those of the last "
        "epoch, so that the validation split selects nothing and can be evaluated on. `last` requires a schedule that "
        "ends with a small learning rate (`cosine` or `one_cycle`), and early_stopping_patience = 0.",
    )
    precision: Literal["float32", "mixed_bfloat16", "mixed_float16"] = Field(
        default="float32",
        description="Compute dtype during training; weights and the exported model are float32. Faster where the "
        "hardware supports it: GPUs since 2017 for `mixed_float16`; TPUs, GPUs since 2020 and CPUs with AMX for "
        "`mixed_bfloat16`. CPUs with AVX-512 BF16 only are slower with some networks (docs/results.md). Other CPUs "
        "emulate it and are slower; Trainer warns there.",
    )
    distribution: Literal["none", "mirrored", "multi_worker"] = Field(
        default="none", description="`mirrored`: all GPUs of a machine; `multi_worker`: all machines in `TF_CONFIG`."
    )
    cache: Literal["auto", "memory", "disk", "none"] = Field(
        default="auto",
        description="Where decoded and resized images are cached for later epochs: `auto` is memory if a split fits "
        "into a quarter of what is free (of the machine and of the container), else a temporary file; `none` decodes "
        "in every epoch.",
    )
    seed: int = Field(default=17, ge=0, le=2**31 - 1, description="Seed of weights, shuffling and augmentation.")

    @model_validator(mode="after")
    def _keys_agree(self) -> TrainingOptions:
        if self.weight_decay and self.optimizer == "adam":
            raise ValueError(
                'weight_decay must be 0 with optimizer = "adam": use "adamw", which is Adam with weight decay'
            )
        if self.optimizer == "adamw" and not self.weight_decay:
            raise ValueError(
                "adamw without weight_decay equals adam: set training.weight_decay (Keras's default is 0.004) or use "
                "adam"
            )
        if self.nesterov and self.optimizer != "sgd":
            raise ValueError(f'nesterov requires optimizer = "sgd" (given: "{self.optimizer}")')
        if self.warmup_epochs and self.schedule != "cosine":
            raise ValueError(f'warmup_epochs requires schedule = "cosine" (given: "{self.schedule}")')
        if self.kept_epoch == "last" and self.early_stopping_patience:
            raise ValueError(
                'kept_epoch = "last" trains all epochs: set early_stopping_patience = 0 (given: '
                f"{self.early_stopping_patience})"
            )
        if self.kept_epoch == "last" and self.schedule not in ("cosine", "one_cycle"):
            raise ValueError(
                f'kept_epoch = "last" requires schedule = "cosine" or "one_cycle" (given: "{self.schedule}")'
            )
        if self.warmup_epochs >= self.epochs:
            raise ValueError(f"warmup_epochs must be less than epochs = {self.epochs} (given: {self.warmup_epochs:g})")
        return self


class FineTuningOptions(Section):
    """`[fine_tuning]`: the second training phase of a model with a pre-trained backbone."""

    epochs: int = Field(
        default=0, ge=0, le=10_000, description="Maximum number of epochs of this phase; 0 disables it."
    )
    learning_rate: float = Field(default=1e-5, gt=0.0, le=10.0, description="As in `[training]`, for this phase.")
    unfreeze_layers: int = Field(
        default=0,
        ge=0,
        description="Number of backbone layers, counted from its end, that are trained; batch normalisation is not.",
    )


class TestTimeAugmentationOptions(Section):
    """`[test_time_augmentation]`: changed copies of an image whose predictions are averaged.

    Evaluation, explanations and the exported model average them; training and its validation do not. A change trains
    again, because Trainer exports the model.
    """

    horizontal_flip: bool = Field(
        default=False,
        description="Average with the predictions for the mirrored image. A prediction takes twice as long.",
    )
    scales: tuple[Annotated[float, Field(ge=0.25, le=4.0)], ...] = Field(
        default=(),
        max_length=8,
        description="Average with the predictions for the image at other sizes: factors of the height and the width, "
        "which are rounded to a multiple of the largest stride of the network. A prediction takes longer in proportion "
        "to the pixels. Only with `model.name` = `unet`.",
    )


class ServedExplanationOptions(Section):
    """The part of `[grad_cam]` that is exported with the model."""

    method: ChosenExplanationMethod = Field(
        default="auto",
        description="How the channels of the feature map are weighted: `grad_cam` by mean gradients, "
        "`grad_cam_plus_plus` by positive ones, which covers several objects of one class more evenly, `hires_cam` by "
        "the gradients at every position. `auto` is `grad_cam`, for detections `hires_cam`.",
    )
    layer: str = Field(
        default="",
        description="Layer whose feature map is explained, named as by `tfx-vision model --expand`; inside a "
        "pre-trained "
        "network also `backbone/NAME`. Empty for the last feature map, or the bottleneck of an encoder-decoder.",
    )
    colormap: str = Field(default="jet", description="Name of a matplotlib colormap.")
    alpha: Fraction = Field(default=0.4, description="Opacity of the heat map in the overlay.")

    @field_validator("colormap")
    @classmethod
    def _known_colormap(cls, value: str) -> str:
        if value == "jet":  # importing matplotlib takes a third of a second
            return value
        import matplotlib

        if value not in matplotlib.colormaps:
            raise ValueError(f"matplotlib has no colormap `{value}`. Examples: viridis, magma, turbo")
        return value


class ExplanationOptions(ServedExplanationOptions):
    """`[grad_cam]`: which predictions are explained, how, and how faithful the explanations must be."""

    target: str = Field(
        default="predicted",
        min_length=1,
        description="Explained class: `predicted`, `true` or a class name. With masks, `predicted` is the class with "
        "the most pixels except the first, the background; `true` is every class of the mask, in its region. With "
        "boxes or several classes per image, all detections or predicted classes are explained, or all true ones.",
    )
    select: Literal["chosen", "everything"] = Field(
        default="chosen",
        description="`chosen` explains as many images as the next three keys set, for every class and every value of "
        "`slices`; `everything` explains all images of the split and draws only the chosen ones.",
    )
    most_confident_right: Count = Field(
        default=2, description="Number of correct predictions, the most confident ones."
    )
    most_confident_wrong: Count = Field(default=2, description="Number of wrong predictions, the most confident ones.")
    least_certain: Count = Field(
        default=1, description="Number of predictions with the smallest margin between the two most probable classes."
    )
    slices: tuple[str, ...] | None = Field(
        default=None, description="Slices for whose values images are chosen too; those of `[evaluation]` if absent."
    )
    faithfulness: bool = Field(
        default=True, description="Measure on a sample whether the heat maps show what the model uses."
    )
    faithfulness_sample: int = Field(
        default=64,
        ge=1,
        le=100_000,
        description="Predictions of that sample, drawn by the hash of the images: one of every image first.",
    )
    faithfulness_steps: int = Field(
        default=10, ge=2, le=1000, description="Steps in which pixels are deleted and inserted; each is one prediction."
    )
    thresholds: dict[str, float] = Field(
        default={},
        description=f"Bounds on the faithfulness metrics: {_thresholds_text()}. A model that misses one is not pushed.",
    )

    @model_validator(mode="after")
    def _thresholds_are_measured(self) -> ExplanationOptions:
        metrics = {metric.name: metric for metric in faithfulness.METRICS}
        for name, bound in self.thresholds.items():
            if name not in metrics:
                raise ValueError(
                    f"thresholds: `{name}` is not a faithfulness metric"
                    f"{did_you_mean(name, metrics) or '; the metrics are ' + ', '.join(metrics)}"
                )
            if not metrics[name].allows(bound):
                raise ValueError(f"thresholds.{name} must be {metrics[name].range_text} (given: {bound:g})")
        if self.thresholds and not self.faithfulness:
            raise ValueError("thresholds require faithfulness = true: remove the thresholds, or measure faithfulness")
        return self


def _parse_model(value: Any) -> Any:
    """Parses the `[model]` table with the options class of the model `name`."""
    if not isinstance(value, dict):
        return value
    return models.get(value.get("name", models.DEFAULT)).options.model_validate(value)


def _parse_task(value: Any) -> Any:
    """Parses the `[task]` table with the options class of the task `name`."""
    if not isinstance(value, dict):
        return value
    return tasks.get(value.get("name", tasks.DEFAULT)).options.model_validate(value)


def default_task() -> TaskOptions:
    """The options of the default task."""
    return tasks.get(tasks.DEFAULT).options.model_validate({})


# The sections whose keys depend on `name`.
ModelSection = Annotated[SerializeAsAny[ModelOptions], BeforeValidator(_parse_model)]
TaskSection = Annotated[SerializeAsAny[TaskOptions], BeforeValidator(_parse_task)]


class TrainerOptions(Section):
    """All options of the Transform and Trainer hooks."""

    classes: tuple[str, ...] = Field(min_length=1, description="Class names; the index is the class id.")
    ignore_id: int | None = Field(default=None, ge=0, le=255, description="Id of the mask pixels that are ignored.")
    window: Window = Field(
        default=FULL_WINDOW,
        description="Values of 16-bit images that become black and white; Trainer reads it from examples.",
    )
    transform: TransformOptions = TransformOptions()
    augmentation: AugmentationOptions = AugmentationOptions()
    task: TaskSection = Field(default_factory=default_task)
    model: ModelSection
    training: TrainingOptions = TrainingOptions()
    fine_tuning: FineTuningOptions = FineTuningOptions()
    test_time_augmentation: TestTimeAugmentationOptions = TestTimeAugmentationOptions()
    grad_cam: ExplanationOptions = ExplanationOptions()

    @model_validator(mode="after")
    def _sections_agree(self) -> TrainerOptions:
        check_sections(self)
        return self

    @property
    def training_size(self) -> Size:
        """Height and width of training images after augmentation, pixels."""
        share = self.augmentation.crop
        return scaled_size(self.transform.image_size, share, self.model) if share else self.transform.image_size

    @property
    def view_sizes(self) -> tuple[Size, ...]:
        """Height and width of every size of `[test_time_augmentation]`, pixels, that of the model input first."""
        size = self.transform.image_size
        return size, *(scaled_size(size, scale, self.model) for scale in self.test_time_augmentation.scales)

    @property
    def largest_view(self) -> Size:
        """The largest of these sizes."""
        return max(self.view_sizes, key=math.prod)


def scaled_size(size: Size, factor: float, model: ModelOptions) -> Size:
    """Multiplies height and width, and rounds them to multiples of the largest stride of the network."""
    stride = max(model.pyramid_strides())
    height, width = (max(1, round(factor * side / stride)) * stride for side in size)
    return height, width


class TrainerSections(Protocol):
    """The sections of a configuration that the trainer module reads."""

    transform: TransformOptions
    augmentation: AugmentationOptions
    task: TaskOptions
    model: ModelOptions
    training: TrainingOptions
    fine_tuning: FineTuningOptions
    test_time_augmentation: TestTimeAugmentationOptions
    grad_cam: ExplanationOptions


def check_sections(sections: TrainerSections) -> None:
    """Checks that the sections fit together.

    Raises:
      ValueError: If two of them contradict each other.
    """
    _check_model(sections.model, sections.transform)
    _check_fine_tuning(sections.model, sections.training, sections.fine_tuning)
    _check_labels(sections.task, sections.augmentation, sections.training)
    if sections.augmentation.crop:
        _check_any_size("augmentation.crop", "0", sections.model, sections.transform)
    if sections.test_time_augmentation.scales:
        _check_any_size("test_time_augmentation.scales", "[]", sections.model, sections.transform)
    _check_test_time_augmentation(sections)
    _check_explanations(sections.task, sections.grad_cam)


def _check_model(model: ModelOptions, transform: TransformOptions) -> None:
    """Rejects a pre-trained backbone without the pixels it was trained with, and another model with unscaled ones."""
    if model.has_backbone() and transform.normalization != "backbone":
        raise ValueError(
            f'model.name = "{model.name}" has its own normalisation: set transform.normalization = "backbone" '
            f'(given: "{transform.normalization}")'
        )
    if model.has_backbone() and transform.num_channels != 3:
        raise ValueError(f'model.name = "{model.name}" was trained on RGB images: set transform.channels = 3')
    if transform.normalization == "backbone" and not model.has_backbone():
        raise ValueError(
            f'transform.normalization = "backbone" requires a model with a pre-trained backbone; model.name = '
            f'"{model.name}" has none: use "dataset" or "rescale"'
        )


def _check_any_size(key: str, off: str, model: ModelOptions, transform: TransformOptions) -> None:
    """Rejects a key that changes the size of the images, for a network for images of one size."""
    if not model.accepts_any_size():
        raise ValueError(
            f'{key} requires a network for images of any size, and that of model.name = "{model.name}" is for images '
            f'of one size: use model.name = "unet", or set {key} = {off}'
        )
    height, width = transform.image_size
    stride = max(model.pyramid_strides())
    if height % stride or width % stride:
        nearest = [max(stride, round(side / stride) * stride) for side in (height, width)]
        raise ValueError(
            f"{key} requires a height and a width that are multiples of {stride}, and transform.image_size is "
            f"{[height, width]}: set {nearest}, or {key} = {off}"
        )


def _check_test_time_augmentation(sections: TrainerSections) -> None:
    """Rejects views of an image whose predictions cannot be averaged, and sizes that are averaged twice."""
    views, spec = sections.test_time_augmentation, tasks.get(sections.task.name)
    if (views.horizontal_flip or views.scales) and spec.restore_outputs is None:
        raise ValueError(
            f'test_time_augmentation does not support task.name = "{sections.task.name}", whose predictions for '
            "several views of an image cannot be averaged: remove the section"
        )
    sizes = {sections.transform.image_size: 1.0}
    for scale in views.scales:
        size = scaled_size(sections.transform.image_size, scale, sections.model)
        if size in sizes:
            raise ValueError(
                f"test_time_augmentation.scales: {scale:g} gives the same size as {sizes[size]:g}, {list(size)} px: "
                "remove one of them (the image itself, scale 1, is always included)"
            )
        sizes[size] = scale


def _check_fine_tuning(model: ModelOptions, training: TrainingOptions, fine_tuning: FineTuningOptions) -> None:
    """Rejects a second phase that has nothing to train, or no epoch at the full learning rate."""
    if not fine_tuning.epochs:
        return
    if not model.begins_frozen():
        raise ValueError(
            f'fine_tuning.epochs must be 0: model.name = "{model.name}" has no backbone that starts frozen'
        )
    if not model.can_unfreeze():
        raise ValueError("fine_tuning.epochs must be 0: the layers of a SavedModel cannot be trained")
    if not fine_tuning.unfreeze_layers:
        raise ValueError(
            f"fine_tuning.epochs = {fine_tuning.epochs} with fine_tuning.unfreeze_layers = 0 would train only "
            "the head again: set the number of backbone layers to train, or fine_tuning.epochs = 0"
        )
    if training.warmup_epochs >= fine_tuning.epochs:
        raise ValueError(
            f"training.warmup_epochs = {training.warmup_epochs:g} applies to each phase and must be less "
            f"than fine_tuning.epochs = {fine_tuning.epochs}: lower the first or raise the second"
        )


def _check_labels(task: TaskOptions, augmentation: AugmentationOptions, training: TrainingOptions) -> None:
    """Rejects augmentation that has nothing to mix, or that the task's labels cannot follow."""
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


def _check_explanations(task: TaskOptions, explanations: ExplanationOptions) -> None:
    """Rejects thresholds of metrics that need regions of ground truth, if the task's labels have none."""
    spec = tasks.get(task.name)
    measured = faithfulness.metrics_of(spec.explanation)
    for metric in faithfulness.METRICS:
        if metric.name in explanations.thresholds and metric not in measured:
            raise ValueError(
                f'grad_cam.thresholds.{metric.name} requires labels with regions, and task.name = "{task.name}" has '
                f"{spec.label_noun}: remove it"
            )
