"""The command `monitor`."""

from __future__ import annotations

import datetime
import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import IO, TYPE_CHECKING, Annotated

import typer
from rich.console import Console

from pipeline.cli.console import BAD_USAGE, DONE, REFUSED, escape, print_line, stop, wide_console
from pipeline.cli.errors import one_message
from pipeline.cli.options import ConfigArgument, DataOption, JsonOption, OverridesOption, load_config

if TYPE_CHECKING:
    from pipeline.config.sections import PipelineConfig
    from pipeline.monitoring.outputs import Outputs
    from serving.monitor.result import MonitorResult

_SHOWN = 10


def monitor(
    config: ConfigArgument,
    log: Annotated[
        str | None,
        typer.Option(
            metavar="PREFIX", help="Request log, as of `serve`; default: requests/MODEL beside the artifacts."
        ),
    ] = None,
    reference: Annotated[
        str | None,
        typer.Option(
            metavar="DIR",
            help="Reference of the served version, local or remote; default: the one in ML Metadata.",
        ),
    ] = None,
    output_dir: Annotated[
        Path | None,
        typer.Option(
            metavar="DIR", help="Folder of monitor.html, monitor.json and monitor.prom; default: monitor/ there."
        ),
    ] = None,
    follow: Annotated[
        bool, typer.Option("--follow", help="Test the newest window whenever there is a new one, until Ctrl-C.")
    ] = False,
    interval_s: Annotated[float, typer.Option(min=0.1, help="With --follow: seconds between two looks.")] = 30.0,
    metrics_port: Annotated[
        int | None, typer.Option(min=1, max=65535, help="With --follow: serve Prometheus metrics at this port.")
    ] = None,
    data: DataOption = None,
    overrides: OverridesOption = None,
    as_json: JsonOption = False,
) -> None:
    """Compares the newest requests in the log with the test split, as the served version sees both.

    Tests pixels, embeddings, outputs, predicted classes and confidence, and with feedback the quality of predictions.

    Exit codes: 0 no drift, 1 failed, 2 bad usage or configuration, 3 an alarm.
    """
    from pipeline.execution.log import redirected_output

    if metrics_port is not None and not follow:
        stop(Console(stderr=True), BAD_USAGE, "--metrics-port requires --follow; without it, scrape monitor.prom.")
    with one_message(lambda: output_dir or loaded.run_dir):
        loaded = load_config(config, data, overrides, needs_data=False)
        with redirected_output(Path(os.devnull)) as (out, err):
            from pipeline.monitoring.outputs import Outputs

            outputs = Outputs(loaded, output_dir or loaded.monitor_dir)
            prefix = log or str(loaded.request_log)
            console, alarm = wide_console(err), False
            if metrics_port is not None:
                outputs.serve_metrics(metrics_port)
            results = (
                _follow(loaded, prefix, reference, interval_s, console) if follow else _once(loaded, prefix, reference)
            )
            try:
                for result, reference_uri in results:
                    alarm = result.alarm
                    for note in outputs.write(result, reference_uri):
                        print_line(console, f"[yellow]note:[/yellow] {escape(note)}")
                    _show(out, result, outputs, as_json)
            except KeyboardInterrupt:
                print_line(console, "Stopped.")
    raise typer.Exit(REFUSED if alarm else DONE)


def _once(config: PipelineConfig, log: str, reference: str | None) -> Iterator[tuple[MonitorResult, str]]:
    from pipeline.monitoring.monitor import Monitor, served_version

    monitored = Monitor(config, log, served_version(config), reference)
    yield monitored.run(), monitored.reference_uri


def _follow(
    config: PipelineConfig, log: str, reference: str | None, interval_s: float, console: Console
) -> Iterator[tuple[MonitorResult, str]]:
    """Yields the result of every window; waits for requests, for a model, and for a reference."""
    from pipeline.monitoring.following import results

    def waiting(reason: str) -> None:
        print_line(console, f"[dim]{datetime.datetime.now():%H:%M:%S} waiting: {escape(reason)}[/dim]")

    return results(config, log, reference, interval_s, waiting, time.sleep)


def _show(out: IO[str], result: MonitorResult, outputs: Outputs, as_json: bool) -> None:
    if as_json:
        from pipeline.cli import json_output

        output = json_output.monitor_output(result, str(outputs.page_path), str(outputs.metrics_path))
        out.write(output.as_text() + "\n")
        out.flush()
        return
    console, window = wide_console(out), result.window
    verdict = "[bold red]ALARM[/bold red]" if result.alarm else "[green]no drift[/green]"
    print_line(
        console,
        f"{verdict}: {window.images:,} images in {window.requests:,} requests to {escape(result.model)} version "
        f"{result.version}, {_clock(window.first)} to {_clock(window.last)}",
    )
    for test in result.drifted[:_SHOWN]:
        means = "" if test.reference is None else f", mean {test.reference:.4g} → {test.window:.4g}"
        print_line(
            console,
            f"  {test.kind:<11} {escape(test.name)} [dim]({test.method} {test.statistic:.3g}, corrected p "
            f"{test.adjusted_p_value:.1e}{means})[/dim]",
        )
    if len(result.drifted) > _SHOWN:
        print_line(console, f"  and {len(result.drifted) - _SHOWN} more")
    for each in result.quality[:1]:
        expected = "" if each.reference is None else f", {each.reference:.3f} on the test split"
        print_line(
            console,
            f"  {result.quality_name} {each.value:.3f} ({each.low:.3f} to {each.high:.3f}) of {each.images:,} images "
            f"with feedback{expected}",
        )
    for note in result.notes:
        print_line(console, f"  [dim]{escape(note)}[/dim]")
    print_line(console, escape(str(outputs.page_path)))


def _clock(seconds: float) -> str:
    return datetime.datetime.fromtimestamp(seconds).strftime("%Y-%m-%d %H:%M:%S")
