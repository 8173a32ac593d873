"""Predicts raw examples with the Keras model, and compares the predictions with their labels."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple

import numpy as np
import tensorflow as tf

from trainer_module import features, keras_file, preprocessing, tasks
from trainer_module.options import TrainerOptions
from trainer_module.tasks import Comparison


class ComparedPrediction(NamedTuple):
    """An example, its label and its prediction, as in `Drawing`.

    Attributes:
      score: From `Comparison.score`, range [0, 1], higher is better.
      error_type: From `Comparison.error_type`.
      filename: As in the dataset.
      image: The model input.
      label: Its label.
      prediction: The part of the prediction that is compared.
    """

    score: float
    error_type: str
    filename: str
    image: np.ndarray
    label: np.ndarray
    prediction: np.ndarray


def comparison_of(options: TrainerOptions) -> Comparison:
    """Returns the comparison of the task, which must have one."""
    comparison = tasks.get(options.task.name).drawing.comparison
    assert comparison is not None
    return comparison


class Comparer:
    """Loads a model once, and compares batches."""

    def __init__(self, keras_path: str, options: TrainerOptions) -> None:
        """Loads the Keras file.

        Args:
          keras_path: The trained model.
          options: The configuration of its run.
        """
        self._options = options
        self._task = tasks.get(options.task.name)
        model = keras_file.load(keras_path)
        self._predict = tf.function(
            lambda images: self._task.decode(model(tf.cast(images, tf.float32), training=False), options),
            reduce_retracing=True,
        )

    def compare(self, examples: Sequence[Mapping[str, tf.train.Feature]]) -> Iterator[ComparedPrediction]:
        """Compares a batch of parsed raw examples; those whose score is undefined are left out."""
        transform, ignore_id = self._options.transform, self._options.ignore_id
        comparison = comparison_of(self._options)
        encoded = tf.constant([example[features.IMAGE_ENCODED].bytes_list.value[0] for example in examples])
        images = preprocessing.decode_and_resize(encoded, transform.geometry, transform.num_channels)
        names = [example[features.IMAGE_FILENAME].bytes_list.value[0] for example in examples]
        raw_labels = [self._task.raw_label(example) for example in examples]
        sizes = [self._task.image_size(example) for example in examples]
        labels = self._task.labels(raw_labels, sizes, self._options).numpy()
        for name, image, label, prediction in zip(
            names, images.numpy(), labels, self._predict(images).numpy(), strict=True
        ):
            prediction = comparison.counted(prediction, self._options)
            score = comparison.score(label, prediction, ignore_id)
            if not math.isnan(score):
                error_type = comparison.error_type(label, prediction, ignore_id)
                yield ComparedPrediction(score, error_type, name.decode(), image, label, prediction)
