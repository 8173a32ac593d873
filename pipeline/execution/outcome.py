"""The outcome of a run: for the summary, for `--json` and for the exit code."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

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

    def as_json(self) -> dict[str, Any]:
        """The object that `--json` prints; a figure that does not exist is null."""
        result = self.result
        slices = result.slices if result else []

        def numbers(figures: dict[str, float]) -> dict[str, float | None]:
            return {name: None if math.isnan(value) else value for name, value in figures.items()}

        return {
            "status": self.status,
            "nodes": [{"id": node.id, "state": node.state, "seconds": round(node.seconds, 2)} for node in self.nodes],
            "tuning": result.tuning if result else None,
            "task": result.evaluation.task if result and result.evaluation else None,
            "metrics": numbers(slices[0].metrics) if slices else {},
            "classes": {name: numbers(figures) for name, figures in slices[0].per_class.items()} if slices else {},
            "confusion_matrix": slices[0].confusion if slices else [],
            "slices": {entry.name: numbers(entry.metrics) for entry in slices[1:]},
            "blessed": result.blessed if result else None,
            "servable": result.servable if result else None,
            "not_held": [rule.as_json() for rule in result.not_held] if result else [],
            "refusals": [refusal.as_json() for refusal in self.refusals],
            "pushed_version": result.pushed_version if result else None,
            "serving_dir": result.serving_dir if result else None,
            "report": result.report if result else None,
            "explanations": result.explanations if result else None,
            "faithfulness": {figure.name: figure.value for figure in result.faithfulness.figures}
            if result and result.faithfulness
            else {},
            "examples": result.data["examples"] if result and result.data else None,
            "span": result.data["span"] if result and result.data else None,
            "duplicates": result.data["duplicates"] if result and result.data else None,
            "drift": result.drift if result else None,
            "quarantined": result.quarantined if result else [],
            "log": str(self.log_path),
            "error": f"{self.error[0]}: {self.error[1]}" if self.error else None,
        }
