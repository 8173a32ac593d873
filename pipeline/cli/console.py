"""Exit codes, consoles and error messages of all commands."""

from __future__ import annotations

from collections.abc import Mapping
from typing import IO, Any, NoReturn

import typer
from rich.console import Console

DONE, FAILED, BAD_USAGE, REFUSED = 0, 1, 2, 3


def wide_console(file: IO[str]) -> Console:
    """A console as wide as the terminal; without one, wide enough that nothing is cut."""
    return Console(file=file, width=None if file.isatty() else 120)


def print_line(console: Console, markup: str) -> None:
    """Prints a line that the terminal wraps, so that paths and messages can be copied."""
    console.print(markup, highlight=False, soft_wrap=True)


def print_error(console: Console, message: str) -> None:
    """Prints an error message, without a traceback."""
    print_line(console, f"[bold red]error:[/bold red] {escape(message)}")


def stop(console: Console, code: int, message: str) -> NoReturn:
    """Prints an error message and ends the command."""
    print_error(console, message)
    raise typer.Exit(code)


def escape(text: Any) -> str:
    """Escapes the markup of rich."""
    from rich.markup import escape as escape_markup

    return escape_markup(str(text))


def print_json(command: str, values: Mapping[str, Any]) -> None:
    """Prints the object of `--json` on standard output.

    Args:
      command: Name of the command; decides the schema.
      values: The keys of the object.
    """
    from pipeline.cli import json_output

    print(json_output.OUTPUTS[command].model_validate(values).as_text())
