"""The commands that hand the work to others: compile and submit to Kubeflow Pipelines, deploy to TF Serving."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console

from pipeline.cli.console import BAD_USAGE, stop
from pipeline.cli.errors import one_message
from pipeline.cli.options import ConfigArgument, DataOption, JsonOption, OverridesOption, load_config
from pipeline.config.sections import PipelineConfig

if TYPE_CHECKING:
    from pipeline.kubeflow.compiler import Documents


def deploy(
    config: ConfigArgument,
    output: Annotated[Path, typer.Option(metavar="DIR", help="Receives the files; has to be empty or missing.")],
    data: DataOption = None,
    overrides: OverridesOption = None,
) -> None:
    """Writes what TF Serving needs in production: a compose file and Kubernetes manifests, for CPU and GPU."""
    from pipeline.deploy import model_server

    with one_message(lambda: output):
        loaded = load_config(config, data, overrides, needs_data=False)
        written = model_server.write(loaded, output)
    for path in written:
        print(path)


def compile_(
    config: ConfigArgument,
    output: Annotated[Path, typer.Option(metavar="FILE.yaml", help="Both documents; an earlier file is replaced.")],
    data: DataOption = None,
    overrides: OverridesOption = None,
) -> None:
    """Compiles the pipeline for Kubeflow Pipelines 2: the pipeline and what Kubernetes is told beside.

    The pictures are listed here, since the DAG depends on their classes; pods read them from kubeflow.data_path.
    """
    if output.suffix not in (".yaml", ".yml"):
        stop(Console(stderr=True), BAD_USAGE, f"--output: {output} must end with .yaml.")
    loaded, documents = _compiled(config, data, overrides)
    with one_message(lambda: output):
        output.write_text(documents.as_yaml(), encoding="utf-8")
    print(f"{output}: {loaded.pipeline.name}, {documents.num_nodes} nodes")


def submit(
    config: ConfigArgument,
    host: Annotated[str, typer.Option(metavar="URL", help="Kubeflow Pipelines, as a browser finds it.")],
    data: DataOption = None,
    overrides: OverridesOption = None,
    data_path: Annotated[
        str | None, typer.Option(metavar="PATH", help="Other pictures for this run, as pods see them.")
    ] = None,
    experiment: Annotated[str | None, typer.Option(metavar="NAME", help="Default: pipeline.name.")] = None,
    namespace: Annotated[str | None, typer.Option(metavar="NAME", help="Of a multi-user installation.")] = None,
    token_file: Annotated[Path | None, typer.Option(metavar="FILE", help="Holds the bearer token.")] = None,
    ca_certificate: Annotated[
        Path | None, typer.Option("--ca-cert", metavar="FILE", help="Certificate that the server's is checked with.")
    ] = None,
    cron: Annotated[
        str | None, typer.Option(metavar="'S M H D M W'", help="Run again and again; six fields, seconds first.")
    ] = None,
    wait: Annotated[bool, typer.Option(help="Follow the run to its end.")] = True,
    as_json: JsonOption = False,
) -> None:
    """Runs the pipeline on Kubeflow Pipelines 2, and follows it.

    Exit codes: 0 pushed (or begun, with --no-wait or --cron), 1 failed, 2 bad usage or configuration, 3 a gate refused
    the pictures or the model.
    """
    import datetime
    import tempfile

    stderr = Console(stderr=True)
    if not host.startswith(("http://", "https://")):
        stop(stderr, BAD_USAGE, f"--host: {host} is no address; it begins with http:// or https://.")
    if cron is not None and len(cron.split()) != 6:
        stop(stderr, BAD_USAGE, f"--cron: {cron!r} needs six fields, seconds first: '0 0 3 * * *' is every night at 3.")
    for option, file in (("--token-file", token_file), ("--ca-cert", ca_certificate)):
        if file is not None and not file.is_file():
            stop(stderr, BAD_USAGE, f"{option}: there is no file {file}.")
    loaded, documents = _compiled(config, data, overrides)
    if cron is not None and loaded.kubeflow.cache_examples:
        stop(
            stderr,
            BAD_USAGE,
            "--cron with kubeflow.cache_examples = true would never see new pictures. Set it to false.",
        )
    from pipeline.kubeflow import submission as submissions

    token = token_file.read_text().strip() if token_file else None
    target = submissions.Target(host, namespace, token, ca_certificate)
    name = f"{loaded.pipeline.name} {submissions.version_name(datetime.datetime.now())}"
    with one_message(interrupted="Interrupted. A run that was started goes on; its page can end it."):
        server = submissions.Server(target)
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "pipeline.yaml"
            path.write_text(documents.as_yaml(), encoding="utf-8")
            uploaded = server.upload(loaded.pipeline.name, path, name)
        begun = server.start(
            name,
            experiment or loaded.pipeline.name,
            uploaded,
            parameters={"data_path": data_path or documents.data_path},
            pipeline_root=loaded.kubeflow.pipeline_root,
            service_account=loaded.kubeflow.service_account,
            cron=cron,
        )
        stderr.print(f"{begun.status}: {begun.url}", soft_wrap=True, highlight=False)
        if wait and cron is None:
            server.follow(
                begun, on_task=lambda node, state: stderr.print(f"  {node}: {state.lower()}", highlight=False)
            )
            stderr.print(
                f"{begun.status}{': ' + begun.detail if begun.detail else ''}", soft_wrap=True, highlight=False
            )
    if as_json:
        from pipeline.cli import json_output

        print(json_output.submit_output(begun).as_text())
    else:
        print(begun.url)
    raise typer.Exit(begun.exit_code)


def _compiled(config: str, data: str | None, overrides: list[str] | None) -> tuple[PipelineConfig, Documents]:
    """Lists the pictures and compiles."""
    import contextlib
    import os

    from pipeline.execution import dataset, local_run, log
    from pipeline.kubeflow import cluster_config

    with one_message(lambda: loaded.run_dir):
        loaded = load_config(config, data, overrides)
        cluster_config.check(loaded)
        generated = loaded.data.path is None
        with local_run.only_run(loaded.run_dir) if generated else contextlib.nullcontext():
            layout = dataset.prepare(loaded)
        dataset.refuse_other_task(loaded, layout, "Trainer")
        with log.quiet_output(Path(os.devnull)):
            from pipeline.kubeflow import compiler

            return loaded, compiler.compile_pipeline(loaded, layout)
