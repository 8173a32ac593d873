"""The commands for other systems: compile and submit for Kubeflow Pipelines, deploy for TF Serving."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console

from pipeline.cli.console import BAD_USAGE, print_line, stop
from pipeline.cli.errors import one_message
from pipeline.cli.options import (
    AdoptOption,
    ConfigArgument,
    DataOption,
    JsonOption,
    OverridesOption,
    check_output,
    load_config,
    read_token,
)

if TYPE_CHECKING:
    from pipeline.config.sections import PipelineConfig
    from pipeline.execution.dataset_identity import DatasetIdentity
    from pipeline.kubeflow.compiler import Documents


def deploy(
    config: ConfigArgument,
    output: Annotated[Path, typer.Option(metavar="DIR", help="Folder for the files; must be empty or missing.")],
    data: DataOption = None,
    overrides: OverridesOption = None,
) -> None:
    """Writes the files to run TF Serving in production: a compose file and Kubernetes manifests, for CPU and GPU."""
    from pipeline.deploy import model_server

    with one_message(lambda: output):
        loaded = load_config(config, data, overrides, needs_data=False)
        written = model_server.write(loaded, output)
    for path in written:
        print(path)


def compile_(
    config: ConfigArgument,
    output: Annotated[Path, typer.Option(metavar="FILE.yaml", help="Output file; an existing one is replaced.")],
    data: DataOption = None,
    overrides: OverridesOption = None,
) -> None:
    """Compiles the pipeline for Kubeflow Pipelines 2: the pipeline spec and the platform spec.

    Lists the images on this machine, since the DAG depends on their classes; pods read them from kubeflow.data_path.
    """
    check_output(output, ".yaml", ".yml")
    # The compiled files start no run: no dataset is recorded, and any is accepted.
    loaded, documents, _ = _compiled(config, data, overrides, adopt=True)
    with one_message(lambda: output):
        output.write_text(documents.as_yaml(), encoding="utf-8")
    print(f"{output}: {loaded.pipeline.name}, {documents.num_nodes} nodes")


def submit(
    config: ConfigArgument,
    host: Annotated[str, typer.Option(metavar="URL", help="Address of Kubeflow Pipelines.")],
    data: DataOption = None,
    overrides: OverridesOption = None,
    data_path: Annotated[
        str | None, typer.Option(metavar="PATH", help="Other images for this run: their path in the pods.")
    ] = None,
    experiment: Annotated[str | None, typer.Option(metavar="NAME", help="Default: pipeline.name.")] = None,
    namespace: Annotated[
        str | None, typer.Option(metavar="NAME", help="Namespace of a multi-user installation.")
    ] = None,
    token_file: Annotated[Path | None, typer.Option(metavar="FILE", help="Contains the bearer token.")] = None,
    ca_certificate: Annotated[
        Path | None, typer.Option("--ca-cert", metavar="FILE", help="Certificate to verify the server with.")
    ] = None,
    cron: Annotated[
        str | None, typer.Option(metavar="'S M H D M W'", help="Run on a schedule; six fields, seconds first.")
    ] = None,
    wait: Annotated[bool, typer.Option(help="Wait for the end of the run.")] = True,
    adopt: AdoptOption = False,
    as_json: JsonOption = False,
) -> None:
    """Runs the pipeline on Kubeflow Pipelines 2 and waits for the result.

    Exit codes: 0 pushed (or started, with --no-wait or --cron), 1 failed, 2 bad usage or configuration, 3 a gate
    refused the images or the model.
    """
    import datetime
    import tempfile

    stderr = Console(stderr=True)
    if not host.startswith(("http://", "https://")):
        stop(stderr, BAD_USAGE, f"--host: {host} is not an address; it must start with http:// or https://.")
    if cron is not None and len(cron.split()) != 6:
        stop(
            stderr,
            BAD_USAGE,
            f"--cron: {cron!r} must have six fields, seconds first: '0 0 3 * * *' is every night at 3.",
        )
    for option, file in (("--token-file", token_file), ("--ca-cert", ca_certificate)):
        if file is not None and not file.is_file():
            stop(stderr, BAD_USAGE, f"{option}: file {file} does not exist.")
    try:
        token = read_token(token_file)
    except ValueError as error:
        stop(stderr, BAD_USAGE, str(error))
    loaded, documents, identity = _compiled(config, data, overrides, adopt=adopt)
    if cron is not None and loaded.kubeflow.cache_examples:
        stop(
            stderr,
            BAD_USAGE,
            "--cron with kubeflow.cache_examples = true would never read new images. Set it to false.",
        )
    from pipeline.execution import dataset_identity
    from pipeline.kubeflow import submission as submissions

    target = submissions.Target(host, namespace, token, ca_certificate)
    name = f"{loaded.pipeline.name} {submissions.version_name(datetime.datetime.now())}"
    with one_message(interrupted="Interrupted. A started run continues; its page can end it."):
        server = submissions.Server(target)
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "pipeline.yaml"
            path.write_text(documents.as_yaml(), encoding="utf-8")
            uploaded = server.upload(loaded.pipeline.name, path, name)
        submitted = server.start(
            name,
            experiment or loaded.pipeline.name,
            uploaded,
            parameters={"data_path": data_path or documents.data_path},
            pipeline_root=loaded.kubeflow.pipeline_root,
            service_account=loaded.kubeflow.service_account,
            cron=cron,
        )
        with one_message(lambda: loaded.run_dir):
            dataset_identity.store(loaded, identity)
        print_line(stderr, f"{submitted.status}: {submitted.url}")
        if wait and cron is None:
            server.follow(submitted, on_task=lambda node, state: print_line(stderr, f"  {node}: {state.lower()}"))
            print_line(stderr, f"{submitted.status}{': ' + submitted.detail if submitted.detail else ''}")
    if as_json:
        from pipeline.cli import json_output

        print(json_output.submit_output(submitted).as_text())
    else:
        print(submitted.url)
    raise typer.Exit(submitted.exit_code)


def _compiled(
    config: str, data: str | None, overrides: list[str] | None, *, adopt: bool
) -> tuple[PipelineConfig, Documents, DatasetIdentity]:
    """Lists the images, checks that they belong to the pipeline, and compiles it."""
    import contextlib
    import os
    import tempfile

    from pipeline.execution import dataset_identity, local_run, log
    from pipeline.kubeflow import cluster_config
    from pipeline.nodes import NODE_IDS

    with one_message(lambda: loaded.run_dir), contextlib.ExitStack() as stack:
        prepared = loaded = load_config(config, data, overrides)
        cluster_config.check(loaded)
        if loaded.data.path is None:
            # A generated dataset tells the classes; pods read theirs from kubeflow.data_path.
            root = Path(stack.enter_context(tempfile.TemporaryDirectory()))
            prepared = loaded.model_copy(update={"pipeline": loaded.pipeline.model_copy(update={"root": root})})
        dataset, identity = dataset_identity.check(
            prepared, local_run.prepare_training_data(prepared), to_node=NODE_IDS[-1], adopt=adopt
        )
        with log.redirected_output(Path(os.devnull)):
            from pipeline.kubeflow import compiler

            return loaded, compiler.compile_pipeline(loaded, dataset), identity
