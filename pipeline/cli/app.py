"""The tfx-vision command. TFX and TensorFlow are imported only inside the sub-command that needs them."""

from __future__ import annotations

import itertools
import json
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from pipeline.cli import client_commands, deployment_commands, history_commands
from pipeline.cli.console import BAD_USAGE, DONE, FAILED, escape, stop, wide_console
from pipeline.cli.errors import one_message
from pipeline.cli.options import ConfigArgument, DataOption, JsonOption, OverridesOption, load_config
from pipeline.config import loading
from pipeline.config.messages import ConfigError
from trainer_module.error_text import did_you_mean

app = typer.Typer(
    name="tfx-vision",
    help="Folders of images in; a validated, explained, served model out.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
    context_settings={"help_option_names": ["-h", "--help"]},
)


def main() -> None:
    """Entry point of the command."""
    app()


@app.command()
def run(
    config: ConfigArgument,
    data: DataOption = None,
    overrides: OverridesOption = None,
    from_node: Annotated[str | None, typer.Option("--from", metavar="NODE", help="First node to run.")] = None,
    to_node: Annotated[str | None, typer.Option("--to", metavar="NODE", help="Last node to run.")] = None,
    as_json: JsonOption = False,
    debug: Annotated[bool, typer.Option(help="Show the traceback of a failure.")] = False,
) -> None:
    """Runs the pipeline here: from a folder of pictures to a served model.

    A run that failed or was killed goes on where it stopped when the same command is given again.

    Exit codes: 0 done and pushed, 1 failed, 2 bad usage or configuration, 3 a gate refused the pictures or the
    model.
    """
    from pipeline.execution import dataset, local_run, log

    with one_message(
        lambda: loaded.run_dir, interrupted="Interrupted. The same command goes on where this one stopped."
    ):
        loaded = load_config(config, data, overrides)
        _check_nodes(from_node, to_node, with_tuner=loaded.tuner.enabled)
        local_run.refuse_several_machines(loaded)
        with local_run.only_run(loaded.run_dir):
            layout = dataset.prepare(loaded)
            from pipeline.cli import run_output

            with log.quiet_output(loaded.log_path) as (out, err):
                console = wide_console(err)
                run_output.start(console, loaded, layout)
                with run_output.Progress(console) as progress:
                    outcome = local_run.execute(
                        loaded, layout, from_node=from_node, to_node=to_node, on_node=progress.on_node
                    )
                run_output.summary(console, outcome, loaded)
                if debug and outcome.error:
                    import traceback

                    traceback.print_exception(outcome.error[1], file=err)
                if as_json:
                    out.write(json.dumps(outcome.as_json(), ensure_ascii=False, allow_nan=False) + "\n")
    raise typer.Exit(outcome.exit_code)


app.command("compile")(deployment_commands.compile_)
app.command()(deployment_commands.submit)


@app.command()
def serve(
    model_base_path: Annotated[
        Path | None, typer.Option(help="Folder of numbered versions, as Pusher writes them.", show_default=False)
    ] = None,
    model_name: Annotated[str, typer.Option(help="The name that clients ask for.")] = "digits",
    model_config_file: Annotated[
        Path | None, typer.Option(help="Several models: TF Serving's ModelServerConfig, as text.", show_default=False)
    ] = None,
    port: Annotated[int, typer.Option(min=0, max=65535, help="For gRPC; 0 takes a free one.")] = 8500,
    rest_api_port: Annotated[int, typer.Option(min=0, max=65535, help="For REST; 0 takes a free one.")] = 8501,
    host: Annotated[str, typer.Option(help="Address to listen on.")] = "127.0.0.1",
    enable_batching: Annotated[
        bool, typer.Option("--enable-batching", help="Requests share runs of the model.")
    ] = False,
    batching_parameters_file: Annotated[
        Path | None, typer.Option(help="TF Serving's BatchingParameters, as text.", show_default=False)
    ] = None,
    monitoring: Annotated[
        bool, typer.Option("--monitoring", help="Show metrics at /monitoring/prometheus/metrics.")
    ] = False,
    max_request_mb: Annotated[int, typer.Option(min=1, max=2047, help="Of one request.")] = 64,
    max_pixels: Annotated[int, typer.Option(min=1, help="Of one picture, by its header.")] = 100_000_000,
) -> None:
    """Answers TF Serving's gRPC and REST calls, without docker; `tensorflow_model_server` takes TF Serving's flags."""
    import os

    stderr = Console(stderr=True)
    if (model_base_path is None) == (model_config_file is None):
        stop(stderr, BAD_USAGE, "Give either --model-base-path or --model-config-file.")
    if model_base_path is not None and not model_base_path.is_dir():
        stop(stderr, BAD_USAGE, f"--model-base-path: {model_base_path} is not a folder. A finished run names it.")
    if batching_parameters_file is not None and not enable_batching:
        stop(stderr, BAD_USAGE, "--batching-parameters-file is without effect unless --enable-batching is given.")
    from pipeline.execution.log import quiet_output

    # TensorFlow greets at length when it starts and when it loads; what goes wrong comes as an exception.
    with quiet_output(Path(os.devnull)) as (_, err):
        from serving.local_server import batching, command
        from serving.local_server import monitoring as metrics
        from serving.local_server.errors import RequestError
        from serving.local_server.servable import LoadOptions
        from serving.local_server.server import LocalServer, ServerStartError
        from serving.local_server.server_options import ServerOptions

        stderr = wide_console(err)

        def announce() -> None:
            names = ", ".join(
                f"{name} version {server.source.status(name)[0].number}" for name in server.source.names()
            )
            stderr.print(
                f"Serving {names}: gRPC {host}:{server.grpc_port}, REST http://{host}:{server.rest_port}"
                "  (Ctrl-C ends it)",
                soft_wrap=True,
            )

        try:
            parameters = None
            if enable_batching:
                parameters = batching.BatchingParameters()
                if batching_parameters_file is not None:
                    parameters = batching.from_file(batching_parameters_file)
            server = LocalServer(
                model_name,
                model_base_path.absolute() if model_base_path else None,
                port=port,
                rest_api_port=rest_api_port,
                host=host,
                options=ServerOptions(
                    model_config_file=model_config_file,
                    model_config_poll_s=5.0,
                    batching=parameters,
                    metrics_path=metrics.DEFAULT_PATH if monitoring else None,
                    max_request_bytes=max_request_mb * 2**20,
                    load=LoadOptions(max_pixels=max_pixels),
                ),
            )
            command.serve(
                server,
                announce,
                waiting=lambda: stderr.print(f"Waiting for a version in {model_base_path or model_config_file} ..."),
            )
        except ServerStartError as error:
            stop(stderr, FAILED, str(error))
        except RequestError as error:  # of the files that the options name
            stop(stderr, BAD_USAGE, error.message)


for command in (client_commands.predict, client_commands.segment, client_commands.explain, client_commands.similar):
    app.command()(command)


@app.command()
def augment(
    config: ConfigArgument,
    output: Annotated[Path, typer.Option(metavar="FILE.png", help="The sheet; an earlier one is replaced.")],
    data: DataOption = None,
    overrides: OverridesOption = None,
    num: Annotated[int, typer.Option(min=1, max=100, help="Pictures, each with seven samples.")] = 8,
) -> None:
    """Draws what augmentation does: some pictures, and beside each what training sees of it."""
    import contextlib
    import os

    from pipeline.execution import dataset, local_run, log
    from pipeline.preview import contact_sheet

    stderr = Console(stderr=True)
    if output.suffix.lower() != ".png":
        stop(stderr, BAD_USAGE, f"--output: {output} must end with .png.")
    if not output.parent.is_dir():
        stop(stderr, BAD_USAGE, f"--output: there is no folder {output.parent}. Create it first.")
    unusable: list[str] = []
    with one_message(lambda: output):
        loaded = load_config(config, data, overrides)
        generated = loaded.data.path is None
        with local_run.only_run(loaded.run_dir) if generated else contextlib.nullcontext():
            found = dataset.prepare(loaded)
        dataset.refuse_other_task(loaded, found, "Trainer")
        with log.quiet_output(Path(os.devnull)):
            sheet, count = contact_sheet.make(loaded, found, num, unusable.append)
        sheet.save(output, "PNG")
    for reason in unusable:
        stderr.print(f"[yellow]left out:[/yellow] {escape(reason)}", soft_wrap=True, highlight=False)
    print(f"{output}: {count} pictures, {contact_sheet.SAMPLES} samples of each")


app.command()(deployment_commands.deploy)


@app.command()
def model(
    config: ConfigArgument,
    data: Annotated[
        str | None, typer.Option(metavar="DIR", help="Pictures, for the number of classes; replaces data.path.")
    ] = None,
    overrides: OverridesOption = None,
    num_classes: Annotated[
        int | None, typer.Option(min=2, max=65536, help="Number of classes, whatever the data have.")
    ] = None,
    expand: Annotated[bool, typer.Option("--expand", help="Show the layers inside of a pre-trained base too.")] = False,
    as_json: JsonOption = False,
) -> None:
    """Shows the network of a configuration: its layers, parameters, multiply-adds and receptive field.

    Nothing is trained, and no pre-trained weights are needed.
    """
    import os

    from pipeline.execution.log import quiet_output

    with one_message():
        loaded = load_config(config, data, overrides, needs_data=False)
        # TensorFlow greets at length when it starts.
        with quiet_output(Path(os.devnull)) as (out, _):
            from pipeline.cli import network_output
            from pipeline.preview import network_summary

            found = network_summary.inspect(loaded, num_classes)
            if as_json:
                out.write(json.dumps(found.as_json(), ensure_ascii=False, allow_nan=False) + "\n")
            else:
                network_output.show(wide_console(out), found, expand=expand)


for command in (history_commands.report, history_commands.history, history_commands.compare, history_commands.rollback):
    app.command()(command)


@app.command()
def presets(as_json: JsonOption = False) -> None:
    """Lists the shipped configurations."""
    from rich.table import Table

    headers = {name: _header(loading.preset_text(name)) for name in loading.preset_names()}
    if as_json:
        print(json.dumps({"presets": headers}, ensure_ascii=False))
        return
    table = Table(box=None, padding=(0, 3, 1, 0), show_header=False)
    for name, header in headers.items():
        table.add_row(f"[bold]{name}[/bold]", header)
    Console().print(table)


@app.command()
def doctor(as_json: JsonOption = False) -> None:
    """Checks this machine and the installed packages."""
    from rich.table import Table

    from pipeline.cli import doctor as checks

    found = checks.examine()
    if as_json:
        print(json.dumps({"checks": [check._asdict() for check in found]}))
    else:
        table = Table(box=None, padding=(0, 2, 0, 0), show_header=False)
        for check in found:
            mark = "[green]ok[/green]" if check.passed else "[red]bad[/red]"
            table.add_row(mark, check.name, check.detail)
        Console().print(table)
    raise typer.Exit(DONE if all(check.passed for check in found) else FAILED)


def _check_nodes(from_node: str | None, to_node: str | None, *, with_tuner: bool) -> None:
    from pipeline.nodes import NODE_IDS, TUNER

    for option, node in (("--from", from_node), ("--to", to_node)):
        if node is not None and node not in NODE_IDS:
            suggestion = did_you_mean(node, NODE_IDS) or f". Nodes: {', '.join(NODE_IDS)}."
            raise ConfigError(f"{option}: unknown node `{node}`{suggestion}")
        if node == TUNER and not with_tuner:
            raise ConfigError(f"{option}: {TUNER} is switched off; --set tuner.enabled=true adds it.")
    if from_node and to_node and NODE_IDS.index(from_node) > NODE_IDS.index(to_node):
        raise ConfigError(f"--from {from_node} comes after --to {to_node}: nothing would run.")


def _header(text: str) -> str:
    # Comments further down are about single keys.
    lines = itertools.takewhile(lambda line: line.startswith("#"), text.splitlines())
    return "\n".join(line.removeprefix("#").strip() for line in lines)
