"""`classes.txt` with colours, and the published tables that replace it."""

import pytest

from components.image_example_gen import class_list, color_tables
from components.image_example_gen.class_list import CLASSES_FILE, ClassList
from components.image_example_gen.dataset import inspect_dataset
from components.image_example_gen.errors import DatasetError
from components.image_example_gen.options import DataOptions

ROAD, CAR = (128, 64, 128), (0, 0, 142)


@pytest.fixture
def listed(tmp_path):
    """Reads a list of classes with this content."""

    def read(text):
        path = tmp_path / CLASSES_FILE
        path.write_bytes(text if isinstance(text, bytes) else text.encode())
        return class_list.read(str(path))

    return read


@pytest.mark.parametrize(
    "text",
    [
        "road 128 64 128\nparked car 0 0 142\n",
        "road,128,64,128\nparked car, 0, 0, 142\n",
        "road\t128\t64\t128\r\nparked car\t0 0\t142\r\n",
        "road #804080\nparked car #00008e\n",
        "road,#804080\nparked car;#00008E",
        "name,r,g,b\nroad,128,64,128\nparked car,0,0,142\n",
        "128 64 128\troad\n0 0 142\t\tparked car\n",
        b'\xef\xbb\xbf"road",128,64,128\n"parked car",0,0,142\n',
        "\nroad 128 64 128\n\nparked car 0 0 142\n\n",
    ],
    ids=["spaces", "commas", "tabs", "hex", "hex and separators", "header", "colour first", "quotes", "empty lines"],
)
def test_colours(listed, text):
    assert listed(text) == ClassList(("road", "parked car"), None, (ROAD, CAR))


@pytest.mark.parametrize(
    ("lines", "ignore_id", "ignored"),
    [
        ("0 0 0 ignored\n", 255, ((0, 0, 0),)),
        ("ignored 0 0 0\nignored #010203\n", 255, ((0, 0, 0), (1, 2, 3))),
        ("ignored 0 0 0\n7 ignored\n", 7, ((0, 0, 0),)),
        ("7 ignored\n", 7, ()),
    ],
)
def test_ignored_colours(listed, lines, ignore_id, ignored):
    assert listed(f"road 128 64 128\ncar 0 0 142\n{lines}") == ClassList(
        ("road", "car"), ignore_id, (ROAD, CAR), ignored
    )


@pytest.mark.parametrize("text", ["road\nlane 2\n", "road 1\ntop 10 20\n", "a,b\n#1\n"])
def test_names_with_numbers_are_not_colours(listed, text):
    assert listed(text) == ClassList(tuple(text.split("\n")[:-1]))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("road 128 64 128\ncar\n", "line 2: no colour, but line 1 has one"),
        ("road\ncar 0 0 142\n", "line 1: no colour, but line 2 has one"),
        ("road 128 64 128\ncar 128 64 128\n", r"line 2: line 1 has the same colour \(128, 64, 128\)"),
        ("road 128 64 128\nignored 128 64 128\n", "line 2: line 1 has the same colour"),
        ("road 128 64 128\nroad 0 0 142\n", "line 2: duplicate class road"),
        ("road 128 64 300\ncar 0 0 142\n", r"line 1: \(128, 64, 300\) is not a colour; .* 0 to 255"),
        ("road 128 64 128\ncar 0 0 142\n1 ignored\n", "the ignored id must be above"),
    ],
)
def test_unusable_colour_tables(listed, text, message):
    with pytest.raises(DatasetError, match=message):
        listed(text)


@pytest.fixture
def inspect(tmp_path, make_image):
    """Inspects a dataset of two images with masks, with or without a list of classes."""

    def run(text=None, **settings):
        for name in ("a", "b"):
            for folder in ("images", "masks"):
                (tmp_path / folder).mkdir(exist_ok=True)
                (tmp_path / folder / f"{name}.png").write_bytes(make_image())
        if text is not None:
            (tmp_path / CLASSES_FILE).write_text(text)
        return inspect_dataset(str(tmp_path), DataOptions(**settings))

    return run


def test_a_published_table_names_the_classes(inspect):
    dataset, table = inspect(mask_colors="pascal_voc"), color_tables.get("pascal_voc")
    assert (dataset.classes, dataset.ignore_id, dataset.colors) == (table.names, 255, table.colors)
    assert dataset.ignored_colors == ((224, 224, 192),)
    assert inspect(mask_colors="pascal_voc", classes=list(table.names)).colors == table.colors


def test_a_colour_table_is_part_of_the_dataset(inspect):
    text = "road 128 64 128\ncar 0 0 142\nignored 0 0 0\n"
    for settings in ({}, {"classes": ["road", "car"]}):
        dataset = inspect(text, **settings)
        assert (dataset.classes, dataset.colors, dataset.ignore_id) == (("road", "car"), (ROAD, CAR), 255)


@pytest.mark.parametrize(
    ("text", "settings", "message"),
    [
        ("road\ncar\n", {"mask_colors": "camvid"}, r"31 in all\), and .*classes.txt has other ones. Remove one"),
        (None, {"mask_colors": "camvid", "classes": ["a", "b"]}, "data.classes has other ones"),
        ("road 128 64 128\ncar 0 0 142\n", {"classes": ["a", "b"]}, "colours of other classes than data.classes"),
        ("road\ncar\n", {"mask_values": [0, 128, 255]}, "data.mask_values has 3 values for 2 classes"),
        (
            "road 128 64 128\ncar 0 0 142\n",
            {"mask_values": [0, 255]},
            "data.mask_values and the colours of the classes exclude each other",
        ),
    ],
)
def test_settings_that_contradict_each_other(inspect, text, settings, message):
    with pytest.raises(DatasetError, match=message):
        inspect(text, **settings)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"mask_colors": "camvid", "mask_values": [0, 255]}, "exclude each other"),
        ({"mask_colors": "camvid", "mask_source": "alpha"}, "requires mask_source"),
        ({"mask_values": [0, 0]}, "a value twice"),
        ({"mask_values": [0]}, "at least 2"),
        ({"bit_depth": 17}, "less than or equal to 16"),
        ({"bit_depth": 7}, "greater than or equal to 8"),
        ({"bit_depth": 12, "window": [0, 9]}, r"exclude each other: bit_depth = 12 is the window \[0, 4095\]"),
        ({"window": [9, 9]}, r"window = \[9, 9\]: the first value must be smaller"),
        ({"window": [0, 65536]}, "less than or equal to 65535"),
    ],
)
def test_invalid_settings(settings, message):
    with pytest.raises(ValueError, match=message):
        DataOptions(**settings)


@pytest.mark.parametrize("settings", [{"mask_values": [0, 255]}, {"mask_colors": "camvid"}])
def test_settings_of_masks_require_masks(class_folders, settings):
    with pytest.raises(DatasetError, match=f"data.{next(iter(settings))} is set, but .* has no masks. Remove it"):
        inspect_dataset(str(class_folders({"cat": 3, "dog": 3})), DataOptions(**settings))
