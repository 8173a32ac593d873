"""Executor of VersionPusher: a model that every gate has blessed becomes the newest version."""

from __future__ import annotations

import json
import logging
from typing import Any

from tfx.components.pusher import executor
from tfx.types import artifact_utils
from tfx.utils import io_utils

from components.artifacts import Artifacts
from trainer_module import features, locations, model_versions

# Property of the artifact `pushed_model`, in addition to TFX's: the id of the model that was pushed.
MODEL_ID = "model_id"


class Executor(executor.Executor):
    """TFX's Pusher with versions that appear complete or not at all; it removes old ones."""

    def CheckBlessing(self, input_dict: Artifacts) -> bool:
        """Whether Evaluator, ServingValidator and GradCam have blessed the model."""
        if not super().CheckBlessing(input_dict):
            return False
        explanations = artifact_utils.get_single_instance(input_dict["explanations"])
        if explanations.get_int_custom_property("blessed") != 1:
            logging.info("GradCam refused the model: the explanations in %s are not faithful enough.", explanations.uri)
            return False
        return True

    def Do(self, input_dict: Artifacts, output_dict: Artifacts, exec_properties: dict[str, Any]) -> None:
        """Pushes the model.

        Args:
          input_dict: `model`, `model_blessing`, `infra_blessing`, `explanations`.
          output_dict: `pushed_model`: a copy of the model; properties `pushed`, `pushed_destination`, `pushed_version`
            as TFX's, and `model_id`.
          exec_properties: `base_directory`; `keep_versions`, 0 for all; `dataset`, the JSON object that identifies the
            dataset, without its classes: those are in the model.
        """
        pushed = artifact_utils.get_single_instance(output_dict["pushed_model"])
        if not self.CheckBlessing(input_dict):
            pushed.set_int_custom_property("pushed", 0)
            return
        model = artifact_utils.get_single_instance(input_dict["model"])
        model_path = self.GetModelPath(input_dict)
        names = json.loads(locations.read(locations.join(model_path, features.LABELS_FILE)))
        result = model_versions.push(
            model_path,
            exec_properties["base_directory"],
            keep=exec_properties["keep_versions"] or None,
            provenance={"model": model.uri, "dataset": json.loads(exec_properties["dataset"]) | {"classes": names}},
        )
        io_utils.copy_dir(model_path, pushed.uri)  # TFX's cache checks that this copy exists
        pushed.set_int_custom_property("pushed", 1)
        pushed.set_string_custom_property("pushed_destination", result.path)
        pushed.set_string_custom_property("pushed_version", str(result.version))
        pushed.set_int_custom_property(MODEL_ID, model.id)
