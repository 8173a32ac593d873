"""Boxes in the units of an annotation → boxes of the upright image: used, corrected and counted, or refused."""

import itertools
from collections import Counter

import numpy as np
import pytest

from components.image_example_gen import boxes
from components.image_example_gen.boxes import Annotation, Box, normalize
from components.image_example_gen.errors import UnusableImageError
from trainer_module import features

SIZE = {"height": 80, "width": 100}


def annotation(*corners, **others):
    return Annotation(tuple(Box(*four, "cat") for four in corners), **others)


def corners(normalized):
    return [pytest.approx(box[:4], abs=1e-6) for box in normalized.boxes]


@pytest.mark.parametrize(
    ("box", "expected", "corrections"),
    [
        ((10, 20, 50, 60), (0.1, 0.25, 0.5, 0.75), {}),
        ((0, 0, 100, 80), (0, 0, 1, 1), {}),
        ((-0.4, 0, 100.4, 80), (0, 0, 1, 1), {}),
        ((-20, 20, 50, 95), (0, 0.25, 0.5, 1), {boxes.CLIPPED: 1}),
        ((50, 20, 10, 60), (0.1, 0.25, 0.5, 0.75), {boxes.SWAPPED: 1}),
        ((50, 60, 10, 20), (0.1, 0.25, 0.5, 0.75), {boxes.SWAPPED: 1}),
        ((150, 60, 10, 20), (0.1, 0.25, 1, 0.75), {boxes.SWAPPED: 1, boxes.CLIPPED: 1}),
        ((10, 20, 10, 60), None, {boxes.EMPTY: 1}),
        ((10, 20, 10.3, 60), None, {boxes.EMPTY: 1}),
        ((10, 20, 50, 20), None, {boxes.EMPTY: 1}),
        ((99.8, 20, 120, 60), None, {boxes.CLIPPED: 1, boxes.EMPTY: 1}),
    ],
)
def test_single_boxes(box, expected, corrections):
    normalized = normalize(annotation(box), **SIZE)
    assert normalized.corrections == corrections
    assert [box[:4] for box in normalized.boxes] == ([] if expected is None else [pytest.approx(expected, abs=1e-6)])


@pytest.mark.parametrize(
    ("box", "others", "reason"),
    [
        ((100, 20, 150, 60), {}, r"a box outside of the image: box 1 \(`cat`\) is 100, 20, 150, 60 .* 100 x 80"),
        ((10, -20, 50, 0), {}, "a box outside of the image"),
        ((352, 200, 400, 300), {"is_relative": True}, "a box outside of the image"),
        ((float("nan"), 0, 1, 1), {}, "a coordinate is not a number: box 1"),
        ((0, 0, float("inf"), 1), {}, "a coordinate is not a number"),
        ((0, 0, 10, 10), {"width": 640, "height": 480 + 80}, "annotated for another image: 640 x 560 pixels"),
        ((0, 0, 10, 10), {"width": 80, "height": 100}, "annotated for another image: 80 x 100"),
    ],
)
def test_boxes_that_cannot_be_right_are_refused(box, others, reason):
    with pytest.raises(UnusableImageError, match=reason):
        normalize(annotation(box, **others), **SIZE)


def test_boxes_of_another_size_are_scaled_if_the_aspect_ratio_is_the_same():
    normalized = normalize(annotation((100, 200, 500, 600), width=1000, height=801), **SIZE)
    assert corners(normalized) == [(0.1, 200 / 801, 0.5, 600 / 801)]
    assert normalized.corrections == {boxes.SCALED: 1}
    with pytest.raises(UnusableImageError, match="outside of the image"):
        normalize(annotation((60, 10, 90, 20), width=50, height=40), **SIZE)


def test_duplicates_are_removed_and_other_classes_at_the_same_place_are_counted():
    one = Box(10, 20, 50, 60, "cat")
    given = (one, one, one._replace(name="dog"), one._replace(is_crowd=True), one._replace(xmax=51))
    normalized = normalize(Annotation(given), **SIZE)
    assert [(box.name, box.is_crowd) for box in normalized.boxes] == [
        *[("cat", False), ("cat", True), ("dog", False), ("cat", False)]
    ]
    assert normalized.corrections == {boxes.DUPLICATE: 1, boxes.SEVERAL_CLASSES: 1}


def test_a_duplicate_is_difficult_only_if_all_are():
    one = Box(10, 20, 50, 60, "cat", difficult=True)
    for other, expected in ((one, True), (one._replace(difficult=False), False)):
        (box,) = normalize(Annotation((one, other)), **SIZE).boxes
        assert box.difficult is expected


def test_the_order_of_boxes_does_not_matter():
    given = [Box(x, y, x + 10, y + 10, name) for x, y, name in ((5, 9, "b"), (5, 9, "a"), (1, 40, "c"))]
    results = {normalize(Annotation(order), **SIZE).boxes for order in itertools.permutations(given)}
    assert len(results) == 1


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize(("height", "width"), [(6, 9), (7, 7)])
def test_boxes_turn_with_the_pixels(orientation, height, width):
    """Draws a box on the stored pixels, turns both, and compares."""
    stored = np.zeros((height, width), bool)
    stored[1:3, 2:6] = True
    upright = stored.T if orientation > 4 else stored
    upright = upright[:, ::-1] if orientation in (2, 3, 6, 7) else upright
    upright = upright[::-1] if orientation in (3, 4, 7, 8) else upright
    normalized = normalize(
        annotation((2, 1, 6, 3)),
        height=upright.shape[0],
        width=upright.shape[1],
        orientation=orientation,
        drawn_on="stored",
    )
    rows, columns = np.nonzero(upright)
    expected = (columns.min(), rows.min(), columns.max() + 1, rows.max() + 1)
    scale = np.tile([upright.shape[1], upright.shape[0]], 2)
    assert corners(normalized) == [tuple(expected / scale)]
    assert not normalized.corrections


@pytest.mark.parametrize(
    ("size", "orientation", "drawn_on", "is_stored", "undecided"),
    [
        ((100, 80), 6, "stored", False, False),  # the annotated size decides
        ((80, 100), 6, "upright", True, False),
        ((160, 200), 6, "auto", True, False),  # so does its aspect ratio
        ((0, 0), 6, "auto", False, True),
        ((0, 0), 6, "stored", True, False),
        ((100, 80), 3, "auto", False, True),  # both have the same size
        ((100, 80), 3, "stored", True, False),
        ((0, 0), 1, "stored", False, False),
    ],
)
def test_the_annotated_size_decides_about_rotated_images(size, orientation, drawn_on, is_stored, undecided):
    given = annotation((0.0, 0.0, 0.5, 0.25), width=size[0], height=size[1], is_relative=True)
    normalized = normalize(given, **SIZE, orientation=orientation, drawn_on=drawn_on)
    in_stored = {6: (0.75, 0.0, 1.0, 0.5), 3: (0.5, 0.75, 1.0, 1.0)}
    assert corners(normalized) == [in_stored[orientation] if is_stored else (0.0, 0.0, 0.5, 0.25)]
    assert normalized.corrections[boxes.UNDECIDED] == undecided


def test_random_boxes_are_used_corrected_or_refused(rng):
    """Whatever the numbers are, the result is inside of the image and has an area, and nothing disappears silently."""
    used = refused = 0
    for _ in range(2000):
        given = Annotation(
            tuple(
                Box(*rng.choice([rng.normal(50, 60), 0, 1, 100, -1, 1e9, 1e-9, -1e300], 4).tolist(), "cat")
                for _ in range(rng.integers(1, 4))
            ),
            *rng.choice([0, 100, 80, 200, 160], 2).tolist(),
        )
        try:
            normalized = normalize(given, **SIZE, orientation=int(rng.integers(1, 9)))
        except UnusableImageError as error:
            assert str(error)
            refused += 1
            continue
        used += 1
        assert len(normalized.boxes) == len(given.boxes) - sum(
            normalized.corrections[kind] for kind in (boxes.EMPTY, boxes.DUPLICATE)
        )
        for box in normalized.boxes:
            assert 0 <= box.xmin < box.xmax <= 1 and 0 <= box.ymin < box.ymax <= 1
            assert np.float32(box.xmin) == box.xmin
    assert used > 100 and refused > 100


def test_an_annotation_survives_as_a_label():
    given = Annotation(
        (Box(1.5, 2.0, 3.0, 4.0, "cat", True), Box(0.0, 0.0, 1.0, 1.0, "dog", is_crowd=True)), 10, 20, True, ("x", "x")
    )
    label = dict(given.to_label())
    assert boxes.is_unchecked(label) and Annotation.from_label(label) == given
    assert Annotation.from_label(dict(Annotation().to_label())) == Annotation()


@pytest.mark.parametrize(
    ("other", "expected"),
    [
        ([(12, 21, 52, 61, "cat"), (0, 0, 100, 80, "dog")], True),
        ([(0, 0, 100, 80, "dog"), (8, 18, 50, 62, "cat")], True),
        ([(0, 0, 100, 80, "dog"), (40, 40, 90, 80, "cat")], False),
        ([(0, 0, 100, 80, "cat"), (10, 20, 50, 60, "dog")], False),
        ([(10, 20, 50, 60, "cat")], False),
        ([(10, 20, 50, 60, "cat"), (0, 0, 100, 80, "dog"), (0, 0, 100, 79, "dog")], False),
        ([], False),
    ],
)
def test_annotations_agree_if_their_boxes_correspond(other, expected):
    first = [(10, 20, 50, 60, "cat"), (0, 0, 100, 80, "dog")]
    encoded = [
        boxes.encode(normalize(Annotation(tuple(Box(*each) for each in given)), **SIZE).boxes, ("cat", "dog"))
        for given in (first, other)
    ]
    assert boxes.agree(*encoded) == boxes.agree(*reversed(encoded)) == expected
    assert boxes.agree(encoded[0], encoded[0]) and boxes.agree(encoded[1], encoded[1])


def test_features_and_slices():
    given = [Box(0.0, 0.0, 0.5, 0.25, "cat", True), Box(0.5, 0.5, 1.0, 1.0, "dog", is_crowd=True)]
    label = boxes.raw_label(given, **SIZE)
    assert label.keys() == features.BOX_DTYPES.keys()
    assert label[features.BOX_SIZE] == [pytest.approx(0.125**0.5), 0.5]
    assert label[features.BOX_ASPECT_RATIO] == [50 / 20, 50 / 40]
    assert (label[features.BOX_COUNT], label[features.BOX_DIFFICULT]) == ([2], [1, 0])
    assert boxes.slices(given, **SIZE) == {"object_count": "few", "object_size": "medium"}
    assert boxes.slices(given[:1], height=800, width=100) == {"object_count": "one", "object_size": "large"}
    assert boxes.slices(given * 5, height=8, width=10) == {"object_count": "many", "object_size": "small"}
    assert boxes.slices([], **SIZE) == {"object_count": "none", "object_size": "none"}
    assert boxes.raw_label([], **SIZE)[features.BOX_COUNT] == [0]
    assert Counter(map(len, boxes.raw_label([], **SIZE).values())) == {0: 9, 1: 1}
