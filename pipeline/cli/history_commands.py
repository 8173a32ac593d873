"""The commands about past runs: report, history, compare, rollback. They do not import TensorFlow."""

from __future__ import annotations

import sys
from typing import Annotated

import typer
from rich.console import Console

from pipeline.cli.console import FAILED, escape, print_json, print_line, stop, wide_console
from pipeline.cli.errors import one_message
from pipeline.cli.options import ConfigArgument, DataOption, JsonOption, OverridesOption, load_config

RunArgument = Annotated[
    str, typer.Argument(metavar="RUN", help="Number in `history`, `last`, `last-1`, a version, or an id.")
]


def report(config: ConfigArgument, data: DataOption = None, overrides: OverridesOption = None) -> None:
    """Prints the path of the last run's report: one HTML file about the model."""
    stderr = Console(stderr=True)
    with one_message():
        loaded = load_config(config, data, overrides, needs_data=False)
    path = loaded.report_path
    if not path.is_file():
        stop(stderr, FAILED, f"{path} does not exist: no run of this configuration has reached ModelReport yet.")
    print(path)
    from pipeline.config.messages import ConfigError
    from pipeline.history import run_history

    try:
        note = run_history.read(loaded).outdated_report_note()
    except ConfigError as error:
        note = f"cannot determine the run of this report: {error}"
    if note:
        print_line(stderr, f"[yellow]note:[/yellow] {escape(note)}")


def history(
    config: ConfigArgument,
    data: DataOption = None,
    overrides: OverridesOption = None,
    num: Annotated[int, typer.Option(min=1, help="Number of runs, the newest first.")] = 20,
    as_json: JsonOption = False,
) -> None:
    """Lists the runs of a pipeline, newest first: time, data, metric, verdict, version."""
    with one_message():
        loaded = load_config(config, data, overrides, needs_data=False)
        from pipeline.history import run_history

        runs = run_history.read(loaded).newest(num)
    if as_json:
        from pipeline.cli import json_output

        print(json_output.HistoryOutput(runs=[json_output.history_run(run) for run in runs]).as_text())
        return
    from pipeline.cli import history_tables

    history_tables.show_runs(wide_console(sys.stdout), runs)


def compare(
    config: ConfigArgument,
    first: RunArgument,
    second: RunArgument,
    data: DataOption = None,
    overrides: OverridesOption = None,
    as_json: JsonOption = False,
) -> None:
    """Compares two runs: metrics per class and slice, settings, data and verdicts.

    RUN is a number in `history`, `last`, `last-1` and so on, a pushed version, or the start of an id.
    """
    with one_message():
        loaded = load_config(config, data, overrides, needs_data=False)
        from pipeline.history import comparison, run_history

        runs = run_history.read(loaded)
        compared = comparison.compare(runs.find(first), runs.find(second))
    if as_json:
        from pipeline.cli import json_output

        print(json_output.compare_output(compared).as_text())
        return
    from pipeline.cli import history_tables

    history_tables.show_comparison(wide_console(sys.stdout), compared)


def rollback(
    config: ConfigArgument,
    to: Annotated[int | None, typer.Option(min=0, help="Version; default: the one before the newest.")] = None,
    data: DataOption = None,
    overrides: OverridesOption = None,
    as_json: JsonOption = False,
) -> None:
    """Makes an earlier version the newest that model servers see; withdraws the newer ones, which can be restored.

    A withdrawn model is no longer the baseline of new models, and the same configuration does not push it again.
    """
    from trainer_module import model_versions

    with one_message(lambda: loaded.model_base_path):
        loaded = load_config(config, data, overrides, needs_data=False)
        versions = model_versions.roll_back(loaded.model_base_path, to)
    if as_json:
        print_json("rollback", {"base_path": loaded.model_base_path, **versions._asdict()})
        return
    withdrawn = f"; withdrawn: {', '.join(map(str, versions.withdrawn))}" if versions.withdrawn else ""
    text = f"Version {versions.served[0]} is the newest in {escape(loaded.model_base_path)}{withdrawn}."
    print_line(wide_console(sys.stdout), f"{text} Model servers switch to it by themselves.")
