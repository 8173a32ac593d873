"""`[validation]`: thresholds of drift and skew. Imports nothing heavy."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from trainer_module.section import Fraction, Section


class DriftOptions(Section):
    """`[validation]`: how much spans and splits may differ."""

    drift_threshold: Fraction = Field(
        default=0.1,
        description="Distance from the previous span that counts as drift, beyond what chance explains: "
        "Kolmogorov-Smirnov for sizes, brightness and colours; largest change of a share for classes and formats.",
    )
    domain_margin: float = Field(
        default=0.5,
        ge=0.0,
        le=10.0,
        description="How far sizes, brightness and colours may leave the range of the previous span, relative to it.",
    )
    on_drift: Literal["stop", "warn"] = Field(
        default="stop",
        description="`stop` refuses the images, `warn` logs the drift; use `warn` once to accept a change.",
    )
    skew_threshold: Fraction = Field(
        default=0.1,
        description="Distance of another split from the train split that counts as skew, beyond what chance explains; "
        "measured like drift.",
    )
    on_skew: Literal["stop", "warn", "ignore"] = Field(
        default="warn",
        description="`stop` refuses the images, `warn` logs the skew, `ignore` does not compare the splits, for splits "
        "that differ on purpose.",
    )
