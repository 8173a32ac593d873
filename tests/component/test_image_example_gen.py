"""ImageExampleGen on real folders: every file is used or quarantined, none is lost."""

import hashlib
import json
import os
from pathlib import Path

import apache_beam as beam
import numpy as np
import pytest
import tensorflow as tf

from components.image_example_gen import (
    artifact,
    beam_exchange,
    beam_steps,
    errors,
    folder_listing,
    layouts,
    listing_tasks,
    mixed_shards,
    shards,
    tables,
)
from components.image_example_gen.beam_exchange import BeamExchange
from components.image_example_gen.dataset import inspect_dataset
from components.image_example_gen.entries import Entry
from components.image_example_gen.executor import Executor
from components.image_example_gen.options import DataOptions, ExampleGenOptions
from components.image_example_gen.splits import Record
from trainer_module import features
from trainer_module.model_input import Geometry


@pytest.fixture
def generate(tmp_path, run_image_example_gen):
    """Runs the executor; returns parsed examples by split, the summary and the quarantined files."""

    def run(location, **settings):
        data = DataOptions(**settings)
        dataset = inspect_dataset(str(location), data)
        options = ExampleGenOptions(
            data=data, classes=dataset.classes, columns=dataset.columns, label_features=dataset.label_features
        )
        examples, quarantine = run_image_example_gen(location, options)
        assert examples.span == dataset.span
        assert artifact.ClassNames.read(examples.uri).names == dataset.classes
        by_split = {}
        for name in json.loads(examples.split_names):
            files = tf.io.gfile.glob(f"{examples.uri}/Split-{name}/*")
            records = tf.data.TFRecordDataset(files).as_numpy_iterator()
            by_split[name] = [tf.train.Example.FromString(record) for record in records]
        assert {path.name for path in (tmp_path / "examples").iterdir()} == {f"Split-{name}" for name in by_split} | {
            "classes.json"
        }
        contents = artifact.Quarantine.read(quarantine.uri)
        return by_split, contents.summary, contents.files

    return run


def value(example, key):
    feature = example.features.feature[key]
    return feature.int64_list.value[0] if feature.int64_list.value else feature.bytes_list.value[0]


def test_the_raw_example_contains_all_features(class_folders, generate):
    root = class_folders({"cat": 30, "dog": 30})
    by_split, summary, bad = generate(root)
    assert bad == ()
    assert summary.examples == 60 and summary.quarantined == 0
    assert set(by_split) == {"train", "validation", "test"}
    seen = {}
    for examples in by_split.values():
        for example in examples:
            name = value(example, features.IMAGE_FILENAME).decode()
            seen[name] = example
            assert value(example, features.IMAGE_ENCODED) == (root / name).read_bytes()
            assert value(example, features.CLASS_TEXT).decode() == name.split("/")[0]
            assert value(example, features.IMAGE_FORMAT) == b"PNG"
            assert (value(example, features.IMAGE_HEIGHT), value(example, features.IMAGE_WIDTH)) == (12, 10)
            assert value(example, features.SLICE_RESOLUTION) == b"small"
            assert value(example, features.SLICE_ORIENTATION) == b"portrait"
    assert len(seen) == 60


@pytest.mark.parametrize("block_bytes", [12, 100, 4096])
def test_examples_of_any_size_are_copied_to_their_splits(tmp_path, monkeypatch, block_bytes):
    monkeypatch.setattr(beam_steps, "_BLOCK_BYTES", block_bytes)
    examples = [bytes(range(256)) * (size // 256) + b"x" * (size % 256) for size in (0, 1, 3000, 0, 84, 85, 20_000)]
    split_of = ["test", "train", "", "train", "train", "test", "train"]
    folder = shards.WorkFolder(str(tmp_path))
    with tf.io.TFRecordWriter(folder.path(shards.EXAMPLES, 0)) as writer:
        for example in examples:
            writer.write(example)
    folder.write(shards.SPLITS, 0, {"splits": split_of, "num_shards": 1})
    split_dirs = {split: str(tmp_path / split) for split in ("train", "test")}
    for directory in split_dirs.values():
        os.makedirs(directory)
    beam_steps.WriteSplits(folder, split_dirs)([0])
    for split, directory in split_dirs.items():
        (path,) = tf.io.gfile.glob(f"{directory}/*")
        expected = [example for example, its_split in zip(examples, split_of, strict=True) if its_split == split]
        assert list(tf.data.TFRecordDataset(path).as_numpy_iterator()) == expected


def test_identical_files_are_never_in_two_splits(class_folders, generate, make_image):
    root = class_folders({"cat": 20, "dog": 20})
    for index in range(40):
        image = make_image()
        for number in range(3):
            (root / "cat" / f"copy-{index}-{number}.png").write_bytes(image)
    by_split, _, _ = generate(root)
    digests = {name: {value(e, features.IMAGE_SHA256) for e in examples} for name, examples in by_split.items()}
    assert not digests["train"] & digests["test"]
    assert not digests["train"] & digests["validation"]
    assert not digests["validation"] & digests["test"]


def test_split_folders_are_kept(class_folders, generate):
    root = class_folders({"train/a": 8, "train/b": 8, "validation/a": 2, "validation/b": 2, "test/a": 3, "test/b": 1})
    by_split, _, _ = generate(root)
    assert {name: len(examples) for name, examples in by_split.items()} == {"train": 16, "validation": 4, "test": 4}
    for split, examples in by_split.items():
        assert all(value(e, features.IMAGE_FILENAME).decode().startswith(f"{split}/") for e in examples)


def test_metadata_columns_become_slices(class_folders, generate):
    root = class_folders({"a": 10, "b": 10})
    (root / "metadata.csv").write_text("filename,camera\na/0.png,north\nb/1.png,\n")
    by_split, _, _ = generate(root)
    cameras = {
        value(example, features.IMAGE_FILENAME).decode(): value(example, "slice/camera").decode()
        for examples in by_split.values()
        for example in examples
    }
    assert len(cameras) == 20
    assert cameras["a/0.png"] == "north"
    assert cameras["b/1.png"] == cameras["a/1.png"] == tables.UNKNOWN


def test_corrections_are_applied_and_recorded(class_folders, generate, tmp_path):
    root = class_folders({"cat": 10, "dog": 10})
    table = tmp_path / "fixed.csv"
    table.write_text("filename,action,label\ncat/0.png,relabel,dog\ncat/1.png,drop,\n")
    by_split, summary, bad = generate(root, corrections=str(table))
    label_of = {
        value(example, features.IMAGE_FILENAME).decode(): value(example, features.CLASS_TEXT).decode()
        for examples in by_split.values()
        for example in examples
    }
    assert label_of["cat/0.png"] == "dog" and "cat/1.png" not in label_of and len(label_of) == 19
    assert summary.corrections == {"relabel": 1, "drop": 1} and bad == ()
    contents = artifact.Quarantine.read(str(tmp_path / "quarantine"))
    assert [(each.path, each.action, each.after) for each in contents.corrections] == [
        ("cat/0.png", "relabel", ("dog",)),
        ("cat/1.png", "drop", ("cat",)),
    ]


def damage(root: Path, image: bytes) -> dict[str, str]:
    """Writes one unusable file of each kind; returns the expected reasons."""
    (root / "a" / "truncated.png").write_bytes(image[: len(image) // 2])
    (root / "a" / "text.jpg").write_text("words")
    (root / "b" / "empty.jpg").touch()
    (root / "b" / "folder").mkdir()
    (root / "b" / "folder" / "deep.png").write_bytes(image)
    (root / "b" / ".hidden").write_text("ignored")
    return {
        "a/text.jpg": "not an image file",
        "a/truncated.png": "damaged or truncated PNG",
        "b/empty.jpg": "empty file",
        "b/folder/deep.png": "in a folder inside a class folder",
    }


def test_unusable_files_are_quarantined_with_their_reason(class_folders, generate, make_image):
    root = class_folders({"a": 30, "b": 30})
    expected = damage(root, make_image(64, 64))
    by_split, summary, bad = generate(root, max_bad_fraction=0.1)
    assert sum(len(examples) for examples in by_split.values()) == summary.examples == 60
    assert summary.quarantined == 4
    assert [file.path for file in bad] == sorted(expected)
    for file in bad:
        assert file.reason.startswith(expected[file.path])


def test_too_many_unusable_files_stop_the_run(class_folders, generate, make_image):
    root = class_folders({"a": 30, "b": 30})
    damage(root, make_image(64, 64))
    with pytest.raises(errors.TooManyBadFilesError, match=r"4 of 64 files \(6\.2%\)[\s\S]*b/empty\.jpg: empty file"):
        generate(root)


def test_a_class_without_usable_images_stops_the_run(class_folders, generate):
    root = class_folders({"a": 30, "b": 2})
    for path in (root / "b").iterdir():
        path.write_bytes(b"")
    with pytest.raises(errors.ClassWithoutTrainingImagesError, match="class `b`"):
        generate(root, max_bad_fraction=0.5)


def test_names_with_spaces_and_other_alphabets(class_folders, generate):
    root = class_folders({"Käse & Wein": 8, "[draft] *": 8})
    by_split, _, _ = generate(root)
    names = {value(e, features.CLASS_TEXT).decode() for examples in by_split.values() for e in examples}
    assert names == {"Käse & Wein", "[draft] *"}


def test_hidden_folders_are_not_classes(class_folders, generate, make_image):
    root = class_folders({"a": 20, "b": 20})
    for folder in (".ipynb_checkpoints", ".git"):
        (root / folder).mkdir()
        (root / folder / "x.png").write_bytes(make_image())
    by_split, summary, bad = generate(root)
    assert summary.examples == 40 and bad == ()
    assert {value(e, features.CLASS_TEXT) for examples in by_split.values() for e in examples} == {b"a", b"b"}


def test_images_outside_of_the_class_folders_are_quarantined(class_folders, generate, make_image):
    root = class_folders({"train/a": 20, "train/b": 20})
    (root / "IMG_1.JPG").write_bytes(make_image(format_="JPEG"))
    (root / "train" / "stray.png").write_bytes(make_image())
    (root / "LICENSE").write_text("free")
    _, summary, bad = generate(root, max_bad_fraction=0.1)
    assert [file.path for file in bad] == ["IMG_1.JPG", "train/stray.png"]
    assert all(file.reason == "not inside a class folder; it is not used" for file in bad)
    assert summary.quarantined == 2


def test_a_class_that_cannot_be_in_every_split_stops_the_run(class_folders, generate):
    with pytest.raises(
        errors.ClassTooSmallError, match="`b` has 2 different images to divide, too few for one in each"
    ):
        generate(class_folders({"a": 20, "b": 2}))


def test_small_classes_are_in_every_split(class_folders, generate):
    by_split, summary, _ = generate(class_folders({"a": 12, "b": 3}))
    assert {name: len(examples) for name, examples in by_split.items()} == {"train": 9, "validation": 3, "test": 3}
    assert all(summary.splits[name].classes.keys() == {"a", "b"} for name in by_split)


def test_every_usable_image_can_be_decoded_to_grey(tmp_path):
    from PIL import Image

    from components.image_example_gen import image_file
    from trainer_module import preprocessing

    path = tmp_path / "print.jpg"
    Image.new("CMYK", (8, 8), (10, 200, 30, 40)).save(path)
    image_file.examine(image_file.prepare(path.read_bytes(), DataOptions(max_pixels=10_000)))
    assert preprocessing.decode_and_resize(tf.constant([path.read_bytes()]), Geometry.of(8), 1).shape == (1, 8, 8, 1)


def test_files_are_mixed_over_shards():
    entries = [Entry(f"{name}/{i}.png", 100) for name in "ab" for i in range(700)]
    made = shards.make_shards(entries, files_per_shard=500)
    assert sorted(entry for shard in made for entry in shard.entries) == sorted(entries)
    assert {shard.num_shards for shard in made} == {len(made)} == {3}
    for shard in made:
        share = sum(entry.path.startswith("a/") for entry in shard.entries[:100]) / 100
        assert 0.3 < share < 0.7


def test_large_files_make_more_shards():
    assert len(shards.make_shards([Entry(f"{i}", 200 * 2**20) for i in range(10)])) == 4


def test_many_shards_lose_nothing(class_folders, generate, monkeypatch):
    monkeypatch.setattr(shards, "_BYTES_PER_SHARD", 2000)
    root = class_folders({"a": 30, "b": 30})
    by_split, summary, bad = generate(root)
    names = sorted(value(e, features.IMAGE_FILENAME).decode() for examples in by_split.values() for e in examples)
    assert names == sorted(f"{name}/{i}.png" for name in "ab" for i in range(30))
    assert summary.examples == 60 and bad == ()


def test_a_layout_can_yield_several_classes_and_boxes(class_folders, generate, monkeypatch):
    def list_entries(folder, options):
        entries = [
            Entry(
                f"raw/{index}.png",
                label=(
                    (features.CLASS_TEXT, ("cat", "dog") if index % 2 else ("cat",)),
                    ("image/object/bbox/xmin", (0.25, 0.5)),
                    ("image/object/is_crowd", (0, index)),
                ),
            )
            for index in range(60)
        ]
        return layouts.Listing(
            (features.CLASS_TEXT, "image/object/bbox/xmin", "image/object/is_crowd"),
            tuple(entries),
            class_names=frozenset({"cat", "dog"}),
        )

    boxes = layouts.LayoutSpec(name="boxes", detect=layouts.get("tfrecord").detect, list_entries=list_entries)
    monkeypatch.setattr(layouts, "names", lambda: ["boxes"])
    monkeypatch.setattr(layouts, "get", {"boxes": boxes}.__getitem__)
    by_split, summary, bad = generate(class_folders({"raw": 60}), layout="boxes")
    assert bad == () and summary.examples == 60
    for split, examples in by_split.items():
        for example in examples:
            index = int(value(example, features.IMAGE_FILENAME).decode()[4:-4])
            feature = example.features.feature
            classes = [b"cat", b"dog"] if index % 2 else [b"cat"]
            assert feature[features.CLASS_TEXT].bytes_list.value == classes
            assert feature["image/object/bbox/xmin"].float_list.value == [0.25, 0.5]
            assert feature["image/object/is_crowd"].int64_list.value == [0, index]
        assert summary.splits[split].classes["cat"] == len(examples) > summary.splits[split].classes["dog"]


# --- Duplicates -------------------------------------------------------------------------------------------------


def test_conflicting_labels_are_quarantined_and_duplicates_reported(class_folders, generate, tmp_path):
    root = class_folders({"a": 40, "b": 40})
    (root / "b" / "wrong.png").write_bytes((root / "a" / "3.png").read_bytes())
    (root / "a" / "again.png").write_bytes((root / "a" / "5.png").read_bytes())
    by_split, summary, bad = generate(root, max_bad_fraction=0.1)
    assert [file.path for file in bad] == ["a/3.png", "b/wrong.png"]
    assert bad[1].reason == "conflicting labels: the same image has class a in a/3.png"
    assert summary.reasons == {"conflicting labels": 2}
    assert summary.duplicates["exact"] == artifact.DuplicateCounts(groups=2, duplicates=2, leaking_groups=0)
    groups = artifact.Quarantine.read(str(tmp_path / "quarantine")).duplicates
    exact = [[image.path for image in group.images] for group in groups if group.kind == "exact"]
    assert sorted(map(sorted, exact)) == [["a/3.png", "b/wrong.png"], ["a/5.png", "a/again.png"]]
    assert sum(map(len, by_split.values())) == 80


def test_near_duplicates_can_be_kept_together(class_folders, generate, rng, tmp_path):
    from PIL import Image

    root = class_folders({"a": 30, "b": 30})
    for index in range(20):
        original = Image.fromarray(rng.integers(0, 256, (8, 8, 3), dtype=np.uint8)).resize((64, 64))
        for quality in (40, 60, 90):
            original.save(root / "a" / f"{index}-{quality}.jpg", quality=quality)
    by_split, summary, _ = generate(root, near_duplicates="together")
    assert summary.duplicates["near"].groups >= 20
    assert summary.duplicates["near"].leaking_groups == 0
    split_of = {
        value(example, features.IMAGE_FILENAME).decode(): split
        for split, examples in by_split.items()
        for example in examples
    }
    for index in range(20):
        assert len({split_of[f"a/{index}-{quality}.jpg"] for quality in (40, 60, 90)}) == 1


# --- Other layouts ----------------------------------------------------------------------------------------------


def test_a_manifest(class_folders, generate):
    root = class_folders({"raw": 60})
    rows = [f"raw/{i}.png,{'cat' if i % 2 else 'dog'},{'test' if i < 10 else ''},c{i % 3}" for i in range(60)]
    (root / "manifest.csv").write_text("\n".join(["path,label,split,camera", *rows]))
    by_split, summary, bad = generate(root)
    assert bad == () and summary.examples == 60
    assert len(by_split["test"]) == 10
    for examples in by_split.values():
        for example in examples:
            number = int(value(example, features.IMAGE_FILENAME).decode()[4:-4])
            assert value(example, features.CLASS_TEXT) == (b"cat" if number % 2 else b"dog")
            assert value(example, "slice/camera").decode() == f"c{number % 3}"


def write_masks(root, rng, count, size=(12, 10)):
    for index in range(count):
        for folder, pixels in (
            ("images", rng.integers(0, 256, (*size, 3), dtype=np.uint8)),
            ("masks", rng.integers(0, 3, size, dtype=np.uint8)),
        ):
            path = root / folder / f"seq{index % 40:02d}_{index}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(conftest_encode(pixels))


def conftest_encode(pixels):
    import io

    from PIL import Image

    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG")
    return buffer.getvalue()


def test_masks(tmp_path, generate, rng):
    root = tmp_path / "street"
    write_masks(root, rng, 80)
    (root / "masks" / "seq00_0.png").write_bytes(conftest_encode(np.full((12, 10), 9, np.uint8)))
    (root / "masks" / "seq01_1.png").write_bytes(conftest_encode(np.zeros((5, 5), np.uint8)))
    by_split, summary, bad = generate(
        root, classes=["road", "car", "tree"], group_pattern=r"(seq\d+)_", max_bad_fraction=0.1
    )
    assert {file.path: file.reason.split(",")[0] for file in bad} == {
        "images/seq00_0.png": "its mask has id 9",
        "images/seq01_1.png": "its mask is 5 x 5",
    }
    assert summary.examples == 78
    split_of = {}
    for split, examples in by_split.items():
        for example in examples:
            name = value(example, features.IMAGE_FILENAME).decode()
            mask = tf.io.decode_png(value(example, features.MASK_ENCODED)).numpy()[..., 0]
            original = tf.io.decode_png((root / name.replace("images", "masks")).read_bytes()).numpy()[..., 0]
            assert (mask == original).all()
            present = {n.decode() for n in example.features.feature[features.MASK_CLASSES].bytes_list.value}
            assert present == {("road", "car", "tree")[i] for i in np.unique(mask)}
            assert features.CLASS_TEXT not in example.features.feature
            assert split_of.setdefault(name[7:12], split) == split


@pytest.mark.parametrize("suffix", ["tfrecord", "tfrecord.gz"])
def test_tfrecords_of_the_raw_contract(class_folders, generate, tmp_path, suffix):
    root = class_folders({"a": 30, "b": 30})
    first, _, _ = generate(root)
    target = tmp_path / "records"
    target.mkdir()
    for split, examples in first.items():
        options = tf.io.TFRecordOptions("GZIP" if suffix.endswith("gz") else "")
        with tf.io.TFRecordWriter(str(target / f"{split}-00000-of-00001.{suffix}"), options) as writer:
            for example in examples:
                example.features.feature["slice/camera"].bytes_list.value.append(b"north")
                writer.write(example.SerializeToString())
            if split == "train":
                writer.write(b"no example")
                example.features.feature[features.CLASS_TEXT].bytes_list.value[0] = b"c"
                writer.write(example.SerializeToString())
    (tmp_path / "examples").rename(tmp_path / "first")
    with pytest.raises(errors.DatasetError, match=r"class names are not known in advance\. Set data\.classes"):
        generate(target)
    second, summary, bad = generate(target, classes=["a", "b"], max_bad_fraction=0.1)
    assert {split: len(examples) for split, examples in second.items()} == {s: len(e) for s, e in first.items()}
    assert summary.examples == 60
    assert sorted(file.reason.split(": ")[-1] for file in bad) == [
        "class `c` is not in data.classes",
        "not a tf.Example",
    ]
    key = lambda example: value(example, features.IMAGE_FILENAME)  # noqa: E731
    for split, examples in first.items():
        for before, after in zip(sorted(examples, key=key), sorted(second[split], key=key), strict=True):
            assert value(after, "slice/camera") == b"north"
            assert value(before, features.IMAGE_SHA256) == value(after, features.IMAGE_SHA256)


def test_a_truncated_tfrecord_stops_the_run(class_folders, generate, tmp_path):
    generate(class_folders({"a": 30, "b": 30}))
    (source,) = (tmp_path / "examples" / "Split-train").iterdir()
    target = tmp_path / "records"
    target.mkdir()
    content = source.read_bytes()
    (target / "x.tfrecord").write_bytes(content[: len(content) - 50])
    (tmp_path / "examples").rename(tmp_path / "first")
    with pytest.raises(errors.DamagedContainerError, match=r"x\.tfrecord is damaged after example \d+"):
        generate(target, classes=["a", "b"], max_bad_fraction=0.1)


def test_any_file_system_that_tensorflow_reads(class_folders, generate, make_image):
    local = class_folders({"a": 30, "b": 30})
    (local / "metadata.csv").write_text("filename,camera\na/0.png,north\n")
    for path in local.rglob("*.*"):
        remote = f"ram://images/{path.relative_to(local)}"
        tf.io.gfile.makedirs(remote.rpartition("/")[0])
        with tf.io.gfile.GFile(remote, "wb") as file:
            file.write(path.read_bytes())
    here, _, _ = generate(local)
    there, summary, bad = generate("ram://images")
    assert bad == () and summary.examples == 60
    names = {split: {value(e, features.IMAGE_FILENAME) for e in examples} for split, examples in here.items()}
    assert {split: {value(e, features.IMAGE_FILENAME) for e in examples} for split, examples in there.items()} == names


def test_odd_names_and_unreadable_files(class_folders, generate, make_image):
    root = class_folders({"a": 30, "b": 30})
    with open(os.fsencode(root) + b"/a/caf\xe9.png", "wb") as file:
        file.write(make_image())
    (root / "a" / "new\nline.png").write_bytes(make_image())
    os.symlink(b"nowhere", os.fsencode(root) + b"/a/lost\xe9.png")
    by_split, summary, bad = generate(root, max_bad_fraction=0.1)
    assert [file.path for file in bad] == ["a/lost\ufffd.png"]
    names = {value(e, features.IMAGE_FILENAME).decode() for examples in by_split.values() for e in examples}
    assert {"a/caf\ufffd.png", "a/new\nline.png"} < names
    assert summary.examples == 62


def test_classes_that_have_changed_since_compilation_stop_the_run(class_folders, run_image_example_gen):
    root = class_folders({"a": 3, "b": 3})
    options = ExampleGenOptions(classes=("a", "c"))
    with pytest.raises(errors.ClassesChangedError, match=r"has 2 classes \(`a`, `b`\), and not the 2 that"):
        run_image_example_gen(root, options)


def test_examples_with_another_label_than_the_first_are_quarantined(tmp_path, generate, rng):
    root = tmp_path / "street"
    write_masks(root, rng, 80)
    settings = {"classes": ["road", "car", "tree"], "group_pattern": r"(seq\d+)_", "max_bad_fraction": 0.1}
    first, _, _ = generate(root, **settings)
    (tmp_path / "examples").rename(tmp_path / "first")
    target = tmp_path / "records"
    target.mkdir()
    with tf.io.TFRecordWriter(str(target / "x")) as writer:
        for examples in first.values():
            for example in examples:
                writer.write(example.SerializeToString())
        del example.features.feature[features.MASK_ENCODED]
        writer.write(example.SerializeToString())
    os.rename(target / "x", os.fsencode(target) + b"/caf\xe9.tfrecord")
    second, summary, bad = generate(target, **settings)
    assert [file.reason for file in bad] == [f"no feature {features.MASK_ENCODED}, which other examples have"]
    assert summary.examples == 80
    split_of = {}
    for split, examples in second.items():
        for example in examples:
            assert split_of.setdefault(value(example, features.IMAGE_FILENAME)[7:12], split) == split


def test_an_example_with_several_classes_is_quarantined(class_folders, generate, tmp_path):
    first, _, _ = generate(class_folders({"a": 30, "b": 30}))
    target = tmp_path / "records"
    target.mkdir()
    with tf.io.TFRecordWriter(str(target / "x.tfrecord")) as writer:
        for examples in first.values():
            for example in examples:
                writer.write(example.SerializeToString())
        example.features.feature[features.CLASS_TEXT].bytes_list.value[:] = [b"a", b"b"]
        writer.write(example.SerializeToString())
    (tmp_path / "examples").rename(tmp_path / "first")
    _, summary, bad = generate(target, classes=["a", "b"], max_bad_fraction=0.1)
    assert [file.reason for file in bad] == [f"2 classes (`a`, `b`); expected exactly one in {features.CLASS_TEXT}"]
    assert summary.examples == 60


def test_examples_with_any_number_of_classes_are_read_as_sets(class_folders, generate, tmp_path):
    first, _, _ = generate(class_folders({"a": 30, "b": 30}))
    target = tmp_path / "records"
    target.mkdir()
    expected = {}
    with tf.io.TFRecordWriter(str(target / "x.tfrecord")) as writer:
        examples = [example for examples in first.values() for example in examples]
        for number, example in enumerate(examples):
            names = [[b"b", b"a"], [b"a"], [], [b"b|a"]][number % 4]
            if names:
                example.features.feature[features.CLASS_TEXT].bytes_list.value[:] = names
            else:
                del example.features.feature[features.CLASS_TEXT]
            expected[value(example, features.IMAGE_FILENAME).decode()] = [["a", "b"], ["a"], [], ["a", "b"]][number % 4]
            writer.write(example.SerializeToString())
        example.features.feature[features.CLASS_TEXT].bytes_list.value[:] = [b"a", b"zebra"]
        example.features.feature[features.IMAGE_FILENAME].bytes_list.value[:] = [b"zebra.png"]
        writer.write(example.SerializeToString())
    (tmp_path / "examples").rename(tmp_path / "first")
    settings = {"classes": ["a", "b"], "max_bad_fraction": 0.1, "label_separator": "|"}
    by_split, summary, bad = generate(target, **settings)
    assert [file.reason for file in bad] == ["class `zebra` is not in data.classes"]
    read = {}
    for example in (example for examples in by_split.values() for example in examples):
        names = [name.decode() for name in example.features.feature[features.CLASS_TEXT].bytes_list.value]
        assert value(example, features.CLASS_COUNT) == len(names)
        read[value(example, features.IMAGE_FILENAME).decode()] = names
    assert read == expected and summary.examples == 60
    # Every class is in every split, however the sets overlap.
    assert all(set(counts.classes) == {"a", "b"} for counts in summary.splits.values())


def test_the_same_image_with_two_sets_of_classes_is_a_conflict(make_image, generate, tmp_path):
    root, rows = tmp_path / "sets", ["path,labels"]
    root.mkdir()
    for number in range(40):
        (root / f"{number}.png").write_bytes(make_image())
        rows.append(f"{number}.png,{['a|b', 'a', '', 'b'][number % 4]}")
    for name, labels in (("same", "b|a"), ("other", "a|b|c")):
        (root / f"{name}.png").write_bytes((root / f"{0 if name == 'same' else 1}.png").read_bytes())
        rows.append(f"{name}.png,{labels}")
    for number in range(12):
        (root / f"c{number}.png").write_bytes(make_image())
        rows.append(f"c{number}.png,c")
    (root / "manifest.csv").write_text("\n".join(rows))
    _, summary, bad = generate(root, max_bad_fraction=0.1, splits={"by": "class"})
    assert {file.path: file.reason for file in bad} == {
        "1.png": "conflicting labels: the same image has class a, b, c in other.png",
        "other.png": "conflicting labels: the same image has class a in 1.png",
    }
    assert summary.duplicates["exact"].groups == 2


def test_a_class_that_no_example_has_stops_the_run(class_folders, generate, tmp_path):
    generate(class_folders({"a": 30, "b": 30}))
    (tmp_path / "examples").rename(tmp_path / "first")
    with pytest.raises(errors.ClassWithoutTrainingImagesError, match="`zebra`"):
        generate(tmp_path / "first" / "Split-train", classes=["a", "b", "zebra"], splits={"by": "class"})


@pytest.mark.parametrize("most_direct", [256, 2])
def test_an_engine_divides_as_one_process(divide, tmp_path, monkeypatch, most_direct):
    monkeypatch.setattr(beam_exchange, "_MOST_DIRECT", most_direct)

    def image(number):
        content, label = number % 290, "ab"[number % 2]
        return Record(
            f"{number}",
            (label,),
            "test" if number % 50 == 7 else "",
            "" if number % 3 else f"g{number // 6}",
            hashlib.sha256(str(content).encode()).hexdigest(),
            "ab"[content % 2] if number != 290 else "other",
            int(hashlib.sha256(f"looks {content // 2}".encode()).hexdigest()[:15], 16) ^ content % 2,
        )

    records = [image(number) for number in range(300)]
    options = DataOptions(near_duplicates="together", splits={"by": "class"})
    engine = BeamExchange(lambda: beam.Pipeline(argv=["--runner=FnApiRunner"]), shards.WorkFolder(str(tmp_path)))
    expected = divide(records, options, ("test",))
    divided = divide(records, options, ("test",), per_shard=20, per_partition=40, exchange=engine)
    assert divided[:5] == expected[:5] and expected.refused.keys() == {0, 290}
    assert divided.tally.named == expected.tally.named
    assert expected.duplicates["near"].groups > 100


@pytest.mark.parametrize("kind", ["class folders", "spans of manifests"])
def test_an_engine_lists_and_mixes_as_one_process(class_folders, generate, tmp_path, monkeypatch, kind):
    root = class_folders({f"class-{number}": 12 for number in range(5)})
    (root / "class-3" / "lost.png").symlink_to("nowhere")
    settings = {"max_bad_fraction": 0.1}
    if kind == "spans of manifests":
        for folder in sorted(root.iterdir()):
            rows = [f"{path.name},{number % 2}" for number, path in enumerate(sorted(folder.iterdir()))]
            (folder / "manifest.csv").write_text("\n".join(["path,label", *rows]))
        root, settings = f"{root}/class-{{SPAN}}", settings | {"spans": "all"}
    expected = generate(root, **settings)
    for name in ("examples", "quarantine"):
        (tmp_path / name).rename(tmp_path / f"first-{name}")
    monkeypatch.setattr(folder_listing, "_FOLDERS_AT_A_TIME", 1)
    monkeypatch.setattr(listing_tasks, "_MOST_IN_PROCESS", 5)
    for module in (listing_tasks, mixed_shards):
        monkeypatch.setattr(module, "IMAGES_PER_PARTITION", 20)
        monkeypatch.setattr(module, "ENTRIES_PER_BLOCK", 8)

    def engine(executor, folder):
        exchanges.append(BeamExchange(lambda: beam.Pipeline(argv=["--runner=FnApiRunner"]), folder))
        return exchanges[-1]

    exchanges, write = [], mixed_shards.write
    monkeypatch.setattr(Executor, "_exchange", engine)

    def write_shared(entries, folder, exchange, files_per_shard):
        assert entries.is_shared and exchange is exchanges[0]
        return write(entries, folder, exchange, files_per_shard)

    monkeypatch.setattr(mixed_shards, "write", write_shared)
    assert generate(root, **settings) == expected and len(exchanges) == 1
    assert [file.path for file in expected[2]] == ["class-3/lost.png"]
