"""Boxes: overlaps, transforms, encodings, grids, assignment and suppression, on arrays and on tensors."""

import itertools

import numpy as np
import pytest
import tensorflow as tf

from components.serving_validator.graph_operations import COMPUTING
from trainer_module import geometry
from trainer_module import orientation as exif
from trainer_module.boxes import assignment, coding, grids, overlap, suppression, transforms
from trainer_module.model_input import Geometry


def random_boxes(rng, *shape, size=(1.0, 1.0), grid=None):
    """Valid boxes, float32 [*shape, 4]; with `grid`, corners are on multiples of it."""
    corners = rng.random((*shape, 2, 2)) * size
    if grid:
        corners = np.round(corners / grid) * grid
    low, high = np.minimum(corners[..., 0, :], corners[..., 1, :]), np.maximum(corners[..., 0, :], corners[..., 1, :])
    return np.concatenate([low, high], -1).astype(np.float32)


def on_both(function, *arrays, **arguments):
    """Computes on arrays, and checks that tensors give the same."""
    result = function(*arrays, **arguments)
    tensors = function(*tf.nest.map_structure(tf.constant, arrays), **arguments)
    for tensor, array in zip(tf.nest.flatten(tensors), tf.nest.flatten(result), strict=True):
        assert isinstance(array, np.ndarray | np.generic) and tensor.dtype.as_numpy_dtype == array.dtype
        np.testing.assert_allclose(tensor, array, rtol=1e-5, atol=1e-6)
    return result


def mask_of(box, height, width):
    """The pixels of a box, uint8 [height, width, 1]."""
    mask = np.zeros((height, width, 1), np.uint8)
    ymin, xmin, ymax, xmax = map(int, box)
    mask[ymin:ymax, xmin:xmax] = 1
    return mask


def box_of(mask):
    """The smallest box around the pixels that are not 0."""
    rows, columns = np.flatnonzero(mask.any(axis=(1, 2))), np.flatnonzero(mask.any(axis=(0, 2)))
    return [rows[0], columns[0], rows[-1] + 1, columns[-1] + 1]


# === Overlap ===


def test_areas_and_overlaps_are_those_of_pixels(rng):
    boxes, others = random_boxes(rng, 30, size=(12, 9), grid=1), random_boxes(rng, 20, size=(12, 9), grid=1)
    masks, other_masks = (np.stack([mask_of(box, 12, 9) for box in group])[..., 0] > 0 for group in (boxes, others))
    np.testing.assert_array_equal(on_both(overlap.area, boxes), masks.sum(axis=(1, 2)))
    common = (masks[:, None] & other_masks).sum(axis=(2, 3))
    union = (masks[:, None] | other_masks).sum(axis=(2, 3))
    expected = np.divide(common, union, out=np.zeros(common.shape), where=union > 0)
    np.testing.assert_allclose(on_both(overlap.pairwise_iou, boxes, others), expected, atol=1e-6)
    areas = masks.sum(axis=(1, 2))[:, None]
    covered = np.divide(common, areas, out=np.zeros(common.shape), where=areas > 0)
    np.testing.assert_allclose(on_both(overlap.pairwise_coverage, boxes, others), covered, atol=1e-6)


def test_generalized_iou():
    box = np.array([[0, 0, 2, 2]], np.float32)
    others = np.array([[0, 0, 2, 2], [0, 2, 2, 4], [0, 4, 2, 6], [1, 1, 3, 3], [0, 0, 1, 1]], np.float32)
    expected = [[1.0, 0.0, -1 / 3, 1 / 7 - 2 / 9, 0.25]]
    np.testing.assert_allclose(on_both(overlap.pairwise_generalized_iou, box, others), expected, atol=1e-6)
    np.testing.assert_allclose(on_both(overlap.giou_loss, box, others), 1 - np.array(expected[0]), atol=1e-6)


def test_overlaps_have_their_range(rng):
    boxes, others = random_boxes(rng, 3, 40), random_boxes(rng, 3, 50)
    values = on_both(overlap.pairwise_iou, boxes, others)
    generalized = on_both(overlap.pairwise_generalized_iou, boxes, others)
    assert values.shape == generalized.shape == (3, 40, 50)
    assert values.min() == 0.0 and values.max() <= 1.0 and generalized.min() >= -1.0
    assert (generalized <= values + 1e-6).all()


EMPTY_PAIRS = {
    "equal points": ([0.5] * 4, [0.5] * 4),
    "two points": ([0.1] * 4, [0.7] * 4),
    "point and box": ([0.5] * 4, [0.2, 0.2, 0.8, 0.8]),
    "equal lines": ([0.1, 0.5, 0.9, 0.5], [0.1, 0.5, 0.9, 0.5]),
    "line and box": ([0.1, 0.5, 0.9, 0.5], [0.0, 0.0, 1.0, 1.0]),
    "swapped corners": ([0.2, 0.2, 0.8, 0.8], [0.8, 0.8, 0.2, 0.2]),
    "padding": ([0.0] * 4, [0.0] * 4),
    "tiny": ([0.5, 0.5, 0.5 + 1e-7, 0.5 + 1e-7], [0.5, 0.5, 0.5 + 1e-7, 0.5 + 1e-7]),
    "pixels": ([0.0, 0.0, 0.0, 0.0], [1e5, 1e5, 2e5, 2e5]),
}


@pytest.mark.parametrize("pair", EMPTY_PAIRS.values(), ids=EMPTY_PAIRS)
@pytest.mark.parametrize("swap", [False, True])
def test_the_loss_of_empty_boxes_and_its_gradient_are_finite(pair, swap):
    boxes, predicted = (tf.constant([box]) for box in (reversed(pair) if swap else pair))
    with tf.GradientTape() as tape:
        tape.watch([boxes, predicted])
        loss = overlap.giou_loss(boxes, predicted)
    assert 0.0 <= float(loss[0]) <= 2.0
    for gradient in tape.gradient(loss, [boxes, predicted]):
        assert np.isfinite(gradient).all()


def test_the_gradient_of_the_loss_leads_to_the_target():
    target = tf.constant([0.4, 0.3, 0.8, 0.9])
    # Apart, with swapped corners, inside, around, and across.
    start = [[0, 0, 0.1, 0.1], [0.9, 0.95, 0.8, 0.7], [0.5, 0.5, 0.51, 0.51], [0, 0, 1, 1], [0.3, 0.5, 0.6, 1]]
    boxes = tf.constant(start, tf.float32)
    before = np.full(5, 3.0)
    for _ in range(20):
        with tf.GradientTape() as tape:
            tape.watch(boxes)
            loss = overlap.giou_loss(target, boxes)
        assert (loss.numpy() < before).all()
        before = loss.numpy()
        boxes -= 0.002 * tf.math.l2_normalize(tape.gradient(loss, boxes), axis=-1)


# === Transforms ===


@pytest.mark.parametrize("tag", range(1, 9))
def test_boxes_follow_the_pixels_of_every_orientation(tag, rng):
    boxes = np.array([[1, 2, 4, 9], [0, 0, 7, 1], [3, 5, 4, 6]], np.float32)
    expected = [box_of(exif.upright(tf.constant(mask_of(box, 7, 11)), tf.constant(tag)).numpy()) for box in boxes]
    moved = on_both(lambda given: transforms.orient(given, tag, (7, 11)), boxes)
    np.testing.assert_array_equal(moved, expected)
    size, new_size = np.array([7, 11] * 2), np.array([7, 11] * 2 if tag < 5 else [11, 7] * 2)
    normalized = on_both(lambda given: transforms.orient(given, tag), (boxes / size).astype(np.float32))
    np.testing.assert_allclose(normalized * new_size, expected, atol=1e-5)


def test_images_of_a_batch_may_have_different_orientations_and_sizes(rng):
    boxes = random_boxes(rng, 8, 5, size=(20, 30))
    tags, sizes = np.arange(1, 9), rng.integers(20, 50, (8, 2))
    moved = on_both(transforms.orient, boxes, tags, sizes)
    for index in range(8):
        expected = transforms.orient(boxes[index], int(tags[index]), sizes[index])
        np.testing.assert_allclose(moved[index], expected)


@pytest.mark.parametrize("turns", [-1, 0, 1, 2, 3, 5])
def test_boxes_follow_rotated_and_flipped_pixels(turns):
    box = np.array([[1, 2, 4, 9]], np.float32)
    mask = mask_of(box[0], 7, 11)
    rotated = on_both(lambda given: transforms.rotate(given, turns, (7, 11)), box)
    np.testing.assert_array_equal(rotated[0], box_of(tf.image.rot90(mask, turns % 4).numpy()))
    mirrored = on_both(lambda given: transforms.flip_horizontally(given, 11), box)
    np.testing.assert_array_equal(mirrored[0], box_of(mask[:, ::-1]))
    upside_down = on_both(lambda given: transforms.flip_vertically(given, 7), box)
    np.testing.assert_array_equal(upside_down[0], box_of(mask[::-1]))


def test_scale_and_shift():
    boxes = np.array([[0.25, 0.5, 0.5, 1.0]], np.float32)
    np.testing.assert_array_equal(on_both(lambda b: transforms.scale(b, (40, 20)), boxes), [[10, 10, 20, 20]])
    np.testing.assert_array_equal(on_both(lambda b: transforms.shift(b, (1.0, -0.5)), boxes), [[1.25, 0, 1.5, 0.5]])


def test_crop_clips_boxes_and_drops_those_of_which_too_little_remains():
    boxes = np.array(
        [[0, 0, 10, 10], [5, 5, 15, 15], [8, 8, 12, 12], [9, 9, 19, 19], [2, 2, 2, 8], [20, 20, 30, 30], [0] * 4],
        np.float32,
    )
    window = (5, 5, 11, 10)
    moved, visible = on_both(lambda given: transforms.crop(given, window, 0.29), boxes)
    np.testing.assert_array_equal(moved[:4], [[0, 0, 5, 5], [0, 0, 6, 5], [3, 3, 6, 5], [4, 4, 6, 5]])
    # 25 %, 30 %, 37.5 % and 2 % remain; then an empty box, one outside, and padding.
    assert visible.tolist() == [False, True, True, False, False, False, False]
    assert transforms.crop(boxes, window, 0.0).visible.tolist() == [True] * 4 + [False] * 3
    assert (moved >= 0).all() and (moved <= [6, 5, 6, 5]).all()
    np.testing.assert_allclose(on_both(transforms.visibility, boxes[:3], moved[:3]), [0.25, 0.3, 0.375])


def test_windows_of_a_batch_may_differ_and_extend_beyond_the_image(rng):
    boxes = random_boxes(rng, 3, 6)
    windows = np.array([[0, 0, 1, 1], [-0.5, -0.5, 1.5, 1.5], [0.2, 0.4, 0.6, 0.5]], np.float32)
    moved = on_both(transforms.crop, boxes, windows)
    np.testing.assert_allclose(moved.boxes[0], boxes[0])
    np.testing.assert_allclose(moved.boxes[1], boxes[1] + 0.5, rtol=1e-6)
    for index in range(3):
        np.testing.assert_array_equal(transforms.crop(boxes[index], windows[index]).visible, moved.visible[index])


def test_clipping_to_the_image():
    boxes = np.array([[-0.5, 0.2, 0.5, 1.4], [1.5, 0.1, 1.8, 0.2]], np.float32)
    clipped, visible = on_both(transforms.clip_visible, boxes)
    np.testing.assert_allclose(clipped, [[0, 0.2, 0.5, 1.0], [1.0, 0.1, 1.0, 0.2]])
    assert visible.tolist() == [True, False]
    np.testing.assert_array_equal(on_both(lambda b: transforms.clip(b, (40, 30)), boxes * 100)[0], [0, 20, 40, 30])


@pytest.mark.parametrize(
    "transform",
    [
        [1, 0, -3, 0, 1, 2],
        [-1, 0, 39, 0, 1, 0],
        [0.5, 0, 8, 0, 0.5, 5],
        [0, 1, 2, -1, 0, 33],
        [0.8, 0.3, 0, -0.3, 0.8, 10],
    ],
    ids=["shift", "mirrored", "zoom", "quarter turn", "rotation"],
)
def test_boxes_follow_projected_pixels(transform):
    box = np.array([[10, 14, 20, 22]], np.float32)
    coefficients = np.array([*transform, 0, 0], np.float32)
    pixels = tf.raw_ops.ImageProjectiveTransformV3(
        images=mask_of(box[0], 40, 40)[np.newaxis].astype(np.float32),
        transforms=coefficients[np.newaxis],
        output_shape=[40, 40],
        fill_value=0.0,
        interpolation="NEAREST",
        fill_mode="CONSTANT",
    ).numpy()[0]
    moved = on_both(transforms.project, box, coefficients)
    assert np.abs(moved[0] - box_of(pixels)).max() <= 1.0
    batch = transforms.project(np.stack([box, box + 1]), np.stack([coefficients] * 2))
    np.testing.assert_allclose(batch[0], moved)


# === Encodings ===


def test_distances_are_inverted(rng):
    boxes, points = random_boxes(rng, 2, 50, size=(90, 90)), rng.random((50, 2)).astype(np.float32) * 90
    strides = rng.choice([8.0, 16.0], 50).astype(np.float32)
    distances = coding.encode_distances(boxes, points, strides)
    np.testing.assert_allclose(coding.decode_distances(distances, points, strides), boxes, atol=1e-3)
    y, x = points[0]
    ymin, xmin, ymax, xmax = boxes[1, 0]
    np.testing.assert_allclose(distances[1, 0] * strides[0], [x - xmin, y - ymin, xmax - x, ymax - y], rtol=1e-5)


def test_centerness():
    distances = tf.constant([[2.0, 3, 2, 3], [1, 1, 4, 1], [0, 1, 1, 1], [-1, 1, 1, 1], [0, 0, 0, 0]])
    np.testing.assert_allclose(coding.centerness(distances), [1, 0.5, 0, 0, 0])


@pytest.mark.parametrize("weights", [(1.0, 1.0, 1.0, 1.0), (10.0, 10.0, 5.0, 5.0)])
def test_deltas_are_inverted(rng, weights):
    boxes = random_boxes(rng, 3, 40, size=(200, 300)) + np.array([0, 0, 5, 5], np.float32)
    anchors = grids.anchors((64, 64), (32,), (2.0, 4.0), (0.5, 1.0, 2.0, 3.0, 4.0))[:40]
    deltas = coding.encode_deltas(boxes, anchors, weights)
    np.testing.assert_allclose(coding.decode_deltas(deltas, anchors, weights), boxes, rtol=1e-4, atol=1e-2)
    np.testing.assert_allclose(coding.encode_deltas(anchors, anchors, weights), np.zeros((40, 4)), atol=1e-6)


def test_deltas_of_empty_boxes_and_bad_predictions_are_finite():
    anchor = tf.constant([0.0, 0.0, 8.0, 8.0])
    assert np.isfinite(coding.encode_deltas(tf.zeros([4]), anchor)).all()
    decoded = coding.decode_deltas(tf.constant([0.0, 0.0, 1e4, 1e4]), anchor).numpy()
    np.testing.assert_allclose(decoded[2:] - decoded[:2], 8 * 62.5, rtol=1e-5)


# === Grids ===


def test_locations_are_the_centres_of_the_cells():
    assert grids.level_sizes((100, 75), (8, 16, 32)) == [(13, 10), (7, 5), (4, 3)]
    points = grids.locations((100, 75), (8, 16, 32))
    assert points.shape == (130 + 35 + 12, 2) and points.dtype == np.float32
    assert grids.num_locations((100, 75), (8, 16, 32)) == [130, 35, 12]
    np.testing.assert_array_equal(points[[0, 1, 10, 130, 165]], [[4, 4], [4, 12], [12, 4], [8, 8], [16, 16]])
    np.testing.assert_array_equal(np.unique(grids.location_strides((100, 75), (8, 16, 32))), [8, 16, 32])


@pytest.mark.parametrize("image_size", [(32, 32), (33, 65), (1, 1), (320, 320)])
def test_grids_have_the_sizes_of_feature_maps(image_size):
    """Convolutions with stride 2 and "same" padding halve sizes and round up."""
    sizes, size = [], image_size
    for _ in range(5):
        size = tuple((side + 1) // 2 for side in size)
        sizes.append(size)
    assert grids.level_sizes(image_size, (2, 4, 8, 16, 32)) == sizes


def test_anchors_have_the_areas_and_aspect_ratios_in_order():
    anchors = grids.anchors((16, 24), (8,), scales=(4.0, 8.0), aspect_ratios=(0.5, 2.0))
    assert anchors.shape == (6 * 4, 4) and anchors.dtype == np.float32
    height, width = anchors[:, 2] - anchors[:, 0], anchors[:, 3] - anchors[:, 1]
    np.testing.assert_allclose((width / height)[:4], [0.5, 2.0, 0.5, 2.0], rtol=1e-5)
    np.testing.assert_allclose(np.sqrt(width * height)[:4], [32, 32, 64, 64], rtol=1e-5)
    centers = (anchors[:, :2] + anchors[:, 2:]) / 2
    np.testing.assert_allclose(centers[::4], grids.locations((16, 24), (8,)), atol=1e-5)
    np.testing.assert_array_equal(grids.square_anchors((16, 24), (8,))[0], [-28, -28, 36, 36])


@pytest.mark.parametrize(("image_size", "strides"), [((0, 8), (8,)), ((8, 8), ()), ((8, 8), (0,))])
def test_sizes_and_strides_must_be_positive(image_size, strides):
    with pytest.raises(ValueError, match="must be positive"):
        grids.locations(image_size, strides)


# === Assignment ===

STRIDES = (8, 16, 32)
ANCHORS = grids.square_anchors((96, 128), STRIDES)
NUM_ANCHORS = grids.num_locations((96, 128), STRIDES)


def assign_by_definition(boxes, anchors, num_anchors, k):
    """Algorithm 1 of the paper, box by box."""
    owners, best = np.full(len(anchors), -1), np.zeros(len(anchors))
    centers = (anchors[:, :2] + anchors[:, 2:]) / 2
    for index, box in enumerate(boxes):
        distances = ((centers - (box[:2] + box[2:]) / 2) ** 2).sum(axis=1)
        candidates, first = [], 0
        for number in num_anchors:
            candidates += list(first + np.argsort(distances[first : first + number], kind="stable")[:k])
            first += number
        values = overlap.iou(box, anchors[candidates])
        threshold = values.mean() + values.std(ddof=1)
        for candidate, value in zip(candidates, values, strict=True):
            inside = (centers[candidate] > box[:2]).all() and (centers[candidate] < box[2:]).all()
            if value >= threshold and inside and value > best[candidate]:
                owners[candidate], best[candidate] = index, value
    return owners, best


def test_assignment_equals_its_definition(rng):
    # Corners off the grid, so that no two distances are equal.
    boxes = random_boxes(rng, 6, 9, size=(96, 128))
    valid = rng.random((6, 9)) < 0.8
    result = assignment.assign(tf.constant(boxes), tf.constant(valid), ANCHORS, NUM_ANCHORS)
    num_positive = 0
    for index in range(6):
        owners, best = assign_by_definition(boxes[index][valid[index]], ANCHORS, NUM_ANCHORS, 9)
        positions = np.flatnonzero(valid[index])
        np.testing.assert_array_equal(result.indices[index], np.where(owners < 0, -1, positions[owners]))
        np.testing.assert_allclose(result.overlaps[index], best, atol=1e-6)
        num_positive += (owners >= 0).sum()
    assert num_positive > 60


def test_assignment_of_one_image_in_tf_data_equals_that_of_a_batch(rng):
    boxes, valid = random_boxes(rng, 4, 5, size=(96, 128)), np.ones((4, 5), bool)
    expected = assignment.assign(tf.constant(boxes), tf.constant(valid), ANCHORS, NUM_ANCHORS)
    data = tf.data.Dataset.from_tensor_slices((boxes, valid)).map(
        lambda box, flag: assignment.assign(box, flag, ANCHORS, NUM_ANCHORS)
    )
    for index, one in enumerate(data.as_numpy_iterator()):
        np.testing.assert_array_equal(one.indices, expected.indices[index])
        np.testing.assert_allclose(one.overlaps, expected.overlaps[index])


def test_padding_empty_boxes_and_images_without_boxes_are_background():
    boxes = tf.constant([[[0.0] * 4, [20.0, 20, 20, 60], [30, 30, 10, 10]]])
    result = assignment.assign(boxes, tf.constant([[False, True, True]]), ANCHORS, NUM_ANCHORS)
    assert (result.indices.numpy() == assignment.BACKGROUND).all() and not result.overlaps.numpy().any()
    none = assignment.assign(tf.zeros([2, 0, 4]), tf.zeros([2, 0], tf.bool), ANCHORS, NUM_ANCHORS)
    assert (none.indices.numpy() == assignment.BACKGROUND).all() and none.indices.shape == (2, len(ANCHORS))


def test_anchors_in_ignored_regions_are_neither_positive_nor_background():
    boxes = tf.constant([[10.0, 10, 50, 50], [0.0, 0, 96, 64]])
    valid, ignored = tf.constant([True, False]), tf.constant([False, True])
    indices = assignment.assign(boxes, valid, ANCHORS, NUM_ANCHORS, ignored=ignored).indices.numpy()
    alone = assignment.assign(boxes, valid, ANCHORS, NUM_ANCHORS).indices.numpy()
    in_region = ((ANCHORS[:, 1] + ANCHORS[:, 3]) / 2 < 64) & (alone != 0)
    np.testing.assert_array_equal(indices == 0, alone == 0)
    np.testing.assert_array_equal(indices == assignment.IGNORED, in_region)
    assert (indices == 0).any() and in_region.any()


def test_of_two_equal_boxes_the_first_is_assigned():
    boxes = tf.constant([[20.0, 20, 60, 60]] * 2)
    indices = assignment.assign(boxes, tf.constant([True, True]), ANCHORS, NUM_ANCHORS).indices.numpy()
    assert set(indices) == {-1, 0}


def test_numbers_of_anchors_must_add_up():
    with pytest.raises(ValueError, match="not the sum of the levels"):
        assignment.assign(tf.zeros([1, 4]), tf.ones([1], tf.bool), ANCHORS, NUM_ANCHORS[:2])


NINE_ANCHORS = grids.anchors((96, 128), STRIDES)


def assign_by_iou_by_definition(boxes, anchors):
    """Anchor by anchor, then box by box."""
    indices = np.full(len(anchors), assignment.BACKGROUND)
    overlaps = np.asarray(overlap.pairwise_iou(boxes, anchors))
    for index, own in enumerate(overlaps.T):
        if own.max() >= 0.4:
            indices[index] = own.argmax() if own.max() >= 0.5 else assignment.IGNORED
    forced = np.zeros(len(anchors))
    for box, own in enumerate(overlaps):
        for index in np.flatnonzero(own == own.max()):
            if own[index] > forced[index]:
                indices[index], forced[index] = box, own[index]
    return indices


def test_assignment_by_iou_equals_its_definition(rng):
    boxes = random_boxes(rng, 4, 9, size=(96, 128))
    valid = rng.random((4, 9)) < 0.8
    result = assignment.assign_by_iou(tf.constant(boxes), tf.constant(valid), NINE_ANCHORS).numpy()
    kinds = set()
    for index in range(4):
        indices = assign_by_iou_by_definition(boxes[index][valid[index]], NINE_ANCHORS)
        np.testing.assert_array_equal(
            result[index], np.where(indices < 0, indices, np.flatnonzero(valid[index])[indices])
        )
        kinds |= {*indices}
    assert {assignment.BACKGROUND, assignment.IGNORED, 0} < kinds


def test_every_box_has_an_anchor_however_small_or_thin(rng):
    boxes = np.array([[[1, 1, 2, 2], [40, 3, 41, 120], [0, 0, 96, 128], [90, 120, 95, 121]]], np.float32)
    indices = assignment.assign_by_iou(tf.constant(boxes), tf.ones([1, 4], tf.bool), NINE_ANCHORS).numpy()
    assert {0, 1, 2, 3} <= {*indices[0]}


def test_assignment_by_iou_of_one_image_in_tf_data_equals_that_of_a_batch(rng):
    boxes, valid = random_boxes(rng, 4, 5, size=(96, 128)), np.ones((4, 5), bool)
    expected = assignment.assign_by_iou(tf.constant(boxes), tf.constant(valid), NINE_ANCHORS).numpy()
    data = tf.data.Dataset.from_tensor_slices((boxes, valid)).map(
        lambda box, flag: assignment.assign_by_iou(box, flag, NINE_ANCHORS)
    )
    np.testing.assert_array_equal(list(data.as_numpy_iterator()), expected)


def test_by_iou_padding_empty_boxes_and_images_without_boxes_are_background():
    boxes = tf.constant([[[0.0] * 4, [20.0, 20, 20, 60], [30, 30, 10, 10]]])
    indices = assignment.assign_by_iou(boxes, tf.constant([[False, True, True]]), NINE_ANCHORS).numpy()
    assert (indices == assignment.BACKGROUND).all()
    none = assignment.assign_by_iou(tf.zeros([2, 0, 4]), tf.zeros([2, 0], tf.bool), NINE_ANCHORS).numpy()
    assert (none == assignment.BACKGROUND).all() and none.shape == (2, len(NINE_ANCHORS))


def test_by_iou_anchors_in_ignored_regions_are_neither_positive_nor_background():
    boxes = tf.constant([[10.0, 10, 50, 50], [0.0, 0, 96, 64]])
    valid, ignored = tf.constant([True, False]), tf.constant([False, True])
    indices = assignment.assign_by_iou(boxes, valid, NINE_ANCHORS, ignored=ignored).numpy()
    alone = assignment.assign_by_iou(boxes, valid, NINE_ANCHORS).numpy()
    centers = (NINE_ANCHORS[:, :2] + NINE_ANCHORS[:, 2:]) / 2
    in_region = (centers > 0).all(axis=1) & (centers[:, 0] < 96) & (centers[:, 1] < 64) & (alone != 0)
    np.testing.assert_array_equal(indices == 0, alone == 0)
    np.testing.assert_array_equal(indices == assignment.IGNORED, in_region | (alone == assignment.IGNORED))
    assert (indices == 0).any() and in_region.any()


def test_by_iou_the_first_of_two_equal_boxes_is_assigned():
    boxes = tf.constant([[20.0, 20, 60, 60]] * 2)
    indices = assignment.assign_by_iou(boxes, tf.constant([True, True]), NINE_ANCHORS).numpy()
    assert {*indices} == {assignment.IGNORED, assignment.BACKGROUND, 0}


# === Suppression ===


def suppress_by_definition(boxes, scores, score_threshold, iou_threshold, max_detections):
    """Greedy suppression, class by class."""
    overlaps, kept = overlap.pairwise_iou(boxes, boxes), []
    for class_id in range(scores.shape[1]):
        chosen: list[int] = []
        for index in np.argsort(-scores[:, class_id], kind="stable"):
            if scores[index, class_id] > score_threshold and (overlaps[index, chosen] <= iou_threshold).all():
                chosen.append(index)
        kept += [(scores[index, class_id], class_id, index) for index in chosen]
    return sorted(kept, reverse=True)[:max_detections]


@pytest.mark.parametrize("max_detections", [7, 100])
def test_suppression_equals_its_definition(rng, max_detections):
    boxes, scores = random_boxes(rng, 3, 50), rng.random((3, 50, 4)).astype(np.float32)
    result = suppression.suppress(boxes, scores, 0.3, 0.4, max_detections)
    assert result.boxes.shape == (3, max_detections, 4)
    for index in range(3):
        expected = suppress_by_definition(boxes[index], scores[index], 0.3, 0.4, max_detections)
        number = int(result.num[index])
        assert number == len(expected)
        np.testing.assert_allclose(result.scores[index, :number], [score for score, _, _ in expected])
        np.testing.assert_array_equal(result.class_ids[index, :number], [class_id for _, class_id, _ in expected])
        np.testing.assert_array_equal(result.boxes[index, :number], [boxes[index, row] for _, _, row in expected])
        assert not result.scores[index, number:].numpy().any() and not result.boxes[index, number:].numpy().any()


def test_candidates_are_the_best_boxes(rng):
    boxes, scores = tf.constant(random_boxes(rng, 2, 300)), rng.random((2, 300, 3)).astype(np.float32)
    best = np.sort(np.argsort(-scores.max(axis=2), axis=1)[:, :20], axis=1)
    limited = suppression.suppress(boxes, scores, 0.1, 0.5, 30, max_candidates=20)
    chosen = tf.gather(boxes, best, batch_dims=1), np.take_along_axis(scores, best[..., np.newaxis], axis=1)
    for values, expected in zip(limited, suppression.suppress(*chosen, 0.1, 0.5, 30), strict=True):
        np.testing.assert_array_equal(values, expected)


@pytest.mark.parametrize("max_candidates", [None, 2])
def test_thresholds_exclude_their_own_value_and_scores_may_be_no_numbers(max_candidates):
    boxes = tf.constant([[[0, 0, 100, 100], [0, 0, 50, 100], [0, 0, 100, 49], [-20, 0, 300, 400.0]]])
    scores = tf.constant([[[0.9], [0.8], [np.nan], [0.5]]])
    result = suppression.suppress(boxes, scores, 0.5, 0.5, 10, max_candidates)
    # IoU 0.5 is not above the threshold, and the score 0.5 neither; boxes are not clipped.
    np.testing.assert_allclose(result.scores[0, :2], [0.9, 0.8])
    assert int(result.num[0]) == 2
    kept = suppression.suppress(boxes, scores, 0.4, 0.4, 10, max_candidates and 3)
    np.testing.assert_allclose(kept.boxes[0, :2], [[0, 0, 100, 100], [-20, 0, 300, 400]])
    assert int(kept.num[0]) == 2


@pytest.mark.parametrize("shape", [(0, 5), (2, 0)])
def test_suppression_of_nothing(shape):
    result = suppression.suppress(tf.zeros([*shape, 4]), tf.zeros([*shape, 3]), max_detections=6)
    assert result.boxes.shape == (shape[0], 6, 4) and not result.num.numpy().any()


def test_box_functions_use_only_operations_that_may_be_served():
    @tf.function(
        input_signature=[
            tf.TensorSpec([None, 252, 4]),
            tf.TensorSpec([None, 252, 3]),
            tf.TensorSpec([None, 2], tf.int32),
            tf.TensorSpec([]),
        ]
    )
    def detect(distances, scores, image_sizes, score_threshold):
        boxes = coding.decode_distances(distances, grids.locations((96, 128), STRIDES), 8.0)
        detected = suppression.suppress(boxes, scores, score_threshold, max_candidates=100).boxes
        normalised = transforms.scale(detected, [1 / 96, 1 / 128])
        return transforms.clip(geometry.boxes_in_image(normalised, image_sizes, Geometry((96, 128), "pad")))

    graph = detect.get_concrete_function().graph.as_graph_def()
    nodes = itertools.chain(graph.node, *(function.node_def for function in graph.library.function))
    assert {node.op for node in nodes} <= COMPUTING
    boxes = detect(tf.ones([2, 252, 4]), tf.ones([2, 252, 3]), tf.constant([[48, 64], [30, 90]]), 0.1)
    assert boxes.shape == (2, 100, 4) and 0.0 <= boxes.numpy().min() and boxes.numpy().max() <= 1.0
