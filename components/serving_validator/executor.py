"""ServingValidator's work: read the artifacts, run the checks, write the blessing."""

from __future__ import annotations

import json
import logging
import os
from typing import Any

import tensorflow as tf
from tfx import types
from tfx.components.evaluator import constants as evaluator_constants
from tfx.dsl.components.base import base_executor
from tfx.types import artifact_utils
from tfx.utils import io_utils, path_utils

from components.serving_validator import checks
from components.serving_validator.findings import CHECKS_FILE
from components.serving_validator.options import ServingLimits
from trainer_module import features, input_pipeline, keras_file
from trainer_module.options import TrainerOptions


class Executor(base_executor.BaseExecutor):
    """Gives or refuses a standard InfraBlessing, without docker."""

    def Do(
        self,
        input_dict: dict[str, list[types.Artifact]],
        output_dict: dict[str, list[types.Artifact]],
        exec_properties: dict[str, Any],
    ) -> None:
        """Validates the exported model.

        Args:
          input_dict: `model`, `model_run` (with the Keras file), `examples` (raw).
          output_dict: `blessing`: file INFRA_BLESSED or INFRA_NOT_BLESSED, int properties `blessed` and
            `current_model_id`, `checks.json`.
          exec_properties: `options` (TrainerOptions as JSON), `split`, `limits`
            (ServingLimits as JSON).
        """
        self._log_startup(input_dict, output_dict, exec_properties)
        model_run = artifact_utils.get_single_uri(input_dict["model_run"])
        export_dir = path_utils.serving_model_path(artifact_utils.get_single_uri(input_dict["model"]))
        split_uri = artifact_utils.get_split_uri(input_dict["examples"], exec_properties["split"])
        records = input_pipeline.records([io_utils.all_files_pattern(split_uri)])
        limits = ServingLimits.model_validate_json(exec_properties["limits"])
        results = checks.validate(
            export_dir,
            keras_file.load(os.path.join(model_run, features.KERAS_FILE)),
            TrainerOptions.model_validate_json(exec_properties["options"]),
            list(records.take(limits.validation_examples).as_numpy_iterator()),
            limits,
        )
        blessed = all(check.passed for check in results)
        blessing = artifact_utils.get_single_instance(output_dict["blessing"])
        for check in results:
            logging.log(logging.INFO if check.passed else logging.ERROR, "%s: %s", check.name, check.detail)
        with tf.io.gfile.GFile(os.path.join(blessing.uri, CHECKS_FILE), "w") as file:
            file.write(json.dumps([check._asdict() for check in results], indent=2, allow_nan=False))
        # The names are TFX InfraValidator's: Pusher reads the property, people the file.
        name = "INFRA_BLESSED" if blessed else "INFRA_NOT_BLESSED"
        io_utils.write_string_file(os.path.join(blessing.uri, name), "")
        blessing.set_int_custom_property("blessed", int(blessed))
        model = artifact_utils.get_single_instance(input_dict["model"])
        blessing.set_int_custom_property(evaluator_constants.ARTIFACT_PROPERTY_CURRENT_MODEL_ID_KEY, model.id)
