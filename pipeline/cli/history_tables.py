"""Prints the run history and the comparison of two runs."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from rich import box
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from pipeline.cli.console import print_line
from pipeline.history.comparison import Comparison, Difference, Differences
from pipeline.history.run_history import Run, start_time
from trainer_module.evaluation.spec import MetricSpec

_MOST_ROWS = 20
_SHORT = 6  # characters of a fingerprint: enough to distinguish datasets
_COLORS = {
    "pushed": "green",
    "rolled back": "yellow",
    "refused": "red",
    "failed": "red",
    "unfinished": "yellow",
    "stopped": "dim",
}


def show_runs(console: Console, runs: Sequence[Run]) -> None:
    """Prints a line per run, in the given order."""
    # Narrow gaps: the longest verdict fits on one line of a terminal of 80 columns.
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, padding=(0, 0, 0, 1))
    titles = {run.main_metric.title for run in runs if run.main_metric}
    name = titles.pop() if len(titles) == 1 else "metric"
    with_spans = any(run.span for run in runs)
    table.add_column("", justify="right", no_wrap=True)
    table.add_column("began", no_wrap=True)
    table.add_column("data", justify="right", no_wrap=True)
    if with_spans:
        table.add_column("span", justify="right", no_wrap=True)
    table.add_column(name, justify="right", no_wrap=True)
    table.add_column("verdict", overflow="fold")
    for run in runs:
        value = _value_text(run.main_value if run.evaluation else None)
        if titles and run.main_metric:  # the tasks of the runs differ
            value = f"{run.main_metric.title} {value}"
        table.add_row(
            str(run.number),
            _start(run),
            f"{_count(run.examples)} {_fingerprint(run)}",
            *([_count(run.span)] if with_spans else []),
            value,
            f"{_verdict(run)} {run.version or ''}".rstrip(),
        )
    console.print(table)


def show_comparison(console: Console, comparison: Comparison) -> None:
    """Prints two runs side by side: verdicts, metrics, settings and images."""
    first, second, evaluation = comparison.first, comparison.second, comparison.evaluation
    _runs(console, first, second)
    if evaluation is None and first.evaluation and second.evaluation:
        print_line(console, "The tasks of the two runs differ: their metrics cannot be compared.")
    _metrics(console, comparison)
    if evaluation is not None:
        main = evaluation.main_class_metric
        others = [metric for metric in evaluation.class_metrics if metric != main]
        _rows(
            console,
            "Classes",
            "class",
            comparison.classes,
            [main, *others],
            ("support", evaluation.count_unit),
            comparison,
        )
        _rows(
            console,
            "Slices",
            "slice",
            comparison.slices,
            [evaluation.main_metric],
            ("examples", "examples"),
            comparison,
        )
    _pairs(console, "Settings", "setting", comparison.settings, first, second)
    _pairs(console, "Images", "of the dataset", comparison.data, first, second)


def _runs(console: Console, first: Run, second: Run) -> None:
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    table.add_column("run", no_wrap=True)
    for run in (first, second):
        table.add_column(str(run.number), overflow="fold")
    for name, value in (
        ("began", _start),
        ("images", lambda run: _count(run.examples)),
        ("data", _fingerprint),
        ("verdict", _verdict),
        ("version", lambda run: str(run.version or "-")),
    ):
        table.add_row(name, value(first), value(second))
    console.print(table)
    for run in (first, second):
        if run.reasons:
            print_line(console, f"[bold]Reasons against {run.number}[/bold]")
        for reason in run.reasons[:_MOST_ROWS]:
            print_line(console, f"  [red]✗[/red] {escape(reason)}")
        if len(run.reasons) > _MOST_ROWS:
            print_line(console, f"  and {len(run.reasons) - _MOST_ROWS} more")
    if first.reasons or second.reasons:
        print_line(console, "")


def _metrics(console: Console, comparison: Comparison) -> None:
    if not comparison.metrics:
        print_line(console, "Neither run has an evaluation that this version can read.")
        return
    table = _table("metric", comparison)
    for name, entry in comparison.metrics.items():
        shown = _value_text if entry.metric else _count
        title = entry.metric.title if entry.metric else name
        table.add_row(escape(title), shown(entry.first), shown(entry.second), _change(entry))
    print_line(console, "[bold]All examples[/bold]")
    console.print(table)


def _rows(
    console: Console,
    heading: str,
    kind: str,
    rows: Mapping[str, Differences],
    metrics: Sequence[MetricSpec],
    count: tuple[str, str],
    comparison: Comparison,
) -> None:
    """Prints both values of the first metric, the changes of the others, and a count (key and title)."""
    if not rows:
        return
    main, *others = metrics
    count_key, count_title = count
    missing = Difference(None, None)
    table = _table(kind, comparison, *(metric.title for metric in others), count_title)
    for name, row in list(rows.items())[:_MOST_ROWS]:
        value, number = row.get(main.name, missing), row.get(count_key, missing)
        numbers = [_count(number.first), _count(number.second)]
        table.add_row(
            escape(name),
            _value_text(value.first),
            _value_text(value.second),
            _change(value),
            *(_change(row.get(other.name, missing)) for other in others),
            "→".join(dict.fromkeys(numbers)),
        )
    also = f"; change of {', '.join(metric.title for metric in others)}" if others else ""
    print_line(console, f"[bold]{heading}[/bold], {main.title}, worst change first{also}")
    console.print(table)
    if len(rows) > _MOST_ROWS:
        print_line(console, f"and {len(rows) - _MOST_ROWS} more; --json lists all")


def _table(kind: str, comparison: Comparison, *more: str) -> Table:
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    table.add_column(kind, overflow="fold")
    for title in (str(comparison.first.number), str(comparison.second.number), "change", *more):
        table.add_column(title, justify="right", no_wrap=True)
    return table


def _pairs(
    console: Console, heading: str, kind: str, pairs: Mapping[str, tuple[Any, Any]], first: Run, second: Run
) -> None:
    if not pairs:
        print_line(console, f"[bold]{heading}[/bold]: no differences in the values that both runs stored")
        return
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    table.add_column(kind, overflow="fold")
    for run in (first, second):
        table.add_column(str(run.number), overflow="fold")
    for key, values in list(pairs.items())[:_MOST_ROWS]:
        table.add_row(escape(key), *(escape(_value(key, value)) for value in values))
    print_line(console, f"[bold]{heading}[/bold] that differ")
    console.print(table)
    if len(pairs) > _MOST_ROWS:
        print_line(console, f"and {len(pairs) - _MOST_ROWS} more; --json lists all")


def _change(entry: Difference) -> str:
    if entry.change is None:
        only = "first" if entry.first is not None else "second" if entry.second is not None else ""
        return f"[dim]only {only}[/dim]" if only else "-"
    if entry.metric is None:
        return f"{entry.change:+,.0f}" if entry.change else "="
    if f"{entry.change:.4f}" in ("0.0000", "-0.0000"):
        return "[dim]=[/dim]"
    color = "green" if entry.is_better else "red"
    return f"[{color}]{entry.change:+.4f}[/{color}]"


def _verdict(run: Run) -> str:
    color = _COLORS[run.verdict.status]
    return f"[{color}]{escape(str(run.verdict))}[/{color}]"


def _start(run: Run) -> str:
    return escape(start_time(run.id))


def _fingerprint(run: Run) -> str:
    return escape((run.fingerprint or "-")[:_SHORT])


def _value(key: str, value: Any) -> str:
    if value is None:
        return "-"
    if key == "fingerprint":
        return str(value)[:_SHORT]
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


def _count(value: float | None) -> str:
    return "-" if value is None else f"{value:,.0f}"


def _value_text(value: float | None) -> str:
    return "-" if value is None or value != value else f"{value:.4f}"
