"""The commands that show the effect of a configuration without a run: augment, model."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from pipeline.cli.console import escape, print_line, wide_console
from pipeline.cli.errors import one_message
from pipeline.cli.options import ConfigArgument, DataOption, JsonOption, OverridesOption, check_output, load_config


def augment(
    config: ConfigArgument,
    output: Annotated[Path, typer.Option(metavar="FILE.png", help="Output file; an existing one is replaced.")],
    data: DataOption = None,
    overrides: OverridesOption = None,
    num: Annotated[int, typer.Option(min=1, max=100, help="Number of images; each has seven samples.")] = 8,
) -> None:
    """Draws a contact sheet of augmentation: images, and next to each some augmented samples."""
    import os

    from pipeline.execution import local_run, log
    from pipeline.preview import contact_sheet

    check_output(output, ".png")
    unusable: list[str] = []
    with one_message(lambda: output):
        loaded = load_config(config, data, overrides)
        dataset = local_run.prepare_training_data(loaded)
        with log.redirected_output(Path(os.devnull)):
            sheet, count = contact_sheet.make(loaded, dataset, num, unusable.append)
        sheet.save(output, "PNG")
    stderr = Console(stderr=True)
    for reason in unusable:
        print_line(stderr, f"[yellow]skipped:[/yellow] {escape(reason)}")
    print(f"{output}: {count} images, {contact_sheet.SAMPLES} samples of each")


def model(
    config: ConfigArgument,
    data: Annotated[
        str | None, typer.Option(metavar="DIR", help="Images, for the number of classes; replaces data.path.")
    ] = None,
    overrides: OverridesOption = None,
    num_classes: Annotated[
        int | None, typer.Option(min=2, max=65536, help="Number of classes; replaces that of the dataset.")
    ] = None,
    expand: Annotated[bool, typer.Option("--expand", help="Show the layers of the backbone too.")] = False,
    as_json: JsonOption = False,
) -> None:
    """Shows the network of a configuration: layers, parameters, multiply-adds and receptive field.

    Trains nothing, and needs no pre-trained weights.
    """
    import os

    from pipeline.execution.log import redirected_output

    with one_message():
        loaded = load_config(config, data, overrides, needs_data=False)
        # TensorFlow prints much when it starts.
        with redirected_output(Path(os.devnull)) as (out, _):
            from pipeline.cli import network_table
            from pipeline.preview import network_summary

            inspection = network_summary.inspect(loaded, num_classes)
            if as_json:
                from pipeline.cli import json_output

                out.write(json_output.model_output(inspection).as_text() + "\n")
            else:
                network_table.show(wide_console(out), inspection, expand=expand)
