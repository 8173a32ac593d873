"""The file that ExampleValidator adds to TFX's anomalies; reading it requires neither TFX nor TensorFlow."""

from __future__ import annotations

from typing import ClassVar, Literal

from components.stored import Stored


class DriftReport(Stored):
    """How the dataset differs from the previous span, and its splits from each other.

    Attributes:
      previous_span: Number of the span that it was compared with; None if there was none.
      drift: Differences from the previous span, in words.
      skew: Differences between splits, in words; None if they were not compared.
    """

    FILE: ClassVar[str] = "drift.json"

    format: Literal[1] = 1
    previous_span: int | None
    drift: tuple[str, ...] = ()
    skew: tuple[str, ...] | None
