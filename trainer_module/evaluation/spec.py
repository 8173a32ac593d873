"""The records that describe how a task is evaluated: its metrics, and the counts from which they are computed.

Importing this module or the ones beside it imports neither TensorFlow nor TFX: a configuration is checked, a report is
rendered and a metric is described without them.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple, Protocol

import numpy as np
from pydantic import BaseModel, ConfigDict, Field, model_validator

from trainer_module.evaluation.baselines import ConstantBaseline, Evidence
from trainer_module.evaluation.plots import EvaluatedValues, PlotGroup

Direction = Literal["higher_is_better", "lower_is_better"]
Scope = Literal["overall", "per_class"]

IMAGES = "images"  # the usual count unit


class MetricSpec(BaseModel):
    """One metric of a task: its name, its meaning, its range and how it is computed.

    The record is stored with the evaluated values, without `compute`, so that a report describes what it shows.

    Attributes:
      name: As in configuration files and artifacts: lower case, words joined by underscores.
      description: One sentence that explains the value to a reader of the report.
      scope: `overall` has one value per slice, `per_class` one value per class and slice.
      direction: Whether a higher or a lower value is better.
      minimum: Smallest possible value; None if there is none.
      maximum: Largest possible value; None if there is none.
      undefined_when: The condition under which the value is NaN, as a clause: "the class has no examples".
      title: The words for it inside a sentence; those of the name if not given.
      main: Whether it is the metric of its scope that runs, slices and classes are ranked by. Each scope has exactly
        one.
      in_slices: Whether tables of slices show it.
      mean_metric: Of a `per_class` metric, the `overall` metric that is its mean over the classes; None if there is
        none.
      threshold: Default bound of `evaluation.thresholds`; None if it has none.
      change_threshold: Default bound of `evaluation.change_thresholds`; None if it has none.
      compute: Summary of an accumulator → float, or float64 [num_classes] for `per_class`. None in stored records.
      chance: Shares of the classes in the ground truth, float64 [num_classes] → the value that a predictor reaches
        which ignores the image, of the shape of `compute`. None if there is no such value, and in stored records.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str = Field(pattern=r"^[a-z][a-z0-9_]*$")
    description: str = Field(min_length=20)
    scope: Scope = "overall"
    direction: Direction = "higher_is_better"
    minimum: float | None = 0.0
    maximum: float | None = 1.0
    undefined_when: str = Field(min_length=1)
    title: str = Field(default_factory=lambda values: values.get("name", "").replace("_", " "), min_length=1)
    main: bool = False
    in_slices: bool = False
    mean_metric: str | None = None
    threshold: float | None = None
    change_threshold: float | None = None
    compute: Callable[[Any], Any] | None = Field(default=None, exclude=True, repr=False)
    chance: Callable[[np.ndarray], Any] | None = Field(default=None, exclude=True, repr=False)

    @model_validator(mode="after")
    def _check_bounds(self) -> MetricSpec:
        if self.minimum is not None and self.maximum is not None and not self.minimum < self.maximum:
            raise ValueError(f"metric {self.name}: minimum {self.minimum:g} is not below maximum {self.maximum:g}")
        if self.threshold is not None and not self.allows(self.threshold):
            raise ValueError(f"metric {self.name}: threshold {self.threshold:g} is not {self.range_text}")
        if self.change_threshold is not None and not self.allows_change(self.change_threshold):
            raise ValueError(
                f"metric {self.name}: change_threshold {self.change_threshold:g} is not {self.change_range_text}"
            )
        return self

    @property
    def heading(self) -> str:
        """The title as the head of a column."""
        return self.title[0].upper() + self.title[1:]

    @property
    def higher_is_better(self) -> bool:
        """Whether a higher value is better."""
        return self.direction == "higher_is_better"

    @property
    def range_text(self) -> str:
        """The possible values in words: `between 0 and 1`, `0 or more`."""
        return _in_words(self.minimum, self.maximum)

    @property
    def change_range_text(self) -> str:
        """The possible differences of two values in words."""
        return _in_words(0.0, self._width)

    def allows(self, value: float) -> bool:
        """Whether a value is possible."""
        return self.clip(value) == value

    def allows_change(self, value: float) -> bool:
        """Whether two values can differ by this much: at most the width of the range."""
        return 0.0 <= value <= (math.inf if self._width is None else self._width)

    def clip(self, value: float) -> float:
        """Limits a value, such as the end of a confidence interval, to the possible range."""
        low = -math.inf if self.minimum is None else self.minimum
        high = math.inf if self.maximum is None else self.maximum
        return min(max(value, low), high)

    def is_better(self, value: float, other: float) -> bool:
        """Whether a value is strictly better than another."""
        return value > other if self.higher_is_better else value < other

    def worst_first(self, value: float) -> tuple[bool, float]:
        """A sort key that puts the worst value first and undefined ones last."""
        return math.isnan(value), value if self.higher_is_better else -value

    @property
    def _width(self) -> float | None:
        return None if self.minimum is None or self.maximum is None else self.maximum - self.minimum


def _in_words(minimum: float | None, maximum: float | None) -> str:
    if minimum is None:
        return "any number" if maximum is None else f"{maximum:g} or less"
    return f"{minimum:g} or more" if maximum is None else f"between {minimum:g} and {maximum:g}"


def in_scope(metrics: Iterable[MetricSpec], scope: Scope) -> tuple[MetricSpec, ...]:
    """The metrics of one scope, in their order."""
    return tuple(metric for metric in metrics if metric.scope == scope)


class Parameters(NamedTuple):
    """The settings of a run that the evaluation of its task depends on.

    Attributes:
      num_classes: Number of classes; ids are 0 to num_classes - 1.
      top_k: The k of the top-k accuracy.
      ignore_id: Label of the pixels that are not evaluated; None if there is none.
      shared: The classes that are evaluated, if only those are that two models share; `num_classes` is their number.
    """

    num_classes: int
    top_k: int
    ignore_id: int | None = None
    shared: SharedIds | None = None


class SharedIds(NamedTuple):
    """The ids of the classes that two models share, from 0; -1 for classes that only one of them has.

    Attributes:
      model: By class id of the evaluated model.
      dataset: By class id of the dataset.
    """

    model: tuple[int, ...]
    dataset: tuple[int, ...]


class Accumulator(Protocol):
    """Counts of a slice that can be added up in any order; of bounded size, and picklable."""

    def add(self, element: Any) -> None:
        """Adds one example, as `Evaluation.element` returns it.

        Raises:
          ValueError: If the label or the prediction does not fit the classes.
        """

    def merge(self, other: Any) -> None:
        """Adds the counts of another accumulator, whose summary stays the same."""

    def summarize(self) -> Any:
        """The counts as an immutable object from which `MetricSpec.compute` computes the metrics."""


Example = tuple[Mapping[str, np.ndarray], Mapping[str, np.ndarray]]


@dataclass(frozen=True, kw_only=True)
class Evaluation:
    """How a task is evaluated: example → element → accumulator → summary → metrics.

    Attributes:
      metrics: top_k → all metrics, in the order in which they are shown.
      element: (outputs of the signature `transform_features`, outputs of the signature `examples`, parameters) → what
        one example adds to the counts; None if `parameters.shared` has none of its classes. The outputs are arrays
        without batch dimension. May raise ValueError, as `Accumulator.add`.
      accumulator: Parameters → empty counts.
      support: Summary → int64 [num_classes], how much of the ground truth belongs to each class.
      count_unit: The unit of the support and of the confusion matrix: "images", "pixels", "boxes".
      random_example: (random generator, parameters, class id) → the arguments of `element` for an example whose label
        contains the class and whose prediction is random; for the conformance tests.
      evidence: Summary → what the default rules are computed from: `OCCURRING`, `PREDICTED` and `CORRECT`, and what
        `constant_baselines` read.
      constant_baselines: Predictors that ignore the image, which a model must be better than.
      confusion_matrix: Summary → int64 [num_classes, num_classes], rows are the ground truth; None if there is none.
      confusion_note: What it counts, in one sentence without a full stop; empty if this needs no explanation.
      has_background: Whether it has one more row and column: predictions without an object, and objects without a
        prediction.
      reliability: Summary → float64 [3, num_bins]: number, sum of the confidence and number of correct predictions per
        bin of confidence, of equal width; None if there is no such curve.
      details: Summary → further arrays for the report, name → [num_classes, n]; NaN where they are undefined. Stored
        for all examples, not for slices. None if there are none.
      plots: Stored values of all examples → the plots of the report, besides those of the metrics that every task has.
    """

    metrics: Callable[[int], tuple[MetricSpec, ...]]
    element: Callable[[Mapping[str, np.ndarray], Mapping[str, np.ndarray], Parameters], Any]
    accumulator: Callable[[Parameters], Accumulator]
    support: Callable[[Any], np.ndarray]
    count_unit: str = IMAGES
    random_example: Callable[[np.random.Generator, Parameters, int], Example]
    evidence: Callable[[Any], Evidence]
    constant_baselines: tuple[ConstantBaseline, ...]
    confusion_matrix: Callable[[Any], np.ndarray] | None = None
    confusion_note: str = ""
    has_background: bool = False
    reliability: Callable[[Any], np.ndarray] | None = None
    details: Callable[[Any], Mapping[str, np.ndarray]] | None = None
    plots: Callable[[EvaluatedValues], tuple[PlotGroup, ...]] = lambda values: ()
