"""Evaluator's work: TFMA measures, the rules judge, the blessing is written."""

from __future__ import annotations

import json
import logging
import os
from typing import Any

import tensorflow as tf
from google.protobuf import json_format
from tensorflow_model_analysis.proto import config_pb2
from tfx import types
from tfx.components.evaluator import constants
from tfx.dsl.components.base import base_beam_executor
from tfx.types import artifact_utils
from tfx.utils import io_utils, path_utils

from components.evaluator import gates, measurement, tfma_results
from components.evaluator.figures import FIGURES_FILE, GATES_FILE
from components.evaluator.options import EvaluationOptions


class Executor(base_beam_executor.BaseBeamExecutor):
    """Beam executor of ImageEvaluator."""

    def Do(
        self,
        input_dict: dict[str, list[types.Artifact]],
        output_dict: dict[str, list[types.Artifact]],
        exec_properties: dict[str, Any],
    ) -> None:
        """Evaluates.

        Args:
          input_dict: `examples` (raw), `model`, `schema`; `baseline_model` where one was blessed before.
          output_dict: `evaluation`, `blessing`.
          exec_properties: `eval_config` (TFMA's as JSON, without thresholds), `split`, `batch_size`, `task`,
            `classes` (a JSON list), `options` (EvaluationOptions as JSON).
        """
        options = EvaluationOptions.model_validate_json(exec_properties["options"])
        evaluation = artifact_utils.get_single_instance(output_dict["evaluation"])
        model = artifact_utils.get_single_instance(input_dict["model"])
        baseline = (input_dict.get("baseline_model") or [None])[0]
        split_uri = artifact_utils.get_split_uri(input_dict["examples"], exec_properties["split"])
        schema_path = io_utils.get_only_uri_in_dir(artifact_utils.get_single_uri(input_dict["schema"]))
        with self._make_beam_pipeline() as pipeline:
            measurement.measure(
                pipeline,
                examples_pattern=io_utils.all_files_pattern(split_uri),
                schema=io_utils.SchemaReader().read(schema_path),
                eval_config=json_format.Parse(exec_properties["eval_config"], config_pb2.EvalConfig()),
                model_path=path_utils.serving_model_path(model.uri),
                baseline_path=baseline and path_utils.serving_model_path(baseline.uri),
                output_path=evaluation.uri,
                batch_size=exec_properties["batch_size"],
                label_groups=options.label_groups,
            )
        measured = tfma_results.read(
            evaluation.uri,
            task=exec_properties["task"],
            split=exec_properties["split"],
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
        blessing = artifact_utils.get_single_instance(output_dict["blessing"])
        blessing.set_string_custom_property(constants.ARTIFACT_PROPERTY_CURRENT_MODEL_URI_KEY, model.uri)
        blessing.set_int_custom_property(constants.ARTIFACT_PROPERTY_CURRENT_MODEL_ID_KEY, model.id)
        if baseline is not None:
            blessing.set_string_custom_property(constants.ARTIFACT_PROPERTY_BASELINE_MODEL_URI_KEY, baseline.uri)
            blessing.set_int_custom_property(constants.ARTIFACT_PROPERTY_BASELINE_MODEL_ID_KEY, baseline.id)
        file_name = constants.BLESSED_FILE_NAME if verdict.blessed else constants.NOT_BLESSED_FILE_NAME
        io_utils.write_string_file(os.path.join(blessing.uri, file_name), "")
        value = constants.BLESSED_VALUE if verdict.blessed else constants.NOT_BLESSED_VALUE
        blessing.set_int_custom_property(constants.ARTIFACT_PROPERTY_BLESSED_KEY, value)
