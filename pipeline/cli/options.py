"""Arguments and options that several commands have."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated

import typer
from rich.console import Console

from pipeline.cli.console import escape
from pipeline.config import loading
from pipeline.config.sections import PipelineConfig

ConfigArgument = Annotated[str, typer.Argument(help="A preset's name (see `presets`) or a TOML file.")]
DataOption = Annotated[
    str | None,
    typer.Option(metavar="DIR", help="Pictures: a folder, a manifest, a path with {SPAN}; replaces data.path."),
]
OverridesOption = Annotated[
    list[str] | None, typer.Option("--set", metavar="SECTION.KEY=VALUE", help="Replaces one value; repeatable.")
]
JsonOption = Annotated[bool, typer.Option("--json", help="Print one JSON object on standard output.")]


def load_config(
    config: str, data: str | None, overrides: Sequence[str] | None, *, needs_data: bool = True
) -> PipelineConfig:
    """Loads the configuration that the options name; prints a warning for every deprecated name.

    Raises:
      ConfigError: With all errors, one line each.
    """
    stderr = Console(stderr=True)

    def warn(message: str) -> None:
        stderr.print(f"[yellow]warning:[/yellow] {escape(message)}", soft_wrap=True, highlight=False)

    return loading.load(config, data=data, overrides=overrides or (), needs_data=needs_data, warn=warn)
