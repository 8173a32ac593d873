"""Datasets with any number of classes per image: what is read as such, what is refused, and what the advice says."""

import json
import re
import shlex

import pytest

from components.image_example_gen import labels
from components.image_example_gen.dataset import inspect_dataset
from components.image_example_gen.errors import DatasetError, LayoutError
from components.image_example_gen.options import DataOptions
from pipeline.config import loading
from pipeline.config.messages import ConfigError
from pipeline.execution import dataset as run_dataset

ANY = {"labels_per_image": "any"}


def inspect(root, **options):
    return inspect_dataset(str(root), DataOptions(**options))


@pytest.fixture
def write(tmp_path):
    """Writes a table and the images that it names, which are not read."""

    def make(*rows, name="manifest.csv"):
        (tmp_path / name).write_text("\n".join(rows))
        for index in range(len(rows)):
            (tmp_path / f"{index}.png").write_bytes(b"x")
        return tmp_path

    return make


def sets(dataset):
    return {entry.path: entry.classes for entry in dataset.entries}


SEPARATED = ["path,labels", "0.png,dog|cat", "1.png,cat", '2.png,""', "3.png, cat | dog |", "4.png,dog|cat|dog"]
EXPECTED = {"0.png": ("cat", "dog"), "1.png": ("cat",), "2.png": (), "3.png": ("cat", "dog"), "4.png": ("cat", "dog")}


@pytest.mark.parametrize("options", [{}, ANY, {"label_separator": "|"}], ids=str)
def test_a_column_of_labels_with_separators_is_a_set_of_classes(write, options):
    dataset = inspect(write(*SEPARATED), **options)
    assert dataset.label_features == labels.MULTI_LABEL and dataset.classes == ("cat", "dog")
    assert sets(dataset) == EXPECTED and not dataset.refused
    assert dict(dataset.entries[0].label)["image/class/count"] == (2,)


@pytest.mark.parametrize(
    ("rows", "options"),
    [
        (["path,label", "0.png,dog|cat", "1.png,cat", "2.png,", "3.png,cat|dog", "4.png,dog|cat"], ANY),
        ([row.replace("|", ";") for row in SEPARATED], {"label_separator": ";"}),
        (['path,tags', '0.png,"dog,cat"', "1.png,cat", "2.png,", '3.png,"cat,dog"', '4.png,"dog,cat"'],
         {"label_separator": ",", "label_column": "tags"}),
        (["path,cat,dog", "0.png,1,1", "1.png,1,0", "2.png,0,0", "3.png,1.0,1.0", "4.png,True,true"], {}),
        (["path,cat,dog", "0.png,1,1", "1.png,1,0", "2.png,0,0", "3.png,yes,1", "4.png,1,1"],
         {"label_columns": ["cat", "dog"]}),
        (["path,kind,cat,dog", *(f"{i}.png,{'ab'[i % 2]},{row}" for i, row in
                                 enumerate(("1,1", "1,0", "0,0", "1,1", "1,1")))], ANY),
    ],
    ids=["column label", "semicolon", "other column", "columns", "named columns", "columns and a slice"],
)  # fmt: skip
def test_other_forms_of_the_same_labels(write, rows, options):
    dataset = inspect(write(*rows), **options)
    assert sets(dataset) == EXPECTED and dataset.label_features == labels.MULTI_LABEL and not dataset.refused


def test_lists_of_json_lines(write):
    rows = [{"path": path, "labels": list(names)} for path, names in EXPECTED.items()]
    assert sets(inspect(write(*map(json.dumps, rows), name="manifest.jsonl"))) == EXPECTED
    with pytest.raises(DatasetError, match="line 1: expected an object of plain values, or lists of texts"):
        inspect(write(json.dumps({"path": "0.png", "labels": ["a|b"]}), name="manifest.jsonl"))


def test_class_folders_are_sets_of_one_class_or_of_the_parts_of_their_names(tmp_path):
    for name in ("cat", "dog", "cat+dog"):
        (tmp_path / name).mkdir()
        for index in range(2):
            (tmp_path / name / f"{index}.png").write_bytes(b"x")
    dataset = inspect(tmp_path, label_separator="+")
    assert dataset.classes == ("cat", "dog") and sets(dataset)["cat+dog/1.png"] == ("cat", "dog")
    (tmp_path / "cat+dog" / "0.png").unlink()
    (tmp_path / "cat+dog" / "1.png").unlink()
    (tmp_path / "cat+dog").rmdir()
    assert inspect(tmp_path, **ANY).label_features == labels.MULTI_LABEL
    assert inspect(tmp_path).label_features == labels.CLASS_LABEL


def test_one_class_per_image_stays_one_class(write):
    root = write("path,labels", "0.png,cat", "1.png,cat", "2.png,dog", "3.png,dog")
    assert inspect(root).label_features == labels.CLASS_LABEL
    # Other columns of 0 and 1 are slices beside a column of labels.
    root = write("path,label,day,wet", *(f"{i}.png,{'ab'[i % 2]},{i // 2 % 2},1" for i in range(4)))
    dataset = inspect(root)
    assert dataset.label_features == labels.CLASS_LABEL and dataset.columns == ("day", "wet")


def test_values_that_are_neither_0_nor_1_are_refused(write):
    root = write("path,cat,dog", "0.png,1,0", "1.png,-1,1", "2.png,1,", "3.png,1,1", "4.png,0,1")
    dataset = inspect(root, label_columns=["cat", "dog"])
    assert [(file.path, file.reason) for file in dataset.refused] == [
        ("1.png", "column cat is `-1`; expected 1 or 0 (manifest.csv, line 3)"),
        ("2.png", "column dog is ``; expected 1 or 0 (manifest.csv, line 4)"),
    ]


def test_labels_of_other_classes_are_removed_and_reported(write):
    root = write("path,labels", "0.png,cat|No Finding", "1.png,cat|dog", "2.png,No Finding", "3.png,dog")
    dataset = inspect(root, classes=["dog", "cat"])
    assert dataset.classes == ("dog", "cat") and sets(dataset)["2.png"] == ()
    assert any("2 labels `No Finding` were removed" in note and "0.png, 2.png" in note for note in dataset.notes)


def test_renaming_merges_classes_within_an_image(write):
    root = write("path,labels", "0.png,Cat|cat|dog", "1.png,cat", "2.png,dog", "3.png,")
    dataset = inspect(root, rename_classes={"Cat": "cat"})
    assert sets(dataset)["0.png"] == ("cat", "dog")


def test_a_class_that_every_image_has_is_reported(write):
    dataset = inspect(write("path,labels", "0.png,cat|dog", "1.png,cat", "2.png,cat|dog"))
    assert any("all 3 images have the class `cat`" in note for note in dataset.notes)


def test_one_class_can_be_learned_if_some_images_lack_it(write):
    assert inspect(write("path,labels", "0.png,cat", "1.png,", "2.png,cat", "3.png,"), **ANY).classes == ("cat",)
    with pytest.raises(LayoutError, match="has a single class"):
        inspect(write("path,labels", "0.png,cat", "1.png,cat", "2.png,cat"), **ANY)


def test_classes_with_one_image_or_none_are_refused(write):
    with pytest.raises(DatasetError, match="no images of class `dog`"):
        inspect(write("path,cat,dog", "0.png,1,0", "1.png,1,0", "2.png,0,0"))
    with pytest.raises(DatasetError, match=r"only one image of class `dog`.*naming the others in data.classes"):
        inspect(write("path,labels", "0.png,cat|dog", "1.png,cat", "2.png,"))


def test_names_with_the_separator_of_responses_are_refused_with_advice_that_works(write):
    root = write("path,labels", "0.png,a|b;c", "1.png,a|b;c", "2.png,c", "3.png,")
    with pytest.raises(DatasetError, match=r"class names contain `\|`") as caught:
        inspect(root, label_separator=";")
    (renamed,) = re.findall(r"--set (data\.rename_classes='[^']*')", str(caught.value))
    _, value = loading._parsed(shlex.split(renamed)[0], lambda message: None)
    assert inspect(root, label_separator=";", rename_classes=value).classes == ("a b", "c")


def test_columns_that_do_not_exist_are_refused(write):
    with pytest.raises(DatasetError, match=r"data.label_columns: .* has no column `cats`. Did you mean `cat`"):
        inspect(write("path,cat,dog", "0.png,1,0"), label_columns=["cats", "dog"])


def test_several_interpretations_are_asked_for_with_settings_that_work(write):
    root = write("path,kind,cat,dog", *(f"{i}.png,{'ab'[i % 2]},{i // 2 % 2},1" for i in range(4)))
    with pytest.raises(DatasetError, match="several columns may be paths or labels") as caught:
        inspect(root)
    (columns,) = re.findall(r"data\.label_columns=('\[.*?\]')", str(caught.value))
    assert inspect(root, label_columns=json.loads(shlex.split(columns)[0])).classes == ("cat", "dog")
    assert inspect(root, label_column="kind").classes == ("a", "b")


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"label_column": "a", "label_columns": ["b"]}, "label_column and label_columns exclude each other"),
        ({"labels_per_image": "one", "label_separator": "|"}, "label_separator requires labels_per_image"),
        ({"labels_per_image": "one", "labels_from": "boxes"}, "labels_from = .* requires labels_per_image"),
    ],
)
def test_settings_that_contradict_each_other_are_refused(values, message):
    with pytest.raises(ValueError, match=message):
        DataOptions(**values)


# === Task and dataset ===


def refuse(root, task, *overrides):
    settings = [f"task.name={task}", "data.max_bad_fraction=1", *overrides]
    config = loading.load("images", data=str(root), overrides=settings)
    dataset = inspect_dataset(config.data_location, config.data_options)
    run_dataset.refuse_other_task(config, dataset, "Pusher")
    return dataset


def write_boxes(root):
    (root / "images").mkdir()
    rows = ["path,xmin,ymin,xmax,ymax,label"]
    for index in range(4):
        (root / "images" / f"{index}.png").write_bytes(b"x")
        rows.append(f"images/{index}.png,1,1,5,5,{'ab'[index % 2]}")
        rows.append(f"images/{index}.png,1,1,5,6,b")
    rows.append("images/4.png,,,,,")
    (root / "images" / "4.png").write_bytes(b"x")
    (root / "manifest.csv").write_text("\n".join(rows))
    return root


def test_the_task_is_never_guessed(write):
    root = write(*SEPARATED)
    with pytest.raises(ConfigError, match=r"has any number of classes per image\. Use --set task.name=multi_label; or"):
        refuse(root, "classification")
    assert refuse(root, "multi_label").classes == ("cat", "dog")


def test_boxes_are_labels_if_the_configuration_says_so(tmp_path):
    root = write_boxes(tmp_path)
    with pytest.raises(ConfigError, match=r"task.name=detection or --set data.labels_from=boxes"):
        refuse(root, "multi_label")
    dataset = refuse(root, "multi_label", "data.labels_from=boxes")
    assert dataset.label_features == labels.MULTI_LABEL and dataset.classes == ("a", "b")
    with pytest.raises(ConfigError, match=r"--set task\.name=multi_label"):
        refuse(root, "detection", "data.labels_from=boxes")


def test_labels_from_boxes_require_boxes(write):
    with pytest.raises(DatasetError, match=r"has any number of classes per image\. Remove it"):
        inspect(write(*SEPARATED), labels_from="boxes")


def test_a_dataset_of_one_class_per_image_can_train_label_sets(write):
    root = write("path,label", "0.png,cat", "1.png,cat", "2.png,dog", "3.png,dog")
    assert refuse(root, "multi_label").label_features == labels.MULTI_LABEL
    assert refuse(root, "classification").label_features == labels.CLASS_LABEL
