"""ExampleValidator's work: looks for anomalies, for drift and for skew; each can stop the run."""

from __future__ import annotations

import json
import logging
import os
from typing import Any, NamedTuple

import tensorflow as tf
import tensorflow_data_validation as tfdv
from tensorflow_metadata.proto.v0 import anomalies_pb2, schema_pb2, statistics_pb2
from tfx import types
from tfx.components.example_validator import executor, labels
from tfx.components.statistics_gen import stats_artifact_utils
from tfx.components.util import value_utils
from tfx.proto.orchestration import execution_result_pb2
from tfx.types import artifact_utils, standard_component_specs
from tfx.utils import io_utils, writer_utils

from components.example_validator import drift
from components.example_validator.options import DriftOptions
from components.schema_gen.curation import STATISTICS_ENVIRONMENT
from trainer_module import features

DRIFT_FILE = "drift.json"
# Of the anomalies artifact: what was validated. An earlier span counts as previous only if it passed.
STATISTICS_ID, SCHEMA_ID = "statistics_id", "schema_id"


class Finding(NamedTuple):
    """What speaks against the pictures.

    Attributes:
      kind: `anomaly`, `drift` or `skew`.
      split: The split in which it was found.
      feature: The feature's name; `data set` where it is about no single one.
      detail: What was found, in words.
      value: The name whose share has changed, as that of a class.
      distance: How far it lies from what it was compared with; None where that is no number.
      allowed: How far it may.
    """

    kind: str
    split: str
    feature: str
    detail: str
    value: str | None = None
    distance: float | None = None
    allowed: float | None = None

    def __str__(self) -> str:
        return f"{self.split} split, {self.feature}: {self.detail}"


class AnomaliesFoundError(RuntimeError):
    """The pictures differ from what the schema, the span before or the train split lets expect.

    Attributes:
      findings: What speaks against them.
    """

    def __init__(self, message: str, findings: list[Finding]) -> None:
        """Takes the text for people, and what it is made of."""
        super().__init__(message)
        self.findings = findings


def describe(anomalies: anomalies_pb2.Anomalies) -> list[tuple[str, str]]:
    """Feature and TFDV's own text of every anomaly."""
    lines = [
        (name, f"{info.short_description}: {info.description}") for name, info in sorted(anomalies.anomaly_info.items())
    ]
    if anomalies.HasField("dataset_anomaly_info"):
        lines.append(("data set", anomalies.dataset_anomaly_info.description))
    return lines


def without_slices(
    schema: schema_pb2.Schema, statistics: statistics_pb2.DatasetFeatureStatisticsList
) -> tuple[schema_pb2.Schema, statistics_pb2.DatasetFeatureStatisticsList]:
    """Copies without slice features: these follow from the others, or are columns of a table that may come and go."""
    schema = schema_pb2.Schema.FromString(schema.SerializeToString())
    statistics = statistics_pb2.DatasetFeatureStatisticsList.FromString(statistics.SerializeToString())
    holders = ((schema.feature, _name_in_schema), (statistics.datasets[0].features, _name_in_statistics))
    for holder, name_of in holders:
        for feature in [feature for feature in holder if name_of(feature).startswith(features.SLICE_PREFIX)]:
            holder.remove(feature)
    return schema, statistics


def _name_in_schema(feature: schema_pb2.Feature) -> str:
    return str(feature.name)


def _name_in_statistics(feature: statistics_pb2.FeatureNameStatistics) -> str:
    return str(feature.path.step[0])


class Executor(executor.Executor):
    """TFX's ExampleValidator as a gate."""

    def Do(
        self,
        input_dict: dict[str, list[types.Artifact]],
        output_dict: dict[str, list[types.Artifact]],
        exec_properties: dict[str, Any],
    ) -> execution_result_pb2.ExecutorOutput:
        """Validates every split (same keys as TFX's, and `previous_statistics`, `previous_schema`, `options`).

        Raises:
          AnomaliesFoundError: With the text of all that was found and is to stop the run.
        """
        options = DriftOptions.model_validate_json(exec_properties["options"])
        anomalies = artifact_utils.get_single_instance(output_dict["anomalies"])
        for key, name in ((STATISTICS_ID, "statistics"), (SCHEMA_ID, "schema")):
            anomalies.set_int_custom_property(key, input_dict[name][0].id)
        self._options = options
        self._previous = (input_dict.get("previous_statistics") or [None])[0]
        schemas = input_dict.get("previous_schema")
        self._previous_schema = _read_schema(schemas[0]) if schemas else None
        self._anomalies: list[Finding] = []
        self._drift: list[Finding] = []
        output = super().Do(input_dict, output_dict, exec_properties)
        previous_span = self._previous.span if self._previous else None
        skew = [] if options.on_skew == "ignore" else _skew(input_dict["statistics"][0], options.skew_threshold)
        found = {
            "previous_span": previous_span,
            "found": [*map(str, self._drift)],
            # Nothing found is not the same as not looked for.
            "skew": None if options.on_skew == "ignore" else [*map(str, skew)],
        }
        with tf.io.gfile.GFile(os.path.join(anomalies.uri, DRIFT_FILE), "w") as file:
            file.write(json.dumps(found, indent=2))
        _judge(
            (self._anomalies, True, "The pictures do not fit the schema.", ""),
            (
                self._drift,
                options.on_drift == "stop",
                f"The pictures have drifted from those of span {previous_span}.",
                'If this change is wanted, accept it with --set validation.on_drift="warn".',
            ),
            (
                skew,
                options.on_skew == "stop",
                "The splits differ.",
                'If they differ on purpose, accept it with --set validation.on_skew="warn".',
            ),
        )
        return output

    def _Validate(self, inputs: dict[str, Any], outputs: dict[str, Any]) -> anomalies_pb2.Anomalies:
        # TFX names no environment; ours leaves out what the statistics do not hold on purpose.
        statistics = value_utils.GetSoleValue(inputs, standard_component_specs.STATISTICS_KEY)
        anomalies = tfdv.validate_statistics(
            statistics=statistics,
            schema=value_utils.GetSoleValue(inputs, standard_component_specs.SCHEMA_KEY),
            environment=STATISTICS_ENVIRONMENT,
        )
        split_dir = value_utils.GetSoleValue(outputs, labels.SCHEMA_DIFF_PATH)
        writer_utils.write_anomalies(os.path.join(split_dir, executor.DEFAULT_FILE_NAME), anomalies)
        split = os.path.basename(split_dir).removeprefix("Split-")
        self._anomalies.extend(Finding("anomaly", split, *line) for line in describe(anomalies))
        if self._previous is not None and self._previous_schema is not None:
            self._drift.extend(self._compare(split, statistics))
        return anomalies

    def _compare(self, split: str, statistics: statistics_pb2.DatasetFeatureStatisticsList) -> list[Finding]:
        """Against the previous span: ranges and names in every split, distributions in the largest."""
        schema, counted = without_slices(self._previous_schema, statistics)
        anomalies = tfdv.validate_statistics(statistics=counted, schema=schema, environment=STATISTICS_ENVIRONMENT)
        found = [Finding("drift", split, *line) for line in describe(anomalies)]
        if split == features.TRAIN:
            previous = stats_artifact_utils.load_statistics(self._previous, split).proto()
            found += _findings("drift", split, drift.compare(counted, previous, self._options.drift_threshold))
        return found


def _skew(statistics: types.Artifact, threshold: float) -> list[Finding]:
    """Holds every other split against the train split."""
    by_split = {}
    for split in artifact_utils.decode_split_names(statistics.split_names):
        loaded = stats_artifact_utils.load_statistics(statistics, split).proto()
        _, by_split[split] = without_slices(schema_pb2.Schema(), loaded)
    train = by_split.pop(features.TRAIN)
    found = []
    for split, counted in by_split.items():
        words = drift.Words("differs", f"in {split}", f"in {features.TRAIN}")
        found += _findings("skew", split, drift.compare(counted, train, threshold, words))
    return found


def _findings(kind: str, split: str, differences: list[drift.Difference]) -> list[Finding]:
    return [
        Finding(kind, split, found.feature, found.detail, found.value, found.distance, found.allowed)
        for found in differences
    ]


def _judge(*kinds: tuple[list[Finding], bool, str, str]) -> None:
    """Raises if any of the findings is to stop the run, and logs the others.

    Args:
      kinds: Findings, whether they stop the run, and what to say before and after them.
    """
    message: list[str] = []
    against: list[Finding] = []
    for findings, stops, heading, advice in kinds:
        if findings and stops:
            against += findings
            message += [heading, *(f"  {finding}" for finding in findings), *([advice] if advice else [])]
        elif findings:
            for finding in findings:
                logging.warning("%s: %s", finding.kind.capitalize(), finding)
    if against:
        raise AnomaliesFoundError("\n".join(message), against)


def _read_schema(artifact: types.Artifact) -> schema_pb2.Schema:
    schema: schema_pb2.Schema = io_utils.SchemaReader().read(io_utils.get_only_uri_in_dir(artifact.uri))
    return schema
