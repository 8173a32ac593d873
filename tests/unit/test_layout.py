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
        ({"train/a": 2, "train/b": 2, "test": 0}, "test has no class folders"),
        ({"train/a": 2, "train/b": 2, "test/c": 2}, "train: no pictures of class `c` to train on"),
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
    with pytest.raises(layout.DatasetError, match=r"line 3: a.png stands here again, with other values"):
        layout.read_metadata(path)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (" filename , camera \na.png, north \n", {"a.png": {"camera": "north"}}),
        ("camera,filename\nnorth,./a.png\nsouth\n", {"a.png": {"camera": "north"}}),
        ("filename,camera\na.png\n\n", {"a.png": {"camera": ""}}),
        ('\ufefffilename,camera\n"a,b.png",x\n', {"a,b.png": {"camera": "x"}}),
    ],
    ids=["spaces", "short row and ./", "missing value", "byte order mark and quotes"],
)
def test_quirks_of_a_csv_lose_nothing(tmp_path, text, expected):
    path = tmp_path / "metadata.csv"
    path.write_text(text)
    assert layout.read_metadata(path) == expected


def test_a_csv_that_is_not_utf8_is_refused(tmp_path):
    path = tmp_path / "metadata.csv"
    path.write_bytes(b"filename,camera\n" + b"a.png,x\n" * 5000 + b"b.png,K\xe4se\n")
    with pytest.raises(layout.DatasetError, match="cannot be read as CSV in UTF-8"):
        layout.read_metadata(path)


def test_rows_and_files_that_do_not_meet_are_counted(class_folders):
    root = class_folders({"a": 2, "b": 2})
    (root / "metadata.csv").write_text("filename,camera\na/0.png,x\nc/9.png,y\n")
    assert layout.inspect(root).notes == (
        "metadata.csv: 1 rows name no file",
        "metadata.csv: 3 files have no row and count as `unknown`",
    )
    (root / "metadata.csv").write_text("filename,camera\n0.png,x\n")
    with pytest.raises(layout.DatasetError, match="no row names a file"):
        layout.inspect(root)


def test_a_column_of_addresses_is_no_slice(class_folders):
    root = class_folders({"a": 60, "b": 60})
    rows = [f"{name}/{i}.png,site/{name}{i},north" for name in "ab" for i in range(60)]
    (root / "metadata.csv").write_text("\n".join(["filename,address,camera", *rows]))
    found = layout.inspect(root)
    assert (found.metadata_columns, found.slice_columns) == (("address", "camera"), ("camera",))
    assert "column `address` has 120 values" in found.notes[0]


def test_a_link_to_nowhere_is_refused(class_folders):
    root = class_folders({"a": 2, "b": 2})
    (root / "a" / "link.png").symlink_to(root / "gone.png")
    with pytest.raises(layout.DatasetError, match="link to a file that does not exist"):
        layout.inspect(root)


def test_a_folder_name_that_is_not_utf8_is_refused(class_folders):
    import os

    root = class_folders({"a": 2, "b": 2})
    os.mkdir(os.fsencode(root) + b"/caf\xe9")
    with pytest.raises(layout.DatasetError, match="is not UTF-8"):
        layout.inspect(root)


def test_the_fingerprint_sees_what_tfx_does_not(class_folders):
    root = class_folders({"a": 3, "b": 3})
    before = layout.inspect(root).fingerprint
    assert layout.inspect(root).fingerprint == before
    (root / "a" / "0.png").rename(root / "b" / "moved.png")  # same size, same time of change
    moved = layout.inspect(root).fingerprint
    assert moved != before
    (root / "b" / "moved.png").rename(root / "b" / "renamed.png")
    assert layout.inspect(root).fingerprint != moved
