"""How a model that predicts a class per pixel is evaluated: counts and metrics."""

from __future__ import annotations

import io
from collections.abc import Mapping

import numpy as np

from trainer_module import features
from trainer_module.evaluation.confusion_matrix import ConfusionMatrix, mean_over_classes, precision_and_recall
from trainer_module.evaluation.spec import Evaluation, Example, MetricSpec, Parameters


class PixelAccumulator:
    """The confusion matrix of pixels."""

    def __init__(self, parameters: Parameters) -> None:
        """Starts without pixels."""
        self._counts = np.zeros((parameters.num_classes, parameters.num_classes), np.int64)

    def add(self, element: np.ndarray) -> None:
        """Adds one example: int64 [C, C], from `count_pixels`."""
        self._counts += element

    def merge(self, other: PixelAccumulator) -> None:
        """Adds the counts of another."""
        self._counts += other._counts

    def summarize(self) -> ConfusionMatrix:
        """The confusion matrix so far."""
        return ConfusionMatrix(self._counts.copy())


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
    return count_pixels(ground_truth, predicted, parameters.num_classes, parameters.ignore_id)


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
        ),
        MetricSpec(
            name="mean_dice",
            title="mean Dice",
            description="Mean over the classes of twice the intersection of prediction and truth over their sum.",
            undefined_when=NO_PIXELS,
            in_slices=True,
            compute=lambda matrix: mean_over_classes(matrix.f1),
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
        ),
        MetricSpec(
            name="dice",
            title="Dice",
            description="Twice the intersection of prediction and ground truth of the class over their sum.",
            scope="per_class",
            undefined_when=_NO_PIXEL_AND_NO_PREDICTION,
            mean_metric="mean_dice",
            compute=lambda matrix: matrix.f1,
        ),
        *precision_and_recall(lambda matrix: matrix, "pixels"),
    )


EVALUATION = Evaluation(
    metrics=metrics,
    element=_element,
    accumulator=PixelAccumulator,
    support=lambda matrix: matrix.support,
    count_unit="pixels",
    random_example=_random_example,
    confusion_matrix=lambda matrix: matrix.counts,
)
