"""Arguments and options that several commands have."""

from __future__ import annotations

from typing import Annotated

import typer

ConfigArgument = Annotated[str, typer.Argument(help="A preset's name (see `presets`) or a TOML file.")]
DataOption = Annotated[
    str | None,
    typer.Option(metavar="DIR", help="Pictures: a folder, a manifest, a path with {SPAN}; replaces data.path."),
]
OverridesOption = Annotated[
    list[str] | None, typer.Option("--set", metavar="SECTION.KEY=VALUE", help="Replaces one value; repeatable.")
]
JsonOption = Annotated[bool, typer.Option("--json", help="Print one JSON object on standard output.")]
