"""The tfx-vision command. TFX and TensorFlow are imported only inside the sub-command that needs them."""

from __future__ import annotations

import itertools
import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import IO, TYPE_CHECKING, Annotated, Any, NoReturn, TypeVar

import typer
from rich.console import Console

from components.image_example_gen.layout import DatasetError
from pipeline import config as configuration
from trainer_module.error_text import did_you_mean

if TYPE_CHECKING:
    from serving import client as clients

Answer = TypeVar("Answer")

DONE, FAILED, BAD_USAGE, REFUSED = 0, 1, 2, 3

app = typer.Typer(
    name="tfx-vision",
    help="Folders of images in; a validated, explained, served model out.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
    context_settings={"help_option_names": ["-h", "--help"]},
)

ConfigArgument = Annotated[str, typer.Argument(help="A preset's name (see `presets`) or a TOML file.")]
DataOption = Annotated[
    str | None,
    typer.Option(metavar="DIR", help="Pictures: a folder, a manifest, a path with {SPAN}; replaces data.path."),
]
OverridesOption = Annotated[
    list[str] | None, typer.Option("--set", metavar="SECTION.KEY=VALUE", help="Replaces one value; repeatable.")
]
JsonOption = Annotated[bool, typer.Option("--json", help="Print one JSON object on standard output.")]
RunArgument = Annotated[
    str, typer.Argument(metavar="RUN", help="A number of `history`, `last`, `last-1`, a version, or an id.")
]
GrpcOption = Annotated[str | None, typer.Option("--grpc", metavar="HOST:PORT", help="Ask over gRPC (the default).")]
RestOption = Annotated[str | None, typer.Option("--rest", metavar="URL", help="Ask over REST.")]


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
    from pipeline import execution

    stderr = Console(stderr=True)
    try:
        loaded = configuration.load(config, data=data, overrides=overrides or ())
        _check_nodes(from_node, to_node, with_tuner=loaded.tuner.enabled)
        execution.refuse_several_machines(loaded)
        with execution.only_run(loaded.run_dir):
            layout = execution.prepare(loaded)
            from pipeline import show

            with execution.quiet_output(execution.log_path(loaded)) as (out, err):
                console = _console(err)
                show.start(console, loaded, layout)
                with show.Progress(console) as progress:
                    outcome = execution.execute(
                        loaded, layout, from_node=from_node, to_node=to_node, on_node=progress.on_node
                    )
                show.summary(console, outcome, loaded)
                if debug and outcome.error:
                    import traceback

                    traceback.print_exception(outcome.error[1], file=err)
                if as_json:
                    out.write(json.dumps(outcome.as_json(), ensure_ascii=False, allow_nan=False) + "\n")
    except (configuration.ConfigError, DatasetError) as error:
        _stop(stderr, BAD_USAGE, str(error))
    except execution.AlreadyRunningError as error:
        _stop(stderr, FAILED, str(error))
    except OSError as error:
        # A folder that cannot be read or written, or a full disk.
        _stop(stderr, FAILED, f"{error.filename or loaded.run_dir}: {error.strerror or error}")
    except KeyboardInterrupt:
        _stop(stderr, FAILED, "Interrupted. The same command goes on where this one stopped.")
    raise typer.Exit(outcome.exit_code)


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
        _stop(stderr, BAD_USAGE, "Give either --model-base-path or --model-config-file.")
    if model_base_path is not None and not model_base_path.is_dir():
        _stop(stderr, BAD_USAGE, f"--model-base-path: {model_base_path} is not a folder. A finished run names it.")
    if batching_parameters_file is not None and not enable_batching:
        _stop(stderr, BAD_USAGE, "--batching-parameters-file is without effect unless --enable-batching is given.")
    from pipeline.execution import quiet_output

    # TensorFlow greets at length when it starts and when it loads; what goes wrong comes as an exception.
    with quiet_output(Path(os.devnull)) as (_, err):
        from serving.local_server import batching, command
        from serving.local_server import monitoring as metrics
        from serving.local_server.errors import RequestError
        from serving.local_server.options import Options
        from serving.local_server.servable import LoadOptions
        from serving.local_server.server import LocalServer, ServerStartError

        stderr = _console(err)

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
                options=Options(
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
            _stop(stderr, FAILED, str(error))
        except RequestError as error:  # of the files that the options name
            _stop(stderr, BAD_USAGE, error.message)


@app.command()
def predict(
    images: Annotated[list[Path], typer.Argument(help="JPEG or PNG files.", metavar="IMAGE...")],
    grpc: GrpcOption = None,
    rest: RestOption = None,
    model: Annotated[str, typer.Option(help="The name that the server knows.")] = "digits",
    top_k: Annotated[int, typer.Option(min=1, help="How many classes to show for each picture.")] = 1,
    as_json: JsonOption = False,
) -> None:
    """Asks a model server what is on pictures."""
    stderr = Console(stderr=True)
    predictions = _ask(stderr, images, grpc, rest, model, lambda client, contents: client.predict(contents, top_k))
    if as_json:
        rows = [
            {
                "image": str(path),
                "label": prediction.label,
                "score": prediction.score,
                "top": [{"label": label, "score": score} for label, score in prediction.top],
            }
            for path, prediction in zip(images, predictions, strict=True)
        ]
        print(json.dumps({"predictions": rows}, ensure_ascii=False))
        return
    for path, prediction in zip(images, predictions, strict=True):
        ranked = "  ".join(f"{label} {score:.6f}" for label, score in prediction.top)
        print(f"{path}  {ranked}")


@app.command()
def segment(
    images: Annotated[list[Path], typer.Argument(help="JPEG or PNG files.", metavar="IMAGE...")],
    output_dir: Annotated[Path, typer.Option(metavar="DIR", help="Receives a PNG of class ids for every picture.")],
    grpc: GrpcOption = None,
    rest: RestOption = None,
    model: Annotated[str, typer.Option(help="The name that the server knows.")] = "digit-scenes",
    as_json: JsonOption = False,
) -> None:
    """Asks a model server for the class of every pixel."""
    stderr = Console(stderr=True)
    paths = _mask_paths(images, output_dir)
    for path, written in zip(images, paths, strict=True):
        if path.absolute() == written.absolute():
            _stop(stderr, BAD_USAGE, f"--output-dir: {path} would be replaced by its own mask. Name another folder.")
    masks = _ask(stderr, images, grpc, rest, model, lambda client, contents: client.segment(contents))
    try:
        output_dir.mkdir(parents=True, exist_ok=True)
        for mask, written in zip(masks, paths, strict=True):
            written.write_bytes(mask.png)
    except OSError as error:
        _stop(stderr, FAILED, f"{error.filename or output_dir}: {error.strerror or error}")
    if as_json:
        rows = [
            {"image": str(path), "mask": str(written), "class_pixels": list(mask.class_pixels)}
            for path, written, mask in zip(images, paths, masks, strict=True)
        ]
        print(json.dumps({"masks": rows}, ensure_ascii=False))
        return
    for path, written, mask in zip(images, paths, masks, strict=True):
        shares = [f"{count / sum(mask.class_pixels):.1%} {id_}" for id_, count in enumerate(mask.class_pixels) if count]
        print(f"{path}  {written}  of class: {', '.join(shares)}")


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

    from pipeline import contact_sheet, execution

    stderr = Console(stderr=True)
    if output.suffix.lower() != ".png":
        _stop(stderr, BAD_USAGE, f"--output: {output} must end with .png.")
    if not output.parent.is_dir():
        _stop(stderr, BAD_USAGE, f"--output: there is no folder {output.parent}. Create it first.")
    unusable: list[str] = []
    try:
        loaded = configuration.load(config, data=data, overrides=overrides or ())
        generated = loaded.data.path is None
        with execution.only_run(loaded.run_dir) if generated else contextlib.nullcontext():
            found = execution.prepare(loaded)
        execution.refuse_other_task(loaded, found, "Trainer")
        with execution.quiet_output(Path(os.devnull)):
            sheet, count = contact_sheet.make(loaded, found, num, unusable.append)
        sheet.save(output, "PNG")
    except (configuration.ConfigError, DatasetError) as error:
        _stop(stderr, BAD_USAGE, str(error))
    except execution.AlreadyRunningError as error:
        _stop(stderr, FAILED, str(error))
    except OSError as error:
        _stop(stderr, FAILED, f"{error.filename or output}: {error.strerror or error}")
    for reason in unusable:
        stderr.print(f"[yellow]left out:[/yellow] {_escape(reason)}", soft_wrap=True, highlight=False)
    print(f"{output}: {count} pictures, {contact_sheet.SAMPLES} samples of each")


@app.command()
def report(config: ConfigArgument, data: DataOption = None, overrides: OverridesOption = None) -> None:
    """Prints where the last run's report is: one HTML file that says all that is known of the model."""
    from pipeline import execution

    stderr = Console(stderr=True)
    try:
        loaded = configuration.load(config, data=data, overrides=overrides or (), needs_data=False)
    except configuration.ConfigError as error:
        _stop(stderr, BAD_USAGE, str(error))
    path = execution.report_path(loaded)
    if not path.is_file():
        _stop(stderr, FAILED, f"There is no {path}: no run of this configuration has come as far as ModelReport yet.")
    print(path)
    from pipeline import history as runs

    try:
        note = runs.read(loaded).not_in_the_report()
    except configuration.ConfigError as error:
        note = f"which run the report is of is not known: {error}"
    if note:
        stderr.print(f"[yellow]note:[/yellow] {_escape(note)}", soft_wrap=True, highlight=False)


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

    from pipeline.execution import quiet_output

    stderr = Console(stderr=True)
    try:
        loaded = configuration.load(config, data=data, overrides=overrides or (), needs_data=False)
        # TensorFlow greets at length when it starts.
        with quiet_output(Path(os.devnull)) as (out, _):
            from pipeline import inspection, show_model

            found = inspection.inspect(loaded, num_classes)
            if as_json:
                out.write(json.dumps(found.as_json(), ensure_ascii=False, allow_nan=False) + "\n")
            else:
                show_model.show(_console(out), found, expand=expand)
    except configuration.ConfigError as error:
        _stop(stderr, BAD_USAGE, str(error))


@app.command()
def history(
    config: ConfigArgument,
    data: DataOption = None,
    overrides: OverridesOption = None,
    num: Annotated[int, typer.Option(min=1, help="How many runs to show, the newest ones.")] = 20,
    as_json: JsonOption = False,
) -> None:
    """Lists the runs of a pipeline, newest first: when, data, figure, verdict, version."""
    stderr = Console(stderr=True)
    try:
        loaded = configuration.load(config, data=data, overrides=overrides or (), needs_data=False)
        from pipeline import history as runs

        found = runs.read(loaded).newest(num)
    except configuration.ConfigError as error:
        _stop(stderr, BAD_USAGE, str(error))
    if as_json:
        print(json.dumps({"runs": [run.as_json() for run in found]}, ensure_ascii=False, allow_nan=False))
        return
    from pipeline import show_history

    show_history.show_runs(_console(sys.stdout), found)


@app.command()
def compare(
    config: ConfigArgument,
    first: RunArgument,
    second: RunArgument,
    data: DataOption = None,
    overrides: OverridesOption = None,
    as_json: JsonOption = False,
) -> None:
    """Shows two runs side by side: figures per class and slice, settings, data and verdicts.

    A run is its number in `history`, `last`, `last-1` and so on, a pushed version, or the beginning of its id.
    """
    stderr = Console(stderr=True)
    try:
        loaded = configuration.load(config, data=data, overrides=overrides or (), needs_data=False)
        from pipeline import history as runs

        known = runs.read(loaded)
        found = runs.compare(known.find(first), known.find(second))
    except configuration.ConfigError as error:
        _stop(stderr, BAD_USAGE, str(error))
    if as_json:
        print(json.dumps(found.as_json(), ensure_ascii=False, allow_nan=False))
        return
    from pipeline import show_history

    show_history.show_comparison(_console(sys.stdout), found)


@app.command()
def presets(as_json: JsonOption = False) -> None:
    """Lists the shipped configurations."""
    from rich.table import Table

    headers = {name: _header(configuration.preset_text(name)) for name in configuration.preset_names()}
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

    from pipeline import doctor as checks

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


def _ask(
    stderr: Console,
    images: list[Path],
    grpc: str | None,
    rest: str | None,
    model: str,
    question: Callable[[clients.Client, list[bytes]], list[Answer]],
) -> list[Answer]:
    """Reads the pictures and asks the server that the options name."""
    from serving import client as clients

    if grpc and rest:
        _stop(stderr, BAD_USAGE, "Give --grpc or --rest, not both.")
    contents = []
    for path in images:
        try:
            contents.append(path.read_bytes())
        except OSError as error:
            _stop(stderr, BAD_USAGE, f"{path}: {error.strerror}")
    client: clients.Client
    try:
        client = clients.RestClient(rest, model) if rest else clients.GrpcClient(grpc or "127.0.0.1:8500", model)
        try:
            return question(client, contents)
        finally:
            client.close()
    except clients.ServerError as error:
        _stop(stderr, FAILED, str(error))


def _mask_paths(images: list[Path], output_dir: Path) -> list[Path]:
    """A file for every mask; of pictures that have one name, from several folders, the later ones are numbered."""
    taken: dict[str, None] = {}
    for path in images:
        numbered = (f"{path.stem}-{number}.png" for number in itertools.count(2))
        # `a-2.png` may be the name of a picture too.
        name = next(name for name in itertools.chain([f"{path.stem}.png"], numbered) if name not in taken)
        taken[name] = None
    return [output_dir / name for name in taken]


def _check_nodes(from_node: str | None, to_node: str | None, *, with_tuner: bool) -> None:
    from pipeline.nodes import NODE_IDS, TUNER

    for option, node in (("--from", from_node), ("--to", to_node)):
        if node is not None and node not in NODE_IDS:
            suggestion = did_you_mean(node, NODE_IDS) or f". Nodes: {', '.join(NODE_IDS)}."
            raise configuration.ConfigError(f"{option}: unknown node `{node}`{suggestion}")
        if node == TUNER and not with_tuner:
            raise configuration.ConfigError(f"{option}: {TUNER} is switched off; --set tuner.enabled=true adds it.")
    if from_node and to_node and NODE_IDS.index(from_node) > NODE_IDS.index(to_node):
        raise configuration.ConfigError(f"--from {from_node} comes after --to {to_node}: nothing would run.")


def _header(text: str) -> str:
    # Comments further down are about single keys.
    lines = itertools.takewhile(lambda line: line.startswith("#"), text.splitlines())
    return "\n".join(line.removeprefix("#").strip() for line in lines)


def _console(file: IO[str]) -> Console:
    """As wide as the terminal; where there is none wide enough that nothing is cut for who reads it."""
    return Console(file=file, width=None if file.isatty() else 120)


def _stop(console: Console, code: int, message: str) -> NoReturn:
    """Says what is wrong, in one message without a traceback, and ends."""
    console.print(f"[bold red]error:[/bold red] {_escape(message)}", soft_wrap=True, highlight=False)
    raise typer.Exit(code)


def _escape(text: Any) -> str:
    from rich.markup import escape

    return escape(str(text))
