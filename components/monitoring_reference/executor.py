"""MonitoringReference's executor: runs the model on the test split and on training images, writes the reference."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from typing import Any

import numpy as np
import tensorflow as tf
from tfx import types
from tfx.dsl.components.base import base_executor
from tfx.types import artifact_utils
from tfx.utils import path_utils

from components import records
from components.artifacts import Artifacts
from components.monitoring_reference import measured
from components.monitoring_reference.artifact import VERSION, Reference, ReferenceSummary
from trainer_module import features, stored_options
from trainer_module.session_model import SessionModel

_SEED = 22


class Executor(base_executor.BaseExecutor):
    """Executor of MonitoringReference."""

    def Do(self, input_dict: Artifacts, output_dict: Artifacts, exec_properties: dict[str, Any]) -> None:
        """Computes and stores the reference of a pushed model.

        Args:
          input_dict: `examples` (raw), `model`, `model_run`, `pushed_model`.
          output_dict: `reference`: the files of `components.monitoring_reference.artifact`; int property `version`.
          exec_properties: `split`, `max_images`, `source_hash`.
        """
        pushed = artifact_utils.get_single_instance(input_dict["pushed_model"])
        if pushed.get_int_custom_property("pushed") != 1:
            logging.info("No model was pushed, so there is nothing to monitor.")
            return
        version, split = int(pushed.get_string_custom_property("pushed_version")), exec_properties["split"]
        options = stored_options.read(artifact_utils.get_single_uri(input_dict["model_run"]))
        examples = artifact_utils.get_single_instance(input_dict["examples"])
        chosen = _chosen(_count(examples, split), exec_properties["max_images"])
        model = SessionModel(path_utils.serving_model_path(artifact_utils.get_single_uri(input_dict["model"])))
        num_train = _count(examples, features.TRAIN)
        train = _batches(examples, features.TRAIN, _chosen(num_train, exec_properties["max_images"]))
        training = measured.training_images(model, options, train)
        images = measured.measure(model, options, _batches(examples, split, chosen), training)
        summary = ReferenceSummary(
            version=version,
            task=options.task.name,
            classes=options.classes,
            ignore_id=options.ignore_id,
            window=options.window,
            split=split,
            images=len(images),
            split_images=len(chosen),
        )
        output = artifact_utils.get_single_instance(output_dict["reference"])
        Reference(summary, images, training).write(output.uri)
        output.set_int_custom_property(VERSION, version)


def _count(examples: types.Artifact, split: str) -> int:
    return sum(len(batch) for batch in records.split_batches(examples, split))


def _chosen(total: int, most: int) -> np.ndarray:
    """Chooses images uniformly at random, bool [total]: the files of a split may be in any order."""
    chosen = np.zeros(total, bool)
    chosen[np.random.default_rng(_SEED).permutation(total)[:most]] = True
    return chosen


def _batches(examples: types.Artifact, split: str, chosen: np.ndarray) -> Iterator[list[measured.Features]]:
    """Yields the chosen examples; the images of a batch are in memory, not those of the split."""
    start = 0
    for batch in records.split_batches(examples, split):
        kept = batch[chosen[start : start + len(batch)]]
        start += len(batch)
        if len(kept):
            yield [tf.train.Example.FromString(serialized).features.feature for serialized in kept]
