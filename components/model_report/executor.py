"""ModelReport's work: read what the nodes left, build the page, write it."""

from __future__ import annotations

import csv
import datetime
import importlib.metadata
import io
import json
import logging
import os
import platform
from collections.abc import Iterable
from typing import Any

import apache_beam as beam
import tensorflow as tf
from PIL import Image
from tensorflow_metadata.proto.v0 import statistics_pb2
from tfx import types
from tfx.components.statistics_gen import stats_artifact_utils
from tfx.dsl.components.base import base_beam_executor
from tfx.types import artifact_utils
from tfx.utils import io_utils

from components.evaluator.artifact import EvaluationResult, GateReport
from components.example_validator.executor import DRIFT_FILE
from components.grad_cam.artifact import ExplainedPrediction, ExplanationIndex, FaithfulnessReport
from components.image_example_gen.artifact import Quarantine
from components.model_report import masks, page, pictures, rendering, weakest
from components.model_report.sources import Explained, Push, Sizes, Sources
from components.serving_validator.artifact import ServingCheckReport
from components.tuner.executor import TRIALS_FILE
from trainer_module import features, overlays
from trainer_module.options import TrainerOptions

REPORT_FILE = "report.html"

# As many lines of the quarantine's files are read: a page with thousands would not be read by anybody.
_MOST_LINES = 50
_PACKAGES = (
    "tfx-vision",
    "tfx",
    "tensorflow",
    "keras",
    "tensorflow-transform",
    "tensorflow-model-analysis",
    "tensorflow-data-validation",
    "apache-beam",
    "ml-metadata",
)


class Executor(base_beam_executor.BaseBeamExecutor):
    """Beam executor of ModelReport; only masks need Beam."""

    def Do(
        self,
        input_dict: dict[str, list[types.Artifact]],
        output_dict: dict[str, list[types.Artifact]],
        exec_properties: dict[str, Any],
    ) -> None:
        """Writes the report.

        Args:
          input_dict: `model`, `model_run`, `examples`, `statistics`, `quarantine`, `anomalies`, `evaluation`,
            `blessing`, `infra_blessing`, `pushed_model`; where there are any, `baseline_model`, `explanations`,
            `tuner_results`.
          output_dict: `report`: `report.html`.
          exec_properties: `name`, `configuration` (TOML), `data_fingerprint`, `source_hash`.
        """
        present = {key: artifacts[0] for key, artifacts in input_dict.items() if artifacts}
        report = artifact_utils.get_single_instance(output_dict["report"])
        evaluation = EvaluationResult.read(present["evaluation"].uri)
        # The configuration as it was trained with, what Tuner found included.
        options = TrainerOptions.model_validate_json(_read(present["model_run"], features.OPTIONS_FILE))
        quarantine = Quarantine.read(present["quarantine"].uri, _MOST_LINES)
        pushed, baseline = present["pushed_model"], present.get("baseline_model")
        # Of masks the page shows the weakest pictures instead.
        shown = "explanations" in present and evaluation.counts_images
        explained = _explanations(present["explanations"]) if shown else []
        trials = list(_table(present["tuner_results"], TRIALS_FILE)) if "tuner_results" in present else []
        sources = Sources(
            name=exec_properties["name"],
            evaluation=evaluation,
            gates=GateReport.read(present["evaluation"].uri),
            blessed=present["blessing"].get_int_custom_property("blessed") == 1,
            checks=[check.model_dump() for check in ServingCheckReport.read(present["infra_blessing"].uri).checks],
            servable=present["infra_blessing"].get_int_custom_property("blessed") == 1,
            pushed=_push(pushed),
            baseline=_described(baseline) if baseline else "",
            history=list(_table(present["model_run"], features.HISTORY_FILE)),
            trials=trials,
            tuned=_tuned(trials, options),
            data=quarantine.summary,
            sizes=_sizes(present["statistics"]),
            quarantined=quarantine.files,
            duplicates=quarantine.duplicates,
            drift=json.loads(_read(present["anomalies"], DRIFT_FILE)),
            explained=shown,
            unfaithful=_unfaithful(present["explanations"]) if "explanations" in present else [],
            mistakes=[decision for correct, decision in explained if not correct],
            right=[decision for correct, decision in explained if correct],
            scale=_scale(options) if explained else [],
            comparisons=self._comparisons(present, options, evaluation, report.uri),
            legend=[] if evaluation.counts_images else _legend(options),
            lineage=self._lineage(present, exec_properties),
            versions=[
                *((name, importlib.metadata.version(name)) for name in _PACKAGES),
                ("python", platform.python_version()),
            ],
            configuration=exec_properties["configuration"],
            created=datetime.datetime.now(datetime.UTC),
        )
        html = rendering.render(page.build(sources))
        logging.info("The report has %d bytes.", len(html.encode()))
        with tf.io.gfile.GFile(os.path.join(report.uri, REPORT_FILE), "w") as file:
            file.write(html)

    def _comparisons(
        self, present: dict[str, types.Artifact], options: TrainerOptions, evaluation: EvaluationResult, output_dir: str
    ) -> list[masks.Comparison]:
        """Of masks: the weakest pictures of the evaluated split, predicted anew."""
        if evaluation.counts_images:
            return []
        split_uri = artifact_utils.get_split_uri([present["examples"]], evaluation.split)
        find = weakest.FindWeakest(
            io_utils.all_files_pattern(split_uri),
            os.path.join(present["model_run"].uri, features.KERAS_FILE),
            options,
            pictures.NUM_MASKS,
        )
        path = os.path.join(output_dir, "weakest")
        with self._make_beam_pipeline() as pipeline:
            _ = (
                pipeline
                | "Find" >> find
                | "Draw" >> beam.FlatMap(_draw, options)
                | "Write" >> beam.io.WriteToText(path, shard_name_template="")
            )
        with tf.io.gfile.GFile(path) as file:
            found = [json.loads(line) for line in file.read().splitlines()]
        tf.io.gfile.remove(path)
        found.sort(key=lambda entry: (entry["accuracy"], entry["filename"]))
        return [masks.from_json(entry) for entry in found]

    def _lineage(self, present: dict[str, types.Artifact], exec_properties: dict[str, Any]) -> list[tuple[str, str]]:
        run_id = self._context.pipeline_run_id if self._context else None
        examples = present["examples"]
        rows = [
            ("Model", _described(present["model"])),
            ("Model before", _described(present["baseline_model"]) if "baseline_model" in present else "none"),
            ("Training", _described(present["model_run"])),
            ("Examples", _described(examples)),
            ("Span of the data", str(examples.span) if examples.span else ""),
            ("Data fingerprint", exec_properties["data_fingerprint"]),
            ("Evaluation", _described(present["evaluation"])),
            ("Code", exec_properties["source_hash"]),
            ("Pipeline run", run_id or ""),
        ]
        return [(name, value) for name, value in rows if value]


# --- Artifacts --------------------------------------------------------------------------------------------------


def _read(artifact: types.Artifact, name: str) -> str:
    with tf.io.gfile.GFile(os.path.join(artifact.uri, name)) as file:
        text: str = file.read()
        return text


def _table(artifact: types.Artifact, name: str) -> Iterable[dict[str, str]]:
    return csv.DictReader(io.StringIO(_read(artifact, name)))


def _described(artifact: types.Artifact) -> str:
    """Number in ML Metadata, when it was made, and where it lies."""
    made = artifact.mlmd_artifact.create_time_since_epoch
    when = datetime.datetime.fromtimestamp(made / 1000, datetime.UTC).strftime(", %Y-%m-%d %H:%M UTC") if made else ""
    return f"artifact {artifact.id}{when}: {artifact.uri}"


def _push(artifact: types.Artifact) -> Push | None:
    if artifact.get_int_custom_property("pushed") != 1:
        return None
    return Push(
        artifact.get_string_custom_property("pushed_version"), artifact.get_string_custom_property("pushed_destination")
    )


def _tuned(trials: list[dict[str, str]], options: TrainerOptions) -> dict[str, Any]:
    """What Tuner found: the values of the options that its table has columns of."""
    found = {}
    for name in trials[0] if trials else ():
        section, dot, key = name.partition(".")
        if dot:
            found[name] = getattr(getattr(options, section), key)
    return found


# --- Statistics -------------------------------------------------------------------------------------------------


def _sizes(statistics: types.Artifact) -> list[Sizes]:
    splits = artifact_utils.decode_split_names(statistics.split_names)
    return [sizes_of(split, stats_artifact_utils.load_statistics(statistics, split).proto()) for split in splits]


def sizes_of(split: str, statistics: statistics_pb2.DatasetFeatureStatisticsList) -> Sizes:
    """Reads the sides and formats of the pictures of a split."""
    by_name = {feature.path.step[0]: feature for feature in statistics.datasets[0].features}

    def sides(key: str) -> tuple[float, float, float]:
        found = by_name[key].num_stats
        return found.min, found.median, found.max

    buckets = by_name[features.IMAGE_FORMAT].string_stats.rank_histogram.buckets
    return Sizes(
        split,
        widths=sides(features.IMAGE_WIDTH),
        heights=sides(features.IMAGE_HEIGHT),
        formats={bucket.label: round(bucket.sample_count) for bucket in buckets},
    )


# --- Pictures ---------------------------------------------------------------------------------------------------


def _explanations(artifact: types.Artifact) -> list[tuple[bool, Explained]]:
    """The most confident predictions that GradCam explained, wrong ones (False) before right ones (True)."""
    entries = sorted(ExplanationIndex.read(artifact.uri).predictions, key=lambda entry: (-entry.score, entry.filename))
    return [
        (correct, _explained(artifact, entry))
        for correct, most in ((False, pictures.NUM_MISTAKES), (True, pictures.NUM_RIGHT))
        for entry in [entry for entry in entries if entry.correct == correct][:most]
    ]


def _unfaithful(artifact: types.Artifact) -> list[str]:
    """The faithfulness metrics that miss their threshold."""
    return [result.detail for result in FaithfulnessReport.read(artifact.uri).failures()]


def _explained(artifact: types.Artifact, entry: ExplainedPrediction) -> Explained:
    def picture(path: str, alt: str) -> pictures.Picture:
        with tf.io.gfile.GFile(os.path.join(artifact.uri, path), "rb") as file:
            return pictures.photograph(Image.open(io.BytesIO(file.read())), alt)

    return Explained(
        filename=entry.filename,
        truth=entry.label,
        predicted=entry.predicted,
        score=entry.score,
        picture=picture(entry.image, f"{entry.filename}, as the model saw it"),
        overlay=picture(entry.overlay, f"Heat map over {entry.filename} for class {entry.predicted}"),
        empty=entry.empty,
    )


def _draw(found: list[weakest.Predicted], options: TrainerOptions) -> Iterable[str]:
    for entry in found:
        drawn = masks.compare(entry.filename, *entry.arrays(options), options.classes, options.ignore_id)
        yield json.dumps(masks.to_json(drawn))


def _scale(options: TrainerOptions) -> list[str]:
    colors = overlays.color_table(options.grad_cam.colormap)[::17].round().astype(int)
    return [f"rgb({red}, {green}, {blue})" for red, green, blue in colors]


def _legend(options: TrainerOptions) -> list[tuple[str, str]]:
    colors = [*zip(options.classes, masks.palette(len(options.classes)), strict=True)]
    if options.ignore_id is not None:
        colors.append(("does not count", masks.IGNORED_COLOR))
    return [(name, "#{:02x}{:02x}{:02x}".format(*color)) for name, color in colors]
