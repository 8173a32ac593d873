"""SchemaGen's work: TFDV infers, then what it cannot know is corrected."""

from __future__ import annotations

import os
from typing import Any

from tensorflow_metadata.proto.v0 import schema_pb2
from tfx import types
from tfx.components.schema_gen import executor
from tfx.types import artifact_utils
from tfx.utils import io_utils

from trainer_module import features

# Features that are in every example and in no statistics: hashing every picture would cost more than all the rest,
# and every file name would become a value of an enumeration.
UNCOUNTED = (features.IMAGE_ENCODED, features.IMAGE_FILENAME, features.IMAGE_SHA256)
STATISTICS_ENVIRONMENT = "STATISTICS"


def curate(schema: schema_pb2.Schema) -> schema_pb2.Schema:
    """Corrects an inferred schema, in place.

    The uncounted features are added, but not expected in the environment `STATISTICS`; slice values and sizes are
    free, since a rare value of a slice is no fault of the data; the picture format is JPEG or PNG, whichever of them
    the train split happens to hold; class names are what the train split has.
    """
    schema.default_environment.append(STATISTICS_ENVIRONMENT)
    domains = {domain.name: domain for domain in schema.string_domain}
    for feature in schema.feature:
        if feature.name == features.IMAGE_FORMAT or feature.name.startswith(features.SLICE_PREFIX):
            if feature.domain in domains:
                schema.string_domain.remove(domains.pop(feature.domain))
            feature.ClearField("domain_info")
        if feature.name == features.IMAGE_FORMAT:
            feature.string_domain.value.extend(["JPEG", "PNG"])
        if feature.name in (features.IMAGE_HEIGHT, features.IMAGE_WIDTH):
            feature.int_domain.min = 1
    for name in UNCOUNTED:
        feature = schema.feature.add(name=name, type=schema_pb2.BYTES)
        feature.presence.min_fraction = 1.0
        feature.presence.min_count = 1
        feature.shape.dim.add(size=1)
        feature.not_in_environment.append(STATISTICS_ENVIRONMENT)
    return schema


class Executor(executor.Executor):
    """TFX's SchemaGen, curated for pictures."""

    def Do(
        self,
        input_dict: dict[str, list[types.Artifact]],
        output_dict: dict[str, list[types.Artifact]],
        exec_properties: dict[str, Any],
    ) -> None:
        """Infers the schema as TFX does (same keys), then rewrites it curated."""
        super().Do(input_dict, output_dict, exec_properties)
        path = os.path.join(artifact_utils.get_single_uri(output_dict["schema"]), executor.DEFAULT_FILE_NAME)
        io_utils.write_pbtxt_file(path, curate(io_utils.parse_pbtxt_file(path, schema_pb2.Schema())))
