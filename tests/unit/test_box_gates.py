"""Gates of detectors: every injected failure is refused by exactly the intended gate, and by no other."""

import numpy as np
import pytest

from components.evaluator import default_rules, gates, options
from components.evaluator.artifact import EvaluationResult, SliceMetrics
from components.evaluator.options import EvaluationOptions
from trainer_module.evaluation.box_matching import Detections, Objects
from trainer_module.evaluation.boxes import EVALUATION, DetectionAccumulator, count_image
from trainer_module.evaluation.spec import Parameters, in_scope

CLASSES = ("cat", "dog")
SIZE = (400, 400)
CAT, DOG = range(2)
SMALL = (("object_size", "small"),)
METRICS = EVALUATION.metrics(1)


def objects_of(boxes, class_ids):
    none = np.zeros(len(boxes), bool)
    return Objects(np.array(boxes, float), np.array(class_ids, np.int64), none, none)


def detections_of(boxes, class_ids, scores):
    order = np.argsort(-np.asarray(scores, np.float32), kind="stable")
    arrays = np.reshape(boxes, (-1, 4)).astype(float), np.array(class_ids, np.int64), np.array(scores, np.float32)
    return Detections(*(values[order] for values in arrays))


@pytest.fixture(scope="module")
def scenes():
    """Sixty images with a cat and a dog, which are small in a quarter of the images."""
    rng = np.random.default_rng(3)
    scenes = []
    for index in range(60):
        side = 24.0 if index % 4 == 0 else rng.uniform(60, 120)
        low = rng.uniform(0, 270, (2, 2))
        scenes.append(objects_of(np.concatenate([low, low + side], axis=1), [CAT, DOG]))
    return scenes


def detect(scenes, change=None):
    """A good detector, whose boxes are two pixels beside the objects; `change` spoils its arrays, image by image."""
    detections = []
    for index, objects in enumerate(scenes):
        boxes, class_ids, scores = objects.boxes + 2.0, objects.class_ids, np.array([0.9, 0.8])
        if change:
            boxes, class_ids, scores = change(index, objects, boxes, class_ids, scores)
        detections.append(detections_of(boxes, class_ids, scores))
    return detections


@pytest.fixture(scope="module")
def good(scenes):
    """A good detector."""
    return detect(scenes)


_EVALUATED = {}


def evaluate(scenes, detections, key=()):
    """Returns metrics and evidence; those of the same detections are computed once."""
    known = id(detections), key
    if known not in _EVALUATED:
        _EVALUATED[known] = (_evaluate(scenes, detections, key), detections)  # kept, so that the id stays its own
    return _EVALUATED[known][0]


def _evaluate(scenes, detections, key):
    chosen = [index for index in range(len(scenes)) if not key or index % 4 == 0]
    accumulator = DetectionAccumulator(Parameters(len(CLASSES), 1))
    for index in chosen:
        accumulator.add(count_image(scenes[index], detections[index], SIZE, len(CLASSES)))
    summary = accumulator.summarize()
    by_class = {metric.name: metric.compute(summary) for metric in in_scope(METRICS, "per_class")}
    metrics = SliceMetrics(
        name=options.slice_name(key),
        key=key,
        examples=len(chosen),
        metrics={metric.name: metric.compute(summary) for metric in in_scope(METRICS, "overall")},
        support=dict(zip(CLASSES, EVALUATION.support(summary).tolist(), strict=True)),
        class_metrics={
            name: {metric: float(values[class_id]) for metric, values in by_class.items()}
            for class_id, name in enumerate(CLASSES)
        },
    )
    return metrics, summary.evidence


def apply(scenes, detections, configured, *, baseline=None, train_counts=None):
    """Returns the report of Evaluator's gates, default rules included."""
    (overall, evidence), (small, _) = (evaluate(scenes, detections, key) for key in ((), SMALL))
    evaluation = EvaluationResult(
        task="detection",
        split="test",
        classes=list(CLASSES),
        count_unit=EVALUATION.count_unit,
        metrics=METRICS,
        candidate=[overall, small],
        baseline=[evaluate(scenes, baseline, key)[0] for key in ((), SMALL)] if baseline else None,
    )
    chosen = EvaluationOptions.model_validate({"min_slice_examples": 10} | configured).with_task_defaults("detection")
    options.check_bounds(chosen, "detection")
    counts = dict.fromkeys(CLASSES, 9) if train_counts is None else train_counts
    return gates.apply_gates(evaluation, chosen, default_rules.apply_rules(evaluation, evidence, counts, ()))


def failures(report):
    return {
        (failure.setting.removeprefix("evaluation."), failure.metric, failure.slice, failure.class_name)
        for failure in report.failures
    }


# === Configured bounds ===


def shift(share, only=None):
    """Moves the boxes by a share of their side, which lowers their overlap."""

    def change(index, objects, boxes, class_ids, scores):
        side = (boxes[:, 2] - boxes[:, 0])[:, np.newaxis]
        moved = boxes + share * side * (1.0 if only is None else (class_ids == only)[:, np.newaxis])
        return moved, class_ids, scores

    return change


def miss_small(index, objects, boxes, class_ids, scores):
    kept = boxes[:, 2] - boxes[:, 0] > 32.0
    return boxes[kept], class_ids[kept], scores[kept]


def repeat(index, objects, boxes, class_ids, scores):
    scores = scores - 0.005 * index
    return np.concatenate([boxes - 1.0, boxes]), np.tile(class_ids, 2), np.concatenate([scores + 0.001, scores])


def add_background(index, objects, boxes, class_ids, scores):
    background = [[390.0 - 12 * number, 2.0, 399.0 - 12 * number, 11.0] for number in range(3)]
    return np.concatenate([boxes, background]), np.append(class_ids, [CAT] * 3), np.append(scores, [0.95] * 3)


def confuse(index, objects, boxes, class_ids, scores):
    return boxes, 1 - class_ids if index % 3 == 0 else class_ids, scores


@pytest.mark.parametrize(
    ("configured", "change", "expected"),
    [
        ({"thresholds": {"ap75": 0.5}}, shift(0.12), ("thresholds", "ap75", "all", None)),
        ({"thresholds": {"ap_lost_duplicate": 0.1}}, repeat, ("thresholds", "ap_lost_duplicate", "all", None)),
        (
            {"thresholds": {"ap_lost_classification": 0.1}},
            confuse,
            ("thresholds", "ap_lost_classification", "all", None),
        ),
        ({"thresholds": {"served_precision": 0.8}}, add_background, ("thresholds", "served_precision", "all", None)),
        (
            {"class_thresholds": {"class_ap75": {"dog": 0.5}}},
            shift(0.12, DOG),
            ("class_thresholds", "class_ap75", "all", "dog"),
        ),
        (
            {"slice_thresholds": {"ap50": {"object_size = small": 0.5}}},
            miss_small,
            ("slice_thresholds", "ap50", "object_size = small", None),
        ),
        ({"slice_gaps": {"ap50": 0.2}}, miss_small, ("slice_gaps", "ap50", "object_size = small", None)),
        (
            {"change_thresholds": {"average_precision": 0.1}},
            shift(0.1),
            ("change_thresholds", "average_precision", "all", None),
        ),
        (
            {"class_change_thresholds": {"class_ap": {"dog": 0.1, "cat": 0.1}}},
            shift(0.1, DOG),
            ("class_change_thresholds", "class_ap", "all", "dog"),
        ),
    ],
)
def test_a_worse_detector_is_refused_by_the_gate_for_its_fault(scenes, good, configured, change, expected):
    bounds = {"change_thresholds": {}} | configured
    assert failures(apply(scenes, good, bounds, baseline=good)) == set()
    report = apply(scenes, detect(scenes, change), bounds, baseline=good)
    assert failures(report) == {expected} and not report.blessed


def test_by_default_a_detector_may_not_be_worse_than_the_blessed_one(scenes, good):
    defaults = EvaluationOptions().with_task_defaults("detection").change_thresholds
    (metric,) = defaults
    worse = detect(scenes, shift(0.1))
    report = apply(scenes, worse, {}, baseline=good)
    assert failures(report) == {("change_thresholds", metric, "all", None)}
    assert apply(scenes, good, {}, baseline=worse).blessed


# === Default rules ===


def misplace_dogs(index, objects, boxes, class_ids, scores):
    return np.where((class_ids == DOG)[:, np.newaxis], [0.0, 0.0, 6.0, 6.0], boxes), class_ids, scores


def without_dogs(index, objects, boxes, class_ids, scores):
    return boxes[:1], class_ids[:1], scores[:1]


def nothing(index, objects, boxes, class_ids, scores):
    return boxes[:0], class_ids[:0], scores[:0]


def constant_box(index, objects, boxes, class_ids, scores):
    return np.tile([50.0, 50.0, 350.0, 350.0], (2, 1)), class_ids, scores


@pytest.mark.parametrize(
    ("change", "rules"),
    [
        (None, set()),
        (misplace_dogs, {"classes_correct"}),
        # A class that is not predicted is not predicted correctly either.
        (without_dogs, {"classes_predicted", "classes_correct"}),
        (nothing, {"beats_constant", "beats_chance", "classes_predicted", "classes_correct"}),
        (constant_box, {"beats_constant", "beats_chance", "classes_correct"}),
    ],
)
def test_a_detector_that_has_learned_nothing_is_refused_by_the_rule_for_it(scenes, change, rules):
    report = apply(scenes, detect(scenes, change), {"thresholds": {"ap50": 0.0}})
    assert {failure.rule for failure in report.failures} == rules


def random_boxes(index, objects, boxes, class_ids, scores):
    corners = np.sort(np.random.default_rng(index).uniform(0, 400, (9, 2, 2)), axis=1).reshape(-1, 4)
    return corners, np.arange(9) % 2, np.linspace(0.9, 0.1, 9)


@pytest.mark.parametrize("worthless", ["random boxes", "boxes of other images"])
def test_detections_that_do_not_depend_on_the_image_are_refused(scenes, good, worthless):
    detections = detect(scenes, random_boxes) if worthless == "random boxes" else [*good[1:], good[0]]
    report = apply(scenes, detections, {"thresholds": {"ap50": 0.0}})
    assert {"beats_constant", "beats_chance"} <= {failure.rule for failure in report.failures}


def test_the_constant_box_of_a_fixed_camera_is_refused():
    """It is better than all boxes in the middle, and its mirror image is always worse."""
    rng = np.random.default_rng(5)
    images = [
        objects_of([np.array([120.0, 20.0, 220.0, 120.0]) + rng.normal(0, 6, 4)], [index % 7 == 0])
        for index in range(60)
    ]

    def same_box(index, objects, boxes, class_ids, scores):
        return np.tile([120.0, 20.0, 220.0, 120.0], (2, 1)), np.array([CAT, DOG]), np.array([0.9, 0.8])

    report = apply(images, detect(images, same_box), {"thresholds": {"ap50": 0.0}})
    (failure,) = report.failures
    assert failure.rule == "beats_chance" and "given the" in failure.detail


def test_a_constant_box_can_be_better_than_a_detector_that_depends_on_the_image():
    """Objects of about the same place and size: a fixed box is better than boxes that are too small."""
    rng = np.random.default_rng(5)
    images = []
    for index in range(60):
        box = np.array([100.0, 90.0, 300.0, 290.0]) + rng.normal(0, 4, 4)
        images.append(objects_of([box], [DOG if index in (7, 30) else CAT]))

    def shrink(index, objects, boxes, class_ids, scores):
        return boxes + np.array([30.0, 0.0, -30.0, -40.0]), class_ids, scores[:1]

    report = apply(images, detect(images, shrink), {"thresholds": {"ap50": 0.0}})
    assert {failure.rule for failure in report.failures} == {"beats_constant"}


def test_a_class_without_objects_in_the_train_split_is_refused(scenes, good):
    report = apply(scenes, good, {"thresholds": {"ap50": 0.0}}, train_counts={"cat": 9})
    (failure,) = report.failures
    assert failure.rule == "classes_in_train" and "`dog` has no boxes" in failure.detail
