"""Pusher's work: a model that every gate has let pass becomes the newest version."""

from __future__ import annotations

import logging
from typing import Any

from tfx import types
from tfx.components.pusher import executor
from tfx.types import artifact_utils
from tfx.utils import io_utils

from trainer_module import model_versions

# Beside TFX's properties: which model it was, for whom wants to know what became of a version.
MODEL_ID = "model_id"


class Executor(executor.Executor):
    """TFX's Pusher, whose versions appear whole or not at all, and which removes old ones."""

    def CheckBlessing(self, input_dict: dict[str, list[types.Artifact]]) -> bool:
        """Whether Evaluator, ServingValidator and GradCam have let the model pass."""
        if not super().CheckBlessing(input_dict):
            return False
        explanations = artifact_utils.get_single_instance(input_dict["explanations"])
        if explanations.get_int_custom_property("blessed") != 1:
            logging.info("The explanations in %s are not as faithful as is demanded.", explanations.uri)
            return False
        return True

    def Do(
        self,
        input_dict: dict[str, list[types.Artifact]],
        output_dict: dict[str, list[types.Artifact]],
        exec_properties: dict[str, Any],
    ) -> None:
        """Pushes.

        Args:
          input_dict: `model`, `model_blessing`, `infra_blessing`, `explanations`.
          output_dict: `pushed_model`: as TFX's, a copy of the model, and where it went.
          exec_properties: `base_directory`; `keep_versions`, 0 for all.
        """
        self._log_startup(input_dict, output_dict, exec_properties)
        pushed = artifact_utils.get_single_instance(output_dict["pushed_model"])
        if not self.CheckBlessing(input_dict):
            self._MarkNotPushed(pushed)
            return
        model = artifact_utils.get_single_instance(input_dict["model"])
        model_path = self.GetModelPath(input_dict)
        done = model_versions.push(
            model_path,
            exec_properties["base_directory"],
            keep=exec_properties["keep_versions"] or None,
            about={"model": model.uri},
        )
        # TFX's cache asks whether this copy is there.
        io_utils.copy_dir(model_path, pushed.uri)
        self._MarkPushed(pushed, pushed_destination=done.path, pushed_version=str(done.version))
        pushed.set_int_custom_property(MODEL_ID, model.id)
