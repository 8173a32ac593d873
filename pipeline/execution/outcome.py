"""The outcome of a run: for the summary, for `--json` and for the exit code."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from components.example_validator.executor import AnomaliesFoundError
    from pipeline.execution.node_runner import NodeResult
    from pipeline.execution.results import Refusal, RunResult


@dataclass
class Outcome:
    """What became of a run.

    Attributes:
      nodes: In the order in which they ran.
      result: What they left; None if nothing could be read back.
      error: The failed node's name and cause, or None.
      refusal: What ExampleValidator has against the pictures, or None; nothing behind it has run.
      log_path: Everything that TFX, Beam and TensorFlow said.
    """

    log_path: Path
    nodes: list[NodeResult] = field(default_factory=list)
    result: RunResult | None = None
    error: tuple[str, BaseException] | None = None
    refusal: AnomaliesFoundError | None = None

    @property
    def status(self) -> str:
        """`done`, `refused` (by a gate) or `failed`."""
        if self.error is not None:
            return "failed"
        if self.refusal is not None or (self.result is not None and self.result.refused):
            return "refused"
        return "done"

    @property
    def refusals(self) -> list[Refusal]:
        """What any gate has against the pictures or the model."""
        from pipeline.execution import results

        found = results.of_pictures(self.refusal.findings) if self.refusal is not None else []
        return found + (self.result.refusals if self.result else [])

    @property
    def exit_code(self) -> int:
        """0 done, 1 failed, 3 refused."""
        return {"done": 0, "failed": 1, "refused": 3}[self.status]
