"""The digits: all of them, once, with a property that is really theirs."""

import csv

import numpy as np
import pytest
from PIL import Image

from components.image_example_gen import layout
from components.image_example_gen.options import DataOptions
from pipeline import sources


def test_digits(tmp_path):
    from sklearn.datasets import load_digits

    target = tmp_path / "digits"
    sources.write_digits(target)
    found = layout.inspect(str(target), DataOptions())
    assert found.classes == tuple("0123456789")
    assert sum(found.num_files.values()) == 1797
    assert found.columns == ("slant",)
    digits = load_digits()
    pixels = np.asarray(Image.open(target / str(digits.target[100]) / "0100.png"))
    np.testing.assert_array_equal(np.round(pixels / 255 * 16), digits.images[100])

    times = {path: path.stat().st_mtime_ns for path in target.rglob("*")}
    sources.write_digits(target)
    assert {path: path.stat().st_mtime_ns for path in target.rglob("*")} == times


def test_an_interrupted_folder_is_written_anew(tmp_path):
    target = tmp_path / "digits"
    sources.write_digits(target)
    (target / ".complete").unlink()
    (target / "metadata.csv").unlink()
    sources.write_digits(target)
    with (target / "metadata.csv").open() as file:
        assert len(list(csv.DictReader(file))) == 1797


@pytest.mark.parametrize(("shift", "expected"), [(-1, "right"), (0, "upright"), (1, "left")])
def test_slant_of_a_straight_stroke(shift, expected):
    ink = np.zeros((8, 16))
    for row in range(8):
        ink[row, 8 + shift * (row - 4)] = 1.0
    assert sources.slant(ink) == expected
