"""What can be said of the pictures: `[data]`, without what only a whole pipeline knows. Imports nothing heavy."""

from __future__ import annotations

import re
from typing import Annotated, Any, Literal

from pydantic import Field, field_validator, model_validator

from trainer_module import features
from trainer_module.section import Fraction, Section

LayoutKind = Literal["class_folders", "split_folders", "mask_pairs", "manifest", "tfrecord"]


class SplitOptions(Section):
    """`[data.splits]`: shares of the pictures where nothing else decides."""

    train: float = Field(default=0.7, gt=0.0, lt=1.0, description="What the weights are fitted on.")
    validation: float = Field(default=0.15, gt=0.0, lt=1.0, description="What decides when training ends.")
    test: float = Field(
        default=0.15,
        ge=0.0,
        lt=1.0,
        description="What the model is judged on; 0 leaves it out and judges on validation.",
    )
    by: Literal["content", "class"] = Field(
        default="content",
        description="`content` draws by the hash of the picture's bytes, so that a picture never changes sides; "
        "`class` gives every class its exact shares, which small classes and few groups need (pictures with masks "
        "count as one class).",
    )

    @model_validator(mode="after")
    def _sum_is_one(self) -> SplitOptions:
        total = self.train + self.validation + self.test
        if abs(total - 1.0) > 1e-6:
            raise ValueError(f"train, validation and test must add up to 1, not {total:g}")
        return self


class DataOptions(Section):
    """`[data]`: how the pictures are laid out, divided and checked."""

    layout: Literal["auto", "class_folders", "split_folders", "mask_pairs", "manifest", "tfrecord"] = Field(
        default="auto", description="How the pictures lie; `auto` looks at the folder."
    )
    spans: str = Field(
        default="newest",
        pattern=r"^(newest(:[1-9]\d*)?|\d+(-\d+)?)$",
        description="Where path holds {SPAN} or a date: `newest`, `newest:3` (the newest three), `7` or `3-7`.",
    )
    classes: tuple[Annotated[str, Field(min_length=1)], ...] | None = Field(
        default=None,
        description="Class names. Needed for masks (in the order of the ids) and for TFRecords; otherwise found.",
    )
    ignore_id: int | None = Field(
        default=None,
        ge=0,
        le=255,
        description="With masks: the id of pixels that count for nothing; a last line `255 ignored` of `classes.txt` "
        "says the same.",
    )
    manifest: str | None = Field(
        default=None,
        description="CSV or JSON Lines with `path` and `label` or `mask`, and if wanted `split`, `group` and slice "
        "columns; `manifest.csv` or `manifest.jsonl` in the data folder is found by itself.",
    )
    metadata_csv: str | None = Field(
        default=None,
        description="CSV with a column `filename` (relative to path) and slice columns; "
        "`metadata.csv` in the data folder is found by itself.",
    )
    group_column: str | None = Field(
        default=None, description="Column of the manifest or metadata whose equal values stay on one side of the split."
    )
    group_pattern: str | None = Field(
        default=None, description="The same, from the file's path: the first group of this regular expression."
    )
    split_pattern: str | None = Field(
        default=None,
        description="What is held out, from the file's path: the group of this regular expression that matches and is "
        "named `train`, `validation` or `test`; for pictures whose split nothing else names.",
    )
    near_duplicates: Literal["report", "together", "off"] = Field(
        default="report", description="Pictures that look alike: list them, also keep them on one side, or do not look."
    )
    near_duplicate_distance: int = Field(
        default=4, ge=0, le=8, description="Bits of 63 in which the perceptual hashes of such pictures may differ."
    )
    max_pixels: int = Field(default=50_000_000, ge=1, description="Larger pictures are quarantined undecoded.")
    max_bad_fraction: Fraction = Field(default=0.01, description="Above this share of unusable files the run stops.")
    splits: SplitOptions = SplitOptions()

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
            raise ValueError("needs a group in parentheses, for example `([^_]+)_`: what it matches names the group")
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
                "needs groups that are named as splits (train, validation, test), for example "
                "`(?P<test>seq3_)|(?P<validation>seq2_)`"
            )
        return value

    @field_validator("classes")
    @classmethod
    def _distinct_classes(cls, value: tuple[str, ...] | None) -> tuple[str, ...] | None:
        if value is not None and len(set(value)) != len(value):
            raise ValueError("names a class twice")
        return value

    @model_validator(mode="after")
    def _one_source_of_groups(self) -> DataOptions:
        if self.group_column and self.group_pattern:
            raise ValueError("group_column and group_pattern exclude each other")
        return self

    def written_splits(self, own: tuple[str, ...]) -> tuple[str, ...]:
        """The splits that will exist.

        Args:
          own: Splits that the data name themselves.
        """
        return tuple(
            split for split in features.SPLITS if split != features.TEST or self.splits.test > 0 or features.TEST in own
        )
