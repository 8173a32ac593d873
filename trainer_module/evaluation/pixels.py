"""How a model that predicts a class per pixel is evaluated: counts and metrics."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from trainer_module import features, mask_labels
from trainer_module.evaluation.baselines import (
    COMMON_EVIDENCE,
    OCCURRING,
    SCORE_UNITS,
    BaselineComparison,
    ConstantBaseline,
    Evidence,
    ImageSample,
    compare_scores,
    not_compared,
    sign_flip_test,
    to_units,
)
from trainer_module.evaluation.confusion_matrix import ConfusionMatrix, mean_over_classes, precision_and_recall
from trainer_module.evaluation.spec import Evaluation, Example, MetricSpec, Parameters

# Evidence of n sampled images, besides what every task has, as scores of `baselines`: the mean IoU, int64 [n]; that of
# a mask of each class, int64 [C, n]; and Cohen's kappa of images with several classes, int64 [k]. Pixels of an image
# are not independent of each other: tests compare images.
_SCORES, _CONSTANT, _KAPPA = "scores", "constant_scores", "kappa"


@dataclass(frozen=True, eq=False)
class PixelSummary(ConfusionMatrix):
    """The confusion matrix of pixels, and what is known of the images.

    Attributes:
      images: The evidence of the default rules.
    """

    images: Evidence


class PixelAccumulator:
    """The confusion matrix of pixels, and a sample of images, which are compared with masks of one class."""

    def __init__(self, parameters: Parameters) -> None:
        """Starts without pixels."""
        # Of shared classes, one more column: predictions of other classes.
        columns = parameters.num_classes + (parameters.shared is not None)
        self._counts = np.zeros((parameters.num_classes, columns), np.int64)
        self._presence = np.zeros((len(COMMON_EVIDENCE), parameters.num_classes), np.int64)
        self._sample = ImageSample()

    def add(self, element: np.ndarray) -> None:
        """Adds one example: int64 [C, C], from `count_pixels`."""
        self._counts += element
        if element.any():
            matrix = ConfusionMatrix(element)
            self._presence += np.stack([values > 0 for values in (matrix.support, matrix.predicted, matrix.correct)])
            # An image of one class says little: a mask of this class has no errors in it.
            several = bool(np.count_nonzero(matrix.support) > 1)
            self._sample.add(_image_scores(matrix, several), rank=0 if several else 1)

    def merge(self, other: PixelAccumulator) -> None:
        """Adds the counts of another."""
        self._counts += other._counts
        self._presence += other._presence
        self._sample.merge(other._sample)

    def summarize(self) -> PixelSummary:
        """The counts so far."""
        images = self._sample.images()
        scores, constant, kappa = zip(*images, strict=True) if images else ((), (), ())
        return PixelSummary(
            self._counts.copy(),
            dict(zip(COMMON_EVIDENCE, self._presence.copy(), strict=True))
            | {
                _SCORES: np.concatenate([_NO_SCORES, *scores]),
                _CONSTANT: np.array(constant, np.int64).reshape(len(images), len(self._counts)).T,
                _KAPPA: np.concatenate([_NO_SCORES, *kappa]),
            },
        )


_NO_SCORES = np.zeros(0, np.int64)


def _image_scores(matrix: ConfusionMatrix, several: bool) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Scores one image, as int64 in the units of `baselines`.

    Args:
      matrix: Its counts.
      several: Whether its ground truth has several classes.

    Returns:
      [1], the mean IoU over the classes that occur in the ground truth or the prediction; [C], that of a mask of each
      class; Cohen's kappa, [1] or, with one class, [0]: by how much the pixel accuracy is above that of guesses as
      frequent as the predictions, divided by the largest possible value (Cohen 1960,
      https://doi.org/10.1177/001316446002000104).
    """
    support, occurring = matrix.support, matrix.support > 0
    count = int(support.sum())
    constant = support / count / (np.count_nonzero(occurring) + ~occurring)
    # In integers: count * count pixels are at most 2^62 for images of 2^31 pixels.
    guessed = int(support @ matrix.predicted)
    kappa = [(int(matrix.correct.sum()) * count - guessed) / (count * count - guessed)] if several else []
    return to_units([mean_over_classes(matrix.iou)]), to_units(constant), to_units(kappa)


def count_pixels(
    ground_truth: np.ndarray, predicted: np.ndarray, num_classes: int, ignore_id: int | None
) -> np.ndarray:
    """Counts pixels by true class (row) and predicted class (column), int64 [C, C].

    Args:
      ground_truth: uint8 [h, w], class ids and `ignore_id`.
      predicted: uint8 [h, w], class ids.
      num_classes: Number of classes.
      ignore_id: Label of the pixels that are not counted.

    Raises:
      ValueError: If the masks differ in size, or contain an id that is not a class.
    """
    if ground_truth.shape != predicted.shape:
        raise ValueError(f"the predicted mask has the shape {predicted.shape}, its ground truth {ground_truth.shape}")
    counted = np.ones(ground_truth.shape, bool) if ignore_id is None else ground_truth != ignore_id
    true_ids, predicted_ids = ground_truth[counted].astype(np.int64), predicted[counted]
    if true_ids.size and max(true_ids.max(), predicted_ids.max()) >= num_classes:
        raise ValueError(f"a mask contains an id that none of the {num_classes} classes has")
    cells = true_ids * num_classes + predicted_ids
    return np.bincount(cells, minlength=num_classes**2).reshape(num_classes, num_classes)


def _element(
    label_features: Mapping[str, np.ndarray], predictions: Mapping[str, np.ndarray], parameters: Parameters
) -> np.ndarray:
    # A matrix per example: slices then do not multiply the pixels.
    ground_truth = mask_labels.decode(label_features[features.LABEL].item())
    predicted = mask_labels.decode(predictions["mask_png_bytes"].item())
    if parameters.shared is None:
        return count_pixels(ground_truth, predicted, parameters.num_classes, parameters.ignore_id)
    # Masks of the ground truth have the dataset's ids, those that a model predicts its own.
    num_classes = parameters.num_classes
    ground_truth = _shared_ids(parameters.shared.dataset, num_classes)[ground_truth]
    predicted = _shared_ids(parameters.shared.model, num_classes)[predicted]
    return count_pixels(ground_truth, predicted, num_classes + 1, ignore_id=num_classes)[:num_classes]


def _shared_ids(ids: Sequence[int], other: int) -> np.ndarray:
    """Returns the id of every pixel value among the shared classes, uint8 [256]; `other` for all others."""
    table = np.full(256, other, np.uint8)
    table[: len(ids)] = [other if shared < 0 else shared for shared in ids]
    return table


def _encode(mask: np.ndarray) -> np.ndarray:
    from PIL import Image

    file = io.BytesIO()
    Image.fromarray(mask.astype(np.uint8)).save(file, "PNG")
    return np.array(file.getvalue(), object)


def _random_example(random: np.random.Generator, parameters: Parameters, class_id: int) -> Example:
    ground_truth, predicted = random.integers(parameters.num_classes, size=(2, 8, 8))
    ground_truth[:4] = class_id
    return {features.LABEL: _encode(ground_truth)}, {"mask_png_bytes": _encode(predicted)}


# === Metrics ===

NO_PIXELS = "there are no pixels that count"
_NO_PIXEL_AND_NO_PREDICTION = "the class has no pixels and is never predicted"


def metrics(top_k: int) -> tuple[MetricSpec, ...]:
    """All metrics, in the order in which they are shown.

    Reference: Long et al. 2015, https://arxiv.org/abs/1411.4038, section 5 (pixel accuracy, mean IU).
    """
    return (
        MetricSpec(
            name="pixel_accuracy",
            description="Share of the pixels whose class is correct.",
            undefined_when=NO_PIXELS,
            in_slices=True,
            compute=lambda matrix: matrix.accuracy,
            chance=lambda shares: shares.max(),
        ),
        MetricSpec(
            name="mean_iou",
            title="mean IoU",
            description="Mean over the classes of the intersection of prediction and ground truth over their union.",
            undefined_when=NO_PIXELS,
            main=True,
            in_slices=True,
            threshold=0.3,
            change_threshold=0.02,
            compute=lambda matrix: mean_over_classes(matrix.iou),
            chance=lambda shares: max(shares.max(), (shares / (2.0 - shares)).sum()) / np.count_nonzero(shares),
        ),
        MetricSpec(
            name="mean_dice",
            title="mean Dice",
            description="Mean over the classes of twice the intersection of prediction and truth over their sum.",
            undefined_when=NO_PIXELS,
            in_slices=True,
            compute=lambda matrix: mean_over_classes(matrix.f1),
            chance=lambda shares: 1.0 / np.count_nonzero(shares),
        ),
        MetricSpec(
            name="iou",
            title="IoU",
            description="Intersection of prediction and ground truth of the class over their union.",
            scope="per_class",
            undefined_when=_NO_PIXEL_AND_NO_PREDICTION,
            main=True,
            mean_metric="mean_iou",
            compute=lambda matrix: matrix.iou,
            chance=lambda shares: shares / (2.0 - shares),
        ),
        MetricSpec(
            name="dice",
            title="Dice",
            description="Twice the intersection of prediction and ground truth of the class over their sum.",
            scope="per_class",
            undefined_when=_NO_PIXEL_AND_NO_PREDICTION,
            mean_metric="mean_dice",
            compute=lambda matrix: matrix.f1,
            chance=lambda shares: shares,
        ),
        *precision_and_recall(lambda matrix: matrix, "pixels"),
    )


# === Baselines ===


_NO_MASKS = "no evaluated mask has several classes"


def _compare_with_constant(evidence: Evidence, classes: Sequence[str]) -> BaselineComparison:
    """Compares with the masks of one class, on the images in which these have errors; the closest one decides."""
    score, scores = "mean IoU of an image", evidence[_SCORES]
    beatable = evidence[_CONSTANT] < SCORE_UNITS
    compared = np.flatnonzero(beatable.any(axis=1) & (evidence[OCCURRING] > 0)).tolist()
    if not compared:
        return not_compared(score, _NO_MASKS)
    margins = {index: (scores - evidence[_CONSTANT][index])[beatable[index]].mean() for index in compared}
    closest = min(compared, key=lambda index: margins[index])
    images = beatable[closest]
    test = sign_flip_test(scores[images], evidence[_CONSTANT][closest][images])
    return compare_scores(score, test, f"a mask of `{classes[closest]}` only")


def _compare_with_chance(evidence: Evidence, classes: Sequence[str]) -> BaselineComparison:
    """Compares the pixel accuracy with that of guesses as frequent as the predictions, by Cohen's kappa."""
    score, kappa = "mean kappa of an image", evidence[_KAPPA]
    if not len(kappa):
        return not_compared(score, _NO_MASKS)
    return compare_scores(score, sign_flip_test(kappa, np.zeros_like(kappa)), "guesses")


CONSTANT_BASELINES = (
    ConstantBaseline(
        name="constant",
        description="The mean IoU of an image is above that of a mask of one class, whichever it is, by more than "
        "sampling error.",
        compare=_compare_with_constant,
    ),
    ConstantBaseline(
        name="chance",
        description="The pixel accuracy of an image is above that of guessing the classes as often as they are "
        "predicted (Cohen's kappa is above 0), by more than sampling error.",
        compare=_compare_with_chance,
    ),
)


EVALUATION = Evaluation(
    metrics=metrics,
    element=_element,
    accumulator=PixelAccumulator,
    support=lambda matrix: matrix.support,
    count_unit="pixels",
    random_example=_random_example,
    evidence=lambda summary: summary.images,
    constant_baselines=CONSTANT_BASELINES,
    confusion_matrix=lambda matrix: matrix.counts[:, : len(matrix.counts)],
)
