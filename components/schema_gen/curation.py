"""Corrects a schema that TFDV has inferred from the train split."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence

from tensorflow_metadata.proto.v0 import schema_pb2, statistics_pb2

from components.schema_gen.options import SchemaOptions
from trainer_module import features

# Features without statistics. Hashing every image would take longer than everything else, and the file names would
# become the values of an enumeration.
UNCOUNTED = (features.IMAGE_ENCODED, features.IMAGE_FILENAME, features.IMAGE_SHA256)
UNCOUNTED_LABELS = (features.MASK_ENCODED, *features.BOX_CORNERS)
# Features without statistics are not expected in this environment.
STATISTICS_ENVIRONMENT = "STATISTICS"

# Ranges that follow from the definition of a feature. Rare boxes are not anomalies: their distributions are compared.
_COUNTS = (features.BOX_COUNT, features.CLASS_COUNT)
_FLAGS = (features.BOX_DIFFICULT, features.BOX_IS_CROWD)
_FRACTIONS = (*features.BOX_CORNERS, features.BOX_SIZE)
_RATIOS = (features.BOX_ASPECT_RATIO,)
_SIZES = (features.IMAGE_HEIGHT, features.IMAGE_WIDTH)
_MAX_PIXEL_VALUE = 255.0
_TYPES = {"string": schema_pb2.BYTES, "float32": schema_pb2.FLOAT, "int64": schema_pb2.INT}


def curate(
    schema: schema_pb2.Schema,
    statistics: Iterable[statistics_pb2.DatasetFeatureStatisticsList],
    options: SchemaOptions,
    classes: Sequence[str],
) -> schema_pb2.Schema:
    """Corrects an inferred schema, in place.

    * Features without statistics are added; the environment `STATISTICS` does not expect them.
    * Class names are those of the dataset: TFDV infers at most a hundred.
    * Label features may have any number of values if the label allows it, even if all examples have the same number.
    * The image format may be any that can be read, and slices may have any value: a rare value is not an anomaly.
    * Sizes of images, brightness and colours have the range over all splits, widened by the margin. The next span is
      validated against it. Features of boxes have the range of their definition.

    Args:
      schema: Inferred by TFDV from the train split.
      statistics: The statistics of every split.
      options: What the statistics do not tell.
      classes: Class names.
    """
    schema.default_environment.append(STATISTICS_ENVIRONMENT)
    ranges = _ranges(statistics)
    for feature in schema.feature:
        is_class_name = feature.name in options.label_features and feature.type == schema_pb2.BYTES
        if is_class_name or feature.name == features.IMAGE_FORMAT or feature.name.startswith(features.SLICE_PREFIX):
            _clear_domain(schema, feature)
        if is_class_name:
            feature.string_domain.value.extend(classes)
        elif feature.name == features.IMAGE_FORMAT:
            feature.string_domain.value.extend(features.IMAGE_FORMATS)
        elif feature.name in features.BOX_DTYPES or feature.name in _COUNTS:
            _set_own_range(feature)
        elif feature.name in ranges:
            _set_range(feature, *ranges[feature.name], options.domain_margin)
        if feature.name in options.label_features and feature.name not in options.single_valued_features:
            for field in ("shape", "value_count", "presence"):
                feature.ClearField(field)
    for name in (*UNCOUNTED, *(name for name in UNCOUNTED_LABELS if name in options.label_features)):
        feature = schema.feature.add(name=name, type=_TYPES[features.BOX_DTYPES.get(name, "string")])
        _set_own_range(feature)
        if name not in features.BOX_DTYPES:  # those have any number of values
            feature.presence.min_fraction = 1.0
            feature.presence.min_count = 1
            feature.shape.dim.add(size=1)
        feature.not_in_environment.append(STATISTICS_ENVIRONMENT)
    return schema


def _clear_domain(schema: schema_pb2.Schema, feature: schema_pb2.Feature) -> None:
    for domain in [domain for domain in schema.string_domain if domain.name == feature.domain]:
        schema.string_domain.remove(domain)
    feature.ClearField("domain_info")


def _set_own_range(feature: schema_pb2.Feature) -> None:
    if feature.name in _COUNTS:
        feature.int_domain.min = 0
    elif feature.name in _FLAGS:
        feature.int_domain.min, feature.int_domain.max = 0, 1
    elif feature.name in _FRACTIONS:
        feature.float_domain.min, feature.float_domain.max = 0.0, 1.0
    elif feature.name in _RATIOS:
        feature.float_domain.min = 0.0


def _set_range(feature: schema_pb2.Feature, low: float, high: float, margin: float) -> None:
    if feature.name in _SIZES:
        feature.int_domain.min = max(1, math.floor(low / (1 + margin)))
        feature.int_domain.max = math.ceil(high * (1 + margin))
    else:
        widening = max(1.0, margin * (high - low))
        feature.float_domain.min = max(0.0, low - widening)
        feature.float_domain.max = min(_MAX_PIXEL_VALUE, high + widening)


def _ranges(statistics: Iterable[statistics_pb2.DatasetFeatureStatisticsList]) -> dict[str, tuple[float, float]]:
    """Smallest and largest value of every numeric feature over all splits."""
    ranges: dict[str, tuple[float, float]] = {}
    for split in statistics:
        for feature in split.datasets[0].features:
            numbers = feature.num_stats
            if feature.HasField("num_stats") and numbers.common_stats.num_non_missing:
                name = feature.path.step[0]
                low, high = ranges.get(name, (numbers.min, numbers.max))
                ranges[name] = min(low, numbers.min), max(high, numbers.max)
    return ranges
