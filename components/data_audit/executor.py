"""DataAudit's executor: reads the examples, embeds them with the trained network, audits them, writes the suspects."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import tensorflow as tf
from tfx import types
from tfx.dsl.components.base import base_executor
from tfx.types import artifact_utils
from tfx.utils import path_utils

from components import records
from components.artifacts import Artifacts
from components.compared_predictions import Comparer
from components.data_audit import audit, thumbnails
from components.data_audit.artifact import by_image
from components.data_audit.images import AuditedImages, Disagreement, LabelledImage
from components.image_example_gen import corrections
from components.image_example_gen.artifact import Quarantine
from trainer_module import embedding, features, stored_options, tasks
from trainer_module.locations import join

Features = Mapping[str, tf.train.Feature]


class Executor(base_executor.BaseExecutor):
    """Executor of DataAudit."""

    def Do(self, input_dict: Artifacts, output_dict: Artifacts, exec_properties: dict[str, Any]) -> None:
        """Audits all splits.

        Args:
          input_dict: `examples` (raw), `quarantine`, `model` (with the signature `embed`), `model_run`.
          output_dict: `audit`: the files of `components.data_audit.artifact`; int property `suspects`.
          exec_properties: `source_hash`.
        """
        examples = artifact_utils.get_single_instance(input_dict["examples"])
        quarantine = Quarantine.read(artifact_utils.get_single_uri(input_dict["quarantine"]))
        export_dir = path_utils.serving_model_path(artifact_utils.get_single_uri(input_dict["model"]))
        model_run = artifact_utils.get_single_uri(input_dict["model_run"])
        options = stored_options.read(model_run)
        task, embed = tasks.get(options.task.name), embedding.from_saved_model(export_dir)
        comparer = Comparer(join(model_run, features.KERAS_FILE), options) if task.drawing.comparison else None
        images, embeddings, disagreements = [], [], {}
        for batch in _batches(examples):
            images += [LabelledImage(_filename(each), _classes(each, task.class_features)) for each in batch]
            embeddings.append(embed([_encoded(each) for each in batch]))
            for compared in comparer.compare(batch) if comparer else ():
                error = compared.error_type or "prediction differs"
                disagreements[compared.filename] = Disagreement(1.0 - compared.score, error)
        result = audit.run(
            AuditedImages(
                images=images,
                embeddings=np.concatenate(embeddings),
                classes=options.classes,
                has_sets=not set(task.class_features) <= set(task.single_valued_features),
                disagreements=disagreements,
                reviewed=corrections.reviewed(quarantine.corrections),
                source="the trained network",
            )
        )
        output = artifact_utils.get_single_instance(output_dict["audit"])
        shown = {suspect.filename for suspect in by_image(result.suspects)[: thumbnails.NUM_THUMBNAILS]}
        small = {
            _filename(each): thumbnails.shrink(_encoded(each))
            for batch in _batches(examples)
            for each in batch
            if _filename(each) in shown
        }
        result.with_thumbnails(small).write(output.uri)
        output.set_int_custom_property("suspects", len(result.suspects))


def _batches(examples: types.Artifact) -> Iterator[list[Features]]:
    """Yields batches of parsed examples of all splits."""
    for split in artifact_utils.decode_split_names(examples.split_names):
        for batch in records.split_batches(examples, split):
            yield [tf.train.Example.FromString(serialized).features.feature for serialized in batch]


def _filename(example: Features) -> str:
    return str(example[features.IMAGE_FILENAME].bytes_list.value[0], "utf-8")


def _encoded(example: Features) -> bytes:
    return bytes(example[features.IMAGE_ENCODED].bytes_list.value[0])


def _classes(example: Features, keys: Sequence[str]) -> tuple[str, ...]:
    names = [value.decode() for key in keys for value in example[key].bytes_list.value]
    return tuple(dict.fromkeys(names))
