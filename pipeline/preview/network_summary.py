"""Which network a configuration means: found out without training, and without the pictures where need be."""

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
    """How many classes the network tells apart.

    Attributes:
      number: At least 2.
      origin: What says so, as a part of a sentence.
      problem: Why it had to be assumed; empty where it had not.
    """

    number: int
    origin: str
    problem: str = ""


class Inspection(NamedTuple):
    """What was found.

    Attributes:
      config: The configuration.
      num_classes: How many classes, and who says so.
      architecture: The network.
    """

    config: PipelineConfig
    num_classes: NumClasses
    architecture: Architecture


def inspect(config: PipelineConfig, num_classes: int | None = None) -> Inspection:
    """Builds the network and looks at it; Keras is imported by importing this module.

    Args:
      config: The whole configuration.
      num_classes: Of the network, whatever the data have.

    Raises:
      ConfigError: If the network cannot be built.
    """
    counted = count_classes(config) if num_classes is None else NumClasses(num_classes, "--num-classes")
    options = config.trainer_options(tuple(map(str, range(counted.number))))
    try:
        model = architecture.network(options)
    except ValueError as error:
        raise ConfigError(f"The network cannot be built: {error}") from error
    return Inspection(config, counted, architecture.describe(model))


def count_classes(config: PipelineConfig) -> NumClasses:
    """Asks the configuration, and the names of the files if they are near."""
    data = config.data
    if data.classes is not None:
        return NumClasses(len(data.classes), "data.classes")
    if data.path is None:
        if data.source in generated_datasets.CLASSES:
            return NumClasses(len(generated_datasets.CLASSES[data.source]), f"data.source = {data.source}")
        return _assumed("the configuration names no pictures (--data DIR)")
    if is_remote(data.path):
        return _assumed(f"{data.path} is not listed, since it is not on this machine")
    try:
        layout = inspect_dataset(config.data_location, data.options())
    except DatasetError as error:
        return _assumed(str(error).rstrip("."))
    if len(layout.classes) < 2:
        return _assumed(f"{layout.root} does not name its classes")
    return NumClasses(len(layout.classes), layout.root)


def _assumed(problem: str) -> NumClasses:
    return NumClasses(ASSUMED_CLASSES, "assumed", problem)
