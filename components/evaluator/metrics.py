"""What TFMA calls: every figure of a slice from one tally, which sees every example once."""

import io
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

import apache_beam as beam
import numpy as np
import tensorflow_model_analysis as tfma
from PIL import Image
from tensorflow_model_analysis.metrics import calibration_plot, confusion_matrix_plot, metric_types, metric_util
from tensorflow_model_analysis.proto import metrics_for_slice_pb2
from tensorflow_model_analysis.utils import util

from components.evaluator import metric_names, tallies
from components.evaluator.tallies import LabelTally

# Under these names TFMA stores plots of one slice together; what each is its message says.
_CONFUSION, _RELIABILITY = confusion_matrix_plot.CONFUSION_MATRIX_PLOT_NAME, calibration_plot.CALIBRATION_PLOT_NAME

Results = dict[str, float]
ClassResults = dict[str, np.ndarray]


# TFMA constructs this class by its name in the EvalConfig.
class ClassificationReport(tfma.metrics.Metric):
    """Every figure of single-label classification, overall and per class, confusion matrix and reliability curve.

    TFMA's own Precision and Recall compare every class's probability with one half; a class that wins with less would
    count as never predicted. Its AUC interpolates between thresholds; this one counts pairs.
    """

    def __init__(
        self,
        num_classes: int,
        top_k: int,
        prediction_key: str,
        name: str = "classification_report",
    ) -> None:
        """Takes what the instance needs.

        Args:
          num_classes: Number of classes; ids are 0 to num_classes - 1.
          top_k: The k of the top-k accuracy.
          prediction_key: The model's output that holds the probabilities, float32 [C].
          name: Not shown: the figures have names of their own.
        """
        super().__init__(
            metric_util.merge_per_key_computations(_label_computations),
            num_classes=num_classes,
            top_k=top_k,
            prediction_key=prediction_key,
            name=name,
        )


class SegmentationReport(tfma.metrics.Metric):
    """Every figure of masks, overall and per class, and the confusion matrix of pixels.

    TFMA's own confusion matrix of masks knows no pairs of classes, and compares whole masks once for every class and
    slice; here a mask is counted once.
    """

    def __init__(
        self,
        num_classes: int,
        ignore_id: int | None,
        label_key: str,
        prediction_key: str,
        name: str = "segmentation_report",
    ) -> None:
        """Takes what the instance needs.

        Args:
          num_classes: Number of classes; ids are 0 to num_classes - 1.
          ignore_id: Label of the pixels that do not count.
          label_key: The transformed feature that holds the true mask, a PNG of ids [h, w].
          prediction_key: The model's output that holds the predicted one, of the same size.
          name: Not shown: the figures have names of their own.
        """
        super().__init__(
            metric_util.merge_per_key_computations(_pixel_computations),
            num_classes=num_classes,
            ignore_id=ignore_id,
            label_key=label_key,
            prediction_key=prediction_key,
            name=name,
        )


def label_results(tally: LabelTally) -> tuple[Results, ClassResults]:
    """The figures by their names in `metric_names`: overall, and per class float64 [C]."""
    matrix = tally.matrix()
    of_classes = tallies.class_figures(matrix)
    auc = tally.auc()
    # As scikit-learn's: a class that is only predicted counts as 0, or wrong guesses would cost nothing.
    counted = (matrix.sum(axis=0) + matrix.sum(axis=1)) > 0
    overall = {"accuracy": tallies.accuracy(matrix), metric_names.top_k_name(tally.top_k): tally.top_k_accuracy()}
    for name in ("precision", "recall", "f1"):
        values = getattr(of_classes, name)
        overall[f"macro_{name}"] = tallies.macro(values, counted)
        overall[f"weighted_{name}"] = tallies.weighted(values, of_classes.support)
    overall["macro_auc"] = tallies.macro(auc)
    overall["cross_entropy"] = tally.cross_entropy()
    overall["expected_calibration_error"] = tally.expected_calibration_error()
    return overall, {**of_classes._asdict(), "auc": auc}


def pixel_results(matrix: np.ndarray) -> tuple[Results, ClassResults]:
    """The figures by their names in `metric_names`: overall, and per class float64 [C].

    Args:
      matrix: int64 [C, C], pixels; rows are the truth. Means are over the classes that occur in either.

    Reference: Long et al. 2015, https://arxiv.org/abs/1411.4038, section 5 (pixel accuracy, mean IU).
    """
    right, either = np.diag(matrix).astype(float), (matrix.sum(axis=0) + matrix.sum(axis=1)).astype(float)
    with np.errstate(invalid="ignore"):
        iou = right / (either - right)
    of_classes = tallies.class_figures(matrix)
    dice = of_classes.f1  # of pixels they are one
    overall = {
        "pixel_accuracy": tallies.accuracy(matrix),
        "mean_iou": tallies.macro(iou),
        "mean_dice": tallies.macro(dice),
    }
    per_class = {"iou": iou, "dice": dice, "precision": of_classes.precision, "recall": of_classes.recall}
    return overall, {**per_class, metric_names.SUPPORT: of_classes.support}


class _Combiner(beam.CombineFn):
    """Adds up tallies, or whatever else can be added to and merged."""

    def __init__(self, key: metric_types.MetricKey) -> None:
        self._key = key

    def merge_accumulators(self, accumulators: Iterable[Any]) -> Any:
        # The accumulators are not ours to change: TFMA's jackknife merges the same one many times.
        merged = self.create_accumulator()
        for accumulator in accumulators:
            merged = self.merged(merged, accumulator)
        return merged

    def merged(self, merged: Any, other: Any) -> Any:
        raise NotImplementedError

    def extract_output(self, accumulator: Any) -> dict[metric_types.MetricKey, Any]:
        return {self._key: accumulator}


class _LabelCombiner(_Combiner):
    def __init__(self, key: metric_types.MetricKey, num_classes: int, top_k: int) -> None:
        super().__init__(key)
        self._num_classes, self._top_k = num_classes, top_k

    def create_accumulator(self) -> LabelTally:
        return LabelTally(self._num_classes, self._top_k)

    def add_input(self, accumulator: LabelTally, element: tuple[int, np.ndarray]) -> LabelTally:
        accumulator.add(*element)
        return accumulator

    def merged(self, merged: LabelTally, other: LabelTally) -> LabelTally:
        merged.merge(other)
        return merged


class _MatrixCombiner(_Combiner):
    def __init__(self, key: metric_types.MetricKey, num_classes: int) -> None:
        super().__init__(key)
        self._num_classes = num_classes

    def create_accumulator(self) -> np.ndarray:
        return np.zeros((self._num_classes, self._num_classes), np.int64)

    def add_input(self, accumulator: np.ndarray, element: np.ndarray) -> np.ndarray:
        accumulator += element
        return accumulator

    def merged(self, merged: np.ndarray, other: np.ndarray) -> np.ndarray:
        merged += other
        return merged


class _LabelAndProbabilities(metric_types.Preprocessor):
    """What an example adds, before it is given to every slice that it belongs to."""

    def __init__(self, model_name: str, prediction_key: str) -> None:
        super().__init__(name=f"_label_and_probabilities_{model_name}")
        self._model_name = model_name
        self._prediction_key = prediction_key

    def process(self, extracts: Any) -> Iterator[tuple[int, np.ndarray]]:
        standard = util.StandardExtracts(extracts)
        label = np.asarray(standard.get_labels(self._model_name))
        yield int(label.item()), standard.get_predictions(self._model_name)[self._prediction_key].reshape(-1)


class _ConfusionOfMasks(metric_types.Preprocessor):
    """The same of a pair of masks: a matrix, so that slices have nothing to do with pixels."""

    def __init__(
        self, model_name: str, num_classes: int, ignore_id: int | None, label_key: str, prediction_key: str
    ) -> None:
        super().__init__(name=f"_confusion_of_masks_{model_name}")
        self._model_name = model_name
        self._num_classes = num_classes
        self._ignore_id = ignore_id
        self._label_key, self._prediction_key = label_key, prediction_key

    def process(self, extracts: Any) -> Iterator[np.ndarray]:
        standard = util.StandardExtracts(extracts)
        truth = _decode(standard.get_transformed_features(self._model_name)[self._label_key])
        predicted = _decode(standard.get_predictions(self._model_name)[self._prediction_key])
        yield confusion_of_masks(truth, predicted, self._num_classes, self._ignore_id)


def confusion_of_masks(truth: np.ndarray, predicted: np.ndarray, num_classes: int, ignore_id: int | None) -> np.ndarray:
    """Counts pixels by true class (row) and predicted class (column), int64 [C, C].

    Args:
      truth: uint8 [h, w], class ids and `ignore_id`.
      predicted: uint8 [h, w], class ids.
      num_classes: Number of classes.
      ignore_id: Label of the pixels that do not count.

    Raises:
      ValueError: If the masks are not of one size, or hold an id that no class has.
    """
    if truth.shape != predicted.shape:
        raise ValueError(f"a mask of {truth.shape} pixels was predicted as one of {predicted.shape}")
    counted = np.ones(truth.shape, bool) if ignore_id is None else truth != ignore_id
    cells = truth[counted].astype(np.int64) * num_classes + predicted[counted]
    if cells.size and max(truth[counted].max(), predicted[counted].max()) >= num_classes:
        raise ValueError(f"a mask holds an id that none of the {num_classes} classes has")
    return np.bincount(cells, minlength=num_classes**2).reshape(num_classes, num_classes)


def _decode(encoded: Any) -> np.ndarray:
    png = np.asarray(encoded).item()
    with Image.open(io.BytesIO(png)) as image:
        return np.asarray(image)


def _label_computations(
    num_classes: int,
    top_k: int,
    prediction_key: str,
    name: str,
    model_name: str = "",
    output_name: str = "",
    **unused: Any,
) -> list[Any]:
    del name, output_name, unused
    key = metric_types.MetricKey(name="_label_tally", model_name=model_name)
    tally = metric_types.MetricComputation(
        keys=[key],
        preprocessors=[_LabelAndProbabilities(model_name, prediction_key)],
        combiner=_LabelCombiner(key, num_classes, top_k),
    )
    plots = {_CONFUSION: lambda tally: _confusion(tally.matrix()), _RELIABILITY: _reliability}
    return [tally, _derived(key, label_results, LabelTally(num_classes, top_k), num_classes, plots)]


def _pixel_computations(
    num_classes: int,
    ignore_id: int | None,
    label_key: str,
    prediction_key: str,
    name: str,
    model_name: str = "",
    output_name: str = "",
    **unused: Any,
) -> list[Any]:
    del name, output_name, unused
    key = metric_types.MetricKey(name="_pixel_matrix", model_name=model_name)
    preprocessor = _ConfusionOfMasks(model_name, num_classes, ignore_id, label_key, prediction_key)
    matrix = metric_types.MetricComputation(
        keys=[key], preprocessors=[preprocessor], combiner=_MatrixCombiner(key, num_classes)
    )
    nothing = np.zeros((num_classes, num_classes), np.int64)
    return [matrix, _derived(key, pixel_results, nothing, num_classes, {_CONFUSION: _confusion})]


def _derived(
    key: metric_types.MetricKey,
    results: Callable[[Any], tuple[Results, ClassResults]],
    nothing: Any,
    num_classes: int,
    plots: Mapping[str, Callable[[Any], Any]],
) -> metric_types.DerivedMetricComputation:
    """All figures and plots of a tally, under keys that say whose they are.

    Args:
      key: Of the tally.
      results: Tally → figures.
      nothing: An empty tally: TFMA wants the keys before there is one.
      num_classes: Number of classes.
      plots: Name → how the tally becomes TFMA's message.
    """
    overall, per_class = results(nothing)

    def metric(name: str, class_id: int | None = None) -> metric_types.MetricKey:
        sub_key = None if class_id is None else metric_types.SubKey(class_id=class_id)
        return metric_types.MetricKey(name=name, model_name=key.model_name, sub_key=sub_key)

    def plot(name: str) -> metric_types.PlotKey:
        return metric_types.PlotKey(name=name, model_name=key.model_name)

    def result(metrics: dict[Any, Any]) -> dict[Any, Any]:
        overall, per_class = results(metrics[key])
        values: dict[Any, Any] = {metric(name): value for name, value in overall.items()}
        for name, of_classes in per_class.items():
            values |= {metric(name, class_id): float(value) for class_id, value in enumerate(of_classes)}
        return values | {plot(name): make(metrics[key]) for name, make in plots.items()}

    keys = [*map(metric, overall), *(metric(name, i) for name in per_class for i in range(num_classes))]
    return metric_types.DerivedMetricComputation(keys=[*keys, *map(plot, plots)], result=result)


def _confusion(matrix: np.ndarray) -> metrics_for_slice_pb2.MultiClassConfusionMatrixAtThresholds:
    message = metrics_for_slice_pb2.MultiClassConfusionMatrixAtThresholds()
    stored = message.matrices.add(threshold=0.0)
    for actual, predicted in np.argwhere(matrix):
        stored.entries.add(
            actual_class_id=actual, predicted_class_id=predicted, num_weighted_examples=matrix[actual, predicted]
        )
    return message


def _reliability(tally: LabelTally) -> metrics_for_slice_pb2.CalibrationHistogramBuckets:
    message = metrics_for_slice_pb2.CalibrationHistogramBuckets()
    for index, (count, confidence, right) in enumerate(tally.bins().T):
        bucket = message.buckets.add(
            lower_threshold_inclusive=index / tallies.NUM_BINS, upper_threshold_exclusive=(index + 1) / tallies.NUM_BINS
        )
        bucket.num_weighted_examples.value = count
        bucket.total_weighted_refined_prediction.value = confidence
        bucket.total_weighted_label.value = right
    return message
