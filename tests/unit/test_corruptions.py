"""Standard corruptions: published severities, reproducible, and nothing moves."""

import io

import numpy as np
import pytest
from PIL import Image

from components.evaluator import corruptions, gates
from components.evaluator.artifact import EvaluationResult, SliceMetrics
from components.evaluator.corruptions import NAMES, SEVERITIES, CorruptibleImage
from components.evaluator.options import EvaluationOptions, slice_name
from components.model_report import metric_tables
from trainer_module import tasks

SIDE = 96


@pytest.fixture(scope="module")
def photo():
    """A smooth colour gradient with an edge: uint8 [80, 112, 3]."""
    y, x = np.mgrid[:80, :112]
    pixels = np.stack([2 * y + 40, 1.5 * x + 30, 200 - y - 0.5 * x], axis=-1)
    pixels[10:20, 20:30] = (250, 30, 30)
    return pixels.astype(np.uint8)


def corrupt(pixels, name, severity, side):
    return CorruptibleImage(pixels, side).corrupt(name, severity)


def distance(a, b):
    return np.abs(a.astype(int) - b).mean()


@pytest.mark.parametrize("name", NAMES)
def test_a_corruption_keeps_the_shape_is_reproducible_and_grows(name, photo):
    corrupted = [corrupt(photo, name, severity, side=SIDE) for severity in SEVERITIES]
    assert {(image.shape, image.dtype) for image in corrupted} == {(photo.shape, photo.dtype)}
    np.testing.assert_array_equal(corrupted[2], corrupt(photo, name, 3, side=SIDE))
    assert all((image != photo).any() for image in corrupted)
    if name != "saturate":  # whose first two severities reduce the saturation
        assert distance(corrupted[4], photo) > distance(corrupted[0], photo)


def test_noise_differs_by_image_and_severity(photo):
    noise = corrupt(photo, "noise", 1, side=SIDE).astype(int) - photo
    other = corrupt(photo[::-1].copy(), "noise", 1, side=SIDE).astype(int) - photo[::-1]
    assert np.corrcoef(noise.ravel(), other.ravel())[0, 1] < 0.1
    gray = np.full((64, 64, 3), 128, np.uint8)
    assert abs(corrupt(gray, "noise", 1, side=64).std() - 255 * 0.08) < 1.0


@pytest.mark.parametrize("name", ["noise", "shot_noise", "impulse_noise", "speckle_noise"])
def test_noise_of_gray_images_is_gray(name, photo):
    gray = np.repeat(photo.mean(axis=2, keepdims=True).astype(np.uint8), 3, axis=2)
    noisy = corrupt(gray, name, 3, side=64)
    assert (noisy == noisy[..., :1]).all() and (noisy != gray).any()
    colored = corrupt(photo, name, 3, side=64)
    assert (colored != colored[..., :1]).any()


def test_jpeg_is_that_of_pillow(photo):
    buffer = io.BytesIO()
    Image.fromarray(photo).save(buffer, "JPEG", quality=25)
    np.testing.assert_array_equal(corrupt(photo, "jpeg", 1, side=SIDE), np.asarray(Image.open(buffer)))


def test_blur_scales_with_the_image():
    # At 224 pixels the first severity has a standard deviation of one pixel.
    for side, deviation in ((224, 1.0), (448, 2.0)):
        image = np.zeros((side, side, 3), np.uint8)
        image[side // 2 :] = 200
        profile = np.diff(corrupt(image, "blur", 1, side=side)[:, 0, 0].astype(float))
        rows = np.arange(len(profile))
        mean = (profile * rows).sum() / profile.sum()
        measured = np.sqrt((profile * (rows - mean) ** 2).sum() / profile.sum())
        assert measured == pytest.approx(deviation, abs=0.1)


@pytest.mark.parametrize(("name", "sign"), [("dark", -1), ("bright", 1)])
def test_lightness_shifts_the_value_and_keeps_the_hue(name, sign):
    pixels = np.full((4, 4, 3), (120, 60, 30), np.uint8)
    changed = corrupt(pixels, name, 2, side=8)[0, 0].astype(float)
    assert changed[0] == pytest.approx(120 + sign * 0.2 * 255, abs=1)
    np.testing.assert_allclose(changed / changed[0], (1.0, 0.5, 0.25), atol=0.02)


def test_saturation_of_gray_stays_zero():
    gray = np.full((4, 4, 3), 90, np.uint8)
    np.testing.assert_array_equal(corrupt(gray, "saturate", 5, side=8), gray)


def test_a_large_image_is_corrupted_at_the_size_of_the_model():
    gray = np.full((256, 256, 3), 128, np.uint8)
    noisy = corrupt(gray, "noise", 1, side=64)
    blocks = noisy.reshape(64, 4, 64, 4, 3)
    assert (blocks == blocks[:, :1, :, :1]).all()  # reducing the image again does not average the noise
    assert abs(noisy.std() - 255 * 0.08) < 1.0


def test_every_corruption_has_five_severities():
    assert all(len(parameters) == len(SEVERITIES) for _, parameters in corruptions._CORRUPTIONS.values())


# --- Settings, gates and report ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("names", "message"),
    [(["jpg"], "unknown corruption `jpg`. Did you mean `jpeg`"), (["dark", "dark"], "listed twice: remove one")],
)
def test_unknown_and_repeated_corruptions_are_refused(names, message):
    with pytest.raises(ValueError, match=message):
        EvaluationOptions(corruptions=names)


def values(accuracy, **key):
    parts = tuple(key.items())
    metrics = {metric.name: accuracy for metric in METRICS}
    return SliceMetrics(name=slice_name(parts), key=parts, examples=100, metrics=metrics)


METRICS = tasks.get("classification").evaluation.metrics(3)
EVALUATION = EvaluationResult(
    task="classification",
    split="test",
    classes=("a", "b"),
    count_unit="images",
    metrics=METRICS,
    candidate=(values(0.8), values(0.7, camera="b")),
    corrupted=(
        values(0.6, corruption="jpeg"),
        *(values(0.7 - 0.05 * (5 - n), corruption="jpeg", severity=str(n)) for n in SEVERITIES),
        values(0.2, corruption="dark"),
        *(values(0.1 * (5 - n), corruption="dark", severity=str(n)) for n in SEVERITIES),
    ),
)


def test_the_report_has_a_row_per_corruption_the_worst_first():
    table = metric_tables.corruption_table(EVALUATION)
    assert [[cell.text for cell in row][:1] for row in table.rows] == [["dark"], ["jpeg"]]
    assert [cell.text for cell in table.rows[0][1:]] == [
        *("0.4000", "0.3000", "0.2000", "0.1000", "0.0000"),
        *("0.2000", "\N{MINUS SIGN}0.6000", "0.2500"),
    ]
    assert len(table.columns) == len(table.rows[0]) == 9
    assert metric_tables.corruption_table(EVALUATION.model_copy(update={"corrupted": ()})) is None


def test_only_bounds_that_name_a_corruption_apply_to_it():
    def results(bounds, **more):
        options = EvaluationOptions(thresholds={"accuracy": 0.0}, slice_thresholds={"accuracy": bounds}, **more)
        report = gates.apply_gates(EVALUATION, options)
        return {result.slice: result.passed for result in report.results if "slice" in result.setting}

    assert results(0.5) == {"camera = b": True}
    assert results({"corruption = jpeg": 0.61, "corruption = dark, severity = 1": 0.4}) == {
        "corruption = jpeg": False,
        "corruption = dark, severity = 1": True,
    }
    assert results({"corruption": 0.3}) == {"corruption = jpeg": True, "corruption = dark": False}
    assert results({"camera": 0.5}, slice_gaps={"accuracy": 0.2}) == {"camera = b": True}
