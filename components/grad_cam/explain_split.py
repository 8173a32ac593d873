"""The Beam transform that selects predictions of a split, explains them and measures their faithfulness."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, NamedTuple

import apache_beam as beam
import numpy as np
import tensorflow as tf
from apache_beam.utils import shared

from components.grad_cam import artifact, heat_maps, predictions, selection
from components.grad_cam.faithfulness_gate import MeanAndCount
from components.grad_cam.predictions import ImageBatch, PredictionBatch, PredictionId
from components.grad_cam.selection import Selection
from trainer_module import faithfulness, features, grad_cam, keras_file, overlays, tasks, test_time_augmentation
from trainer_module.fused_normalization import fused
from trainer_module.grad_cam import ExplainedBatch
from trainer_module.options import TrainerOptions
from trainer_module.tasks import PredictionOutcomes, Subject

# Predictions that are measured: (file name, prediction).
Sample = frozenset[tuple[str, PredictionId]]


class ExplainedSplit(NamedTuple):
    """The results of `ExplainSplit`.

    Attributes:
      entries: PCollection of `ExplainedPrediction`: the selected predictions, whose PNG files are written.
      means: PCollection of (name of the metric, `MeanAndCount`).
    """

    entries: beam.PCollection
    means: beam.PCollection


class ExplainSplit(beam.PTransform):
    """Explains the selected predictions of a split, or all, and measures the explanations of a sample.

    It reads the split twice: the selection is known only when everything has been predicted. Between the two passes it
    keeps names of images, no pixels.
    """

    def __init__(
        self, pattern: str, keras_path: str, options: TrainerOptions, slices: Sequence[str], output_dir: str
    ) -> None:
        """Configures the transform.

        Args:
          pattern: Pattern of the TFRecord files with raw examples.
          keras_path: The Keras file.
          options: The configuration of the run.
          slices: Names of the slices from whose values predictions are selected.
          output_dir: Folder for PNG files and heat maps.
        """
        super().__init__()
        self._pattern, self._options, self._output_dir = pattern, options, output_dir
        self._network = (shared.Shared(), keras_path, options, slices)

    def expand(self, begin: beam.pvalue.PBegin) -> ExplainedSplit:
        """Builds the transform."""
        options, size = self._options.grad_cam, predictions.batch_size(self._options)
        batch = beam.BatchElements(min_batch_size=size, max_batch_size=size)
        predicted = (
            begin
            | "Read" >> beam.io.ReadFromTFRecord(self._pattern)
            | "Batch" >> batch
            | "Predict" >> beam.ParDo(_Predict(*self._network)).with_outputs(_Predict.SAMPLE, main="candidates")
        )
        best = [
            predicted.candidates
            | f"Only {criterion}" >> beam.Filter(lambda candidate, criterion: candidate[0][1] == criterion, criterion)
            | f"Best {criterion}" >> beam.combiners.Top.LargestPerKey(number)
            for criterion, number in selection.numbers(options).items()
            if number
        ]
        selected = (
            (best or [begin | "Nothing" >> beam.Create([])])
            | "All" >> beam.Flatten()
            | "List" >> beam.combiners.ToList()
            | "ByFilename" >> beam.Map(selection.by_filename)
        )
        sample_size = options.faithfulness_sample if options.faithfulness else 0
        sample = (
            predicted[_Predict.SAMPLE]
            | "Sample" >> beam.combiners.Top.Smallest(max(1, sample_size))
            | "Names" >> beam.Map(lambda rows: frozenset(row[2:] for row in rows[:sample_size]))
        )
        sampled = sample | "Images" >> beam.Map(lambda names: frozenset(filename for filename, _ in names))
        choices = (beam.pvalue.AsSingleton(selected), beam.pvalue.AsSingleton(sample))
        needed = begin | "ReadAgain" >> beam.io.ReadFromTFRecord(self._pattern)
        if options.select != "everything":
            needed |= "Needed" >> beam.Filter(_is_needed, choices[0], beam.pvalue.AsSingleton(sampled))
        explained = (
            needed
            | "BatchAgain" >> batch
            | "Explain"
            >> beam.ParDo(_Explain(*self._network, output_dir=self._output_dir), *choices).with_outputs(
                _Explain.HEATMAPS, _Explain.VALUES, main="entries"
            )
        )
        _ = explained[_Explain.HEATMAPS] | "WriteHeatmaps" >> beam.io.WriteToTFRecord(
            os.path.join(self._output_dir, artifact.HEATMAPS_PREFIX), file_name_suffix=".gz"
        )
        return ExplainedSplit(
            entries=explained.entries,
            means=explained[_Explain.VALUES] | "Means" >> beam.CombinePerKey(_MeanAndCount()),
        )


class _Network:
    """The functions of one model; each is traced on first use."""

    def __init__(self, keras_path: str, options: TrainerOptions) -> None:
        plain, explained = keras_file.load(keras_path), options.grad_cam
        model = test_time_augmentation.averaged(plain, options)
        explanation = tasks.get(options.task.name).explanation

        @tf.function(reduce_retracing=True, autograph=False)
        def predict(images: tf.Tensor) -> Any:
            with fused(model):
                return grad_cam.as_float32(model(tf.cast(images, tf.float32), training=False))

        self.predict = predict
        self.explain = grad_cam.explainer(model, explanation, explained.method, explained.layer)
        # Measured on the unchanged image, whose feature map is explained: other views would repeat it for every step.
        self.measure = faithfulness.measurer(plain, explanation, explained.faithfulness_steps)


class _NetworkDoFn(beam.DoFn):
    """Shares one loaded model with all instances in its process."""

    def __init__(self, handle: shared.Shared, keras_path: str, options: TrainerOptions, slices: Sequence[str]) -> None:
        self._handle, self._keras_path = handle, keras_path
        self._options_json, self._slices = options.model_dump_json(), tuple(slices)

    def setup(self) -> None:
        self._options = TrainerOptions.model_validate_json(self._options_json)
        self._explanation = tasks.get(self._options.task.name).explanation
        self._network = self._handle.acquire(lambda: _Network(self._keras_path, self._options))

    def _read(self, serialized: Sequence[bytes]) -> ImageBatch:
        return predictions.read_images(serialized, self._options, self._slices)

    def _outcomes(self, batch: PredictionBatch, outputs: Any, subject: Subject) -> PredictionOutcomes:
        return self._explanation.outcomes(outputs, subject, batch.ground_truth, self._options)


class _Predict(_NetworkDoFn):
    """Batch of raw examples → candidates of the selection; tagged `sample`, the order in which they are measured.

    It is (number of the prediction in its image, sha256 of the image, file name, prediction): one prediction of every
    image comes first, then a second one. The hash of image and prediction numbers them.
    """

    SAMPLE = "sample"

    def process(self, serialized: list[bytes]) -> Iterable[Any]:
        images = self._read(serialized)
        all_outputs = self._network.predict(images.pixels)
        measurable: dict[tuple[str, str], list[PredictionId]] = {}
        for batch in predictions.batches(images, self._options, all_outputs):
            outputs = tf.nest.map_structure(lambda output, part=batch: tf.gather(output, part.indices), all_outputs)
            subject = self._explanation.target(outputs, batch.subject, batch.pixels.shape[1:3]).subject
            outcomes = self._outcomes(batch, outputs, subject)
            ids = batch.prediction_ids(subject.class_ids)
            for i in np.flatnonzero(outcomes.exists).tolist():
                measurable.setdefault((batch.sources[i].sha256, batch.sources[i].filename), []).append(ids[i])
            yield from selection.candidates(batch.sources, ids, outcomes, self._options.classes)
        for (sha256, filename), ids in measurable.items():
            for number, prediction_id in enumerate(selection.measuring_order(sha256, ids)):
                yield beam.pvalue.TaggedOutput(self.SAMPLE, (number, sha256, filename, prediction_id))


class _Explain(_NetworkDoFn):
    """Batch of raw examples → PNG files and entries; tagged, heat maps as tf.Examples and values of metrics."""

    HEATMAPS, VALUES = "heatmaps", "values"

    def __init__(self, *network: Any, output_dir: str) -> None:
        super().__init__(*network)
        self._output_dir = output_dir

    def setup(self) -> None:
        super().setup()
        self._colors = overlays.color_table(self._options.grad_cam.colormap)

    def process(self, serialized: list[bytes], selected: Selection, sample: Sample) -> Iterable[Any]:
        options, images = self._options, self._read(serialized)
        explains_everything = options.grad_cam.select == "everything"
        outputs = self._network.predict(images.pixels) if predictions.lists_predictions(options) else None

        def is_needed(filename: str, prediction_id: PredictionId) -> bool:
            is_selected = prediction_id in selected.get(filename, {})
            return explains_everything or is_selected or (filename, prediction_id) in sample

        for batch in predictions.batches(images, options, outputs, is_needed):
            explained = self._network.explain(batch.pixels, batch.subject)
            outcomes = self._outcomes(batch, explained.outputs, explained.subject)
            existing = np.flatnonzero(outcomes.exists).tolist()
            every = heat_maps.from_batch(batch, explained, outcomes, options)
            drawn = [every[i] for i in existing if every[i].prediction_id in selected.get(every[i].filename, {})]
            for heat_map in [every[i] for i in existing] if explains_everything else drawn:
                yield beam.pvalue.TaggedOutput(self.HEATMAPS, heat_maps.to_example(heat_map).SerializeToString())
            if drawn:
                yield from heat_maps.write_images(drawn, selected, options, self._colors, self._output_dir)
            measured = [i for i in existing if (every[i].filename, every[i].prediction_id) in sample]
            if measured:
                for value in self._measure(batch, explained, measured):
                    yield beam.pvalue.TaggedOutput(self.VALUES, value)

    def _measure(
        self, batch: PredictionBatch, explained: ExplainedBatch, measured: Sequence[int]
    ) -> Iterator[tuple[str, float]]:
        part = tf.nest.map_structure(lambda value: None if value is None else tf.gather(value, measured), explained)
        true_regions = None
        if self._explanation.true_regions:
            true_regions = tf.constant(self._explanation.true_regions(batch.ground_truth[measured], part.subject))
        values = self._network.measure(tf.gather(batch.pixels, measured), part, true_regions)
        for name, tensor in values.items():
            for value in tensor.numpy()[~np.isnan(tensor.numpy())]:
                yield name, float(value)


class _MeanAndCount(beam.CombineFn):
    """Numbers → their mean and their number."""

    def create_accumulator(self) -> MeanAndCount:
        return 0.0, 0

    def add_input(self, accumulator: MeanAndCount, value: float) -> MeanAndCount:
        return accumulator[0] + value, accumulator[1] + 1

    def merge_accumulators(self, accumulators: Iterable[MeanAndCount]) -> MeanAndCount:
        totals, counts = zip(*accumulators, strict=True)
        return sum(totals), sum(counts)

    def extract_output(self, accumulator: MeanAndCount) -> MeanAndCount:
        return accumulator[0] / accumulator[1], accumulator[1]


def _is_needed(serialized: bytes, selected: Selection, sampled: frozenset[str]) -> bool:
    feature = tf.train.Example.FromString(serialized).features.feature
    filename = feature[features.IMAGE_FILENAME].bytes_list.value[0].decode()
    return filename in selected or filename in sampled
