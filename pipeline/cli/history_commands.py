"""The commands about runs that have been: report, history, compare, rollback. They read files, and start at once."""

from __future__ import annotations

import sys
from typing import Annotated

import typer
from rich.console import Console

from pipeline.cli.console import FAILED, escape, print_json, stop, wide_console
from pipeline.cli.errors import one_message
from pipeline.cli.options import ConfigArgument, DataOption, JsonOption, OverridesOption, load_config
from pipeline.config.messages import ConfigError

RunArgument = Annotated[
    str, typer.Argument(metavar="RUN", help="A number of `history`, `last`, `last-1`, a version, or an id.")
]


def report(config: ConfigArgument, data: DataOption = None, overrides: OverridesOption = None) -> None:
    """Prints where the last run's report is: one HTML file that says all that is known of the model."""
    stderr = Console(stderr=True)
    with one_message():
        loaded = load_config(config, data, overrides, needs_data=False)
    path = loaded.report_path
    if not path.is_file():
        stop(stderr, FAILED, f"There is no {path}: no run of this configuration has come as far as ModelReport yet.")
    print(path)
    from pipeline.history import run_history as runs

    try:
        note = runs.read(loaded).not_in_the_report()
    except ConfigError as error:
        note = f"which run the report is of is not known: {error}"
    if note:
        stderr.print(f"[yellow]note:[/yellow] {escape(note)}", soft_wrap=True, highlight=False)


def history(
    config: ConfigArgument,
    data: DataOption = None,
    overrides: OverridesOption = None,
    num: Annotated[int, typer.Option(min=1, help="How many runs to show, the newest ones.")] = 20,
    as_json: JsonOption = False,
) -> None:
    """Lists the runs of a pipeline, newest first: when, data, figure, verdict, version."""
    with one_message():
        loaded = load_config(config, data, overrides, needs_data=False)
        from pipeline.history import run_history as runs

        found = runs.read(loaded).newest(num)
    if as_json:
        from pipeline.cli import json_output

        print(json_output.HistoryOutput(runs=[json_output.history_run(run) for run in found]).as_text())
        return
    from pipeline.cli import history_tables

    history_tables.show_runs(wide_console(sys.stdout), found)


def compare(
    config: ConfigArgument,
    first: RunArgument,
    second: RunArgument,
    data: DataOption = None,
    overrides: OverridesOption = None,
    as_json: JsonOption = False,
) -> None:
    """Shows two runs side by side: figures per class and slice, settings, data and verdicts.

    A run is its number in `history`, `last`, `last-1` and so on, a pushed version, or the beginning of its id.
    """
    with one_message():
        loaded = load_config(config, data, overrides, needs_data=False)
        from pipeline.history import run_history as runs

        known = runs.read(loaded)
        found = runs.compare(known.find(first), known.find(second))
    if as_json:
        from pipeline.cli import json_output

        print(json_output.compare_output(found).as_text())
        return
    from pipeline.cli import history_tables

    history_tables.show_comparison(wide_console(sys.stdout), found)


def rollback(
    config: ConfigArgument,
    to: Annotated[int | None, typer.Option(min=0, help="The version; the one before the newest when absent.")] = None,
    data: DataOption = None,
    overrides: OverridesOption = None,
    as_json: JsonOption = False,
) -> None:
    """Makes an earlier version the newest that model servers see; the newer ones are put aside, and can come back.

    A model that was rolled back is no longer the one that a new model has to beat, and the same configuration does not
    push it again.
    """
    from trainer_module import model_versions

    with one_message(lambda: loaded.model_base_path):
        loaded = load_config(config, data, overrides, needs_data=False)
        found = model_versions.roll_back(loaded.model_base_path, to)
    if as_json:
        print_json("rollback", {"base_path": loaded.model_base_path, **found._asdict()})
        return
    aside = f"; put aside: {', '.join(map(str, found.withdrawn))}" if found.withdrawn else ""
    text = f"Version {found.served[0]} is the newest in {escape(loaded.model_base_path)}{aside}."
    wide_console(sys.stdout).print(f"{text} Model servers change over by themselves.", soft_wrap=True, highlight=False)
