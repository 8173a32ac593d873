"""How a model that predicts any number of classes per image is evaluated: counts and metrics.

Averages are those of scikit-learn. `macro` is the mean over the classes that occur or are predicted, or, of metrics of
scores, for which the metric is defined; `micro` counts all decisions of all classes together; `samples` is the mean
over the images, with `zero_division=1`: it is not an error to predict no class for an image without classes.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

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
)
from trainer_module.evaluation.confusion_matrix import ConfusionMatrix, divide, mean_over_classes
from trainer_module.evaluation.probabilities import EPSILON, NUM_BINS, check, count_bins
from trainer_module.evaluation.ranked_outcomes import RECALLS
from trainer_module.evaluation.score_counts import IntegerCounts, ScoreCounts, ScoreOutcomes
from trainer_module.evaluation.spec import IMAGES, Evaluation, Example, MetricSpec, Parameters

# Distinct scores of a slice that are kept exactly: of all classes, or of each if that is more. 16 bytes each.
_MAX_SCORES = 1 << 18
_MAX_SCORES_PER_CLASS = 1 << 8
# Probabilities that are collected before they are counted.
_MAX_PENDING = 1 << 16
# Of the precision-recall curves of the report.
_DECIMALS = 4
_SAMPLE_METRICS = ("precision", "recall", "f1", "exact_match", "average_precision")


class PredictedSet(NamedTuple):
    """The classes of one image and those that are predicted.

    Attributes:
      label: bool [C], classes of the image.
      predicted: bool [C], predicted classes: those whose probability reaches the decision threshold.
      probabilities: float32 [C].
    """

    label: np.ndarray
    predicted: np.ndarray
    probabilities: np.ndarray


@dataclass(frozen=True, eq=False)
class LabelSetSummary:
    """The counts of a slice.

    Attributes:
      images: Number of images.
      sample_sums: Sum over the images of precision, recall, F1, exact matches and average precision.
      cross_entropy: Sum over images and classes of the binary cross-entropy.
      outcomes: The scores of each class.
      all_outcomes: The scores of all classes together.
      matrix: Missed classes by the class that is predicted instead, int64 [C + 1, C + 1], see `_confusions`.
      co_occurrence: Number of images with both classes, int64 [C, C].
      bins: Number of decisions, sum of their probabilities and number of classes that are present, by probability,
        float64 [3, NUM_BINS], see `probabilities.count_bins`.
    """

    images: int
    sample_sums: Mapping[str, float]
    cross_entropy: float
    outcomes: Sequence[ScoreOutcomes]
    all_outcomes: ScoreOutcomes
    matrix: np.ndarray
    co_occurrence: np.ndarray
    bins: np.ndarray

    @functools.cached_property
    def _decisions(self) -> ConfusionMatrix:
        """The decisions on all classes; the last class is the background."""
        return ConfusionMatrix(self.matrix)

    @property
    def support(self) -> np.ndarray:
        """Images with each class, int64 [C]."""
        return self._decisions.support[:-1]

    @property
    def predicted(self) -> np.ndarray:
        """Images with each class among the predicted ones, int64 [C]."""
        return self._decisions.predicted[:-1]

    @property
    def correct(self) -> np.ndarray:
        """Images with each class, and with the class among the predicted ones, int64 [C]."""
        return self._decisions.correct[:-1]

    @property
    def occurs(self) -> np.ndarray:
        """Whether an image has each class, or it is predicted for one, bool [C]."""
        return self._decisions.occurs[:-1]

    @property
    def precision(self) -> np.ndarray:
        """Correct share of the predictions of each class; 0 if it occurs and is never predicted."""
        return self._decisions.precision[:-1]

    @property
    def recall(self) -> np.ndarray:
        """Share of the images with each class for which it is predicted."""
        return self._decisions.recall[:-1]

    @property
    def f1(self) -> np.ndarray:
        """Harmonic mean of precision and recall."""
        return self._decisions.f1[:-1]

    @functools.cached_property
    def auc(self) -> np.ndarray:
        """Area under the ROC curve of each class, float64 [C]."""
        return np.array([outcomes.auc() for outcomes in self.outcomes])

    @functools.cached_property
    def average_precision(self) -> np.ndarray:
        """Average precision of each class; NaN without images of the class."""
        return np.array([outcomes.average_precision() for outcomes in self.outcomes])

    @property
    def micro(self) -> tuple[float, float, float]:
        """Precision, recall and F1 of all decisions; NaN if no class occurs and none is predicted."""
        support, predicted, correct = (int(counts.sum()) for counts in (self.support, self.predicted, self.correct))
        if not support + predicted:
            return math.nan, math.nan, math.nan
        return correct / max(1, predicted), correct / max(1, support), 2.0 * correct / (support + predicted)

    def sample_mean(self, name: str) -> float:
        """Mean of a metric over the images."""
        return self.sample_sums[name] / self.images if self.images else math.nan

    @property
    def hamming_loss(self) -> float:
        """Share of the decisions that are wrong."""
        wrong = int((self.support + self.predicted - 2 * self.correct).sum())
        return wrong / (self.images * len(self.support)) if self.images else math.nan

    @property
    def calibration_error(self) -> float:
        """Mean distance of the probability and the share of images with the class, weighted by their decisions."""
        count, probability, present = self.bins
        return float(np.abs(probability - present).sum() / count.sum()) if self.images else math.nan


class LabelSetAccumulator:
    """Counts of multi-label classification; of bounded size, see `ScoreCounts`."""

    def __init__(self, parameters: Parameters) -> None:
        """Starts without examples."""
        self._num_classes = parameters.num_classes
        self._pending: list[PredictedSet] = []
        self._confusions, self._pairs = IntegerCounts(), IntegerCounts()
        self._scores = ScoreCounts(max(_MAX_SCORES, _MAX_SCORES_PER_CLASS * self._num_classes))
        self._images = 0
        self._sample_sums = np.zeros(len(_SAMPLE_METRICS))
        self._cross_entropy = 0.0
        self._bins = np.zeros((3, NUM_BINS))

    def add(self, element: PredictedSet) -> None:
        """Adds one example.

        Raises:
          ValueError: If the label or the prediction does not have one value per class, or a probability is not finite.
        """
        for noun, values in (("label", element.label), ("prediction", element.predicted)):
            if values.shape != (self._num_classes,):
                raise ValueError(f"the {noun} has {values.size} values for {self._num_classes} classes")
        check(element.probabilities, self._num_classes)
        self._pending.append(element)
        if len(self._pending) * self._num_classes >= _MAX_PENDING:
            self._count_pending()

    def merge(self, other: LabelSetAccumulator) -> None:
        """Adds the counts of another."""
        self._count_pending()
        other._count_pending()
        self._confusions.add(other._confusions.keys, other._confusions.counts)
        self._pairs.add(other._pairs.keys, other._pairs.counts)
        self._scores.merge(other._scores)
        self._images += other._images
        self._sample_sums = self._sample_sums + other._sample_sums
        self._cross_entropy += other._cross_entropy
        self._bins = self._bins + other._bins

    def summarize(self) -> LabelSetSummary:
        """The counts that metrics are computed from."""
        self._count_pending()
        size = self._num_classes
        return LabelSetSummary(
            images=self._images,
            sample_sums=dict(zip(_SAMPLE_METRICS, self._sample_sums.tolist(), strict=True)),
            cross_entropy=self._cross_entropy,
            outcomes=self._scores.by_class(size),
            all_outcomes=self._scores.of_all_classes(),
            matrix=_dense(self._confusions, size + 1),
            co_occurrence=_dense(self._pairs, size),
            bins=self._bins,
        )

    def _count_pending(self) -> None:
        if not self._pending:
            return
        labels = np.stack([element.label for element in self._pending])
        predicted = np.stack([element.predicted for element in self._pending])
        probabilities = np.stack([element.probabilities for element in self._pending]).astype(np.float32)
        self._pending = []
        correct = labels & predicted
        self._images += len(labels)
        self._confusions.add(_confusions(labels, predicted, probabilities))
        rows, first = np.nonzero(labels)
        repeated, second = np.nonzero(labels[rows])
        self._pairs.add(first[repeated] * self._num_classes + second)
        self._scores.add(probabilities, labels)
        self._sample_sums = self._sample_sums + _sample_sums(labels, predicted, correct, probabilities)
        exact = np.clip(probabilities.astype(float), EPSILON, 1.0 - EPSILON)
        self._cross_entropy += float(-np.log(np.where(labels, exact, 1.0 - exact)).sum())
        self._bins = self._bins + count_bins(probabilities.ravel(), labels.ravel())

    def __getstate__(self) -> dict[str, Any]:
        # Otherwise pending examples would be sent between workers row by row.
        self._count_pending()
        return self.__dict__


def _dense(cells: IntegerCounts, size: int) -> np.ndarray:
    flat = np.zeros(size * size, np.int64)
    flat[cells.keys] = cells.counts
    return flat.reshape(size, size)


def _sample_sums(
    labels: np.ndarray, predicted: np.ndarray, correct: np.ndarray, probabilities: np.ndarray
) -> np.ndarray:
    """Sums the metrics of every image, in the order of `_SAMPLE_METRICS`; 0 / 0 is 1."""
    num_labels, num_predicted, num_correct = (
        values.sum(axis=1).astype(float) for values in (labels, predicted, correct)
    )

    def ratio(numerator: np.ndarray, denominator: np.ndarray) -> float:
        return float(np.where(denominator > 0, numerator / np.maximum(denominator, 1.0), 1.0).sum())

    return np.array(
        [
            ratio(num_correct, num_predicted),
            ratio(num_correct, num_labels),
            ratio(2.0 * num_correct, num_labels + num_predicted),
            float((labels == predicted).all(axis=1).sum()),
            float(_ranking_precision(labels, probabilities).sum()),
        ]
    )


def _ranking_precision(labels: np.ndarray, probabilities: np.ndarray) -> np.ndarray:
    """Averages, over the classes of an image, the share of its classes among those that score as high: float64 [n].

    Equal probabilities count as ranked after each other in the worst order; 1 if the image has no class.

    Reference: Tsoumakas, Katakis & Vlahavas 2010, Mining Multi-label Data, section 34.7.3.
    """
    order = np.argsort(-probabilities, axis=1, kind="stable")
    ordered, is_class = (np.take_along_axis(values, order, axis=1) for values in (probabilities, labels))
    size = ordered.shape[1]
    # The last place of every run of equal probabilities.
    ends = np.full(ordered.shape, size - 1)
    ends[:, :-1] = np.where(ordered[:, 1:] != ordered[:, :-1], np.arange(size - 1), size - 1)
    last = np.minimum.accumulate(ends[:, ::-1], axis=1)[:, ::-1]
    shares = np.take_along_axis(is_class.cumsum(axis=1), last, axis=1) / (last + 1)
    num = is_class.sum(axis=1)
    mean: np.ndarray = np.where(num > 0, (shares * is_class).sum(axis=1) / np.maximum(num, 1), 1.0)
    return mean


def _confusions(labels: np.ndarray, predicted: np.ndarray, probabilities: np.ndarray) -> np.ndarray:
    """Pairs the missed classes of every image with the classes that are predicted instead.

    A class that is predicted correctly is on the diagonal. Of the others of an image, the missed class with the highest
    probability is paired with the wrongly predicted one with the highest probability, and so on; what is left over is
    paired with the background, the last row and column. So a row sums up to the images with the class, and a column to
    those for which it is predicted.

    Args:
      labels: bool [n, C].
      predicted: bool [n, C].
      probabilities: float32 [n, C].

    Returns:
      int64 [m], row * (C + 1) + column of every pair.
    """
    background = labels.shape[1]
    size = background + 1
    missed, wrong = labels & ~predicted, predicted & ~labels
    both = missed.any(axis=1) & wrong.any(axis=1)
    pairs = [np.nonzero(labels & predicted)[1] * (size + 1)]
    pairs.append(np.nonzero(missed[~both])[1] * size + background)
    pairs.append(background * size + np.nonzero(wrong[~both])[1])
    for index in np.flatnonzero(both):
        order = np.argsort(-probabilities[index], kind="stable")
        rows, columns = order[missed[index][order]], order[wrong[index][order]]
        num = max(len(rows), len(columns))
        rows, columns = (np.pad(ids, (0, num - len(ids)), constant_values=background) for ids in (rows, columns))
        pairs.append(rows * size + columns)
    return np.concatenate(pairs).astype(np.int64)


def present(label: np.ndarray) -> np.ndarray:
    """Returns the classes of labels from the transform graph, bool [..., C].

    A label has 1 for a class and 0 for no class, or -1 and -2 if the image has an unknown class too.
    """
    return np.asarray((label == 1.0) | (label == -1.0))


def _element(
    label_features: Mapping[str, np.ndarray], predictions: Mapping[str, np.ndarray], parameters: Parameters
) -> PredictedSet:
    label = label_features[features.LABEL].reshape(-1)
    element = PredictedSet(
        present(label), predictions["predicted"].reshape(-1).astype(bool), predictions["probabilities"].reshape(-1)
    )
    if parameters.shared is None:
        if (label < 0.0).any():
            raise ValueError("the label contains a class that the model does not know")
        return element
    # Both have the model's own ids; an image without any of the shared classes is an example of none of them.
    ids = np.array(parameters.shared.model)
    order = np.empty(parameters.num_classes, np.int64)
    order[ids[ids >= 0]] = np.flatnonzero(ids >= 0)
    return PredictedSet(*(values[order] for values in element))


def _random_example(random: np.random.Generator, parameters: Parameters, class_id: int) -> Example:
    """An image with the class and perhaps others; random probabilities."""
    num = parameters.num_classes
    label = np.zeros(max(num, class_id + 1), np.float32)
    label[:num] = random.random(num) < 0.2
    label[class_id] = 1.0
    probabilities = random.random(num).astype(np.float32)
    return {features.LABEL: label}, {"probabilities": probabilities, "predicted": probabilities >= 0.5}


def _details(summary: LabelSetSummary) -> dict[str, np.ndarray]:
    """Returns the precision-recall curves and the co-occurrence of the classes.

    Returns:
      precision_by_recall [C, 101], the best precision with at least the recalls 0, 0.01, …, 1; score_by_recall
      [C, 101], the probability at which the recall is reached; co_occurrence [C, C], images with both classes.
    """
    curves = [outcomes.precision_at(RECALLS) for outcomes in summary.outcomes]
    return {
        "precision_by_recall": np.stack([precision for precision, _ in curves]).round(_DECIMALS),
        "score_by_recall": np.stack([scores for _, scores in curves]).round(_DECIMALS),
        "co_occurrence": summary.co_occurrence,
    }


# === Metrics ===

NO_EXAMPLES = "there are no examples"
_NO_LABELS = "no image has a class"
_NEITHER = "no image has a class, and none is predicted"
_NO_CONTRAST = "no class has images with it and images without it"


def metrics(top_k: int) -> tuple[MetricSpec, ...]:
    """All metrics, in the order in which they are shown."""
    return (
        MetricSpec(
            name="macro_average_precision",
            title="macro AP",
            description="Mean over the classes of the average precision, which does not depend on decision thresholds.",
            undefined_when=_NO_LABELS,
            main=True,
            in_slices=True,
            change_threshold=0.02,
            compute=lambda summary: mean_over_classes(summary.average_precision),
        ),
        MetricSpec(
            name="micro_average_precision",
            title="micro AP",
            description="Average precision of the decisions of all classes together.",
            undefined_when=_NO_LABELS,
            compute=lambda summary: summary.all_outcomes.average_precision(),
        ),
        MetricSpec(
            name="macro_auc",
            title="macro AUC",
            description="Mean over the classes of the probability that an image with the class scores above another.",
            undefined_when=_NO_CONTRAST,
            in_slices=True,
            threshold=0.6,
            compute=lambda summary: mean_over_classes(summary.auc),
            chance=lambda shares: 0.5,
        ),
        MetricSpec(
            name="micro_auc",
            title="micro AUC",
            description="Probability that a class of an image scores above a class that an image does not have.",
            undefined_when="no image has a class, or all have all",
            compute=lambda summary: summary.all_outcomes.auc(),
            chance=lambda shares: 0.5,
        ),
        MetricSpec(
            name="macro_precision",
            description="Mean over the classes of the correct share of the predictions of a class.",
            undefined_when=_NEITHER,
            compute=lambda summary: mean_over_classes(summary.precision, summary.occurs),
        ),
        MetricSpec(
            name="macro_recall",
            description="Mean over the classes of the share of the images with a class for which it is predicted.",
            undefined_when=_NEITHER,
            compute=lambda summary: mean_over_classes(summary.recall, summary.occurs),
        ),
        MetricSpec(
            name="macro_f1",
            title="macro F1",
            description="Mean over the classes of the harmonic mean of precision and recall.",
            undefined_when=_NEITHER,
            in_slices=True,
            compute=lambda summary: mean_over_classes(summary.f1, summary.occurs),
        ),
        MetricSpec(
            name="micro_precision",
            description="Correct share of all predicted classes of all images.",
            undefined_when=_NEITHER,
            compute=lambda summary: summary.micro[0],
        ),
        MetricSpec(
            name="micro_recall",
            description="Share of all classes of all images that are predicted.",
            undefined_when=_NEITHER,
            compute=lambda summary: summary.micro[1],
        ),
        MetricSpec(
            name="micro_f1",
            title="micro F1",
            description="Harmonic mean of the micro precision and the micro recall.",
            undefined_when=_NEITHER,
            in_slices=True,
            compute=lambda summary: summary.micro[2],
        ),
        MetricSpec(
            name="samples_precision",
            description="Mean over the images of the correct share of the predicted classes; 1 if none is predicted.",
            undefined_when=NO_EXAMPLES,
            compute=lambda summary: summary.sample_mean("precision"),
        ),
        MetricSpec(
            name="samples_recall",
            description="Mean over the images of the share of their classes that are predicted; 1 if there are none.",
            undefined_when=NO_EXAMPLES,
            compute=lambda summary: summary.sample_mean("recall"),
        ),
        MetricSpec(
            name="samples_f1",
            title="samples F1",
            description="Mean over the images of the F1 of their classes; 1 if there are none and none is predicted.",
            undefined_when=NO_EXAMPLES,
            compute=lambda summary: summary.sample_mean("f1"),
        ),
        MetricSpec(
            name="samples_average_precision",
            title="samples AP",
            description="Mean over the images of the share of their classes among the classes that score as high as "
            "each of them; 1 if there are none.",
            undefined_when=NO_EXAMPLES,
            compute=lambda summary: summary.sample_mean("average_precision"),
        ),
        MetricSpec(
            name="exact_match",
            description="Share of the images whose predicted classes are exactly their classes.",
            undefined_when=NO_EXAMPLES,
            in_slices=True,
            compute=lambda summary: summary.sample_mean("exact_match"),
        ),
        MetricSpec(
            name="hamming_loss",
            title="Hamming loss",
            description="Share of the decisions on all classes of all images that are wrong.",
            direction="lower_is_better",
            undefined_when=NO_EXAMPLES,
            in_slices=True,
            compute=lambda summary: summary.hamming_loss,
        ),
        MetricSpec(
            name="binary_cross_entropy",
            title="binary cross-entropy",
            description="Mean over images and classes of the negative logarithm of the correct decision's probability.",
            direction="lower_is_better",
            maximum=None,
            undefined_when=NO_EXAMPLES,
            compute=lambda summary: (
                summary.cross_entropy / (summary.images * len(summary.support)) if summary.images else math.nan
            ),
        ),
        MetricSpec(
            name="expected_calibration_error",
            title="calibration error",
            description="Mean distance between the probability of a class and the share of images that have it then.",
            direction="lower_is_better",
            undefined_when=NO_EXAMPLES,
            compute=lambda summary: summary.calibration_error,
        ),
        MetricSpec(
            name="average_precision",
            title="AP",
            description="Average precision: mean of the precision over the thresholds, weighted by the gained recall.",
            scope="per_class",
            undefined_when="the class has no examples",
            main=True,
            mean_metric="macro_average_precision",
            compute=lambda summary: summary.average_precision,
        ),
        MetricSpec(
            name="auc",
            title="AUC",
            description="Probability that an image with the class scores above another (area under the ROC curve).",
            scope="per_class",
            undefined_when="the class has no examples, or all examples belong to it",
            mean_metric="macro_auc",
            compute=lambda summary: summary.auc,
            chance=lambda shares: np.full(len(shares), 0.5),
        ),
        MetricSpec(
            name="precision",
            description="Correct share of the images for which the class is predicted.",
            scope="per_class",
            undefined_when="the class has no examples and is never predicted",
            mean_metric="macro_precision",
            compute=lambda summary: summary.precision,
        ),
        MetricSpec(
            name="recall",
            description="Share of the images with the class for which it is predicted.",
            scope="per_class",
            undefined_when="the class has no examples",
            mean_metric="macro_recall",
            compute=lambda summary: summary.recall,
        ),
        MetricSpec(
            name="f1",
            title="F1",
            description="Harmonic mean of precision and recall.",
            scope="per_class",
            undefined_when="the class has no examples and is never predicted",
            mean_metric="macro_f1",
            compute=lambda summary: summary.f1,
        ),
    )


# === Baselines ===


def _upper_tail(images: int, support: int, predicted: int, correct: int) -> float:
    """Computes the probability of at least this many correct predictions if predictions ignore the image.

    The number of images with the class and that of its predictions are given, so it is hypergeometric: Fisher's exact
    test, one-sided.
    """
    from scipy.special import gammaln

    def log_binomial(total: int, chosen: np.ndarray | int) -> Any:
        return gammaln(total + 1) - gammaln(np.asarray(chosen) + 1) - gammaln(total - np.asarray(chosen) + 1)

    lowest, highest = max(correct, support + predicted - images), min(support, predicted)
    values = np.arange(lowest, highest + 1)
    terms = log_binomial(support, values) + log_binomial(images - support, predicted - values)
    return min(1.0, float(np.exp(terms - log_binomial(images, predicted)).sum()))


def _compare(
    evidence: Evidence, classes: Sequence[str], score: str, value: float, reference: float, baseline: str
) -> BaselineComparison:
    """Compares a score with that of a baseline; the test asks whether a class is predicted better than by chance.

    The predictions of one image's classes depend on each other, so the p-values of the classes are only combined by
    Bonferroni's correction: the smallest one, times the number of classes.
    """
    (images,) = evidence[IMAGES].tolist()
    support, predicted, correct = (evidence[key].tolist() for key in (OCCURRING, PREDICTED, CORRECT))
    compared = [index for index, number in enumerate(support) if 0 < number < images]
    if not compared:
        return not_compared(score, "no class has evaluated images with it and images without it", value)
    p_values = {index: _upper_tail(images, support[index], predicted[index], correct[index]) for index in compared}
    best = min(compared, key=lambda index: p_values[index])
    p_value = min(1.0, len(compared) * p_values[best])
    smallest = min(_upper_tail(images, support[index], support[index], support[index]) for index in compared)
    smallest_p_value = min(1.0, len(compared) * smallest)
    better = value > reference
    passed = decide(value, reference, p_value if better else 1.0, smallest_p_value)
    if passed is None:
        detail = (
            f"is {value:.4f}, above the {reference:.4f} of {baseline}; not tested, {images:,} images are too few "
            f"(p = {smallest_p_value:.2g} even without errors, level {LEVEL:g})"
        )
    else:
        detail = (
            f"is {value:.4f}; it must be above the {reference:.4f} of {baseline}, and the best class "
            f"(`{classes[best]}`) must differ from chance (Fisher's exact test of {len(compared):,} classes, p = "
            f"{p_value:.2g}, level {LEVEL:g})"
        )
    return BaselineComparison(score=score, value=value, bound=reference, passed=passed, detail=detail)


def _compare_with_constant(evidence: Evidence, classes: Sequence[str]) -> BaselineComparison:
    """Compares the balanced accuracy, the mean over the classes of sensitivity and specificity, with 0.5.

    Every predictor that ignores the image has 0.5, whichever classes it predicts. The share of correct decisions would
    be no measure of this: where classes are rare, predicting none has a high one.
    """
    images = int(evidence[IMAGES][0])
    support, predicted, correct = (evidence[key] for key in (OCCURRING, PREDICTED, CORRECT))
    sensitivity = divide(correct, support)
    specificity = divide(images - support - predicted + correct, images - support)
    value = mean_over_classes((sensitivity + specificity) / 2.0)
    return _compare(evidence, classes, "balanced accuracy", value, 0.5, "the same classes for every image")


def _compare_with_chance(evidence: Evidence, classes: Sequence[str]) -> BaselineComparison:
    """Compares the micro F1 with that of guesses which ignore the image and are as frequent as the predictions."""
    images = max(1, int(evidence[IMAGES][0]))
    support, predicted, correct = (evidence[key] for key in (OCCURRING, PREDICTED, CORRECT))
    total = max(1, int(support.sum() + predicted.sum()))
    expected = float(2.0 * (support / images * predicted).sum() / total)
    return _compare(evidence, classes, "micro F1", float(2.0 * correct.sum() / total), expected, "guesses")


CONSTANT_BASELINES = (
    ConstantBaseline(
        name="constant",
        description="The mean balanced accuracy of the classes is above that of the same classes for every image, and "
        "a class is predicted better than by chance.",
        compare=_compare_with_constant,
    ),
    ConstantBaseline(
        name="chance",
        description="The micro F1 is above that of guessing the classes as often as they are predicted, and a class is "
        "predicted better than by chance.",
        compare=_compare_with_chance,
    ),
)


EVALUATION = Evaluation(
    metrics=metrics,
    element=_element,
    accumulator=LabelSetAccumulator,
    support=lambda summary: summary.support,
    random_example=_random_example,
    evidence=lambda summary: {
        OCCURRING: summary.support,
        PREDICTED: summary.predicted,
        CORRECT: summary.correct,
        IMAGES: np.array([summary.images]),
    },
    constant_baselines=CONSTANT_BASELINES,
    confusion_matrix=lambda summary: summary.matrix,
    has_background=True,
    reliability=lambda summary: summary.bins,
    details=_details,
)
