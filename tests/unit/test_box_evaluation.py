"""Evaluation of detections: equal to pycocotools; types of errors; merging; bounded memory."""

import contextlib
import io
import math
import pickle

import numpy as np
import pytest
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from trainer_module import box_labels, features
from trainer_module.evaluation import ranked_outcomes
from trainer_module.evaluation.box_matching import ERROR_TYPES, Detections, Objects
from trainer_module.evaluation.boxes import EVALUATION, DetectionAccumulator, count_image
from trainer_module.evaluation.ranked_outcomes import RankedOutcomes
from trainer_module.evaluation.spec import Parameters

IMAGE_SIZE = (700, 700)
TOLERANCE = 1e-3  # the requirement; exact up to rounding as long as no detections are grouped
COCO_NAMES = (
    *("average_precision", "ap50", "ap75", "ap_small", "ap_medium", "ap_large"),
    *("ar_1", "ar_10", "ar_100", "ar_small", "ar_medium", "ar_large"),
)

# === Comparison with pycocotools ===


class CocoEval(COCOeval):
    """COCO's evaluation, which overwrites the flag `ignore` of annotations with `iscrowd`; here `difficult` counts."""

    def _prepare(self):
        super()._prepare()
        for objects in self._gts.values():
            for annotation in objects:
                annotation["ignore"] = annotation["iscrowd"] or annotation["difficult"]


def xywh(box):
    ymin, xmin, ymax, xmax = map(float, box)
    return [xmin, ymin, xmax - xmin, ymax - ymin]


def evaluate_with_coco(images, num_classes):
    """The twelve metrics of COCO (NaN where they are undefined), and AP of every class."""
    annotations, results = [], []
    for number, (objects, detections) in enumerate(images, 1):
        for box, class_id, difficult, crowd in zip(*objects, strict=True):
            x, y, width, height = xywh(box)
            annotations.append(
                {"id": len(annotations) + 1, "image_id": number, "category_id": int(class_id) + 1}
                | {"bbox": [x, y, width, height], "area": width * height}
                | {"iscrowd": int(crowd), "difficult": int(difficult)}
            )
        for box, class_id, score in zip(*detections, strict=True):
            results.append(
                {"image_id": number, "category_id": int(class_id) + 1, "bbox": xywh(box), "score": float(score)}
            )
    with contextlib.redirect_stdout(io.StringIO()):
        truth = COCO()
        truth.dataset = {
            "info": {},
            "images": [{"id": number} for number in range(1, len(images) + 1)],
            "annotations": annotations,
            "categories": [{"id": number} for number in range(1, num_classes + 1)],
        }
        truth.createIndex()
        if results:
            predicted = truth.loadRes(results)
        else:
            predicted = COCO()
            predicted.dataset = truth.dataset | {"annotations": []}
            predicted.createIndex()
        evaluation = CocoEval(truth, predicted, "bbox")
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()
    precision = np.where(evaluation.eval["precision"] < 0, np.nan, evaluation.eval["precision"])
    by_class = precision[..., 0, 2].mean(axis=(0, 1))
    return np.where(evaluation.stats < 0, np.nan, evaluation.stats), by_class


def accumulate(images, num_classes, served_threshold=0.0):
    accumulator = DetectionAccumulator(Parameters(num_classes, 1))
    for objects, detections in images:
        accumulator.add(count_image(objects, detections, IMAGE_SIZE, num_classes, served_threshold))
    return accumulator


def metric_values(summary):
    return {metric.name: metric.compute(summary) for metric in EVALUATION.metrics(1)}


def check_equal_to_coco(images, num_classes):
    values = metric_values(accumulate(images, num_classes).summarize())
    expected, by_class = evaluate_with_coco(images, num_classes)
    np.testing.assert_allclose([values[name] for name in COCO_NAMES], expected, atol=1e-9)
    np.testing.assert_allclose(values["class_ap"], by_class, atol=1e-9)
    return values


def as_objects(boxes, class_ids=0, difficult=False, crowd=False):
    boxes = np.asarray(boxes, float).reshape(-1, 4)
    flags = (np.broadcast_to(np.asarray(values), len(boxes)) for values in (class_ids, difficult, crowd))
    return Objects(boxes, *flags)


def as_detections(boxes, scores, class_ids=0):
    boxes = np.asarray(boxes, float).reshape(-1, 4)
    return Detections(boxes, np.broadcast_to(np.asarray(class_ids), len(boxes)), np.asarray(scores, np.float32))


def random_images(rng, num_classes):
    """Objects of all sizes, difficult ones and crowds; detections near them, of other classes, repeated, elsewhere."""
    images = []
    # Whole pixels and few distinct scores make many ties; scores of one class may be all equal.
    decimals, distinct = rng.choice([0, 2]), rng.choice([1, 5, 1000, 10**6])
    for _ in range(rng.integers(1, 9)):
        num, num_detections = rng.integers(0, 8), rng.integers(0, 22)
        sides = np.exp(rng.uniform(np.log(3), np.log(220), (num, 2)))
        low = rng.uniform(0, 300, (num, 2))
        boxes = np.concatenate([low, low + sides], axis=1).round(decimals)
        ids = rng.integers(num_classes, size=num)
        near = rng.integers(max(1, num), size=num_detections)
        elsewhere = np.sort(rng.uniform(0, 300, (num_detections, 2, 2)), axis=1).reshape(-1, 4)
        noise = rng.normal(0, 1, (num_detections, 4)) * rng.choice([0.0, 0.03, 0.1, 0.2], (num_detections, 1))
        is_near = (rng.random(num_detections) < 0.8) & (num > 0)
        detected, detected_ids = elsewhere, rng.integers(num_classes, size=num_detections)
        if num:
            shifted = boxes[near] + noise * np.tile(boxes[near, 2:] - boxes[near, :2], 2)
            detected = np.where(is_near[:, np.newaxis], shifted, elsewhere)
            detected_ids = np.where(is_near & (rng.random(num_detections) < 0.85), ids[near], detected_ids)
        detected = np.sort(detected.reshape(-1, 2, 2), axis=1).reshape(-1, 4).round(decimals)
        scores = (rng.integers(distinct, size=num_detections) + 1) / distinct
        images.append(
            (
                Objects(boxes, ids, rng.random(num) < 0.15, rng.random(num) < 0.15),
                as_detections(detected, scores, detected_ids),
            )
        )
    return images


@pytest.mark.parametrize("seed", range(10))
def test_metrics_equal_those_of_pycocotools_on_random_datasets(seed):
    rng = np.random.default_rng(seed)
    for _ in range(20):
        num_classes = int(rng.integers(1, 4))
        check_equal_to_coco(random_images(rng, num_classes), num_classes)


BOX, SHIFTED, SMALL = [10, 10, 110, 110], [10, 35, 110, 135], [10, 10, 20, 20]
EXACT = [  # IoU with BOX of exactly 0.5, 0.75 and 0.95
    [10, 10, 60, 110],
    [10, 10, 85, 110],
    [10, 10, 105, 110],
]
ADVERSARIAL = {
    "nothing": (as_objects([]), as_detections([], [])),
    "no detections": (as_objects([BOX]), as_detections([], [])),
    "no objects": (as_objects([]), as_detections([BOX], [0.5])),
    "IoU on the thresholds": (as_objects([BOX]), as_detections(EXACT, [0.9, 0.8, 0.7])),
    "empty boxes": (
        as_objects([[5, 5, 5, 50], [7, 7, 7, 7], BOX]),
        as_detections([[5, 5, 5, 50], [7, 7, 7, 7], [9, 9, 9, 90]], [0.9, 0.8, 0.7]),
    ),
    "equal objects": (as_objects([BOX, BOX, BOX]), as_detections([BOX] * 4, [0.9, 0.8, 0.7, 0.6])),
    "equal scores": (as_objects([BOX]), as_detections([SMALL, BOX, SMALL, BOX], [0.5] * 4)),
    "only difficult": (as_objects([BOX], difficult=True), as_detections([BOX, SMALL], [0.9, 0.8])),
    "only crowd": (as_objects([BOX], crowd=True), as_detections([BOX, SMALL], [0.9, 0.8])),
    "crowd with many detections": (
        as_objects([[0, 0, 200, 200], BOX], crowd=[True, False]),
        as_detections([SMALL, [30, 30, 60, 60], BOX, [100, 100, 240, 240]], [0.9, 0.8, 0.7, 0.6]),
    ),
    "object preferred to crowd": (
        as_objects([BOX, SHIFTED], crowd=[True, False]),
        as_detections([BOX, SHIFTED, BOX], [0.9, 0.8, 0.7]),
    ),
    "object preferred to difficult": (
        as_objects([BOX, SHIFTED], difficult=[True, False]),
        as_detections([BOX, BOX, SHIFTED, SHIFTED], [0.9, 0.8, 0.7, 0.6]),
    ),
    "areas on the bounds": (
        as_objects([[0, 0, 32, 32], [50, 50, 146, 146]]),
        as_detections([[0, 0, 32, 32], [50, 50, 146, 146], [200, 200, 232, 232]], [0.9, 0.8, 0.7]),
    ),
    "wrong class": (as_objects([BOX, SMALL], [0, 1]), as_detections([BOX, SMALL], [0.9, 0.8], [1, 0])),
    "class without objects": (as_objects([BOX], [0]), as_detections([BOX, BOX], [0.9, 0.8], [1, 0])),
    "130 detections of a class": (
        as_objects([BOX, SMALL]),
        as_detections([SMALL] * 60 + [[200, 200, 220, 220]] * 69 + [BOX], np.linspace(0.9, 0.1, 130)),
    ),
    "outside the image": (as_objects([[-50, -50, 50, 50]]), as_detections([[-60, -50, 50, 50]], [0.9])),
}


@pytest.mark.parametrize("image", ADVERSARIAL.values(), ids=ADVERSARIAL)
def test_metrics_equal_those_of_pycocotools_on_adversarial_images(image):
    check_equal_to_coco([image], 2)
    check_equal_to_coco([image, (as_objects([BOX], 1), as_detections([SHIFTED, BOX], [0.65, 0.3], 1)), image], 2)


def as_example(objects, detections, size, served_threshold=0.0):
    """The outputs of the signatures for one image."""
    tiled = np.array(size * 2, float)
    label = np.full((len(objects.boxes) + 3, box_labels.NUM_COLUMNS), box_labels.PADDING, np.float32)
    kinds = np.select([objects.crowd, objects.difficult], [box_labels.CROWD, box_labels.DIFFICULT], box_labels.OBJECT)
    label[: len(objects.boxes)] = np.column_stack([objects.boxes / tiled, objects.class_ids, kinds])
    num, padding = len(detections.scores), 5
    return (
        {
            features.LABEL: label.reshape(-1),
            features.IMAGE_HEIGHT: np.array([size[0]]),
            features.IMAGE_WIDTH: np.array([size[1]]),
        },
        {
            "detection_boxes": np.pad(detections.boxes / tiled, ((0, padding), (0, 0))).astype(np.float32),
            "detection_scores": np.pad(detections.scores, (0, padding)),
            "detection_classes": np.pad(detections.class_ids + 1, (0, padding)).astype(np.float32),
            "num_detections": np.array([num], np.float32),
            "served_threshold": np.array([served_threshold], np.float32),
        },
    )


def test_normalised_boxes_in_32_bits_are_evaluated_like_their_pixels(rng):
    parameters = Parameters(2, 1)
    images = [*ADVERSARIAL.values(), *random_images(rng, 2), *random_images(rng, 2)]
    # Coordinates that 1/1024 pixel represents; arbitrary ones differ by less than that.
    images = [tuple(values._replace(boxes=np.round(values.boxes * 4) / 4) for values in image) for image in images]
    accumulator = DetectionAccumulator(parameters)
    for index, image in enumerate(images):
        size = [(600, 487), (331, 333), (1080, 1920)][index % 3]
        accumulator.add(EVALUATION.element(*as_example(*image, size), parameters))
    values, (expected, _) = metric_values(accumulator.summarize()), evaluate_with_coco(images, 2)
    np.testing.assert_allclose([values[name] for name in COCO_NAMES], expected, atol=1e-9)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"detection_classes": np.array([3.0])}, "prediction contains the class id 2; there are 2 classes"),
        ({"detection_classes": np.array([0.0])}, "prediction contains the class id -1"),
        ({"detection_scores": np.array([np.nan])}, "not finite"),
        ({"detection_boxes": np.array([[0, 0, np.inf, 1]])}, "not finite"),
        ({features.LABEL: np.array([0, 0, 1, 1, 2, 0.0])}, "label contains the class id 2"),
        ({features.LABEL: np.array([0, 0, 1, 1, box_labels.UNKNOWN_CLASS, 0.0])}, "label contains the class id -2"),
        ({features.LABEL: np.array([0, 0, np.nan, 1, 0, 0.0])}, "not finite"),
    ],
)
def test_invalid_labels_and_predictions_are_rejected(change, message):
    label, prediction = as_example(as_objects([BOX]), as_detections([BOX], [0.5]), (200, 200))
    assert EVALUATION.element(label, prediction, Parameters(2, 1)).outcomes.correct[0] & np.uint64(1)
    changed = [{key: change.get(key, value) for key, value in values.items()} for values in (label, prediction)]
    with pytest.raises(ValueError, match=message):
        EVALUATION.element(*changed, Parameters(2, 1))


# === Served detections ===


def test_the_model_brings_its_served_threshold():
    """The last blessed model is measured at its own threshold, and a class below it still counts as predicted."""
    parameters, rows = Parameters(2, 1), ([BOX, [0, 0, 20, 20]], [0.9, 0.4])
    image = as_objects(rows[0], [0, 1]), as_detections(*rows, [0, 1])
    for threshold, recall in ((0.05, 1.0), (0.5, 0.5), (0.95, 0.0)):
        merged = DetectionAccumulator(parameters)
        for _ in range(2):
            accumulator = DetectionAccumulator(parameters)
            accumulator.add(EVALUATION.element(*as_example(*image, (200, 200), threshold), parameters))
            merged.merge(accumulator)
        summary = merged.summarize()
        assert metric_values(summary)["served_recall"] == recall and metric_values(summary)["ap50"] == 1.0
        assert summary.evidence["predicted"].tolist() == summary.evidence["correct"].tolist() == [2, 2]
        assert EVALUATION.details(summary)["served_threshold"].tolist() == [[pytest.approx(threshold)]] * 2
    label, prediction = as_example(*image, (200, 200))
    del prediction["served_threshold"]  # an export of the TF Object Detection API: all detections count
    assert len(EVALUATION.element(label, prediction, parameters).outcomes.cells) == 2


def test_the_confusion_matrix_has_a_background():
    objects = as_objects([BOX, [200, 200, 300, 300], [400, 0, 450, 50], [500, 0, 550, 50]], [0, 0, 1, 1])
    detections = as_detections(
        [BOX, BOX, [200, 200, 300, 300], [205, 200, 300, 300], [400, 0, 450, 50], [600, 0, 700, 70]],
        [0.9, 0.8, 0.7, 0.6, 0.3, 0.5],
        [0, 0, 1, 1, 1, 1],
    )
    # A duplicate, a wrong class, a second one with the wrong class, and a detection of background.
    summary = accumulate([(objects, detections)], 2).summarize()
    np.testing.assert_array_equal(summary.confusion, [[1, 1, 0], [0, 1, 1], [1, 2, 0]])
    values = metric_values(summary)
    assert values["served_precision"] == pytest.approx(2 / 6) and values["served_recall"] == pytest.approx(2 / 4)
    assert values["served_f1"] == pytest.approx(4 / 10)
    np.testing.assert_allclose(values["precision"], [1 / 2, 1 / 4])
    np.testing.assert_allclose(values["recall"], [1 / 2, 1 / 2])
    # Above a threshold the detection with the score 0.3 is missing; AP does not change.
    served = accumulate([(objects, detections)], 2, served_threshold=0.5).summarize()
    np.testing.assert_array_equal(served.confusion, [[1, 1, 0], [0, 0, 2], [1, 2, 0]])
    assert metric_values(served)["served_recall"] == pytest.approx(1 / 4)
    np.testing.assert_array_equal(served.precision, summary.precision)


def test_ignored_objects_and_their_detections_are_not_in_the_confusion_matrix():
    objects = as_objects([BOX, [200, 200, 300, 300]], 0, [True, False], [False, True])
    detections = as_detections([BOX, [210, 210, 240, 240], [200, 200, 300, 300]], [0.9, 0.8, 0.7])
    summary = accumulate([(objects, detections)], 1).summarize()
    assert not summary.confusion.any() and not summary.errors.any() and not summary.support.any()
    assert all(np.isnan(value).all() for value in metric_values(summary).values())


def test_rows_of_the_confusion_matrix_add_up_to_the_objects(rng):
    for _ in range(20):
        summary = accumulate(random_images(rng, 3), 3).summarize()
        np.testing.assert_array_equal(summary.confusion[:-1].sum(axis=1), summary.support)
        correct = np.diag(summary.confusion)[:-1]
        np.testing.assert_allclose(
            correct[summary.support > 0], (summary.recall[:, 0, 0] * summary.support)[summary.support > 0]
        )


# === Types of errors ===

OBJECT = [0, 0, 100, 100]
FALSE_POSITIVES = {
    "classification": ([0, 0, 100, 90], 1),
    "localisation": ([0, 0, 100, 40], 0),
    "both": ([0, 0, 100, 40], 1),
    "background": ([200, 200, 300, 300], 0),
}


@pytest.mark.parametrize("name", FALSE_POSITIVES)
def test_one_error(name):
    box, class_id = FALSE_POSITIVES[name]
    # A detection of class 0 is correct, so that every type can gain something.
    images = [
        (as_objects([OBJECT]), as_detections([box], [0.9], class_id)),
        (as_objects([OBJECT, [300, 300, 350, 350]], [0, 1]), as_detections([OBJECT], [0.8])),
    ]
    summary = accumulate(images, 2).summarize()
    counts = dict(zip(ERROR_TYPES, summary.errors.sum(axis=0).tolist(), strict=True))
    is_match = name in ("classification", "localisation")
    assert counts == dict.fromkeys(ERROR_TYPES, 0) | {name: 1, "missed": 1 if is_match else 2}
    assert summary.errors[class_id, ERROR_TYPES.index(name)] == 1
    values = metric_values(summary)
    # Class 0 has two objects and one correct detection, before or after a false positive; class 1 is missed.
    before = (51 / 101 if class_id else 51 / 101 / 2) / 2
    after = (1.0 if is_match else 51 / 101) / 2
    assert values["ap50"] == pytest.approx(before)
    assert values[f"ap_lost_{name}"] == pytest.approx(after - before)
    for other in FALSE_POSITIVES:
        assert other == name or values[f"ap_lost_{other}"] == 0.0


def test_duplicates_and_missed_objects():
    images = [
        (as_objects([OBJECT]), as_detections([OBJECT, [0, 0, 100, 95]], [0.9, 0.8])),
        (as_objects([OBJECT]), as_detections([OBJECT], [0.7])),
        (as_objects([OBJECT]), as_detections([], [])),
    ]
    summary = accumulate(images, 1).summarize()
    assert summary.errors.tolist() == [[0, 0, 0, 1, 0, 1]]
    values = metric_values(summary)
    before = (34 + 33 * 2 / 3) / 101
    assert values["ap50"] == pytest.approx(before)
    assert values["ap_lost_duplicate"] == pytest.approx(67 / 101 - before)
    assert values["ap_lost_missed"] == pytest.approx((51 + 50 * 2 / 3) / 101 - before)


def test_of_several_errors_with_one_object_the_best_would_be_correct():
    boxes, scores, ids = [[0, 0, 100, 40], OBJECT, [0, 0, 100, 45]], [0.9, 0.8, 0.7], [0, 1, 0]
    summary = accumulate([(as_objects([OBJECT]), as_detections(boxes, scores, ids))], 2).summarize()
    assert summary.errors.tolist() == [[0, 2, 0, 0, 0, 0], [1, 0, 0, 0, 0, 0]]
    values = metric_values(summary)
    assert values["ap_lost_localisation"] == 1.0 and values["ap_lost_classification"] == 0.0


def test_a_model_without_detections_loses_everything_to_missed_objects():
    values = metric_values(accumulate([(as_objects([OBJECT, BOX]), as_detections([], []))], 2).summarize())
    assert values["average_precision"] == values["served_precision"] == values["ar_100"] == 0.0
    assert values["ap_lost_missed"] == 1.0
    assert math.isnan(values["class_ap"][1])


# === Predictors that ignore the image ===


def baseline_results(images):
    evidence = accumulate(images, 2).summarize().evidence
    return {baseline.name: baseline.compare(evidence, ["cat", "dog"]) for baseline in EVALUATION.constant_baselines}


def scenes(rng, num, *, centred=False):
    """Images with a cat each, and a dog in half of them."""
    for index in range(num):
        num_objects = 1 + index % 2
        low = rng.uniform(0, 500, (num_objects, 2))
        boxes = np.concatenate([low, low + rng.uniform(60, 200, (num_objects, 2))], axis=1)
        if centred:
            half = rng.uniform(120, 230, (num_objects, 2))
            boxes = np.concatenate([350 - half, 350 + half], axis=1) + rng.uniform(-40, 40, (num_objects, 1))
        yield as_objects(boxes, np.arange(num_objects))


@pytest.mark.parametrize("centred", [False, True])
def test_a_model_that_finds_objects_beats_predictors_that_ignore_the_image(rng, centred):
    images = []
    for objects in scenes(rng, 30, centred=centred):
        near = objects.boxes + rng.normal(0, 6, objects.boxes.shape)
        boxes = np.concatenate([near, rng.uniform([0, 0, 320, 320], 600, (3, 4))])
        scores = np.append(np.full(len(near), 0.6), rng.uniform(0.1, 0.5, len(boxes) - len(near)))
        images.append((objects, as_detections(boxes, scores, np.resize([0, 1], len(boxes)))))
    assert {name: result.passed for name, result in baseline_results(images).items()} == dict(
        constant=True, chance=True
    )


GRID = [[y, x, y + 150, x + 150] for y in range(0, 600, 100) for x in range(0, 600, 80)]


@pytest.mark.parametrize("centred", [False, True])
@pytest.mark.parametrize("boxes", [[], [[0, 0, 700, 700]], [[175, 175, 525, 525]], GRID, [[20, 20, 30, 30]]], ids=len)
def test_predictors_that_ignore_the_image_are_refused(rng, centred, boxes):
    scores = np.linspace(0.9, 0.5, len(boxes))
    images = [(objects, as_detections(boxes, scores)) for objects in scenes(rng, 60, centred=centred)]
    results = baseline_results(images)
    assert False in {result.passed for result in results.values()}, results
    shuffled = [(objects, images[index - 7][1]) for index, (objects, _) in enumerate(images)]
    assert False in {result.passed for result in baseline_results(shuffled).values()}


def test_detections_of_other_images_do_not_beat_chance(rng):
    objects = list(scenes(rng, 60))
    images = [
        (truth, as_detections(objects[index - 7].boxes, np.full(len(objects[index - 7].boxes), 0.9), 0))
        for index, truth in enumerate(objects)
    ]
    assert baseline_results(images)["chance"].passed is False


def test_too_few_images_are_not_compared(rng):
    images = [
        (objects, as_detections(objects.boxes, np.ones(len(objects.boxes)), objects.class_ids))
        for objects in scenes(rng, 3)
    ]
    assert {result.passed for result in baseline_results(images).values()} == {None}
    assert {result.passed for result in baseline_results([(as_objects([]), as_detections([], []))]).values()} == {None}


def scores_of(images):
    evidence = accumulate(images, 2).summarize().evidence
    return {tuple(row) for row in np.stack([np.diagonal(evidence["scores"]), evidence["perfect_scores"].diagonal()]).T}


def test_the_score_of_an_image():
    objects = as_objects([OBJECT, [200, 200, 300, 300], [500, 500, 600, 600]], difficult=[False, False, True])
    # Correct at all thresholds, ignored, wrong, correct at 0.5 to 0.75.
    boxes = [OBJECT, [500, 500, 600, 600], [400, 0, 450, 50], [200, 200, 300, 278]]
    score = (1 + 0.6 * 2 / 3) / 2
    assert scores_of([(objects, as_detections(boxes, [0.9, 0.8, 0.7, 0.6]))]) == {(round(1000 * score), 1000)}
    # Two objects in one place are found by the same detection.
    assert scores_of([(as_objects([OBJECT, OBJECT]), as_detections([OBJECT], [0.9]))]) == {(1000, 1000)}
    assert scores_of([(as_objects([OBJECT], crowd=True), as_detections([OBJECT], [0.9]))]) == set()


def test_evidence_counts_images_by_class():
    evidence = (
        accumulate(
            [
                (as_objects([OBJECT, OBJECT, BOX], [0, 0, 1]), as_detections([OBJECT, OBJECT], [0.9, 0.8], [0, 1])),
                (as_objects([OBJECT], 1), as_detections([BOX], [0.9], [0])),
                (as_objects([OBJECT], 0, difficult=True), as_detections([], [])),
            ],
            2,
        )
        .summarize()
        .evidence
    )
    assert [evidence[name].tolist() for name in ("occurring", "predicted", "correct")] == [[1, 2], [2, 1], [1, 1]]


# === Counts ===


def test_parts_can_be_merged_in_any_order(rng):
    images = [image for _ in range(6) for image in random_images(rng, 3)]
    # Distinct scores: as in pycocotools, equal ones are ranked in the order of the images.
    images = [
        (objects, detections._replace(scores=rng.permutation(10**6)[: len(detections.scores)].astype(np.float32)))
        for objects, detections in images
    ]
    expected = metric_values(accumulate(images, 3).summarize())
    for _ in range(3):
        parts = [accumulate(images[start::4], 3) for start in rng.permutation(4)]
        merged = DetectionAccumulator(Parameters(3, 1))
        for part in parts:
            merged.merge(pickle.loads(pickle.dumps(part)))
        before = parts[0].summarize()
        merged.merge(DetectionAccumulator(Parameters(3, 1)))
        np.testing.assert_array_equal(parts[0].summarize().precision, before.precision)
        for name, value in metric_values(merged.summarize()).items():
            np.testing.assert_allclose(value, expected[name], atol=1e-12, err_msg=name)


def ranking(rng, kind, num):
    """Scores, true positives and counted detections of one curve."""
    scores = rng.permutation(num) / num
    position = 1.0 - scores  # 0 for the best
    if kind == "alternating blocks":
        correct = np.floor(position * 200) % 2 == 0
    elif kind == "all errors first":
        correct = position > 0.5
    elif kind == "saturated":
        scores = 1.0 - 10.0 ** (-7 + 6 * position)
        correct = rng.random(num) < 0.95 - 0.9 * position
    elif kind == "rare":
        correct = rng.random(num) < 0.002
    else:
        correct = rng.random(num) < np.exp(-3 * position)
    counted = correct | (rng.random(num) < (0.5 if kind == "rare" else 0.9))
    return scores.astype(np.float32), correct, counted


@pytest.mark.parametrize("kind", ["usual", "alternating blocks", "all errors first", "saturated", "rare"])
@pytest.mark.parametrize("num_parts", [1, 5])
def test_grouped_detections_change_the_precision_by_less_than_a_thousandth(rng, kind, num_parts):
    num, num_curves = 60_000, 3
    scores, correct, counted = ranking(rng, kind, num)
    curves = [correct, correct & (rng.random(num) < 0.3), correct & (scores < 0.5)]
    bits, counted_bits = (
        sum(flags.astype(np.uint64) << np.uint64(index) for index, flags in enumerate(group))
        for group in (curves, [counted, counted & (curves[1] | ~correct), counted])
    )
    num_objects = np.array([[int(1.3 * flags.sum()) for flags in curves]])
    ids = np.zeros(num, int)
    exact = RankedOutcomes(1, num_curves)
    exact.add(ids, scores, bits, counted_bits)
    parts = []
    for rows in np.array_split(np.arange(num), num_parts):
        part = RankedOutcomes(1, num_curves, max_detections=10_000, max_groups=6_000)
        for chunk in np.array_split(rows, 10):
            part.add(ids[chunk], scores[chunk], bits[chunk], counted_bits[chunk])
        parts.append(part)
    merged = RankedOutcomes(1, num_curves, max_detections=10_000, max_groups=6_000)
    for part in parts:
        merged.merge(part)
    assert exact.is_exact and not merged.is_exact
    assert len(pickle.dumps(merged)) < 10_000 * 24 + 6_000 * (8 + 8 * num_curves) + 2_000
    np.testing.assert_array_equal(merged.num_correct(), exact.num_correct())
    values = merged.average_precision(num_objects)
    np.testing.assert_allclose(values, exact.average_precision(num_objects), rtol=0, atol=TOLERANCE)


def test_memory_is_bounded_for_many_classes():
    kept = RankedOutcomes(1000, 45)
    assert kept._max_detections * 24 + kept._max_groups * 368 < 800 * 2**20
    assert ranked_outcomes._MAX_DETECTIONS * 24 + ranked_outcomes._MAX_GROUPS * 368 < 18 * 2**20


def test_curves_show_the_precision_and_the_score_at_every_recall():
    images = [(as_objects([OBJECT, [10, 10, 400, 400]]), as_detections([OBJECT, [500, 500, 600, 600]], [0.9, 0.7]))]
    curve = accumulate(images, 1).summarize().curves[0]
    np.testing.assert_array_equal(curve.precision, [1.0] * 51 + [0.0] * 50)
    np.testing.assert_array_equal(curve.scores, np.float32([0.9] * 51 + [np.nan] * 50))
    details = EVALUATION.details(accumulate(images, 2).summarize())
    assert {name: values.shape for name, values in details.items()} == {
        "precision_by_recall": (2, 101),
        "precision_by_recall_75": (2, 101),
        "score_by_recall": (2, 101),
        "served_threshold": (2, 1),
        "errors": (2, len(ERROR_TYPES)),
    }
    assert details["score_by_recall"][0, 50] == 0.9 and details["precision_by_recall"][0].sum() == 51
    assert np.isnan(details["precision_by_recall"][1]).all() and details["errors"].sum() == 2


# === TFMA ===


def resampled_values(counts, rng):
    """The metrics of as many images, drawn with replacement."""
    accumulator = DetectionAccumulator(Parameters(2, 1))
    for index in rng.integers(0, len(counts), len(counts)):
        accumulator.add(counts[index])
    return metric_values(accumulator.summarize())


def test_confidence_intervals_cover_what_other_images_would_give(rng, tmp_path):
    import apache_beam as beam
    import tensorflow_model_analysis as tfma
    from tensorflow_model_analysis.evaluators import metrics_plots_and_validations_evaluator

    from components.evaluator.options import EvaluationOptions
    from pipeline.eval_config import eval_config

    images = []
    for objects in scenes(rng, 40):
        near = objects.boxes + rng.normal(0, 25, objects.boxes.shape)
        images.append((objects, as_detections(near, rng.uniform(0.3, 0.9, len(near)), objects.class_ids)))
    extracts = []
    for image in images:
        label, prediction = as_example(*image, IMAGE_SIZE)
        standard = {"features": {}, "labels": np.array([0]), "predictions": prediction, "_slice_key_types": [()]}
        extracts.append(standard | {"transformed_features": label})
    config = eval_config(EvaluationOptions(confidence_intervals="jackknife"), "detection", ("cat", "dog"), [])
    # The groups of images that are left out in turn are drawn; here, always the same.
    evaluator = metrics_plots_and_validations_evaluator.MetricsPlotsAndValidationsEvaluator(
        tfma.utils.update_eval_config_with_defaults(config), random_seed_for_testing=1
    )
    path = tmp_path / "metrics"
    with beam.Pipeline() as pipeline:
        results = pipeline | beam.Create(extracts) | evaluator.ptransform
        named = results["metrics"] | beam.Map(lambda row: {key.name: value for key, value in row[1].items()})
        _ = named | "Write" >> beam.Map(lambda values: path.write_bytes(pickle.dumps(values)))
    computed = pickle.loads(path.read_bytes())
    counts = [count_image(*image, IMAGE_SIZE, 2, 0.0) for image in images]
    resampled = [resampled_values(counts, rng) for _ in range(60)]
    expected = metric_values(accumulate(images, 2).summarize())
    for name in ("average_precision", "ap50", "ap75", "ar_100"):
        interval = computed[name]
        assert interval.unsampled_value == pytest.approx(expected[name], abs=1e-6)
        deviation = np.std([values[name] for values in resampled])
        assert 0.5 * deviation < interval.sample_standard_deviation < 2.0 * deviation, name
