"""Object detection: labels, loss, decoding, augmentation and drawing."""

import numpy as np
import pytest
import tensorflow as tf

from trainer_module import augmentation, box_anchors, box_drawing, box_labels, box_losses, features, tasks
from trainer_module.box_grid import Grid
from trainer_module.boxes.overlap import iou
from trainer_module.evaluation import box_matching
from trainer_module.mask_drawing import palette
from trainer_module.options import AugmentationOptions, TrainerOptions

TASK = tasks.get("detection")
CLASSES, SIZE, STRIDES = ("a", "b"), 64, (8, 16, 32)
GRID = Grid.of(SIZE, STRIDES)
MAX_OBJECTS = box_labels.MAX_OBJECTS


def label(*objects):
    """Objects (ymin, xmin, ymax, xmax, class id, kind) of one image → float32 [1, max_objects, 6]."""
    padded = np.zeros((1, MAX_OBJECTS, box_labels.NUM_COLUMNS), np.float32)
    padded[..., 4] = box_labels.PADDING
    if objects:
        padded[0, : len(objects)] = objects
    return padded


def outputs(logit=-6.0):
    """Outputs of a head that sees nothing: every box is that of its anchor."""
    num = len(GRID.anchors)
    logits = np.full((1, num, len(CLASSES)), logit, np.float32)
    return np.concatenate([logits, GRID.anchors.numpy()[np.newaxis] / SIZE], axis=-1)


def assigned_to(objects):
    """The positions that have to detect the objects."""
    return box_losses.assign(box_losses.read_objects(tf.constant(objects), (SIZE, SIZE)), GRID).positive.numpy()[0]


def loss(objects, predicted, **options):
    return float(box_losses.DetectionLoss(SIZE, STRIDES, **options)(objects, predicted))


OBJECT = (0.2, 0.3, 0.7, 0.8, 1, box_labels.OBJECT)


# === Loss ===


def test_a_perfect_prediction_has_almost_no_loss_and_every_error_costs():
    objects, perfect = label(OBJECT), outputs(-20.0)
    positive = assigned_to(objects)
    assert 1 <= positive.sum() < len(positive)
    perfect[0, positive, 1], perfect[0, positive, 2:] = 20.0, OBJECT[:4]
    assert loss(objects, perfect) == pytest.approx(0.0, abs=1e-6)
    errors = {}
    for name, change in {
        "missed": lambda p: p.__setitem__((0, positive, 1), -20.0),
        "wrong class": lambda p: p.__setitem__((0, positive, 0), 20.0),
        "background": lambda p: p.__setitem__((0, ~positive, 0), 20.0),
        "shifted": lambda p: p.__setitem__((0, positive, 2), 0.0),
    }.items():
        changed = perfect.copy()
        change(changed)
        errors[name] = loss(objects, changed)
    assert min(errors.values()) > 0.3, errors


def test_the_target_of_a_score_is_the_overlap_of_its_box():
    """Quality focal loss: a box that overlaps by half should have a score of one half."""
    objects = label(OBJECT)
    positive = assigned_to(objects)

    def loss_of(score):
        predicted = outputs(-20.0)
        predicted[0, positive, 2:] = OBJECT[:4]
        predicted[0, positive, 4] = 0.45  # half the height
        predicted[0, positive, 1] = np.log(score / (1 - score))
        # The weights of the boxes do not change their mean: all boxes are the same.
        return loss(objects, predicted)

    losses = {score: loss_of(score) for score in (0.1, 0.3, 0.5, 0.7, 0.9)}
    assert min(losses, key=losses.get) == 0.5, losses


def test_difficult_objects_can_be_ignored_and_crowds_always_are():
    alarm = outputs(-20.0)
    alarm[0, assigned_to(label(OBJECT)), 1] = 5.0
    for kind, train_difficult, ignored in (
        (box_labels.CROWD, True, True),
        (box_labels.DIFFICULT, False, True),
        (box_labels.DIFFICULT, True, False),
        (box_labels.OBJECT, False, False),
    ):
        objects = label((*OBJECT[:5], kind))
        silent = loss(objects, outputs(-20.0), train_difficult=train_difficult)
        assert (silent < 1e-6) == ignored, kind
        assert (loss(objects, alarm, train_difficult=train_difficult) < 1e-6) == ignored, kind
    assert loss(label(), alarm) > 0.1


def test_an_image_without_objects_teaches_background():
    assert 0 < loss(label(), outputs(-6.0)) < loss(label(), outputs(0.0))


# === Loss of a head with anchors ===

ANCHORS = box_anchors.anchors(SIZE, STRIDES)


def anchor_outputs(logit):
    """Outputs of a head with anchors: every box is that of its anchor."""
    boxes = ANCHORS.numpy()[np.newaxis] / SIZE
    return np.concatenate([np.full((1, len(ANCHORS), len(CLASSES)), logit, np.float32), boxes], axis=-1)


def anchors_of(objects):
    """The anchors that have to detect the objects, and those that have to be background: bool [A] each."""
    read = box_losses.read_objects(tf.constant(objects), (SIZE, SIZE))
    assigned = box_losses.assign_to_anchors(read, ANCHORS)
    positive, counted = assigned.positive.numpy()[0], assigned.counted.numpy()[0]
    return positive, counted & ~positive


def anchor_loss(objects, predicted, **options):
    return float(box_losses.AnchorLoss(SIZE, STRIDES, **options)(objects, predicted))


def test_focal_loss_equals_its_definition():
    """Equation 5 of the paper; the boxes are right, and the number of positive anchors divides."""
    objects, predicted = label(OBJECT), anchor_outputs(-1.0)
    positive, background = anchors_of(objects)
    assert 1 <= positive.sum() < background.sum() < len(positive)
    predicted[0, positive, 1], predicted[0, positive, 2:] = 0.5, OBJECT[:4]

    def focal(probability, weight, gamma):
        return -weight * (1 - probability) ** gamma * np.log(probability)

    right, wrong = 1 / (1 + np.exp(-0.5)), 1 / (1 + np.exp(-1.0))
    for gamma, alpha in ((2.0, 0.25), (0.0, 0.5), (1.0, 0.8)):
        num = positive.sum()
        expected = num * focal(right, alpha, gamma) + (2 * background.sum() + num) * focal(wrong, 1 - alpha, gamma)
        assert anchor_loss(objects, predicted, gamma=gamma, alpha=alpha) == pytest.approx(expected / num, rel=1e-5)


def test_every_error_of_a_head_with_anchors_costs_and_teaches():
    objects, perfect = label(OBJECT), anchor_outputs(-20.0)
    positive, background = anchors_of(objects)
    perfect[0, positive, 1], perfect[0, positive, 2:] = 20.0, OBJECT[:4]
    assert anchor_loss(objects, perfect) == pytest.approx(0.0, abs=1e-6)
    for rows, column, value in (
        (positive, 1, -100.0),
        (positive, 0, 100.0),
        (background, 0, 100.0),
        (positive, 2, 0.0),
    ):
        changed = perfect.copy()
        changed[0, rows, column] = value
        variable = tf.Variable(changed)
        with tf.GradientTape() as tape:
            cost = box_losses.AnchorLoss(SIZE, STRIDES)(objects, variable)
        gradient = tape.gradient(cost, variable).numpy()
        assert cost > 0.1 and np.isfinite(gradient).all()
        assert (np.abs(gradient[0, rows, column]) > 1e-4).all(), (column, value)


def test_anchors_of_difficult_objects_crowds_and_unknown_classes_do_not_train():
    alarm = anchor_outputs(-20.0)
    alarm[0, anchors_of(label(OBJECT))[0], 1] = 5.0
    for class_id, kind, train_difficult, ignored in (
        (1, box_labels.CROWD, True, True),
        (1, box_labels.DIFFICULT, False, True),
        (1, box_labels.DIFFICULT, True, False),
        (1, box_labels.OBJECT, False, False),
        (box_labels.UNKNOWN_CLASS, box_labels.OBJECT, True, True),
    ):
        objects = label((*OBJECT[:4], class_id, kind))
        for predicted in (anchor_outputs(-20.0), alarm):
            value = anchor_loss(objects, predicted, train_difficult=train_difficult)
            assert (value < 1e-6) == ignored, (class_id, kind)
    assert anchor_loss(label(), alarm) > 0.1


@pytest.mark.parametrize(
    ("function", "outputs_of"), [(box_losses.DetectionLoss, outputs), (box_losses.AnchorLoss, anchor_outputs)]
)
def test_the_loss_does_not_depend_on_the_other_images_padding(function, outputs_of):
    many = label(*[(0.1, 0.1, 0.3, 0.3, 0, 0)] * 25)
    few, predicted = label(OBJECT), outputs_of(-2.0)
    function = function(SIZE, STRIDES)
    together = function.call(tf.constant(np.concatenate([few, many])), tf.constant(np.repeat(predicted, 2, axis=0)))
    assert together.shape == (2,) and np.isfinite(together).all()
    restored = type(function).from_config(function.get_config())
    assert float(restored(few, predicted)) == pytest.approx(float(function(few, predicted)))


def test_the_training_metric_of_a_head_with_anchors():
    objects, predicted = label(OBJECT), anchor_outputs(-6.0)
    metric = box_losses.AssignedIou(SIZE, STRIDES, has_anchors=True)
    predicted[0, anchors_of(objects)[0], 2:] = OBJECT[:4]
    metric.update_state(objects, predicted)
    assert float(metric.result()) == pytest.approx(1.0)
    assert box_losses.AssignedIou.from_config(metric.get_config()).get_config() == metric.get_config()


def test_the_training_metric_is_the_overlap_of_assigned_boxes():
    objects, predicted = label(OBJECT), outputs()
    metric = box_losses.AssignedIou(SIZE, STRIDES)
    predicted[0, assigned_to(objects), 2:] = OBJECT[:4]
    metric.update_state(objects, predicted)
    assert float(metric.result()) == pytest.approx(1.0)
    predicted[0, assigned_to(objects), 4] = 0.45
    metric.update_state(objects, predicted)
    assert float(metric.result()) == pytest.approx(0.75)


# === Labels and predictions ===


def raw(num, **changes):
    values = {
        features.BOX_YMIN: [0.1] * num,
        features.BOX_XMIN: [0.2] * num,
        features.BOX_YMAX: [0.5] * num,
        features.BOX_XMAX: [0.6] * num,
        features.BOX_CLASSES: ["b"] * num,
        features.BOX_DIFFICULT: [0] * num,
        features.BOX_IS_CROWD: [0] * num,
    }
    return values | changes


def options(**task):
    return TrainerOptions(
        classes=CLASSES,
        transform={"image_size": SIZE},
        model={"name": "scratch_cnn", "blocks": [[4], [4], [4], [4]]},
        task={"name": "detection", **task},
    )


def test_labels_of_images_with_different_numbers_of_objects():
    rows = [raw(0), raw(2, **{features.BOX_IS_CROWD: [0, 1]}), raw(1, **{features.BOX_DIFFICULT: [1]})]
    objects = TASK.labels(rows, [(SIZE, SIZE)] * len(rows), options()).numpy()
    assert objects.shape == (3, MAX_OBJECTS, 6)
    assert (objects[..., 4] >= 0).sum(axis=-1).tolist() == [0, 2, 1]
    np.testing.assert_allclose(objects[1, 1], [0.1, 0.2, 0.5, 0.6, 1, box_labels.CROWD], rtol=1e-6)
    assert objects[2, 0, 5] == box_labels.DIFFICULT


def test_more_objects_than_fit_are_an_error():
    assert TASK.labels([raw(MAX_OBJECTS)], [(SIZE, SIZE)], options()).numpy()[0, -1, 4] == 1
    with pytest.raises(tf.errors.InvalidArgumentError, match=r"more than 500 objects; set transform\.max_objects"):
        TASK.labels([raw(MAX_OBJECTS + 1)], [(SIZE, SIZE)], options())
    more = options().model_copy(update={"transform": options().transform.model_copy(update={"max_objects": 501})})
    assert (TASK.labels([raw(MAX_OBJECTS + 1)], [(SIZE, SIZE)], more).numpy()[0, :, 4] == 1).all()


def test_detections_are_the_best_boxes_of_each_class():
    predicted = outputs(-20.0)
    for position, (logit, class_id) in {3: (2.0, 0), 4: (1.0, 0), 20: (0.0, 1)}.items():
        predicted[0, position, class_id] = logit
        predicted[0, position, 2:] = OBJECT[:4] if position < 10 else (-0.2, 0.5, 0.4, 1.5)
    detections = TASK.decode(tf.constant(predicted), options(max_detections=5)).numpy()[0]
    assert detections.shape == (5, 7)
    np.testing.assert_allclose(detections[0], [*OBJECT[:4], 0, 0, 1 / (1 + np.exp(-2.0))], rtol=1e-5)
    np.testing.assert_allclose(detections[1], [0, 0.5, 0.4, 1, 1, 0, 0.5], rtol=1e-5)
    assert (detections[2:, 4] == box_labels.PADDING).all() and not detections[2:, 6].any()
    few = TASK.decode(tf.constant(predicted), options(score_threshold=0.6)).numpy()[0]
    assert (few[:, 4] >= 0).sum() == 1


def response(detections):
    exists = detections[..., 4] >= 0
    names = np.array([b"", *[name.encode() for name in CLASSES]])
    return {
        "detection_boxes": detections[..., :4].copy(),
        "detection_scores": detections[..., 6].copy(),
        "detection_classes": detections[..., 4] + 1,
        "num_detections": exists.sum(axis=-1).astype(np.float32),
        "detection_labels": names[(detections[..., 4] + 1).astype(int)],
    }


@pytest.mark.parametrize(
    ("fault", "message"),
    [
        (lambda r: r["detection_boxes"].__setitem__((0, 0, 0), np.nan), "largest difference"),
        (lambda r: r["detection_boxes"].__setitem__((0, 0, 0), 0.25), "largest difference"),
        (lambda r: r["detection_scores"].__setitem__((0, 0), 0.8), "largest difference"),
        (lambda r: r["detection_labels"].__setitem__((0, 0), b"b"), "do not belong"),
        (lambda r: r["num_detections"].__setitem__(0, 0), "no counterpart"),
    ],
)
def test_serving_validator_detects_a_wrong_response(fault, message):
    predicted = np.zeros((1, 4, 7), np.float32)
    predicted[..., 4] = box_labels.PADDING
    predicted[0, 0] = (*OBJECT[:4], 0, 0, 0.9)
    right = response(predicted)
    assert TASK.export.compare(right, predicted, options(), 1e-4).detail.endswith("0, 1 detections")
    nothing = TASK.export.compare(right, predicted, options(score_threshold=0.95), 1e-4)
    assert nothing.passed and "no box was compared" in nothing.detail
    fault(right)
    agreement = TASK.export.compare(right, predicted, options(), 1e-4)
    assert not agreement.passed and message in agreement.detail


def test_a_detection_may_be_absent_only_where_rounding_decides():
    def passes(served, predicted, **settings):
        return TASK.export.compare(
            response(served[np.newaxis]), predicted[np.newaxis], options(**settings), 1e-4
        ).passed

    first, last, other = (
        np.array([*box, 0, 0, score], np.float32)
        for box, score in (((0.0, 0.0, 0.5, 0.5), 0.9), ((0.6, 0.6, 0.7, 0.7), 0.3), ((0.8, 0.8, 0.9, 0.9), 0.3))
    )
    # The last one of a full list, and not of another, nor with another score or without a number.
    assert passes(np.stack([first, other]), np.stack([first, last]), max_detections=2)
    assert not passes(np.stack([first, other]), np.stack([first, last]), max_detections=3)
    higher, broken = other.copy(), last.copy()
    higher[6], broken[0] = 0.4, np.nan
    assert not passes(np.stack([first, higher]), np.stack([first, last]), max_detections=2)
    assert not passes(np.stack([first, broken]), np.stack([first, last]), max_detections=2)
    # One that a better one just suppresses, or just does not: IoU 0.6.
    for height, absent in ((0.3, True), (0.25, False)):
        near = np.array([0.0, 0.0, height, 0.5, 0, 0, 0.5], np.float32)
        nothing = np.zeros(7, np.float32)
        nothing[4] = box_labels.PADDING
        assert passes(np.stack([first, nothing]), np.stack([first, near]), iou_threshold=0.6) is absent


def test_an_image_size_that_does_not_fit_the_strides_is_an_error():
    from trainer_module import network
    from trainer_module.input_pipeline import PixelStatistics

    odd = options().model_copy(update={"transform": options().transform.model_copy(update={"image_size": (60, 60)})})
    with pytest.raises(ValueError, match="multiples of 8"):
        network.build(odd, PixelStatistics(np.zeros(3, np.float32), np.ones(3, np.float32)))


@pytest.mark.parametrize("head", ["anchor_free", "anchor_based"])
def test_before_training_every_box_is_that_of_its_anchor_and_every_score_is_the_prior(
    rng, tmp_path, head, small_backbones
):
    """Otherwise the first steps can move all boxes away from the objects, and all targets of scores become 0."""
    import keras

    from trainer_module import keras_file, network
    from trainer_module.input_pipeline import PixelStatistics

    keras.utils.set_random_seed(3)
    detector = TrainerOptions(
        classes=CLASSES,
        transform={"image_size": SIZE, "normalization": "backbone"},
        model={"name": "detector", "weights": "none", "coarsest_stride": 32, "channels": 32},
        task={"name": "detection", "head": head},
    )
    with small_backbones():
        model = network.build(detector, PixelStatistics(np.zeros(3, np.float32), np.ones(3, np.float32)))
    images = rng.uniform(0, 255, (2, SIZE, SIZE, 3)).astype(np.float32)
    predicted = model(images).numpy()
    scores, boxes = 1 / (1 + np.exp(-predicted[..., :-4])), predicted[..., -4:] * SIZE
    assert 0.003 < scores.min() < scores.max() < 0.03
    anchors = (GRID.anchors if head == "anchor_free" else ANCHORS).numpy()
    assert iou(boxes, np.broadcast_to(anchors, boxes.shape)).min() > 0.6
    # The file of the model contains its head; loss and metric are those of the head.
    model.save(tmp_path / "model.keras")
    np.testing.assert_allclose(keras_file.load(str(tmp_path / "model.keras"))(images), predicted, atol=1e-5)
    (metric,) = TASK.training_metrics(detector)
    metric.update_state(label(OBJECT, OBJECT).repeat(2, axis=0), predicted)
    assert 0.2 < float(metric.result()) < 1.0
    assert 0.0 < float(TASK.loss(detector)(label(OBJECT).repeat(2, axis=0), predicted)) < 10.0


# === Augmentation ===


@pytest.mark.parametrize(
    "changes",
    [
        {"horizontal_flip": True, "vertical_flip": True},
        {"translation": 0.2},
        {"horizontal_flip": True, "zoom": 0.3, "translation": 0.1},
    ],
)
def test_boxes_move_with_their_pixels(changes):
    objects = np.repeat(label((0.3125, 0.1875, 0.5625, 0.4375, 1, 0)), 32, axis=0)
    images = np.zeros((32, SIZE, SIZE, 3), np.uint8)
    images[:, 20:36, 12:28] = 255
    moved, boxes = augmentation.augment_images_and_boxes(
        tf.constant(images), tf.constant(objects), AugmentationOptions(**changes), tf.constant([3, 4])
    )
    different = set()
    for image, row in zip(moved.numpy()[..., 0], boxes.numpy()[:, 0], strict=True):
        y, x = np.nonzero(image > 127)
        expected = np.array([y.min(), x.min(), y.max() + 1, x.max() + 1]) / SIZE
        np.testing.assert_allclose(row[:4], expected, atol=1.01 / SIZE)
        assert row[4] == 1
        different.add(tuple(np.round(row[:4], 3)))
    assert len(different) >= 4


def test_a_box_that_leaves_the_image_becomes_padding():
    corner = (0.0, 0.0, 0.1, 0.1, 0, 0)
    objects = np.repeat(label(corner, OBJECT), 64, axis=0)
    _, boxes = augmentation.augment_images_and_boxes(
        tf.zeros([64, SIZE, SIZE, 3]), tf.constant(objects), AugmentationOptions(translation=0.3), tf.constant([5, 6])
    )
    boxes = boxes.numpy()
    counts = (boxes[..., 4] >= 0).sum(axis=-1)
    assert set(counts) == {1, 2}  # the larger one always remains
    assert all((row[count:, 4] == box_labels.PADDING).all() for row, count in zip(boxes, counts, strict=True))
    assert boxes[..., :4].min() >= 0 and boxes[..., :4].max() <= 1


def test_a_box_is_kept_while_thirty_percent_of_its_area_are_visible():
    """`boxes.transforms.MIN_VISIBILITY`, as documented; counted in pixels."""
    images = np.zeros((256, SIZE, SIZE, 3), np.uint8)
    images[:, 1:17, 1:17] = 255
    objects = np.repeat(label((1 / SIZE, 1 / SIZE, 17 / SIZE, 17 / SIZE, 1, 0)), len(images), axis=0)
    moved, boxes = augmentation.augment_images_and_boxes(
        tf.constant(images), tf.constant(objects), AugmentationOptions(translation=0.25), tf.constant([7, 8])
    )
    visible = (moved.numpy()[..., 0] > 127).mean(axis=(1, 2)) * SIZE**2 / 16**2
    kept = boxes.numpy()[:, 0, 4] == 1
    np.testing.assert_array_equal(kept, visible >= 0.3)
    assert 0 < (~kept & (visible > 0.1)).sum() and 0 < (kept & (visible < 0.5)).sum()


# === Drawing ===


def detections(*rows):
    padded = np.zeros((max(1, len(rows)) + 2, 7), np.float32)
    padded[:, 4] = box_labels.PADDING
    if rows:
        padded[: len(rows)] = rows
    return padded


BOX, OTHER, SHIFTED = (0.1, 0.1, 0.4, 0.4), (0.5, 0.5, 0.9, 0.9), (0.1, 0.25, 0.4, 0.55)


@pytest.mark.parametrize(
    ("objects", "rows", "f1", "error"),
    [
        ([(*BOX, 0, 0)], [(*BOX, 0, 0, 0.9)], 1.0, ""),
        ([(*BOX, 0, 0)], [(*BOX, 1, 0, 0.9)], 0.0, "1 classification (a as b)"),
        ([(*BOX, 0, 0)], [(*SHIFTED, 0, 0, 0.9)], 0.0, "1 localisation (a)"),
        ([(*BOX, 0, 0)], [(*SHIFTED, 1, 0, 0.9)], 0.0, "1 both (b), 1 missed (a)"),
        ([(*BOX, 0, 0)], [(*BOX, 0, 0, 0.9), (*BOX, 0, 0, 0.8)], 2 / 3, "1 duplicate (a)"),
        ([(*BOX, 0, 0)], [(*BOX, 0, 0, 0.6), (*BOX, 1, 0, 0.7)], 2 / 3, "1 classification (b)"),
        (
            [],
            [(*BOX, 0, 0, 0.9), (*OTHER, 0, 0, 0.9), (*SHIFTED, 1, 0, 0.5)],
            0.0,
            "3 background (mostly a)",
        ),
        ([(*BOX, 0, 0), (*OTHER, 1, 0)], [(*BOX, 0, 0, 0.9)], 2 / 3, "1 missed (b)"),
        ([(*BOX, 0, box_labels.CROWD)], [(*BOX, 0, 0, 0.9), (*BOX, 0, 0, 0.8)], np.nan, ""),
        ([(*BOX, 0, box_labels.DIFFICULT)], [], np.nan, ""),
        ([], [(*OTHER, 0, 0, 0.4)], np.nan, ""),
        ([], [(*OTHER, 0, 0, 0.5)], 0.0, "1 background (a)"),
    ],
)
def test_served_detections_are_compared_with_the_objects(objects, rows, f1, error):
    served = TASK.drawing.comparison.counted(detections(*rows), options(served_threshold=0.5))
    arguments = label(*objects)[0], served
    assert box_drawing.f1(*arguments, None) == pytest.approx(f1, nan_ok=True)
    assert box_drawing.main_error(*arguments, CLASSES, None) == error
    error_type = box_drawing.error_type(*arguments, None)
    assert error_type == ("" if not error else error.split()[1])


def test_the_errors_of_single_boxes_are_those_of_the_evaluation(rng):
    """The same numbers of every type, and the same missed objects."""
    for _ in range(30):
        corners = np.sort(rng.uniform(0, 1, (9, 2, 2)), axis=1).reshape(9, 4)
        ids, kinds = rng.integers(0, 2, 9), rng.choice([0, 0, 0, 1, 2], 9)
        objects = box_matching.Objects(corners[:5], ids[:5], kinds[:5] == 1, kinds[:5] == 2)
        near = np.clip(corners + rng.normal(0, 0.05, (9, 4)), 0, 1)
        predicted = box_matching.Detections(near, rng.permutation(ids), rng.random(9).astype(np.float32))
        expected = box_matching.compare(objects, predicted, 2).errors[:, 1]
        errors = box_matching.box_errors(objects, predicted)
        counted = np.append(errors.types[errors.types >= 0], np.full(errors.missed.sum(), box_matching.MISSED))
        assert sorted(counted) == sorted(expected)


def test_boxes_are_drawn_around_their_pixels():
    image = np.full((200, 300, 1), 90, np.uint8)
    drawn = box_drawing.draw(image, label((0.25, 0.25, 0.75, 0.75, 0, 0))[0], ("",))
    changed = (drawn != 90).any(axis=-1)
    assert not changed[50:150, 75:225].any()  # the object itself
    assert changed[47:50, 72:228].all() and changed[150:153, 72:228].all()
    assert changed[47:153, 72:75].all() and changed[47:153, 225:228].all()
    dashed = box_drawing.draw(image, label((0.25, 0.25, 0.75, 0.75, 0, box_labels.CROWD))[0], ("",))
    assert (drawn[48, 80:220] == palette(1)[0]).all()
    assert 0.3 < (dashed[48, 80:220] == palette(1)[0]).all(axis=-1).mean() < 0.7


def test_a_box_at_the_border_is_drawn_inside_the_image():
    drawn = box_drawing.draw(np.zeros((50, 40, 3), np.uint8), label((0, 0, 1, 1, 0, 0))[0], CLASSES)
    inside = drawn[[1, -2, 25, 25], [20, 20, 1, -2]]
    np.testing.assert_array_equal(inside, [palette(1)[0]] * 4)


@pytest.mark.parametrize("rows", [[0, 1], [1, 0]])
def test_the_best_detection_is_drawn_last(rows):
    """In whatever order they are: where frames cross, the one with the higher score is visible."""
    better, worse = (0.2, 0.2, 0.6, 0.6, 0, 0, 0.9), (0.4, 0.4, 0.9, 0.9, 1, 0, 0.5)
    predicted = detections(*[(better, worse)[index] for index in rows])
    drawn = box_drawing.draw(np.zeros((150, 150, 3), np.uint8), predicted, CLASSES)
    # The lower side of the better one crosses the left side of the worse one.
    np.testing.assert_array_equal(drawn[90:92, 50:62], np.broadcast_to(palette(2)[0], (2, 12, 3)))


def test_small_objects_are_drawn_over_large_ones():
    large, small = (0.1, 0.1, 0.9, 0.9, 0, 0), (0.05, 0.4, 0.3, 0.6, 1, 0)
    for objects in ([large, small], [small, large]):
        drawn = box_drawing.draw(np.zeros((150, 150, 3), np.uint8), label(*objects)[0], CLASSES)
        np.testing.assert_array_equal(drawn[10:40, 58], np.broadcast_to(palette(2)[1], (30, 3)))


@pytest.mark.parametrize(("size", "scale"), [((64, 64), 5), ((320, 200), 1), ((30, 2000), 1), ((100, 50), 4)])
def test_small_images_are_enlarged_by_a_whole_factor_before_boxes_are_drawn(rng, size, scale):
    assert box_drawing.readable_scale(*size) == scale
    image = rng.integers(0, 256, (*size, 3), dtype=np.uint8)
    truth, predicted = TASK.drawing.comparison.panels(image, label((*BOX, 0, 0))[0], detections(), CLASSES, None)
    assert truth.pixels.shape == predicted.pixels.shape == (scale * size[0], scale * size[1], 3)
    np.testing.assert_array_equal(predicted.pixels[::scale, ::scale], image)
    assert (truth.description, predicted.description) == ("1 a", "nothing")


def test_names_have_a_background_and_do_not_cover_each_other():
    image = np.full((400, 400, 3), 128, np.uint8)
    rows = [(0.5, 0.1 + 0.02 * index, 0.8, 0.5 + 0.02 * index, 0, 0, 0.9 - 0.1 * index) for index in range(3)]
    boxes = [box_drawing._box(np.array(row), ("long name",), False) for row in rows]
    frames = [box_drawing._frame(box, (400, 400), 3) for box in boxes]
    taken = []
    for frame in frames:
        place = box_drawing._place(frame, (120, 20), (400, 400), taken)
        assert place is not None and not any(place.overlap(other) for other in taken)
        taken.append(place)
    drawn = box_drawing.draw(image, detections(*rows), ("long name",))
    colored = (drawn == palette(1)[0]).all(axis=-1)
    # Above the frames there is a filled background of at least one name.
    assert colored[150:196].sum() > 1000
    left_out = box_drawing._place(frames[0], (120, 20), (130, 30), [box_drawing._Rectangle(0, 0, 130, 30)])
    assert left_out is None


def test_a_name_stays_inside_the_image():
    for corners in ((0.0, 0.9, 0.1, 1.0), (0.9, 0.0, 1.0, 0.05), (0.0, 0.0, 1.0, 1.0)):
        frame = box_drawing._frame(box_drawing._Box(corners, 0, "", False), (300, 200), 3)
        place = box_drawing._place(frame, (100, 20), (300, 200), [])
        assert place is not None and place.left >= 0 and place.right <= 300 and place.top >= 0 and place.bottom <= 200


def test_a_served_threshold_below_the_returned_scores_is_an_error():
    with pytest.raises(ValueError, match=r"served_threshold = 0\.2 is below score_threshold = 0\.3"):
        options(score_threshold=0.3, served_threshold=0.2)
    for given, expected in (
        ({"score_threshold": 0.3, "served_threshold": 0.3}, 0.3),
        ({"score_threshold": 0.6}, 0.6),
        ({"score_threshold": 0.2}, 0.4),
        ({}, 0.4),
    ):
        stored = options(**given)
        assert stored.task.served_threshold == expected
        assert TrainerOptions.model_validate_json(stored.model_dump_json()) == stored


# === Explanations ===


def two_of_one_class(resize="stretch"):
    """Outputs that detect two objects of class 1 and one of class 0, their positions, and the options."""
    predicted, positions = outputs(), [3, 40, 70]
    for position, class_id, logit, corners in zip(
        positions,
        (1, 1, 0),
        (2.0, 1.0, 0.5),
        ((0.1, 0.1, 0.4, 0.4), (0.5, 0.5, 0.9, 0.8), (0.1, 0.6, 0.4, 0.9)),
        strict=True,
    ):
        predicted[0, position, class_id], predicted[0, position, 2:] = logit, corners
    chosen = options()
    transform = chosen.transform.model_copy(update={"image_size": (SIZE, SIZE), "resize": resize})
    return tf.constant(predicted), positions, chosen.model_copy(update={"transform": transform})


@pytest.mark.parametrize(("resize", "image_size"), [("stretch", (30, 90)), ("pad", (30, 90)), ("crop", (90, 60))])
def test_detections_of_one_class_are_explained_at_their_own_positions(resize, image_size):
    predicted, positions, chosen = two_of_one_class(resize)
    instances = TASK.explanation.predicted_instances(predicted, tf.constant([image_size]), chosen)
    assert instances.indices.tolist() == [0, 0, 0] and instances.ids.tolist() == positions
    assert instances.subject.class_ids.tolist() == [1, 1, 0] and instances.subject.positions.tolist() == positions
    repeated = tf.repeat(predicted, 3, axis=0)
    target = TASK.explanation.target(repeated, instances.subject, (SIZE, SIZE))
    np.testing.assert_allclose(target.logit, [2.0, 1.0, 0.5])
    np.testing.assert_allclose(TASK.explanation.score(repeated, target.subject), 1 / (1 + np.exp([-2.0, -1.0, -0.5])))
    corners = TASK.explanation.boxes(repeated, target.subject).numpy()
    np.testing.assert_allclose(corners, predicted.numpy()[0, positions, 2:])
    for region, (ymin, xmin, ymax, xmax) in zip(target.subject.regions.numpy(), corners * SIZE, strict=True):
        rows, columns = (np.flatnonzero(region.any(axis=axis)) for axis in (1, 0))
        covered = np.array([rows[0], columns[0], rows[-1] + 1, columns[-1] + 1])
        assert np.abs(covered - [ymin, xmin, ymax, xmax]).max() <= 1.0


def test_an_image_without_detections_is_explained_where_the_score_is_largest():
    predicted = outputs()
    predicted[0, 21, 1] = -5.0  # a score of 0.007
    instances = TASK.explanation.predicted_instances(tf.constant(predicted), tf.constant([[SIZE, SIZE]]), options())
    assert instances.indices.tolist() == [0] and instances.subject.class_ids.tolist() == [1]
    assert instances.subject.positions.tolist() == [21]


def test_a_detection_is_compared_with_the_object_of_its_class_that_it_overlaps():
    predicted, _, chosen = two_of_one_class()
    objects = label(
        (0.1, 0.1, 0.4, 0.4, 1, box_labels.OBJECT),  # that of the first detection
        (0.6, 0.6, 1.0, 1.0, 1, box_labels.OBJECT),  # overlaps with the second one, with an IoU of 0.27
        (0.1, 0.6, 0.4, 0.9, 1, box_labels.OBJECT),  # at the third one, but of another class
        (0.5, 0.5, 0.9, 0.8, 1, box_labels.CROWD),  # not one object
    )
    explanation = TASK.explanation
    instances = explanation.predicted_instances(predicted, tf.constant([[SIZE, SIZE]]), chosen)
    repeated, truth = tf.repeat(predicted, 3, axis=0), np.repeat(objects, 3, axis=0)
    subject = explanation.target(repeated, instances.subject, (SIZE, SIZE)).subject
    regions = explanation.true_regions(truth, subject)
    assert [region.any() for region in regions] == [True, True, False]
    assert regions[0, 8:25, 8:25].all() and regions[0].sum() < 23**2
    assert regions[1, 40:, 40:].all() and not regions[1, :36].any()
    outcomes = explanation.outcomes(repeated, subject, truth, chosen)
    assert outcomes.correct.tolist() == [True, False, False] and outcomes.listed_ids.tolist() == [1, 1, 0]
    assert outcomes.exists.all()


def test_every_object_of_the_ground_truth_is_explained_in_its_own_region():
    objects = label(
        (0.1, 0.1, 0.4, 0.4, 1, box_labels.OBJECT),
        (0.5, 0.5, 0.9, 0.8, 1, box_labels.DIFFICULT),
        (0.0, 0.0, 1.0, 1.0, 0, box_labels.CROWD),
    )
    _, _, chosen = two_of_one_class()
    instances = TASK.explanation.true_instances(objects, chosen)
    assert instances.indices.tolist() == [0, 0] and instances.ids.tolist() == [0, 1]
    assert instances.subject.class_ids.tolist() == [1, 1]
    first, second = instances.subject.regions
    assert not (first & second).any() and first[8:25, 8:25].all() and second[33:56, 33:50].all()
    predicted, positions, _ = two_of_one_class()
    target = TASK.explanation.target(tf.repeat(predicted, 2, axis=0), instances.subject, (SIZE, SIZE))
    assert target.subject.positions.numpy().tolist() == positions[:2]
