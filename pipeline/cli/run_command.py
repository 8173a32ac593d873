"""The command `run`."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from pipeline.cli.console import escape, print_line, wide_console
from pipeline.cli.errors import one_message
from pipeline.cli.options import AdoptOption, ConfigArgument, DataOption, JsonOption, OverridesOption, load_config
from trainer_module.error_text import did_you_mean

if TYPE_CHECKING:
    from pipeline.config.sections import PipelineConfig
    from pipeline.execution.results import Refusal


def run(
    config: ConfigArgument,
    data: DataOption = None,
    overrides: OverridesOption = None,
    from_node: Annotated[str | None, typer.Option("--from", metavar="NODE", help="First node to run.")] = None,
    to_node: Annotated[str | None, typer.Option("--to", metavar="NODE", help="Last node to run.")] = None,
    adopt: AdoptOption = False,
    shadow: Annotated[
        str | None,
        typer.Option(
            metavar="LOG",
            help="Prefix of a request log: before the push, compare the model with the served version on the newest "
            "logged images; refuse it if it is worse on those with feedback.",
            show_default=False,
        ),
    ] = None,
    max_changed: Annotated[
        float, typer.Option(min=0.0, max=1.0, help="With --shadow: largest share of changed predictions.")
    ] = 1.0,
    as_json: JsonOption = False,
    debug: Annotated[bool, typer.Option(help="Show the traceback of a failure.")] = False,
) -> None:
    """Runs the pipeline on this machine: from a folder of images to a served model.

    Run the same command again to resume a run that failed or was interrupted.

    Exit codes: 0 done and pushed, 1 failed, 2 bad usage or configuration, 3 a gate refused the images or the model.
    """
    from pipeline.execution import dataset_identity, local_run, log, run_lock
    from pipeline.execution.dataset import prepare
    from pipeline.nodes import NODE_IDS

    with one_message(lambda: loaded.run_dir, interrupted="Interrupted. Run the same command again to resume."):
        loaded = load_config(config, data, overrides)
        _check_nodes(from_node, to_node, loaded)
        local_run.check_distribution(loaded)
        with run_lock.run_lock(loaded.run_dir):
            dataset, identity = dataset_identity.check(
                loaded, prepare(loaded), to_node=to_node or NODE_IDS[-1], adopt=adopt
            )
            from pipeline.cli import run_summary

            with log.redirected_output(loaded.log_path) as (out, err):
                console = wide_console(err)
                run_summary.start(console, loaded, dataset)
                notes: list[str] = []
                with run_summary.Progress(console) as progress:
                    outcome = local_run.execute(
                        loaded,
                        dataset,
                        identity=identity,
                        from_node=from_node,
                        to_node=to_node,
                        on_node=progress.on_node,
                        before_push=_shadow_comparison(loaded, shadow, max_changed, notes.append),
                    )
                for note in notes:
                    print_line(console, escape(note))
                run_summary.summary(console, outcome, loaded)
                if debug and outcome.error:
                    import traceback

                    traceback.print_exception(outcome.error[1], file=err)
                if as_json:
                    from pipeline.cli import json_output

                    out.write(json_output.run_output(outcome).as_text() + "\n")
    raise typer.Exit(outcome.exit_code)


def _shadow_comparison(
    config: PipelineConfig, log: str | None, max_changed: float, on_note: Callable[[str], None]
) -> Callable[[str], list[Refusal]] | None:
    from pipeline.continuous import before_push

    before_push.remove_report(config)
    if log is None:
        return None
    return before_push.comparison(config, Path(log), max_changed, on_note)


def _check_nodes(from_node: str | None, to_node: str | None, config: PipelineConfig) -> None:
    from pipeline.config.messages import ConfigError
    from pipeline.nodes import DATA_AUDIT, MONITORING_REFERENCE, NODE_IDS, TUNER

    optional = {TUNER: "tuner", DATA_AUDIT: "audit", MONITORING_REFERENCE: "monitoring"}
    for option, node in (("--from", from_node), ("--to", to_node)):
        if node is not None and node not in NODE_IDS:
            suggestion = did_you_mean(node, NODE_IDS) or f". Nodes: {', '.join(NODE_IDS)}."
            raise ConfigError(f"{option}: unknown node `{node}`{suggestion}")
        if node in optional and not getattr(config, optional[node]).enabled:
            raise ConfigError(f"{option}: {node} is disabled; --set {optional[node]}.enabled=true adds it.")
    if from_node and to_node and NODE_IDS.index(from_node) > NODE_IDS.index(to_node):
        raise ConfigError(f"--from {from_node} is after --to {to_node}: no node would run.")
