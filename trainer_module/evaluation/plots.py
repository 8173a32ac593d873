"""The plots that a task adds to the report: values and words; the report draws them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple, Protocol

Point = tuple[float, float]


class EvaluatedValues(Protocol):
    """The stored values of all examples, as `components.evaluator.artifact.SliceMetrics` has them."""

    @property
    def metrics(self) -> Mapping[str, float]:
        """Overall metric → value; NaN if it is undefined."""

    @property
    def class_metrics(self) -> Mapping[str, Mapping[str, float]]:
        """Class, by id → metric → value."""

    @property
    def details(self) -> Mapping[str, Sequence[Sequence[float]]]:
        """Returns the plots of `Evaluation.details`."""


class Curve(NamedTuple):
    """A curve in the unit square.

    Attributes:
      name: In the legend.
      points: (x, y), x rising; NaN interrupts the curve.
    """

    name: str
    points: tuple[Point, ...]


class MarkedPoint(NamedTuple):
    """A point beside the curves: its name in the legend, its place, and its tooltip."""

    name: str
    x: float
    y: float
    text: str


@dataclass(frozen=True, kw_only=True)
class CurvePlot:
    """Curves in the unit square.

    Attributes:
      title: The heading: a class.
      description: The most important values.
      x_label: The quantity of the horizontal axis.
      y_label: The quantity of the vertical axis.
      curves: At most three; the plots of a group have the same names.
      point: A point beside the curves, if there is one.
    """

    title: str
    description: str
    x_label: str
    y_label: str
    curves: tuple[Curve, ...]
    point: MarkedPoint | None = None


class Bar(NamedTuple):
    """One bar.

    Attributes:
      name: Its label.
      value: Its length, 0 or more.
      text: The value as text.
      share: The share of all bars as text.
      meaning: What the name means, in one sentence.
    """

    name: str
    value: float
    text: str
    share: str
    meaning: str


@dataclass(frozen=True, kw_only=True)
class BarPlot:
    """Horizontal bars.

    Attributes:
      title: The heading.
      name_label: What the bars are: "Type of error".
      value_label: The quantity.
      bars: From top to bottom.
    """

    title: str
    name_label: str
    value_label: str
    bars: tuple[Bar, ...]


@dataclass(frozen=True, kw_only=True)
class PlotGroup:
    """Plots under one heading.

    Attributes:
      heading: The heading.
      text: What they show, in one to three sentences.
      plots: The plots.
    """

    heading: str
    text: str
    plots: tuple[CurvePlot | BarPlot, ...]
