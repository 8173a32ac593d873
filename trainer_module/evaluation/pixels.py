"""How a model that predicts a class per pixel is evaluated: counts and metrics."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from trainer_module import features
from trainer_module.evaluation.baselines import (
    CORRECT,
    OCCURRING,
    PREDICTED,
    BaselineComparison,
    ConstantBaseline,
    Evidence,
    compare_by_images,
    decisive,
)
from trainer_module.evaluation.confusion_matrix import ConfusionMatrix, mean_over_classes, precision_and_recall
from trainer_module.evaluation.spec import Evaluation, Example, MetricSpec, Parameters

# Counts of images per class, besides those that every task has. Pixels of an image are not independent of each other:
# tests count images. An image is beatable if it contains another class: then a mask of one class has errors.
_BETTER, _WORSE, _BEATABLE = "better_than_constant", "worse_than_constant", "beatable_constant"
# Numbers of images: better and worse than guesses, and with several classes.
_CHANCE = "chance"
_PER_CLASS = (OCCURRING, PREDICTED, CORRECT, _BETTER, _WORSE, _BEATABLE)
_EQUAL = 1e-9  # largest difference of equal scores


@dataclass(frozen=True, eq=False)
class PixelSummary(ConfusionMatrix):
    """The confusion matrix of pixels, and counts of images.

    Attributes:
      images: Name → int64 [C] or [3], the evidence of the default rules.
    """

    images: Evidence


class PixelAccumulator:
    """The confusion matrix of pixels, and counts of images by the comparison of each with masks of one class."""

    def __init__(self, parameters: Parameters) -> None:
        """Starts without pixels."""
        # Of shared classes, one more column: predictions of other classes.
        columns = parameters.num_classes + (parameters.shared is not None)
        self._counts = np.zeros((parameters.num_classes, columns), np.int64)
        self._images = np.zeros((len(_PER_CLASS), parameters.num_classes), np.int64)
        self._chance = np.zeros(3, np.int64)

    def add(self, element: np.ndarray) -> None:
        """Adds one example: int64 [C, C], from `count_pixels`."""
        self._counts += element
        if element.any():
            per_class, chance = _image_counts(ConfusionMatrix(element))
            self._images += per_class
            self._chance += chance

    def merge(self, other: PixelAccumulator) -> None:
        """Adds the counts of another."""
        self._counts += other._counts
        self._images += other._images
        self._chance += other._chance

    def summarize(self) -> PixelSummary:
        """The counts so far."""
        images = dict(zip(_PER_CLASS, self._images.copy(), strict=True))
        return PixelSummary(self._counts.copy(), images | {_CHANCE: self._chance.copy()})


def _image_counts(matrix: ConfusionMatrix) -> tuple[np.ndarray, np.ndarray]:
    """What one image adds to the counts of images: of `_PER_CLASS`, bool [6, C], and of `_CHANCE`, bool [3].

    Its score is the mean IoU over the classes that occur in the ground truth or the prediction. Guesses that are as
    frequent as the predictions, but independent of the image, are correct in the expected number of pixels (Cohen 1960,
    https://doi.org/10.1177/001316446002000104).
    """
    support, predicted, correct = matrix.support, matrix.predicted, matrix.correct
    count, occurring = support.sum(), support > 0
    score = mean_over_classes(matrix.iou)
    constant_scores = support / count / (np.count_nonzero(occurring) + ~occurring)
    beatable = support < count
    better, worse = score > constant_scores + _EQUAL, score < constant_scores - _EQUAL
    per_class = np.stack([occurring, predicted > 0, correct > 0, better & beatable, worse & beatable, beatable])
    # In integers: count * count pixels are at most 2^62 for images of 2^31 pixels.
    advantage = int(correct.sum()) * int(count) - int(support @ predicted)
    several = np.count_nonzero(occurring) > 1
    return per_class, np.array([several and advantage > 0, several and advantage < 0, several])


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
    ground_truth, predicted = _decode(label_features[features.LABEL]), _decode(predictions["mask_png_bytes"])
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


def _decode(png: np.ndarray) -> np.ndarray:
    from PIL import Image

    with Image.open(io.BytesIO(png.item())) as image:
        return np.asarray(image)


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


def _compare(images: tuple[int, int, int], baseline: str) -> BaselineComparison:
    """Tests on how many images the model is better than a baseline, and worse, of those on which it can be better."""
    score = f"share of images with a higher score than {baseline}"
    return compare_by_images(score, *images, "no evaluated mask has several classes")


def _compare_with_constant(evidence: Evidence, classes: Sequence[str]) -> BaselineComparison:
    """Compares with masks of one class, for each class that occurs: the model must be better than all of them."""
    comparisons = [
        _compare((int(better), int(worse), int(beatable)), f"a mask of `{name}` only")
        for name, occurring, better, worse, beatable in zip(
            classes, *(evidence[key] for key in (OCCURRING, _BETTER, _WORSE, _BEATABLE)), strict=True
        )
        if occurring and beatable
    ]
    return decisive(comparisons, _compare((0, 0, 0), "a mask of one class"))


def _compare_with_chance(evidence: Evidence, classes: Sequence[str]) -> BaselineComparison:
    better, worse, several = (int(number) for number in evidence[_CHANCE])
    return _compare((better, worse, several), "guesses")


CONSTANT_BASELINES = (
    ConstantBaseline(
        name="constant",
        description="The mean IoU is higher than that of a mask of one class, whichever it is, on more images than it "
        "is lower, by more than sampling error.",
        compare=_compare_with_constant,
    ),
    ConstantBaseline(
        name="chance",
        description="The pixel accuracy is higher than that of guessing the classes as often as they are predicted, on "
        "more images than it is lower, by more than sampling error.",
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
