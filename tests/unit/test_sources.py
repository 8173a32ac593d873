"""Generated datasets: every digit once, with its slant; scenes with exact masks."""

import csv

import numpy as np
import pytest
from PIL import Image

from components.image_example_gen.dataset import inspect_dataset
from components.image_example_gen.options import DataOptions
from pipeline.execution import generated_datasets
from trainer_module import features


@pytest.fixture(scope="module")
def digits(tmp_path_factory):
    """The folder of the digits."""
    target = tmp_path_factory.mktemp("data") / "digits"
    generated_datasets.write_digits(target)
    return target


def test_digits(digits):
    from sklearn.datasets import load_digits

    dataset = inspect_dataset(str(digits), DataOptions())
    assert dataset.classes == tuple("0123456789") == generated_datasets.CLASSES["digits"]
    assert len(dataset.entries) == 1797
    assert dataset.columns == ("slant",)
    bunch = load_digits()
    pixels = np.asarray(Image.open(digits / str(bunch.target[100]) / "0100.png"))
    np.testing.assert_array_equal(np.round(pixels / 255 * 16), bunch.images[100])

    times = {path: path.stat().st_mtime_ns for path in digits.rglob("*")}
    generated_datasets.write_digits(digits)
    assert {path: path.stat().st_mtime_ns for path in digits.rglob("*")} == times


def test_an_interrupted_folder_is_written_again(digits):
    (digits / ".complete").unlink()
    (digits / "metadata.csv").unlink()
    generated_datasets.write_digits(digits)
    with (digits / "metadata.csv").open() as file:
        assert len(list(csv.DictReader(file))) == 1797


@pytest.mark.parametrize(("shift", "expected"), [(-1, "right"), (0, "upright"), (1, "left")])
def test_slant_of_a_straight_stroke(shift, expected):
    ink = np.zeros((8, 16))
    for row in range(8):
        ink[row, 8 + shift * (row - 4)] = 1.0
    assert generated_datasets.slant(ink) == expected


def test_digit_scenes(tmp_path, monkeypatch):
    target = tmp_path / "scenes"
    generated_datasets.write_digit_scenes(target)
    dataset = inspect_dataset(str(target), DataOptions())
    assert features.MASK_ENCODED in dataset.label_features and dataset.refused == ()
    assert dataset.classes == ("background", *"0123456789") == generated_datasets.CLASSES["digit_scenes"]
    assert dataset.own_splits == ("train", "validation", "test")
    assert len(dataset.entries) == 800
    masks = np.stack([np.asarray(Image.open(target / entry.label_files[0].path)) for entry in dataset.entries])
    assert masks.shape[1:] == (64, 64) and set(np.unique(masks)) == set(range(11))
    pixels = np.stack([np.asarray(Image.open(target / entry.path)) for entry in dataset.entries])
    # A digit has one colour.
    assert all(np.ptp(pixels[0][masks[0] == value], axis=0).max() == 0 for value in np.unique(masks[0])[1:2])

    # Every call writes the same scenes; one fifth of them is enough.
    again = tmp_path / "again"
    fewer = {split: (count // 5, share) for split, (count, share) in generated_datasets.SCENES.items()}
    monkeypatch.setattr(generated_datasets, "SCENES", fewer)
    generated_datasets.write_digit_scenes(again)
    written = [path.relative_to(again) for path in sorted(again.glob("*/train/*.png"))]
    assert len(written) == 2 * 120
    assert all((again / path).read_bytes() == (target / path).read_bytes() for path in written)


def test_a_scene_is_a_photograph_where_its_mask_is_0(rng):
    photograph = np.arange(100 * 90 * 3).reshape(100, 90, 3).astype(np.uint8)
    inks = rng.integers(0, 17, (5, 8, 8)).astype(float)
    image, mask, boxes, digits = generated_datasets.scene(photograph, inks, np.arange(5), rng)
    crops = np.lib.stride_tricks.sliding_window_view(photograph, (64, 64, 3))[:, :, 0]
    same = (crops == image) | (mask != 0)[..., np.newaxis]
    assert same.all(axis=(2, 3, 4)).any()
    assert mask.any() and len(boxes) == len(digits)
    outside = mask.copy()
    for (ymin, xmin, ymax, xmax), digit in zip(boxes, digits, strict=True):
        y, x = np.nonzero(mask[ymin:ymax, xmin:xmax] == digit + 1)
        assert (y.min(), x.min(), y.max() + 1, x.max() + 1) == (0, 0, ymax - ymin, xmax - xmin)
        outside[ymin:ymax, xmin:xmax] = 0
    assert not outside.any()


def test_sets_of_digits_are_labelled_with_their_classes(tmp_path):
    target = tmp_path / "digit_sets"
    generated_datasets.write_digit_sets(target)
    options = DataOptions(labels_per_image="any")
    dataset = inspect_dataset(str(target), options)
    assert dataset.classes == tuple("0123456789") == generated_datasets.CLASSES["digit_sets"]
    sizes = [len(entry.classes) for entry in dataset.entries]
    assert (
        len(sizes) == 2600 and set(sizes) == {0, 1, 2, 3, 4} and dataset.own_splits == ("train", "validation", "test")
    )
    contents = {(target / entry.path).read_bytes() for entry in dataset.entries}
    assert len(contents) == len(sizes)  # images without a digit differ too


def test_digits_of_a_set_do_not_overlap(rng):
    inks, targets = np.full((3, 8, 8), 16.0), np.array([3, 5, 7])
    for _ in range(20):
        image, present = generated_datasets.digit_set(inks, targets, rng)
        assert image.shape == (32, 32) and set(present) <= {3, 5, 7} and list(present) == sorted(present)
        bright = int((image > 200).sum())
        assert len(present) * 64 <= bright <= 4 * 144 and (bright == 0) == (present == ())
