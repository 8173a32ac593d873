"""Executor of ImageExampleGen: examines every image, assigns it to a split, writes it there or to quarantine."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterable
from typing import Any

import apache_beam as beam
import tensorflow as tf
from tfx.dsl.components.base import base_beam_executor
from tfx.types import artifact_utils

from components.artifacts import Artifacts
from components.image_example_gen import (
    bit_depth,
    boxes,
    labels,
    layouts,
    limits,
    pixel_checks,
    shards,
    splits,
    summary,
)
from components.image_example_gen.artifact import ClassNames
from components.image_example_gen.beam_steps import ExamineImages, WriteSplits
from components.image_example_gen.dataset import Dataset, inspect_dataset
from components.image_example_gen.errors import ClassesChangedError, LostFilesError
from components.image_example_gen.layouts import RefusedFile
from components.image_example_gen.observations import USED_BITS, Observations
from components.image_example_gen.options import ExampleGenOptions, ExampleGenParameter
from components.image_example_gen.shards import Shard, WorkFolder
from trainer_module.error_text import listed
from trainer_module.model_input import FULL_WINDOW

_WORK_FOLDER = ".undivided"


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
        dataset = inspect_dataset(exec_properties["input_base"], parameter.data)
        options = parameter.with_classes(dataset.classes)
        if options is None:
            raise ClassesChangedError(
                f"{dataset.root} has {len(dataset.classes):,} classes ({listed(dataset.classes)}), and not the "
                f"{parameter.num_classes:,} that the pipeline was compiled for. Compile it again."
            )
        folder = WorkFolder(os.path.join(examples.uri, _WORK_FOLDER))
        tf.io.gfile.makedirs(folder.location)
        work = _make_shards(dataset)
        records_of, refused, observations = self._examine(work, dataset, folder, options)
        window = options.window or bit_depth.detect([int(bits) for bits in observations.details(USED_BITS)])
        if options.window is None and window != FULL_WINDOW:
            # Only now it is known how dark the images are: they are examined again, reduced to 8 bits.
            used = options.model_copy(update={"data": options.data.model_copy(update={"window": window})})
            records_of, refused, observations = self._examine(work, dataset, folder, used)
        _log(refused)
        records = [record for shard_records in records_of for record in shard_records]
        total = len(records) + len(refused)
        limits.refuse_bad_files(refused, total, options.data.max_bad_fraction)
        division = splits.divide(records, options.data, dataset.own_splits)
        conflicting = [RefusedFile(records[index].path, reason) for index, reason in division.refused.items()]
        _log(conflicting)
        refused += conflicting
        limits.refuse_bad_files(refused, total, options.data.max_bad_fraction)
        split_names = options.data.written_splits(dataset.own_splits)
        counts = summary.count_splits(records, division, split_names, options.classes)
        has_names = set(labels.CLASS_NAMES) & set(options.label_features)
        limits.refuse_untrainable(counts, options.classes if has_names else ())
        warnings = pixel_checks.window_warnings(observations, window, options.data)
        warnings += pixel_checks.lost_information_warnings(observations)
        if labels.has_class_ids(options.label_features):
            pixel_checks.refuse_differing_palettes(observations)
            warnings += pixel_checks.orientation_warnings(observations, options.data)
            warnings += pixel_checks.check_mask_classes(records, counts, options.classes, options.ignore_id)
        warnings += boxes.warnings(observations, splits.similar_labels(records, division))
        for warning in warnings:
            logging.warning("%s", warning)

        ClassNames(names=options.classes).write(examples.uri)
        examples.split_names = artifact_utils.encode_split_names(list(split_names))
        examples.span, examples.version = dataset.span, dataset.version
        split_of = iter(division.splits)
        for shard, shard_records in zip(work, records_of, strict=True):
            assigned = {"num_shards": shard.num_shards, "splits": [next(split_of) for _ in shard_records]}
            folder.write(shards.SPLITS, shard.number, assigned)
        split_dirs = {split: artifact_utils.get_split_uri([examples], split) for split in split_names}
        for directory in split_dirs.values():
            tf.io.gfile.makedirs(directory)
        self._run(work, WriteSplits(folder, split_dirs))
        tf.io.gfile.rmtree(folder.location)
        contents = summary.summarize(
            dataset,
            records,
            division,
            refused,
            counts,
            window=window if observations.details(USED_BITS) else None,
            warnings=warnings,
        )
        contents.write(quarantine.uri)
        quarantine.set_int_custom_property("quarantined", contents.summary.quarantined)
        quarantine.set_int_custom_property("examples", contents.summary.examples)
        for action, number in contents.summary.corrections.items():
            quarantine.set_int_custom_property(f"corrections_{action}", number)

    def _examine(
        self, work: list[Shard], dataset: Dataset, folder: WorkFolder, options: ExampleGenOptions
    ) -> tuple[list[list[splits.Record]], list[RefusedFile], Observations]:
        """Runs the first pass; returns the records of every shard, all refused files, and the observations."""
        for shard in work:
            folder.write(shards.ENTRIES, shard.number, shard.entries)
        self._run(work, ExamineImages(dataset.root, dataset.layout, folder, options))
        containers = layouts.get(dataset.layout).entries_are_containers
        records, refused = list[list[splits.Record]](), list(dataset.refused)
        observations = Observations()
        for shard in work:
            content = folder.read(shards.RECORDS, shard.number)
            num_files = len(content["records"]) + len(content["refused"])
            if not containers and num_files != len(shard.entries):
                raise LostFilesError(
                    f"Shard {shard.number} returned {num_files} of its {len(shard.entries)} files. This is a defect of "
                    "tfx-vision, please report it."
                )
            records.append([splits.Record.from_json(values) for values in content["records"]])
            refused += [RefusedFile(*values) for values in content["refused"]]
            observations.merge(Observations.from_json(content["observations"]))
        return records, refused, observations

    def _run(self, work: list[Shard], step: beam.DoFn) -> None:
        numbers = [shard.number for shard in work]
        with self._make_beam_pipeline() as pipeline:
            _ = pipeline | "Shards" >> beam.Create(numbers) | "Spread" >> beam.Reshuffle() | "Work" >> beam.ParDo(step)


def _make_shards(dataset: Dataset) -> list[Shard]:
    containers = layouts.get(dataset.layout).entries_are_containers
    return shards.make_shards(dataset.entries, 1 if containers else shards.FILES_PER_SHARD)


def _log(refused: Iterable[RefusedFile]) -> None:
    for file in refused:
        logging.warning("Quarantined %s: %s", file.path, file.reason)
