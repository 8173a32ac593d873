"""The contact sheet shows what training sees, pixel by pixel."""

import itertools

import numpy as np
import pytest
import tensorflow as tf
from PIL import Image

from components.image_example_gen.dataset import inspect_dataset
from pipeline.config import loading
from pipeline.config.messages import ConfigError
from pipeline.preview import contact_sheet
from trainer_module import drawing_font, features, mask_drawing, tasks

# The `images` preset trains a classifier, unless a test sets the task.
SEGMENTATION = ("model.name=unet", "task.name=segmentation", "augmentation.vertical_flip=true")


def configured(data, *overrides):
    size = ("transform.image_size=16",)
    loaded = loading.load("images", data=str(data), overrides=[*size, *overrides])
    dataset = inspect_dataset(loaded.data_location, loaded.data.options())
    return loaded, loaded.trainer_options(dataset.classes, dataset.ignore_id), dataset


def fail(reason):
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
def test_images_are_spread_over_the_classes(class_folders, counts, num, expected):
    loaded, options, dataset = configured(class_folders(counts))
    images = contact_sheet.read(loaded, options, dataset, num, fail)
    assert "".join(options.classes[image.label] for image in images) == expected
    assert len({image.name for image in images}) == len(expected)
    assert all(image.pixels.shape == (16, 16, 3) for image in images)


def test_images_of_other_splits_are_not_shown(class_folders):
    chosen = configured(class_folders({"train/a": 2, "train/b": 2, "test/a": 4, "test/b": 4}))
    assert {image.name[:5] for image in contact_sheet.read(*chosen, 12, fail)} == {"train"}


def test_an_unusable_image_is_reported_and_replaced(class_folders):
    data = class_folders({"a": 3, "b": 3})
    for name in ("a/0.png", "a/1.png"):
        (data / name).write_bytes(b"nothing")
    reported = []
    images = contact_sheet.read(*configured(data), 6, reported.append)
    assert [image.label for image in images].count(0) == 1
    assert sorted(reported) == [f"{name}: not an image file" for name in ("a/0.png", "a/1.png")]
    for path in data.rglob("*.png"):
        path.write_bytes(b"nothing")
    with pytest.raises(ConfigError, match="no usable image"):
        contact_sheet.read(*configured(data), 6, reported.append)


def test_images_of_16_bits_are_as_bright_as_in_training(class_folders):
    data = class_folders({"a": 2, "b": 2})
    for number, path in enumerate(sorted(data.rglob("*.png"))):
        path.write_bytes(tf.io.encode_png(np.full((9, 9, 1), 4000 + number, np.uint16)).numpy())
    for overrides, level in (((), 250), (("data.bit_depth=14",), 62), (("data.bit_depth=16",), 15)):
        images = contact_sheet.read(*configured(data, *overrides), 4, fail)
        assert {int(value) for image in images for value in np.unique(image.pixels)} == {level}


def test_tfrecord_files_are_read(tmp_path, make_image):
    def example(label):
        feature = {
            features.IMAGE_ENCODED: tf.train.Feature(bytes_list=tf.train.BytesList(value=[make_image()])),
            features.CLASS_TEXT: tf.train.Feature(bytes_list=tf.train.BytesList(value=[label])),
        }
        return tf.train.Example(features=tf.train.Features(feature=feature)).SerializeToString()

    with tf.io.TFRecordWriter(str(tmp_path / "x.tfrecord")) as writer:
        for serialized in [example(b"a")] * 5 + [b"\x07nothing", example(b"unknown")] + [example(b"b")] * 2:
            writer.write(serialized)
    chosen = configured(tmp_path, 'data.classes=["a", "b"]')
    images = contact_sheet.read(*chosen, 5, fail)
    assert [image.label for image in images] == [0, 1, 0, 1, 0]


def test_samples_are_those_of_training(class_folders):
    loaded, options, dataset = configured(
        class_folders({"a": 2, "b": 2}), "augmentation.mixup=0.4", "augmentation.contrast=0.3"
    )
    images = contact_sheet.read(loaded, options, dataset, 4, fail)
    samples = contact_sheet.augment(images, options)
    assert len(samples) == 4 and all(len(row) == contact_sheet.SAMPLES for row in samples)
    pixels = tf.constant(np.stack([image.pixels for image in images]))
    seed = tf.constant([loaded.training.seed, 2], tf.int64)
    change = tasks.get(options.task.name).augment(options)
    expected, shares = change(seed, pixels, tf.constant([0, 1, 0, 1], tf.int64))
    for row, pixels, share in zip(samples, expected.numpy(), shares.numpy(), strict=True):
        np.testing.assert_allclose(row[2].pixels, pixels, atol=0.5 + 1e-3)
        np.testing.assert_array_equal(row[2].label, share)
    again = contact_sheet.augment(images, options)
    assert all(np.array_equal(one.pixels, other.pixels) for one, other in zip(samples[0], again[0], strict=True))


def test_a_small_image_is_enlarged_without_smoothing(class_folders):
    loaded, options, dataset = configured(class_folders({"a": 2, "b": 2}))
    images = contact_sheet.read(loaded, options, dataset, 2, fail)
    sheet = np.asarray(contact_sheet.draw("images", images, contact_sheet.augment(images, options), options))
    enlarged = np.kron(images[0].pixels, np.ones((8, 8, 1), np.uint8))
    tops = [top for top in range(len(sheet) - 128) if np.array_equal(sheet[top : top + 128, 28 : 28 + 128], enlarged)]
    assert len(tops) == 1
    assert (sheet[tops[0] : tops[0] + 128, 28 + 128 : 28 + 128 + 20] == 255).all()  # the gap behind the originals
    assert (sheet[tops[0] + 128 : tops[0] + 146, 28 : 28 + 128] < 100).any()  # the class name


def masked_images(folder, mask, count, class_list="background\nroad\n"):
    (folder / "classes.txt").write_text(class_list)
    for name in ("images", "masks"):
        (folder / name).mkdir()
    for index in range(count):
        Image.fromarray(np.full((16, 16, 3), 100, np.uint8)).save(folder / "images" / f"{index}.png")
        Image.fromarray(mask).save(folder / "masks" / f"{index}.png")


def test_a_mask_is_painted_over_its_image_except_the_background(tmp_path):
    mask = np.zeros((16, 16), np.uint8)
    mask[4:12, 4:12] = 1
    masked_images(tmp_path, mask, 2)
    loaded, _, dataset = configured(tmp_path, *SEGMENTATION, "model.depth=1")
    sheet, count = contact_sheet.make(loaded, dataset, 5, fail)
    assert count == 2
    pixels = np.asarray(sheet)
    color = np.array(mask_drawing.palette(2)[1])
    painted = (1 - mask_drawing.ALPHA) * 100 + mask_drawing.ALPHA * color
    cells = 2 * (contact_sheet.SAMPLES + 1)
    assert (pixels == 100).all(axis=-1).sum() == pytest.approx(cells * (128**2 - 64**2), rel=0.2)
    moved = (np.abs(pixels - painted) <= 0.5).all(axis=-1).sum()
    assert moved == pytest.approx(cells * 64**2, rel=0.3)
    legend = pixels[-60:]
    assert (legend == color).all(axis=-1).any() and not (legend == mask_drawing.palette(1)[0]).all(axis=-1).any()


def test_boxes_are_drawn_where_the_augmentation_moves_them(tmp_path):
    lines = ["path,label,xmin,ymin,xmax,ymax"]
    for index in range(2):
        Image.fromarray(np.full((64, 64, 3), 100, np.uint8)).save(tmp_path / f"{index}.png")
        lines.append(f"{index}.png,cat,8,8,24,24")
    (tmp_path / "manifest.csv").write_text("\n".join(lines))
    model = ("model.name=detector", "model.weights='none'", "transform.normalization=backbone", "fine_tuning.epochs=0")
    still = [f"augmentation.{name}=0" for name in ("rotation", "zoom", "translation", "contrast", "brightness")]
    loaded, options, dataset = configured(
        tmp_path, "task.name=detection", *model, *still, "transform.image_size=64", "augmentation.horizontal_flip=true"
    )
    images = contact_sheet.read(loaded, options, dataset, 2, fail)
    draw, lefts = tasks.get("detection").drawing.draw, set()
    for sample in itertools.chain(*contact_sheet.augment(images, options)):
        drawn = draw(sample.pixels, sample.label, options.classes, None, 1)
        lefts.add(int(np.flatnonzero((drawn != sample.pixels).any(axis=(0, 2)))[0]))
    # As it is, and mirrored; the line is outside of the box.
    first, second = sorted(lefts)
    assert 4 <= first <= 8 and second == first + 32
    sheet, count = contact_sheet.make(loaded, dataset, 2, fail)
    assert count == 2 and not (np.asarray(sheet) == 100).all()


@pytest.mark.parametrize("source", ["file", "option"])
def test_an_image_with_ignored_pixels_is_usable(tmp_path, source):
    mask = np.zeros((16, 16), np.uint8)
    mask[:4] = 255
    masked_images(tmp_path, mask, 1, "background\nroad\n" + ("255 ignored\n" if source == "file" else ""))
    chosen = configured(tmp_path, *SEGMENTATION, *(["data.ignore_id=255"] if source == "option" else []))
    (image,) = contact_sheet.read(*chosen, 1, fail)
    np.testing.assert_array_equal(image.label, mask)


def test_text_that_is_too_wide_is_shortened_and_keeps_its_share():
    font = drawing_font.load(14)
    assert contact_sheet._shorten("cat: 55%", font, 128) == "cat: 55%"
    short = contact_sheet._shorten("a very long name of a class: 55%", font, 128)
    assert short.startswith("a very") and short.endswith("…: 55%") and font.getlength(short) <= 128
    short = contact_sheet._shorten("another very long name of a class", font, 128)
    assert short.endswith("…") and font.getlength(short) <= 128


def test_a_long_legend_has_several_lines():
    font = drawing_font.load(14)
    names = [f"class {index}" for index in range(30)]
    lines = contact_sheet._wrap(names, font, 400, box=18)
    assert [name for line in lines for name in line] == names and len(lines) > 3
    for line in lines:
        assert sum(18 + font.getlength(name) for name in line) + font.getlength("   ") * (len(line) - 1) <= 400
