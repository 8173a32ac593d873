"""ImageExampleGen on datasets whose masks or bit depths are misread easily: used, refused with advice, or reported."""

import hashlib
import io
import re

import numpy as np
import pytest
import tensorflow as tf
from PIL import Image

from components.image_example_gen import artifact
from components.image_example_gen.class_list import CLASSES_FILE
from components.image_example_gen.dataset import inspect_dataset
from components.image_example_gen.errors import AmbiguousMasksError, ClassWithoutPixelsError, TooManyBadFilesError
from components.image_example_gen.options import DataOptions, ExampleGenOptions
from trainer_module import features, input_pipeline, preprocessing
from trainer_module.model_input import FULL_WINDOW, Window

NUM = 24
SIZE = (8, 12)  # height, width
SPLITS = {"train": 0.5, "validation": 0.25, "test": 0.25, "by": "class"}


@pytest.fixture
def generate(run_image_example_gen):
    """Runs the executor; returns the features of every example by file name, the summary and the train files."""

    def run(location, **settings):
        data = DataOptions(splits=SPLITS, near_duplicates="off", **settings)
        dataset = inspect_dataset(str(location), data)
        options = ExampleGenOptions(
            data=data,
            classes=dataset.classes,
            ignore_id=dataset.ignore_id,
            colors=dataset.colors,
            ignored_colors=dataset.ignored_colors,
            label_features=dataset.label_features,
        )
        examples, quarantine = run_image_example_gen(location, options)
        by_name = {}
        for record in tf.data.TFRecordDataset(tf.io.gfile.glob(f"{examples.uri}/Split-*/*")).as_numpy_iterator():
            feature = tf.train.Example.FromString(record).features.feature
            by_name[feature[features.IMAGE_FILENAME].bytes_list.value[0].decode()] = feature
        return by_name, artifact.Summary.read(quarantine.uri), [f"{examples.uri}/Split-train/*"]

    return run


def png(pixels, **parameters):
    image = pixels if isinstance(pixels, Image.Image) else Image.fromarray(np.asarray(pixels))
    buffer = io.BytesIO()
    image.save(buffer, parameters.pop("format_", "PNG"), **parameters)
    return buffer.getvalue()


@pytest.fixture
def street(tmp_path, rng):
    """Writes images and masks: `mask(index, ids)` encodes ids [h, w] of 0 and 1."""

    def write(mask, classes="road\ncar\n", image=lambda index, pixels: png(pixels)):
        root = tmp_path / "street"
        for index in range(NUM):
            ids = np.zeros(SIZE, np.uint8)
            ids[2 : 4 + index % 4, 3:8] = 1
            pixels = rng.integers(0, 100, (*SIZE, 3), dtype=np.uint8) + ids[..., np.newaxis] * 100
            for folder, content in (("images", image(index, pixels)), ("masks", mask(index, ids))):
                (root / folder).mkdir(parents=True, exist_ok=True)
                (root / folder / f"{index:02d}.png").write_bytes(content)
        (root / CLASSES_FILE).write_text(classes)
        return root

    return write


def advised(error, setting):
    """Returns the value that a message advises for a setting."""
    value = re.search(rf'data\.{setting} = (\[.*?\]|"\w+")', str(error.value))[1]
    return [int(number) for number in value[1:-1].split(",")] if value.startswith("[") else value.strip('"')


def pixels_of(summary):
    return {name: sum(counts.pixels[name] for counts in summary.splits.values()) for name in ("road", "car")}


CAR_PIXELS = sum(5 * (2 + index % 4) for index in range(NUM))
PIXELS = {"road": NUM * SIZE[0] * SIZE[1] - CAR_PIXELS, "car": CAR_PIXELS}


@pytest.mark.parametrize(
    ("classes", "error"),
    [("road\ncar\n", TooManyBadFilesError), ("road\ncar\n255 ignored\n", ClassWithoutPixelsError)],
    ids=["unknown id", "ignored id"],
)
def test_binary_masks(street, generate, classes, error):
    root = street(lambda _, ids: png(ids * 255), classes)
    with pytest.raises(error) as stopped:
        generate(root)
    by_name, summary, _ = generate(root, mask_values=advised(stopped, "mask_values"))
    assert pixels_of(summary) == PIXELS and summary.warnings == ()
    assert len(by_name) == summary.examples == NUM
    assert {name: counts.classes for name, counts in summary.splits.items()} == {
        split: {"car": count, "road": count} for split, count in (("train", 12), ("validation", 6), ("test", 6))
    }


def test_masks_in_the_transparency(street, generate):
    def mask(_, ids):
        image = Image.new("RGBA", ids.shape[::-1])
        image.putalpha(Image.fromarray(ids * 255))
        return png(image)

    root = street(mask)
    with pytest.raises(TooManyBadFilesError, match="only in the transparency") as stopped:
        generate(root)
    assert pixels_of(generate(root, mask_source=advised(stopped, "mask_source"))[1]) == PIXELS


def test_a_palette_for_every_file(street, generate):
    def mask(index, ids):
        image = Image.fromarray(ids).convert("P")
        image.putpalette([0, 0, 0, *((200, 0, 0) if index % 3 else (0, 200, 0))])
        return png(image)

    root = street(mask)
    with pytest.raises(AmbiguousMasksError, match=r"id 1 is colour \(200, 0, 0\) in 16 of 24 masks") as stopped:
        generate(root)
    assert pixels_of(generate(root, mask_source=advised(stopped, "mask_source"))[1]) == PIXELS


def test_colours_are_read_whatever_the_palette(street, generate):
    colors = np.array([[128, 64, 128], [0, 0, 142]], np.uint8)

    def mask(index, ids):
        image = Image.fromarray(colors[ids])
        return png(image.quantize(2) if index % 2 else image)

    assert pixels_of(generate(street(mask, "road 128 64 128\ncar #00008e\n"))[1]) == PIXELS
    root = street(mask, "")
    (root / CLASSES_FILE).unlink()
    _, summary, _ = generate(root, mask_colors="cityscapes")
    assert pixels_of(summary) == PIXELS
    (warning,) = summary.warnings
    assert warning.startswith(
        "No mask has a pixel of class `sidewalk`, `building`, `wall`, `fence`, `pole` and 12 more"
    )


def test_rotated_images(street, generate):
    exif = Image.Exif()
    exif[0x0112] = 6

    def image(index, pixels):
        return png(pixels, format_="JPEG", exif=exif if index % 2 else Image.Exif())

    stored = street(lambda _, ids: png(ids), image=image)
    with pytest.raises(TooManyBadFilesError, match="12 of 24 files") as stopped:
        generate(stored)
    by_name, summary, _ = generate(stored, mask_orientation=advised(stopped, "mask_orientation"))
    assert pixels_of(summary) == PIXELS and summary.warnings == ()
    for name, feature in by_name.items():
        ids = tf.io.decode_png(feature[features.MASK_ENCODED].bytes_list.value[0]).numpy()[..., 0]
        luma = tf.io.decode_jpeg(feature[features.IMAGE_ENCODED].bytes_list.value[0], channels=1).numpy()[..., 0]
        upright = np.rot90(luma, -1) if int(name[7:9]) % 2 else luma
        assert upright[ids == 1].mean() > upright[ids == 0].mean() + 50
    upright = street(lambda index, ids: png(np.rot90(ids, -1) if index % 2 else ids), image=image)
    _, summary, train_files = generate(upright)
    (warning,) = summary.warnings
    assert summary.bit_depth is None and input_pipeline.read_window(train_files) == FULL_WINDOW
    assert warning.startswith("12 images with masks are rotated by their EXIF orientation (6): images/01.png, ")


@pytest.fixture
def xrays(tmp_path, rng):
    """Writes 16-bit images of two classes with values of this many bits."""

    def write(bits_of):
        root = tmp_path / "xrays"
        for index in range(NUM):
            path = root / ("healthy" if index % 2 else "ill") / f"{index:02d}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            values = rng.integers(0, 2 ** bits_of(index), (*SIZE, 1))
            values[0, 0] = 2 ** bits_of(index) - 1
            path.write_bytes(tf.io.encode_png(values.astype(np.uint8 if bits_of(index) == 8 else np.uint16)).numpy())
        return root

    return write


def test_images_that_use_12_of_16_bits(xrays, generate):
    root = xrays(lambda _: 12)
    detected, summary, train_files = generate(root)
    assert summary.bit_depth == 12 and input_pipeline.read_window(train_files) == Window.of_bits(12)
    (warning,) = summary.warnings
    assert warning.startswith("24 images have 16 bits per channel and are read as 12 bits (detected ")
    configured, summary, _ = generate(root, bit_depth=12)
    assert configured == detected and "(as configured)" in summary.warnings[0]
    for name, feature in detected.items():
        original = (root / name).read_bytes()
        values = tf.io.decode_png(original, dtype=tf.uint16).numpy() >> 4
        encoded = feature[features.IMAGE_ENCODED].bytes_list.value[0]
        np.testing.assert_array_equal(tf.io.decode_image(encoded), values)
        assert feature[features.IMAGE_SHA256].bytes_list.value[0].decode() == hashlib.sha256(original).hexdigest()
        assert feature[features.mean_key(features.LUMA)].float_list.value[0] == pytest.approx(values.mean(), rel=1e-5)


def test_images_of_8_and_of_16_bits(xrays, generate):
    by_name, summary, _ = generate(xrays(lambda index: 8 if index % 4 == 0 else 10))
    detected, mixed = summary.warnings
    assert summary.bit_depth == 10 and detected.startswith("18 images have 16 bits per channel and are read as 10 bits")
    assert mixed.startswith("18 images have 16 bits per channel (healthy/01.png, healthy/03.png, …), and 6 have 8 (ill")
    assert all([*feature[features.IMAGE_WINDOW].int64_list.value] == [0, 1023] for feature in by_name.values())


def test_a_window_of_16_bit_images(xrays, generate):
    root = xrays(lambda _: 12)
    by_name, summary, train_files = generate(root, window=(1000, 3000))
    (warning,) = summary.warnings
    assert warning.startswith("24 images have 16 bits per channel and are read in the window [1000, 3000] (as c")
    assert summary.bit_depth is None and summary.window == Window(1000, 3000) == input_pipeline.read_window(train_files)
    for name, feature in by_name.items():
        original = tf.io.decode_png((root / name).read_bytes(), dtype=tf.uint16).numpy().astype(int)
        stored = tf.io.decode_image(feature[features.IMAGE_ENCODED].bytes_list.value[0])
        np.testing.assert_array_equal(stored, (original.clip(1000, 3000) - 1000) * 256 // 2001)
        # The served model reads the file itself in the same window.
        requested = preprocessing.decode(tf.constant((root / name).read_bytes()), 1, Window(1000, 3000))
        np.testing.assert_array_equal(requested, stored)
