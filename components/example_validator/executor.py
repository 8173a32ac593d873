"""Executor of ImageExampleValidator."""

from __future__ import annotations

import os
from typing import Any

from tensorflow_metadata.proto.v0 import schema_pb2, statistics_pb2
from tfx import types
from tfx.components.example_validator.executor import ARTIFACT_PROPERTY_BLESSED_KEY, DEFAULT_FILE_NAME
from tfx.components.statistics_gen import stats_artifact_utils
from tfx.dsl.components.base import base_executor
from tfx.types import artifact_utils
from tfx.utils import io_utils, writer_utils

from components.artifacts import Artifacts
from components.example_validator import findings
from components.example_validator.artifact import DriftReport
from components.example_validator.findings import Rule
from components.example_validator.options import DriftOptions
from trainer_module import features

# Properties of the anomalies artifact: ids of the validated artifacts. Only a blessed span becomes the previous span.
STATISTICS_ID, SCHEMA_ID = "statistics_id", "schema_id"


class Executor(base_executor.BaseExecutor):
    """TFX's ExampleValidator as a gate: it also compares with the previous span, and refuses the dataset.

    It does not extend TFX's executor: that one names no environment, and only a private method could add it.
    """

    def Do(self, input_dict: Artifacts, output_dict: Artifacts, exec_properties: dict[str, Any]) -> None:
        """Validates every split.

        Args:
          input_dict: `statistics`, `schema`; `previous_statistics` and `previous_schema` if there is a previous span.
          output_dict: `anomalies`: as TFX's, `drift.json`, properties `statistics_id` and `schema_id`.
          exec_properties: `options` (DriftOptions as JSON).

        Raises:
          AnomaliesFoundError: With all findings that refuse the dataset.
        """
        options = DriftOptions.model_validate_json(exec_properties["options"])
        statistics, schema = (artifact_utils.get_single_instance(input_dict[name]) for name in ("statistics", "schema"))
        artifact = artifact_utils.get_single_instance(output_dict["anomalies"])
        artifact.split_names, artifact.span = statistics.split_names, statistics.span
        artifact.set_int_custom_property(STATISTICS_ID, statistics.id)
        artifact.set_int_custom_property(SCHEMA_ID, schema.id)
        splits = artifact_utils.decode_split_names(statistics.split_names)
        by_split = {split: _read_statistics(statistics, split) for split in splits}
        anomalies = findings.validate(by_split, _read_schema(schema))
        for split, proto in anomalies.items():
            split_uri = artifact_utils.get_split_uri([artifact], split)
            writer_utils.write_anomalies(os.path.join(split_uri, DEFAULT_FILE_NAME), proto)
        blessed = {split: int(not findings.describe("anomaly", {split: proto})) for split, proto in anomalies.items()}
        artifact.set_json_value_custom_property(ARTIFACT_PROPERTY_BLESSED_KEY, blessed)
        previous = (input_dict.get("previous_statistics") or [None])[0]
        previous_schema = (input_dict.get("previous_schema") or [None])[0]
        drift = []
        if previous is not None and previous_schema is not None:
            before = _read_statistics(previous, features.TRAIN)
            drift = findings.find_drift(by_split, before, _read_schema(previous_schema), options.drift_threshold)
        skew = None if options.on_skew == "ignore" else findings.find_skew(by_split, options.skew_threshold)
        DriftReport(
            previous_span=previous and previous.span,
            drift=tuple(drift),
            skew=None if skew is None else tuple(skew),
        ).write(artifact.uri)
        findings.apply(
            Rule(findings.describe("anomaly", anomalies), True, "The images do not match the schema."),
            Rule(
                drift,
                options.on_drift == "stop",
                f"The images have drifted from those of span {previous and previous.span}.",
                'To accept this change, use --set validation.on_drift="warn".',
            ),
            Rule(
                skew or [],
                options.on_skew == "stop",
                "The splits differ.",
                'If they differ on purpose, use --set validation.on_skew="warn".',
            ),
        )


def _read_statistics(artifact: types.Artifact, split: str) -> statistics_pb2.DatasetFeatureStatisticsList:
    return stats_artifact_utils.load_statistics(artifact, split).proto()


def _read_schema(artifact: types.Artifact) -> schema_pb2.Schema:
    schema: schema_pb2.Schema = io_utils.SchemaReader().read(io_utils.get_only_uri_in_dir(artifact.uri))
    return schema
