"""How a model that predicts boxes is evaluated: COCO's metrics, the detections that are served, and types of errors."""

from __future__ import annotations

import copy
import functools
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from trainer_module import box_labels, features
from trainer_module.evaluation import box_baselines, box_plots
from trainer_module.evaluation.baselines import COMMON_EVIDENCE, Evidence, ImageSample
from trainer_module.evaluation.box_matching import (
    AREA_RANGES,
    BACKGROUND,
    BOTH,
    CLASSIFICATION,
    DUPLICATE,
    ERROR_TYPES,
    IOU_THRESHOLDS,
    LOCALISATION,
    MISSED,
    NUM_COCO_CURVES,
    NUM_CURVES,
    Detections,
    ImageOutcomes,
    Objects,
    compare,
)
from trainer_module.evaluation.confusion_matrix import ConfusionMatrix, mean_over_classes
from trainer_module.evaluation.ranked_outcomes import Curve, RankedOutcomes
from trainer_module.evaluation.spec import Evaluation, Example, MetricSpec, Parameters

# Recall is measured for this many detections of a class and image; for 100, which is `MAX_DETECTIONS`, in every range.
FEW_DETECTIONS = (1, 10)
# Annotations have whole pixels or few decimals, and 32-bit shares of the image represent them only nearly: without
# rounding, an area of 32² pixels would not be on the bound of two ranges.
_PIXEL_FRACTION = 1024.0
_DECIMALS = 4  # of the stored curves
# Images that are collected before they are counted.
_MAX_PENDING = 256

_ALL, _SMALL, _MEDIUM, _LARGE = range(len(AREA_RANGES))
_IOU_50, _IOU_75 = 0, 5


@dataclass(frozen=True, eq=False)
class DetectionSummary:
    """The counts of a slice.

    C is the number of classes. Ranges of areas are those of `AREA_RANGES`, thresholds those of `IOU_THRESHOLDS`.

    Attributes:
      num_objects: Objects that have to be detected, by range: int64 [C, 4].
      precision: Average precision, float64 [C, 4, 10]; NaN without objects.
      recall: Detected share of the objects, by at most 100 detections: float64 [C, 4, 10]; NaN without objects.
      recall_of_few: The same for at most 1 and 10 detections of a class per image, all areas: float64 [2, C, 10].
      confusion: True (row) and predicted class at IoU 0.5 of the served detections, int64 [C + 1, C + 1]; the last row
        counts detections of background, the last column missed objects.
      served_threshold: Smallest score of the served detections; NaN without images.
      errors: Number of errors at IoU 0.5 by class and type (`ERROR_TYPES`), int64 [C, 6]: false positives by predicted,
        missed objects by true class.
      precision_without: Average precision at IoU 0.5 if all errors of a type were corrected, float64 [C, 6]; NaN where
        it is undefined.
      curves: Precision by recall of every class at IoU 0.5.
      curves_75: The same at IoU 0.75.
      presence: Images by class, the rows of `COMMON_EVIDENCE`: int64 [3, C].
      sample: Images for the default rules.
    """

    num_objects: np.ndarray
    precision: np.ndarray
    recall: np.ndarray
    recall_of_few: np.ndarray
    confusion: np.ndarray
    served_threshold: float
    errors: np.ndarray
    precision_without: np.ndarray
    curves: tuple[Curve, ...]
    curves_75: tuple[Curve, ...]
    presence: np.ndarray
    sample: ImageSample

    @property
    def evidence(self) -> Evidence:
        """Counts of images, for the default rules; metrics do not need them, and they take as long as all metrics."""
        return {**dict(zip(COMMON_EVIDENCE, self.presence, strict=True)), **box_baselines.evidence(self.sample)}

    @property
    def support(self) -> np.ndarray:
        """Objects of every class that have to be detected, int64 [C]."""
        return np.asarray(self.num_objects[:, _ALL])

    @functools.cached_property
    def matrix(self) -> ConfusionMatrix:
        """The confusion matrix, with the background as the last class."""
        return ConfusionMatrix(self.confusion)

    @property
    def served_precision(self) -> float:
        """Correct share of the detections; 0 if there are objects and no detections, NaN if there is neither."""
        return _share(self._num_correct, self.confusion[:, :-1].sum(), self.confusion.sum())

    @property
    def served_recall(self) -> float:
        """Detected share of the objects; NaN without objects."""
        return _share(self._num_correct, self.support.sum(), self.support.sum())

    @property
    def served_f1(self) -> float:
        """Harmonic mean of both; NaN if there are neither objects nor detections."""
        counted = self.confusion[:, :-1].sum() + self.confusion[:-1].sum()
        return _share(2 * self._num_correct, counted, counted)

    def precision_lost(self, error_type: int) -> float:
        """By how much the mean average precision at IoU 0.5 would rise if all errors of a type were corrected."""
        counted = self.support > 0
        if not counted.any():
            return math.nan
        corrected = mean_over_classes(self.precision_without[counted, error_type])
        if math.isnan(corrected):
            corrected = 1.0  # without missed objects nothing is left to detect
        return max(0.0, corrected - mean_over_classes(self.precision[counted, _ALL, _IOU_50]))

    @property
    def _num_correct(self) -> int:
        return int(np.trace(self.confusion[:-1, :-1]))


class ImageCounts(NamedTuple):
    """Contribution of one image to the counts.

    Attributes:
      outcomes: The comparison of its detections with its objects.
      presence: bool [3, C], classes that occur, are predicted, and are predicted correctly.
      sampled: What is kept of it if it belongs to the sample; None without objects that count.
      served_threshold: Smallest score of the served detections.
    """

    outcomes: ImageOutcomes
    presence: np.ndarray
    sampled: tuple[np.ndarray, ...] | None
    served_threshold: float


class DetectionAccumulator:
    """Counts of object detection."""

    def __init__(self, parameters: Parameters) -> None:
        """Starts without images."""
        num_classes = parameters.num_classes
        self._num_classes = num_classes
        self._pending: list[ImageCounts] = []
        self._outcomes = RankedOutcomes(num_classes, NUM_CURVES)
        self._num_objects = np.zeros((num_classes, len(AREA_RANGES)), np.int64)
        self._correct_of_few = np.zeros((len(FEW_DETECTIONS), num_classes, len(IOU_THRESHOLDS)), np.int64)
        self._confusion = np.zeros((num_classes + 1, num_classes + 1), np.int64)
        self._served_threshold = math.nan
        self._errors = np.zeros((num_classes, len(ERROR_TYPES)), np.int64)
        self._presence = np.zeros((len(COMMON_EVIDENCE), num_classes), np.int64)
        self._sample = ImageSample()

    def add(self, element: ImageCounts) -> None:
        """Adds one image, from `count_image`."""
        if element.sampled is not None:
            self._sample.add(element.sampled)
        self._pending.append(element._replace(sampled=None))
        if len(self._pending) >= _MAX_PENDING:
            self._count_pending()

    def merge(self, other: DetectionAccumulator) -> None:
        """Adds the counts of another."""
        self._count_pending()
        other._count_pending()
        self._outcomes.merge(other._outcomes)
        self._num_objects += other._num_objects
        self._correct_of_few += other._correct_of_few
        self._confusion += other._confusion
        self._served_threshold = float(np.fmax(self._served_threshold, other._served_threshold))
        self._errors += other._errors
        self._presence += other._presence
        self._sample.merge(other._sample)

    def summarize(self) -> DetectionSummary:
        """The counts so far, and the precision that follows from them."""
        self._count_pending()
        num_classes, num_thresholds = self._num_classes, len(IOU_THRESHOLDS)
        coco_objects = np.repeat(self._num_objects, num_thresholds, axis=1)
        error_objects = np.repeat(self._num_objects[:, :1], MISSED, axis=1)
        precision = self._outcomes.average_precision(np.concatenate([coco_objects, error_objects], axis=1))
        shape = (num_classes, len(AREA_RANGES), num_thresholds)
        recall = _ratio(self._outcomes.num_correct()[:, :NUM_COCO_CURVES], coco_objects)
        return DetectionSummary(
            num_objects=self._num_objects.copy(),
            precision=precision[:, :NUM_COCO_CURVES].reshape(shape),
            recall=recall.reshape(shape),
            recall_of_few=_ratio(self._correct_of_few, self._num_objects[:, :1]),
            confusion=self._confusion.copy(),
            served_threshold=self._served_threshold,
            errors=self._errors.copy(),
            precision_without=np.column_stack([precision[:, NUM_COCO_CURVES:], self._precision_without_missed()]),
            curves=self._curves(_IOU_50),
            curves_75=self._curves(_IOU_75),
            presence=self._presence.copy(),
            sample=copy.copy(self._sample),
        )

    def _curves(self, iou: int) -> tuple[Curve, ...]:
        """Returns the curve of every class at one IoU threshold, for objects of all areas."""
        numbers = self._num_objects[:, _ALL].tolist()
        return tuple(self._outcomes.curve(class_id, iou, number) for class_id, number in enumerate(numbers))

    def _precision_without_missed(self) -> np.ndarray:
        """Average precision at IoU 0.5 if missed objects were none, float64 [C].

        A class without other objects has 0 if it has detections, and is undefined if not, as in the authors'
        implementation.
        """
        left = self._num_objects[:, 0] - self._errors[:, MISSED]
        values = np.full(self._num_classes, np.nan)
        for class_id in np.flatnonzero(self._num_objects[:, 0]).tolist():
            if left[class_id]:
                values[class_id] = self._outcomes.curve(class_id, 0, int(left[class_id])).precision.mean()
            elif self._errors[class_id, :MISSED].any():
                values[class_id] = 0.0
        return values

    def _count_pending(self) -> None:
        if not self._pending:
            return
        outcomes, presence, _, thresholds = zip(*self._pending, strict=True)
        self._pending = []
        self._served_threshold = float(np.fmax(self._served_threshold, max(thresholds)))
        joined = ImageOutcomes(*map(np.concatenate, zip(*outcomes, strict=True)))
        self._presence += np.sum(presence, axis=0)
        self._outcomes.add(joined.class_ids, joined.scores, joined.correct, joined.counted)
        np.add.at(self._num_objects, joined.object_ids, joined.object_ranges.astype(np.int64))
        np.add.at(self._confusion, tuple(joined.cells.T), 1)
        np.add.at(self._errors, tuple(joined.errors.T), 1)
        for index, limit in enumerate(FEW_DETECTIONS):
            rows = (joined.ranks >= 0) & (joined.ranks < limit)
            bits = joined.correct[rows, np.newaxis] >> np.arange(len(IOU_THRESHOLDS), dtype=np.uint64)
            np.add.at(self._correct_of_few[index], joined.class_ids[rows], (bits & np.uint64(1)).astype(np.int64))

    def __getstate__(self) -> dict[str, Any]:
        # Otherwise pending images would be sent between workers one by one.
        self._count_pending()
        return self.__dict__


def _ratio(part: np.ndarray, whole: np.ndarray) -> np.ndarray:
    """Divides counts, broadcast → float64; NaN where the divisor is 0."""
    return np.where(whole > 0, part / np.maximum(whole, 1), np.nan)


def _share(part: float, whole: float, occurs: float) -> float:
    """Divides counts; NaN if nothing occurs, 0 if the divisor is 0 otherwise."""
    return float(part / whole) if whole else 0.0 if occurs else math.nan


# === Examples ===


def count_image(
    objects: Objects,
    detections: Detections,
    image_size: Sequence[float],
    num_classes: int,
    served_threshold: float = 0.0,
) -> ImageCounts:
    """Compares the detections of one image with its objects.

    Args:
      objects: The ground truth.
      detections: The predictions.
      image_size: (height, width) of the original image, pixels.
      num_classes: C.
      served_threshold: Smallest score of the detections that are counted as served.
    """
    outcomes = compare(objects, detections, num_classes, served_threshold)
    sampled = box_baselines.sampled_image(objects, detections, image_size) if len(outcomes.object_ids) else None
    return ImageCounts(outcomes, _presence(outcomes, num_classes), sampled, served_threshold)


def _presence(outcomes: ImageOutcomes, num_classes: int) -> np.ndarray:
    """Returns which classes occur, are predicted, and are predicted correctly: bool [3, C].

    All detections count, whatever their score: the threshold of those that are served can be changed without training.
    """
    presence = np.zeros((len(COMMON_EVIDENCE), num_classes), bool)
    correct, counted = (bits & np.uint64(1) != 0 for bits in (outcomes.correct, outcomes.counted))
    presence[0, outcomes.object_ids] = presence[1, outcomes.class_ids[counted]] = True
    presence[2, outcomes.class_ids[correct]] = True
    return presence


def _element(
    label_features: Mapping[str, np.ndarray], predictions: Mapping[str, np.ndarray], parameters: Parameters
) -> ImageCounts:
    """Reads the detections of one image and its objects, and compares them.

    Args:
      label_features: `features.LABEL`, float32 [objects * 6] (see `box_labels`); `features.IMAGE_HEIGHT` and
        `features.IMAGE_WIDTH`, pixels of the upright original image.
      predictions: The outputs of the TF Object Detection API: `detection_boxes` [M, 4], normalised,
        `detection_scores` [M], `detection_classes` [M], from 1, `num_detections`; and `served_threshold`, the smallest
        score of a served detection. Of a model that does not return it, all detections are served.
      parameters: `num_classes` and `shared` are read.

    Raises:
      ValueError: If the label or the prediction contains a class that does not exist, or a number that is not finite.
    """
    size = [float(label_features[key].item()) for key in (features.IMAGE_HEIGHT, features.IMAGE_WIDTH)]
    label = label_features[features.LABEL].reshape(-1, box_labels.NUM_COLUMNS)
    label = label[label[:, 4] != box_labels.PADDING]
    objects = Objects(
        _pixels(label[:, :4], size),
        label[:, 4].astype(np.int64),
        label[:, 5] == box_labels.DIFFICULT,
        label[:, 5] == box_labels.CROWD,
    )
    num = round(float(predictions["num_detections"].item()))
    scores = predictions["detection_scores"].reshape(-1)[:num].astype(np.float32)
    detections = Detections(
        _pixels(predictions["detection_boxes"].reshape(-1, 4)[:num], size),
        predictions["detection_classes"].reshape(-1)[:num].astype(np.int64) - 1,
        scores,
    )
    if parameters.shared is not None:
        objects, detections = _of_shared_classes(objects, detections, np.array(parameters.shared.model))
    for name, ids in (("label", objects.class_ids), ("prediction", detections.class_ids)):
        unknown = ids[(ids < 0) | (ids >= parameters.num_classes)]
        if len(unknown):
            raise ValueError(
                f"the {name} contains the class id {unknown[0]}; there are {parameters.num_classes} classes"
            )
    if not all(np.isfinite(values).all() for values in (objects.boxes, detections.boxes, scores)):
        raise ValueError("a box of the label or the prediction, or a score, is not finite")
    served_threshold = float(predictions["served_threshold"].item()) if "served_threshold" in predictions else 0.0
    return count_image(objects, detections, size, parameters.num_classes, served_threshold)


def _of_shared_classes(objects: Objects, detections: Detections, shared_ids: np.ndarray) -> tuple[Objects, Detections]:
    """Keeps the boxes of shared classes, with the ids of these; labels and predictions have the model's own ids."""
    known = objects.class_ids >= 0  # the transform graph of a model does not know classes that only the other one has
    known[known] = shared_ids[objects.class_ids[known]] >= 0
    kept = Objects(*(values[known] for values in objects))
    shared = shared_ids[detections.class_ids] >= 0
    predicted = Detections(*(values[shared] for values in detections))
    return (
        kept._replace(class_ids=shared_ids[kept.class_ids]),
        predicted._replace(class_ids=shared_ids[predicted.class_ids]),
    )


def _pixels(boxes: np.ndarray, size: list[float]) -> np.ndarray:
    """Normalised boxes [n, 4] → float64 [n, 4], pixels."""
    return np.asarray(np.round(boxes.astype(np.float64) * (size * 2) * _PIXEL_FRACTION) / _PIXEL_FRACTION)


def _random_example(random: np.random.Generator, parameters: Parameters, class_id: int) -> Example:
    """A small, a medium and a large object of the class; detections anywhere, of any class."""
    size = 400.0
    sides = np.array([[20.0], [60.0], [150.0]]) * random.uniform(0.8, 1.2, (3, 2))
    corners = random.uniform(0.0, size - 190.0, (3, 2))
    boxes = np.concatenate([corners, corners + sides], axis=1)
    num = int(random.integers(1, 8))
    detected = np.sort(random.uniform(0.0, size, (num, 2, 2)), axis=1).reshape(-1, 4)
    ids = random.integers(parameters.num_classes, size=num)
    label = np.full((5, box_labels.NUM_COLUMNS), box_labels.PADDING, np.float32)
    label[:3] = np.column_stack([boxes / size, np.full(3, class_id), np.full(3, box_labels.OBJECT)])
    # A difficult object, which has no effect on the support.
    label[3] = [*(boxes[2] / size), class_id, box_labels.DIFFICULT]
    return (
        {
            features.LABEL: label.reshape(-1),
            features.IMAGE_HEIGHT: np.array([size]),
            features.IMAGE_WIDTH: np.array([size]),
        },
        {
            "detection_boxes": (detected / size).astype(np.float32),
            "detection_scores": random.random(num).astype(np.float32),
            "detection_classes": (ids + 1).astype(np.float32),
            "num_detections": np.array(float(num), np.float32),
            "served_threshold": np.array(0.4, np.float32),
        },
    )


def _details(summary: DetectionSummary) -> dict[str, np.ndarray]:
    """Returns the precision-recall curves and the errors of every class.

    Returns:
      precision_by_recall [C, 101], the interpolated precision at IoU 0.5 and the recalls 0, 0.01, …, 1;
      precision_by_recall_75 [C, 101], the same at IoU 0.75; score_by_recall [C, 101], the score at which the recall is
      reached, at IoU 0.5; served_threshold [C, 1]; errors [C, 6], their numbers by type (`ERROR_TYPES`).
    """
    return {
        "precision_by_recall": np.stack([curve.precision for curve in summary.curves]).round(_DECIMALS),
        "precision_by_recall_75": np.stack([curve.precision for curve in summary.curves_75]).round(_DECIMALS),
        "score_by_recall": np.stack([curve.scores for curve in summary.curves]).astype(np.float64).round(_DECIMALS),
        "served_threshold": np.full((len(summary.curves), 1), summary.served_threshold).round(_DECIMALS),
        "errors": summary.errors,
    }


# === Metrics ===

NO_OBJECTS = "there are no objects that count"
_NO_OBJECTS_OR_DETECTIONS = "there are neither objects that count nor served detections"
_NO_OBJECT_OF_CLASS = "the class has no objects that count"
_NO_OBJECT_OR_DETECTION_OF_CLASS = "the class has neither objects that count nor served detections"

_SIZE_WORDS = {
    "small": "up to 32² pixels",
    "medium": "from 32² to 96² pixels",
    "large": "from 96² pixels",
}
# Type of error → its meaning, as a clause.
ERROR_MEANINGS = {
    ERROR_TYPES[CLASSIFICATION]: "the class is wrong and the position correct",
    ERROR_TYPES[LOCALISATION]: "the class is correct and the IoU is between 0.1 and 0.5",
    ERROR_TYPES[BOTH]: "class and position are wrong",
    ERROR_TYPES[DUPLICATE]: "a better detection has the object",
    ERROR_TYPES[BACKGROUND]: "the IoU with every object is at most 0.1",
    ERROR_TYPES[MISSED]: "an object has no detection, not even one with another error",
}


def _mean_precision(area_range: int, iou: int | None = None) -> Callable[[DetectionSummary], float]:
    return lambda summary: mean_over_classes(_over_ious(summary.precision[:, area_range], iou))


def _mean_recall(area_range: int) -> Callable[[DetectionSummary], float]:
    return lambda summary: mean_over_classes(_over_ious(summary.recall[:, area_range]))


def _over_ious(values: np.ndarray, iou: int | None = None) -> np.ndarray:
    """[C, 10] → [C], the mean over the thresholds or the value at one."""
    return np.asarray(values.mean(axis=1) if iou is None else values[:, iou])


def _mean_recall_of_few(index: int) -> Callable[[DetectionSummary], float]:
    return lambda summary: mean_over_classes(_over_ious(summary.recall_of_few[index]))


def _precision_lost(error_type: int) -> Callable[[DetectionSummary], float]:
    return lambda summary: summary.precision_lost(error_type)


def metrics(top_k: int) -> tuple[MetricSpec, ...]:
    """All metrics, in the order in which they are shown.

    References: Lin et al. 2014, https://arxiv.org/abs/1405.0312, with the definitions of
    https://cocodataset.org/#detection-eval (AP and AR); Bolya et al. 2020, https://arxiv.org/abs/2008.08115 (errors).
    """
    by_size = [
        MetricSpec(
            name=f"ap_{name}",
            title=f"AP of {name} objects",
            description=f"AP of the objects with an area {_SIZE_WORDS[name]} of the original image.",
            undefined_when=f"there are no {name} objects that count",
            compute=_mean_precision(area_range),
        )
        for area_range, name in enumerate(AREA_RANGES)
        if name in _SIZE_WORDS
    ]
    recall_by_size = [
        MetricSpec(
            name=f"ar_{name}",
            title=f"AR of {name} objects",
            description=f"AR at 100 detections of the objects with an area {_SIZE_WORDS[name]} of the original image.",
            undefined_when=f"there are no {name} objects that count",
            compute=_mean_recall(area_range),
        )
        for area_range, name in enumerate(AREA_RANGES)
        if name in _SIZE_WORDS
    ]
    return (
        MetricSpec(
            name="average_precision",
            title="AP",
            description="Average precision, mean over the classes and the IoU thresholds 0.5, 0.55, …, 0.95 (COCO).",
            undefined_when=NO_OBJECTS,
            main=True,
            in_slices=True,
            threshold=0.1,
            change_threshold=0.02,
            compute=_mean_precision(_ALL),
            chance=lambda shares: 0.0,  # of no detections
        ),
        MetricSpec(
            name="ap50",
            title="AP50",
            description="Average precision at an IoU of at least 0.5, mean over the classes.",
            undefined_when=NO_OBJECTS,
            in_slices=True,
            compute=_mean_precision(_ALL, _IOU_50),
        ),
        MetricSpec(
            name="ap75",
            title="AP75",
            description="Average precision at an IoU of at least 0.75, mean over the classes.",
            undefined_when=NO_OBJECTS,
            in_slices=True,
            compute=_mean_precision(_ALL, _IOU_75),
        ),
        *by_size,
        *(
            MetricSpec(
                name=f"ar_{limit}",
                title=f"AR at {limit}",
                description="Average recall, mean over the classes and the IoU thresholds, "
                f"of the {limit} best detections of each class in an image."
                if limit > 1
                else "Average recall, mean over the classes and the IoU thresholds, "
                "of the best detection of each class in an image.",
                undefined_when=NO_OBJECTS,
                compute=_mean_recall_of_few(index),
            )
            for index, limit in enumerate(FEW_DETECTIONS)
        ),
        MetricSpec(
            name="ar_100",
            title="AR at 100",
            description="Average recall, mean over the classes and the IoU thresholds, of all detections, at most 100.",
            undefined_when=NO_OBJECTS,
            in_slices=True,
            compute=_mean_recall(_ALL),
        ),
        *recall_by_size,
        MetricSpec(
            name="served_precision",
            title="precision as served",
            description="Correct share of the served detections, whose score is at least task.served_threshold, at "
            "an IoU of at least 0.5.",
            undefined_when=_NO_OBJECTS_OR_DETECTIONS,
            compute=lambda summary: summary.served_precision,
        ),
        MetricSpec(
            name="served_recall",
            title="recall as served",
            description="Share of the objects that a served detection finds, whose score is at least "
            "task.served_threshold, at an IoU of at least 0.5.",
            undefined_when=NO_OBJECTS,
            compute=lambda summary: summary.served_recall,
        ),
        MetricSpec(
            name="served_f1",
            title="F1 as served",
            description="Harmonic mean of the precision and the recall of the served detections.",
            undefined_when=_NO_OBJECTS_OR_DETECTIONS,
            compute=lambda summary: summary.served_f1,
        ),
        *(
            MetricSpec(
                name=f"ap_lost_{name}",
                title=f"AP lost, {name}",
                description=f"Rise of AP50 if one type of error were corrected ({name}: {ERROR_MEANINGS[name]}).",
                direction="lower_is_better",
                undefined_when=NO_OBJECTS,
                compute=_precision_lost(error_type),
            )
            for error_type, name in enumerate(ERROR_TYPES)
        ),
        MetricSpec(
            name="class_ap",
            title="AP",
            description="Average precision of the class, mean over the IoU thresholds 0.5, 0.55, …, 0.95 (COCO).",
            scope="per_class",
            undefined_when=_NO_OBJECT_OF_CLASS,
            main=True,
            mean_metric="average_precision",
            compute=lambda summary: _over_ious(summary.precision[:, _ALL]),
        ),
        MetricSpec(
            name="class_ap50",
            title="AP50",
            description="Average precision of the class at an IoU of at least 0.5.",
            scope="per_class",
            undefined_when=_NO_OBJECT_OF_CLASS,
            mean_metric="ap50",
            compute=lambda summary: summary.precision[:, _ALL, _IOU_50],
        ),
        MetricSpec(
            name="class_ap75",
            title="AP75",
            description="Average precision of the class at an IoU of at least 0.75.",
            scope="per_class",
            undefined_when=_NO_OBJECT_OF_CLASS,
            mean_metric="ap75",
            compute=lambda summary: summary.precision[:, _ALL, _IOU_75],
        ),
        MetricSpec(
            name="class_ar_100",
            title="AR at 100",
            description="Average recall of the class, mean over the IoU thresholds, of at most 100 detections.",
            scope="per_class",
            undefined_when=_NO_OBJECT_OF_CLASS,
            mean_metric="ar_100",
            compute=lambda summary: _over_ious(summary.recall[:, _ALL]),
        ),
        MetricSpec(
            name="precision",
            description="Correct share of the served detections of the class, at an IoU of at least 0.5.",
            scope="per_class",
            undefined_when=_NO_OBJECT_OR_DETECTION_OF_CLASS,
            compute=lambda summary: summary.matrix.precision[:-1],
        ),
        MetricSpec(
            name="recall",
            description="Share of the objects of the class that a served detection finds, at an IoU of at least 0.5.",
            scope="per_class",
            undefined_when=_NO_OBJECT_OF_CLASS,
            compute=lambda summary: summary.matrix.recall[:-1],
        ),
        MetricSpec(
            name="f1",
            title="F1",
            description="Harmonic mean of the precision and the recall of the served detections of the class.",
            scope="per_class",
            undefined_when=_NO_OBJECT_OR_DETECTION_OF_CLASS,
            compute=lambda summary: summary.matrix.f1[:-1],
        ),
    )


EVALUATION = Evaluation(
    metrics=metrics,
    element=_element,
    accumulator=DetectionAccumulator,
    support=lambda summary: summary.support,
    count_unit="boxes",
    random_example=_random_example,
    evidence=lambda summary: summary.evidence,
    constant_baselines=box_baselines.CONSTANT_BASELINES,
    confusion_matrix=lambda summary: summary.confusion,
    confusion_note="Detections from the served threshold, at an IoU of at least 0.5; (background) is the counterpart "
    "of detections without an object, and of objects without a detection",
    has_background=True,
    details=_details,
    plots=lambda values: box_plots.plots(values, ERROR_MEANINGS),
)
