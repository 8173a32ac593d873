"""One `tfx-vision run`: run the nodes here, read back their results."""

from __future__ import annotations

import contextlib
import dataclasses
import datetime
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from components.image_example_gen.dataset import Dataset
from pipeline.config.messages import ConfigError
from pipeline.config.sections import PipelineConfig
from pipeline.execution import dataset_identity, preflight
from pipeline.execution.dataset import prepare, refuse_other_task
from pipeline.execution.dataset_identity import DatasetIdentity
from pipeline.execution.outcome import Outcome
from pipeline.execution.run_lock import run_lock
from pipeline.nodes import NODE_IDS
from trainer_module import locations

if TYPE_CHECKING:
    from pipeline.execution.node_runner import NodeResult
    from pipeline.execution.results import Refusal


_FIRST_NODE, _PUSH_NODE = "ImageExampleGen", "Pusher"


def prepare_training_data(config: PipelineConfig) -> Dataset:
    """Lists the images of a configuration; generates them first if necessary.

    Raises:
      AlreadyRunningError: If they have to be generated while a run uses the folder of the pipeline.
      ConfigError: If the configuration does not fit the images.
      DatasetError: If the images cannot be used for training.
    """
    with run_lock(config.run_dir) if config.data.path is None else contextlib.nullcontext():
        dataset = prepare(config)
    refuse_other_task(config, dataset, "Trainer")
    return dataset


def check_distribution(config: PipelineConfig) -> None:
    """Rejects a configuration that requires several machines: a run here would wait for them forever.

    Raises:
      ConfigError: If the training is distributed over several machines.
    """
    if config.training.distribution == "multi_worker":
        raise ConfigError(
            'training.distribution = "multi_worker" requires Trainers that a cluster starts on several machines, and '
            'this run uses one: set "mirrored" for all its GPUs, or "none".'
        )


def execute(
    config: PipelineConfig,
    dataset: Dataset,
    *,
    identity: DatasetIdentity | None = None,
    from_node: str | None = None,
    to_node: str | None = None,
    on_node: Callable[[NodeResult], None] = lambda result: None,
    before_push: Callable[[str], Sequence[Refusal]] | None = None,
) -> Outcome:
    """Runs the pipeline in this process; imports TFX.

    Args:
      config: The whole configuration.
      dataset: From `prepare`.
      identity: From `dataset_identity.check`, by default that of the dataset; stored as soon as ImageExampleGen has
        read it.
      from_node: First node to run.
      to_node: Last node to run.
      on_node: Called when nodes start and end.
      before_push: Called before Pusher with the folder of the exported model, if no gate has refused it; the model is
        not pushed if it returns refusals.

    Raises:
      ConfigError: If there is no node between `from_node` and `to_node`, if the task does not fit the dataset, if
        `pipeline.artifacts` cannot be used, if weights are missing, or if the disk is too small.
      DatasetError: If no image of a sample is usable.
    """
    refuse_other_task(config, dataset, to_node or NODE_IDS[-1])
    earlier = dataset_identity.read(config)
    preflight.check(
        config,
        dataset,
        from_node=from_node or NODE_IDS[0],
        to_node=to_node or NODE_IDS[-1],
        examples_exist=earlier is not None and earlier.fingerprint == dataset.fingerprint,
    )
    from tfx.utils import path_utils

    from components.example_validator.findings import AnomaliesFoundError
    from pipeline import dag
    from pipeline.execution import artifact_store, node_runner, push_cache, results
    from pipeline.history import metadata_store

    run_id = datetime.datetime.now().isoformat()
    outcome = Outcome(log_path=config.log_path)

    def check_push(node_id: str) -> None:
        if before_push is None or node_id != _PUSH_NODE:
            return
        outputs = metadata_store.outputs_of_run(store, run_id)
        exported = outputs.get("Trainer", {}).get("model")
        if exported is None or results.collect(outputs).refused:
            return
        outcome.push_refusals = before_push(path_utils.serving_model_path(exported.uri))
        if outcome.push_refusals:
            raise node_runner.NodeRefusedError("\n".join(refusal.detail for refusal in outcome.push_refusals))

    def add_result(result: NodeResult) -> None:
        if result.state != "running":
            outcome.nodes.append(result)
        if result.id == _FIRST_NODE and result.state in ("complete", "cached"):
            dataset_identity.store(config, identity or DatasetIdentity.of(config, dataset))
        on_node(result)

    artifact_store.claim(config)
    pipeline = dag.create_pipeline(config, dataset, metadata_path=config.metadata_path)
    store = metadata_store.open_store(config.metadata_path)
    push_cache.invalidate(store)
    try:
        node_runner.run(
            pipeline,
            run_id=run_id,
            from_node=from_node,
            to_node=to_node,
            on_node=add_result,
            before_node=check_push,
        )
    except AnomaliesFoundError as error:
        outcome.refusal = error
    except node_runner.NodeFailedError as error:
        outcome.error = (error.node_id, error.cause)
    except node_runner.NodeRefusedError:  # by `check_push`, which has stored the reasons
        pass
    except node_runner.NothingToRunError:
        raise ConfigError(f"--from {from_node} is not connected with --to {to_node}: no node would run.") from None
    outcome.result = results.collect(metadata_store.outputs_of_run(store, run_id))
    if outcome.result.report:
        # Every run has its own artifact; this copy is the report of the last one.
        newest = config.report_path
        locations.replace(str(newest), locations.read(outcome.result.report))
        outcome.result = dataclasses.replace(outcome.result, report=str(newest))
    return outcome
