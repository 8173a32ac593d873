"""The file that ExampleValidator adds to TFX's anomalies; reading it requires neither TFX nor TensorFlow."""

from __future__ import annotations

from typing import ClassVar, Literal

from components.stored import Stored, StoredPart


class Finding(StoredPart):
    """A difference of a dataset from its schema, from the previous span, or between its splits.

    Attributes:
      kind: Of the difference.
      split: The split with the difference.
      feature: The feature's name; `dataset` if it is about several features.
      detail: The difference in words.
      value: The string whose share differs, such as a class name; None for numbers.
      distance: Distance from the reference; None if it is not a number.
      allowed: The largest allowed distance; None if there is no distance.
    """

    kind: Literal["anomaly", "drift", "skew"]
    split: str
    feature: str
    detail: str
    value: str | None = None
    distance: float | None = None
    allowed: float | None = None

    def __str__(self) -> str:
        return f"{self.split} split, {self.feature}: {self.detail}"


class DriftReport(Stored):
    """How the dataset differs from the previous span, and its splits from each other.

    Attributes:
      previous_span: Number of the span that it was compared with; None if there was none.
      drift: Differences from the previous span.
      skew: Differences between splits; None if they were not compared.
    """

    FILE: ClassVar[str] = "drift.json"

    format: Literal[2] = 2
    previous_span: int | None
    drift: tuple[Finding, ...] = ()
    skew: tuple[Finding, ...] | None
