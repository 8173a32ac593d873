"""The configuration as pods of Kubeflow Pipelines see it."""

from __future__ import annotations

from pathlib import Path

from pipeline.config.messages import ConfigError
from pipeline.config.sections import PipelineConfig
from pipeline.execution.beam_options import ENGINES
from trainer_module.locations import is_remote


def check(config: PipelineConfig) -> None:
    """Refuses what pods of Kubeflow Pipelines could not run.

    Raises:
      ConfigError: With everything that is missing or does not fit.
    """
    options = config.kubeflow
    needed = {
        "image": "the container image of this project, in a registry that the cluster reaches",
        "data_path": "where pods see the pictures: below a mounted volume, or gs:// and the like",
        "work_path": "a folder on a mounted volume, for what outlives a run",
    }
    wrong = [f"kubeflow.{key} is missing: {what}." for key, what in needed.items() if not getattr(options, key)]
    if config.beam.runner in ENGINES:
        wrong.append(
            f'beam.runner = "{config.beam.runner}" does not see the folders of a pod, where Kubeflow puts what a '
            'node reads and writes: take "multi_processing" with the cores of kubeflow.nodes, or `tfx-vision run` '
            "on a volume that the engine's workers mount."
        )
    if config.pipeline.artifacts is not None:
        wrong.append("pipeline.artifacts is of `tfx-vision run`: a cluster keeps artifacts in kubeflow.pipeline_root.")
    if config.training.distribution == "multi_worker":
        wrong.append(
            'training.distribution = "multi_worker" needs Trainers on several machines, and a node of Kubeflow '
            'Pipelines is one pod: take "mirrored" for all its GPUs, or "none".'
        )
    paths = {
        "serving.base_directory": config.serving.base_directory,
        "data.manifest": config.data.manifest,
        "data.metadata_csv": config.data.metadata_csv,
    }
    for name, path in paths.items():
        if path is not None and not is_remote(str(path)):
            try:
                options.check_mounted(name, str(path))
            except ValueError as error:
                wrong.append(f"{error}.")
    if is_remote(config.serving.base_directory or ""):
        wrong.append(
            "serving.base_directory must lie below a mounted volume: there the run looks for the model to beat."
        )
    if wrong:
        raise ConfigError("\n  ".join(wrong))


def for_pods(config: PipelineConfig) -> PipelineConfig:
    """The configuration as pods see it: with the cluster's paths.

    Raises:
      ConfigError: As `check`.
    """
    check(config)
    assert config.kubeflow.work_path is not None
    return config.model_copy(
        update={
            "pipeline": config.pipeline.model_copy(update={"root": Path(config.kubeflow.work_path)}),
            "data": config.data.model_copy(update={"source": "folder", "path": config.kubeflow.data_path}),
        }
    )
