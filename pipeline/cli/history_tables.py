"""What people see of the runs of a pipeline: the list, and two of them side by side."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from rich import box
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from components.evaluator import metric_names
from pipeline.history.run_history import Comparison, Difference, Differences, Run, when

_MOST_ROWS = 20
_SHORT = 6  # characters of a fingerprint, enough to see whether two are the same
_COLORS = {
    "pushed": "green",
    "rolled back": "yellow",
    "refused": "red",
    "failed": "red",
    "unfinished": "yellow",
    "stopped": "dim",
}


def show_runs(console: Console, runs: Sequence[Run]) -> None:
    """A line for every run, in the given order; of the data the number of pictures and the digest's beginning."""
    # Narrow gaps, so that the longest verdict stays on one line of a terminal of 80.
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, padding=(0, 0, 0, 1))
    metrics = {run.main_metric for run in runs if run.main_metric}
    name = metric_names.title(metrics.pop()) if len(metrics) == 1 else "figure"
    with_spans = any(run.span for run in runs)
    table.add_column("", justify="right", no_wrap=True)
    table.add_column("began", no_wrap=True)
    table.add_column("data", justify="right", no_wrap=True)
    if with_spans:
        table.add_column("span", justify="right", no_wrap=True)
    table.add_column(name, justify="right", no_wrap=True)
    table.add_column("verdict", overflow="fold")
    for run in runs:
        figure = _figure(run.main_value if run.evaluation else None)
        if metrics:  # of several tasks
            figure = f"{metric_names.title(run.main_metric)} {figure}" if run.main_metric else figure
        table.add_row(
            str(run.number),
            _when(run),
            f"{_count(run.examples)} {_fingerprint(run)}",
            *([_count(run.span)] if with_spans else []),
            figure,
            f"{_verdict(run)} {run.version or ''}".rstrip(),
        )
    console.print(table)


def show_comparison(console: Console, found: Comparison) -> None:
    """Two runs side by side: verdicts, figures, settings and pictures."""
    first, second = found.first, found.second
    _runs(console, first, second)
    if found.task is None and first.evaluation and second.evaluation:
        _line(console, "They are of two tasks: no figure of one compares with one of the other.")
    _figures(console, "Over all examples", "figure", found.metrics, first, second)
    if found.task is not None:
        leading = metric_names.LEADING[found.task]
        others = [name for name in metric_names.PER_CLASS[found.task] if name != leading]
        _rows(console, "Classes", "class", found.classes, (leading, others, metric_names.SUPPORT), first, second)
        main = metric_names.MAIN[found.task]
        _rows(console, "Slices", "slice", found.slices, (main, [], metric_names.EXAMPLES), first, second)
    _pairs(console, "Settings", "setting", found.settings, first, second)
    _pairs(console, "Pictures", "of the data", found.data, first, second)


def _runs(console: Console, first: Run, second: Run) -> None:
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    table.add_column("run", no_wrap=True)
    for run in (first, second):
        table.add_column(str(run.number), overflow="fold")
    for name, value in (
        ("began", _when),
        ("pictures", lambda run: _count(run.examples)),
        ("data", _fingerprint),
        ("verdict", _verdict),
        ("version", lambda run: str(run.version or "-")),
    ):
        table.add_row(name, value(first), value(second))
    console.print(table)
    for run in (first, second):
        if run.reasons:
            _line(console, f"[bold]Against {run.number}[/bold]")
        for reason in run.reasons[:_MOST_ROWS]:
            _line(console, f"  [red]✗[/red] {escape(reason)}")
        if len(run.reasons) > _MOST_ROWS:
            _line(console, f"  and {len(run.reasons) - _MOST_ROWS} more")
    if first.reasons or second.reasons:
        _line(console, "")


def _figures(console: Console, heading: str, kind: str, figures: Differences, first: Run, second: Run) -> None:
    if not figures:
        _line(console, "Neither run has figures that this version can read.")
        return
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    table.add_column(kind, overflow="fold")
    for title in (str(first.number), str(second.number), "change"):
        table.add_column(title, justify="right", no_wrap=True)
    for name, found in figures.items():
        count = found.higher_is_better is None
        shown = _count if count else _figure
        table.add_row(escape(metric_names.title(name)), shown(found.first), shown(found.second), _change(found))
    _line(console, f"[bold]{heading}[/bold]")
    console.print(table)


def _rows(
    console: Console,
    heading: str,
    kind: str,
    rows: Mapping[str, Differences],
    columns: tuple[str, Sequence[str], str],
    first: Run,
    second: Run,
) -> None:
    """The leading figure of both runs, and of the others the change."""
    if not rows:
        return
    leading, all_others, number = columns
    others = [name for name in all_others if any(name in figures for figures in rows.values())]
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    table.add_column(kind, overflow="fold")
    for title in (
        str(first.number),
        str(second.number),
        "change",
        *(metric_names.title(name) for name in others),
        metric_names.title(number),
    ):
        table.add_column(title, justify="right", no_wrap=True)
    missing = Difference(None, None, None)
    for name, figures in list(rows.items())[:_MOST_ROWS]:
        found, count = figures.get(leading, missing), figures.get(number, missing)
        counts = (
            _count(count.second) if count.first == count.second else f"{_count(count.first)}→{_count(count.second)}"
        )
        table.add_row(
            escape(name),
            _figure(found.first),
            _figure(found.second),
            _change(found),
            *(_change(figures.get(other, missing)) for other in others),
            counts,
        )
    also = f"; of {', '.join(map(metric_names.title, others))} the change" if others else ""
    _line(console, f"[bold]{heading}[/bold], {metric_names.title(leading)}, worst change first{also}")
    console.print(table)
    if len(rows) > _MOST_ROWS:
        _line(console, f"and {len(rows) - _MOST_ROWS} more; --json has all")


def _pairs(
    console: Console, heading: str, kind: str, pairs: Mapping[str, tuple[Any, Any]], first: Run, second: Run
) -> None:
    if not pairs:
        _line(console, f"[bold]{heading}[/bold]: the same, as far as both runs have kept them")
        return
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    table.add_column(kind, overflow="fold")
    for run in (first, second):
        table.add_column(str(run.number), overflow="fold")
    for key, values in list(pairs.items())[:_MOST_ROWS]:
        table.add_row(escape(key), *(escape(_value(key, value)) for value in values))
    _line(console, f"[bold]{heading}[/bold] that differ")
    console.print(table)
    if len(pairs) > _MOST_ROWS:
        _line(console, f"and {len(pairs) - _MOST_ROWS} more; --json has all")


def _change(found: Difference) -> str:
    if found.change is None:
        only = "first" if found.first is not None else "second" if found.second is not None else ""
        return f"[dim]only {only}[/dim]" if only else "-"
    if found.higher_is_better is None:
        return f"{found.change:+,.0f}" if found.change else "="
    if f"{found.change:.4f}" in ("0.0000", "-0.0000"):
        return "[dim]=[/dim]"
    color = "green" if found.is_better else "red"
    return f"[{color}]{found.change:+.4f}[/{color}]"


def _verdict(run: Run) -> str:
    color = _COLORS[run.verdict.status]
    return f"[{color}]{escape(str(run.verdict))}[/{color}]"


def _when(run: Run) -> str:
    return escape(when(run.id))


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


def _figure(value: float | None) -> str:
    return "-" if value is None or value != value else f"{value:.4f}"


def _line(console: Console, markup: str) -> None:
    console.print(markup, highlight=False, soft_wrap=True)
