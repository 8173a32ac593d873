"""The network of a configuration: built without training, and without images if necessary."""

from __future__ import annotations

from typing import NamedTuple

from components.image_example_gen.dataset import inspect_dataset
from components.image_example_gen.errors import DatasetError
from pipeline.config.messages import ConfigError
from pipeline.config.sections import PipelineConfig
from pipeline.execution import generated_datasets
from trainer_module import architecture
from trainer_module.architecture import Architecture
from trainer_module.locations import is_remote

ASSUMED_CLASSES = 10


class NumClasses(NamedTuple):
    """Number of classes of the network.

    Attributes:
      number: At least 2.
      origin: Source of the number, for messages.
      problem: Why the number is assumed; empty if it is not.
    """

    number: int
    origin: str
    problem: str = ""


class Inspection(NamedTuple):
    """A configuration and its network.

    Attributes:
      config: The configuration.
      num_classes: Number of classes and its source.
      architecture: The network.
    """

    config: PipelineConfig
    num_classes: NumClasses
    architecture: Architecture


def inspect(config: PipelineConfig, num_classes: int | None = None) -> Inspection:
    """Builds and describes the network. This module imports Keras.

    Args:
      config: The whole configuration.
      num_classes: Replaces the number of classes of the dataset.

    Raises:
      ConfigError: If the network cannot be built.
    """
    classes = count_classes(config) if num_classes is None else NumClasses(num_classes, "--num-classes")
    options = config.trainer_options(tuple(map(str, range(classes.number))))
    try:
        model = architecture.network(options)
    except ValueError as error:
        raise ConfigError(f"The network cannot be built: {error}") from error
    return Inspection(config, classes, architecture.describe(model))


def count_classes(config: PipelineConfig) -> NumClasses:
    """Reads the number of classes from the configuration, or from a local dataset."""
    data = config.data
    if data.classes is not None:
        return NumClasses(len(data.classes), "data.classes")
    if data.path is None:
        if data.source in generated_datasets.CLASSES:
            return NumClasses(len(generated_datasets.CLASSES[data.source]), f"data.source = {data.source}")
        return _assumed("the configuration names no images (--data DIR)")
    if is_remote(data.path):
        return _assumed(f"{data.path} is not on this machine")
    try:
        dataset = inspect_dataset(config.data_location, config.data_options)
    except DatasetError as error:
        return _assumed(str(error).rstrip("."))
    if len(dataset.classes) < 2:
        return _assumed(f"{dataset.root} does not contain class names")
    return NumClasses(len(dataset.classes), dataset.root)


def _assumed(problem: str) -> NumClasses:
    return NumClasses(ASSUMED_CLASSES, "assumed", problem)
