"""What a data folder may look like, and what is said of one that cannot be used."""

import pytest

from components.image_example_gen import layout


def test_class_folders(class_folders):
    root = class_folders({"dog": 3, "cat": 2})
    (root / ".hidden").mkdir()
    (root / "cat" / ".DS_Store").write_text("")
    found = layout.inspect(root)
    assert found.pattern == "*/*"
    assert found.split_folders == ()
    assert found.classes == ("cat", "dog")
    assert found.num_files == {"cat": 2, "dog": 3}
    assert found.metadata_columns == ()


def test_split_folders_count_a_class_over_all_splits(class_folders):
    root = class_folders({"train/a": 2, "train/b": 3, "test/a": 1, "test/b": 1})
    found = layout.inspect(root)
    assert found.pattern == "*/*/*"
    assert found.split_folders == ("train", "test")
    assert found.num_files == {"a": 3, "b": 4}


def test_metadata_in_the_data_folder_is_found(class_folders):
    root = class_folders({"a": 2, "b": 2})
    (root / "metadata.csv").write_text("filename,camera\na/0.png,north\n")
    assert layout.inspect(root).metadata_columns == ("camera",)
    assert layout.read_metadata(root / "metadata.csv") == {"a/0.png": {"camera": "north"}}


@pytest.mark.parametrize(
    ("counts", "message"),
    [
        ({}, "no class folders"),
        ({"only": 4}, r"single class \(only\)"),
        ({"a": 2, "b": 0}, "no pictures in class `b`"),
        ({"a": 1, "b": 5}, "only one picture in class `a`"),
        ({"train/a": 2, "train/b": 2, "dogs": 2}, r"others beside them \(dogs\)"),
        ({"validation/a": 2, "validation/b": 2}, "no `train` among them"),
    ],
)
def test_untrainable_folders_are_refused(class_folders, counts, message):
    with pytest.raises(layout.DatasetError, match=message):
        layout.inspect(class_folders(counts))


def test_missing_folder(tmp_path):
    with pytest.raises(layout.DatasetError, match="does not exist"):
        layout.inspect(tmp_path / "nowhere")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("path,camera\n", "no column `filename`"),
        ("", "no column `filename`"),
        ("filename,camera,camera\n", "doubled"),
        ("filename,brightness\n", "built-in slice"),
    ],
)
def test_unusable_metadata(class_folders, text, message):
    root = class_folders({"a": 2, "b": 2})
    (root / "metadata.csv").write_text(text)
    with pytest.raises(layout.DatasetError, match=message):
        layout.inspect(root)


def test_metadata_that_contradicts_itself(tmp_path):
    path = tmp_path / "metadata.csv"
    path.write_text("filename,camera\na.png,north\na.png,south\n")
    with pytest.raises(layout.DatasetError, match=r"names a.png twice"):
        layout.read_metadata(path)
