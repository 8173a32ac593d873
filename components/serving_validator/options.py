"""The part of `[serving]` that ServingValidator reads. Imports nothing heavy."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from trainer_module.section import Section

OperationName = Annotated[str, Field(pattern=r"^[A-Za-z_][A-Za-z0-9_]*(>[A-Za-z0-9_]+)*$")]


class ServingLimits(Section):
    """What an exported model must keep to before it is pushed."""

    validation_examples: int = Field(
        default=32, ge=1, le=10_000, description="Real examples that ServingValidator sends to the exported model."
    )
    tolerance: float = Field(
        default=1e-4,
        gt=0.0,
        le=1.0,
        description="Largest difference of a probability, or share of a mask's pixels, that counts as equal.",
    )
    max_latency_ms: float | None = Field(
        default=None,
        gt=0.0,
        le=3_600_000.0,
        description="Ceiling of the 95th percentile of the time that a request of one picture takes on the machine of "
        "ServingValidator; measured and told, but no ceiling, when absent.",
    )
    max_size_mb: float | None = Field(
        default=None,
        gt=0.0,
        le=1_000_000.0,
        description="Ceiling of the size of all that Pusher copies, 1 MB being 1,000,000 bytes; told, but no ceiling, "
        "when absent.",
    )
    allowed_operations: tuple[OperationName, ...] = Field(
        default=(),
        description="Graph operations that the model may hold beside those of "
        "`components/serving_validator/graph_operations.py`, as a custom one that your server has.",
    )
