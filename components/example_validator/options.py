"""`[validation]`: what counts as drift and as skew. Imports nothing heavy."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from trainer_module.section import Fraction, Section


class DriftOptions(Section):
    """`[validation]`: what the next span may look like, and the splits of one."""

    drift_threshold: Fraction = Field(
        default=0.1,
        description="Distance from the span before that counts as drift, beyond what chance explains: "
        "Kolmogorov-Smirnov of sizes, brightness and colours, largest change of a share for classes and formats.",
    )
    domain_margin: float = Field(
        default=0.5,
        ge=0.0,
        le=10.0,
        description="How far sizes, brightness and colours may leave the range of the span before, as a part of it.",
    )
    on_drift: Literal["stop", "warn"] = Field(
        default="stop", description="`warn` goes on and says so; use it once to accept a change that is wanted."
    )
    skew_threshold: Fraction = Field(
        default=0.1,
        description="Distance of another split from the train split that counts as skew, beyond what chance explains; "
        "measured as drift is.",
    )
    on_skew: Literal["stop", "warn", "ignore"] = Field(
        default="warn",
        description="`stop` refuses the pictures, `warn` goes on and says so, `ignore` does not look; sequences that "
        "are held out whole differ on purpose.",
    )
