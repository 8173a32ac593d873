"""ImageExampleGen on real folders: every file is used or quarantined, none is lost."""

import json
from pathlib import Path

import pytest
import tensorflow as tf
from tfx.proto import example_gen_pb2
from tfx.types import standard_artifacts
from tfx.utils import proto_utils

import components
from components.image_example_gen import executor, layout
from trainer_module import features


@pytest.fixture
def generate(tmp_path):
    """Runs the executor; returns parsed examples by split, the summary and the quarantine records."""

    def run(root: Path, **changes):
        found = layout.inspect(root)
        metadata = layout.find_metadata(root, None)
        options = executor.Options(
            **(
                {
                    "classes": found.classes,
                    "split_folders": found.split_folders,
                    "metadata_csv": str(metadata) if metadata else None,
                    "metadata_columns": found.metadata_columns,
                }
                | changes
            )
        )
        examples, quarantine = standard_artifacts.Examples(), components.Quarantine()
        examples.uri, quarantine.uri = str(tmp_path / "examples"), str(tmp_path / "quarantine")
        split = example_gen_pb2.Input.Split(name="pictures", pattern=found.pattern)
        executor.Executor().Do(
            {},
            {"examples": [examples], "quarantine": [quarantine]},
            {
                "input_base": str(root),
                "input_config": proto_utils.proto_to_json(example_gen_pb2.Input(splits=[split])),
                "options": options.model_dump_json(),
            },
        )
        by_split = {}
        for name in json.loads(examples.split_names):
            files = tf.io.gfile.glob(f"{examples.uri}/Split-{name}/*")
            records = tf.data.TFRecordDataset(files).as_numpy_iterator()
            by_split[name] = [tf.train.Example.FromString(record) for record in records]
        summary = json.loads((tmp_path / "quarantine" / executor.SUMMARY_FILE).read_text())
        lines = (tmp_path / "quarantine" / executor.QUARANTINE_FILE).read_text().splitlines()
        return by_split, summary, [json.loads(line) for line in lines]

    return run


def value(example, key):
    feature = example.features.feature[key]
    return feature.int64_list.value[0] if feature.int64_list.value else feature.bytes_list.value[0]


def test_the_raw_example_holds_everything(class_folders, generate):
    root = class_folders({"cat": 30, "dog": 30})
    by_split, summary, bad = generate(root)
    assert bad == []
    assert summary["examples"] == 60 and summary["quarantined"] == 0
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


def test_identical_files_are_never_on_two_sides(class_folders, generate, picture_bytes):
    root = class_folders({"cat": 20, "dog": 20})
    for index in range(40):
        copy = picture_bytes()
        for place in range(3):
            (root / "cat" / f"copy-{index}-{place}.png").write_bytes(copy)
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
    assert cameras["b/1.png"] == cameras["a/1.png"] == executor.NO_METADATA


def damage(root: Path, picture: bytes) -> dict[str, str]:
    """Plants one file of each kind; returns what must be said of it."""
    (root / "a" / "truncated.png").write_bytes(picture[: len(picture) // 2])
    (root / "a" / "text.jpg").write_text("words")
    (root / "b" / "empty.jpg").touch()
    (root / "b" / "folder").mkdir()
    (root / "b" / ".hidden").write_text("ignored")
    return {
        "a/text.jpg": "not a JPEG or PNG file",
        "a/truncated.png": "damaged or truncated PNG",
        "b/empty.jpg": "empty file",
        "b/folder": "a folder inside a class folder",
    }


def test_unusable_files_are_quarantined_with_their_reason(class_folders, generate, picture_bytes):
    root = class_folders({"a": 30, "b": 30})
    expected = damage(root, picture_bytes(64, 64))
    by_split, summary, bad = generate(root, max_bad_fraction=0.1)
    assert sum(len(examples) for examples in by_split.values()) == summary["examples"] == 60
    assert summary["quarantined"] == 4
    assert [record["path"] for record in bad] == sorted(expected)
    for record in bad:
        assert record["reason"].startswith(expected[record["path"]])


def test_too_many_unusable_files_stop_the_run(class_folders, generate, picture_bytes):
    root = class_folders({"a": 30, "b": 30})
    damage(root, picture_bytes(64, 64))
    with pytest.raises(executor.TooManyBadFilesError, match=r"4 of 64 files \(6\.2%\)[\s\S]*b/empty\.jpg: empty file"):
        generate(root)


def test_a_class_whose_pictures_are_all_bad_stops_the_run(class_folders, generate):
    root = class_folders({"a": 30, "b": 2})
    for path in (root / "b").iterdir():
        path.write_bytes(b"")
    with pytest.raises(executor.ClassWithoutTrainingPicturesError, match="class `b`"):
        generate(root, max_bad_fraction=0.5)


def test_names_with_spaces_and_other_alphabets(class_folders, generate):
    root = class_folders({"Käse & Wein": 8, "[draft] *": 8})
    by_split, _, _ = generate(root)
    names = {value(e, features.CLASS_TEXT).decode() for examples in by_split.values() for e in examples}
    assert names == {"Käse & Wein", "[draft] *"}


def test_hidden_folders_are_no_classes(class_folders, generate, picture_bytes):
    root = class_folders({"a": 20, "b": 20})
    for folder in (".ipynb_checkpoints", ".git"):
        (root / folder).mkdir()
        (root / folder / "x.png").write_bytes(picture_bytes())
    by_split, summary, bad = generate(root)
    assert summary["examples"] == 40 and bad == []
    assert {value(e, features.CLASS_TEXT) for examples in by_split.values() for e in examples} == {b"a", b"b"}


def test_pictures_outside_of_the_class_folders_are_reported(class_folders, generate, picture_bytes):
    root = class_folders({"train/a": 20, "train/b": 20})
    (root / "IMG_1.JPG").write_bytes(picture_bytes(format_="JPEG"))
    (root / "train" / "stray.png").write_bytes(picture_bytes())
    (root / "LICENSE").write_text("free")
    _, summary, bad = generate(root, max_bad_fraction=0.1)
    assert [record["path"] for record in bad] == ["IMG_1.JPG", "train/stray.png"]
    assert all(record["reason"] == "not inside a class folder; it is not used" for record in bad)
    assert summary["quarantined"] == 2


def test_an_empty_split_stops_the_run(class_folders, generate):
    with pytest.raises(executor.EmptySplitError, match="Split `test` has no usable picture"):
        generate(class_folders({"a": 20, "b": 20}), test=1e-9)


def test_grey_is_made_of_every_picture_that_is_used(tmp_path):
    from PIL import Image

    from components.image_example_gen import picture
    from trainer_module import preprocessing

    path = tmp_path / "print.jpg"
    Image.new("CMYK", (8, 8), (10, 200, 30, 40)).save(path)
    picture.examine(path.read_bytes(), 10_000)
    assert preprocessing.decode_and_resize(tf.constant([path.read_bytes()]), 8, 1).shape == (1, 8, 8, 1)


def test_files_are_mixed_over_shards():
    paths = [f"/data/{name}/{i}.png" for name in "ab" for i in range(700)]
    shards = executor.shards_of(paths, "/data")
    assert sorted(path for shard in shards for path in shard.paths) == sorted(paths)
    assert {shard.of for shard in shards} == {len(shards)} == {3}
    for shard in shards:
        share = sum("/a/" in path for path in shard.paths[:100]) / 100
        assert 0.3 < share < 0.7
