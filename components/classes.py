"""The class names of examples, for nodes whose parameters do not contain them.

Kubeflow Pipelines stores the parameters of all nodes several times in one object of Kubernetes, whose size is limited.
So they do not grow with the number of classes: ImageExampleGen writes the names beside the examples, and every node
that reads the examples completes its parameters with them. StatisticsGen copies them for SchemaGen, which reads no
examples. The cache needs nothing else: other classes are other examples.
"""

from __future__ import annotations

import json
from typing import Any

from tfx.types import artifact_utils
from tfx.utils import json_utils

from components.artifacts import Artifacts
from components.image_example_gen.artifact import ClassNames
from components.stored import IncompatibleArtifactError
from trainer_module import locations
from trainer_module.options import TrainerOptions


def read(input_dict: Artifacts, key: str = "examples") -> tuple[str, ...]:
    """Reads the class names of the examples, or of another input with a copy.

    Raises:
      IncompatibleArtifactError: If another version of tfx-vision wrote the artifact.
    """
    uri = artifact_utils.get_single_uri(input_dict[key])
    try:
        return ClassNames.read(uri).names
    except FileNotFoundError:
        raise IncompatibleArtifactError(
            f"{locations.join(uri, ClassNames.FILE)} does not exist: another version of tfx-vision wrote this "
            "artifact. Run the pipeline again without --from."
        ) from None


def trainer_options(parameter: str, input_dict: Artifacts) -> TrainerOptions:
    """Completes the TrainerOptions that a node has as its parameter, as JSON without `classes`."""
    return TrainerOptions.model_validate(_completed(parameter, input_dict))


def with_options(exec_properties: dict[str, Any], input_dict: Artifacts) -> dict[str, Any]:
    """Completes the TrainerOptions, as JSON, in the `custom_config` of Trainer or Tuner."""
    config = json_utils.loads(exec_properties["custom_config"])
    options = json.dumps(_completed(config["options"], input_dict))
    return exec_properties | {"custom_config": json_utils.dumps(config | {"options": options})}


def with_names(exec_properties: dict[str, Any], input_dict: Artifacts) -> dict[str, Any]:
    """Adds the list `classes` to the `custom_config` of Transform."""
    config = json_utils.loads(exec_properties["custom_config"]) | {"classes": list(read(input_dict))}
    return exec_properties | {"custom_config": json_utils.dumps(config)}


def _completed(parameter: str, input_dict: Artifacts) -> dict[str, Any]:
    return {**json.loads(parameter), "classes": read(input_dict)}
