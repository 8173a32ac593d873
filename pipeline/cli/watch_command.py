"""The command `watch`."""

from __future__ import annotations

import datetime
import re
import signal
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from pipeline.cli.console import BAD_USAGE, DONE, escape, print_line, stop
from pipeline.cli.errors import one_message
from pipeline.cli.options import AdoptOption, ConfigArgument, DataOption, OverridesOption, load_config

_UNITS_S = {"s": 1.0, "m": 60.0, "h": 3600.0, "d": 86_400.0}
_DURATION = re.compile(r"(\d+(?:\.\d+)?)([smhd])")


def watch(
    config: ConfigArgument,
    every: Annotated[
        str | None,
        typer.Option(metavar="TIME", help="Also start runs on a schedule: 30m, 24h, 7d.", show_default=False),
    ] = None,
    log: Annotated[
        str | None,
        typer.Option(
            metavar="PREFIX",
            help="Request log, of which feedback becomes labels after an alarm, and with which a model is compared "
            "before its push; default: requests/MODEL in the folder of the pipeline.",
            show_default=False,
        ),
    ] = None,
    monitor_dir: Annotated[
        Path | None,
        typer.Option(
            metavar="DIR",
            help="Output folder of `monitor`; default: monitor/ in the folder of the pipeline.",
            show_default=False,
        ),
    ] = None,
    min_labels: Annotated[
        int, typer.Option(min=1, help="Smallest number of images with feedback that become a span after an alarm.")
    ] = 20,
    max_changed: Annotated[
        float, typer.Option(min=0.0, max=1.0, help="Largest share of logged predictions that a new model may change.")
    ] = 1.0,
    submit: Annotated[
        str | None,
        typer.Option("--submit", metavar="URL", help="Run on Kubeflow Pipelines at this address.", show_default=False),
    ] = None,
    interval: Annotated[float, typer.Option(min=0.1, metavar="SECONDS", help="Time between two looks.")] = 60.0,
    once: Annotated[
        bool, typer.Option("--once", help="Look once, for cron; ends with the exit code of the run.")
    ] = False,
    data: DataOption = None,
    overrides: OverridesOption = None,
    adopt: AdoptOption = False,
) -> None:
    """Starts a run on a new span, on an alarm with labels, or on a schedule.

    A run on this machine compares its model with the served version on the newest logged requests before the push. The
    state survives restarts; one watcher per pipeline. Ctrl-C ends it.

    Exit codes: 0 ended, or nothing to do with --once; 1 failed, 2 bad usage or configuration, 3 a gate refused the run.
    """
    every_s = _seconds(every) if every is not None else None
    exit_code: int | None = None
    with one_message(lambda: loaded.run_dir):
        loaded = load_config(config, data, overrides)
        from pipeline.continuous.watcher import Watcher, WatchOptions
        from pipeline.execution.run_lock import watch_lock

        prefix = Path(log) if log is not None else loaded.request_log
        settings = [*(["--data", data] if data else []), *(f"--set={override}" for override in overrides or ())]
        settings += ["--adopt"] if adopt else []
        command = ["submit", config, "--host", submit, *settings]
        if submit is None:
            command = ["run", config, *settings, "--shadow", str(prefix), "--max-changed", str(max_changed)]
        options = WatchOptions(
            start=lambda: _run(command),
            log=prefix,
            monitor_dir=monitor_dir or loaded.monitor_dir,
            every_s=every_s,
            min_labels=min_labels,
            on_line=_log,
        )
        signal.signal(signal.SIGTERM, signal.default_int_handler)
        with watch_lock(loaded.run_dir):
            watcher = Watcher(loaded, options)
            try:
                if once:
                    exit_code = watcher.look()
                    if exit_code is None:
                        _log("nothing to do")
                else:
                    _log(f"watching {loaded.pipeline.name}, every {interval:g} s")
                    watcher.run(interval)
            except KeyboardInterrupt:
                _log("stopped")
    raise typer.Exit(DONE if exit_code is None else exit_code)


def _seconds(text: str) -> float:
    match = _DURATION.fullmatch(text)
    if match is None or not float(match[1]):
        stop(Console(stderr=True), BAD_USAGE, f"--every: {text} is not a time such as 30m, 24h or 7d.")
    return float(match[1]) * _UNITS_S[match[2]]


def _log(line: str) -> None:
    print_line(Console(stderr=True), f"{datetime.datetime.now():%Y-%m-%d %H:%M:%S} {escape(line)}")


def _run(arguments: Sequence[str | None]) -> int:
    """Runs a command of this program in a process of its own, which frees all memory when it ends."""
    command = [sys.executable, "-m", "pipeline", *map(str, arguments)]
    with subprocess.Popen(command) as process:
        try:
            return process.wait()
        except KeyboardInterrupt:
            process.send_signal(signal.SIGINT)
            raise
