"""Executor of ImageSchemaGen."""

from __future__ import annotations

import os
from typing import Any

from tensorflow_metadata.proto.v0 import schema_pb2
from tfx.components.schema_gen import executor
from tfx.components.statistics_gen import stats_artifact_utils
from tfx.types import artifact_utils
from tfx.utils import io_utils

from components import classes
from components.artifacts import Artifacts
from components.schema_gen import curation
from components.schema_gen.options import SchemaOptions


class Executor(executor.Executor):
    """TFX's SchemaGen, with a curated schema."""

    def Do(self, input_dict: Artifacts, output_dict: Artifacts, exec_properties: dict[str, Any]) -> None:
        """Infers the schema as TFX does (same keys, and `options`) and curates it."""
        super().Do(input_dict, output_dict, exec_properties)
        artifact = artifact_utils.get_single_instance(input_dict["statistics"])
        statistics = [
            stats_artifact_utils.load_statistics(artifact, split).proto()
            for split in artifact_utils.decode_split_names(artifact.split_names)
        ]
        path = os.path.join(artifact_utils.get_single_uri(output_dict["schema"]), executor.DEFAULT_FILE_NAME)
        schema = curation.curate(
            io_utils.parse_pbtxt_file(path, schema_pb2.Schema()),
            statistics,
            SchemaOptions.model_validate_json(exec_properties["options"]),
            classes.read(input_dict, "statistics"),
        )
        io_utils.write_pbtxt_file(path, schema)
