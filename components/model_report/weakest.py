"""The pictures whose masks are predicted worst, found in one pass over a split."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any, NamedTuple

import apache_beam as beam
import numpy as np
import tensorflow as tf

from components.model_report.masks import pixel_accuracy
from trainer_module import features, keras_file, preprocessing
from trainer_module.options import TrainerOptions
from trainer_module.tasks.segmentation import masks_of

_BATCH_SIZE = 32


class Predicted(NamedTuple):
    """A picture, its mask and the model's; ordered by accuracy, then by name, so that every run shows the same.

    Attributes:
      accuracy: Share of its pixels that are right.
      filename: As in the data.
      pixels: uint8 [image_size, image_size, 1 or 3], as the model saw it, in raw bytes.
      truth: uint8 [image_size, image_size], class ids, in raw bytes.
      predicted: The same of the model.
    """

    accuracy: float
    filename: str
    pixels: bytes
    truth: bytes
    predicted: bytes

    def arrays(self, options: TrainerOptions) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Pixels, truth and prediction in their shapes."""
        side, channels = options.transform.image_size, options.transform.channels
        pixels = np.frombuffer(self.pixels, np.uint8).reshape(side, side, channels)
        truth, predicted = (np.frombuffer(ids, np.uint8).reshape(side, side) for ids in (self.truth, self.predicted))
        return pixels, truth, predicted


class _Predict(beam.DoFn):
    """Batch of raw examples → Predicted; loads the Keras file once a worker."""

    def __init__(self, keras_path: str, options: TrainerOptions) -> None:
        self._keras_path = keras_path
        self._options_json = options.model_dump_json()

    def setup(self) -> None:
        self._options = TrainerOptions.model_validate_json(self._options_json)
        model = keras_file.load(self._keras_path)
        self._predict = tf.function(
            lambda images: masks_of(model(tf.cast(images, tf.float32), training=False)),
            reduce_retracing=True,
        )

    def process(self, batch: list[bytes]) -> Iterable[Predicted]:
        rows = [tf.train.Example.FromString(record).features.feature for record in batch]
        encoded, masks = (
            tf.constant([row[key].bytes_list.value[0] for row in rows])
            for key in (features.IMAGE_ENCODED, features.MASK_ENCODED)
        )
        transform = self._options.transform
        pixels = preprocessing.decode_and_resize(encoded, transform.image_size, transform.channels)
        truth = preprocessing.decode_and_resize_masks(masks, transform.image_size).numpy()
        predicted = self._predict(pixels).numpy()
        for row, image, actual, found in zip(rows, pixels.numpy(), truth, predicted, strict=True):
            accuracy = pixel_accuracy(actual, found, self._options.ignore_id)
            if not math.isnan(accuracy):
                name = row[features.IMAGE_FILENAME].bytes_list.value[0].decode()
                yield Predicted(accuracy, name, image.tobytes(), actual.tobytes(), found.tobytes())


class FindWeakest(beam.PTransform):
    """TFRecord files of raw examples → one list of the `Predicted` with the lowest accuracy, the lowest first.

    Of all pictures no more than these are kept, however many there are.
    """

    def __init__(self, pattern: str, keras_path: str, options: TrainerOptions, num: int) -> None:
        """Takes what the instance needs.

        Args:
          pattern: Of the files.
          keras_path: The trained model.
          options: The configuration of the run.
          num: How many to keep.
        """
        super().__init__()
        self._pattern, self._keras_path, self._options, self._num = pattern, keras_path, options, num

    def expand(self, pipeline: Any) -> Any:
        """Reads, predicts, keeps the worst."""
        return (
            pipeline
            | "Read" >> beam.io.ReadFromTFRecord(self._pattern)
            | "Batch" >> beam.BatchElements(min_batch_size=_BATCH_SIZE, max_batch_size=_BATCH_SIZE)
            | "Predict" >> beam.ParDo(_Predict(self._keras_path, self._options))
            | "Weakest" >> beam.combiners.Top.Smallest(self._num)
        )
