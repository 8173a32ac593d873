"""Arguments and options of several commands."""

from __future__ import annotations

import functools
import inspect
import typing
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console

from pipeline.cli.console import BAD_USAGE, escape, print_line, stop

if typing.TYPE_CHECKING:
    from pipeline.config.sections import PipelineConfig

ConfigArgument = Annotated[str, typer.Argument(help="A preset's name (see `presets`) or a TOML file.")]
DataOption = Annotated[
    str | None,
    typer.Option(metavar="DIR", help="Images: a folder, a manifest, or a path with {SPAN}; replaces data.path."),
]
OverridesOption = Annotated[
    list[str] | None, typer.Option("--set", metavar="SECTION.KEY=VALUE", help="Replaces one setting; can be repeated.")
]
AdoptOption = Annotated[bool, typer.Option("--adopt", help="Continue the pipeline of this name with another dataset.")]
JsonOption = Annotated[bool, typer.Option("--json", help="Print one JSON object on standard output.")]

# Of the commands that listen.
PortOption = Annotated[int, typer.Option(min=0, max=65535, help="gRPC port; 0 takes a free one.")]
RestPortOption = Annotated[int, typer.Option(min=0, max=65535, help="REST port; 0 takes a free one.")]
HostOption = Annotated[str, typer.Option(help="Address to listen on.")]


def load_config(
    config: str, data: str | None, overrides: Sequence[str] | None, *, needs_data: bool = True
) -> PipelineConfig:
    """Loads the configuration that the options name; prints a warning for every deprecated name.

    Raises:
      ConfigError: With all errors, one line each.
    """
    from pipeline.config import loading

    stderr = Console(stderr=True)

    def warn(message: str) -> None:
        print_line(stderr, f"[yellow]warning:[/yellow] {escape(message)}")

    return loading.load(config, data=data, overrides=overrides or (), needs_data=needs_data, warn=warn)


def check_output(output: Path, *suffixes: str) -> None:
    """Ends the command, before it does any work, if `--output` cannot be a file with one of these suffixes."""
    stderr = Console(stderr=True)
    if output.suffix.lower() not in suffixes:
        stop(stderr, BAD_USAGE, f"--output: {output} must end with {suffixes[0]}.")
    if not output.parent.is_dir():
        stop(stderr, BAD_USAGE, f"--output: folder {output.parent} does not exist. Create it first.")


def with_options(options: type[Any], parameter: str) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Gives a command the fields of a dataclass as options, in place of one keyword parameter.

    Args:
      options: A dataclass whose fields are annotated as options.
      parameter: The parameter that receives an instance of it.
    """
    hints = typing.get_type_hints(options, include_extras=True)
    fields = [field.replace(annotation=hints[name]) for name, field in inspect.signature(options).parameters.items()]

    def decorate(command: Callable[..., None]) -> Callable[..., None]:
        @functools.wraps(command)
        def run(**arguments: Any) -> None:
            given = options(**{field.name: arguments.pop(field.name) for field in fields})
            command(**arguments, **{parameter: given})

        signature = inspect.signature(command, eval_str=True)
        own = [entry for name, entry in signature.parameters.items() if name != parameter]
        run.__signature__ = signature.replace(parameters=own + fields)  # type: ignore[attr-defined]
        return run

    return decorate


def read_token(token_file: Path | None) -> str | None:
    """Reads the token from a file: the command line of a process is visible to all users of a machine.

    Raises:
      ValueError: If the file cannot be read.
    """
    if token_file is None:
        return None
    try:
        return token_file.read_text().strip()
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or "not a text file"
        raise ValueError(f"--token-file: {token_file}: {reason}") from None
