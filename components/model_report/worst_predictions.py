"""Finds the examples with the worst predictions, in one pass over a split."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any, NamedTuple

import apache_beam as beam
import numpy as np
import tensorflow as tf
from pydantic import TypeAdapter

from components.model_report import comparisons
from components.model_report.comparisons import ComparedExample
from trainer_module import features, keras_file, preprocessing, tasks
from trainer_module.options import TrainerOptions
from trainer_module.tasks import Comparison

_BATCH_SIZE = 32
# One line of the file that the transform writes.
_LINE = TypeAdapter(ComparedExample)


class _Prediction(NamedTuple):
    """An example, its label and its prediction, as in `Drawing`."""

    score: float
    filename: str
    image: np.ndarray
    label: np.ndarray
    prediction: np.ndarray


class _Predict(beam.DoFn):
    """Batch of raw examples → `_Prediction`; loads the Keras file once per worker."""

    def __init__(self, keras_path: str, options: TrainerOptions) -> None:
        self._keras_path = keras_path
        self._options_json = options.model_dump_json()

    def setup(self) -> None:
        self._options = TrainerOptions.model_validate_json(self._options_json)
        self._task = tasks.get(self._options.task.name)
        model = keras_file.load(self._keras_path)
        self._predict = tf.function(
            lambda images: self._task.decode(model(tf.cast(images, tf.float32), training=False), self._options),
            reduce_retracing=True,
        )

    def process(self, batch: list[bytes]) -> Iterable[_Prediction]:
        transform, ignore_id = self._options.transform, self._options.ignore_id
        examples = [tf.train.Example.FromString(example).features.feature for example in batch]
        encoded = tf.constant([example[features.IMAGE_ENCODED].bytes_list.value[0] for example in examples])
        images = preprocessing.decode_and_resize(encoded, transform.image_size, transform.channels)
        names = [example[features.IMAGE_FILENAME].bytes_list.value[0] for example in examples]
        labels = self._task.labels([self._task.raw_label(example) for example in examples], self._options).numpy()
        for name, image, label, prediction in zip(
            names, images.numpy(), labels, self._predict(images).numpy(), strict=True
        ):
            score = _comparison(self._options).score(label, prediction, ignore_id)
            if not math.isnan(score):
                yield _Prediction(score, name.decode(), image, label, prediction)


def _comparison(options: TrainerOptions) -> Comparison:
    comparison = tasks.get(options.task.name).drawing.comparison
    assert comparison is not None
    return comparison


def _order(prediction: _Prediction) -> tuple[float, str]:
    """By score, then by name: every run shows the same examples."""
    return prediction.score, prediction.filename


def _draw(predictions: list[_Prediction], options: TrainerOptions) -> Iterable[str]:
    for prediction in predictions:
        drawn = comparisons.compare(
            _comparison(options), *prediction[1:], classes=options.classes, ignore_id=options.ignore_id
        )
        yield _LINE.dump_json(drawn).decode()


class WriteWorst(beam.PTransform):
    """TFRecord files of raw examples → a file of the compared examples with the lowest scores.

    At most `num` examples are kept in memory, however many there are.
    """

    def __init__(self, pattern: str, keras_path: str, options: TrainerOptions, num: int, path: str) -> None:
        """Stores the arguments.

        Args:
          pattern: Glob of the TFRecord files.
          keras_path: The trained model.
          options: The configuration of the run.
          num: How many examples to keep.
          path: The file to write; `read` reads it.
        """
        super().__init__()
        self._pattern, self._keras_path, self._options = pattern, keras_path, options
        self._num, self._path = num, path

    def expand(self, pipeline: Any) -> Any:
        """Reads, predicts, keeps the worst, draws and writes."""
        return (
            pipeline
            | "Read" >> beam.io.ReadFromTFRecord(self._pattern)
            | "Batch" >> beam.BatchElements(min_batch_size=_BATCH_SIZE, max_batch_size=_BATCH_SIZE)
            | "Predict" >> beam.ParDo(_Predict(self._keras_path, self._options))
            | "Worst" >> beam.combiners.Top.Smallest(self._num, key=_order)
            | "Draw" >> beam.FlatMap(_draw, self._options)
            | "Write" >> beam.io.WriteToText(self._path, shard_name_template="")
        )


def read(path: str) -> list[ComparedExample]:
    """Reads the file that `WriteWorst` writes, the lowest score first."""
    with tf.io.gfile.GFile(path) as file:
        examples = [_LINE.validate_json(line) for line in file.read().splitlines()]
    return sorted(examples, key=lambda example: (example.score, example.filename))
