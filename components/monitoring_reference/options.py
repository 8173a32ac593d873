"""`[monitoring]`. Imports nothing heavy."""

from __future__ import annotations

from pydantic import Field, model_validator

from trainer_module.section import Section


class MonitoringOptions(Section):
    """`[monitoring]`: the monitoring reference, and how `tfx-vision monitor` tests requests."""

    enabled: bool = Field(
        default=True,
        description="Store the monitoring reference of a pushed model: what `tfx-vision monitor` compares requests "
        "with. Only the end of the run waits for it.",
    )
    reference_images: int = Field(
        default=2000,
        ge=100,
        le=20_000,
        description="Largest number of images of the test split in the reference, and of training images with which "
        "embeddings are compared; a random sample of larger splits.",
    )
    window: int = Field(
        default=500, ge=20, le=100_000, description="Number of images in a window: the newest ones in the request log."
    )
    min_images: int = Field(
        default=100, ge=20, le=100_000, description="Fewer images are not tested; at most `window`."
    )
    max_age_hours: float = Field(
        default=24.0, gt=0.0, le=24 * 365, description="Older requests are not part of a window."
    )
    false_alarm_rate: float = Field(
        default=0.01,
        ge=1e-3,
        le=0.2,
        description="Upper bound of the probability of an alarm for a window without drift, over all tests.",
    )

    @model_validator(mode="after")
    def _ordered(self) -> MonitoringOptions:
        if self.min_images > self.window:
            raise ValueError(f"min_images ({self.min_images}) is larger than window ({self.window})")
        return self
