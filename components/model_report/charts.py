"""The geometry of the charts: values → positions in an SVG; the templates draw it.

matplotlib places the ticks. Its own SVG was tried for the whole chart and loses: no tooltips, colours that do not
follow the page's light and dark scheme, 22 kB instead of 8 kB and 100 ms instead of 1 ms for two curves of 30 epochs.
"""

from __future__ import annotations

import bisect
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from components.model_report.tables import Table
from trainer_module.evaluation.plots import CurvePlot

# Size of a line chart. A phone shows it at about this width, so that its text stays readable there.
WIDTH, HEIGHT = 380, 250
RIGHT, TOP, BOTTOM = 12, 14, 42
# The left margin holds the labels of the vertical axis, in the widest of the page's fonts.
_CHARACTER, _LABEL_GAP = 8.4, 8
# A curve of more points has no marks: they would overlap.
MAX_MARKS = 300
# Size of one of several charts side by side.
SMALL_WIDTH, SMALL_HEIGHT = 280, 210
# The strip below a reliability curve, whose bars show the number of predictions per bin.
STRIP_HEIGHT, STRIP_GAP = 44, 12


@dataclass(frozen=True)
class Tick:
    """A position on an axis and its label."""

    position: float
    label: str


@dataclass(frozen=True)
class Mark:
    """A point and its tooltip."""

    x: float
    y: float
    text: str


@dataclass(frozen=True)
class Dot:
    """A single point beside the curves: its place, its name in the legend and its tooltip."""

    x: float
    y: float
    name: str
    text: str


@dataclass(frozen=True)
class Line:
    """One curve.

    Attributes:
      name: In the legend.
      parts: `x,y x,y …`; an undefined value interrupts the curve.
      marks: Its points, unless there are very many.
    """

    name: str
    parts: list[str]
    marks: list[Mark]


@dataclass(frozen=True)
class Bar:
    """One bar of the strip and its tooltip."""

    x: float
    y: float
    width: float
    height: float
    text: str


@dataclass(frozen=True)
class Chart:
    """Everything that is drawn, and the values as a table.

    Attributes:
      key: Unique on the page.
      title: The heading.
      description: The content in one sentence with values, for readers who do not see it.
      left: Width of the margin for the labels of the vertical axis.
      y_label: The quantity of the vertical axis; empty if the title names it.
      width: Of the SVG.
      height: Of the SVG.
      bottom: Position of the horizontal axis.
      lines: Curves, in the legend's order.
      table: All values.
      dividers: Vertical lines between phases, labelled with the phase that begins.
      ideal: Ends of the diagonal, if there is one.
      bars: The strip below.
      bars_label: The quantity of the bars.
      dot: A single point.
      has_legend: Whether its legend is shown; otherwise the group of charts has one.
    """

    key: str
    title: str
    description: str
    x_label: str
    x_ticks: list[Tick]
    y_ticks: list[Tick]
    lines: list[Line]
    table: Table
    left: float
    y_label: str = ""
    width: float = WIDTH
    height: float = HEIGHT
    bottom: float = HEIGHT - BOTTOM
    dividers: list[Tick] = field(default_factory=list)
    ideal: tuple[float, float, float, float] | None = None
    bars: list[Bar] = field(default_factory=list)
    bars_label: str = ""
    dot: Dot | None = None
    has_legend: bool = True


@dataclass(frozen=True)
class Scale:
    """Maps values to positions.

    Attributes:
      low: Value at the start of the axis.
      high: Value at its end.
      start: Position of the start.
      end: Position of the end.
      logarithmic: Whether equal distances are equal ratios.
    """

    low: float
    high: float
    start: float
    end: float
    logarithmic: bool = False

    def __call__(self, value: float) -> float:
        """Returns the position of a value."""
        low, high = self.low, self.high
        if self.logarithmic:
            value, low, high = math.log10(value), math.log10(low), math.log10(high)
        share = (value - low) / (high - low) if high > low else 0.5
        return round(self.start + share * (self.end - self.start), 2)


def ticks(low: float, high: float, *, logarithmic: bool = False) -> list[float]:
    """Chooses about five round values; powers of ten on a logarithmic axis.

    Args:
      low: Lower end of the range.
      high: Upper end; greater than `low`, unless the axis is logarithmic.
      logarithmic: Whether the axis is.

    Returns:
      Values in ascending order: the first is at or below `low`, the last at or above `high`.
    """
    from matplotlib import ticker

    locator = ticker.LogLocator(subs=[1.0]) if logarithmic else ticker.MaxNLocator(5, steps=[1, 2, 5, 10])
    # The locators compute with floats, and LogLocator adds a power at both ends.
    values = [float(f"{value:.12g}") for value in locator.tick_values(low, high)]
    return values[max(0, bisect.bisect_right(values, low) - 1) : bisect.bisect_left(values, high) + 1]


def _left_margin(labels: Sequence[str]) -> float:
    return round(_LABEL_GAP + _CHARACTER * max(map(len, labels)), 1)


def line_chart(
    key: str,
    title: str,
    description: str,
    *,
    x: Sequence[int],
    curves: Mapping[str, Sequence[float]],
    table: Table,
    dividers: Sequence[tuple[float, str]] = (),
    logarithmic: bool = False,
) -> Chart:
    """Draws curves over epochs.

    Args:
      key: Unique on the page.
      title: The heading.
      description: The content in one sentence.
      x: Epochs, from 1.
      curves: Name → one value per epoch; NaN if it is undefined.
      table: The values.
      dividers: The positions between epochs at which phases begin, and their names.
      logarithmic: Whether the vertical axis is; all values must be positive then.
    """
    finite = [value for values in curves.values() for value in values if math.isfinite(value)] or [0.0, 1.0]
    low, high = min(finite), max(finite)
    y_values = ticks(low, high if high > low else low + (abs(low) or 1.0), logarithmic=logarithmic)
    y_labels = [f"{value:g}" for value in y_values]
    left = _left_margin(y_labels)
    across = Scale(min(x), max(x), left, WIDTH - RIGHT)
    up = Scale(y_values[0], y_values[-1], HEIGHT - BOTTOM, TOP, logarithmic)
    epochs = sorted({round(value) for value in ticks(min(x), max(x) if max(x) > min(x) else min(x) + 1)})
    return Chart(
        key=key,
        title=title,
        description=description,
        x_label="Epoch",
        x_ticks=[Tick(across(epoch), str(epoch)) for epoch in epochs if min(x) <= epoch <= max(x)],
        y_ticks=[Tick(up(value), label) for value, label in zip(y_values, y_labels, strict=True)],
        lines=[_line(name, list(zip(x, values, strict=True)), across, up) for name, values in curves.items()],
        table=table,
        left=left,
        dividers=[Tick(across(position), name) for position, name in dividers],
    )


def _line(name: str, points: Sequence[tuple[float, float]], across: Scale, up: Scale) -> Line:
    parts: list[list[str]] = [[]]
    marks = []
    for x, y in points:
        if not math.isfinite(y):
            parts.append([])
            continue
        parts[-1].append(f"{across(x)},{up(y)}")
        marks.append(Mark(across(x), up(y), f"{name}, epoch {x}: {y:.4g}"))
    return Line(name, [" ".join(part) for part in parts if part], marks if len(marks) <= MAX_MARKS else [])


def reliability_chart(bins: Sequence[tuple[float, float, int, float, float]], table: Table, description: str) -> Chart:
    """Draws accuracy over confidence.

    Args:
      bins: Lower and upper end, number of predictions, mean confidence and accuracy.
      table: The values.
      description: The content in one sentence.

    Reference: A. Niculescu-Mizil & R. Caruana, Predicting Good Probabilities with Supervised Learning, ICML 2005,
      section 4 (reliability diagrams).
    """
    labels = [f"{value:g}" for value in ticks(0.0, 1.0)]
    left = _left_margin(labels)
    across = Scale(0.0, 1.0, left, WIDTH - RIGHT)
    up = Scale(0.0, 1.0, HEIGHT - BOTTOM, TOP)
    filled = [(confidence, accuracy, count) for *_, count, confidence, accuracy in bins if count]
    marks = [
        Mark(
            across(confidence),
            up(accuracy),
            f"{count:,} predictions: confidence {confidence:.3f}, accuracy {accuracy:.3f}",
        )
        for confidence, accuracy, count in filled
    ]
    largest = max((count for *_, count, _, _ in bins), default=0) or 1
    bottom = HEIGHT + STRIP_GAP + STRIP_HEIGHT
    bars = [
        Bar(
            x=across(lower) + 1,
            y=round(bottom - STRIP_HEIGHT * count / largest, 2),
            width=round(across(upper) - across(lower) - 2, 2),
            height=round(STRIP_HEIGHT * count / largest, 2),
            text=f"{count:,} predictions with confidence {lower:g} to {upper:g}",
        )
        for lower, upper, count, _, _ in bins
    ]
    points = " ".join(f"{mark.x},{mark.y}" for mark in marks)
    return Chart(
        key="reliability",
        title="Accuracy by confidence",
        description=description,
        x_label="Confidence",
        x_ticks=[Tick(across(float(label)), label) for label in labels],
        y_ticks=[Tick(up(float(label)), label) for label in labels],
        lines=[Line("This model", [points] if points else [], marks)],
        table=table,
        left=left,
        height=bottom + 4,
        ideal=(across(0.0), up(0.0), across(1.0), up(1.0)),
        bars=bars,
        bars_label=f"Predictions per bin, at most {largest:,}",
    )


def curve_chart(key: str, plot: CurvePlot, table: Table) -> Chart:
    """Draws one of several plots of curves in the unit square.

    Args:
      key: Unique on the page.
      plot: The curves.
      table: Their values.
    """
    labels = ["0", "0.25", "0.5", "0.75", "1"]
    left = _left_margin(["0.25"])
    top, bottom = TOP + 12, SMALL_HEIGHT - BOTTOM
    across, up = Scale(0.0, 1.0, left, SMALL_WIDTH - RIGHT), Scale(0.0, 1.0, bottom, top)
    dot = None
    if plot.point is not None:
        dot = Dot(across(plot.point.x), up(plot.point.y), plot.point.name, plot.point.text)
    return Chart(
        key=key,
        title=plot.title,
        description=plot.description,
        x_label=plot.x_label,
        y_label=plot.y_label,
        x_ticks=[Tick(across(float(label)), label) for label in labels],
        y_ticks=[Tick(up(float(label)), label) for label in labels],
        lines=[Line(curve.name, _polylines(curve.points, across, up), []) for curve in plot.curves],
        table=table,
        left=left,
        width=SMALL_WIDTH,
        height=SMALL_HEIGHT,
        bottom=bottom,
        dot=dot,
        has_legend=False,
    )


def _polylines(points: Sequence[tuple[float, float]], across: Scale, up: Scale) -> list[str]:
    """Returns the parts of a curve without the points in the middle of straight lines, which need many bytes."""
    parts: list[list[tuple[float, float]]] = [[]]
    for x, y in points:
        if not math.isfinite(y):
            parts.append([])
            continue
        place = (across(x), up(y))
        part = parts[-1]
        if len(part) > 1 and part[-2][1] == part[-1][1] == place[1]:
            part.pop()
        part.append(place)
    return [" ".join(f"{x},{y}" for x, y in part) for part in parts if part]


def histogram_chart(
    key: str,
    title: str,
    description: str,
    *,
    x_label: str,
    edges: Sequence[float],
    shares: Mapping[str, Sequence[float]],
    x_ticks: Sequence[tuple[float, str]],
    table: Table,
    logarithmic: bool = False,
) -> Chart:
    """Draws the distribution of a value in several splits as steps.

    Args:
      key: Unique on the page.
      title: The heading.
      description: The content in one sentence.
      x_label: The value.
      edges: Of n bins, n + 1 values.
      shares: Split → the share of its values in every bin.
      x_ticks: Values and labels on the horizontal axis.
      table: The values.
      logarithmic: Whether equal distances on the horizontal axis are equal ratios.
    """
    highest = max((value for values in shares.values() for value in values), default=0.0) or 1.0
    y_values = ticks(0.0, highest)
    y_labels = [f"{100 * value:.4g} %" for value in y_values]
    left = _left_margin(y_labels)
    across = Scale(edges[0], edges[-1], left, SMALL_WIDTH - RIGHT, logarithmic)
    bottom = SMALL_HEIGHT - BOTTOM
    up = Scale(0.0, y_values[-1], bottom, TOP)
    lines = []
    for name, values in shares.items():
        corners = [(edges[0], 0.0)]
        for start, end, value in zip(edges, edges[1:], values, strict=False):
            corners += [(start, value), (end, value)]
        corners.append((edges[-1], 0.0))
        lines.append(Line(name, _polylines(corners, across, up), []))
    return Chart(
        key=key,
        title=title,
        description=description,
        x_label=x_label,
        x_ticks=[Tick(across(value), label) for value, label in x_ticks if edges[0] <= value <= edges[-1]],
        y_ticks=[Tick(up(value), label) for value, label in zip(y_values, y_labels, strict=True)],
        lines=lines,
        table=table,
        left=left,
        width=SMALL_WIDTH,
        height=SMALL_HEIGHT,
        bottom=bottom,
        has_legend=False,
    )
