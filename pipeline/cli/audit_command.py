"""The command `audit`."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console

from pipeline.cli.console import BAD_USAGE, escape, print_line, stop, wide_console
from pipeline.cli.errors import one_message
from pipeline.cli.options import JsonOption, OverridesOption, check_output, load_config

if TYPE_CHECKING:
    from components.data_audit.artifact import Audit

# Every dataset is read with the settings of this preset; only its images count, and no model of it is trained.
_PRESET = "images"
_SETTINGS = ("model.name=transfer", "transform.image_size=160", "transform.normalization=backbone")
_SHOWN = 10
_MOST_PAIRS = 5


def audit(
    data: Annotated[str, typer.Argument(metavar="DIR", help="Images: a folder, a manifest, or a path with {SPAN}.")],
    output: Annotated[Path, typer.Option(metavar="FILE.csv", help="Table of suspects; an existing one is replaced.")],
    model_dir: Annotated[
        str | None,
        typer.Option(
            "--model", metavar="DIR", help="Folder of a pushed model, whose embeddings replace the backbone's."
        ),
    ] = None,
    overrides: OverridesOption = None,
    as_json: JsonOption = False,
) -> None:
    """Finds wrong labels, outliers, near duplicates and ambiguous classes in a dataset.

    Changes nothing. Write an action (relabel, drop, keep) into the rows that you have reviewed, in one more column
    `action`, and set data.corrections to the table.
    """
    from pipeline.execution.log import redirected_output

    check_output(output, ".csv")
    if output.absolute().is_relative_to(Path(data).absolute()):
        stop(
            Console(stderr=True),
            BAD_USAGE,
            f"--output: {output} is in the data folder, where a table is read as labels. Write it elsewhere.",
        )
    with one_message(lambda: output):
        config = load_config(_PRESET, data, [*_SETTINGS, *(overrides or ())])
        with redirected_output(Path(os.devnull)) as (out, err):
            from components.data_audit.artifact import to_csv
            from pipeline.execution import dataset, dataset_audit

            console = wide_console(err)
            prepared = dataset.prepare(config)
            embed, source = dataset_audit.embedder(config, model_dir)
            unusable: list[str] = []
            with console.status(f"reading {len(prepared.entries):,} files"):
                result = dataset_audit.run(config, prepared, embed, source, unusable.append)
            output.write_text(to_csv(result.suspects), encoding="utf-8")
            for reason in unusable[:_SHOWN]:
                print_line(console, f"[yellow]skipped:[/yellow] {escape(reason)}")
            if as_json:
                out.write(_as_json(result, output, unusable) + "\n")
            else:
                _show(wide_console(out), result, output)


def _as_json(result: Audit, output: Path, unusable: list[str]) -> str:
    from pipeline.cli import json_output

    return json_output.audit_output(result, str(output), unusable).as_text()


def _show(console: Console, result: Audit, output: Path) -> None:
    from components.data_audit.artifact import by_image

    summary = result.summary
    print_line(console, f"[bold]{summary.images:,} images[/bold], embeddings of {escape(summary.source)}")
    if summary.agreement is not None:
        share = f"{summary.agreement:.1%} of the labels"
        print_line(console, f"a classifier that has not seen the image agrees with {share}")
    for reason, number in summary.reasons.items():
        print_line(console, f"  {number:6,} {reason}")
    for pair in summary.ambiguous[:_MOST_PAIRS]:
        names = escape(" and ".join(pair.classes))
        print_line(console, f"  ambiguous classes: {names}, {pair.images:,} images ({pair.share:.1%})")
    for suspect in by_image(result.suspects)[:_SHOWN]:
        proposal = f", proposed {suspect.proposed_label}" if suspect.proposed_label else ""
        print_line(
            console,
            f"  {suspect.score:.3f} {escape(suspect.filename)}  [dim]{escape(suspect.label)}{escape(proposal)} "
            f"({suspect.reason})[/dim]",
        )
    print_line(
        console,
        f"{escape(str(output))}: {len(result.suspects):,} rows. Review them, add a column `action` (relabel, drop or "
        "keep) and set data.corrections to the table.",
    )
