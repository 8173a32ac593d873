"""The files that Evaluator stores: values of the metrics and results of the gates."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import Annotated, ClassVar, Literal, NamedTuple

from pydantic import BeforeValidator, Field, field_validator

from components.stored import Stored, StoredPart
from trainer_module import tasks
from trainer_module.error_text import listed
from trainer_module.evaluation.spec import IMAGES, MetricSpec, Scope, in_scope

ALL = "all"  # the slice of all examples

# An undefined value, such as the recall of a class without examples, is NaN here and null in JSON.
Value = Annotated[float, BeforeValidator(lambda value: math.nan if value is None else value)]


class ConfidenceInterval(NamedTuple):
    """An interval at a confidence level of 0.95."""

    lower: Value
    upper: Value


class ReliabilityBin(StoredPart):
    """One bin of a reliability curve: the predictions whose confidence is in (lower, upper].

    Attributes:
      lower: Lower end; part of the first bin only.
      upper: Upper end.
      count: Number of predictions.
      confidence: Their mean probability.
      accuracy: Share of them that is correct.
    """

    lower: float
    upper: float
    count: int
    confidence: Value
    accuracy: Value


class SliceMetrics(StoredPart):
    """The values of one slice, or of all examples.

    Attributes:
      name: `all`, `brightness = dark`, or of a cross `brightness = dark, camera = b`.
      key: Features and their values; empty for all examples.
      examples: Number of examples.
      metrics: Overall metric → value.
      support: Class → how much of the ground truth belongs to it, in the count unit.
      class_metrics: Class → metric → value.
      confusion_matrix: Counts by [actual class id][predicted class id], with boxes also of the background, whose id
        follows those of the classes; of `all` only, since for a thousand classes it has a million numbers.
      reliability: Accuracy by confidence; empty where the task has no such curve.
      details: Name → numbers by class id, further results of the task for the report; of `all` only.
      intervals: Overall metric → confidence interval, if configured.
      class_intervals: Class → metric → confidence interval, if configured.
    """

    name: str
    key: tuple[tuple[str, str], ...] = ()
    examples: int
    metrics: dict[str, Value]
    support: dict[str, int] = Field(default={})
    class_metrics: dict[str, dict[str, Value]] = Field(default={})
    confusion_matrix: list[list[int]] = Field(default=[])
    reliability: tuple[ReliabilityBin, ...] = ()
    details: dict[str, list[list[Value]]] = Field(default={})
    intervals: dict[str, ConfidenceInterval] = Field(default={})
    class_intervals: dict[str, dict[str, ConfidenceInterval]] = Field(default={})

    @property
    def metrics_and_examples(self) -> dict[str, float]:
        """Overall metric → value, and `examples`."""
        return {**self.metrics, "examples": self.examples}

    @property
    def class_metrics_and_support(self) -> dict[str, dict[str, float]]:
        """Class → metric → value, and `support`."""
        return {name: {**values, "support": self.support[name]} for name, values in self.class_metrics.items()}

    def large_classes(self, least: int) -> list[str]:
        """The classes with at least so much support."""
        return [name for name, count in self.support.items() if count >= least]

    def value(self, metric: str, class_name: str | None = None) -> float:
        """The value of a metric; NaN if it is undefined or was not evaluated."""
        values = self.metrics if class_name is None else self.class_metrics.get(class_name, {})
        return values.get(metric, math.nan)


class SharedClasses(StoredPart):
    """The comparison with a blessed model that has a different list of classes: on those that both have.

    Attributes:
      classes: The shared classes, in the order of the new model.
      added: Classes that only the new model has.
      removed: Classes that only the last blessed model has.
      candidate: Values of the new model on the shared classes, as in `EvaluationResult`.
    """

    classes: tuple[str, ...]
    added: tuple[str, ...]
    removed: tuple[str, ...]
    candidate: tuple[SliceMetrics, ...]

    @property
    def sentence(self) -> str:
        """The comparison in one sentence."""
        differences = [
            f"{word}: {listed(names)}" for word, names in (("added", self.added), ("removed", self.removed)) if names
        ]
        reason = "; ".join(differences) or "their order differs"
        return f"Compared with the last blessed model on the {len(self.classes):,} classes that both have ({reason})."


class EvaluationResult(Stored):
    """All values of one evaluation, with the description of the metrics.

    Attributes:
      task: Name of the task.
      split: The evaluated split.
      classes: Class names; the index is the id.
      count_unit: The unit of support and confusion matrix: `images`, `pixels`, `boxes`.
      metrics: Descriptions of all metrics, in the order in which they are shown.
      candidate: Values of the new model: all examples first, then slice by slice.
      baseline: The same of the last blessed model; None if there was none.
      corrupted: Values of the new model on images of lower quality: by corruption, and by corruption and severity.
      shared: The classes that `baseline` is restricted to, and the new model's values on them; None if both models have
        the same list of classes.
    """

    FILE: ClassVar[str] = "evaluation.json"

    format: Literal[1] = 1
    task: str
    split: str
    classes: tuple[str, ...]
    count_unit: str
    metrics: tuple[MetricSpec, ...]
    candidate: tuple[SliceMetrics, ...] = Field(min_length=1)
    baseline: tuple[SliceMetrics, ...] | None = None
    shared: SharedClasses | None = None
    corrupted: tuple[SliceMetrics, ...] = ()

    @field_validator("task")
    @classmethod
    def _task_exists(cls, value: str) -> str:
        if value not in tasks.names():
            raise ValueError(f"unknown task `{value}`; known tasks: {', '.join(tasks.names())}")
        return value

    @field_validator("metrics")
    @classmethod
    def _each_scope_has_one_main_metric(cls, value: tuple[MetricSpec, ...]) -> tuple[MetricSpec, ...]:
        if sorted(metric.scope for metric in value if metric.main) != ["overall", "per_class"]:
            raise ValueError("each scope needs exactly one main metric")
        return value

    @property
    def overall(self) -> SliceMetrics:
        """The new model's values over all examples."""
        return self.candidate[0]

    @property
    def baseline_overall(self) -> SliceMetrics | None:
        """The last blessed model's values over all examples; None if there was none."""
        return self.baseline[0] if self.baseline else None

    def with_shared_classes(
        self, shared: EvaluationResult, added: tuple[str, ...], removed: tuple[str, ...]
    ) -> EvaluationResult:
        """Adds the comparison with a model that has a different class list.

        Args:
          shared: Values of both models on the shared classes.
          added: Classes that only the new model has.
          removed: Classes that only the last blessed model has.
        """

        def counted(rows: Iterable[SliceMetrics]) -> tuple[SliceMetrics, ...]:
            # TFMA has also counted the examples of other classes.
            return tuple(
                row.model_copy(update={"examples": min(row.examples, sum(row.support.values()))}) for row in rows
            )

        comparison = SharedClasses(
            classes=shared.classes, added=added, removed=removed, candidate=counted(shared.candidate)
        )
        return self.model_copy(update={"baseline": counted(shared.baseline or ()), "shared": comparison})

    @property
    def compared(self) -> tuple[SliceMetrics, ...]:
        """The new model's values that are compared with the baseline: on the shared classes."""
        return self.shared.candidate if self.shared else self.candidate

    @property
    def overall_metrics(self) -> tuple[MetricSpec, ...]:
        """The metrics with one value per slice."""
        return in_scope(self.metrics, "overall")

    @property
    def class_metrics(self) -> tuple[MetricSpec, ...]:
        """The metrics with one value per class and slice."""
        return in_scope(self.metrics, "per_class")

    @property
    def slice_columns(self) -> tuple[MetricSpec, ...]:
        """The metrics that tables of slices show, the main one first."""
        shown = [metric for metric in self.overall_metrics if metric.in_slices or metric.main]
        return tuple(sorted(shown, key=lambda metric: not metric.main))

    @property
    def main_metric(self) -> MetricSpec:
        """The metric that runs and slices are ranked by."""
        return self._main("overall")

    @property
    def main_class_metric(self) -> MetricSpec:
        """The metric that classes are ranked by."""
        return self._main("per_class")

    @property
    def counts_images(self) -> bool:
        """Whether support and confusion matrix count images, not parts of them."""
        return self.count_unit == IMAGES

    def _main(self, scope: Scope) -> MetricSpec:
        return next(metric for metric in in_scope(self.metrics, scope) if metric.main)


class GateResult(StoredPart):
    """One value compared with one bound.

    Attributes:
      setting: The configuration key of the bound: `evaluation.class_thresholds`; of a default rule, the key that
        disables it.
      rule: Name of the default rule; None for a configured bound.
      metric: Name of the metric.
      title: The words for it inside a sentence.
      slice: Name of the slice; `all` for all examples.
      class_name: The class, if the value is that of one.
      value: The value.
      bound: What it was compared with.
      higher_is_better: Whether the bound is a lower one.
      examples: Number of examples of the slice.
      passed: Whether the value is on the right side of the bound; None if they were not compared.
      detail: The result, or the reason why they were not compared, in words that follow the metric's title.
    """

    setting: str
    rule: str | None = None
    metric: str
    title: str
    slice: str
    class_name: str | None = None
    value: Value
    bound: Value
    higher_is_better: bool
    examples: int
    passed: bool | None
    detail: str

    @property
    def name(self) -> str:
        """The default rule, or the metric."""
        return self.rule or self.metric

    @property
    def source(self) -> str:
        """The default rule, or the configuration key of the bound."""
        return f"default rule {self.rule}" if self.rule else self.setting

    @property
    def needs_baseline(self) -> bool:
        """Whether the bound depends on the value of the last blessed model."""
        return self.setting.endswith("change_thresholds")

    @property
    def applies_to(self) -> str:
        """The class and slice: `class cat, brightness = dark`; `all` for all examples."""
        parts = [f"class {self.class_name}"] if self.class_name is not None else []
        return ", ".join(parts + ([self.slice] if self.slice != ALL else [])) or ALL

    @property
    def subject(self) -> str:
        """Metric, class and slice: `recall of class cat, brightness = dark`; `accuracy` of all examples."""
        return self.title + (f" of {self.applies_to}" if self.applies_to != ALL else "")

    @property
    def missed_by(self) -> float:
        """Distance of the value from the bound if it is on the wrong side, else 0; NaN if the value is undefined."""
        distance = self.bound - self.value if self.higher_is_better else self.value - self.bound
        return distance if math.isnan(distance) else max(0.0, distance)


class GateReport(Stored):
    """The results of all gates of one evaluation.

    Attributes:
      has_baseline: Whether there was a blessed model to compare with.
      comparison: How the model was compared with the last blessed one, if their lists of classes differ, in one
        sentence.
      results: The default rules first, then every value that has a configured bound.
      warnings: Bounds that a model can reach which has learned nothing, one sentence each.
    """

    FILE: ClassVar[str] = "gates.json"

    format: Literal[1] = 1
    has_baseline: bool
    comparison: str = ""
    results: tuple[GateResult, ...]
    warnings: tuple[str, ...] = ()

    @property
    def blessed(self) -> bool:
        """Whether the model may be pushed: at least one value was compared with a bound, and none failed."""
        return any(result.passed for result in self.results) and not self.failures

    @property
    def rules(self) -> Sequence[GateResult]:
        """The results of the default rules."""
        return [result for result in self.results if result.rule]

    @property
    def failures(self) -> Sequence[GateResult]:
        """Values on the wrong side of their bound."""
        return [result for result in self.results if result.passed is False]

    @property
    def not_compared(self) -> Sequence[GateResult]:
        """Values not compared with their configured bound, except those that lack a baseline on a first run."""
        return [
            result
            for result in self.results
            if result.passed is None and not result.rule and (self.has_baseline or not result.needs_baseline)
        ]
