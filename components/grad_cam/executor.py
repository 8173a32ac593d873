"""GradCam's work: predict a split, choose the most telling pictures of every class, explain them."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Sequence
from typing import Any

import apache_beam as beam
import numpy as np
import tensorflow as tf
from tfx import types
from tfx.dsl.components.base import base_beam_executor
from tfx.types import artifact_utils
from tfx.utils import io_utils

from components.grad_cam import index_page
from trainer_module import features, grad_cam, keras_file, preprocessing
from trainer_module.options import TrainerOptions

INDEX_FILE = "index.json"
RIGHT, WRONG = "right", "wrong"
_BATCH_SIZE = 64


def parse_raw(serialized: Sequence[bytes]) -> list[dict[str, Any]]:
    """Reads what GradCam needs of raw examples: encoded picture, class name, file name."""
    rows = []
    for record in serialized:
        feature = tf.train.Example.FromString(record).features.feature
        rows.append(
            {
                "encoded": feature[features.IMAGE_ENCODED].bytes_list.value[0],
                "truth": feature[features.CLASS_TEXT].bytes_list.value[0].decode(),
                "filename": feature[features.IMAGE_FILENAME].bytes_list.value[0].decode(),
            }
        )
    return rows


class _ModelDoFn(beam.DoFn):
    """Loads the Keras file once a worker."""

    def __init__(self, keras_path: str, options: TrainerOptions) -> None:
        self._keras_path = keras_path
        self._options_json = options.model_dump_json()

    def setup(self) -> None:
        self._options = TrainerOptions.model_validate_json(self._options_json)
        self._model = keras_file.load(self._keras_path)

    def pixels(self, rows: Sequence[dict[str, Any]]) -> tf.Tensor:
        transform = self._options.transform
        return preprocessing.decode_and_resize(
            tf.constant([row["encoded"] for row in rows]), transform.image_size, transform.channels
        )


class _Predict(_ModelDoFn):
    """Batch of raw examples → ((true class, right or wrong), (confidence, example))."""

    def setup(self) -> None:
        super().setup()
        self._predict = tf.function(
            lambda images: tf.nn.softmax(self._model(tf.cast(images, tf.float32), training=False)),
            reduce_retracing=True,
        )

    def process(self, batch: list[bytes]) -> Iterable[Any]:
        rows = parse_raw(batch)
        probabilities = self._predict(self.pixels(rows)).numpy()
        for serialized, row, p in zip(batch, rows, probabilities, strict=True):
            predicted = self._options.classes[int(p.argmax())]
            kind = RIGHT if predicted == row["truth"] else WRONG
            yield (row["truth"], kind), (float(p.max()), serialized)


class _Explain(_ModelDoFn):
    """The chosen examples of one class and kind → PNG files and their entries in the index."""

    def __init__(self, keras_path: str, options: TrainerOptions, output_dir: str) -> None:
        super().__init__(keras_path, options)
        self._output_dir = output_dir

    def setup(self) -> None:
        super().setup()
        self._explain = grad_cam.explainer(self._model)
        self._colors = grad_cam.color_table(self._options.grad_cam.colormap)

    def process(self, item: tuple[tuple[str, str], list[tuple[float, bytes]]]) -> Iterable[dict[str, Any]]:
        (truth, kind), chosen = item
        rows = parse_raw([serialized for _, serialized in chosen])
        if not rows:
            return
        pixels = self.pixels(rows)
        # What is explained is the decision that was taken: for a mistake, what spoke for the wrong class.
        explanation = self._explain(pixels)
        overlays = grad_cam.overlay(pixels, explanation.heatmap, self._colors, self._options.grad_cam.alpha)
        nothing = tf.zeros_like(explanation.heatmap)
        pictures = grad_cam.overlay(pixels, nothing, self._colors, alpha=0.0)
        heat = tf.repeat(tf.cast(tf.round(explanation.heatmap * 255.0), tf.uint8)[..., tf.newaxis], 3, axis=-1)
        # Folders are named by class id: a class's name is the user's text and may not fit in a path.
        folder = f"{self._options.classes.index(truth):03d}"
        tf.io.gfile.makedirs(os.path.join(self._output_dir, folder))
        for i, row in enumerate(rows):
            paths = {}
            for name, image in (("picture", pictures[i]), ("heatmap", heat[i]), ("overlay", overlays[i])):
                paths[name] = f"{folder}/{kind}-{i + 1}-{name}.png"
                tf.io.write_file(os.path.join(self._output_dir, paths[name]), tf.io.encode_png(image))
            yield {
                "class": truth,
                "kind": kind,
                "rank": i + 1,
                "filename": row["filename"],
                "predicted": self._options.classes[int(explanation.class_id[i])],
                "score": round(float(explanation.score[i]), 6),
                "empty": bool(np.max(explanation.heatmap[i]) == 0.0),
                **paths,
            }


class Executor(base_beam_executor.BaseBeamExecutor):
    """Beam executor of GradCam."""

    def Do(
        self,
        input_dict: dict[str, list[types.Artifact]],
        output_dict: dict[str, list[types.Artifact]],
        exec_properties: dict[str, Any],
    ) -> None:
        """Explains, for every class, the most confident right and the most confident wrong decisions.

        Args:
          input_dict: `model_run` (with the Keras file), `examples` (raw).
          output_dict: `explanations`: PNG files, `index.json`, `index.html`.
          exec_properties: `options` (TrainerOptions as JSON), `split`.
        """
        self._log_startup(input_dict, output_dict, exec_properties)
        options = TrainerOptions.model_validate_json(exec_properties["options"])
        explanations = artifact_utils.get_single_instance(output_dict["explanations"])
        keras_path = os.path.join(artifact_utils.get_single_uri(input_dict["model_run"]), features.KERAS_FILE)
        split_uri = artifact_utils.get_split_uri(input_dict["examples"], exec_properties["split"])
        entries_path = os.path.join(explanations.uri, "entries")
        with self._make_beam_pipeline() as pipeline:
            (
                pipeline
                | "Read" >> beam.io.ReadFromTFRecord(io_utils.all_files_pattern(split_uri))
                | "Batch" >> beam.BatchElements(min_batch_size=_BATCH_SIZE, max_batch_size=_BATCH_SIZE)
                | "Predict" >> beam.ParDo(_Predict(keras_path, options))
                | "MostConfident" >> beam.combiners.Top.LargestPerKey(options.grad_cam.per_class)
                | "Explain" >> beam.ParDo(_Explain(keras_path, options, explanations.uri))
                | "Json" >> beam.Map(json.dumps)
                | "Write" >> beam.io.WriteToText(entries_path, shard_name_template="")
            )
        with tf.io.gfile.GFile(entries_path) as file:
            entries = [json.loads(line) for line in file.read().splitlines()]
        tf.io.gfile.remove(entries_path)
        entries.sort(key=lambda entry: (entry["class"], entry["kind"], entry["rank"]))
        with tf.io.gfile.GFile(os.path.join(explanations.uri, INDEX_FILE), "w") as file:
            file.write(json.dumps(entries, indent=2, ensure_ascii=False))
        with tf.io.gfile.GFile(os.path.join(explanations.uri, "index.html"), "w") as file:
            file.write(index_page.render(entries, options, exec_properties["split"]))
        explanations.set_int_custom_property("explained", len(entries))
