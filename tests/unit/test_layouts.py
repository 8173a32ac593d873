"""Layouts: detection with its evidence, listed files, refused files, and datasets that cannot be trained on."""

import dataclasses
import os
from collections import Counter

import pytest

from components.image_example_gen import files, layouts, tables
from components.image_example_gen.dataset import inspect_dataset
from components.image_example_gen.errors import DatasetError, LayoutError
from components.image_example_gen.layouts import Confidence, Evidence, Folder, tfrecord
from components.image_example_gen.options import DataOptions
from trainer_module import features


def inspect(root, **options):
    return inspect_dataset(str(root), DataOptions(**options))


def by_path(dataset):
    return {entry.path: entry for entry in dataset.entries}


def class_counts(dataset):
    return Counter(name for entry in dataset.entries for name in entry.classes)


def test_class_folders(class_folders):
    root = class_folders({"dog": 3, "cat": 2})
    for name in (".hidden", "__MACOSX", ".ipynb_checkpoints", "cat/.ipynb_checkpoints", "@eaDir", "__pycache__"):
        (root / name).mkdir()
    for name in (".DS_Store", "Thumbs.db", "desktop.ini", "._0.png"):
        (root / name).write_text("")
        (root / "cat" / name).write_text("")
    (root / "dog" / "THUMBS.DB").write_text("")
    (root / "__MACOSX" / "._0.png").write_text("")
    dataset = inspect(root)
    assert (dataset.layout, dataset.own_splits, dataset.columns) == ("class_folders", (), ())
    assert dataset.refused == ()
    assert dataset.classes == ("cat", "dog")
    assert class_counts(dataset) == {"cat": 2, "dog": 3}
    assert by_path(dataset)["dog/1.png"].classes == ("dog",)
    assert by_path(dataset)["dog/1.png"].size == (root / "dog" / "1.png").stat().st_size


def test_split_folders_count_a_class_over_all_splits(class_folders):
    root = class_folders({"train/a": 2, "train/b": 3, "test/a": 1, "test/b": 1})
    dataset = inspect(root)
    assert (dataset.layout, dataset.own_splits) == ("split_folders", ("train", "test"))
    assert class_counts(dataset) == {"a": 3, "b": 4}
    assert by_path(dataset)["test/a/0.png"].split == "test"
    # Validation has no folder: it is drawn from the train folder.
    assert by_path(dataset)["train/a/0.png"].split == ""


def test_complete_split_folders_leave_nothing_to_draw(class_folders):
    root = class_folders({f"{split}/{name}": 2 for split in ("train", "validation", "test") for name in "ab"})
    assert {entry.split for entry in inspect(root).entries} == {"train", "validation", "test"}


def test_metadata_in_the_data_folder_is_read(class_folders):
    root = class_folders({"a": 2, "b": 2})
    (root / "metadata.csv").write_text("filename,camera\na/0.png,north\n")
    dataset = inspect(root)
    assert dataset.columns == ("camera",)
    assert by_path(dataset)["a/0.png"].slices == ("north",)
    assert by_path(dataset)["a/1.png"].slices == (tables.UNKNOWN,)


@pytest.mark.parametrize(
    ("counts", "message"),
    [
        ({}, r"is empty\..*\n  nothing of the layouts class_folders, coco, "),
        ({"only": 4}, r"single class \(only\)"),
        ({"a": 2, "b": 0}, "no images of class `b`"),
        ({"a": 1, "b": 5}, "only one image of class `a`"),
        ({"train/a": 2, "train/b": 2, "dogs": 2}, r"split folders \(train\) and other folders \(dogs\)"),
        ({"validation/a": 2, "validation/b": 2}, "no `train` among them"),
        ({"train/a": 2, "train/b": 2, "test": 0}, "test has no class folders"),
        ({"train/a": 2, "train/b": 2, "test/c": 2}, "no images of class `c` are in the split `train`"),
    ],
)
def test_untrainable_folders_are_refused(class_folders, counts, message):
    with pytest.raises(DatasetError, match=message):
        inspect(class_folders(counts))


def test_missing_folder(tmp_path):
    with pytest.raises(DatasetError, match="does not exist"):
        inspect(tmp_path / "nowhere")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("path,camera\n", "no column `filename`"),
        ("", "no column `filename`"),
        ("filename,camera,camera\n", "duplicated"),
        ("filename,brightness\n", "built-in slice"),
    ],
)
def test_unusable_metadata(class_folders, text, message):
    root = class_folders({"a": 2, "b": 2})
    (root / "metadata.csv").write_text(text)
    with pytest.raises(DatasetError, match=message):
        inspect(root)


def test_contradictory_metadata_is_refused(class_folders):
    root = class_folders({"a": 2, "b": 2})
    (root / "metadata.csv").write_text("filename,camera\na/0.png,north\na/0.png,south\n")
    with pytest.raises(DatasetError, match=r"line 3: duplicate row for a/0.png with different values"):
        inspect(root)


@pytest.mark.parametrize(
    "text",
    [
        " filename , camera \na/0.png, north \n",
        "camera,filename\nnorth,./a/0.png\nsouth\n",
        '\ufefffilename,camera\n"a/0.png",north\n\n',
    ],
    ids=["spaces", "short row and ./", "byte order mark and quotes"],
)
def test_csv_variants_are_read_completely(class_folders, text):
    root = class_folders({"a": 2, "b": 2})
    (root / "metadata.csv").write_text(text)
    assert by_path(inspect(root))["a/0.png"].slices == ("north",)


def test_a_csv_that_is_not_utf8_is_refused(class_folders):
    root = class_folders({"a": 2, "b": 2})
    (root / "metadata.csv").write_bytes(b"filename,camera\n" + b"a.png,x\n" * 5000 + b"b.png,K\xe4se\n")
    with pytest.raises(DatasetError, match=r"is not CSV in UTF-8 \(byte 40023\)\. Save it in UTF-8, .* WINDOWS-1252"):
        inspect(root)


def test_unmatched_rows_and_files_are_counted(class_folders):
    root = class_folders({"a": 2, "b": 2})
    (root / "metadata.csv").write_text("filename,camera\na/0.png,x\nc/9.png,y\n")
    assert inspect(root).notes == (
        "metadata.csv: 1 rows match no file",
        "metadata.csv: 3 files have no row; their slices are `unknown`",
    )
    (root / "metadata.csv").write_text("filename,camera\n0.png,x\n")
    with pytest.raises(DatasetError, match="no row matches a file"):
        inspect(root)


def test_a_column_with_many_values_is_not_a_slice(class_folders):
    root = class_folders({"a": 60, "b": 60})
    rows = [f"{name}/{i}.png,site/{name}{i},north" for name in "ab" for i in range(60)]
    (root / "metadata.csv").write_text("\n".join(["filename,address,camera", *rows]))
    dataset = inspect(root)
    assert (dataset.columns, dataset.slice_columns) == (("address", "camera"), ("camera",))
    assert "column `address` has 120 values" in dataset.notes[0]


def test_a_dangling_link_is_refused(class_folders):
    root = class_folders({"a": 2, "b": 2})
    (root / "a" / "link.png").symlink_to(root / "gone.png")
    assert inspect(root).refused == (("a/link.png", "a link to a file that does not exist"),)


def test_links_may_not_leave_the_data_folder(class_folders, tmp_path, make_image):
    root = class_folders({"a": 2, "b": 2})
    (tmp_path / "secret.png").write_bytes(make_image())
    (root / "a" / "out.png").symlink_to(tmp_path / "secret.png")
    (root / "a" / "in.png").symlink_to(root / "b" / "0.png")
    dataset = inspect(root)
    assert [refused.path for refused in dataset.refused] == ["a/out.png"]
    assert "leads out of the data folder" in dataset.refused[0].reason
    assert "a/in.png" in by_path(dataset)
    (tmp_path / "elsewhere").mkdir()
    (root / "c").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(DatasetError, match="c: it leads out of the data folder"):
        inspect(root)


def test_a_named_pipe_is_refused(class_folders):
    root = class_folders({"a": 2, "b": 2})
    os.mkfifo(root / "a" / "pipe.png")
    assert inspect(root).refused == (("a/pipe.png", "neither a file nor a folder"),)


def test_names_that_are_not_utf8(class_folders, make_image):
    root = class_folders({"a": 2, "b": 2})
    with open(os.fsencode(root) + b"/a/caf\xe9 [1] *.png", "wb") as file:
        file.write(make_image())
    assert len(inspect(root).entries) == 5
    os.mkdir(os.fsencode(root) + b"/caf\xe9")
    with pytest.raises(DatasetError, match="is not UTF-8"):
        inspect(root)


def test_the_fingerprint_changes_with_moves_renames_and_metadata(class_folders):
    root = class_folders({"a": 3, "b": 3})
    before = inspect(root).fingerprint
    assert inspect(root).fingerprint == before
    (root / "a" / "0.png").rename(root / "b" / "moved.png")  # same size, same time of change
    moved = inspect(root).fingerprint
    assert moved != before
    (root / "b" / "moved.png").rename(root / "b" / "renamed.png")
    renamed = inspect(root).fingerprint
    assert renamed != moved
    (root / "metadata.csv").write_text("filename,camera\na/1.png,north\n")
    assert inspect(root).fingerprint != renamed


def test_configured_classes_must_match_the_dataset(class_folders):
    root = class_folders({"a": 2, "b": 2})
    assert inspect(root, classes=["b", "a"]).classes == ("b", "a")
    with pytest.raises(DatasetError, match=r"differ: it lacks `b` .*; the dataset has no class `c`"):
        inspect(root, classes=["a", "c"])


# --- Masks ------------------------------------------------------------------------------------------------------


@pytest.fixture
def mask_folders(tmp_path):
    """Writes empty files by name."""

    def make(*names):
        root = tmp_path / "street"
        for name in names:
            path = root / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(b"x")
        return root

    return make


def test_images_and_masks_are_paired_by_name(mask_folders):
    root = mask_folders("images/s1_0.jpg", "images/s2/0.png", "masks/s1_0.png", "masks/s2/0.png")
    dataset = inspect(root, classes=["road", "car"], group_pattern=r"images/(s\d)")
    assert (dataset.layout, dataset.classes) == ("mask_pairs", ("road", "car"))
    assert dataset.label_features == (features.MASK_ENCODED, features.MASK_CLASSES)
    assert {(entry.path, entry.label_files[0].path, entry.group) for entry in dataset.entries} == {
        ("images/s1_0.jpg", "masks/s1_0.png", "s1"),
        ("images/s2/0.png", "masks/s2/0.png", "s2"),
    }


def test_an_image_without_mask_and_a_mask_without_image_are_refused(mask_folders):
    root = mask_folders("images/a.jpg", "images/b.jpg", "masks/b.png", "masks/c.png")
    dataset = inspect(root, classes=["road", "car"])
    assert dataset.refused == (
        ("images/a.jpg", "no mask: masks/a.png does not exist"),
        ("masks/c.png", "a mask without an image"),
    )


@pytest.mark.parametrize("name", ["train/{}/a", "{}/train/a"])
def test_splits_of_masks(mask_folders, name):
    names = [name.format(kind).replace("train", split) for kind in ("images", "masks") for split in ("train", "test")]
    dataset = inspect(mask_folders(*(f"{name}.png" for name in names)), classes=["road", "car"])
    assert dataset.own_splits == ("train", "test")
    assert sorted(entry.split for entry in dataset.entries) == ["", "test"]


def test_masks_require_class_names(mask_folders):
    with pytest.raises(DatasetError, match=r"masks contain class ids, not names\. Set data\.classes"):
        inspect(mask_folders("images/a.png", "masks/a.png"))


def test_a_dataset_without_usable_files_is_refused_with_reasons(mask_folders):
    with pytest.raises(DatasetError, match=r"no usable files[\s\S]*images/a.png: no mask"):
        inspect(mask_folders("images/a.png", "masks/b.png"), classes=["a", "b"])


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (["images/a.png", "masks/a.png", "train/images/b.png", "train/masks/b.png"], "both beside and inside of train"),
        (["images/a.png", "masks/a.png", "extra/b.png"], "extra: expected images and masks"),
        (["train/images/a.png", "train/masks/a.png", "val/images/b.png", "validation/masks/b.png"], "the same split"),
    ],
)
def test_files_that_would_be_ignored_stop_the_run(mask_folders, names, message):
    with pytest.raises(DatasetError, match=message):
        inspect(mask_folders(*names), classes=["a", "b"])


def test_two_masks_for_one_image(mask_folders):
    dataset = inspect(
        mask_folders("images/a.jpg", "images/b.jpg", "masks/a.bmp", "masks/a.png", "masks/b.png"), classes=["x", "y"]
    )
    assert dataset.refused == (("images/a.jpg", "unusable mask: masks/a.png: masks/a.bmp belongs to the same image"),)


BY_SEQUENCE = "(?P<test>/s3_)|(?P<validation>/s2_0)"


def test_splits_from_file_names(mask_folders):
    names = [f"{kind}/{name}.png" for kind in ("images", "masks") for name in ("s1_00", "s2_00", "s2_10", "s3_00")]
    dataset = inspect(mask_folders(*names), classes=["a", "b"], split_pattern=BY_SEQUENCE)
    assert dataset.own_splits == ("validation", "test")
    assert [entry.split for entry in dataset.entries] == ["", "validation", "", "test"]  # the rest is trained on


def test_a_split_folder_overrides_the_pattern(class_folders):
    root = class_folders({"train/a": 2, "train/b": 2, "val/a": 1, "val/b": 1})
    dataset = inspect(root, split_pattern="(?P<test>val/a)|(?P<validation>train/)", splits={"test": 0.0, "train": 0.85})
    assert {entry.split for entry in dataset.entries if entry.path.startswith("val/")} == {"validation"}
    assert {entry.split for entry in dataset.entries if entry.path.startswith("train/")} == {"train"}


@pytest.mark.parametrize("name", ["{split}/{kind}/a.png", "{kind}/{split}/a.png"])
def test_val_is_validation(mask_folders, name):
    names = [name.format(split=split, kind=kind) for split in ("train", "val") for kind in ("images", "masks")]
    dataset = inspect(mask_folders(*names), classes=["a", "b"])
    assert dataset.own_splits == ("train", "validation")
    assert sorted(entry.split for entry in dataset.entries) == ["", "validation"]


@pytest.mark.parametrize(
    "names", [("Training", "Testing"), ("TRAIN", "Eval"), ("train", "Dev", "evaluation"), ("Train", "valid", "test")]
)
def test_names_of_split_folders_in_any_case(class_folders, names):
    root = class_folders({f"{split}/{name}": 2 for split in names for name in "ab"})
    dataset = inspect(root)
    expected = ("train", "validation", "test") if len(names) == 3 else ("train", "test")
    assert (dataset.layout, dataset.own_splits) == ("split_folders", expected)


@pytest.mark.parametrize("names", [("val", "validation"), ("Dev", "valid"), ("test", "eval"), ("Test", "test")])
def test_two_folders_of_one_split_are_refused_with_advice(class_folders, names):
    root = class_folders({f"{split}/{name}": 2 for split in ("train", *names) for name in "ab"})
    with pytest.raises(DatasetError, match=r"are the same split .*Merge them, or rename one: .*train: train, training"):
        inspect(root)


def test_val_is_validation_in_split_folders(class_folders):
    root = class_folders({"train/a": 2, "train/b": 2, "val/a": 1, "val/b": 1})
    assert inspect(root).own_splits == ("train", "validation")
    with pytest.raises(DatasetError, match=r"other folders \(bus\)[\s\S]*data\.layout\s?=\s?.?class_folders"):
        inspect(class_folders({"train": 2, "bus": 2}, name="vehicles"))
    assert inspect(root.parent / "vehicles", layout="class_folders").classes == ("bus", "train")


def test_class_names_from_a_file(mask_folders):
    root = mask_folders("images/a.png", "masks/a.png", "images/b.png", "masks/b.png")
    (root / "classes.txt").write_text("road\n car \n\n", encoding="utf-8")
    assert inspect(root).classes == ("road", "car")
    assert inspect(root).refused == ()
    assert inspect(root, classes=["sky", "sea"]).classes == ("sky", "sea")


@pytest.mark.parametrize(("number", "options", "ignore_id"), [(255, {}, 255), (2, {}, 2), (2, {"ignore_id": 7}, 7)])
def test_the_ignored_id_from_the_class_list(mask_folders, number, options, ignore_id):
    root = mask_folders("images/a.png", "masks/a.png")
    (root / "classes.txt").write_text(f"road\ncar\n{number} ignored\n")
    dataset = inspect(root, **options)
    assert (dataset.classes, dataset.ignore_id) == (("road", "car"), ignore_id)
    assert inspect(root, classes=["sky", "sea"]).ignore_id is None  # the file is not read then


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (b"road\ncar\n1 ignored\n", r"line 3: the ignored id must be above those of the classes \(0 to 1\)"),
        (b"road\ncar\n256 ignored\n", r"line 3: .* at most 255"),
        (b"road\n\ncar\n", r"classes\.txt, line 2: no name"),
        (b"road\ncar\nroad\n", r"classes\.txt, line 3: duplicate class road"),
        (b"\xff\xfe", r"classes\.txt cannot be read"),
        (b"\n", r"Set data\.classes.* or write classes\.txt"),
    ],
    ids=["a class's", "too large", "no name", "twice", "not UTF-8", "empty"],
)
def test_unusable_class_lists(mask_folders, text, message):
    root = mask_folders("images/a.png", "masks/a.png")
    (root / "classes.txt").write_bytes(text)
    with pytest.raises(DatasetError, match=message):
        inspect(root)


# --- Manifests --------------------------------------------------------------------------------------------------


def test_a_manifest_defines_label_split_group_and_slices(class_folders):
    root = class_folders({"raw": 6})
    (root / "manifest.csv").write_text(
        "path,label,split,group,camera\n"
        + "".join(f"raw/{i}.png,{'cat' if i % 2 else 'dog'},{split},g{i},c{i}\n" for i, split in enumerate(SPLITS))
    )
    dataset = inspect(root)
    assert (dataset.layout, dataset.classes, dataset.columns) == ("manifest", ("cat", "dog"), ("camera",))
    assert [entry.split for entry in dataset.entries] == ["train", "train", "validation", "validation", "test", "test"]
    assert by_path(dataset)["raw/1.png"][3:] == (((features.CLASS_TEXT, ("cat",)),), (), "train", "g1", ("c1",))


SPLITS = ("train", "TRAINING", "dev", "Validation", "eval", "testing")


def test_a_manifest_in_json_lines_outside_of_the_data_folder(class_folders, tmp_path):
    root = class_folders({"raw": 4})
    lines = [f'{{"path": "raw/{i}.png", "label": "{"ab"[i % 2]}", "year": {2020 + i}}}' for i in range(4)]
    (tmp_path / "list.jsonl").write_text("\n".join(lines))
    dataset = inspect(root, manifest=str(tmp_path / "list.jsonl"))
    assert by_path(dataset)["raw/2.png"].slices == ("2022",)
    (root / "own.jsonl").write_text("\n".join(lines))
    assert inspect(root / "own.jsonl").entries == dataset.entries


def test_rows_without_a_usable_file_are_refused(class_folders, tmp_path):
    root = class_folders({"raw": 4})
    (tmp_path / "secret.png").write_bytes(b"x")
    (root / "out").symlink_to(tmp_path)
    rows = ["raw/0.png,a", "raw/1.png,b", "raw/2.png,a", "raw/3.png,b", "raw/9.png,a", ",a", "raw,b"]
    rows += ["../secret.png,a", "/etc/passwd,b", "raw/1.png,"]
    (root / "out").unlink()
    (root / "manifest.csv").write_text("\n".join(["path,label", *rows]))
    dataset = inspect(root)
    assert len(dataset.entries) == 4
    reasons = dict(dataset.refused)
    assert reasons["raw/9.png"] == "the file does not exist"
    assert reasons["manifest.csv, line 7"] == "no path"
    assert reasons["raw"] == "a folder (manifest.csv, line 8)"
    assert "leads out of the data folder" in reasons["../secret.png"]
    assert "leads out of the data folder" in reasons["/etc/passwd"]
    assert reasons["raw/1.png"] == "no label (manifest.csv, line 11)"


def test_a_manifest_does_not_follow_a_linked_folder(class_folders, tmp_path, make_image):
    root = class_folders({"raw": 4})
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "x.png").write_bytes(make_image())
    (root / "raw" / "link").symlink_to(tmp_path / "other")
    rows = [f"raw/{i}.png,{'ab'[i % 2]}" for i in range(4)]
    (root / "manifest.csv").write_text("\n".join(["path,label", *rows, "raw/link/x.png,a"]))
    assert [refused.path for refused in inspect(root).refused] == ["raw/link/x.png"]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("file,label\n", "no column `path`"),
        ("path,kind\nraw/0.png,a\n", "neither a column `label` nor a column `mask`"),
        ("path,label,split\nraw/0.png,a,holdout\n", "line 2: unknown split `holdout`"),
        ("path,label,split\nraw/0.png,a,test\nraw/1.png,b,test\nraw/2.png,a,test\nraw/3.png,b,test\n", "no `train`"),
        ("path,label\nraw/0.png,a\nraw/1.png,a\n", r"single class \(a\)"),
        ("path,label\nraw/0.png,a, black\n", "line 2: 3 fields, but 2 columns"),
        ("path,label\nraw/\0.png,a\n", "line 2: .* contains characters that no file name or label may have"),
    ],
)
def test_unusable_manifests(class_folders, text, message):
    root = class_folders({"raw": 4})
    (root / "manifest.csv").write_text(text)
    with pytest.raises(DatasetError, match=message):
        inspect(root)


@pytest.mark.parametrize(("text", "message"), [("{", "line 1: not JSON"), ("[1]", "line 1: expected an object")])
def test_unusable_json_lines(class_folders, text, message):
    root = class_folders({"raw": 4})
    (root / "manifest.jsonl").write_text(text)
    with pytest.raises(DatasetError, match=message):
        inspect(root)


def test_groups_come_from_a_column(class_folders):
    root = class_folders({"a": 2, "b": 2})
    (root / "metadata.csv").write_text("filename,patient,camera\na/0.png,p1,x\nb/1.png,p1,y\n")
    dataset = inspect(root, group_column="patient")
    assert dataset.columns == ("camera",)
    assert [entry.group for entry in dataset.entries] == ["p1", "", "", "p1"]
    with pytest.raises(DatasetError, match="no column `person`"):
        inspect(root, group_column="person")


# --- Spans ------------------------------------------------------------------------------------------------------


def test_the_newest_span_is_read(class_folders):
    for number in (1, 2, 10):
        root = class_folders({f"day-{number}/a": number + 1, f"day-{number}/b": 2}, name=f"arrivals-{number}")
        if number > 1:
            os.rename(root / f"day-{number}", root.parent / "arrivals-1" / f"day-{number}")
    base = root.parent / "arrivals-1"
    dataset = inspect(base / "day-{SPAN}")
    assert (dataset.span, class_counts(dataset)["a"]) == (10, 11)
    # The path begins with the span, as it does when several are read: corrections refer to it.
    assert by_path(dataset)["day-10/a/0.png"].classes == ("a",)
    both = inspect(base / "day-{SPAN}", spans="1-2")
    assert (both.span, class_counts(both)["a"], both.columns, dataset.columns) == (2, 5, ("span",), ("span",))
    assert by_path(both)["day-1/a/0.png"].slices == ("1",)
    assert class_counts(inspect(base / "day-{SPAN}", spans="newest:2"))["a"] == 14
    with pytest.raises(DatasetError, match=r"data\.spans = 7: no such span.*1, 2, 10"):
        inspect(base / "day-{SPAN}", spans="7")


def test_the_fingerprint_depends_on_the_span(class_folders):
    root = class_folders({"day-1/a": 2, "day-1/b": 2})
    before = inspect(root / "day-{SPAN}").fingerprint
    (root / "day-1").rename(root / "day-2")
    assert inspect(root / "day-{SPAN}").fingerprint != before


def test_a_span_that_leads_out_is_refused(class_folders, tmp_path):
    root = class_folders({"day-1/a": 2, "day-1/b": 2})
    class_folders({"a": 2, "b": 2}, name="elsewhere")
    (root / "day-7").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(DatasetError, match=r"day-7 in .*: it leads out of the data folder"):
        inspect(root / "day-{SPAN}")


def test_a_column_named_span_is_refused_beside_spans(class_folders):
    root = class_folders({"day-1/a": 2, "day-1/b": 2})
    (root / "day-1" / "metadata.csv").write_text("filename,span\na/0.png,x\n")
    with pytest.raises(DatasetError, match="column `span` is reserved for the number of the span"):
        inspect(root / "day-{SPAN}")


@pytest.mark.parametrize("name", ["manifest.csv", "metadata.csv"])
def test_a_table_that_leads_out_is_not_read(class_folders, tmp_path, name):
    root = class_folders({"a": 2, "b": 2})
    (tmp_path / "secrets.csv").write_text("user,password\n")
    (root / name).symlink_to(tmp_path / "secrets.csv")
    with pytest.raises(DatasetError, match="leads out of the data folder") as caught:
        inspect(root)
    assert "password" not in str(caught.value)


def test_settings_that_contradict_the_layout(class_folders, tmp_path):
    root = class_folders({"a": 2, "b": 2})
    (tmp_path / "list.csv").write_text("path,label\na/0.png,a\n")
    with pytest.raises(
        DatasetError, match=r'data\.manifest = .* cannot be used with data\.layout\s?=\s?.?class_folders"'
    ):
        inspect(root, layout="class_folders", manifest=str(tmp_path / "list.csv"))
    with pytest.raises(DatasetError, match=r'data\.metadata_csv = .* cannot be used with data\.layout = "manifest"'):
        inspect(root, manifest=str(tmp_path / "list.csv"), metadata_csv=str(tmp_path / "list.csv"))


def test_every_file_in_a_nested_folder_is_refused(class_folders, make_image):
    root = class_folders({"a": 2, "b": 2, "a/more/deep": 3})
    assert [refused.path for refused in inspect(root).refused] == [f"a/more/deep/{i}.png" for i in range(3)]


def test_training_rows_keep_their_split_if_others_can_be_drawn(class_folders):
    root = class_folders({"raw": 30})
    rows = [f"raw/{i}.png,{'ab'[i % 2]},{'train' if i < 10 else 'test' if i < 15 else ''}" for i in range(30)]
    (root / "manifest.csv").write_text("\n".join(["path,label,split", *rows, ""]))
    dataset = inspect(root)
    assert [entry.split for entry in dataset.entries].count("train") == 10
    assert dataset.refused == ()


@pytest.mark.parametrize(
    ("name", "split"),
    [
        ("birds-test.tfrecord-00000-of-00002", "test"),
        ("val.tfrecords.gz", "validation"),
        ("data_tfrecord-00000-of-00001", ""),
        ("train-test.tfrecord", ""),
    ],
)
def test_splits_in_names_of_tfrecord_files(name, split):
    assert tfrecord._NAME.fullmatch(name)
    assert tfrecord._split_in_name(name) == split


# --- Detection --------------------------------------------------------------------------------------------------

# Files that only the layout has, on top of those of the layouts before it; the most general layout first.
MARKERS = {
    "class_folders": ["cat/0.png", "dog/0.png"],
    "split_folders": ["train/cat/0.png"],
    "mask_pairs": ["images/0.png", "masks/0.png"],
    "yolo": ["labels/0.txt"],
    "tfrecord": ["train/x.tfrecord"],
    "cvat": ["annotations.xml"],
    "manifest": ["manifest.csv"],
}


# Layouts that are alternatives to one of those, with the beginning of their files.
ALTERNATIVES = {
    "voc": ("yolo", {"Annotations/0.xml": "<annotation>"}),
    "coco": ("cvat", {"train/_annotations.coco.json": '{"images": [], "annotations": []}'}),
    "label_studio": ("cvat", {"project-1.json": '[{"id": 1, "annotations": []}]'}),
}


def detect(root, **options):
    return layouts.detect(Folder(str(root), tuple(files.listing(str(root)))), DataOptions(**options))


@pytest.mark.parametrize("name", layouts.names())
def test_layout_conformance(name, tmp_path):
    layout = layouts.get(name)
    evidence = layout.detect(Folder(str(tmp_path), ()), DataOptions())
    assert layout.name == evidence.layout == name
    assert layout.interpretation
    assert not evidence.confidence and not evidence.supporting and evidence.contradicting
    assert set(layout.unsupported_options) <= set(DataOptions.model_fields)
    assert DataOptions(layout=name).layout == name


def test_the_most_specific_evidence_decides(mask_folders):
    for name, paths in MARKERS.items():
        root = mask_folders(*paths)
        detection = detect(root)
        assert detection.layout == name
        by_layout = {evidence.layout: evidence for evidence in detection.evidence}
        assert by_layout.keys() == set(layouts.names())
        assert all(evidence.supporting or evidence.contradicting for evidence in detection.evidence)
        confident = [evidence.layout for evidence in detection.evidence if evidence.confidence]
        assert confident == [known for known in reversed(MARKERS) if known in confident]
    assert by_layout["split_folders"].contradicting == ("other folders: cat, dog, images, labels, masks",)
    assert by_layout["manifest"].supporting == ("a file manifest.csv",)


@pytest.mark.parametrize("name", ALTERNATIVES)
def test_alternatives_to_a_layout(mask_folders, name):
    other, texts = ALTERNATIVES[name]
    before = [path for known in list(MARKERS)[: list(MARKERS).index(other)] for path in MARKERS[known]]
    root = mask_folders(*before, *texts)
    for path, text in texts.items():
        (root / path).write_text(text)
    assert detect(root).layout == name
    after = MARKERS[list(MARKERS)[list(MARKERS).index(other) + 1]]
    assert detect(mask_folders(*after)).layout != name
    assert set(layouts.names()) == {*MARKERS, *ALTERNATIVES}


def test_a_configured_manifest_is_evidence(mask_folders):
    evidence = detect(mask_folders("cat/0.png", "dog/0.png"), manifest="/elsewhere/list.csv").evidence[0]
    assert str(evidence) == "manifest: yes, data.manifest = /elsewhere/list.csv"


def test_a_split_folder_that_cannot_be_listed_is_not_evidence(mask_folders, monkeypatch):
    root, list_folder = mask_folders("train/images/0.png", "train/masks/0.png"), os.listdir
    assert detect(root).layout == "mask_pairs"

    def refuse_split(location):
        if location == f"{root}/train":
            raise PermissionError(13, "Permission denied", location)
        return list_folder(location)

    monkeypatch.setattr(os, "listdir", refuse_split)
    assert detect(root).layout == "split_folders"


def test_equal_evidence_is_an_error_that_lists_it(mask_folders, monkeypatch):
    tie = dataclasses.replace(
        layouts.get("tfrecord"), detect=lambda *_: Evidence("tfrecord", Confidence.FALLBACK, ("a rumour",))
    )
    registered = layouts.get
    monkeypatch.setattr(layouts, "get", lambda name: tie if name == "tfrecord" else registered(name))
    with pytest.raises(LayoutError, match=r"the layouts class_folders, tfrecord\. Set data\.layout") as caught:
        inspect(mask_folders("cat/0.png", "dog/0.png"))
    assert "tfrecord: yes, a rumour" in str(caught.value)


@pytest.mark.parametrize(
    ("names", "evidence"),
    [
        (["0.png", "1.png"], "class_folders: no, no class folders, images outside of any folder, such as 0.png"),
        (
            ["train/cat/0.png", "bus/0.png"],
            "split_folders: yes, folders named after splits: train; but other folders: bus",
        ),
        (["images/0.png"], "mask_pairs: no, a folder `images`; but no folder `masks`"),
    ],
)
def test_errors_of_a_detected_layout_list_the_evidence(mask_folders, names, evidence):
    with pytest.raises(LayoutError) as caught:
        inspect(mask_folders(*names))
    lines = [line.strip() for line in str(caught.value).splitlines()]
    assert evidence in lines
    # Of the other layouts there is nothing, and they are only named.
    *details, others = lines[1:]
    assert others.startswith("nothing of the layouts ") and len(details) <= 3
    named = others.removeprefix("nothing of the layouts ").split(", ")
    assert sorted([*(line.partition(":")[0] for line in details), *named]) == layouts.names()


def test_a_configured_layout_has_no_evidence_in_its_errors(mask_folders):
    with pytest.raises(LayoutError, match=r"single class \(only\)\. At least two are required\.$"):
        inspect(mask_folders("only/0.png"), layout="class_folders")


def test_unknown_layouts_are_refused_with_a_suggestion():
    with pytest.raises(ValueError, match=r"unknown layout `class_folder`\. Did you mean `class_folders`\?"):
        DataOptions(layout="class_folder")
