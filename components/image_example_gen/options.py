"""`[data]` and the options of ImageExampleGen. Imports nothing heavy."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Sequence
from typing import Annotated, Any, Literal

from pydantic import Field, field_validator, model_validator

from components.image_example_gen import labels, layouts
from components.image_example_gen.class_list import Color
from components.image_example_gen.mask_encoding import MaskEncoding, Orientation, Source
from trainer_module import features
from trainer_module.error_text import did_you_mean
from trainer_module.model_input import Window
from trainer_module.section import Fraction, Section

AUTO: Literal["auto"] = "auto"
Value16 = Annotated[int, Field(ge=0, le=2**16 - 1)]


class SplitOptions(Section):
    """`[data.splits]`: fractions of the images whose split nothing else decides."""

    train: float = Field(default=0.7, gt=0.0, lt=1.0, description="Fraction that the weights are fitted on.")
    validation: float = Field(default=0.15, gt=0.0, lt=1.0, description="Fraction that decides when training stops.")
    test: float = Field(
        default=0.15,
        ge=0.0,
        lt=1.0,
        description="Fraction that the model is evaluated on; 0 for no test split: validation is used instead.",
    )
    by: Literal["content", "class"] = Field(
        default="content",
        description="`content` draws by the hash of the image's bytes: an image keeps its split when others are added; "
        "a class that expects fewer than 15 images or groups in a split gets its exact fractions. `class` gives "
        "every class its exact fractions. Images with masks count as one class.",
    )

    @model_validator(mode="after")
    def _sum_is_one(self) -> SplitOptions:
        total = self.train + self.validation + self.test
        if abs(total - 1.0) > 1e-6:
            raise ValueError(f"train, validation and test must add up to 1, not {total:g}")
        return self


class DataOptions(Section):
    """`[data]`: how the dataset is arranged, split and checked."""

    layout: str = Field(default=AUTO, description="How images and labels are arranged; `auto` detects it.")
    spans: str = Field(
        default="newest",
        pattern=r"^(all|newest(:[1-9]\d*)?|\d+(-\d+)?)$",
        description="If path contains {SPAN} or a date: `all`, `newest`, `newest:3` (the newest three), `7` or `3-7`.",
    )
    classes: tuple[Annotated[str, Field(min_length=1)], ...] | None = Field(
        default=None,
        description="Class names in the order of their ids. Required for masks and TFRecords; otherwise detected, in "
        "alphabetical order. Names that look alike are accepted if they are listed.",
    )
    rename_classes: dict[str, Annotated[str, Field(min_length=1)]] = Field(
        default={},
        description="New names of classes, which may merge them: old name → new name, as in "
        '`{"Cat" = "cat"}`. Class names of masks are in classes.txt or `classes`.',
    )
    ignore_id: int | None = Field(
        default=None,
        ge=0,
        le=255,
        description="With masks: the id of pixels that do not count; a last line `255 ignored` of `classes.txt` has "
        "the same effect.",
    )
    mask_colors: Literal["camvid", "pascal_voc", "cityscapes"] | None = Field(
        default=None,
        description="Masks are colours of this published table, which also names the classes. For another table write "
        "lines such as `road 128 64 128` into `classes.txt`.",
    )
    mask_values: tuple[Annotated[int, Field(ge=0, le=65535)], ...] | None = Field(
        default=None,
        min_length=2,
        description="Masks have these values instead of ids: the value at index i is class i, for example `[0, 255]`.",
    )
    mask_source: Source = Field(
        default="auto",
        description="`values` reads palette indices and gray values as ids, even if palettes differ, and ignores "
        "transparency; `alpha` reads only transparency, with two classes as 0 and 255; `auto` reads colours if there "
        "is a colour table, otherwise indices and values, and stops if that would lose information.",
    )
    mask_orientation: Orientation = Field(
        default="auto",
        description="Whether masks are drawn on the image rotated by its EXIF orientation (`upright`) or on the pixels "
        "as they are stored; `auto` is `upright` with a warning.",
    )
    bit_depth: Literal["auto"] | Annotated[int, Field(ge=8, le=16)] = Field(
        default=AUTO,
        description="Bits that images of 16 bits per channel use; `auto` detects them from the largest value of all "
        "images.",
    )
    window: tuple[Value16, Value16] | None = Field(
        default=None,
        description="Values of images of 16 bits per channel that become black and white, `[low, high]`; those between "
        "them are spread evenly, others are clipped. If absent, `[0, 2^bit_depth - 1]`.",
    )
    recursive: bool = Field(
        default=False,
        description="With class folders: use the images in folders inside them too. The class is the outer folder.",
    )
    images_folder: str | None = Field(
        default=None,
        min_length=1,
        description="With masks: the folder of the images, below the data folder or below each split folder. Common "
        "names such as `images` and `masks` are detected.",
    )
    masks_folder: str | None = Field(
        default=None,
        min_length=1,
        description="The folder of the masks; the same for masks with a suffix (`a_mask.png`).",
    )
    box_orientation: Orientation = Field(
        default="auto",
        description="Whether boxes refer to the image rotated by its EXIF orientation (`upright`) or to the pixels as "
        "they are stored, where the size in the annotation does not decide; `auto` is `upright` with a warning.",
    )
    manifest: str | None = Field(
        default=None,
        description="CSV (`.csv`, `.tsv`) or JSON Lines (`.jsonl`) with `path` and `label` or `mask`, and optionally "
        "`split`, `group` and slice columns; `manifest.csv`, or another table in the data folder, is detected.",
    )
    path_column: str | None = Field(
        default=None,
        min_length=1,
        description="Column of the manifest with the paths of the images; default: `path`, or the only column that "
        "contains the names of images.",
    )
    label_column: str | None = Field(
        default=None,
        min_length=1,
        description="Column of the manifest with the class names; default: `label`, or the only column with a "
        "similar name (`class`, `category`), or the only one whose values are repeated.",
    )
    label_columns: tuple[Annotated[str, Field(min_length=1)], ...] | None = Field(
        default=None,
        min_length=1,
        description="Columns of the manifest that contain 1 or 0 for every image, one per class, which has the name of "
        "the column; default: all such columns, if there are at least two and no column of labels.",
    )
    label_separator: str | None = Field(
        default=None,
        min_length=1,
        description="What separates the classes of an image in one text, as in `cat|dog`; images may then have any "
        "number of classes. Default: `|` in a column `labels` that contains it, and in every column of labels if "
        "labels_per_image is `any`.",
    )
    labels_per_image: Literal["one", "any"] | None = Field(
        default=None,
        description="Whether an image has one class, or any number of them, also none. If absent, what the task "
        "requires: `any` for multi_label.",
    )
    labels_from: Literal["auto", "boxes"] = Field(
        default=AUTO,
        description="`boxes`: the label of an image is the set of the classes of its boxes, those of difficult objects "
        "and crowds included.",
    )
    metadata_csv: str | None = Field(
        default=None,
        description="CSV with a column `filename` (relative to path) and slice columns; "
        "`metadata.csv` in the data folder is detected.",
    )
    corrections: str | None = Field(
        default=None,
        description="CSV with the columns `filename` (relative to path), `action` (`relabel`, `drop`, `keep`, or empty "
        "for none) and `label`, the new label: the file that `tfx-vision audit` writes, after your review.",
    )
    group_column: str | None = Field(
        default=None, description="Column of the manifest or metadata whose equal values stay in one split."
    )
    group_pattern: str | None = Field(
        default=None, description="The same, from the file's path: the first group of this regular expression."
    )
    split_pattern: str | None = Field(
        default=None,
        description="The split from the file's path: the group of this regular expression that matches and is named "
        "`train`, `validation` or `test`; for images whose split nothing else decides.",
    )
    near_duplicates: Literal["report", "together", "off"] = Field(
        default="report",
        description="Images that look alike: `report` lists them, `together` keeps them in one split, "
        "`off` ignores them.",
    )
    near_duplicate_distance: int = Field(
        default=4, ge=0, le=8, description="Largest number of the 63 bits in which their perceptual hashes differ."
    )
    animated: Literal["quarantine", "first"] = Field(
        default="quarantine", description="Of animated GIF, PNG and WebP images the first frame is used, or nothing."
    )
    max_pixels: int = Field(default=50_000_000, ge=1, description="Larger images are quarantined without decoding.")
    max_bad_fraction: Fraction = Field(default=0.01, description="Above this fraction of unusable files the run stops.")
    splits: SplitOptions = SplitOptions()

    @field_validator("layout")
    @classmethod
    def _known_layout(cls, value: str) -> str:
        known = (AUTO, *layouts.names())
        if value not in known:
            raise ValueError(f"unknown layout `{value}`{did_you_mean(value, known) or '.'} Layouts: {', '.join(known)}")
        return value

    @field_validator("spans", mode="before")
    @classmethod
    def _number_as_text(cls, value: Any) -> Any:
        return str(value) if isinstance(value, int) else value

    @field_validator("group_pattern")
    @classmethod
    def _has_a_group(cls, value: str | None) -> str | None:
        if value is None:
            return None
        try:
            groups = re.compile(value).groups
        except re.error as error:
            raise ValueError(f"not a regular expression: {error}") from None
        if not groups:
            raise ValueError("needs a group in parentheses, for example `([^_]+)_`: it matches the name of the group")
        return value

    @field_validator("split_pattern")
    @classmethod
    def _has_groups_of_splits(cls, value: str | None) -> str | None:
        if value is None:
            return None
        try:
            groups = re.compile(value).groupindex
        except re.error as error:
            raise ValueError(f"not a regular expression: {error}") from None
        if not groups or not groups.keys() <= set(features.SPLITS):
            raise ValueError(
                "needs groups that are named after splits (train, validation, test), for example "
                "`(?P<test>seq3_)|(?P<validation>seq2_)`"
            )
        return value

    @field_validator("classes")
    @classmethod
    def _distinct_classes(cls, value: tuple[str, ...] | None) -> tuple[str, ...] | None:
        if value is not None and len(set(value)) != len(value):
            raise ValueError("names a class twice")
        return value

    @field_validator("mask_values")
    @classmethod
    def _distinct_values(cls, value: tuple[int, ...] | None) -> tuple[int, ...] | None:
        if value is not None and len(set(value)) != len(value):
            raise ValueError("contains a value twice")
        return value

    @model_validator(mode="after")
    def _one_reading_of_masks(self) -> DataOptions:
        if self.mask_colors and self.mask_values:
            raise ValueError("mask_colors and mask_values exclude each other")
        if self.mask_colors and self.mask_source != AUTO:
            raise ValueError('mask_colors requires mask_source = "auto"')
        return self

    @model_validator(mode="after")
    def _one_window(self) -> DataOptions:
        if self.window is not None and self.bit_depth != AUTO:
            raise ValueError(
                f"window and bit_depth exclude each other: bit_depth = {self.bit_depth} is the window "
                f"{list(Window.of_bits(self.bit_depth))}; remove one of them"
            )
        if self.window is not None and self.window[0] >= self.window[1]:
            raise ValueError(f"window = {list(self.window)}: the first value must be smaller than the second")
        return self

    @model_validator(mode="after")
    def _both_folders_of_masks(self) -> DataOptions:
        if (self.images_folder is None) != (self.masks_folder is None):
            raise ValueError("images_folder and masks_folder must be set together")
        return self

    @model_validator(mode="after")
    def _one_source_of_groups(self) -> DataOptions:
        if self.group_column and self.group_pattern:
            raise ValueError("group_column and group_pattern exclude each other")
        return self

    @model_validator(mode="after")
    def _one_source_of_labels(self) -> DataOptions:
        if self.label_columns and self.label_column:
            raise ValueError("label_column and label_columns exclude each other")
        if self.labels_per_image == "one":
            for key in ("label_columns", "label_separator"):
                if getattr(self, key):
                    raise ValueError(f'{key} requires labels_per_image = "any"; remove one of them')
            if self.labels_from == "boxes":
                raise ValueError('labels_from = "boxes" requires labels_per_image = "any"; remove one of them')
        return self

    @property
    def allows_label_sets(self) -> bool:
        """Whether an image may have any number of classes, whatever the dataset looks like."""
        return self.labels_per_image == "any" or bool(self.label_separator or self.label_columns)

    def group_of(self, path: str) -> str:
        """Returns the group that `group_pattern` reads from a path; empty if it does not match."""
        match = re.search(self.group_pattern, path) if self.group_pattern else None
        return (match.group(1) or "") if match else ""

    def split_of(self, path: str) -> str:
        """Returns the split that `split_pattern` reads from a path; empty if it does not match."""
        match = re.search(self.split_pattern, path) if self.split_pattern else None
        return next((split for split, text in match.groupdict().items() if text is not None), "") if match else ""

    def written_splits(self, own: tuple[str, ...]) -> tuple[str, ...]:
        """Returns the splits that the run writes.

        Args:
          own: Splits that the dataset assigns itself.
        """
        return tuple(
            split for split in features.SPLITS if split != features.TEST or self.splits.test > 0 or features.TEST in own
        )


class _ExampleGenSettings(Section):
    """The settings of ImageExampleGen without the location of the dataset and the class names.

    Attributes:
      data: `[data]`.
      ignore_id: The id of mask pixels that do not count, if there is one.
      colors: The colour of every class in masks; empty if masks contain ids or values.
      ignored_colors: Colours of mask pixels that do not count.
      columns: Slice columns.
      label_features: Raw example features of the label that every example has.
      fingerprint: Digest of the path, size and time of change of every file, and of its label; the cache compares it to
        detect a changed dataset.
    """

    data: DataOptions = DataOptions()
    ignore_id: int | None = None
    colors: tuple[Color, ...] = ()
    ignored_colors: tuple[Color, ...] = ()
    columns: tuple[str, ...] = ()
    label_features: tuple[str, ...] = labels.CLASS_LABEL
    fingerprint: str = ""


class ExampleGenOptions(_ExampleGenSettings):
    """The settings of ImageExampleGen without the location of the dataset.

    Attributes:
      classes: Class names; in the order of the ids where labels contain ids.
    """

    classes: tuple[str, ...]

    @property
    def window(self) -> Window | None:
        """The values of 16-bit images that are read; None if they have to be detected."""
        if self.data.window is not None:
            return Window(*self.data.window)
        return None if self.data.bit_depth == AUTO else Window.of_bits(self.data.bit_depth)

    def mask_encoding(self) -> MaskEncoding:
        """Returns how the masks encode classes."""
        return MaskEncoding(
            num_classes=len(self.classes),
            ignore_id=self.ignore_id,
            class_names=self.classes,
            colors=self.colors,
            ignored_colors=self.ignored_colors,
            values=self.data.mask_values or (),
            source=self.data.mask_source,
            orientation=self.data.mask_orientation,
        )

    def parameter(self) -> ExampleGenParameter:
        """Returns the options for the definition of the pipeline."""
        settings = self.model_dump(exclude={"classes"})
        return ExampleGenParameter(
            **settings, num_classes=len(self.classes), class_digest=_digest_of_names(self.classes)
        )


class ExampleGenParameter(_ExampleGenSettings):
    """The options in the definition of the pipeline, whose size does not depend on the number of classes.

    ImageExampleGen lists the classes again; the cache and the check of a compiled pipeline need only their digest.

    Attributes:
      num_classes: Number of classes.
      class_digest: Digest of their names, in order.
    """

    num_classes: int
    class_digest: str

    def with_classes(self, classes: tuple[str, ...]) -> ExampleGenOptions | None:
        """Returns the options with the classes of the dataset; None if the pipeline was defined for others."""
        if _digest_of_names(classes) != self.class_digest:
            return None
        return ExampleGenOptions(**self.model_dump(exclude={"num_classes", "class_digest"}), classes=classes)


def _digest_of_names(classes: Sequence[str]) -> str:
    return hashlib.sha256(json.dumps(classes).encode()).hexdigest()[:16]
