"""The `tfx-vision` command. TFX and TensorFlow are imported only by the sub-command that needs them."""

from __future__ import annotations

import typer

from pipeline.cli import (
    audit_command,
    client_commands,
    deployment_commands,
    gateway_command,
    history_commands,
    information_commands,
    labeling_commands,
    monitor_command,
    preview_commands,
    run_command,
    serve_command,
    studio_command,
    watch_command,
)

app = typer.Typer(
    name="tfx-vision",
    help="Folders of images in; a validated, explained, served model out.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
    context_settings={"help_option_names": ["-h", "--help"]},
)

# `--help` lists them in this order.
app.command()(run_command.run)
app.command("compile")(deployment_commands.compile_)
app.command()(deployment_commands.submit)
app.command()(serve_command.serve)
app.command()(gateway_command.gateway)
app.command()(client_commands.predict)
app.command()(client_commands.segment)
app.command()(client_commands.detect)
app.command()(client_commands.explain)
app.command()(client_commands.similar)
app.command()(monitor_command.monitor)
app.command()(audit_command.audit)
app.command()(studio_command.studio)
app.command()(labeling_commands.select)
app.command()(labeling_commands.label)
app.command()(watch_command.watch)
app.command()(preview_commands.augment)
app.command()(deployment_commands.deploy)
app.command()(preview_commands.model)
app.command()(history_commands.report)
app.command()(history_commands.history)
app.command()(history_commands.compare)
app.command()(history_commands.rollback)
app.command()(information_commands.presets)
app.command()(information_commands.schema)
app.command()(information_commands.doctor)


def main() -> None:
    """Entry point of the command."""
    app()
