"""The commands `select` and `label`."""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console

from pipeline.cli.client_commands import Server, UnknownModelError
from pipeline.cli.console import BAD_USAGE, FAILED, escape, print_line, stop, wide_console
from pipeline.cli.errors import one_message
from pipeline.cli.options import ConfigArgument, DataOption, JsonOption, OverridesOption, load_config, with_options
from trainer_module.error_text import first_line

if TYPE_CHECKING:
    from pipeline.config.sections import PipelineConfig
    from pipeline.labeling.predictors import Predictor
    from pipeline.labeling.selected_images import SelectedImages

_SHOWN = 10
_DAY_S = 86_400.0


@with_options(Server, "server")
def select(
    config: ConfigArgument,
    source: Annotated[
        str, typer.Option("--from", metavar="LOG|DIR", help="Prefix of a request log, or a folder of images.")
    ],
    num: Annotated[int, typer.Option("--num", min=1, metavar="N", help="Number of images.")],
    output_dir: Annotated[Path, typer.Option(metavar="DIR", help="New folder for the images and the tables.")],
    novel_share: Annotated[
        float, typer.Option(min=0.0, max=1.0, help="Largest share of images unlike all labelled ones.")
    ] = 0.2,
    days: Annotated[
        float | None, typer.Option(min=0.0, help="Of a log: only the requests of the last days.", show_default=False)
    ] = None,
    data: DataOption = None,
    overrides: OverridesOption = None,
    as_json: JsonOption = False,
    *,
    server: Server,
) -> None:
    """Selects the images whose labels would help the model most: uncertain, diverse and novel ones.

    Uses the newest pushed version, or a model server if --grpc or --rest is given. Writes the images, a table, and
    files for Label Studio and CVAT with the predictions as proposals. `tfx-vision label` reads the labels.
    """
    from pipeline.execution.log import redirected_output

    with one_message(lambda: output_dir), _one_line_for_servers():
        loaded = load_config(config, data, overrides)
        with redirected_output(Path(os.devnull)) as (out, err):
            from pipeline.labeling import candidates, selected_images

            console = wide_console(err)
            since = time.time() - days * _DAY_S if days is not None else 0.0
            read = candidates.source_of(source, server.model or loaded.model_name, since=since)
            predictor = _predictor(loaded, server)
            with console.status("loading the model") as status:
                result = selected_images.select(
                    loaded, read, predictor, num, output_dir, novel_share=novel_share, on_step=status.update
                )
            for name, reason in result.unusable[:_SHOWN]:
                print_line(console, f"[yellow]skipped:[/yellow] {escape(name)}: {escape(reason)}")
            if as_json:
                from pipeline.cli import json_output

                out.write(json_output.select_output(result, str(output_dir), predictor.description).as_text() + "\n")
            else:
                _show(wide_console(out), result, output_dir, predictor, config)


@contextlib.contextmanager
def _one_line_for_servers() -> Iterator[None]:
    """Ends the command with one message if the model server does not respond."""
    from serving.errors import ServerError

    stderr = Console(stderr=True)
    try:
        yield
    except ServerError as error:
        stop(stderr, FAILED, f"{error.code}: {first_line(error)}")
    except UnknownModelError as error:
        stop(stderr, BAD_USAGE, str(error))


def _predictor(config: PipelineConfig, server: Server) -> Predictor:
    from pipeline.config.messages import ConfigError
    from pipeline.labeling import predictors

    if not server.grpc and not server.rest:
        return predictors.pushed(config)
    try:
        return predictors.ServedModel(server.connect())
    except ValueError as error:
        raise ConfigError(str(error)) from None


def _show(console: Console, result: SelectedImages, output_dir: Path, predictor: Predictor, config: str) -> None:
    counts = result.selection
    print_line(
        console,
        f"[bold]{len(result.images):,} of {result.candidates:,} images[/bold], judged by "
        f"{escape(predictor.description)}",
    )
    print_line(
        console,
        f"  skipped: {counts.known:,} in the dataset already, {counts.repeated:,} repeated, "
        f"{counts.near_duplicates:,} near duplicates of selected ones",
    )
    from pipeline.labeling.formats.table import describe

    for image in result.images[:_SHOWN]:
        proposal = f"  {escape(describe(image.proposal))}" if image.proposal is not None else ""
        print_line(
            console,
            f"  {escape(image.path)}{proposal}  [dim]{image.reason}, uncertainty {image.uncertainty:.3f}, novelty "
            f"{image.novelty:.3f}[/dim]",
        )
    shown = f"{output_dir}/"
    print_line(
        console,
        f"{escape(shown)}: images/, {escape(', '.join(result.files))}. Label the images, then run "
        f"`tfx-vision label {escape(config)} FILE --images {escape(str(output_dir))}`.",
    )


def label(
    config: ConfigArgument,
    file: Annotated[
        Path,
        typer.Argument(
            metavar="FILE",
            help="Export of Label Studio (JSON) or CVAT (XML), or the table with a filled column `label`.",
        ),
    ],
    images: Annotated[
        Path | None,
        typer.Option(metavar="DIR", help="Folder of the images; default: the folder of FILE.", show_default=False),
    ] = None,
    fill_class: Annotated[
        str | None,
        typer.Option(metavar="CLASS", help="Class of the pixels that no region of a mask covers.", show_default=False),
    ] = None,
    fill_ignored: Annotated[
        bool,
        typer.Option("--fill-ignored", help="Pixels that no region of a mask covers are ignored (data.ignore_id)."),
    ] = False,
    new_classes: Annotated[
        bool, typer.Option("--new-classes", help="Accept classes that the dataset does not have yet.")
    ] = False,
    data: DataOption = None,
    overrides: OverridesOption = None,
    as_json: JsonOption = False,
) -> None:
    """Adds images that people have labelled to the dataset, as its next span.

    Only annotations count: predictions that nobody has confirmed are skipped, and listed.
    """
    from pipeline.execution.log import redirected_output

    stderr = Console(stderr=True)
    if not file.is_file():
        stop(stderr, BAD_USAGE, f"{file}: no such file.")
    folder = images or file.parent
    if not folder.is_dir():
        stop(stderr, BAD_USAGE, f"--images: {folder} is not a folder.")
    with one_message(lambda: file):
        loaded = load_config(config, data, overrides)
        with redirected_output(Path(os.devnull)) as (out, err):
            from pipeline.labeling import annotated_images, next_span

            dataset = next_span.whole_dataset(loaded)
            project = annotated_images.project_of(dataset, fill_class=fill_class, fills_ignored=fill_ignored)
            read = annotated_images.read(file, folder, project)
            console = wide_console(err)
            for name, reason in read.skipped[:_SHOWN]:
                print_line(console, f"[yellow]not used:[/yellow] {escape(name)}: {escape(reason)}")
            if len(read.skipped) > _SHOWN:
                print_line(console, f"[yellow]not used:[/yellow] {len(read.skipped) - _SHOWN:,} more")
            written = next_span.write(loaded, read.images, dataset=dataset, allow_new_classes=new_classes)
            if not written.is_read_with_others:
                print_line(
                    console,
                    f"[yellow]note:[/yellow] data.spans = newest: the next run trains on span {written.number} alone. "
                    "Set data.spans to all to train on all spans.",
                )
            if as_json:
                from pipeline.cli import json_output

                out.write(json_output.label_output(written, read.skipped).as_text() + "\n")
            else:
                known = f", {len(written.known):,} were in the dataset already" if written.known else ""
                print_line(
                    wide_console(out),
                    f"[bold]span {written.number}[/bold]: {written.images:,} images in {escape(written.path)}"
                    f"{known}, {len(read.skipped):,} not used",
                )
