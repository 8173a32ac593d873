"""Reads the training and the statistics of a run."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Sequence
from typing import Any

from tensorflow_metadata.proto.v0 import statistics_pb2

from components.evaluator import default_rules
from components.model_report.label_statistics import Distribution, SplitLabels
from components.model_report.sources import ImageSizes
from trainer_module import features, locations
from trainer_module.options import TrainerOptions


def training_history(uri: str) -> list[dict[str, str]]:
    """Reads the history of a `model_run` artifact, one row per epoch."""
    content = locations.read(locations.join(uri, features.HISTORY_FILE)).decode()
    return list(csv.DictReader(io.StringIO(content, newline="")))


def tuned_values(trials: list[dict[str, str]], options: TrainerOptions) -> dict[str, Any]:
    """Returns the values that Tuner chose: those of the settings that its table has columns for."""
    values = {}
    for name in trials[0] if trials else ():
        section, dot, key = name.partition(".")
        if dot:
            values[name] = getattr(getattr(options, section), key)
    return values


def split_labels(
    split: str, statistics: statistics_pb2.DatasetFeatureStatisticsList, keys: Iterable[str], class_keys: Sequence[str]
) -> SplitLabels:
    """Reads the distributions of label features, and the number of labels of every class.

    Args:
      split: Name of the split.
      statistics: Its statistics.
      keys: Features with numbers; those without statistics are left out.
      class_keys: Features with class names.
    """
    by_name = {feature.path.step[0]: feature for feature in statistics.datasets[0].features}
    distributions = {}
    for key in keys:
        if key in by_name and by_name[key].HasField("num_stats"):
            numbers = by_name[key].num_stats
            quantiles = [
                histogram.buckets
                for histogram in numbers.histograms
                if histogram.type == statistics_pb2.Histogram.QUANTILES
            ]
            distributions[key] = Distribution(
                number=numbers.common_stats.tot_num_values,
                zeros=numbers.num_zeros,
                smallest=numbers.min,
                median=numbers.median,
                largest=numbers.max,
                buckets=tuple(
                    (bucket.low_value, bucket.high_value, bucket.sample_count)
                    for bucket in (quantiles[0] if quantiles else ())
                ),
            )
    return SplitLabels(split, default_rules.class_counts(statistics, class_keys), distributions)


def image_sizes(split: str, statistics: statistics_pb2.DatasetFeatureStatisticsList) -> ImageSizes:
    """Reads the sizes and formats of a split's images."""
    by_name = {feature.path.step[0]: feature for feature in statistics.datasets[0].features}

    def bounds(key: str) -> tuple[float, float, float]:
        numbers = by_name[key].num_stats
        return numbers.min, numbers.median, numbers.max

    buckets = by_name[features.IMAGE_FORMAT].string_stats.rank_histogram.buckets
    return ImageSizes(
        split,
        widths=bounds(features.IMAGE_WIDTH),
        heights=bounds(features.IMAGE_HEIGHT),
        formats={bucket.label: round(bucket.sample_count) for bucket in buckets},
    )
