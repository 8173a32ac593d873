"""The outcome of a run: for the summary, for `--json` and for the exit code."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from pipeline.execution import disk_space
from trainer_module.error_text import full_disk, plain_text

if TYPE_CHECKING:
    from components.example_validator.findings import AnomaliesFoundError
    from pipeline.execution.node_runner import NodeResult
    from pipeline.execution.results import Refusal, RunResult


@dataclass
class Outcome:
    """The outcome of a run.

    Attributes:
      log_path: The log of TFX, Beam and TensorFlow.
      nodes: Results in the order in which the nodes ran.
      result: Results that were read from the artifacts; None if there are none.
      error: Name of the failed node and its exception, or None.
      refusal: The exception of ExampleValidator if it refused the images, or None; no later node has run.
      push_refusals: Why the model was not pushed although all gates accepted it; no later node has run.
    """

    log_path: Path
    nodes: list[NodeResult] = field(default_factory=list)
    result: RunResult | None = None
    error: tuple[str, BaseException] | None = None
    refusal: AnomaliesFoundError | None = None
    push_refusals: Sequence[Refusal] = ()

    @property
    def status(self) -> str:
        """`done`, `refused` (by a gate) or `failed`."""
        if self.error is not None:
            return "failed"
        if self.refusal is not None or self.push_refusals or (self.result is not None and self.result.refused):
            return "refused"
        return "done"

    @property
    def cause(self) -> str | None:
        """Why the failed node failed, without what only a developer can use; None if no node failed."""
        if self.error is None:
            return None
        path = full_disk(self.error[1])
        return plain_text(self.error[1]) if path is None else disk_space.full_message(path or self.log_path.parent)

    @property
    def refusals(self) -> list[Refusal]:
        """The reasons of all gates that refused the images or the model."""
        from pipeline.execution import results

        refusals = results.of_images(self.refusal.findings) if self.refusal is not None else []
        return refusals + list(self.push_refusals) + (self.result.refusals if self.result else [])

    @property
    def exit_code(self) -> int:
        """0 done, 1 failed, 3 refused."""
        return {"done": 0, "failed": 1, "refused": 3}[self.status]
