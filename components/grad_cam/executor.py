"""GradCam's executor: reads the artifacts, explains a split, writes the explanations and their faithfulness."""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Iterable, Mapping
from typing import Any

import apache_beam as beam
from tfx.components.evaluator import constants as evaluator_constants
from tfx.dsl.components.base import base_beam_executor
from tfx.types import artifact_utils
from tfx.utils import io_utils

from components import classes
from components.artifacts import Artifacts
from components.grad_cam import faithfulness_gate, index_page
from components.grad_cam.artifact import PAGE_FILE, ExplainedPrediction, ExplanationIndex, FaithfulnessReport
from components.grad_cam.explain_split import ExplainSplit
from components.grad_cam.faithfulness_gate import MeanAndCount
from trainer_module import features, locations, stored_options
from trainer_module.options import TrainerOptions

_NO_FEATURE_MAP = (
    "The backbone returns a vector and not a feature map: every heat map is constant and shows nothing. Choose another "
    "model.backbone, or do not use the explanations."
)


class Executor(base_beam_executor.BaseBeamExecutor):
    """Beam executor of GradCam."""

    def Do(self, input_dict: Artifacts, output_dict: Artifacts, exec_properties: dict[str, Any]) -> None:
        """Explains a split.

        Args:
          input_dict: `model`, `model_run` (with the Keras file), `examples` (raw).
          output_dict: `explanations`: the files of `components.grad_cam.artifact`; int properties `explained`,
            `blessed` and `current_model_id`, a float property for every faithfulness metric.
          exec_properties: `options` (TrainerOptions as JSON, without `classes`), `split`, `slices` (a JSON list of
            names).
        """
        configured, split = classes.trainer_options(exec_properties["options"], input_dict), exec_properties["split"]
        model_run = artifact_utils.get_single_uri(input_dict["model_run"])
        options = stored_options.with_trained_network(configured, model_run)
        if not options.model.has_feature_map():
            logging.warning(_NO_FEATURE_MAP)
        explanations = artifact_utils.get_single_instance(output_dict["explanations"])
        keras_path = os.path.join(model_run, features.KERAS_FILE)
        pattern = io_utils.all_files_pattern(artifact_utils.get_split_uri(input_dict["examples"], split))
        slices = json.loads(exec_properties["slices"])
        with self._make_beam_pipeline() as pipeline:
            explained = pipeline | "ExplainSplit" >> ExplainSplit(
                pattern, keras_path, options, slices, explanations.uri
            )
            _ = (
                pipeline
                | "Once" >> beam.Create([explanations.uri])
                | "WriteReports"
                >> beam.Map(
                    _write_reports,
                    entries=beam.pvalue.AsList(explained.entries),
                    means=beam.pvalue.AsDict(explained.means),
                    options_json=configured.model_dump_json(),
                    split=split,
                )
            )
        index, report = ExplanationIndex.read(explanations.uri), FaithfulnessReport.read(explanations.uri)
        page = index_page.render(index, report, options)
        locations.write(os.path.join(explanations.uri, PAGE_FILE), page.encode())
        explanations.set_int_custom_property("explained", len(index.predictions))
        explanations.set_int_custom_property("blessed", int(report.blessed))
        model = artifact_utils.get_single_instance(input_dict["model"])
        explanations.set_int_custom_property(evaluator_constants.ARTIFACT_PROPERTY_CURRENT_MODEL_ID_KEY, model.id)
        for name, value in report.values.items():
            if value is not None:
                explanations.set_float_custom_property(name, value)


def _write_reports(
    uri: str,
    entries: Iterable[ExplainedPrediction],
    means: Mapping[str, MeanAndCount],
    options_json: str,
    split: str,
) -> None:
    """Writes `index.json` and `faithfulness.json`."""
    options = TrainerOptions.model_validate_json(options_json)
    order = {name: index for index, name in enumerate(options.classes)}
    ranked = sorted(entries, key=lambda entry: (order[entry.label], not entry.correct, -entry.score, entry.filename))
    ExplanationIndex(predictions=tuple(ranked)).write(uri)
    faithfulness_gate.report(options, split, means).write(uri)
