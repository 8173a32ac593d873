"""ExampleValidator's work: TFDV looks for anomalies and for drift; either stops the run."""

from __future__ import annotations

import json
import logging
import math
import os
from typing import Any

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

from components.example_validator.options import DriftOptions
from components.schema_gen.executor import STATISTICS_ENVIRONMENT
from trainer_module import features

DRIFT_FILE = "drift.json"
# Of the anomalies artifact: what was validated. An earlier span counts as previous only if it passed.
STATISTICS_ID, SCHEMA_ID = "statistics_id", "schema_id"

# Buckets of TFDV's standard histograms, from which it takes the Jensen-Shannon divergence.
_NUM_BUCKETS = 10
# Chance is given this many standard deviations.
_DEVIATIONS = 3.0


class AnomaliesFoundError(RuntimeError):
    """The pictures differ from what the schema, or the span before, lets expect."""


def describe(anomalies: anomalies_pb2.Anomalies) -> list[str]:
    """One line an anomaly: the feature's name and TFDV's own text."""
    lines = [
        f"{name}: {info.short_description}: {info.description}" for name, info in sorted(anomalies.anomaly_info.items())
    ]
    if anomalies.HasField("dataset_anomaly_info"):
        lines.append(f"data set: {anomalies.dataset_anomaly_info.description}")
    return lines


def with_comparators(
    schema: schema_pb2.Schema,
    statistics: statistics_pb2.DatasetFeatureStatisticsList,
    previous: statistics_pb2.DatasetFeatureStatisticsList,
    threshold: float,
) -> schema_pb2.Schema:
    """A copy of the schema that asks TFDV to compare the distribution of every feature.

    Two samples of the same pictures are never quite alike, and small ones less than large ones; what chance explains
    is added to the threshold. For the Jensen-Shannon divergence of k buckets that is a chi-squared variable with k - 1
    degrees of freedom, times (1/n + 1/m) / (8 ln 2) bits; for a share p a normal one of variance p (1 - p) (1/n + 1/m).

    Reference: J. Lin, Divergence Measures Based on the Shannon Entropy, IEEE Trans. Inf. Theory 37(1), 1991, and its
    expansion to second order about equal distributions.
    """
    result = schema_pb2.Schema.FromString(schema.SerializeToString())
    (now,), (before,) = statistics.datasets, previous.datasets
    spread = 1 / max(1, now.num_examples) + 1 / max(1, before.num_examples)
    freedom = _NUM_BUCKETS - 1
    by_chance = (freedom + _DEVIATIONS * math.sqrt(2 * freedom)) * spread / (8 * math.log(2))
    known = {feature.path.step[0] for feature in before.features}
    shares = {feature.path.step[0]: _largest_share(feature) for feature in before.features}
    for feature in result.feature:
        if feature.name not in known or feature.name.startswith(features.SLICE_PREFIX):
            continue  # slices follow from the figures, or are the user's own
        if feature.type == schema_pb2.BYTES:
            share = shares[feature.name]
            allowed = threshold + _DEVIATIONS * math.sqrt(share * (1 - share) * spread)
            feature.drift_comparator.infinity_norm.threshold = min(1.0, allowed)
        else:
            feature.drift_comparator.jensen_shannon_divergence.threshold = min(1.0, threshold + by_chance)
    return result


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
          AnomaliesFoundError: With the text of every anomaly in every split.
        """
        options = DriftOptions.model_validate_json(exec_properties["options"])
        anomalies = artifact_utils.get_single_instance(output_dict["anomalies"])
        for key, name in ((STATISTICS_ID, "statistics"), (SCHEMA_ID, "schema")):
            anomalies.set_int_custom_property(key, input_dict[name][0].id)
        self._options = options
        self._previous = (input_dict.get("previous_statistics") or [None])[0]
        schemas = input_dict.get("previous_schema")
        self._previous_schema = _read_schema(schemas[0]) if schemas else None
        self._found: list[str] = []
        self._drift: list[str] = []
        output = super().Do(input_dict, output_dict, exec_properties)
        drift = {"previous_span": self._previous.span if self._previous else None, "found": self._drift}
        with tf.io.gfile.GFile(os.path.join(anomalies.uri, DRIFT_FILE), "w") as file:
            file.write(json.dumps(drift, indent=2))
        if self._found:
            raise AnomaliesFoundError("The pictures do not fit the schema.\n  " + "\n  ".join(self._found))
        if self._drift and options.on_drift == "stop":
            raise AnomaliesFoundError(
                f"The pictures have drifted from those of span {drift['previous_span']}.\n  "
                + "\n  ".join(self._drift)
                + '\nIf this change is wanted, accept it with --set validation.on_drift="warn".'
            )
        for line in self._drift:
            logging.warning("Drift: %s", line)
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
        self._found.extend(f"{split} split, {line}" for line in describe(anomalies))
        if self._previous is not None and self._previous_schema is not None:
            self._drift.extend(f"{split} split, {line}" for line in self._compare(split, statistics))
        return anomalies

    def _compare(self, split: str, statistics: statistics_pb2.DatasetFeatureStatisticsList) -> list[str]:
        """Against the previous span: ranges and names in every split, distributions in the largest."""
        schema, previous = self._previous_schema, None
        if split == features.TRAIN:
            previous = stats_artifact_utils.load_statistics(self._previous, split).proto()
            schema = with_comparators(schema, statistics, previous, self._options.drift_threshold)
        return describe(
            tfdv.validate_statistics(
                statistics=statistics,
                schema=schema,
                environment=STATISTICS_ENVIRONMENT,
                previous_statistics=previous,
            )
        )


def _read_schema(artifact: types.Artifact) -> schema_pb2.Schema:
    schema: schema_pb2.Schema = io_utils.SchemaReader().read(io_utils.get_only_uri_in_dir(artifact.uri))
    return schema


def _largest_share(feature: statistics_pb2.FeatureNameStatistics) -> float:
    """Share of the most frequent value of a string feature; 0.5 varies most, and nothing above it is needed."""
    ranks = feature.string_stats.rank_histogram.buckets
    total = sum(bucket.sample_count for bucket in ranks)
    return min(0.5, max(bucket.sample_count for bucket in ranks) / total) if total else 0.5
