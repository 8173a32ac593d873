"""Pusher's work, with one more gate before it."""

from __future__ import annotations

import logging

from tfx import types
from tfx.components.pusher import executor
from tfx.types import artifact_utils


class Executor(executor.Executor):
    """TFX's Pusher, which GradCam can hold back too."""

    def CheckBlessing(self, input_dict: dict[str, list[types.Artifact]]) -> bool:
        """Whether Evaluator, ServingValidator and GradCam have let the model pass."""
        if not super().CheckBlessing(input_dict):
            return False
        explanations = artifact_utils.get_single_instance(input_dict["explanations"])
        if explanations.get_int_custom_property("blessed") != 1:
            logging.info("The explanations in %s are not as faithful as is demanded.", explanations.uri)
            return False
        return True
