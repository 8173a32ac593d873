"""How a model that predicts one class per image is evaluated: counts and metrics."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from trainer_module import features
from trainer_module.evaluation.baselines import (
    CORRECT,
    LEVEL,
    OCCURRING,
    PREDICTED,
    BaselineComparison,
    ConstantBaseline,
    Evidence,
    decide,
    not_compared,
    permutation_test,
)
from trainer_module.evaluation.confusion_matrix import (
    ConfusionMatrix,
    mean_over_classes,
    mean_weighted_by_support,
    precision_and_recall,
)
from trainer_module.evaluation.probabilities import EPSILON, NUM_BINS, check, count_bins
from trainer_module.evaluation.score_counts import IntegerCounts, ScoreCounts
from trainer_module.evaluation.spec import Evaluation, Example, MetricSpec, Parameters

# Distinct scores of a slice that are kept exactly: of all classes, or of each if that is more.
_MAX_SCORES = 1 << 16
_MAX_SCORES_PER_CLASS = 1 << 8
# Probabilities that are collected before they are counted: counting sorts, which is faster for many at once.
_MAX_PENDING = 1 << 16


@dataclass(frozen=True, eq=False)
class LabelSummary:
    """The counts of a slice.

    Attributes:
      matrix: Examples by true and most probable class.
      auc: Area under the ROC curve of each class, float64 [C].
      top_k_accuracy: Share of the examples whose class is among the k most probable ones.
      cross_entropy: Mean negative logarithm of the true class's probability.
      bins: Number of predictions, sum of their confidence and number of correct ones by confidence, float64
        [3, NUM_BINS], see `probabilities.count_bins`.
    """

    matrix: ConfusionMatrix
    auc: np.ndarray
    top_k_accuracy: float
    cross_entropy: float
    bins: np.ndarray

    @property
    def calibration_error(self) -> float:
        """Mean distance of confidence and accuracy over the bins, weighted by their predictions.

        Reference: Guo et al. 2017, https://arxiv.org/abs/1706.04599, equation 3.
        """
        count, confidence, correct = self.bins
        return _divide(float(np.abs(confidence - correct).sum()), count.sum())


class LabelAccumulator:
    """Counts of single-label classification."""

    def __init__(self, parameters: Parameters) -> None:
        """Starts without examples."""
        self._num_classes, self._top_k = parameters.num_classes, parameters.top_k
        self._pending: list[tuple[int, np.ndarray]] = []
        self._cells = IntegerCounts()
        self._scores = ScoreCounts(max(_MAX_SCORES, _MAX_SCORES_PER_CLASS * self._num_classes))
        self._cross_entropy = 0.0
        self._top_k_hits = 0
        self._bins = np.zeros((3, NUM_BINS))

    def add(self, element: tuple[int, np.ndarray]) -> None:
        """Adds one example.

        Args:
          element: Class id; probabilities, float32 [C].

        Raises:
          ValueError: If the label is not a class id, or the probabilities are not one finite number per class.
        """
        label, probabilities = element
        if not 0 <= label < self._num_classes:
            raise ValueError(f"label {label} is not the id of one of {self._num_classes} classes")
        check(probabilities, self._num_classes)
        self._pending.append((label, probabilities))
        if len(self._pending) * self._num_classes >= _MAX_PENDING:
            self._count_pending()

    def merge(self, other: LabelAccumulator) -> None:
        """Adds the counts of another."""
        self._count_pending()
        other._count_pending()
        self._cells.add(other._cells.keys, other._cells.counts)
        self._scores.merge(other._scores)
        self._cross_entropy += other._cross_entropy
        self._top_k_hits += other._top_k_hits
        self._bins = self._bins + other._bins

    def summarize(self) -> LabelSummary:
        """The confusion matrix and the other counts that metrics are computed from."""
        self._count_pending()
        cells = np.zeros(self._num_classes**2, np.int64)
        cells[self._cells.keys] = self._cells.counts
        count = self._bins[0].sum()
        return LabelSummary(
            ConfusionMatrix(cells.reshape(self._num_classes, self._num_classes)),
            np.array([outcomes.auc() for outcomes in self._scores.by_class(self._num_classes)]),
            _divide(self._top_k_hits, count),
            _divide(self._cross_entropy, count),
            self._bins,
        )

    def _count_pending(self) -> None:
        if not self._pending:
            return
        labels = np.array([label for label, _ in self._pending], np.int64)
        probabilities = np.stack([row for _, row in self._pending]).astype(np.float32)
        self._pending = []
        rows, classes = np.arange(len(labels)), np.arange(self._num_classes)
        predicted = probabilities.argmax(axis=1)
        self._cells.add(labels * self._num_classes + predicted)
        self._scores.add(probabilities, labels[:, np.newaxis] == classes)
        true_probabilities = probabilities[rows, labels]
        clipped = np.clip(true_probabilities.astype(float), EPSILON, 1.0 - EPSILON)
        self._cross_entropy += float(-np.log(clipped).sum())
        # Among equally probable classes the first ones rank higher, as for argmax.
        higher = probabilities > true_probabilities[:, np.newaxis]
        equal_before = (probabilities == true_probabilities[:, np.newaxis]) & (classes < labels[:, np.newaxis])
        self._top_k_hits += int(((higher | equal_before).sum(axis=1) < self._top_k).sum())
        self._bins = self._bins + count_bins(probabilities[rows, predicted], predicted == labels)

    def __getstate__(self) -> dict[str, Any]:
        # Otherwise pending examples would be sent between workers row by row.
        self._count_pending()
        return self.__dict__


def _divide(total: float, count: float) -> float:
    return float(total / count) if count else math.nan


def _element(
    label_features: Mapping[str, np.ndarray], predictions: Mapping[str, np.ndarray], parameters: Parameters
) -> tuple[int, np.ndarray] | None:
    label, probabilities = int(label_features[features.LABEL].item()), predictions["probabilities"].reshape(-1)
    if parameters.shared is None:
        return label, probabilities
    # The model's own ids: its transform graph has looked the class name up.
    ids = np.array(parameters.shared.model)
    if label < 0 or ids[label] < 0:
        return None
    # The most probable of the shared classes is the prediction: a class that the other model lacks is not an error.
    chosen = np.zeros(parameters.num_classes, np.float32)
    chosen[ids[ids >= 0]] = probabilities[ids >= 0]
    total = chosen.sum()
    return int(ids[label]), chosen / total if total > 0.0 else np.full_like(chosen, 1.0 / len(chosen))


def _random_example(random: np.random.Generator, parameters: Parameters, class_id: int) -> Example:
    exponentials = np.exp(random.normal(size=parameters.num_classes))
    probabilities = (exponentials / exponentials.sum()).astype(np.float32)
    return {features.LABEL: np.array([class_id])}, {"probabilities": probabilities}


# === Metrics ===

NO_EXAMPLES = "there are no examples"


def _entropy(shares: np.ndarray) -> float:
    """The cross-entropy of the shares of the classes as probabilities for every image."""
    occurring = shares[shares > 0.0]
    return float(-(occurring * np.log(occurring)).sum())


def metrics(top_k: int) -> tuple[MetricSpec, ...]:
    """All metrics, in the order in which they are shown."""
    return (
        MetricSpec(
            name="accuracy",
            description="Share of the images whose most probable class is correct.",
            undefined_when=NO_EXAMPLES,
            main=True,
            in_slices=True,
            threshold=0.5,
            change_threshold=0.02,
            compute=lambda summary: summary.matrix.accuracy,
            chance=lambda shares: shares.max(),
        ),
        MetricSpec(
            name=f"top_{top_k}_accuracy",
            description=f"Share of the images whose class is among the {top_k} most probable ones.",
            undefined_when=NO_EXAMPLES,
            compute=lambda summary: summary.top_k_accuracy,
            chance=lambda shares: np.sort(shares)[-top_k:].sum(),
        ),
        # Macro averages as in scikit-learn: a class that is only predicted counts as 0, or predicting it would cost
        # nothing.
        MetricSpec(
            name="macro_precision",
            description="Mean over the classes of the correct share of the predictions of a class.",
            undefined_when=NO_EXAMPLES,
            compute=lambda summary: mean_over_classes(summary.matrix.precision, summary.matrix.occurs),
            chance=lambda shares: 1.0 / np.count_nonzero(shares),
        ),
        MetricSpec(
            name="macro_recall",
            description="Mean over the classes of the share of a class's images that are predicted correctly.",
            undefined_when=NO_EXAMPLES,
            compute=lambda summary: mean_over_classes(summary.matrix.recall, summary.matrix.occurs),
            chance=lambda shares: 1.0 / np.count_nonzero(shares),
        ),
        MetricSpec(
            name="macro_f1",
            title="macro F1",
            description="Mean over the classes of the harmonic mean of precision and recall.",
            undefined_when=NO_EXAMPLES,
            in_slices=True,
            compute=lambda summary: mean_over_classes(summary.matrix.f1, summary.matrix.occurs),
            chance=lambda shares: 1.0 / np.count_nonzero(shares),
        ),
        MetricSpec(
            name="weighted_precision",
            description="Mean precision of the classes, weighted by their images.",
            undefined_when=NO_EXAMPLES,
            compute=lambda summary: mean_weighted_by_support(summary.matrix.precision, summary.matrix.support),
            chance=lambda shares: (shares**2).sum(),
        ),
        MetricSpec(
            name="weighted_recall",
            description="Mean recall of the classes, weighted by their images.",
            undefined_when=NO_EXAMPLES,
            compute=lambda summary: mean_weighted_by_support(summary.matrix.recall, summary.matrix.support),
            chance=lambda shares: shares.max(),
        ),
        MetricSpec(
            name="weighted_f1",
            title="weighted F1",
            description="Mean F1 of the classes, weighted by their images.",
            undefined_when=NO_EXAMPLES,
            compute=lambda summary: mean_weighted_by_support(summary.matrix.f1, summary.matrix.support),
            chance=lambda shares: max((shares**2).sum(), (2.0 * shares**2 / (1.0 + shares)).max()),
        ),
        MetricSpec(
            name="macro_auc",
            title="macro AUC",
            description="Mean over the classes of the probability that an image of the class scores above another.",
            undefined_when="there are no examples, or all belong to one class",
            in_slices=True,
            compute=lambda summary: mean_over_classes(summary.auc),
            chance=lambda shares: 0.5,
        ),
        MetricSpec(
            name="cross_entropy",
            title="cross-entropy",
            description="Mean negative logarithm of the true class's probability; penalizes confident mistakes.",
            direction="lower_is_better",
            maximum=None,
            undefined_when=NO_EXAMPLES,
            in_slices=True,
            compute=lambda summary: summary.cross_entropy,
            chance=_entropy,
        ),
        MetricSpec(
            name="expected_calibration_error",
            title="calibration error",
            description="Mean distance between the model's confidence and its accuracy at that confidence.",
            direction="lower_is_better",
            undefined_when=NO_EXAMPLES,
            compute=lambda summary: summary.calibration_error,
        ),
        *precision_and_recall(lambda summary: summary.matrix, "examples", mean_prefix="macro_"),
        MetricSpec(
            name="f1",
            title="F1",
            description="Harmonic mean of precision and recall.",
            scope="per_class",
            undefined_when="the class has no examples and is never predicted",
            main=True,
            mean_metric="macro_f1",
            compute=lambda summary: summary.matrix.f1,
            chance=lambda shares: shares,
        ),
        MetricSpec(
            name="auc",
            title="AUC",
            description="Probability that an image of the class scores above another (area under the ROC curve).",
            scope="per_class",
            undefined_when="the class has no examples, or all examples belong to it",
            mean_metric="macro_auc",
            compute=lambda summary: summary.auc,
            chance=lambda shares: np.full(len(shares), 0.5),
        ),
    )


# === Baselines ===


def _compare(
    evidence: Evidence, weights: np.ndarray, score: str, reference: float, baseline: str
) -> BaselineComparison:
    """Compares a weighted number of correct predictions with that of a baseline."""
    counts = evidence[OCCURRING], evidence[PREDICTED], evidence[CORRECT]
    occurring = int(np.count_nonzero(counts[0]))
    value = float(counts[2] @ weights)
    if occurring < 2:
        return not_compared(score, "the evaluated images belong to fewer than two classes", value)
    test = permutation_test(*counts, weights)
    passed = decide(value, reference, test.p_value, test.smallest_p_value)
    if passed is None:
        detail = (
            f"is {value:.4f}, above the {reference:.4f} of {baseline}; not tested, {counts[0].sum():,} images are too "
            f"few (p = {test.smallest_p_value:.2g} even without errors, level {LEVEL:g})"
        )
    else:
        detail = (
            f"is {value:.4f}; it must be above {test.bound:.4f}, given the {reference:.4f} of {baseline} (permutation "
            f"test, p = {test.p_value:.2g}, level {LEVEL:g})"
        )
    return BaselineComparison(score=score, value=value, bound=test.bound, passed=passed, detail=detail)


def _compare_with_constant(evidence: Evidence, classes: Sequence[str]) -> BaselineComparison:
    """Compares the balanced accuracy, the mean recall of the classes that occur, with that of one class for all images.

    The accuracy would be no measure of this: where one class is frequent, a constant prediction has a high one, and a
    model that finds the rare class at the price of some false alarms a lower one.
    """
    support = evidence[OCCURRING]
    occurring = max(1, int(np.count_nonzero(support)))
    weights = np.divide(1.0 / occurring, support, out=np.zeros(len(support)), where=support > 0)
    most = int(support.argmax())
    accuracy = support[most] / max(1, support.sum())
    baseline = f"one class for every image (always `{classes[most]}` has an accuracy of {accuracy:.4f})"
    return _compare(evidence, weights, "balanced accuracy", 1.0 / occurring, baseline)


def _compare_with_chance(evidence: Evidence, classes: Sequence[str]) -> BaselineComparison:
    """Compares the accuracy with that of guesses which ignore the image and are as frequent as the predictions."""
    support, predicted = evidence[OCCURRING], evidence[PREDICTED]
    count = max(1, int(support.sum()))
    weights = np.full(len(support), 1.0 / count)
    return _compare(evidence, weights, "accuracy", float(support @ predicted) / count**2, "guesses")


CONSTANT_BASELINES = (
    ConstantBaseline(
        name="constant",
        description="The balanced accuracy is above that of one class for every image, by more than sampling error.",
        compare=_compare_with_constant,
    ),
    ConstantBaseline(
        name="chance",
        description="The accuracy is above that of guessing the classes as often as they are predicted, by more than "
        "sampling error.",
        compare=_compare_with_chance,
    ),
)


EVALUATION = Evaluation(
    metrics=metrics,
    element=_element,
    accumulator=LabelAccumulator,
    support=lambda summary: summary.matrix.support,
    random_example=_random_example,
    evidence=lambda summary: {
        OCCURRING: summary.matrix.support,
        PREDICTED: summary.matrix.predicted,
        CORRECT: summary.matrix.correct,
    },
    constant_baselines=CONSTANT_BASELINES,
    confusion_matrix=lambda summary: summary.matrix.counts,
    reliability=lambda summary: summary.bins,
)
