"""The statistics of labels that consist of parts, such as boxes: by split, as charts and tables."""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from components.model_report import charts
from components.model_report.charts import Chart
from components.model_report.tables import MAX_CLASSES, UNDEFINED, Cell, Column, Table, at_most, count, number
from trainer_module.tasks import LabelStatistic

_NUM_BINS = 20
_MAX_WHOLE_NUMBERS = 40  # with more, bins contain several
_RATIO_TICKS = [(2.0**power, f"{2**power:g}" if power >= 0 else f"1/{2**-power:g}") for power in range(-6, 7)]


@dataclass(frozen=True)
class Distribution:
    """The values of a feature in a split.

    Attributes:
      number: Number of values.
      zeros: Number of values that are 0.
      smallest: Smallest value.
      median: The median.
      largest: Largest value.
      buckets: Lower end, upper end and number of values, of quantiles.
    """

    number: int
    zeros: int
    smallest: float
    median: float
    largest: float
    buckets: tuple[tuple[float, float, float], ...]


@dataclass(frozen=True)
class SplitLabels:
    """The labels of a split.

    Attributes:
      split: Name of the split.
      classes: Class → number of parts.
      distributions: Name of a feature → its values.
    """

    split: str
    classes: Mapping[str, int]
    distributions: Mapping[str, Distribution]


@dataclass(frozen=True)
class LabelSummary:
    """The statistics of all splits.

    Attributes:
      table: Numbers, medians and ranges by split.
      classes: Parts by class and split.
      charts: The distribution of every feature.
    """

    table: Table
    classes: Table
    charts: list[Chart]


def summarize(
    labels: Sequence[SplitLabels], statistics: Sequence[LabelStatistic], classes: Sequence[str], unit: str
) -> LabelSummary | None:
    """Summarizes the labels of all splits; None if the task has no such statistics.

    Args:
      labels: By split.
      statistics: Those of the task.
      classes: Class names; the index is the id.
      unit: The parts: "boxes".
    """
    if not statistics or not labels:
        return None
    return LabelSummary(
        table=_table(labels, statistics, unit),
        classes=_class_table(labels, classes, unit),
        charts=[chart for statistic in statistics if (chart := _chart(labels, statistic)) is not None],
    )


def _table(labels: Sequence[SplitLabels], statistics: Sequence[LabelStatistic], unit: str) -> Table:
    columns = [Column("Split"), Column(unit.capitalize(), numeric=True)]
    columns += [Column(statistic.title, numeric=True, title=statistic.description) for statistic in statistics]
    rows = []
    for split in labels:
        row = [Cell(split.split), count(sum(split.classes.values()))]
        for statistic in statistics:
            values = split.distributions.get(statistic.feature)
            if values is None or not values.number:
                row.append(UNDEFINED)
                continue
            note = f"{values.smallest:.3g} to {values.largest:.3g}"
            if statistic.scale == "count" and values.zeros:
                note += f"; {values.zeros:,} without"
            row.append(number(values.median, ".3g", note=note))
        rows.append(row)
    return Table(f"{unit.capitalize()} by split; median and range", columns, rows)


def _class_table(labels: Sequence[SplitLabels], classes: Sequence[str], unit: str) -> Table:
    columns = [Column("Class")]
    for split in labels:
        columns += [Column(split.split.capitalize(), numeric=True), Column("Share", numeric=True)]
    totals = [sum(split.classes.values()) or 1 for split in labels]
    names = [*classes, *sorted({name for split in labels for name in split.classes} - set(classes))]
    rows = []
    for name in sorted(names, key=lambda name: sum(split.classes.get(name, 0) for split in labels)):
        row = [Cell(name)]
        for split, total in zip(labels, totals, strict=True):
            of_class = split.classes.get(name, 0)
            row += [count(of_class), Cell(f"{of_class / total:.1%}", of_class / total, tone="soft")]
        rows.append(row)
    rows, caption = at_most(rows, MAX_CLASSES, f"{unit.capitalize()} by class, the rarest first")
    return Table(caption, columns, rows)


def _chart(labels: Sequence[SplitLabels], statistic: LabelStatistic) -> Chart | None:
    splits = {
        split.split: split.distributions[statistic.feature]
        for split in labels
        if statistic.feature in split.distributions and split.distributions[statistic.feature].number
    }
    if not splits:
        return None
    low = min(values.smallest for values in splits.values())
    high = max(values.largest for values in splits.values())
    edges, ticks, bins = _bins(low, high, statistic)
    whole = statistic.scale == "count"
    shares = {name: bin_shares(values.buckets, edges, whole) for name, values in splits.items()}
    rows = [
        [Cell(label, edges[index]), *[number(100 * values[index], ".1f") for values in shares.values()]]
        for index, label in enumerate(bins)
    ]
    columns = [Column(statistic.title, numeric=True), *[Column(f"{name}, %", numeric=True) for name in shares]]
    return charts.histogram_chart(
        f"label-{statistic.feature.replace('/', '-')}",
        statistic.title,
        statistic.description,
        x_label=statistic.axis,
        edges=edges,
        shares=shares,
        x_ticks=ticks,
        table=Table(f"{statistic.title}: percent of the {statistic.of} of the split", columns, rows),
        logarithmic=statistic.scale == "ratio",
    )


def _bins(low: float, high: float, statistic: LabelStatistic) -> tuple[list[float], list[tuple[float, str]], list[str]]:
    """Returns the edges of bins, the ticks of the axis, and the label of every bin."""
    if statistic.scale == "count":
        step = max(1, math.ceil((high - low + 1) / _MAX_WHOLE_NUMBERS))
        first = math.floor(low)
        num = math.ceil((high - first + 1) / step)
        edges = [first + index * step - 0.5 for index in range(num + 1)]
        values = sorted({round(value) for value in charts.ticks(low, max(high, low + 1))})
        labels = [
            f"{start + 0.5:g}" if step == 1 else f"{start + 0.5:g} to {end - 0.5:g}"
            for start, end in itertools.pairwise(edges)
        ]
        return edges, [(float(value), str(value)) for value in values], labels
    if statistic.scale == "ratio":
        # At least an octave to each side, so that equal ratios have an axis.
        low, high = min(low, 0.5), max(high, 2.0)
        factor = (high / low) ** (1 / _NUM_BINS)
        edges = [low * factor**index for index in range(_NUM_BINS)] + [high]
        ticks = [tick for tick in _RATIO_TICKS if low <= tick[0] <= high]
        ticks = ticks[:: math.ceil(len(ticks) / 7)]
    else:
        edges = [index / _NUM_BINS for index in range(_NUM_BINS + 1)]
        ticks = [(value, f"{value:g}") for value in charts.ticks(0.0, 1.0)]
    return edges, ticks, [f"{start:.2g} to {end:.2g}" for start, end in itertools.pairwise(edges)]


def bin_shares(
    buckets: Sequence[tuple[float, float, float]], edges: Sequence[float], whole_numbers: bool
) -> list[float]:
    """Distributes quantile buckets over bins.

    Values of a bucket are taken as evenly spread over (lower, upper], over the whole numbers there if the feature has
    only those.

    Args:
      buckets: Lower end, upper end and number of values.
      edges: Of n bins, n + 1 values in ascending order.
      whole_numbers: Whether all values are whole numbers.

    Returns:
      The share of the values in every bin; their sum is 1 if the edges contain all of them.
    """
    counts = [0.0] * (len(edges) - 1)

    def add(value: float, weight: float) -> None:
        for index, (start, end) in enumerate(itertools.pairwise(edges)):
            if start <= value < end or (value == end and index == len(counts) - 1):
                counts[index] += weight
                return

    for lower, upper, weight in buckets:
        if lower == upper:
            add(lower, weight)
        elif whole_numbers:
            numbers = range(math.floor(lower) + 1, math.floor(upper) + 1)
            for value in numbers:
                add(value, weight / len(numbers))
        else:
            for index, (start, end) in enumerate(itertools.pairwise(edges)):
                common = min(upper, end) - max(lower, start)
                counts[index] += weight * max(0.0, common) / (upper - lower)
    total = sum(weight for *_, weight in buckets) or 1.0
    return [value / total for value in counts]
