"""Executor of ImageExampleGen: examines every image, assigns it to a split, writes it there or to quarantine."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

import apache_beam as beam
import tensorflow as tf
from apache_beam.options.pipeline_options import PipelineOptions, StandardOptions
from tfx.dsl.components.base import base_beam_executor
from tfx.types import artifact_utils

from components import single_process
from components.artifacts import Artifacts
from components.image_example_gen import (
    bit_depth,
    boxes,
    labels,
    layouts,
    limits,
    mixed_shards,
    pixel_checks,
    shards,
    summary,
)
from components.image_example_gen.artifact import ClassNames
from components.image_example_gen.beam_exchange import BeamExchange
from components.image_example_gen.beam_steps import ExamineImages, OnShards, Pass, WriteSplits
from components.image_example_gen.dataset import Dataset, listed_dataset
from components.image_example_gen.division import divide
from components.image_example_gen.entries import RefusedFile
from components.image_example_gen.errors import ClassesChangedError, LostFilesError
from components.image_example_gen.exchange import IMAGES_PER_PARTITION, Exchange, LocalExchange
from components.image_example_gen.listing_tasks import ListingPlace
from components.image_example_gen.observations import USED_BITS, Observations
from components.image_example_gen.options import ExampleGenOptions, ExampleGenParameter
from components.image_example_gen.shards import WorkFolder
from components.image_example_gen.stored_entries import StoredEntries
from trainer_module.error_text import listed
from trainer_module.model_input import FULL_WINDOW

_WORK_FOLDER = ".undivided"
# Runners with machines of their own.
_ENGINES = ("FlinkRunner", "SparkRunner", "DataflowRunner")


class _Examined(NamedTuple):
    """The results of the first pass.

    Attributes:
      num_records: Number of usable images of every shard.
      refused: All files that are not used.
      observations: From all images.
    """

    num_records: list[int]
    refused: list[RefusedFile]
    observations: Observations


class Executor(base_beam_executor.BaseBeamExecutor):
    """Beam executor of ImageExampleGen."""

    def Do(self, input_dict: Artifacts, output_dict: Artifacts, exec_properties: dict[str, Any]) -> None:
        """Writes the examples of a dataset.

        Args:
          input_dict: Empty.
          output_dict: `examples` (with span, version and the class names) and `quarantine`, one artifact each.
          exec_properties: `input_base` (which may contain placeholders of spans) and `options` (ExampleGenParameter as
            JSON).

        Raises:
          ClassesChangedError: If the pipeline was defined for other classes.
          TooManyBadFilesError: If more than `max_bad_fraction` of the files are unusable.
          ClassTooSmallError: If a class cannot be in every split.
          ClassWithoutTrainingImagesError: If a class has no image in the train split.
          AmbiguousMasksError: If the palettes of masks contradict each other.
          ClassWithoutPixelsError: If a class of masks cannot be learned.
          EmptySplitError: If a split has no image.
        """
        parameter = ExampleGenParameter.model_validate_json(exec_properties["options"])
        examples = artifact_utils.get_single_instance(output_dict["examples"])
        quarantine = artifact_utils.get_single_instance(output_dict["quarantine"])
        folder = WorkFolder(os.path.join(examples.uri, _WORK_FOLDER))
        tf.io.gfile.makedirs(folder.location)
        exchange = self._exchange(folder)
        engine = None if isinstance(exchange, LocalExchange) else lambda: ListingPlace(exchange, folder)
        dataset = listed_dataset(exec_properties["input_base"], parameter.data, parameter.fingerprint, engine)
        options = parameter.with_classes(dataset.classes)
        if options is None:
            raise ClassesChangedError(
                f"{dataset.root} has {len(dataset.classes):,} classes ({listed(dataset.classes)}), and not the "
                f"{parameter.num_classes:,} that the pipeline was compiled for. Compile it again."
            )
        work = _write_shards(dataset, folder, exchange)
        examined = self._examine(work, dataset, folder, options)
        window = options.window or bit_depth.detect([int(bits) for bits in examined.observations.details(USED_BITS)])
        if options.window is None and window != FULL_WINDOW:
            # Only now it is known how dark the images are: they are examined again, reduced to 8 bits.
            used = options.model_copy(update={"data": options.data.model_copy(update={"window": window})})
            examined = self._examine(work, dataset, folder, used)
        refused, observations = examined.refused, examined.observations
        _log(refused)
        total = sum(examined.num_records) + len(refused)
        limits.refuse_bad_files(refused, total, options.data.max_bad_fraction)
        division = divide(
            folder,
            examined.num_records,
            options.data,
            dataset.own_splits,
            exchange,
            per_partition=IMAGES_PER_PARTITION,
        )
        _log(division.refused)
        refused += division.refused
        limits.refuse_bad_files(refused, total, options.data.max_bad_fraction)
        split_names = options.data.written_splits(dataset.own_splits)
        counts = division.tally.counts(split_names, options.classes)
        has_names = set(labels.CLASS_NAMES) & set(options.label_features)
        limits.refuse_untrainable(counts, options.classes if has_names else ())
        warnings = pixel_checks.window_warnings(observations, window, options.data)
        warnings += pixel_checks.lost_information_warnings(observations)
        if labels.has_class_ids(options.label_features):
            pixel_checks.refuse_differing_palettes(observations)
            warnings += pixel_checks.orientation_warnings(observations, options.data)
            warnings += pixel_checks.check_mask_classes(division.tally, counts, options.classes, options.ignore_id)
        warnings += boxes.warnings(observations, division.similar)
        for warning in warnings:
            logging.warning("%s", warning)

        ClassNames(names=options.classes).write(examples.uri)
        examples.split_names = artifact_utils.encode_split_names(list(split_names))
        examples.span, examples.version = dataset.span, dataset.version
        split_dirs = {split: artifact_utils.get_split_uri([examples], split) for split in split_names}
        for directory in split_dirs.values():
            tf.io.gfile.makedirs(directory)
        self._run(len(work), WriteSplits(folder, split_dirs))
        contents = summary.summarize(
            dataset,
            division,
            refused,
            counts,
            window=window if observations.details(USED_BITS) else None,
            warnings=warnings,
        )
        contents.write(quarantine.uri, division.groups())
        tf.io.gfile.rmtree(folder.location)
        quarantine.set_int_custom_property("quarantined", contents.summary.quarantined)
        quarantine.set_int_custom_property("examples", contents.summary.examples)
        for action, number in contents.summary.corrections.items():
            quarantine.set_int_custom_property(f"corrections_{action}", number)

    def _examine(
        self, num_files_of: Sequence[int], dataset: Dataset, folder: WorkFolder, options: ExampleGenOptions
    ) -> _Examined:
        """Runs the first pass on all shards; the records of the images stay in the folder."""
        self._run(len(num_files_of), ExamineImages(dataset.root, dataset.layout, folder, options))
        containers = layouts.get(dataset.layout).entries_are_containers
        examined = _Examined([], list(dataset.refused), Observations())
        for shard, listed_files in enumerate(num_files_of):
            results = folder.read(shards.RESULTS, shard)
            num_files = results["num_records"] + len(results["refused"])
            if not containers and num_files != listed_files:
                raise LostFilesError(
                    f"Shard {shard} returned {num_files} of its {listed_files} files. This is a defect of tfx-vision, "
                    "please report it."
                )
            examined.num_records.append(results["num_records"])
            examined.refused.extend(RefusedFile(*values) for values in results["refused"])
            examined.observations.merge(Observations.from_json(results["observations"]))
        return examined

    def _exchange(self, folder: WorkFolder) -> Exchange:
        """Divides the images on an engine, or in this process: workers that share its machine would only start late."""
        options = PipelineOptions(list(self._beam_pipeline_args or []))
        if options.view_as(StandardOptions).runner in _ENGINES:
            return BeamExchange(self._make_beam_pipeline, folder)
        return LocalExchange()

    def _run(self, num_shards: int, step: Pass) -> None:
        numbers = list(range(num_shards))
        if single_process.is_selected(self._beam_pipeline_args):
            step(numbers)
            return
        with self._make_beam_pipeline() as pipeline:
            shards_ = pipeline | "Shards" >> beam.Create(numbers) | "Spread" >> beam.Reshuffle()
            _ = shards_ | "Work" >> beam.ParDo(OnShards(step))


def _write_shards(dataset: Dataset, folder: WorkFolder, exchange: Exchange) -> list[int]:
    """Writes the files to read of every shard; returns their numbers."""
    if isinstance(dataset.entries, StoredEntries) and not dataset.entries.is_shared:
        exchange = LocalExchange()  # the workers of an engine do not see them
    containers = layouts.get(dataset.layout).entries_are_containers
    return mixed_shards.write(dataset.entries, folder, exchange, 1 if containers else shards.FILES_PER_SHARD)


def _log(refused: Iterable[RefusedFile]) -> None:
    for file in refused:
        logging.warning("Quarantined %s: %s", file.path, file.reason)
