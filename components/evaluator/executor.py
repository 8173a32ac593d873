"""Evaluator's executor: TFMA evaluates, the gates are applied, the blessing is written."""

from __future__ import annotations

import logging
import os
from typing import Any

import apache_beam as beam
import tensorflow_model_analysis as tfma
from google.protobuf import json_format
from tensorflow_model_analysis.proto import config_pb2
from tfx import types
from tfx.components.evaluator import constants
from tfx.components.statistics_gen import stats_artifact_utils
from tfx.dsl.components.base import base_beam_executor
from tfx.types import artifact_utils
from tfx.utils import io_utils, path_utils

from components import classes
from components.artifacts import Artifacts
from components.evaluator import (
    baseline_model,
    corrupted_examples,
    default_rules,
    gates,
    measurement,
    tfma_results,
)
from components.evaluator.artifact import EvaluationResult
from components.evaluator.class_lists import eval_config_of_shared_classes, ignore_id
from components.evaluator.options import EvaluationOptions
from trainer_module import features, tasks

_CORRUPTED_FOLDER = "corrupted"  # TFMA's files of the images of lower quality
_SHARED_FOLDER = "shared_classes"  # TFMA's files of the comparison with a model that has a different class list


class Executor(base_beam_executor.BaseBeamExecutor):
    """Beam executor of ImageEvaluator."""

    def Do(self, input_dict: Artifacts, output_dict: Artifacts, exec_properties: dict[str, Any]) -> None:
        """Evaluates the model.

        Args:
          input_dict: `examples` (raw), `model`, `schema`, `statistics`; `baseline_model` if there is an earlier blessed
            model.
          output_dict: `evaluation`, `blessing`.
          exec_properties: `eval_config` (TFMA's as JSON, without thresholds), `split`, `batch_size`, `task`,
            `image_size` (shorter side of the model input), `options` (EvaluationOptions as JSON).
        """
        options = EvaluationOptions.model_validate_json(exec_properties["options"])
        task, split = exec_properties["task"], exec_properties["split"]
        evaluation_uri = artifact_utils.get_single_uri(output_dict["evaluation"])
        model = artifact_utils.get_single_instance(input_dict["model"])
        blessed_model = (input_dict.get("baseline_model") or [None])[0]
        model_path = path_utils.serving_model_path(model.uri)
        names = classes.read(input_dict)
        baseline = baseline_model.read(
            model_path, path_utils.serving_model_path(blessed_model.uri) if blessed_model else None, names
        )
        split_uri = artifact_utils.get_split_uri(input_dict["examples"], split)
        schema = io_utils.SchemaReader().read(
            io_utils.get_only_uri_in_dir(artifact_utils.get_single_uri(input_dict["schema"]))
        )

        def evaluate(
            uri: str,
            eval_config: str,
            evaluated: tuple[str, ...],
            *,
            with_baseline: bool,
            corrupt: beam.DoFn | None = None,
        ) -> EvaluationResult:
            with self._make_beam_pipeline() as pipeline:
                measurement.measure(
                    pipeline,
                    examples_pattern=io_utils.all_files_pattern(split_uri),
                    schema=corrupted_examples.with_slices(schema) if corrupt else schema,
                    eval_config=json_format.Parse(eval_config, config_pb2.EvalConfig()),
                    model_path=model_path,
                    baseline_path=baseline.path if with_baseline else None,
                    output_path=uri,
                    batch_size=exec_properties["batch_size"],
                    label_groups=options.label_groups,
                    class_features=tasks.get(task).class_features,
                    corrupt=corrupt,
                )
            return tfma_results.read(
                uri, task=task, split=split, classes=evaluated, top_k=options.top_k, has_baseline=with_baseline
            )

        evaluation = evaluate(
            evaluation_uri, exec_properties["eval_config"], names, with_baseline=baseline.has_same_classes
        )
        if baseline.shares_classes and baseline.lists is not None:
            lists = baseline.lists
            config = eval_config_of_shared_classes(
                exec_properties["eval_config"], lists, tfma.CANDIDATE_KEY, tfma.BASELINE_KEY
            )
            shared = evaluate(os.path.join(evaluation_uri, _SHARED_FOLDER), config, lists.shared, with_baseline=True)
            evaluation = evaluation.with_shared_classes(shared, lists.added, lists.removed)
        if options.corruptions:
            config = corrupted_examples.slicing(exec_properties["eval_config"])
            uri = os.path.join(evaluation_uri, _CORRUPTED_FOLDER)
            corrupt = corrupted_examples.CorruptImages(options.corruptions, exec_properties["image_size"])
            _, *rows = evaluate(uri, config, names, with_baseline=False, corrupt=corrupt).candidate
            evaluation = evaluation.model_copy(update={"corrupted": tuple(rows)})
        statistics = artifact_utils.get_single_instance(input_dict["statistics"])
        train_counts = default_rules.class_counts(
            stats_artifact_utils.load_statistics(statistics, features.TRAIN).proto(), tasks.get(task).class_features
        )
        evidence = tfma_results.read_evidence(evaluation_uri, has_baseline=baseline.has_same_classes)
        ignored = ignore_id(exec_properties["eval_config"])
        rules = default_rules.apply_rules(evaluation, evidence, train_counts, options.disabled_rules, ignored)
        report = gates.apply_gates(evaluation, options, rules, baseline.not_comparable)
        evaluation.write(evaluation_uri)
        report.write(evaluation_uri)
        for failure in report.failures:
            logging.error("%s: %s %s", failure.source, failure.subject, failure.detail)
        for warning in report.warnings:
            logging.warning("%s", warning)
        blessing = artifact_utils.get_single_instance(output_dict["blessing"])
        _write_blessing(blessing, report.blessed, model, blessed_model if baseline.path else None)


def _write_blessing(
    blessing: types.Artifact, blessed: bool, model: types.Artifact, baseline: types.Artifact | None
) -> None:
    """Writes the file and the properties of TFX's Evaluator; Pusher and Resolver read the properties."""
    blessing.set_string_custom_property(constants.ARTIFACT_PROPERTY_CURRENT_MODEL_URI_KEY, model.uri)
    blessing.set_int_custom_property(constants.ARTIFACT_PROPERTY_CURRENT_MODEL_ID_KEY, model.id)
    if baseline is not None:
        blessing.set_string_custom_property(constants.ARTIFACT_PROPERTY_BASELINE_MODEL_URI_KEY, baseline.uri)
        blessing.set_int_custom_property(constants.ARTIFACT_PROPERTY_BASELINE_MODEL_ID_KEY, baseline.id)
    file_name = constants.BLESSED_FILE_NAME if blessed else constants.NOT_BLESSED_FILE_NAME
    io_utils.write_string_file(os.path.join(blessing.uri, file_name), "")
    value = constants.BLESSED_VALUE if blessed else constants.NOT_BLESSED_VALUE
    blessing.set_int_custom_property(constants.ARTIFACT_PROPERTY_BLESSED_KEY, value)
