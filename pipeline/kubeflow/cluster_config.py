"""The configuration as pods of Kubeflow Pipelines see it."""

from __future__ import annotations

from pathlib import Path

from pipeline.config.messages import ConfigError
from pipeline.config.sections import PipelineConfig
from pipeline.execution.beam_options import ENGINES
from trainer_module.locations import is_remote


def check(config: PipelineConfig) -> None:
    """Checks that pods of Kubeflow Pipelines can run the pipeline.

    Raises:
      ConfigError: With everything that is missing or does not fit.
    """
    options = config.kubeflow
    required = {
        "image": "the container image of this project, in a registry that the cluster can reach",
        "data_path": "the path of the images in the pods: below a mounted volume, or gs:// and the like",
        "work_path": "a folder on a mounted volume, for data that outlives a run",
    }
    errors = [f"kubeflow.{key} is missing: {value}." for key, value in required.items() if not getattr(options, key)]
    errors += _engine_errors(config)
    if config.training.distribution == "multi_worker":
        errors.append(
            'training.distribution = "multi_worker" requires Trainers on several machines, and a node of Kubeflow '
            'Pipelines is one pod: use "mirrored" for all its GPUs, or "none".'
        )
    paths = {
        "pipeline.artifacts": config.pipeline.artifacts,
        "serving.base_directory": config.serving.base_directory,
        "data.manifest": config.data.manifest,
        "data.metadata_csv": config.data.metadata_csv,
        "data.corrections": config.data.corrections,
    }
    for name, path in paths.items():
        if path is not None and not is_remote(str(path)):
            try:
                options.check_mounted(name, str(path))
            except ValueError as error:
                errors.append(f"{error}.")
    if is_remote(config.serving.base_directory or ""):
        errors.append(
            "serving.base_directory must be below a mounted volume: the run reads the baseline model from there."
        )
    if errors:
        raise ConfigError("\n  ".join(errors))


def _engine_errors(config: PipelineConfig) -> list[str]:
    """Returns why an engine's workers could not read the files of the pods, or pods could not reach the engine."""
    runner, artifacts = config.beam.runner, config.pipeline.artifacts
    errors = []
    if artifacts is not None and is_remote(artifacts) and not artifacts.startswith("gs://"):
        errors.append(f"pipeline.artifacts = {artifacts} must be below a mounted volume or at gs://.")
    if runner not in ENGINES:
        return errors
    if artifacts is None:
        errors.append(
            f'beam.runner = "{runner}" requires pipeline.artifacts: a folder on a volume that pods and the workers of '
            "the engine mount at the same path, or gs://. Without it, inputs and outputs of a node are in its pod."
        )
    if runner == "dataflow":
        if config.kubeflow.data_path and not config.kubeflow.data_path.startswith("gs://"):
            errors.append(
                f'beam.runner = "dataflow" reads gs:// only: kubeflow.data_path = {config.kubeflow.data_path}.'
            )
        return errors
    engine = getattr(config.beam, runner)
    if engine.job_endpoint is None:
        errors.append(
            f"beam.{runner}.job_endpoint is missing: set the address of a running job server. Pods have no Java to "
            "start one."
        )
    if engine.environment == "loopback":
        errors.append(
            f'beam.{runner}.environment = "loopback" runs Python in the pod, which the engine cannot reach: use '
            '"external" with worker_pool, or "docker" with image.'
        )
    return errors


def for_pods(config: PipelineConfig) -> PipelineConfig:
    """The configuration with the paths of the pods.

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
