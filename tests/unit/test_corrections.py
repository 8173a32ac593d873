"""`data.corrections`: relabelled and dropped images, what is recorded about them, and which tables are refused."""

import re

import pytest

from components.image_example_gen.dataset import inspect_dataset
from components.image_example_gen.errors import DatasetError, LayoutError
from components.image_example_gen.options import DataOptions


def inspect(root, **options):
    return inspect_dataset(str(root), DataOptions(**options))


@pytest.fixture
def corrected(class_folders, tmp_path):
    """Inspects three images of cats and dogs each with a table of corrections, beside or in the data folder."""
    root = class_folders({"cat": 3, "dog": 3})

    def make(*rows, inside=False, **options):
        table = (root if inside else tmp_path) / "fixed.csv"
        table.write_text("\n".join(rows))
        return inspect(root, corrections=str(table), **options)

    return make


def classes(dataset):
    return {entry.path: entry.classes for entry in dataset.entries}


@pytest.mark.parametrize("inside", [False, True])
def test_images_are_relabelled_and_dropped(corrected, inside):
    rows = ["filename,action,label", "cat/0.png,relabel,dog", "./dog/1.png,Drop,", "dog/2.png,keep,", "dog/0.png,,cat"]
    dataset = corrected(*rows, inside=inside)
    assert dataset.layout == "class_folders" and not dataset.refused
    assert classes(dataset) == {
        "cat/0.png": ("dog",),
        "cat/1.png": ("cat",),
        "cat/2.png": ("cat",),
        "dog/0.png": ("dog",),
        "dog/2.png": ("dog",),
    }
    assert [(each.path, each.action, each.before, each.after) for each in dataset.corrections] == [
        ("cat/0.png", "relabel", ("cat",), ("dog",)),
        ("dog/1.png", "drop", ("dog",), ("dog",)),
        ("dog/2.png", "keep", ("dog",), ("dog",)),
    ]
    assert dataset.notes == ("fixed.csv: 1 image relabelled, 1 image dropped, 1 image reviewed and unchanged",)


def test_a_reviewed_table_of_suspects_is_a_table_of_corrections(corrected):
    dataset = corrected(
        "filename,label,reason,score,proposed_label,action",
        "cat/0.png,cat,label issue,0.9,dog,relabel",
        "cat/1.png,cat,label issue,0.8,dog,",
        "cat/0.png,cat,outlier,0.7,,",
    )
    assert classes(dataset)["cat/0.png"] == ("dog",) and classes(dataset)["cat/1.png"] == ("cat",)


def test_the_fingerprint_contains_the_corrections(corrected, tmp_path):
    fingerprints = [
        corrected("filename,action,label", *rows).fingerprint
        for rows in (["cat/0.png,keep,"], ["cat/0.png,relabel,dog"], ["cat/0.png,drop,"])
    ]
    assert len(set(fingerprints)) == 3


def test_a_correction_that_the_dataset_already_contains_is_no_change(corrected):
    (correction,) = corrected("filename,action,label", "cat/0.png,relabel,cat").corrections
    assert correction.action == "keep"


def test_rows_without_an_image_are_noted(corrected):
    dataset = corrected("filename,action", "cat/0.png,drop", "cat/9.png,drop")
    assert "fixed.csv: 1 rows match no image and are not applied: cat/9.png" in dataset.notes


def test_a_class_without_images_is_not_used_any_more(class_folders, tmp_path):
    root = class_folders({"cat": 3, "dog": 3, "fox": 1})
    (tmp_path / "fixed.csv").write_text("filename,action,label\nfox/0.png,relabel,dog\n")
    dataset = inspect(root, corrections=str(tmp_path / "fixed.csv"))
    assert dataset.classes == ("cat", "dog") and "no image is left of the classes fox" in " ".join(dataset.notes)


def test_a_new_class_is_listed_in_the_configuration(corrected):
    rows = ["filename,action,label", "cat/0.png,relabel,fox", "dog/0.png,relabel,fox"]
    with pytest.raises(DatasetError, match=r"line 2: unknown class `fox`\. Classes: cat, dog\. data"):
        corrected(*rows)
    assert corrected(*rows, classes=["cat", "dog", "fox"]).classes == ("cat", "dog", "fox")


def test_sets_of_classes(tmp_path):
    for index in range(4):
        (tmp_path / f"{index}.png").write_bytes(b"x")
    (tmp_path / "manifest.csv").write_text("path,labels\n0.png,cat|dog\n1.png,cat\n2.png,dog\n3.png,cat\n")
    (tmp_path / "fixed.csv").write_text("filename,action,label\n0.png,relabel,\n1.png,relabel,dog|cat\n")
    dataset = inspect(tmp_path, labels_per_image="any", corrections=str(tmp_path / "fixed.csv"))
    assert classes(dataset) == {"0.png": (), "1.png": ("cat", "dog"), "2.png": ("dog",), "3.png": ("cat",)}


def test_masks_are_only_dropped(tmp_path):
    for folder in ("images", "masks"):
        (tmp_path / folder).mkdir()
        for index in range(3):
            (tmp_path / folder / f"{index}.png").write_bytes(b"x")
    table = tmp_path / "fixed.csv"
    options = {"classes": ["ground", "object"], "corrections": str(table)}
    table.write_text("filename,action,label\nimages/0.png,relabel,object\n")
    with pytest.raises(DatasetError, match=r"the dataset has a mask per image\. Use `drop`"):
        inspect(tmp_path, **options)
    table.write_text("filename,action\nimages/0.png,drop\n")
    assert [entry.path for entry in inspect(tmp_path, **options).entries] == ["images/1.png", "images/2.png"]


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        (["filename,label", "cat/0.png,dog"], "has no column `action`. Add it, and write `relabel`, `drop` or `keep`"),
        (["filename,action,label", "cat/0.png,relable,dog"], "line 2: unknown action `relable`. Did you mean"),
        (["filename,action", "cat/0.png,relabel"], "has no column `label` with the new labels"),
        (["filename,action,label", "cat/0.png,relabel,"], "line 2: `relabel` requires a class. Write it"),
        (["filename,action,label", "cat/0.png,relabel,dig"], "unknown class `dig`. Did you mean `dog`?"),
        (["filename,action", "cat/0.png,drop", "cat/0.png,keep"], "lines 2 and 3 contradict each other about"),
        (["filename,action", "0.png,drop"], "no row of .* matches an image.*Did you mean `cat/0.png`?"),
    ],
)  # fmt: skip
def test_faulty_tables_are_refused_with_advice(corrected, rows, message):
    with pytest.raises(DatasetError, match=message):
        corrected(*rows)


def test_a_table_may_list_only_images_of_other_spans(class_folders, tmp_path):
    root = class_folders({"day-1/cat": 2, "day-1/dog": 2})
    (tmp_path / "fixed.csv").write_text("filename,action\ncat/9.png,drop\n")
    dataset = inspect(root / "day-{SPAN}", corrections=str(tmp_path / "fixed.csv"))
    assert len(dataset.entries) == 4 and re.search("1 rows match no image", " ".join(dataset.notes))


def test_tfrecords_are_corrected_where_they_are_written(tmp_path):
    (tmp_path / "train.tfrecord").write_bytes(b"")
    with pytest.raises((DatasetError, LayoutError), match=r"data\.corrections = .* cannot be used"):
        inspect(tmp_path, layout="tfrecord", corrections="fixed.csv")
