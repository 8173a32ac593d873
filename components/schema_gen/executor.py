"""SchemaGen's work: TFDV infers, then what it cannot know is corrected."""

from __future__ import annotations

import math
import os
from collections.abc import Iterable, Sequence
from typing import Any

from tensorflow_metadata.proto.v0 import schema_pb2, statistics_pb2
from tfx import types
from tfx.components.schema_gen import executor
from tfx.components.statistics_gen import stats_artifact_utils
from tfx.types import artifact_utils
from tfx.utils import io_utils, json_utils

from trainer_module import features

# Features that are in no statistics: hashing every image would cost more than all the rest, and every file name would
# become a value of an enumeration.
UNCOUNTED = (features.IMAGE_ENCODED, features.IMAGE_FILENAME, features.IMAGE_SHA256)
UNCOUNTED_LABELS = (features.MASK_ENCODED,)
STATISTICS_ENVIRONMENT = "STATISTICS"

_SIZES = (features.IMAGE_HEIGHT, features.IMAGE_WIDTH)
_LARGEST_VALUE = 255.0


def curate(
    schema: schema_pb2.Schema,
    statistics: Iterable[statistics_pb2.DatasetFeatureStatisticsList],
    margin: float,
    classes: Sequence[str],
    *,
    label_features: Sequence[str] = (features.CLASS_TEXT,),
) -> schema_pb2.Schema:
    """Corrects an inferred schema, in place.

    The uncounted features are added, but not expected in the environment `STATISTICS`. Slice values are free, since a
    rare value of a slice is no fault of the data. The picture format is any that can be read, whichever the train split
    happens to hold; class names are those of the data, and a picture's mask may hold any number of them. Sizes,
    brightness and colours have the range that all splits together have, widened by the margin: what the next span is
    checked against.

    Args:
      schema: As TFDV infers it from the train split.
      statistics: Of every split.
      margin: How far a range is widened, as a part of it.
      classes: Class names. TFDV would infer no more than a hundred.
      label_features: Raw example features of the label.
    """
    schema.default_environment.append(STATISTICS_ENVIRONMENT)
    domains = {domain.name: domain for domain in schema.string_domain}
    ranges = _ranges(statistics)
    for feature in schema.feature:
        is_class = feature.name in (features.CLASS_TEXT, features.MASK_CLASSES)
        if is_class or feature.name == features.IMAGE_FORMAT or feature.name.startswith(features.SLICE_PREFIX):
            if feature.domain in domains:
                schema.string_domain.remove(domains.pop(feature.domain))
            feature.ClearField("domain_info")
        if feature.name == features.IMAGE_FORMAT:
            feature.string_domain.value.extend(features.IMAGE_FORMATS)
        elif is_class:
            feature.string_domain.value.extend(classes)
            if feature.name == features.MASK_CLASSES:
                # Any number, also where all masks of the train split happen to show equally many.
                for field in ("shape", "value_count", "presence"):
                    feature.ClearField(field)
        elif feature.name in ranges:
            low, high = ranges[feature.name]
            if feature.name in _SIZES:
                feature.int_domain.min = max(1, math.floor(low / (1 + margin)))
                feature.int_domain.max = math.ceil(high * (1 + margin))
            else:
                widened = max(1.0, margin * (high - low))
                feature.float_domain.min = max(0.0, low - widened)
                feature.float_domain.max = min(_LARGEST_VALUE, high + widened)
    for name in (*UNCOUNTED, *(name for name in label_features if name in UNCOUNTED_LABELS)):
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
        """Infers the schema as TFX does (same keys, and `options`), then rewrites it curated."""
        options = json_utils.loads(exec_properties["options"])
        super().Do(input_dict, output_dict, exec_properties)
        artifact = artifact_utils.get_single_instance(input_dict["statistics"])
        statistics = [
            stats_artifact_utils.load_statistics(artifact, split).proto()
            for split in artifact_utils.decode_split_names(artifact.split_names)
        ]
        path = os.path.join(artifact_utils.get_single_uri(output_dict["schema"]), executor.DEFAULT_FILE_NAME)
        schema = curate(
            io_utils.parse_pbtxt_file(path, schema_pb2.Schema()),
            statistics,
            options["domain_margin"],
            options["classes"],
            label_features=options["label_features"],
        )
        io_utils.write_pbtxt_file(path, schema)


def _ranges(statistics: Iterable[statistics_pb2.DatasetFeatureStatisticsList]) -> dict[str, tuple[float, float]]:
    """Smallest and largest value of every numeric feature, over all splits."""
    ranges: dict[str, tuple[float, float]] = {}
    for split in statistics:
        for feature in split.datasets[0].features:
            if feature.HasField("num_stats") and feature.num_stats.common_stats.num_non_missing:
                name, found = feature.path.step[0], feature.num_stats
                low, high = ranges.get(name, (found.min, found.max))
                ranges[name] = min(low, found.min), max(high, found.max)
    return ranges
