"""Prints the progress and the results of a run."""

from __future__ import annotations

import logging
import math
from collections.abc import Sequence
from types import TracebackType
from typing import TYPE_CHECKING

from rich import box
from rich.console import Console
from rich.markup import escape
from rich.status import Status
from rich.table import Table

from components.evaluator.artifact import EvaluationResult
from components.image_example_gen import corrections, layouts, limits
from components.image_example_gen.dataset import Dataset
from components.image_example_gen.entries import RefusedFile
from pipeline.cli.console import print_line
from pipeline.config.sections import PipelineConfig
from trainer_module import features, tasks
from trainer_module.search_space import format_number

if TYPE_CHECKING:
    from pipeline.execution.node_runner import NodeResult
    from pipeline.execution.outcome import Outcome
    from pipeline.execution.results import Refusal, RunResult

_MARKS = {
    "complete": "[green]✓[/green]",
    "cached": "[cyan]●[/cyan]",
    "skipped": "[dim]·[/dim]",
    "refused": "[red]✗[/red]",
    "failed": "[red]✗[/red]",
}
_MOST_ROWS = 20
_MOST_CLASSES = 10  # names in the first line


def start(console: Console, config: PipelineConfig, dataset: Dataset) -> None:
    """Prints the task, the layout, the classes, the number of images and the notes about the dataset."""
    unit = "TFRecord files" if layouts.get(dataset.layout).entries_are_containers else "images"
    span = f" (span {dataset.span})" if dataset.span else ""
    shown = ", ".join(dataset.classes[:_MOST_CLASSES])
    rest = f" and {len(dataset.classes) - _MOST_CLASSES:,} more" if len(dataset.classes) > _MOST_CLASSES else ""
    console.print(
        f"[bold]{escape(config.pipeline.name)}[/bold]  task {config.task.name}, layout {dataset.layout}, "
        f"{len(dataset.classes):,} classes: {escape(shown)}{rest}\n"
        f"  {len(dataset.entries):,} {unit}, {escape(config.data_location)}{span}",
        highlight=False,
        soft_wrap=True,
    )
    for note in dataset.notes:
        print_line(console, f"[yellow]note:[/yellow] {escape(note)}")


class Progress(logging.Handler):
    """Prints a line per finished node and, on a terminal, the progress of the running node."""

    def __init__(self, console: Console) -> None:
        """Prints to this console."""
        super().__init__(logging.INFO)
        self._console = console
        self._status: Status | None = console.status("importing TFX") if console.is_terminal else None
        self._node = ""

    def __enter__(self) -> Progress:
        logger = logging.getLogger(features.PROGRESS_LOGGER)
        logger.setLevel(logging.INFO)
        logger.addHandler(self)
        if self._status:
            self._status.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        logging.getLogger(features.PROGRESS_LOGGER).removeHandler(self)
        if self._status:
            self._status.stop()

    def emit(self, record: logging.LogRecord) -> None:
        """Shows a progress message of the running node."""
        if self._status:
            self._status.update(f"{self._node}  [dim]{escape(record.getMessage())}[/dim]")

    def on_node(self, result: NodeResult) -> None:
        """Shows that a node has started or finished."""
        if result.state == "running":
            self._node = result.id
            if self._status:
                self._status.update(result.id)
            return
        print_line(
            self._console,
            f"  {_MARKS[result.state]} {result.id:<18} {result.seconds:7.1f} s  [dim]{result.state}[/dim]",
        )


def summary(console: Console, outcome: Outcome, config: PipelineConfig) -> None:
    """Prints the results of a run."""
    result = outcome.result
    if result:
        _data(console, result)
        _tuning(console, result)
        if result.evaluation:
            _classes(console, result.evaluation)
            _slices(console, result.evaluation)
        _verdict(console, result)
        if result.pushed_version is not None and not outcome.error:
            base = f"--model-name {config.model_name} --model-base-path {config.model_base_path}"
            print_line(console, f"\nServe it:  tfx-vision serve {escape(base)}")
            command = tasks.get(config.task.name).export.command
            print_line(console, f"Query it:  tfx-vision {command} --model {config.model_name}")
    if outcome.refusal is not None:
        print_line(
            console, f"\n[bold red]ExampleValidator refused the images.[/bold red] {escape(str(outcome.refusal))}"
        )
        # The message of the refusal contains the other lines.
        refusals(console, [row for row in outcome.refusals if row.is_measured])
    else:
        refusals(console, outcome.refusals)
    if outcome.status == "refused":
        print_line(
            console,
            f"[bold]{'Pusher':<18}[/bold][red]nothing pushed[/red]; the previous version, if any, is still served",
        )
    if outcome.error:
        print_line(console, f"\n[bold red]{outcome.error[0]} failed:[/bold red] {escape(outcome.cause or '')}")
        print_line(
            console,
            f"Run the same command again to resume at this node. Full log: {escape(str(outcome.log_path))}; "
            "--debug shows the traceback.",
        )


def _data(console: Console, result: RunResult) -> None:
    if result.data is None:
        return
    splits = ", ".join(f"{counts.examples:,} {split}" for split, counts in result.data.splits.items())
    print_line(console, f"\n[bold]Images[/bold]  {result.data.examples:,} used ({splits})")
    if result.data.corrections:
        print_line(console, f"Corrected  {corrections.describe(result.data.corrections)}")
    for warning in result.data.warnings:
        print_line(console, f"[yellow]warning:[/yellow] {escape(warning)}")
    if result.quarantined:
        print_line(console, f"[yellow]{len(result.quarantined)} quarantined:[/yellow]")
        groups = limits.group_by_reason(RefusedFile(file.path, file.reason) for file in result.quarantined)
        for line in limits.describe_groups(groups).splitlines()[1:]:
            print_line(console, escape(line))
    _duplicates(console, result)
    _drift(console, result)


def _duplicates(console: Console, result: RunResult) -> None:
    """Prints a line per kind of duplicates; leakage across splits inflates the metrics."""
    duplicates = result.data.duplicates if result.data else {}
    for kind, counts in duplicates.items():
        if counts.groups:
            verb = "spans" if counts.leaking_groups == 1 else "span"
            leakage = f", [yellow]{counts.leaking_groups:,} of them {verb} several splits (leakage)[/yellow]"
            print_line(
                console,
                f"{counts.duplicates:,} {kind} duplicate{'' if counts.duplicates == 1 else 's'} in "
                f"{counts.groups:,} group{'' if counts.groups == 1 else 's'}"
                f"{leakage if counts.leaking_groups else ''}",
            )
    if any(counts.groups for counts in duplicates.values()):
        print_line(console, f"  [dim]{escape(result.duplicates or '')}[/dim]")


def _drift(console: Console, result: RunResult) -> None:
    if result.drift is None:
        return
    span, drifted, skewed = result.drift.previous_span, result.drift.drift, result.drift.skew or ()
    if span is not None and not drifted:
        print_line(console, f"[green]No drift[/green] from span {span}")
    for lines, heading in ((drifted, f"Drift from span {span}, accepted:"), (skewed, "The splits differ:")):
        if lines:
            print_line(console, f"[yellow]{heading}[/yellow]")
        for line in lines[:_MOST_ROWS]:
            print_line(console, f"  {escape(str(line))}")


def _tuning(console: Console, result: RunResult) -> None:
    if result.tuning is None:
        return
    tuning = result.tuning
    failed = f", {tuning['failed']} failed" if tuning["failed"] else ""
    print_line(
        console,
        f"\n[bold]Tuned[/bold] in {tuning['trials']} trials{failed}: {tuning['objective']} {tuning['value']:.4f} with",
    )
    for name, value in tuning["values"].items():
        print_line(console, f"  {name} = {format_number(value)}")
    print_line(console, f"  [dim]{escape(tuning['table'])}[/dim]")


def _classes(console: Console, evaluation: EvaluationResult) -> None:
    table = Table(box=box.SIMPLE_HEAD, title_justify="left", pad_edge=False)
    overall, metrics, main = evaluation.overall, evaluation.class_metrics, evaluation.main_class_metric
    for name in ("class", *(metric.title for metric in metrics), evaluation.count_unit):
        table.add_column(name, justify="left" if name == "class" else "right")
    ranked = sorted(evaluation.classes, key=lambda name: main.worst_first(overall.value(main.name, name)))
    for name in ranked[:_MOST_ROWS]:
        values = [_value(overall.value(metric.name, name)) for metric in metrics]
        table.add_row(escape(name), *values, f"{overall.support[name]:,}")
    if len(ranked) > _MOST_ROWS:
        table.caption = f"the {_MOST_ROWS} classes with the worst {main.title} of {len(ranked)}"
    table.add_section()
    means = [overall.value(metric.mean_metric) if metric.mean_metric else math.nan for metric in metrics]
    table.add_row("[bold]mean[/bold]", *map(_value, means), f"{sum(overall.support.values()):,}")
    print_line(console, f"\n[bold]Classes[/bold], worst {main.title} first")
    console.print(table)


def _slices(console: Console, evaluation: EvaluationResult) -> None:
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    overall, *others = evaluation.candidate
    metrics, main = evaluation.slice_columns, evaluation.main_metric
    for name in ("slice", *(metric.title for metric in metrics), "examples"):
        table.add_column(name, justify="left" if name == "slice" else "right")
    ranked = sorted(others, key=lambda row: main.worst_first(row.value(main.name)))
    for row in [overall, *ranked[:_MOST_ROWS]]:
        table.add_row(escape(row.name), *(_value(row.value(metric.name)) for metric in metrics), str(row.examples))
    print_line(console, f"[bold]Slices[/bold], worst {main.title} first")
    console.print(table)
    if len(ranked) > _MOST_ROWS:
        print_line(console, f"and {len(ranked) - _MOST_ROWS} more slices")


def _verdict(console: Console, result: RunResult) -> None:
    def print_verdict(node: str, text: str) -> None:
        print_line(console, f"[bold]{node:<18}[/bold]{text}")

    if result.gates is not None:
        if result.gates.has_baseline:
            against = "and compared with the last blessed model"
        else:
            against = f"({'not compared with the last' if result.gates.comparison else 'no earlier'} blessed model)"
        word = "[green]blessed[/green]" if result.blessed else "[red]refused[/red]"
        print_verdict("Evaluator", f"{word} by its rules and thresholds {against}")
        if result.gates.comparison:
            print_line(console, f"  [yellow]·[/yellow] {escape(result.gates.comparison)}")
        for gate in result.gates.rules:
            mark = {True: "[green]✓[/green]", False: "[red]✗[/red]", None: "[yellow]·[/yellow]"}[gate.passed]
            print_line(console, f"  {mark} {escape(f'{gate.name}: {gate.subject} {gate.detail}')}")
        for warning in result.gates.warnings:
            print_line(console, f"  [yellow]![/yellow] {escape(warning)}")
        for rule in result.not_compared[:_MOST_ROWS]:
            print_line(console, f"  [yellow]·[/yellow] {escape(rule.detail)}")
        if len(result.not_compared) > _MOST_ROWS:
            print_line(console, f"  [yellow]·[/yellow] and {len(result.not_compared) - _MOST_ROWS} more bounds")
    if result.servable is not None:
        word = "[green]validated[/green]" if result.servable else "[red]refused[/red]"
        passed = sum(check.passed for check in result.checks)
        print_verdict("ServingValidator", f"{word}: {passed} of {len(result.checks)} checks passed")
    if result.explanations:
        faithful = result.faithfulness is None or result.faithfulness.blessed
        word = "" if faithful else "[red]refused[/red]: the explanations are not faithful enough; "
        print_verdict("GradCam", f"{word}{result.num_explained} predictions explained: {escape(result.explanations)}")
    if result.pushed_version is not None:
        print_verdict(
            "Pusher", f"[green]pushed[/green] version {result.pushed_version}: {escape(result.serving_dir or '')}"
        )
    if result.audit:
        reasons = ", ".join(f"{number:,} {reason}" for reason, number in result.audit.reasons.items())
        print_verdict("DataAudit", f"to review: {reasons or 'nothing'}; {escape(result.suspects or '')}")
    if result.report:
        print_verdict("ModelReport", escape(result.report))


def refusals(console: Console, rows: Sequence[Refusal]) -> None:
    """Prints the failed checks: those with a value as a table, then the others, one per line."""
    measured = [row for row in rows if row.is_measured]
    if rows:
        print_line(console, "\n[bold red]Refused[/bold red]: failed checks")
    if measured:
        table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
        for name in ("gate", "metric", "class or slice"):
            table.add_column(name, overflow="fold")
        for name in ("value", "bound", "missed by"):
            table.add_column(name, justify="right", no_wrap=True)
        for row in measured[:_MOST_ROWS]:
            names = map(escape, (row.gate, row.metric, row.applies_to))
            table.add_row(*names, _number(row.value), f"{row.side} {_number(row.bound)}", _number(row.missed_by))
        console.print(table)
        if len(measured) > _MOST_ROWS:
            print_line(console, f"and {len(measured) - _MOST_ROWS} more")
    for row in rows:
        if not row.is_measured:
            print_line(console, f"  [red]✗[/red] {escape(row.text)}")


def _number(value: float | None) -> str:
    """Formats a number with four significant digits, or as an integer from 1000 on."""
    if value is None or math.isnan(value):
        return "-"
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.4g}"


def _value(value: float) -> str:
    return "-" if math.isnan(value) else f"{value:.4f}"
