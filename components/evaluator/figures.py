"""What the Evaluator found, as it is stored: needs neither TFMA nor TensorFlow to be read."""

from __future__ import annotations

import math
from typing import Annotated, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict

from components.evaluator import metric_names

FIGURES_FILE = "figures.json"  # an Evaluation
GATES_FILE = "gates.json"  # Gates
ALL = "all"  # the slice of all examples

# A figure that does not exist, as the recall of a class without examples, is NaN here and null in JSON.
Figure = Annotated[float, BeforeValidator(lambda value: math.nan if value is None else value)]
# Lower and upper end at the confidence level of TFMA, 0.95.
Interval = tuple[Figure, Figure]
Task = Literal["classification", "segmentation"]


class _Stored(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", ser_json_inf_nan="null")


class Bin(_Stored):
    """One bin of a reliability curve: predictions whose confidence lies in it.

    Attributes:
      lower: Its lower end, not part of it but for 0.
      upper: Its upper end, part of it.
      count: Predictions.
      confidence: Their mean probability.
      accuracy: The share of them that is right.
    """

    lower: float
    upper: float
    count: int
    confidence: Figure
    accuracy: Figure


class SliceFigures(_Stored):
    """Figures of one slice, or of all examples.

    Attributes:
      name: `all`, `brightness = dark`, or of a cross `brightness = dark, camera = b`.
      key: Features and their values; empty for all examples.
      metrics: By the names that thresholds use, and `examples`.
      per_class: Class name → figure → value; `support` counts examples, or pixels.
      confusion: Number of examples, or of pixels, by [actual class id][predicted class id]; of `all` only, since of
        a thousand classes it is a million numbers.
      reliability: How right the model is by how sure it is; empty for masks.
      intervals: Confidence intervals by name of the metric, where they were asked for.
      class_intervals: The same, class name → figure.
    """

    name: str
    key: list[tuple[str, str]] = []
    metrics: dict[str, Figure]
    per_class: dict[str, dict[str, Figure]]
    confusion: list[list[int]] = []
    reliability: list[Bin] = []
    intervals: dict[str, Interval] = {}
    class_intervals: dict[str, dict[str, Interval]] = {}


class Evaluation(_Stored):
    """All figures of one Evaluator.

    Attributes:
      task: `classification` or `segmentation`.
      split: The evaluated split.
      classes: Class names; the index is the id.
      candidate: The new model's: all examples first, then slice by slice.
      baseline: The same of the last blessed model; None where there was none.
    """

    task: Task
    split: str
    classes: list[str]
    candidate: list[SliceFigures]
    baseline: list[SliceFigures] | None = None

    @property
    def overall(self) -> SliceFigures:
        """The new model's figures over all examples."""
        return self.candidate[0]

    @property
    def overall_before(self) -> SliceFigures | None:
        """The last blessed model's; None where there was none."""
        return self.baseline[0] if self.baseline else None


class Gate(_Stored):
    """What one rule said of one figure.

    Attributes:
      rule: The configuration's key, as `evaluation.class_thresholds`.
      metric: The figure's name.
      slice: The slice's name; `all` for all examples.
      class_name: The class, where the figure is of one.
      value: The figure.
      bound: What it was held against; the figure must not lie on the wrong side of it.
      higher_is_better: Which side is the right one.
      examples: In the slice.
      passed: Whether it is on the right side; None where it was not held against anything.
      detail: The verdict, or the reason why there is none, in words that follow the figure's name.
    """

    rule: str
    metric: str
    slice: str
    class_name: str | None = None
    value: Figure
    bound: Figure
    higher_is_better: bool
    examples: int
    passed: bool | None
    detail: str

    @property
    def against_the_model_before(self) -> bool:
        """Whether the bound is the last blessed model's figure and what it may lose."""
        return self.rule.endswith("change_thresholds")

    @property
    def whom(self) -> str:
        """What the figure is of: `class cat, brightness = dark`; `all` for all examples."""
        parts = [f"class {self.class_name}"] if self.class_name is not None else []
        return ", ".join(parts + ([self.slice] if self.slice != ALL else [])) or ALL

    @property
    def subject(self) -> str:
        """The figure and what it is of: `recall of class cat, brightness = dark`; `accuracy` of all examples."""
        return metric_names.title(self.metric) + (f" of {self.whom}" if self.whom != ALL else "")

    @property
    def missed_by(self) -> float:
        """How far the figure lies on the wrong side; 0 if it does not, NaN if it does not exist."""
        distance = self.bound - self.value if self.higher_is_better else self.value - self.bound
        return distance if math.isnan(distance) else max(0.0, distance)


class Gates(_Stored):
    """The verdict of the Evaluator.

    Attributes:
      has_baseline: Whether there was a blessed model to compare with.
      gates: Every rule on every figure that it names.
    """

    has_baseline: bool
    gates: list[Gate]

    @property
    def blessed(self) -> bool:
        """Whether the model may be pushed: something was held against something, and nothing failed."""
        held = [gate.passed for gate in self.gates if gate.passed is not None]
        return bool(held) and all(held)

    def failures(self) -> list[Gate]:
        """What stands against the model."""
        return [gate for gate in self.gates if gate.passed is False]

    def not_held(self) -> list[Gate]:
        """Rules that nothing was held against, but for those against a model before where there was none."""
        return [
            gate
            for gate in self.gates
            if gate.passed is None and (self.has_baseline or not gate.against_the_model_before)
        ]
