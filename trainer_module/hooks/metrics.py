"""What TFMA calls: figures per class and their means, from one confusion matrix a slice."""

import math
from collections.abc import Mapping
from typing import Any

import tensorflow_model_analysis as tfma
from tensorflow_model_analysis.metrics import metric_types, metric_util, multi_class_confusion_matrix_metrics

PER_CLASS = ("precision", "recall", "f1", "support")
OVERALL = ("accuracy", "macro_precision", "macro_recall", "macro_f1")


def report(
    counts: Mapping[tuple[int, int], float], num_classes: int
) -> tuple[dict[str, float], list[dict[str, float]]]:
    """Computes what scikit-learn's classification report shows, the most probable class being the prediction.

    Args:
      counts: (actual class id, predicted class id) → number of examples.
      num_classes: Number of classes.

    Returns:
      Overall figures (accuracy and the macro means, over the classes that occur; NaN without examples), and for every
      class precision (0 if never predicted), recall and f1 (NaN if the class does not occur) and support.
    """
    per_class = []
    for class_id in range(num_classes):
        right = counts.get((class_id, class_id), 0.0)
        support = sum(count for (actual, _), count in counts.items() if actual == class_id)
        predicted = sum(count for (_, guess), count in counts.items() if guess == class_id)
        per_class.append(
            {
                "precision": right / predicted if predicted else 0.0 if support else math.nan,
                "recall": right / support if support else math.nan,
                "f1": 2.0 * right / (support + predicted) if support else math.nan,
                "support": float(support),
            }
        )
    total = sum(counts.values())
    occurring = [figures for figures in per_class if figures["support"]]
    overall = {"accuracy": sum(counts.get((i, i), 0.0) for i in range(num_classes)) / total if total else math.nan}
    for name in ("precision", "recall", "f1"):
        values = [figures[name] for figures in occurring]
        overall[f"macro_{name}"] = sum(values) / len(values) if values else math.nan
    return overall, per_class


# TFMA constructs this class by its name in the EvalConfig.
class ClassificationReport(tfma.metrics.Metric):
    """Accuracy, macro means and figures per class, as metrics that thresholds can name.

    TFMA's own Precision and Recall compare every class's probability with one half; a class that wins with less would
    count as never predicted.
    """

    def __init__(self, num_classes: int, name: str = "classification_report") -> None:
        """Takes what the instance needs.

        Args:
        num_classes: Number of classes; ids are 0 to num_classes - 1.
        name: Not shown: the figures have names of their own.
        """
        super().__init__(metric_util.merge_per_key_computations(_computations), num_classes=num_classes, name=name)


def _computations(
    num_classes: int,
    name: str,
    eval_config: Any = None,
    model_name: str = "",
    output_name: str = "",
    example_weighted: bool = False,
) -> list[Any]:
    del name
    shared = {"model_name": model_name, "output_name": output_name, "example_weighted": example_weighted}
    matrices = multi_class_confusion_matrix_metrics.multi_class_confusion_matrices(
        thresholds=[0.0], eval_config=eval_config, **shared
    )
    matrices_key = matrices[-1].keys[-1]
    # `thresholds` of a MetricsSpec look for keys that say nothing about weights.
    unweighted = {**shared, "example_weighted": None}
    overall_keys = {figure: metric_types.MetricKey(name=figure, **unweighted) for figure in OVERALL}
    class_keys = [
        {
            figure: metric_types.MetricKey(name=figure, sub_key=metric_types.SubKey(class_id=class_id), **shared)
            for figure in PER_CLASS
        }
        for class_id in range(num_classes)
    ]

    def result(metrics: dict[Any, Any]) -> dict[Any, float]:
        (matrix,) = metrics[matrices_key].values() or ({},)
        counts = {(key.actual_class_id, key.predicted_class_id): count for key, count in matrix.items()}
        overall, per_class = report(counts, num_classes)
        values = {overall_keys[figure]: overall[figure] for figure in OVERALL}
        for keys, figures in zip(class_keys, per_class, strict=True):
            values |= {keys[figure]: figures[figure] for figure in PER_CLASS}
        return values

    keys = [*overall_keys.values(), *(key for by_figure in class_keys for key in by_figure.values())]
    return [*matrices, metric_types.DerivedMetricComputation(keys=keys, result=result)]
