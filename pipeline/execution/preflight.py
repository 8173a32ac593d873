"""Checks before the first node: faults that would otherwise stop a run after minutes or hours."""

from __future__ import annotations

from components.image_example_gen.dataset import Dataset
from pipeline.config.messages import ConfigError
from pipeline.config.sections import PipelineConfig
from pipeline.execution import disk_space
from pipeline.execution.dataset import example_gen_options
from pipeline.nodes import NODE_IDS
from trainer_module import backbones


def check(config: PipelineConfig, dataset: Dataset, *, from_node: str, to_node: str, examples_exist: bool) -> None:
    """Checks weights, disk space and a few images; imports TensorFlow.

    Args:
      config: The whole configuration.
      dataset: The inspected dataset.
      from_node: First node to run.
      to_node: Last node to run.
      examples_exist: Whether an earlier run has written the examples of this dataset.

    Raises:
      ConfigError: If pre-trained weights are missing and cannot be downloaded, or if the disk is too small.
      DatasetError: If no image of a sample is usable.
    """
    order = NODE_IDS.index
    if order(from_node) <= order("Trainer") <= order(to_node):
        check_weights(config)
    disk_space.check(config, dataset, examples_exist=examples_exist)
    if order(from_node) <= order("ImageExampleGen") and not examples_exist:
        from components.image_example_gen import probe

        probe.refuse_unusable(dataset, example_gen_options(config, dataset))


def check_weights(config: PipelineConfig) -> None:
    """Checks that pre-trained weights are available; downloads them if necessary.

    Raises:
      ConfigError: If they are not available.
    """
    try:
        config.model.check_weights(config.transform.image_size)
    except backbones.MissingWeightsError as error:
        raise ConfigError(str(error)) from None
