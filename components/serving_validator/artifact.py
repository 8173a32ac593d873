"""The file that ServingValidator writes beside its blessing; reading it requires neither TFX nor TensorFlow."""

from __future__ import annotations

from typing import ClassVar, Literal

from components.stored import Stored, StoredPart


class ServingCheck(StoredPart):
    """The result of one check of an exported model.

    Attributes:
      name: The checked property.
      passed: Whether the model passed.
      detail: The measured value, or what went wrong.
      value: The measured value; None if the check does not measure a number.
      bound: The largest allowed value; None if there is none.
    """

    name: str
    passed: bool
    detail: str
    value: float | None = None
    bound: float | None = None


class ServingCheckReport(Stored):
    """`checks.json`.

    Attributes:
      checks: All checks that were made, in order.
    """

    FILE: ClassVar[str] = "checks.json"

    format: Literal[1] = 1
    checks: tuple[ServingCheck, ...]

    @property
    def blessed(self) -> bool:
        """Whether the model may be pushed."""
        return not self.failures()

    def failures(self) -> tuple[ServingCheck, ...]:
        """The checks that did not pass."""
        return tuple(check for check in self.checks if not check.passed)
