"""ServingValidator's executor: reads the artifacts, runs the checks, writes the blessing."""

from __future__ import annotations

import logging
import os
from typing import Any

from tfx.components.evaluator import constants as evaluator_constants
from tfx.dsl.components.base import base_executor
from tfx.types import artifact_utils
from tfx.utils import io_utils, path_utils

from components import classes
from components.artifacts import Artifacts
from components.serving_validator import checks
from components.serving_validator.options import ServingLimits
from trainer_module import features, input_pipeline, stored_options, test_time_augmentation


class Executor(base_executor.BaseExecutor):
    """Issues or refuses a standard InfraBlessing, without Docker."""

    def Do(self, input_dict: Artifacts, output_dict: Artifacts, exec_properties: dict[str, Any]) -> None:
        """Validates the exported model.

        Args:
          input_dict: `model`, `model_run` (with the Keras file), `examples` (raw).
          output_dict: `blessing`: file INFRA_BLESSED or INFRA_NOT_BLESSED, int properties `blessed` and
            `current_model_id`, `checks.json`.
          exec_properties: `options` (TrainerOptions as JSON, without `classes`), `split`, `limits`
            (ServingLimits as JSON).
        """
        model_run = artifact_utils.get_single_uri(input_dict["model_run"])
        export_dir = path_utils.serving_model_path(artifact_utils.get_single_uri(input_dict["model"]))
        split_uri = artifact_utils.get_split_uri(input_dict["examples"], exec_properties["split"])
        examples = input_pipeline.read_records([io_utils.all_files_pattern(split_uri)])
        limits = ServingLimits.model_validate_json(exec_properties["limits"])
        configured = classes.trainer_options(exec_properties["options"], input_dict)
        options = stored_options.with_trained_network(configured, model_run)
        report = checks.check_export(
            export_dir,
            test_time_augmentation.load(os.path.join(model_run, features.KERAS_FILE), options),
            options,
            list(examples.take(limits.validation_examples).as_numpy_iterator()),
            limits,
        )
        for check in report.checks:
            logging.log(logging.INFO if check.passed else logging.ERROR, "%s: %s", check.name, check.detail)
        blessing = artifact_utils.get_single_instance(output_dict["blessing"])
        report.write(blessing.uri)
        # Pusher reads the property; the file, named as by TFX's InfraValidator, is for people.
        name = "INFRA_BLESSED" if report.blessed else "INFRA_NOT_BLESSED"
        io_utils.write_string_file(os.path.join(blessing.uri, name), "")
        blessing.set_int_custom_property("blessed", int(report.blessed))
        model = artifact_utils.get_single_instance(input_dict["model"])
        blessing.set_int_custom_property(evaluator_constants.ARTIFACT_PROPERTY_CURRENT_MODEL_ID_KEY, model.id)
