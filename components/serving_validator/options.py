"""The part of `[serving]` that ServingValidator reads. Imports nothing heavy."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from trainer_module.section import Section

OperationName = Annotated[str, Field(pattern=r"^[A-Za-z_][A-Za-z0-9_]*(>[A-Za-z0-9_]+)*$")]


class ServingLimits(Section):
    """The bounds that an exported model must meet before it is pushed."""

    validation_examples: int = Field(
        default=32, ge=1, le=10_000, description="Real examples that ServingValidator sends to the exported model."
    )
    tolerance: float = Field(
        default=1e-4,
        gt=0.0,
        le=1.0,
        description="Largest difference of a probability, or largest share of differing pixels of a mask, that counts "
        "as equal.",
    )
    max_latency_ms: float | None = Field(
        default=None,
        gt=0.0,
        le=3_600_000.0,
        description="Largest 95th percentile of the latency of requests with one image, in milliseconds, on the "
        "machine of ServingValidator. If absent, the latency is measured and reported without a bound.",
    )
    max_size_mb: float | None = Field(
        default=None,
        gt=0.0,
        le=1_000_000.0,
        description="Largest size of the files that Pusher copies, in MB of 1,000,000 bytes. If absent, the size is "
        "reported without a bound.",
    )
    allowed_operations: tuple[OperationName, ...] = Field(
        default=(),
        description="Graph operations that the model may contain in addition to those in "
        "`components/serving_validator/graph_operations.py`, such as a custom one that your server has.",
    )
