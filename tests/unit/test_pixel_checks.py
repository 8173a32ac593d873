"""Checks of masks and bit depths over all images: errors and warnings."""

import itertools
import json

import pytest

from components.image_example_gen import observations as kinds
from components.image_example_gen import pixel_checks
from components.image_example_gen.errors import AmbiguousMasksError, ClassWithoutPixelsError
from components.image_example_gen.observations import Observations, Occurrences
from components.image_example_gen.options import DataOptions
from components.image_example_gen.records import columns_of
from components.image_example_gen.splits import IGNORED, Record
from components.image_example_gen.tally import Tally
from trainer_module.model_input import Window

SPLITS = ("train", "validation", "test")


def palettes(*masks):
    """Observations of masks with palettes: (name, digest, {id: colour}) each."""
    observations = Observations()
    for name, digest, colors in masks:
        observations.add(kinds.PALETTE, name, digest)
        for number, color in colors.items():
            observations.add(kinds.PALETTE_COLOR, name, f"{number} {color}")
    return observations


@pytest.mark.parametrize(
    "masks",
    [
        [],
        [("a", "x", {0: "black", 1: "red"}), ("b", "x", {0: "black", 2: "red"})],  # the same palette
        [("a", "x", {0: "black", 1: "red"}), ("b", "y", {0: "black", 2: "green"})],  # shortened palettes
    ],
)
def test_palettes_that_agree(masks):
    pixel_checks.refuse_differing_palettes(palettes(*masks))


@pytest.mark.parametrize(
    ("masks", "message"),
    [
        (
            [("a", "x", {1: "red"}), ("b", "y", {1: "green"}), ("c", "x", {1: "red"})],
            r"id 1 is colour red in 2 of 3 masks \(a\) and colour green in 1 \(b\)",
        ),
        (
            [("a", "x", {1: "red"}), ("b", "y", {2: "red"})],
            r"colour red is id 1 in 1 of 2 masks \(a\) and id 2 in 1 \(b\)",
        ),
    ],
)
def test_palettes_that_contradict_each_other(masks, message):
    with pytest.raises(AmbiguousMasksError, match=message) as stopped:
        pixel_checks.refuse_differing_palettes(palettes(*masks))
    assert 'data.mask_source = "values"' in str(stopped.value) and "classes.txt" in str(stopped.value)


def test_observations_are_merged_and_stored():
    first, second = Observations(), Observations()
    for name in "dbc":
        first.add("kind", name, "x")
    second.add("kind", "a", "x")
    second.add("kind", "a", "y")
    first.merge(Observations.from_json(json.loads(json.dumps(second.to_json()))))
    assert first.details("kind") == {"x": Occurrences(4, ("a", "b")), "y": Occurrences(1, ("a",))}
    assert str(first.details("kind")["x"]) == "a, b, …" and str(first.details("kind")["y"]) == "a"


def test_the_first_names_are_kept_in_any_order():
    for names in itertools.product("abcd", repeat=5):
        observations = Observations()
        for name in names:
            observations.add("kind", name)
        assert observations.total("kind") == Occurrences(5, tuple(sorted(set(names))[:2]))


def test_details_are_bounded():
    observations = Observations()
    for number in range(5000):
        observations.add("kind", "a", str(number))
    assert len(observations.details("kind")) == 4096


def test_information_that_decoders_do_not_read_is_reported():
    observations = Observations()
    assert pixel_checks.lost_information_warnings(observations) == []
    observations.add(kinds.IGNORED_ORIENTATION, "a", "6")
    observations.add(kinds.ALPHA_ONLY, "b")
    rotated, flat = pixel_checks.lost_information_warnings(observations)
    assert rotated.startswith("1 PNG images have an EXIF orientation, which is applied to JPEG only: a.")
    assert flat.startswith("1 images have a single colour, and their content only in the transparency")


def check(masks, classes=("road", "car"), ignore_id=None):
    """Checks masks: (split, {class id: pixels}) each; the ignored id is IGNORED."""
    tally = Tally()
    for index, (split, pixels) in enumerate(masks):
        flat = tuple(value for pair in pixels.items() for value in pair)
        tally.add(columns_of([Record(f"{index}", (), "", "", "0" * 64, "", None, flat)]), [split])
    counts = tally.counts(SPLITS, classes)
    return counts, pixel_checks.check_mask_classes(tally, counts, classes, ignore_id)


def test_images_and_pixels_of_every_class_are_counted():
    counts, warnings = check(
        [(split, {0: 3, 1: 4, IGNORED: 9}) for split in SPLITS] + [("train", {1: 5})], ignore_id=255
    )
    assert counts["train"].examples == 2
    assert (counts["train"].classes, counts["train"].pixels) == ({"car": 2, "road": 1}, {"car": 9, "road": 3})
    assert (counts["test"].classes, counts["test"].pixels) == ({"car": 1, "road": 1}, {"car": 4, "road": 3})
    assert warnings == []


@pytest.mark.parametrize(
    ("masks", "classes", "ignore_id", "message"),
    [
        (
            [(split, {0: 3, IGNORED: 2}) for split in SPLITS],
            ("road", "car"),
            255,
            r"3 masks: only class `road` has pixels .* 3 of 3 masks have ignored pixels, of value 255 \(0, 1, …\)\. "
            r"If 255 is the value of class `car`, set data.mask_values = \[0, 255\]",
        ),
        (
            [(split, {0: 3, IGNORED: 2}) for split in SPLITS],
            ("road", "car", "sky"),
            200,
            r"set data.mask_values = \[0, 1, 200\]",
        ),
        ([(split, {0: 3}) for split in SPLITS], ("road", "car"), None, "only class `road` has pixels in them. Check"),
        ([(split, {IGNORED: 3}) for split in SPLITS], ("road", "car"), 255, "no class has pixels"),
        (
            [("train", {0: 3}), ("validation", {0: 3}), ("test", {0: 3, 1: 2})],
            ("road", "car"),
            None,
            r"train split has a pixel of class `car`. `car` occurs in 1 masks \(2\)",
        ),
    ],
)
def test_masks_from_which_a_class_cannot_be_learned(masks, classes, ignore_id, message):
    with pytest.raises(ClassWithoutPixelsError, match=message):
        check(masks, classes, ignore_id)


def test_classes_without_pixels_are_reported():
    masks = [("train", {0: 3, 1: 1, IGNORED: 2}), ("validation", {0: 3, 1: 1, IGNORED: 2}), ("test", {0: 3})]
    _, warnings = check(masks, ("road", "car", "sky"), 255)
    assert warnings == [
        "No mask has a pixel of class `sky`; 2 of 3 masks have ignored pixels, of value 255 (0, 1).",
        "No mask of the test split has a pixel of class `car`.",
    ]


def test_a_class_that_is_ignored_on_purpose_is_not_reported():
    masks = [(split, {0: 3, 1: 1, IGNORED: 2}) for split in SPLITS]
    assert check(masks, ("road", "car", "sky"), 2)[1] == []


def test_orientations_are_reported_unless_the_setting_is_explicit():
    observations = Observations()
    for name, orientation in (("b", 6), ("a", 3), ("c", 6)):
        observations.add(kinds.ORIENTATION, name, str(orientation))
    (warning,) = pixel_checks.orientation_warnings(observations, DataOptions())
    assert warning.startswith("3 images with masks are rotated by their EXIF orientation (3, 6): a, b, ….")
    assert "data.mask_orientation" in warning
    for value in ("upright", "stored"):
        assert pixel_checks.orientation_warnings(observations, DataOptions(mask_orientation=value)) == []
    assert pixel_checks.orientation_warnings(Observations(), DataOptions()) == []


def depths(counts):
    """Observations of images: bits, or (bits of the largest value, typical bits), or 0 for 8 bits → number."""
    observations = Observations()
    for bits, count in counts.items():
        largest, typical = bits if isinstance(bits, tuple) else (bits, bits)
        for number in range(count):
            name = f"{largest}-{number}"
            if largest:
                observations.add(kinds.USED_BITS, name, str(largest))
                observations.add(kinds.TYPICAL_BITS, name, str(typical))
            else:
                observations.add(kinds.EIGHT_BITS, name)
    return observations


@pytest.mark.parametrize(
    ("counts", "depth", "setting", "messages"),
    [
        ({0: 5}, 16, "auto", []),
        ({16: 5, 15: 9}, 16, "auto", []),
        ({12: 3}, 12, "auto", ["3 images have 16 bits .* as 12 bits (detected from the largest value): 12-0, 12-1, …"]),
        ({12: 1}, 12, 12, ["1 images .* (as configured): 12-0"]),
        ({12: 3, 14: 1}, 12, 12, ["4 images .* as 12 bits", "1 images have values above data.bit_depth = 12, .* 14-0"]),
        ({16: 1, 12: 3, 11: 1}, 16, "auto", ["4 of 5 images .* need at most 12 bits .* set data.bit_depth = 12"]),
        ({(16, 12): 3, (16, 16): 1}, 16, "auto", ["3 of 4 images .* dark .* set data.bit_depth = 12"]),
        ({(16, 12): 2, (16, 16): 2, (16, 14): 9}, 16, "auto", []),
        (
            {12: 3},
            0,
            (100, 4000),
            ["3 images .* in the window [100, 4000] (as configured): .* data.window"],
        ),
        ({16: 2, 12: 2}, 0, (9, 4000), ["4 images", "2 images have values above data.window = [9, 4000], .* 16 bits."]),
        ({(16, 10): 1}, 0, (9, 65000), ["1 images", "dark .* set data.window = [9, 1023]."]),
        ({16: 2, 0: 3}, 16, "auto", ["2 images have 16 bits per channel (16-0, 16-1), and 3 have 8 (0-0, 0-1, …)"]),
    ],
)
def test_bit_depths_are_reported(counts, depth, setting, messages):
    if isinstance(setting, tuple):
        options, window = DataOptions(window=setting), Window(*setting)
    else:
        options, window = DataOptions(bit_depth=setting), Window.of_bits(depth)
    warnings = pixel_checks.window_warnings(depths(counts), window, options)
    assert len(warnings) == len(messages)
    for warning, message in zip(warnings, messages, strict=True):
        position = 0
        for part in message.split(" .* "):
            position = warning.index(part, position) + len(part)
