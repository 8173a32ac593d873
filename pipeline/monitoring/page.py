"""The HTML page of monitoring: the verdict on the last window, its tests, the quality, and earlier windows."""

from __future__ import annotations

import datetime
import math
from collections.abc import Sequence
from dataclasses import dataclass

from components.model_report import tables
from components.model_report.rendering import render_template
from components.model_report.summary import Fact
from components.model_report.tables import Cell, Column, Table
from serving.monitor.result import DriftTest, MonitorResult, SliceQuality

_TITLES = {
    "inputs": "Pixels",
    "embeddings": "Embeddings",
    "outputs": "Outputs",
    "classes": "Predicted classes",
    "confidence": "Confidence",
    "quality": "Quality",
}
_MOST_TESTS = 300


@dataclass(frozen=True)
class MonitorPage:
    """The content of the page.

    Attributes:
      result: The last result.
      headline: The verdict.
      created: When the window was tested.
      facts: The numbers below the verdict.
      tests: All tests.
      quality: By slice; None without feedback.
      earlier: Earlier windows; None if there are none.
    """

    result: MonitorResult
    headline: str
    created: str
    facts: list[Fact]
    tests: Table
    quality: Table | None
    earlier: Table | None

    def sections(self) -> dict[str, str]:
        """Returns the anchors and titles of the sections, in order."""
        shown = [("tests", "Tests", True), ("quality", "Quality", self.quality), ("windows", "Windows", self.earlier)]
        return {anchor: title for anchor, title, exists in shown if exists} | {"definitions": "How to read this page"}


def render(result: MonitorResult, earlier: Sequence[MonitorResult]) -> str:
    """Renders the page; names of classes and slices come from users and are escaped.

    Args:
      result: The last result.
      earlier: Earlier results, the newest first.
    """
    page = build(result, earlier)
    return render_template("monitor.html.j2", "pipeline.monitoring", page=page, sections=page.sections())


def build(result: MonitorResult, earlier: Sequence[MonitorResult]) -> MonitorPage:
    """Builds the content of the page."""
    number = len(result.drifted)
    headline = f"Alarm: {number} {'test finds' if number == 1 else 'tests find'} drift" if result.alarm else "No drift"
    window = result.window
    return MonitorPage(
        result=result,
        headline=headline,
        created=_time(result.created),
        facts=[
            Fact("images", f"{window.images:,}", f"in {window.requests:,} requests"),
            Fact("reference", f"{result.reference_images:,}", f"{_sampled(result)}images of the test split"),
            Fact("with feedback", f"{window.labelled:,}", "images"),
            Fact("first request", _time(window.first), "UTC"),
            Fact("last request", _time(window.last), "UTC"),
        ],
        tests=_tests_table(result.tests, result.false_alarm_rate),
        quality=_quality_table(result.quality, result.quality_name) if result.quality else None,
        earlier=_windows_table(earlier) if earlier else None,
    )


def _sampled(result: MonitorResult) -> str:
    """Returns the number of images that the reference is a sample of; empty if it contains all."""
    sampled = result.split_images is not None and result.split_images > result.reference_images
    return f"of {result.split_images:,} " if sampled else ""


def _tests_table(tests: Sequence[DriftTest], rate: float) -> Table:
    rows = [
        [
            Cell(_TITLES[test.kind]),
            Cell(test.name or "all"),
            Cell("drift", tone="bad") if test.drift else Cell("no drift", tone="good"),
            Cell(_probability(test.adjusted_p_value), test.adjusted_p_value),
            tables.number(test.statistic, ".4g"),
            tables.number(_or_nan(test.reference), ".4g"),
            tables.number(_or_nan(test.window), ".4g"),
            Cell(test.method),
        ]
        for test in tests
    ]
    rows, caption = tables.at_most(
        rows, _MOST_TESTS, f"All tests, the smallest p-value first; drift if the corrected p-value is at most {rate:g}"
    )
    columns = [
        Column("Values"),
        Column("Name"),
        Column("Result"),
        Column("Corrected p", True, "p-value, multiplied by the number of tests"),
        Column("Statistic", True),
        Column("Mean, reference", True),
        Column("Mean, window", True),
        Column("Test"),
    ]
    return Table(caption, columns, rows)


def _quality_table(slices: Sequence[SliceQuality], name: str) -> Table:
    rows = [
        [
            Cell(each.slice),
            tables.count(each.images),
            tables.number(each.value, ".3f", note=tables.interval((each.low, each.high))),
            tables.number(
                _or_nan(each.reference),
                ".3f",
                note=tables.interval((_or_nan(each.reference_low), _or_nan(each.reference_high))),
            ),
            Cell("worse", tone="bad") if each.worse else Cell("not worse", tone="soft"),
        ]
        for each in slices
    ]
    columns = [
        Column("Slice"),
        Column("Images", True),
        Column("Window", True, "Mean and 95 % confidence interval"),
        Column("Reference", True, "Mean and 95 % confidence interval on the test split"),
        Column("Result"),
    ]
    return Table(f"Mean {name} of the images with feedback, the lowest first", columns, rows[1:], pinned=rows[:1])


def _windows_table(results: Sequence[MonitorResult]) -> Table:
    rows = [
        [
            Cell(_time(each.created), each.created),
            Cell(str(each.version)),
            Cell("alarm", tone="bad") if each.alarm else Cell("no drift", tone="good"),
            tables.count(each.window.images),
            Cell(_probability(each.tests[0].adjusted_p_value), each.tests[0].adjusted_p_value)
            if each.tests
            else tables.UNDEFINED,
            Cell(_names(each.drifted)),
        ]
        for each in results
    ]
    columns = [
        Column("Tested (UTC)"),
        Column("Version"),
        Column("Result"),
        Column("Images", True),
        Column("Smallest corrected p", True),
        Column("Drift"),
    ]
    return Table("Earlier windows, the newest first", columns, rows)


def _names(tests: Sequence[DriftTest]) -> str:
    names = [f"{test.kind} {test.name}".strip() for test in tests]
    return ", ".join(names[:4]) + (f" and {len(names) - 4} more" if len(names) > 4 else "")


def _probability(value: float) -> str:
    return f"{value:.3f}" if value >= 0.001 else f"{value:.1e}".replace("-", tables.MINUS)


def _or_nan(value: float | None) -> float:
    return math.nan if value is None else value


def _time(seconds: float) -> str:
    return datetime.datetime.fromtimestamp(seconds, datetime.UTC).strftime("%Y-%m-%d %H:%M:%S")
