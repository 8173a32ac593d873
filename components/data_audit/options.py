"""`[audit]`. Imports nothing heavy."""

from __future__ import annotations

from pydantic import Field

from trainer_module.section import Section


class AuditOptions(Section):
    """`[audit]`: the search for wrong labels after a training."""

    enabled: bool = Field(
        default=False,
        description="Run DataAudit after Trainer: suspicious labels, outliers, near duplicates and ambiguous classes, "
        "in the report and in suspects.csv. Only the report waits for it.",
    )
