"""The commands about the installation: presets, schema, doctor."""

from __future__ import annotations

import itertools
from importlib import resources
from typing import Annotated

import typer
from rich.console import Console

from pipeline.cli.console import BAD_USAGE, DONE, FAILED, print_json, stop
from pipeline.cli.options import JsonOption
from trainer_module.error_text import did_you_mean

SCHEMA_SUFFIX = ".schema.json"


def presets(as_json: JsonOption = False) -> None:
    """Lists the shipped configurations."""
    from rich.table import Table

    from pipeline.config import loading

    headers = {name: _header(loading.preset_text(name)) for name in loading.preset_names()}
    if as_json:
        print_json("presets", {"presets": headers})
        return
    table = Table(box=None, padding=(0, 3, 1, 0), show_header=False)
    for name, header in headers.items():
        table.add_row(f"[bold]{name}[/bold]", header)
    Console().print(table)


def schema(
    command: Annotated[str | None, typer.Argument(metavar="[COMMAND]", help="A command with --json.")] = None,
) -> None:
    """Prints the JSON schema of the output of COMMAND with --json; without COMMAND, lists the commands."""
    shipped = resources.files("pipeline.cli") / "schemas"
    names = sorted(entry.name.removesuffix(SCHEMA_SUFFIX) for entry in shipped.iterdir())
    if command is None:
        print("\n".join(names))
    elif command not in names:
        suggestion = did_you_mean(command, names) or f". Commands: {', '.join(names)}."
        stop(Console(stderr=True), BAD_USAGE, f"`{command}` has no --json{suggestion}")
    else:
        print((shipped / f"{command}{SCHEMA_SUFFIX}").read_text(encoding="utf-8"), end="")


def doctor(as_json: JsonOption = False) -> None:
    """Checks this machine and the installed packages."""
    from rich.table import Table

    from pipeline.cli import machine_checks

    checks = machine_checks.run_all()
    if as_json:
        print_json("doctor", {"checks": [check._asdict() for check in checks]})
    else:
        table = Table(box=None, padding=(0, 2, 0, 0), show_header=False)
        for check in checks:
            mark = "[green]ok[/green]" if check.passed else "[red]bad[/red]"
            table.add_row(mark, check.name, check.detail)
        Console().print(table)
    raise typer.Exit(DONE if all(check.passed for check in checks) else FAILED)


def _header(text: str) -> str:
    # Later comments describe single keys.
    lines = itertools.takewhile(lambda line: line.startswith("#"), text.splitlines())
    return "\n".join(line.removeprefix("#").strip() for line in lines)
