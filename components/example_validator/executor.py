"""ExampleValidator's work: TFDV looks for anomalies; any anomaly stops the run."""

from __future__ import annotations

import os
from typing import Any

import tensorflow_data_validation as tfdv
from tensorflow_metadata.proto.v0 import anomalies_pb2
from tfx import types
from tfx.components.example_validator import executor, labels
from tfx.components.util import value_utils
from tfx.proto.orchestration import execution_result_pb2
from tfx.types import standard_component_specs
from tfx.utils import writer_utils

from components.schema_gen.executor import STATISTICS_ENVIRONMENT


class AnomaliesFoundError(RuntimeError):
    """The pictures differ from what the schema expects."""


def describe(anomalies: anomalies_pb2.Anomalies) -> list[str]:
    """One line an anomaly: the feature's name and TFDV's own text."""
    lines = [
        f"{name}: {info.short_description}: {info.description}" for name, info in sorted(anomalies.anomaly_info.items())
    ]
    if anomalies.HasField("dataset_anomaly_info"):
        lines.append(f"data set: {anomalies.dataset_anomaly_info.description}")
    return lines


class Executor(executor.Executor):
    """TFX's ExampleValidator as a gate."""

    def Do(
        self,
        input_dict: dict[str, list[types.Artifact]],
        output_dict: dict[str, list[types.Artifact]],
        exec_properties: dict[str, Any],
    ) -> execution_result_pb2.ExecutorOutput:
        """Validates every split (same keys as TFX's).

        Raises:
          AnomaliesFoundError: With the text of every anomaly in every split.
        """
        self._found: list[str] = []
        output = super().Do(input_dict, output_dict, exec_properties)
        if self._found:
            raise AnomaliesFoundError("The pictures do not fit the schema.\n  " + "\n  ".join(self._found))
        return output

    def _Validate(self, inputs: dict[str, Any], outputs: dict[str, Any]) -> anomalies_pb2.Anomalies:
        # TFX names no environment; ours leaves out what the statistics do not hold on purpose.
        anomalies = tfdv.validate_statistics(
            statistics=value_utils.GetSoleValue(inputs, standard_component_specs.STATISTICS_KEY),
            schema=value_utils.GetSoleValue(inputs, standard_component_specs.SCHEMA_KEY),
            environment=STATISTICS_ENVIRONMENT,
        )
        split_dir = value_utils.GetSoleValue(outputs, labels.SCHEMA_DIFF_PATH)
        writer_utils.write_anomalies(os.path.join(split_dir, executor.DEFAULT_FILE_NAME), anomalies)
        split = os.path.basename(split_dir).removeprefix("Split-")
        self._found.extend(f"{split} split, {line}" for line in describe(anomalies))
        return anomalies
