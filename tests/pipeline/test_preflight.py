"""Checks before the first node: weights, disk space, and a sample of the images."""

import errno
import importlib
import io
import shutil
from collections import namedtuple

import keras
import numpy as np
import pytest
import tensorflow as tf
from PIL import Image

from components.image_example_gen import example_wire, folder_listing, listing_tasks, probe
from components.image_example_gen.entries import Entry
from components.image_example_gen.errors import DatasetError, TooManyBadFilesError
from pipeline.config import loading
from pipeline.config.messages import ConfigError
from pipeline.execution import beam_options, disk_space, preflight
from pipeline.execution.dataset import example_gen_options, prepare
from pipeline.execution.outcome import Outcome
from pipeline.nodes import NODE_IDS
from trainer_module import features

Usage = namedtuple("Usage", "total used free")


@pytest.fixture
def load(tmp_path):
    def run(data, *overrides, preset="images"):
        return loading.load(preset, data=str(data), overrides=[f"pipeline.root={tmp_path / 'runs'}", *overrides])

    return run


def check(config, *, from_node=NODE_IDS[0], to_node=NODE_IDS[-1], examples_exist=False):
    preflight.check(config, prepare(config), from_node=from_node, to_node=to_node, examples_exist=examples_exist)


def test_an_engine_lists_very_many_images(class_folders, load, tmp_path, monkeypatch):
    importlib.import_module("apache_beam")  # the first import keeps the frames of its callers, and what they refer to
    root = class_folders({"a": 4, "b": 4, "c": 4})
    expected = prepare(load(root))
    monkeypatch.setattr(listing_tasks, "IMAGES_PER_PARTITION", 5)
    monkeypatch.setattr(folder_listing, "_FOLDERS_AT_A_TIME", 1)
    in_files = prepare(load(root))
    assert not in_files.entries.is_shared and tuple(in_files.entries) == expected.entries
    monkeypatch.setattr(listing_tasks, "_MOST_IN_PROCESS", 3)
    monkeypatch.setattr(beam_options.BeamSection, "arguments", lambda self: ["--runner=FnApiRunner"])
    artifacts = tmp_path / "artifacts"
    dataset = prepare(load(root, "beam.runner=flink", f"pipeline.artifacts={artifacts}"))
    assert dataset.entries.is_shared and tuple(dataset.entries) == expected.entries
    assert dataset.fingerprint == expected.fingerprint == in_files.fingerprint
    assert [str(path) for path in artifacts.rglob(".listing-*")] == [dataset.entries.folder.location]
    del dataset
    assert not list(artifacts.rglob(".listing-*"))


# === Weights ===


def test_a_missing_weights_file(class_folders, load, tmp_path):
    root = class_folders({"a": 3, "b": 3})
    missing = tmp_path / "weights.h5"
    config = load(root, f"model.weights={missing}", preset="clothing")
    with pytest.raises(ConfigError, match=r"There is no weights file .*weights\.h5"):
        check(config)
    # Nodes before Trainer need no weights.
    check(config, to_node="Transform")
    missing.write_text("<html>Not found</html>")
    with pytest.raises(ConfigError, match=r"is not an HDF5 file\. Download it again"):
        check(config)
    missing.write_bytes(b"\x89HDF\r\n\x1a\n...")
    check(config)


@pytest.mark.parametrize(
    ("preset", "overrides", "key"),
    [
        ("clothing", [], "model.weights"),
        ("images", ["task.name=segmentation", "model.name=unet", "model.encoder=mobilenet_v2",
                    "transform.normalization=backbone"], "model.encoder_weights"),
    ],
)  # fmt: skip
def test_weights_that_cannot_be_downloaded(class_folders, load, tmp_path, monkeypatch, preset, overrides, key):
    def fail(name, url, **_):
        raise Exception(f"URL fetch failure on {url}: None -- [Errno -2] Name or service not known")

    monkeypatch.setattr(keras.utils, "get_file", fail)
    monkeypatch.setenv("KERAS_HOME", str(tmp_path / "keras"))
    config = load(class_folders({"a": 3, "b": 3}), *overrides, preset=preset)
    with pytest.raises(ConfigError, match=f'could not be downloaded.*set {key} = "/path/to/(.*h5)"') as raised:
        preflight.check_weights(config)
    # A copy in Keras' cache is used without a network.
    name = str(raised.value).rpartition("/path/to/")[2].partition('"')[0]
    (tmp_path / "keras" / "models").mkdir(parents=True)
    (tmp_path / "keras" / "models" / name).touch()
    preflight.check_weights(config)


def test_a_missing_saved_model_and_random_weights(class_folders, load, tmp_path):
    root = class_folders({"a": 3, "b": 3})
    frozen = ["model.backbone=saved_model", "fine_tuning.epochs=0"]
    config = load(root, *frozen, f"model.weights={tmp_path / 'hub'}", preset="clothing")
    with pytest.raises(ConfigError, match="There is no SavedModel in"):
        check(config)
    (tmp_path / "hub").mkdir()
    (tmp_path / "hub" / "saved_model.pb").touch()
    check(config)
    check(load(root, "model.weights=none", "fine_tuning.epochs=0", preset="clothing"))


# === Disk ===


def test_a_small_disk_is_refused_with_both_sizes(class_folders, load, tmp_path, monkeypatch):
    config = load(class_folders({"a": 3, "b": 3}))
    monkeypatch.setattr(shutil, "disk_usage", lambda path: Usage(10**9, 0, 12_345_678))
    with pytest.raises(ConfigError, match=r"runs.*needs about 50 MB, and the disk has 12\.3 MB free.*pipeline\.root=D"):
        check(config)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: Usage(10**9, 0, 60_000_000))
    check(config)


def test_the_size_of_the_dataset_counts(class_folders, load, tmp_path, monkeypatch):
    config = load(class_folders({"a": 3, "b": 3}), f"pipeline.artifacts={tmp_path / 'volume'}")
    dataset = prepare(config)
    assert dataset.num_bytes == sum(path.stat().st_size for path in (tmp_path / "images").rglob("*.png"))
    big = dataset.entries[0]._replace(size=3 * 10**9)
    monkeypatch.setattr(type(dataset), "num_bytes", property(lambda self: big.size))
    free = {"runs": 10**12, "volume": 5 * 10**9}
    monkeypatch.setattr(disk_space, "free_bytes", lambda path: free["volume" if "volume" in str(path) else "runs"])
    with pytest.raises(ConfigError, match=r"volume.*needs about 6\.35 GB.*5 GB free.*--set pipeline\.artifacts=DIR"):
        disk_space.check(config, dataset)
    # The examples of the last run are still there.
    disk_space.check(config, dataset, examples_exist=True)
    free["volume"] = 10**10
    disk_space.check(config, dataset)


def test_the_free_space_of_a_folder_that_does_not_exist(tmp_path):
    assert disk_space.free_bytes(tmp_path / "a" / "b") == pytest.approx(shutil.disk_usage(tmp_path).free, rel=0.1)


@pytest.mark.parametrize(
    "error",
    [
        OSError(errno.ENOSPC, "No space left on device", "/runs/x/model.keras"),
        tf.errors.ResourceExhaustedError(
            None,
            None,
            "{{function_node __wrapped__SaveV2_device_/job:localhost/replica:0/task:0/device:CPU:0}} "
            "/runs/x/part; No space left on device [Op:SaveV2]",
        ),
        RuntimeError("OSError: [Errno 28] No space left on device [while running 'Work/ParDo']"),
    ],
)
def test_a_full_disk_is_one_line(tmp_path, error):
    outcome = Outcome(tmp_path / "x" / "run.log", error=("Trainer", error))
    assert outcome.cause is not None and "\n" not in outcome.cause
    assert outcome.cause.startswith("the disk is full: ")
    assert "could not be written. Free some space, or use another disk" in outcome.cause
    assert not any(word in outcome.cause for word in ("function_node", "[Op", "Errno", "Error", "while running"))


# === A sample of the images ===


def truncated_png():
    buffer = io.BytesIO()
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)).save(buffer, "PNG")
    return buffer.getvalue()[:4000]


def refuse(config):
    dataset = prepare(config)
    probe.refuse_unusable(dataset, example_gen_options(config, dataset))


def write_masks(root, count, value):
    for name in ("images", "masks"):
        (root / name).mkdir(parents=True)
    for index in range(count):
        Image.new("RGB", (8, 8), (index % 256, 3, 7)).save(root / "images" / f"{index:04d}.png")
        Image.fromarray(np.full((8, 8), value, np.uint8)).save(root / "masks" / f"{index:04d}.png")
    (root / "classes.txt").write_text("background\nobject\n")


def test_masks_that_are_all_unusable(load, tmp_path, monkeypatch):
    write_masks(tmp_path / "street", 250, 7)
    config = load(tmp_path / "street", "task.name=segmentation", "model.name=unet")
    with pytest.raises(TooManyBadFilesError) as raised:
        refuse(config)
    message = str(raised.value)
    assert "All of the 100 files that were examined are unusable" in message
    assert message.count("id 7") == 1, "the reason is reported once"
    assert "(images/0000.png, images/0002.png, …)" in message
    assert "max_bad_fraction" not in message
    # One usable file is enough to go on.
    Image.new("L", (8, 8), 1).save(tmp_path / "street" / "masks" / "0247.png")
    refuse(config)


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"", "empty file"),
        (b"RIFF....WEBPVP8 ", "damaged WebP file"),
        (truncated_png(), "damaged or truncated PNG"),
        (b"<html>", "not an image file"),
    ],
)
def test_images_that_are_all_unusable(class_folders, load, content, reason):
    root = class_folders({"a": 5, "b": 5})
    for path in root.rglob("*.png"):
        path.write_bytes(content)
    with pytest.raises(DatasetError, match=rf"All of the 10 files[\s\S]*10 files: {reason}"):
        refuse(load(root))


def test_only_one_image_of_a_usable_dataset_is_examined(class_folders, load, monkeypatch):
    examined = []
    monkeypatch.setattr(probe, "_examine", lambda candidate, options: examined.append(candidate.filename))
    refuse(load(class_folders({"a": 5, "b": 5})))
    assert examined == ["a/0.png"]


def test_small_images_without_masks_need_no_decoder_of_tensorflow(class_folders, load, monkeypatch):
    root = class_folders({"a": 5, "b": 5})
    monkeypatch.setattr(probe.image_file, "prepare", None)
    refuse(load(root))
    with pytest.raises(TypeError):
        refuse(load(root, "data.max_pixels=10"))


@pytest.mark.parametrize(("number", "expected"), [(3, [0, 1, 2]), (10, [0, 2, 5, 7])])
def test_the_sample_is_evenly_spread(number, expected):
    entries = [Entry(str(index)) for index in range(number)]
    assert [int(entry.path) for entry in probe.evenly_spread(entries, 4)] == expected


def test_examples_of_containers_are_sampled(tmp_path, load):
    (tmp_path / "records").mkdir()
    for part in range(2):
        with tf.io.TFRecordWriter(str(tmp_path / "records" / f"train-{part}.tfrecord")) as writer:
            for _ in range(80):
                values = {features.IMAGE_ENCODED: [b"no image"], features.CLASS_TEXT: [b"a"]}
                writer.write(example_wire.example(map(example_wire.bytes_feature, values, values.values())))
    with pytest.raises(TooManyBadFilesError, match=r"All of the 100 files[\s\S]*train-0\.tfrecord#0"):
        refuse(load(tmp_path / "records", 'data.classes=["a", "b"]'))


def test_listed_files_that_cannot_be_used_stop_before_any_is_read(class_folders, load, make_image):
    root = class_folders({"a": 20, "b": 20})
    for index in range(10):
        (root / f"stray-{index}.png").write_bytes(make_image())
    with pytest.raises(TooManyBadFilesError, match=r"10 of 50 files \(20\.0%\)") as raised:
        prepare(load(root))
    # 20 % are exceptions: the advice is a value with which the next run passes.
    advice = str(raised.value).rpartition("--set ")[2].rstrip(".")
    assert prepare(load(root, advice)).entries
    (root / "stray-10.png").write_bytes(make_image())
    with pytest.raises(TooManyBadFilesError) as raised:
        prepare(load(root))
    assert "raise" not in str(raised.value) and "--set" not in str(raised.value)


# === Colours ===


@pytest.mark.parametrize(
    ("kinds", "channels"),
    [(("L", "grey RGB", "JPEG", "16 bits"), 1), (("L", "RGB"), 3), (("L", "damaged"), 1), (("palette",), 3)],
)
def test_auto_reads_a_dataset_without_colours_as_grey(load, tmp_path, kinds, channels):
    grey = Image.fromarray(np.random.default_rng(1).integers(0, 256, (9, 8), dtype=np.uint8))
    red = Image.new("RGB", (8, 9), (200, 10, 10))
    images = {
        "L": (grey, "PNG"),
        "grey RGB": (grey.convert("RGB"), "PNG"),
        "JPEG": (grey.convert("RGB"), "JPEG"),
        "16 bits": (grey.convert("I;16"), "PNG"),
        "RGB": (red, "PNG"),
        "palette": (red.convert("P"), "PNG"),
    }
    for index in range(20):
        path = tmp_path / "data" / "ab"[index % 2] / f"{index}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        kind = kinds[index // 2 % len(kinds)]
        if kind == "damaged":
            path.write_bytes(truncated_png()[:90])
        else:
            image, format_ = images[kind]
            image.save(path, format_)
    config = load(tmp_path / "data", "transform.channels=auto", "data.max_bad_fraction=0.9")
    dataset = prepare(config)
    options = config.trainer_options(dataset.classes, dataset.ignore_id, dataset.is_grey)
    assert options.transform.channels == options.transform.num_channels == channels
    # Without the key nothing is examined.
    unchanged = load(tmp_path / "data", "transform.channels=3", "data.max_bad_fraction=0.9")
    assert unchanged.trainer_options(("a",), is_grey=True).transform.channels == 3 and not prepare(unchanged).is_grey


def test_pretrained_backbones_get_three_channels(load, tmp_path):
    Image.new("L", (8, 8)).save(tmp_path / "x.png")
    backbone = ("model.name=transfer", "transform.normalization=backbone")
    config = load(tmp_path, "transform.channels=auto", *backbone)
    assert config.trainer_options(("a",), is_grey=True).transform.channels == 3
