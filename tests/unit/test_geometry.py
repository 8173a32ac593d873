"""How images become model inputs, and how labels and predictions follow: every mode, many sizes."""

import numpy as np
import pytest
import tensorflow as tf

from trainer_module import box_labels, geometry
from trainer_module.model_input import Geometry

MODES = ("stretch", "crop", "pad")
# Height and width of images, and of the model input; odd sides, and both larger and smaller than it.
SHAPES = [
    ((30, 50), (32, 32)),
    ((50, 31), (32, 32)),
    ((480, 640), (96, 64)),
    ((7, 7), (64, 96)),
    ((1, 90), (32, 32)),
    ((45, 33), (45, 33)),
    ((99, 201), (40, 80)),
]


def placement_of(image_size, chosen):
    """NumPy and TensorFlow compute the same."""
    placement = geometry.place(np.array(image_size), chosen)
    np.testing.assert_allclose(placement, geometry.place(tf.constant(image_size), chosen), rtol=1e-6)
    return placement


@pytest.mark.parametrize("resize", MODES)
@pytest.mark.parametrize(("image_size", "target"), SHAPES)
def test_images_cover_the_input_or_fit_in_it(image_size, target, resize):
    placement = placement_of(image_size, Geometry(target, resize))
    height, width = geometry.placed_size(placement, np.array(image_size))
    assert {"stretch": (height, width) == target, "crop": height >= target[0] and width >= target[1]}.get(
        resize, height <= target[0] and width <= target[1]
    )
    # One side fits, and what is left over lies on both sides of the centre.
    assert height == target[0] or width == target[1]
    top, left = placement.offset
    assert abs(2 * top + height - target[0]) <= 1 and abs(2 * left + width - target[1]) <= 1
    if resize != "stretch" and min(image_size) > 1:
        # The aspect ratio changes by the rounding to whole pixels at most.
        exact = (min if resize == "pad" else max)(target[0] / image_size[0], target[1] / image_size[1])
        np.testing.assert_allclose([height, width], np.array(image_size) * exact, atol=0.51)


@pytest.mark.parametrize("resize", MODES)
@pytest.mark.parametrize(("image_size", "target"), SHAPES)
def test_boxes_return_to_their_images(image_size, target, resize, rng):
    chosen = Geometry(target, resize)
    corners = np.sort(rng.uniform(size=(2, 20, 2, 2)), axis=2).astype(np.float32)
    boxes = corners.reshape(2, 20, 4)
    sizes = np.array([image_size, image_size[::-1]])
    moved = geometry.boxes_in_input(boxes, sizes, chosen)
    np.testing.assert_allclose(
        geometry.boxes_in_input(tf.constant(boxes), tf.constant(sizes), chosen), moved, atol=1e-4
    )
    np.testing.assert_allclose(geometry.boxes_in_image(moved, sizes, chosen), boxes, atol=1e-5)


def disc(height, width, y, x, radius):
    """White inside a circle, black outside: uint8 [height, width, 1]."""
    rows, columns = np.mgrid[:height, :width] + 0.5
    return (255 * ((rows - y) ** 2 + (columns - x) ** 2 <= radius**2)).astype(np.uint8)[..., np.newaxis]


@pytest.mark.parametrize("resize", MODES)
@pytest.mark.parametrize("target", [(48, 48), (36, 60), (60, 36)])
@pytest.mark.parametrize("image_size", [(80, 120), (120, 80), (33, 47)])
def test_pixels_masks_and_boxes_move_together(image_size, target, resize):
    chosen = Geometry(target, resize)
    y, x, radius = image_size[0] * 0.45, image_size[1] * 0.55, min(image_size) * 0.2
    image = disc(*image_size, y, x, radius)
    pixels = geometry.resize_pixels(tf.constant(image), chosen).numpy()[..., 0]
    mask = geometry.resize_mask(tf.constant(image[..., 0] // 255), chosen, padding_id=9).numpy()
    box = np.array([[y - radius, x - radius, y + radius, x + radius]], np.float32) / np.array([*image_size] * 2)
    placed = geometry.boxes_in_input(box.astype(np.float32), np.array(image_size), chosen)[0] * np.array([*target] * 2)
    rows, columns = np.nonzero(mask == 1)
    around = [rows.min(), columns.min(), rows.max() + 1, columns.max() + 1]
    np.testing.assert_allclose(around, placed, atol=1.1)
    inside = mask != 9
    # Image and mask agree where the interpolated edge is not between them.
    sure = inside & ((pixels < 60) | (pixels > 195))
    assert sure.mean() > 0.5 * inside.mean() and ((pixels > 128) == (mask == 1))[sure].all()


def test_padding_is_grey_and_belongs_to_no_class():
    chosen = Geometry((8, 8), "pad")
    image, mask = np.full((4, 8, 3), 255, np.uint8), np.full((4, 8), 3, np.uint8)
    pixels = geometry.resize_pixels(tf.constant(image), chosen).numpy()
    ids = geometry.resize_mask(tf.constant(mask), chosen, padding_id=255).numpy()
    assert (pixels[2:6] == 255).all() and (pixels[[0, 1, 6, 7]] == 128).all()
    assert (ids[2:6] == 3).all() and (ids[[0, 1, 6, 7]] == 255).all()


@pytest.mark.parametrize(("image_size", "target"), SHAPES)
def test_stretching_is_tensorflows_resizing(image_size, target, rng):
    image = rng.integers(0, 256, (*image_size, 3), dtype=np.uint8)
    expected = tf.image.resize(image, target, method="bilinear", antialias=True)
    resized = geometry.resize_pixels(tf.constant(image), Geometry(target))
    np.testing.assert_array_equal(resized, tf.cast(tf.clip_by_value(tf.round(expected), 0.0, 255.0), tf.uint8))
    mask = rng.integers(0, 9, image_size, dtype=np.uint8)
    nearest = tf.image.resize(mask[..., np.newaxis], target, method="nearest")[..., 0]
    np.testing.assert_array_equal(geometry.resize_mask(tf.constant(mask), Geometry(target), 9), nearest)


@pytest.mark.parametrize("resize", MODES)
@pytest.mark.parametrize("image_size", [(80, 120), (150, 70), (32, 32), (20, 300)])
@pytest.mark.parametrize("target", [(32, 32), (24, 48)])
def test_masks_return_to_their_images(image_size, target, resize):
    chosen = Geometry(target, resize)
    # Three stripes: resizing moves their borders by at most a pixel of the model input.
    stripes = np.repeat([0, 1, 2], [image_size[0] // 3, image_size[0] // 3, image_size[0] - 2 * (image_size[0] // 3)])
    mask = np.tile(stripes[:, np.newaxis], [1, image_size[1]]).astype(np.uint8)
    ids = geometry.resize_mask(tf.constant(mask), chosen, padding_id=0)
    restored = geometry.restore_mask(tf.one_hot(ids, 3), tf.constant(image_size), chosen).numpy()
    assert restored.shape == image_size and restored.dtype == np.uint8
    placement = geometry.place(np.array(image_size), chosen)
    rows = (np.arange(image_size[0]) + 0.5) * placement.scale[0] + placement.offset[0]
    seen = (rows >= 0) & (rows <= target[0])
    # Half a pixel of the model input on both sides of two borders.
    wrong = (restored != mask)[seen].mean()
    assert wrong <= 3.0 / (placement.scale[0] * image_size[0])


def test_logits_of_equal_size_are_not_interpolated(rng):
    logits = rng.normal(size=(70, 40, 5)).astype(np.float32)
    for resize in MODES:
        restored = geometry.restore_mask(tf.constant(logits), tf.constant([70, 40]), Geometry((70, 40), resize))
        np.testing.assert_array_equal(restored, logits.argmax(axis=-1))


def test_cropped_pixels_have_the_nearest_class_and_no_heat():
    chosen = Geometry((4, 4), "crop")
    ids = np.array([[1, 0, 0, 2]] * 4)
    mask = geometry.restore_mask(tf.one_hot(ids, 3), tf.constant([4, 10]), chosen).numpy()
    np.testing.assert_array_equal(mask, [[1, 1, 1, 1, 0, 0, 2, 2, 2, 2]] * 4)
    heat = geometry.restore_heatmaps(tf.ones([1, 4, 4]), tf.constant([[4, 20]]), chosen).numpy()[0]
    # The crop is the fifth in the middle of 20 columns, of which the four samples at 2.5, 7.5, 12.5, 17.5 see none.
    np.testing.assert_array_equal(heat, np.zeros((4, 4)))
    wide = geometry.restore_heatmaps(tf.ones([1, 4, 4]), tf.constant([[4, 8]]), chosen).numpy()[0]
    np.testing.assert_array_equal(wide, [[0, 1, 1, 0]] * 4)


def test_heat_of_padding_disappears():
    chosen = Geometry((8, 8), "pad")
    heat = np.zeros((8, 8), np.float32)
    heat[:2], heat[3, 5] = 1.0, 0.5
    restored = geometry.restore_heatmaps(tf.constant(heat[np.newaxis]), tf.constant([[40, 80]]), chosen).numpy()[0]
    # The image covers rows 2 to 5; heat of row 3 is in rows 2 and 3 of eight.
    rows, columns = np.unravel_index(restored.argmax(), restored.shape)
    assert rows in (2, 3) and columns == 5
    assert restored[:2].max() < 0.3  # row 2 of the input, between the heat and none


def test_a_side_is_a_square():
    assert Geometry.of(64) == Geometry((64, 64)) and Geometry.of([32, 48], "pad") == Geometry((32, 48), "pad")


def test_objects_outside_a_crop_become_padding():
    columns = [
        [0.0, 0.0, 1.0, 0.2, 0, 0],  # outside the middle half
        [0.2, 0.3, 0.6, 0.5, 1, 0],
        [0.0, 0.1, 1.0, 0.3, 2, 0],  # a quarter remains
        [0.0, 0.7, 1.0, 0.8, 3, 1],  # half remains
        [0.0, 0.0, 0.0, 0.0, box_labels.PADDING, 0],
    ]
    labels, sizes = tf.constant([columns]), tf.constant([[20, 40]])
    cropped = geometry.labels_in_input(labels, sizes, Geometry((16, 16), "crop")).numpy()[0]
    np.testing.assert_array_equal(cropped[:, 4], [1, 3, *[box_labels.PADDING] * 3])
    np.testing.assert_allclose(cropped[:2, :4], [[0.2, 0.1, 0.6, 0.5], [0.0, 0.9, 1.0, 1.0]], atol=1e-6)
    assert cropped[1, 5] == 1 and not cropped[2:, :4].any()
    padded = geometry.labels_in_input(labels, sizes, Geometry((16, 16), "pad")).numpy()[0]
    np.testing.assert_array_equal(padded[:, 4], labels[0, :, 4])
    np.testing.assert_allclose(padded[0, :4], [0.25, 0.0, 0.75, 0.2], atol=1e-6)
    assert geometry.labels_in_input(labels, sizes, Geometry((16, 16))) is labels
