"""Finds the examples with the worst predictions, in one pass over a split."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import apache_beam as beam
import tensorflow as tf
from pydantic import TypeAdapter

from components.compared_predictions import ComparedPrediction, Comparer, comparison_of
from components.model_report import comparisons
from components.model_report.comparisons import ComparedExample
from trainer_module.options import TrainerOptions

_BATCH_SIZE = 32
# One line of the file that the transform writes.
_LINE = TypeAdapter(ComparedExample)


class _Predict(beam.DoFn):
    """Batch of raw examples → (type of error, `ComparedPrediction`); loads the Keras file once per worker."""

    def __init__(self, keras_path: str, options: TrainerOptions) -> None:
        self._keras_path = keras_path
        self._options_json = options.model_dump_json()

    def setup(self) -> None:
        self._comparer = Comparer(self._keras_path, TrainerOptions.model_validate_json(self._options_json))

    def process(self, batch: list[bytes]) -> Iterable[tuple[str, ComparedPrediction]]:
        examples = [tf.train.Example.FromString(example).features.feature for example in batch]
        for compared in self._comparer.compare(examples):
            yield compared.error_type, compared


def _order(prediction: ComparedPrediction) -> tuple[float, str]:
    """By score, then by name: every run shows the same examples."""
    return prediction.score, prediction.filename


def _choose(worst: Mapping[str, list[ComparedPrediction]], num: int) -> Iterator[tuple[str, ComparedPrediction]]:
    """Takes the worst example of every type of error, then the second worst, until there are `num`.

    Examples without an error are taken only if no other has one.
    """
    types = sorted(error_type for error_type in worst if error_type or len(worst) == 1)
    rounds = itertools.zip_longest(*(worst[error_type] for error_type in types))
    pairs = (pair for entries in rounds for pair in zip(types, entries, strict=True) if pair[1] is not None)
    return itertools.islice(pairs, num)


def _draw(
    _: None,
    worst: Mapping[str, list[ComparedPrediction]],
    numbers: Mapping[str, int],
    options: TrainerOptions,
    num: int,
) -> Iterable[str]:
    for error_type, prediction in _choose(worst, num):
        drawn = comparisons.compare(
            comparison_of(options),
            prediction.filename,
            prediction.image(options.transform.num_channels),
            prediction.label,
            prediction.prediction,
            options.classes,
            options.ignore_id,
        )
        drawn = dataclasses.replace(drawn, error_type=error_type, num_images=numbers[error_type])
        yield _LINE.dump_json(drawn).decode()


class WriteWorst(beam.PTransform):
    """TFRecord files of raw examples → a file of the compared examples with the lowest scores of every type of error.

    At most `num` examples of each type are kept in memory, however many there are.
    """

    def __init__(self, pattern: str, keras_path: str, options: TrainerOptions, num: int, path: str) -> None:
        """Stores the arguments.

        Args:
          pattern: Glob of the TFRecord files.
          keras_path: The trained model.
          options: The configuration of the run.
          num: How many examples to write.
          path: The file to write; `read` reads it.
        """
        super().__init__()
        self._pattern, self._keras_path, self._options = pattern, keras_path, options
        self._num, self._path = num, path

    def expand(self, pipeline: Any) -> Any:
        """Reads, predicts, keeps the worst, draws and writes."""
        predicted = (
            pipeline
            | "Read" >> beam.io.ReadFromTFRecord(self._pattern)
            | "Batch" >> beam.BatchElements(min_batch_size=_BATCH_SIZE, max_batch_size=_BATCH_SIZE)
            | "Predict" >> beam.ParDo(_Predict(self._keras_path, self._options))
        )
        worst = predicted | "Worst" >> beam.combiners.Top.SmallestPerKey(self._num, key=_order)
        numbers = predicted | "Count" >> beam.combiners.Count.PerKey()
        return (
            pipeline
            | "Once" >> beam.Create([None])
            | "Draw"
            >> beam.FlatMap(_draw, beam.pvalue.AsDict(worst), beam.pvalue.AsDict(numbers), self._options, self._num)
            | "Write" >> beam.io.WriteToText(self._path, shard_name_template="")
        )


def read(path: str) -> list[ComparedExample]:
    """Reads the file that `WriteWorst` writes, the lowest score first."""
    with tf.io.gfile.GFile(path) as file:
        examples = [_LINE.validate_json(line) for line in file.read().splitlines()]
    return sorted(examples, key=lambda example: (example.score, example.filename))
