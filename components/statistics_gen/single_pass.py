"""TFDV's statistics of all splits in one pass over the examples: three Beam stages instead of seventy.

Uses private names of TFDV and tfx-bsl. They are all imported by name here, so that a renamed one fails before anything
runs; see `trainer_module.private_api`.
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import apache_beam as beam
import pyarrow as pa
import tensorflow as tf
import tensorflow_data_validation as tfdv
from tensorflow_data_validation.statistics.stats_impl import extract_statistics_output, get_generators
from tensorflow_metadata.proto.v0 import statistics_pb2
from tfx.components.statistics_gen.executor import DEFAULT_FILE_NAME
from tfx.types import artifact_utils
from tfx.utils import json_utils
from tfx_bsl.arrow.table_util import MergeRecordBatches
from tfx_bsl.coders.example_coder import ExamplesToRecordBatchDecoder

from components import records
from components.artifacts import Artifacts


@dataclass(frozen=True)
class SinglePass:
    """Statistics to compute.

    Attributes:
      options: What is computed, as JSON: TFDV's options cannot be pickled.
      names: The features.
      groups: The files of every split, in groups: (split, paths).
      uris: Split → folder of its statistics.
    """

    options: str
    names: list[str]
    groups: list[tuple[str, list[str]]]
    uris: dict[str, str]

    def run(self) -> None:
        """Computes and writes the statistics in this process."""
        read, combine = _Read(self.names), _Statistics(self.options)
        read.setup()
        combine.setup()
        accumulators: dict[str, list[Any]] = {}
        for group in self.groups:
            for split, batch in read.process(group):
                accumulator = accumulators.get(split) or combine.create_accumulator()
                accumulators[split] = combine.add_input(accumulator, batch)
        for split, accumulator in accumulators.items():
            _write(combine.extract_output(accumulator), self.uris[split])

    def add_to(self, pipeline: beam.Pipeline) -> None:
        """Adds the computation of the statistics to a Beam pipeline."""
        uris = self.uris
        (
            pipeline
            | "Files" >> beam.Create(self.groups)
            | "Read" >> beam.ParDo(_Read(self.names))
            | "Statistics" >> beam.CombinePerKey(_Statistics(self.options))
            | "Write" >> beam.MapTuple(lambda split, statistics: _write(statistics, uris[split]))
        )


def prepare(input_dict: Artifacts, output_dict: Artifacts, exec_properties: dict[str, Any]) -> SinglePass | None:
    """Prepares an execution of TFX's StatisticsGen.

    Args:
      input_dict: `examples`.
      output_dict: `statistics`: gets its splits and its span.
      exec_properties: `stats_options_json`, `exclude_splits`.

    Returns:
      None if the options ask for more than a list of features and the number of quantiles and of ranks.
    """
    options = tfdv.StatsOptions.from_json(exec_properties["stats_options_json"])
    if (
        not options.feature_allowlist
        or options.to_json() != _supported_part(options).to_json()
        or input_dict.get("schema")
        or exec_properties.get("sharded_stats_output")
        or json_utils.loads(exec_properties.get("sample_rate_by_split") or "null")
    ):
        return None
    get_generators(options, in_memory=True)  # other arguments fail here and not in a Beam worker
    examples = artifact_utils.get_single_instance(input_dict["examples"])
    statistics = artifact_utils.get_single_instance(output_dict["statistics"])
    excluded = json_utils.loads(exec_properties.get("exclude_splits") or "null") or []
    splits = [split for split in artifact_utils.decode_split_names(examples.split_names) if split not in excluded]
    statistics.split_names = artifact_utils.encode_split_names(splits)
    statistics.span = examples.span
    return SinglePass(
        options.to_json(),
        options.feature_allowlist,
        [(split, group) for split in splits for group in records.file_groups(examples, split)],
        {split: artifact_utils.get_split_uri([statistics], split) for split in splits},
    )


def _supported_part(options: tfdv.StatsOptions) -> tfdv.StatsOptions:
    return tfdv.StatsOptions(
        feature_allowlist=options.feature_allowlist,
        num_quantiles_histogram_buckets=options.num_quantiles_histogram_buckets,
        num_rank_histogram_buckets=options.num_rank_histogram_buckets,
    )


class _Read(beam.DoFn):
    """Reads the listed features of some files: (split, paths) → (split, record batch)."""

    def __init__(self, names: list[str]) -> None:
        self._names = names

    def setup(self) -> None:
        self._decoder = ExamplesToRecordBatchDecoder()

    def process(self, group: tuple[str, list[str]]) -> Iterable[tuple[str, pa.RecordBatch]]:
        split, paths = group
        batches = []
        for serialized in records.batches(paths).as_numpy_iterator():
            batch = self._decoder.DecodeBatch(serialized)
            batches.append(batch.select([name for name in self._names if name in batch.schema.names]))
        if batches:
            # One call of each generator for all of them: the cost is per call and not per example.
            yield split, MergeRecordBatches(batches)


class _Statistics(beam.CombineFn):
    """Applies TFDV's generators for statistics in memory, all of which can be merged."""

    def __init__(self, options: str) -> None:
        self._options = options

    def setup(self) -> None:
        self._generators = get_generators(tfdv.StatsOptions.from_json(self._options), in_memory=True)
        for generator in self._generators:
            generator.setup()

    def create_accumulator(self) -> list[Any]:
        return [generator.create_accumulator() for generator in self._generators]

    def add_input(self, accumulator: list[Any], batch: pa.RecordBatch) -> list[Any]:
        return [generator.add_input(part, batch) for generator, part in zip(self._generators, accumulator, strict=True)]

    def merge_accumulators(self, accumulators: Iterable[list[Any]]) -> list[Any]:
        parts = zip(self._generators, zip(*accumulators, strict=True), strict=True)
        return [generator.merge_accumulators(part) for generator, part in parts]

    def compact(self, accumulator: list[Any]) -> list[Any]:
        return [generator.compact(part) for generator, part in zip(self._generators, accumulator, strict=True)]

    def extract_output(self, accumulator: list[Any]) -> statistics_pb2.DatasetFeatureStatisticsList:
        return extract_statistics_output(accumulator, self._generators)


def _write(statistics: statistics_pb2.DatasetFeatureStatisticsList, uri: str) -> None:
    tf.io.gfile.makedirs(uri)
    with tf.io.gfile.GFile(os.path.join(uri, DEFAULT_FILE_NAME), "wb") as file:
        file.write(statistics.SerializeToString())
