"""Evaluator's work: TFMA measures, the rules judge, the blessing is written."""

from __future__ import annotations

import json
import logging
import os
from typing import Any

import tensorflow as tf
from tfx import types
from tfx.components.evaluator import constants, executor
from tfx.types import artifact_utils, standard_component_specs
from tfx.utils import io_utils

from components.evaluator import gates, tfma_results
from components.evaluator.figures import FIGURES_FILE, GATES_FILE
from components.evaluator.options import EvaluationOptions


class Executor(executor.Executor):
    """TFX's Evaluator, with a verdict that knows classes and small slices."""

    def Do(
        self,
        input_dict: dict[str, list[types.Artifact]],
        output_dict: dict[str, list[types.Artifact]],
        exec_properties: dict[str, Any],
    ) -> None:
        """Evaluates (same keys as TFX's, and `task`, `classes`, `options`).

        Args:
          input_dict: `examples`, `model`, `schema`; `baseline_model` where one was blessed before.
          output_dict: `evaluation`, `blessing`.
          exec_properties: `eval_config` without thresholds, so that TFX writes no blessing of its own; `options` is
            EvaluationOptions as JSON, `classes` a JSON list.
        """
        super().Do(input_dict, output_dict, exec_properties)
        options = EvaluationOptions.model_validate_json(exec_properties["options"])
        evaluation = artifact_utils.get_single_instance(output_dict[standard_component_specs.EVALUATION_KEY])
        baseline = (input_dict.get(standard_component_specs.BASELINE_MODEL_KEY) or [None])[0]
        (split,) = json.loads(exec_properties[standard_component_specs.EXAMPLE_SPLITS_KEY])
        measured = tfma_results.read(
            evaluation.uri,
            task=exec_properties["task"],
            split=split,
            classes=json.loads(exec_properties["classes"]),
            top_k=options.top_k,
            has_baseline=baseline is not None,
        )
        verdict = gates.judge(measured, options)
        for name, stored in ((FIGURES_FILE, measured), (GATES_FILE, verdict)):
            with tf.io.gfile.GFile(os.path.join(evaluation.uri, name), "w") as file:
                file.write(stored.model_dump_json())
        for gate in verdict.failures():
            logging.error("%s: %s %s", gate.rule, gate.subject, gate.detail)

        # The names are TFX's: Pusher and Resolver read the properties, people the file.
        blessing = artifact_utils.get_single_instance(output_dict[standard_component_specs.BLESSING_KEY])
        model = artifact_utils.get_single_instance(input_dict[standard_component_specs.MODEL_KEY])
        blessing.set_string_custom_property(constants.ARTIFACT_PROPERTY_CURRENT_MODEL_URI_KEY, model.uri)
        blessing.set_int_custom_property(constants.ARTIFACT_PROPERTY_CURRENT_MODEL_ID_KEY, model.id)
        if baseline is not None:
            blessing.set_string_custom_property(constants.ARTIFACT_PROPERTY_BASELINE_MODEL_URI_KEY, baseline.uri)
            blessing.set_int_custom_property(constants.ARTIFACT_PROPERTY_BASELINE_MODEL_ID_KEY, baseline.id)
        file_name = constants.BLESSED_FILE_NAME if verdict.blessed else constants.NOT_BLESSED_FILE_NAME
        io_utils.write_string_file(os.path.join(blessing.uri, file_name), "")
        value = constants.BLESSED_VALUE if verdict.blessed else constants.NOT_BLESSED_VALUE
        blessing.set_int_custom_property(constants.ARTIFACT_PROPERTY_BLESSED_KEY, value)
