"""What ServingValidator found, as it is stored: needs neither TFX nor TensorFlow to be read."""

from __future__ import annotations

from typing import NamedTuple

CHECKS_FILE = "checks.json"  # a list of Check


class Check(NamedTuple):
    """The result of one check.

    Attributes:
      name: What was checked.
      passed: Whether the model may be pushed as far as this check goes.
      detail: The figure, or what went wrong.
      value: The figure; None where the verdict is not about a number.
      bound: The largest value that is allowed; None where there is none.
    """

    name: str
    passed: bool
    detail: str
    value: float | None = None
    bound: float | None = None
