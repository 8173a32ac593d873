"""Predicts raw examples with the Keras model, and compares the predictions with their labels."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple

import numpy as np
import tensorflow as tf

from trainer_module import features, preprocessing, tasks, test_time_augmentation
from trainer_module.model_input import Geometry, Size, limited
from trainer_module.options import TrainerOptions
from trainer_module.tasks import Comparison


class ComparedPrediction(NamedTuple):
    """An example, its label and its prediction, as in `Drawing`.

    Attributes:
      score: From `Comparison.score`, range [0, 1], higher is better.
      error_type: From `Comparison.error_type`.
      filename: As in the dataset.
      encoded: The image file.
      size: Height and width at which the image is shown: in its own aspect ratio, not larger than the longest side of
        the model input.
      label: Its label, for that size.
      prediction: The part of the prediction that is compared, for that size.
    """

    score: float
    error_type: str
    filename: str
    encoded: bytes
    size: Size
    label: np.ndarray
    prediction: np.ndarray

    def image(self, num_channels: int) -> np.ndarray:
        """Decodes the image: uint8 [*size, num_channels]."""
        pixels = preprocessing.decode_and_resize(tf.constant([self.encoded]), Geometry.of(self.size), num_channels)
        image: np.ndarray = pixels[0].numpy()
        return image


def comparison_of(options: TrainerOptions) -> Comparison:
    """Returns the comparison of the task, which must have one."""
    comparison = tasks.get(options.task.name).drawing.comparison
    assert comparison is not None
    return comparison


class Comparer:
    """Loads a model once, and compares batches.

    Labels and predictions are those of the original images, as the evaluation and the exported model have them: the
    model input may be squashed, cropped or padded.
    """

    def __init__(self, keras_path: str, options: TrainerOptions) -> None:
        """Loads the Keras file.

        Args:
          keras_path: The trained model.
          options: The configuration of its run.
        """
        self._options = options
        self._task = tasks.get(options.task.name)
        model = test_time_augmentation.load(keras_path, options)
        self._apply = tf.function(
            lambda images: model(tf.cast(images, tf.float32), training=False), reduce_retracing=True, autograph=False
        )
        self._decode = tf.function(lambda outputs, sizes: self._task.decode(outputs, options, sizes), autograph=False)

    def compare(self, examples: Sequence[Mapping[str, tf.train.Feature]]) -> Iterator[ComparedPrediction]:
        """Compares a batch of parsed raw examples; those whose score is undefined are left out."""
        transform, ignore_id = self._options.transform, self._options.ignore_id
        comparison = comparison_of(self._options)
        encoded = [example[features.IMAGE_ENCODED].bytes_list.value[0] for example in examples]
        images = preprocessing.decode_and_resize(tf.constant(encoded), transform.geometry, transform.num_channels)
        outputs = self._apply(images)
        for index, example in enumerate(examples):
            original_size = self._task.image_size(example)
            size = limited(original_size, max(transform.image_size))
            prediction = self._decode(outputs[index : index + 1], tf.constant([size], tf.int32))[0].numpy()
            prediction = comparison.counted(prediction, self._options)
            shown = self._options.model_copy(
                update={"transform": transform.model_copy(update={"image_size": size, "resize": "stretch"})}
            )
            label = self._task.labels([self._task.raw_label(example)], [original_size], shown)[0].numpy()
            score = comparison.score(label, prediction, ignore_id)
            if not math.isnan(score):
                error_type = comparison.error_type(label, prediction, ignore_id)
                name = example[features.IMAGE_FILENAME].bytes_list.value[0].decode()
                yield ComparedPrediction(score, error_type, name, encoded[index], size, label, prediction)
