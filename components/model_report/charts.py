"""The geometry of the charts: figures in, places on the paper out. How they look is the templates' business."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field

from components.model_report.tables import Table

# The paper of a line chart. It is shown about as wide as this on a telephone, so that its text stays readable there.
WIDTH, HEIGHT = 380, 250
LEFT, RIGHT, TOP, BOTTOM = 50, 12, 14, 42
# Beyond so many points a curve has no marks: they would lie on one another.
MOST_MARKS = 300
# The strip below a reliability curve, in which bars say how many predictions a bin has.
STRIP_HEIGHT, STRIP_GAP = 44, 12


@dataclass(frozen=True)
class Tick:
    """A place on an axis and what is written there."""

    place: float
    label: str


@dataclass(frozen=True)
class Mark:
    """A point, with what a pointer that rests on it reads."""

    x: float
    y: float
    text: str


@dataclass(frozen=True)
class Line:
    """One curve.

    Attributes:
      name: In the legend.
      parts: `x,y x,y …`; a figure that does not exist interrupts the curve.
      marks: Its points, unless there are very many.
    """

    name: str
    parts: list[str]
    marks: list[Mark]


@dataclass(frozen=True)
class Bar:
    """One bar of the strip."""

    x: float
    y: float
    width: float
    height: float
    text: str


@dataclass(frozen=True)
class Chart:
    """A chart with everything that is drawn, and its figures as a table.

    Attributes:
      key: Unique on the page.
      title: What it shows.
      description: The same in a sentence with figures, for those who do not see it.
      height: Of the paper.
      lines: Curves, in the legend's order.
      table: All figures.
      dividers: Vertical lines between phases, with the name of the phase that begins.
      ideal: Ends of the diagonal, where there is one.
      bars: The strip below.
      bars_label: What the bars count.
    """

    key: str
    title: str
    description: str
    x_label: str
    x_ticks: list[Tick]
    y_ticks: list[Tick]
    lines: list[Line]
    table: Table
    height: float = HEIGHT
    dividers: list[Tick] = field(default_factory=list)
    ideal: tuple[float, float, float, float] | None = None
    bars: list[Bar] = field(default_factory=list)
    bars_label: str = ""


@dataclass(frozen=True)
class Scale:
    """Leads from figures to places.

    Attributes:
      low: Figure at the beginning of the axis.
      high: Figure at its end.
      start: Place of the beginning.
      end: Place of the end.
      logarithmic: Whether equal distances are equal ratios.
    """

    low: float
    high: float
    start: float
    end: float
    logarithmic: bool = False

    def __call__(self, value: float) -> float:
        """The place of a figure."""
        low, high = self.low, self.high
        if self.logarithmic:
            value, low, high = math.log10(value), math.log10(low), math.log10(high)
        share = (value - low) / (high - low) if high > low else 0.5
        return round(self.start + share * (self.end - self.start), 2)


def round_steps(low: float, high: float, most: int = 5) -> list[float]:
    """Round figures in a range: multiples of 1, 2 or 5 times a power of ten.

    Args:
      low: Lower end.
      high: Upper end, above the lower.
      most: At most so many, and one.

    Returns:
      The first at or below `low`, the last at or above `high`.
    """
    rough = (high - low) / most
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(factor * power for factor in (1, 2, 5, 10) if factor * power >= rough * (1 - 1e-9))
    first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
    return [round(index * step, 12) for index in range(first, last + 1)]


def line_chart(
    key: str,
    title: str,
    description: str,
    *,
    x: Sequence[int],
    curves: dict[str, Sequence[float]],
    table: Table,
    dividers: Sequence[tuple[float, str]] = (),
    logarithmic: bool = False,
) -> Chart:
    """Lays out curves over epochs.

    Args:
      key: Unique on the page.
      title: What it shows.
      description: In a sentence.
      x: Epochs, counted from 1.
      curves: Name → a figure for every epoch; NaN where there is none.
      table: The figures.
      dividers: Between which epochs a phase begins, and its name.
      logarithmic: Of the vertical axis; all figures must be positive then.
    """
    known = [value for values in curves.values() for value in values if math.isfinite(value)] or [0.0, 1.0]
    low, high = min(known), max(known)
    if logarithmic:
        powers = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
        steps = [10.0**power for power in powers]
    else:
        steps = round_steps(low, high if high > low else low + (abs(low) or 1.0))
    across = Scale(min(x), max(x), LEFT, WIDTH - RIGHT)
    up = Scale(steps[0], steps[-1], HEIGHT - BOTTOM, TOP, logarithmic)
    whole = sorted({round(step) for step in round_steps(min(x), max(x) if max(x) > min(x) else min(x) + 1)})
    return Chart(
        key=key,
        title=title,
        description=description,
        x_label="Epoch",
        x_ticks=[Tick(across(step), str(step)) for step in whole if min(x) <= step <= max(x)],
        y_ticks=[Tick(up(step), f"{step:g}") for step in steps],
        lines=[_line(name, list(zip(x, values, strict=True)), across, up) for name, values in curves.items()],
        table=table,
        dividers=[Tick(across(place), name) for place, name in dividers],
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
    return Line(name, [" ".join(part) for part in parts if part], marks if len(marks) <= MOST_MARKS else [])


def reliability_chart(bins: Sequence[tuple[float, float, int, float, float]], table: Table, description: str) -> Chart:
    """Lays out how often the model is right by how sure it is.

    Args:
      bins: Lower and upper end, count, mean confidence and accuracy.
      table: The figures.
      description: In a sentence.

    Reference: A. Niculescu-Mizil & R. Caruana, Predicting Good Probabilities with Supervised Learning, ICML 2005,
      section 4 (reliability diagrams).
    """
    across = Scale(0.0, 1.0, LEFT, WIDTH - RIGHT)
    up = Scale(0.0, 1.0, HEIGHT - BOTTOM, TOP)
    filled = [(confidence, accuracy, count) for *_, count, confidence, accuracy in bins if count]
    marks = [
        Mark(
            across(confidence),
            up(accuracy),
            f"{count:,} predictions: confidence {confidence:.3f}, right {accuracy:.3f}",
        )
        for confidence, accuracy, count in filled
    ]
    most = max((count for *_, count, _, _ in bins), default=0) or 1
    bottom = HEIGHT + STRIP_GAP + STRIP_HEIGHT
    bars = [
        Bar(
            x=across(lower) + 1,
            y=round(bottom - STRIP_HEIGHT * count / most, 2),
            width=round(across(upper) - across(lower) - 2, 2),
            height=round(STRIP_HEIGHT * count / most, 2),
            text=f"{count:,} predictions between {lower:g} and {upper:g}",
        )
        for lower, upper, count, _, _ in bins
    ]
    ticks = [0.0, 0.2, 0.4, 0.6, 0.8, 1.0]
    points = " ".join(f"{mark.x},{mark.y}" for mark in marks)
    return Chart(
        key="reliability",
        title="Right, by how sure",
        description=description,
        x_label="Confidence",
        x_ticks=[Tick(across(tick), f"{tick:g}") for tick in ticks],
        y_ticks=[Tick(up(tick), f"{tick:g}") for tick in ticks],
        lines=[Line("This model", [points] if points else [], marks)],
        table=table,
        height=bottom + 4,
        ideal=(across(0.0), up(0.0), across(1.0), up(1.0)),
        bars=bars,
        bars_label=f"Predictions in each bin, {most:,} in the fullest",
    )
