"""The TFMA metric that evaluates a task: every example is counted once, and all metrics follow from the counts."""

import json
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import apache_beam as beam
import numpy as np
import tensorflow_model_analysis as tfma
from tensorflow_model_analysis.metrics import calibration_plot, confusion_matrix_plot, metric_types, metric_util
from tensorflow_model_analysis.proto import metrics_for_slice_pb2
from tensorflow_model_analysis.utils import util

from trainer_module import tasks
from trainer_module.evaluation.spec import Accumulator, Evaluation, Parameters, SharedIds

SUPPORT = "support"  # stored like a metric of each class
EVIDENCE = "evidence"  # stored like a metric: JSON, name → counts
DETAILS = "details"  # the same: JSON, name → numbers of every class

# TFMA stores the plots of a slice under these names, each with its own message type.
_CONFUSION, _RELIABILITY = confusion_matrix_plot.CONFUSION_MATRIX_PLOT_NAME, calibration_plot.CALIBRATION_PLOT_NAME


# TFMA constructs this class by its name in the EvalConfig.
class TaskMetrics(tfma.metrics.Metric):
    """All metrics of a task, overall and per class, and its plots, as its `Evaluation` record defines them.

    TFMA's own metrics differ: Precision and Recall compare the probability of each class with 0.5, so that a class that
    wins with less would count as never predicted; AUC interpolates between thresholds; the confusion matrix of masks
    does not contain pairs of classes, and compares whole masks once per class and slice.
    """

    def __init__(
        self,
        task: str,
        num_classes: int,
        top_k: int,
        ignore_id: int | None = None,
        shared: dict[str, dict[str, list[int]]] | None = None,
        name: str = "task_metrics",
    ) -> None:
        """Constructs the metric.

        Args:
          task: Name of the task.
          num_classes: Number of classes; ids are 0 to num_classes - 1.
          top_k: The k of the top-k accuracy.
          ignore_id: Label of the pixels that are not evaluated.
          shared: Name of the model → the fields of `SharedIds`, if only shared classes are evaluated.
          name: Not shown: each metric has its own name.
        """
        super().__init__(
            metric_util.merge_per_key_computations(_computations),
            task=task,
            num_classes=num_classes,
            top_k=top_k,
            ignore_id=ignore_id,
            shared=shared,
            name=name,
        )


def _computations(
    task: str,
    num_classes: int,
    top_k: int,
    ignore_id: int | None,
    shared: dict[str, dict[str, list[int]]] | None,
    name: str,
    model_name: str = "",
    output_name: str = "",
    **unused: Any,
) -> list[Any]:
    del name, output_name, unused
    ids = {key: tuple(values) for key, values in shared[model_name].items()} if shared else None
    parameters = Parameters(num_classes, top_k, ignore_id, shared=SharedIds(**ids) if ids else None)
    evaluation = tasks.get(task).evaluation
    key = metric_types.MetricKey(name="_counts", model_name=model_name)
    counts = metric_types.MetricComputation(
        keys=[key],
        preprocessors=[_ReadElement(evaluation.element, parameters, model_name)],
        combiner=_Count(evaluation.accumulator, parameters, key),
    )
    return [counts, _derived_metrics(task, parameters, key)]


class _ReadElement(metric_types.Preprocessor):
    """Reduces an example to what it adds to the counts, before it is copied into each slice that it belongs to."""

    def __init__(self, element: Callable[..., Any], parameters: Parameters, model_name: str) -> None:
        super().__init__(name=f"_element_{model_name}")
        self._element, self._parameters, self._model_name = element, parameters, model_name

    def process(self, extracts: Any) -> Iterator[Any]:
        standard = util.StandardExtracts(extracts)
        label_features = standard.get_transformed_features(self._model_name)
        yield self._element(label_features, standard.get_predictions(self._model_name), self._parameters)


class _Count(beam.CombineFn):
    """Adds up the accumulators of a task."""

    def __init__(
        self, accumulator: Callable[[Parameters], Accumulator], parameters: Parameters, key: metric_types.MetricKey
    ) -> None:
        self._accumulator, self._parameters, self._key = accumulator, parameters, key

    def create_accumulator(self) -> Accumulator:
        return self._accumulator(self._parameters)

    def add_input(self, accumulator: Accumulator, element: Any) -> Accumulator:
        if element is not None:
            accumulator.add(element)
        return accumulator

    def merge_accumulators(self, accumulators: Iterable[Accumulator]) -> Accumulator:
        # Into a new one: TFMA's jackknife merges the same accumulator many times.
        merged = self.create_accumulator()
        for accumulator in accumulators:
            merged.merge(accumulator)
        return merged

    def extract_output(self, accumulator: Accumulator) -> dict[metric_types.MetricKey, Accumulator]:
        return {self._key: accumulator}


def _derived_metrics(
    task: str, parameters: Parameters, counts_key: metric_types.MetricKey
) -> metric_types.DerivedMetricComputation:
    """Computes all metrics and plots from the counts."""
    evaluation, num_classes, model_name = tasks.get(task).evaluation, parameters.num_classes, counts_key.model_name

    def keys_of(name: str, per_class: bool) -> list[metric_types.MetricKey]:
        sub_keys = [metric_types.SubKey(class_id=index) for index in range(num_classes)] if per_class else [None]
        return [metric_types.MetricKey(name=name, model_name=model_name, sub_key=sub_key) for sub_key in sub_keys]

    def plot_key(name: str) -> metric_types.PlotKey:
        return metric_types.PlotKey(name=name, model_name=model_name)

    def result(values: dict[Any, Any]) -> dict[Any, Any]:
        evaluation = tasks.get(task).evaluation  # looked up here: lambdas cannot be pickled
        summary = values[counts_key].summarize()
        computed: dict[Any, Any] = {plot_key(name): draw(summary) for name, draw in _plots(evaluation).items()}
        for metric in evaluation.metrics(parameters.top_k):
            assert metric.compute is not None
            metric_keys = keys_of(metric.name, metric.scope == "per_class")
            computed |= zip(metric_keys, map(float, np.atleast_1d(metric.compute(summary))), strict=True)
        evidence = {name: counts.tolist() for name, counts in evaluation.evidence(summary).items()}
        computed |= dict.fromkeys(keys_of(EVIDENCE, False), json.dumps(evidence))
        if evaluation.details:
            details = {name: numbers.tolist() for name, numbers in evaluation.details(summary).items()}
            computed |= dict.fromkeys(keys_of(DETAILS, False), json.dumps(details))
        return computed | dict(zip(keys_of(SUPPORT, True), map(float, evaluation.support(summary)), strict=True))

    keys = [
        key
        for metric in evaluation.metrics(parameters.top_k)
        for key in keys_of(metric.name, metric.scope == "per_class")
    ]
    keys += [*keys_of(SUPPORT, True), *keys_of(EVIDENCE, False), *map(plot_key, _plots(evaluation))]
    if evaluation.details:
        keys += keys_of(DETAILS, False)
    return metric_types.DerivedMetricComputation(keys=keys, result=result)


def _plots(evaluation: Evaluation) -> dict[str, Callable[[Any], Any]]:
    """Returns the plots of a task: name → (summary → TFMA's message)."""
    matrix, reliability = evaluation.confusion_matrix, evaluation.reliability
    plots: dict[str, Callable[[Any], Any]] = {}
    if matrix is not None:
        plots[_CONFUSION] = lambda summary: _confusion_message(matrix(summary))
    if reliability is not None:
        plots[_RELIABILITY] = lambda summary: _reliability_message(reliability(summary))
    return plots


def _confusion_message(matrix: np.ndarray) -> metrics_for_slice_pb2.MultiClassConfusionMatrixAtThresholds:
    message = metrics_for_slice_pb2.MultiClassConfusionMatrixAtThresholds()
    stored = message.matrices.add(threshold=0.0)
    for actual, predicted in np.argwhere(matrix):
        stored.entries.add(
            actual_class_id=actual, predicted_class_id=predicted, num_weighted_examples=matrix[actual, predicted]
        )
    return message


def _reliability_message(bins: np.ndarray) -> metrics_for_slice_pb2.CalibrationHistogramBuckets:
    message = metrics_for_slice_pb2.CalibrationHistogramBuckets()
    num_bins = bins.shape[1]
    for index, (count, confidence, correct) in enumerate(bins.T):
        bucket = message.buckets.add(
            lower_threshold_inclusive=index / num_bins, upper_threshold_exclusive=(index + 1) / num_bins
        )
        bucket.num_weighted_examples.value = count
        bucket.total_weighted_refined_prediction.value = confidence
        bucket.total_weighted_label.value = correct
    return message
