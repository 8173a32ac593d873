"""Exports a trained model: a SavedModel that every loader can read, and a Keras file."""

from __future__ import annotations

import json
import os

import keras
import tensorflow as tf

from trainer_module import features, tasks, test_time_augmentation
from trainer_module.fused_normalization import fused
from trainer_module.options import TrainerOptions


def export(
    model: keras.Model,
    options: TrainerOptions,
    *,
    tft_layer: tf.keras.layers.Layer,
    raw_feature_spec: dict[str, object],
    serving_dir: str,
    run_dir: str,
) -> None:
    """Writes the SavedModel with all its signatures, and the `.keras` file.

    `keras.export.ExportArchive` is the only way whose result loads in a session, as TF Serving does:
    `tf.saved_model.save` loses the variables of a Keras 3 model, which `tf.saved_model.load` does not notice.

    Args:
      model: Trained network from pixels to logits.
      options: The whole configuration of the run.
      tft_layer: The transform graph.
      raw_feature_spec: How to parse a raw example.
      serving_dir: Receives the SavedModel (`saved_model.pb`, `variables/`, `assets/`) and `assets.extra/labels.json`.
      run_dir: Receives `model.keras`, which contains the network without test-time augmentation: Keras 3 cannot reload
        a SavedModel, and Pusher would copy all of serving_dir.
    """
    archive = keras.export.ExportArchive()
    # Variables are saved with the functions that use them, tables are not. Tracking the model itself would trace it.
    for table in _tables(model):
        archive.track(table)
    archive.track(tft_layer)
    signatures = tasks.get(options.task.name).export.signatures
    predictor = test_time_augmentation.averaged(model, options)
    with fused(predictor):
        for name, endpoint in signatures(predictor, options, tft_layer, raw_feature_spec).items():
            # The archive traces every function twice; of a traced one, only the call.
            archive.add_endpoint(name, endpoint.traced().compute, input_signature=endpoint.inputs)
        archive.write_out(serving_dir, verbose=False)
    labels_path = os.path.join(serving_dir, features.LABELS_FILE)
    tf.io.gfile.makedirs(os.path.dirname(labels_path))
    with tf.io.gfile.GFile(labels_path, "w") as file:
        file.write(json.dumps(options.classes, ensure_ascii=False))
    tf.io.gfile.makedirs(run_dir)
    model.save(os.path.join(run_dir, features.KERAS_FILE))


def _tables(model: keras.Model) -> list[tf.saved_model.experimental.TrackableResource]:
    resource = tf.saved_model.experimental.TrackableResource
    return [part for part in tf.train.TrackableView(model).descendants() if isinstance(part, resource)]
