"""The sheet shows what training sees, pixel by pixel."""

import numpy as np
import pytest
import tensorflow as tf
from PIL import Image

from components.image_example_gen.dataset import inspect_dataset
from pipeline.config import loading
from pipeline.config.messages import ConfigError
from pipeline.preview import contact_sheet
from trainer_module import features, tasks


def configured(data, *overrides):
    size = ("transform.image_size=16",)
    loaded = loading.load("images", data=str(data), overrides=[*size, *overrides])
    return loaded, inspect_dataset(loaded.data_location, loaded.data.options())


def unused(reason):
    raise AssertionError(reason)


@pytest.mark.parametrize(
    ("counts", "num", "expected"),
    [
        ({"a": 5, "b": 2, "c": 5}, 7, "abcabca"),
        ({"a": 5, "b": 2, "c": 5}, 10, "abcabcacac"),
        ({name: 2 for name in "abcdefgh"}, 4, "aceg"),
        ({"a": 2, "b": 2}, 9, "abab"),
    ],
)
def test_pictures_are_spread_over_the_classes(class_folders, counts, num, expected):
    chosen, found = configured(class_folders(counts))
    pictures = contact_sheet.read(chosen, found, num, unused)
    assert "".join(picture.label for picture in pictures) == expected
    assert len({picture.name for picture in pictures}) == len(expected)
    assert all(picture.pixels.shape == (16, 16, 3) for picture in pictures)


def test_held_out_pictures_are_not_shown(class_folders):
    chosen, found = configured(class_folders({"train/a": 2, "train/b": 2, "test/a": 4, "test/b": 4}))
    assert {picture.name[:5] for picture in contact_sheet.read(chosen, found, 12, unused)} == {"train"}


def test_what_cannot_be_used_is_named_and_replaced(class_folders):
    data = class_folders({"a": 3, "b": 3})
    for name in ("a/0.png", "a/1.png"):
        (data / name).write_bytes(b"nothing")
    left_out = []
    pictures = contact_sheet.read(*configured(data), 6, left_out.append)
    assert [picture.label for picture in pictures].count("a") == 1
    assert sorted(left_out) == [f"{name}: not a JPEG, PNG or GIF file" for name in ("a/0.png", "a/1.png")]
    for path in data.rglob("*.png"):
        path.write_bytes(b"nothing")
    with pytest.raises(ConfigError, match="no picture that can be used"):
        contact_sheet.read(*configured(data), 6, left_out.append)


def test_records_are_read_too(tmp_path, picture_bytes):
    def example(label):
        feature = {
            features.IMAGE_ENCODED: tf.train.Feature(bytes_list=tf.train.BytesList(value=[picture_bytes()])),
            features.CLASS_TEXT: tf.train.Feature(bytes_list=tf.train.BytesList(value=[label])),
        }
        return tf.train.Example(features=tf.train.Features(feature=feature)).SerializeToString()

    with tf.io.TFRecordWriter(str(tmp_path / "x.tfrecord")) as writer:
        for serialized in [example(b"a")] * 5 + [b"\x07nothing", example(b"unknown")] + [example(b"b")] * 2:
            writer.write(serialized)
    chosen, found = configured(tmp_path, 'data.classes=["a", "b"]')
    assert [picture.label for picture in contact_sheet.read(chosen, found, 5, unused)] == ["a", "b", "a", "b", "a"]


def test_the_samples_are_what_training_sees(class_folders):
    chosen, found = configured(class_folders({"a": 2, "b": 2}), "augmentation.mixup=0.4", "augmentation.contrast=0.3")
    pictures = contact_sheet.read(chosen, found, 4, unused)
    samples = contact_sheet.samples_of(pictures, chosen, found.classes)
    assert len(samples) == 4 and all(len(row) == contact_sheet.SAMPLES for row in samples)
    options = chosen.trainer_options(found.classes)
    pixels = tf.constant(np.stack([picture.pixels for picture in pictures]))
    seed = tf.constant([chosen.training.seed, 2], tf.int64)
    expected, shares = tasks.get(options.task.name).augment(options)(seed, pixels, tf.constant([0, 1, 0, 1], tf.int64))
    for row, pixels, share in zip(samples, expected.numpy(), shares.numpy(), strict=True):
        np.testing.assert_allclose(row[2].pixels, pixels, atol=0.5 + 1e-3)
        np.testing.assert_array_equal(row[2].shares, share)
    again = contact_sheet.samples_of(pictures, chosen, found.classes)
    assert all(np.array_equal(one.pixels, other.pixels) for one, other in zip(samples[0], again[0], strict=True))


def test_a_small_picture_is_enlarged_sharply(class_folders):
    chosen, found = configured(class_folders({"a": 2, "b": 2}))
    pictures = contact_sheet.read(chosen, found, 2, unused)
    sheet = np.asarray(
        contact_sheet.draw(pictures, contact_sheet.samples_of(pictures, chosen, found.classes), chosen, ("a", "b"))
    )
    enlarged = np.kron(pictures[0].pixels, np.ones((8, 8, 1), np.uint8))
    tops = [top for top in range(len(sheet) - 128) if np.array_equal(sheet[top : top + 128, 28 : 28 + 128], enlarged)]
    assert len(tops) == 1
    assert (sheet[tops[0] : tops[0] + 128, 28 + 128 : 28 + 128 + 20] == 255).all()  # the gap behind the originals
    assert (sheet[tops[0] + 128 : tops[0] + 146, 28 : 28 + 128] < 100).any()  # the class's name


def test_a_mask_is_painted_upon_its_picture_but_for_the_background(tmp_path):
    (tmp_path / "classes.txt").write_text("background\nroad\n")
    for folder in ("images", "masks"):
        (tmp_path / folder).mkdir()
    for index in range(2):
        mask = np.zeros((16, 16), np.uint8)
        mask[4:12, 4:12] = 1
        Image.fromarray(np.full((16, 16, 3), 100, np.uint8)).save(tmp_path / "images" / f"{index}.png")
        Image.fromarray(mask).save(tmp_path / "masks" / f"{index}.png")
    overrides = ("task.name=segmentation", "model.name=unet", "model.depth=1", "augmentation.vertical_flip=true")
    chosen, found = configured(tmp_path, *overrides)
    sheet, count = contact_sheet.make(chosen, found, 5, unused)
    assert count == 2
    pixels = np.asarray(sheet)
    painted = (1 - contact_sheet._MASK_ALPHA) * 100 + contact_sheet._MASK_ALPHA * contact_sheet._colors()[1]
    cells = 2 * (contact_sheet.SAMPLES + 1)
    assert (pixels == 100).all(axis=-1).sum() == pytest.approx(cells * (128**2 - 64**2), rel=0.2)
    moved = (np.abs(pixels - painted) <= 0.5).all(axis=-1).sum()
    assert moved == pytest.approx(cells * 64**2, rel=0.3)


@pytest.mark.parametrize("said", ["file", "option"])
def test_ignored_pixels_are_no_reason_to_leave_a_picture_out(tmp_path, said):
    (tmp_path / "classes.txt").write_text("background\nroad\n" + ("255 ignored\n" if said == "file" else ""))
    for folder in ("images", "masks"):
        (tmp_path / folder).mkdir()
    mask = np.zeros((16, 16), np.uint8)
    mask[:4] = 255
    Image.fromarray(np.full((16, 16, 3), 100, np.uint8)).save(tmp_path / "images" / "0.png")
    Image.fromarray(mask).save(tmp_path / "masks" / "0.png")
    overrides = ("task.name=segmentation", "model.name=unet", "augmentation.vertical_flip=true")
    chosen, found = configured(tmp_path, *overrides, *(["data.ignore_id=255"] if said == "option" else []))
    (picture,) = contact_sheet.read(chosen, found, 1, unused)
    np.testing.assert_array_equal(picture.mask, mask)


def test_text_that_is_too_wide_is_shortened_and_keeps_its_share():
    font = contact_sheet._font(14)
    assert contact_sheet._shortened("cat: 55%", font, 128) == "cat: 55%"
    short = contact_sheet._shortened("a very long name of a class: 55%", font, 128)
    assert short.startswith("a very") and short.endswith("…: 55%") and font.getlength(short) <= 128
    short = contact_sheet._shortened("another very long name of a class", font, 128)
    assert short.endswith("…") and font.getlength(short) <= 128
