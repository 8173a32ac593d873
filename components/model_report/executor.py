"""Executor of ModelReport: reads the artifacts of the run, builds the page, writes it."""

from __future__ import annotations

import datetime
import logging
from collections.abc import Mapping
from typing import Any

import tensorflow as tf
from tfx import types
from tfx.components.statistics_gen import stats_artifact_utils
from tfx.dsl.components.base import base_beam_executor
from tfx.types import artifact_utils
from tfx.utils import io_utils

from components.artifacts import Artifacts
from components.data_audit.artifact import Audit
from components.evaluator.artifact import EvaluationResult, GateReport
from components.example_validator.artifact import DriftReport
from components.image_example_gen.artifact import Quarantine
from components.model_report import explanations, images, lineage, page, reading, rendering, worst_predictions
from components.model_report.artifact import Report
from components.model_report.comparisons import ComparedExample
from components.model_report.sources import Push, Sources
from components.serving_validator.artifact import ServingCheckReport
from components.tuner.artifact import read_trials
from trainer_module import features, stored_options, tasks
from trainer_module.locations import join
from trainer_module.options import TrainerOptions

# Files of the quarantine may be long; a page lists no more.
_MAX_LINES = 50


class Executor(base_beam_executor.BaseBeamExecutor):
    """Beam executor of ModelReport; Beam finds the worst predictions of tasks that compare them."""

    def Do(self, input_dict: Artifacts, output_dict: Artifacts, exec_properties: dict[str, Any]) -> None:
        """Writes the report.

        Args:
          input_dict: `model`, `model_run`, `examples`, `statistics`, `quarantine`, `anomalies`, `evaluation`,
            `blessing`, `infra_blessing`, `pushed_model`; if they exist, `baseline_model`, `explanations`,
            `tuner_results`, `audit`.
          output_dict: `report`: `report.html`.
          exec_properties: `name`, `configuration` (TOML), `data_fingerprint`, `source_hash`.
        """
        artifacts = {key: values[0] for key, values in input_dict.items() if values}
        report_uri = artifact_utils.get_single_uri(output_dict["report"])
        report = Report(html=rendering.render(page.build(self._sources(artifacts, exec_properties, report_uri))))
        report.write(report_uri)
        logging.info("The report has %d bytes.", len(report.html.encode()))

    def _sources(
        self, artifacts: Mapping[str, types.Artifact], exec_properties: Mapping[str, Any], report_uri: str
    ) -> Sources:
        uris = {key: artifact.uri for key, artifact in artifacts.items()}
        evaluation = EvaluationResult.read(uris["evaluation"])
        options = stored_options.read(uris["model_run"])
        task = tasks.get(options.task.name)
        drawing, label_keys = task.drawing, [statistic.feature for statistic in task.label_statistics]
        statistics = {
            split: stats_artifact_utils.load_statistics(artifacts["statistics"], split).proto()
            for split in artifact_utils.decode_split_names(artifacts["statistics"].split_names)
        }
        explained = "explanations" in uris and drawing.comparison is None
        incorrect, correct = explanations.read(uris["explanations"]) if explained else ([], [])
        compared = (
            self._worst_predictions(artifacts, options, evaluation.split, report_uri) if drawing.comparison else []
        )
        trials = read_trials(uris["tuner_results"]) if "tuner_results" in uris else []
        quarantine = Quarantine.read(uris["quarantine"], most_lines=_MAX_LINES)
        return Sources(
            name=exec_properties["name"],
            evaluation=evaluation,
            gates=GateReport.read(uris["evaluation"]),
            blessed=artifacts["blessing"].get_int_custom_property("blessed") == 1,
            checks=ServingCheckReport.read(uris["infra_blessing"]).checks,
            servable=artifacts["infra_blessing"].get_int_custom_property("blessed") == 1,
            pushed=_push(artifacts["pushed_model"]),
            baseline=lineage.describe(artifacts["baseline_model"]) if "baseline_model" in artifacts else "",
            history=reading.training_history(uris["model_run"]),
            kept_epoch=options.training.kept_epoch,
            trials=trials,
            tuned=reading.tuned_values(trials, options),
            data=quarantine.summary,
            sizes=[reading.image_sizes(split, proto) for split, proto in statistics.items()],
            labels=[
                reading.split_labels(split, proto, label_keys, task.class_features)
                for split, proto in statistics.items()
                if label_keys
            ],
            quarantined=quarantine.files,
            duplicates=quarantine.duplicates,
            corrections=quarantine.corrections,
            audit=Audit.read(uris["audit"]) if "audit" in uris else None,
            drift=DriftReport.read(uris["anomalies"]),
            explained=explained,
            explanation_failures=explanations.read_failures(uris["explanations"]) if "explanations" in uris else [],
            incorrect=incorrect,
            correct=correct,
            color_scale=explanations.color_scale(options.grad_cam.colormap) if incorrect or correct else [],
            compared=compared,
            comparison_note=drawing.comparison.note(options) if drawing.comparison else "",
            legend=[
                (name, "#{:02x}{:02x}{:02x}".format(*color))
                for name, color in drawing.legend(options.classes, options.ignore_id, None)
            ],
            lineage=lineage.rows(artifacts, exec_properties, (self._context and self._context.pipeline_run_id) or ""),
            versions=lineage.versions(),
            configuration=exec_properties["configuration"],
            created=datetime.datetime.now(datetime.UTC),
        )

    def _worst_predictions(
        self, artifacts: Mapping[str, types.Artifact], options: TrainerOptions, split: str, report_uri: str
    ) -> list[ComparedExample]:
        """Predicts the split again and draws the worst predictions; their file exists only until they are read."""
        path = join(report_uri, "worst_predictions.jsonl")
        with self._make_beam_pipeline() as pipeline:
            _ = pipeline | "WriteWorst" >> worst_predictions.WriteWorst(
                io_utils.all_files_pattern(artifact_utils.get_split_uri([artifacts["examples"]], split)),
                join(artifacts["model_run"].uri, features.KERAS_FILE),
                options,
                images.NUM_COMPARED,
                path,
            )
        compared = worst_predictions.read(path)
        tf.io.gfile.remove(path)
        return compared


def _push(artifact: types.Artifact) -> Push | None:
    if artifact.get_int_custom_property("pushed") != 1:
        return None
    version, destination = (
        artifact.get_string_custom_property(f"pushed_{name}") for name in ("version", "destination")
    )
    return Push(version, destination)
