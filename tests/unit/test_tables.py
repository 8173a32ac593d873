"""Tables as other programs write them: delimiters, marks, columns, and paths that are not the files' own."""

import itertools
import re
import shlex

import pytest

from components.image_example_gen import tables
from components.image_example_gen.dataset import inspect_dataset
from components.image_example_gen.errors import DatasetError, LayoutError
from components.image_example_gen.options import DataOptions
from pipeline.config import loading

IDS = [f"{number:04}" for number in range(6)]
LABELS = dict(zip(IDS, itertools.cycle(("cat", "dog")), strict=False))


def inspect(root, **options):
    return inspect_dataset(str(root), DataOptions(**options))


def classes_by_path(dataset):
    return {entry.path: entry.classes[0] for entry in dataset.entries}


@pytest.fixture
def write(tmp_path):
    """Writes images that are not read, and one table."""

    def make(folder="images", table="labels.csv", text="", *, ids=IDS, encoding="utf-8"):
        root = tmp_path / "export"
        (root / folder).mkdir(parents=True, exist_ok=True)
        for name in ids:
            (root / folder / f"{name}.jpg").write_bytes(b"x")
        (root / table).write_text(text, encoding=encoding)
        return root

    return make


def lines(header, cell="{}", delimiter=","):
    return "\n".join([header, *(f"{cell.format(name)}{delimiter}{label}" for name, label in LABELS.items())])


# --- Text -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("delimiter", [",", ";", "\t"])
@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig"])
@pytest.mark.parametrize("newline", ["\n", "\r\n"])
def test_delimiters_byte_order_marks_and_line_ends(tmp_path, delimiter, encoding, newline):
    rows = ["path;label", 'a.png;"black; white"', "b.png;cat"]
    text = newline.join(rows).replace(";", delimiter)
    (tmp_path / "t.csv").write_bytes(text.encode(encoding))
    table = tables.read(str(tmp_path / "t.csv"))
    assert table.columns == ("path", "label")
    assert [row.values["label"] for row in table.rows] == [f"black{delimiter} white", "cat"]


@pytest.mark.parametrize(
    ("text", "columns"),
    [
        ("sep=;\npath;label\na.png;x\n", ("path", "label")),
        ('path;"name, long";label\na.png;y;x\n', ("path", "name, long", "label")),
        ("path\na.png\n", ("path",)),
    ],
)
def test_the_header_decides_on_the_delimiter(tmp_path, text, columns):
    (tmp_path / "t.csv").write_text(text)
    table = tables.read(str(tmp_path / "t.csv"))
    assert table.columns == columns and table.rows[0].values["path"] == "a.png"


def test_quoted_line_ends_belong_to_a_value(write):
    text = "path,note,label\n" + "".join(
        f'images/{name}.jpg,"first\nsecond, third",{label}\n' for name, label in LABELS.items()
    )
    dataset = inspect(write(text=text))
    assert len(dataset.entries) == 6 and dataset.columns == ("note",)
    assert dataset.entries[0].slices == ("first\nsecond, third",)


# --- Paths ------------------------------------------------------------------------------------------------------

CELLS = {
    "backslashes": "images\\{}.jpg",
    "dot and backslash": ".\\images\\{}.jpg",
    "without suffix": "images/{}",
    "without folder": "{}.jpg",
    "without either": "{}",
}


@pytest.mark.parametrize("cell", CELLS.values(), ids=CELLS)
def test_paths_that_mean_exactly_one_file_are_read(write, cell):
    root = write(table="manifest.csv", text=lines("path,label", cell))
    dataset = inspect(root)
    assert classes_by_path(dataset) == {f"images/{name}.jpg": label for name, label in LABELS.items()}
    completed = [note for note in dataset.notes if "were completed" in note]
    assert bool(completed) == ("\\" not in cell)
    for note in completed:  # the count and two names
        assert f"6 paths were completed: `{cell.format('0000')}` is images/0000.jpg, `{cell.format('0001')}` is" in note


def test_a_path_that_means_several_files_is_refused(write):
    root = write("a", "manifest.csv", lines("path,label"))
    write("b", "manifest.csv", lines("path,label"), ids=IDS[:1])
    dataset = inspect(root)
    assert len(dataset.entries) == 5
    assert dataset.refused == (("0000", "2 files match: a/0000.jpg, b/0000.jpg"),)


def test_files_in_a_folder_of_the_name_of_the_table_are_meant(write):
    root = write("train", "train.csv", lines("image_id,label"))
    write("test", "sample_submission.csv", "\n".join(["image_id,label", *(f"{name},cat" for name in IDS)]))
    dataset = inspect(root)
    assert classes_by_path(dataset) == {f"train/{name}.jpg": label for name, label in LABELS.items()}


def test_backslashes_in_metadata(class_folders):
    root = class_folders({"a": 2, "b": 2})
    (root / "metadata.csv").write_text("filename;camera\na\\0.png;north\n.\\b\\1.png;south\n")
    assert {entry.path: entry.slices for entry in inspect(root).entries if entry.slices != ("unknown",)} == {
        "a/0.png": ("north",),
        "b/1.png": ("south",),
    }


# --- Columns ----------------------------------------------------------------------------------------------------

EXPORTS = [
    ("train.csv", "image_id,label", "{}", "images", ","),
    ("labels.csv", "id,class", "{}", "images", ","),
    ("labels.csv", "id,breed", "{}", "train", ","),
    ("annotations.csv", "filename,label", "{}.jpg", "images", ","),
    ("Labels.CSV", "Filename;Class Name", "{}.jpg", "photos", ";"),
    ("index.tsv", "file_path\tcategory", "images/{}.jpg", "images", "\t"),
    ("labels.csv", "picture,kind", "{}", "images", ","),  # codespell:ignore picture
    ("metadata.csv", "file_name,label", "{}.jpg", "", ","),
    ("manifest.csv", "image,target", "images\\{}.jpg", "images", ","),
]


@pytest.mark.parametrize(("table", "header", "cell", "folder", "delimiter"), EXPORTS)
def test_a_table_beside_images_is_read_if_it_has_one_interpretation(write, table, header, cell, folder, delimiter):
    dataset = inspect(write(folder, table, lines(header, cell, delimiter)))
    path, label = header.split(delimiter)
    assert (dataset.layout, dataset.classes) == ("manifest", ("cat", "dog"))
    assert sorted(classes_by_path(dataset).values()) == ["cat"] * 3 + ["dog"] * 3
    assert f"{table}: the column `{path}` has the paths and `{label}` the labels" in dataset.notes


def advice(message):
    """The `--set` arguments of every line → settings."""
    choice_lines = [line for line in message.splitlines() if "--set" in line]
    choices = []
    for line in choice_lines:
        words = [word for word in shlex.split(line[line.index("--set") :]) if word != "--set"]
        parsed = [loading._parsed(word, lambda text: None) for word in words]
        choices.append({key.removeprefix("data."): value for key, value in parsed})
    return choices


@pytest.mark.parametrize("table", ["labels.csv", "manifest.csv"])
@pytest.mark.parametrize("header", ["id,class,species", "id,kind,camera"])
def test_several_columns_of_labels_are_asked_for_with_settings_that_work(write, table, header):
    rows = [f"{name},{label},{'x' if label == 'cat' else 'y'}" for name, label in LABELS.items()]
    root = write("images", table, "\n".join([header, *rows]))
    with pytest.raises(DatasetError, match="several columns may be paths or labels") as caught:
        inspect(root)
    choices = advice(str(caught.value))
    assert [inspect(root, **choice).classes for choice in choices] == [("cat", "dog"), ("x", "y")]


def test_several_columns_of_paths_are_asked_for(write):
    rows = [f"{name},images/{name}.jpg,{label}" for name, label in LABELS.items()]
    root = write(text="\n".join(["id,file,label", *rows]))
    with pytest.raises(DatasetError, match="several columns may be paths or labels") as caught:
        inspect(root)
    for choice in advice(str(caught.value)):
        assert len(inspect(root, **choice).entries) == 6


def test_configured_columns(write):
    rows = [f"{name},{label},{'x' if label == 'cat' else 'y'}" for name, label in LABELS.items()]
    root = write(text="\n".join(["key,label,kind", *rows]))
    assert inspect(root, label_column="kind").classes == ("x", "y")
    assert inspect(root, path_column="key", label_column="kind").columns == ("label",)
    for setting, column, near in (("path_column", "keys", "key"), ("label_column", "lable", "label")):
        with pytest.raises(DatasetError, match=f"data.{setting}: .* has no column `{column}`. Did you mean `{near}`"):
            inspect(root / "labels.csv", **{setting: column})


def test_a_column_of_splits_with_another_name(write):
    rows = [
        f"{name},{label},{split}"
        for (name, label), split in zip(LABELS.items(), ["TRAIN"] * 4 + ["Test"] * 2, strict=True)
    ]
    dataset = inspect(write(text="\n".join(["id,class,subset", *rows])))
    assert dataset.own_splits == ("train", "test") and dataset.columns == ()


def test_tables_of_splits_are_read_together(write):
    write("train", "Train.csv", lines("id,class"))
    root = write("val", "val.csv", lines("id,class"))
    dataset = inspect(root)
    assert dataset.own_splits == ("train", "validation")
    assert len(dataset.entries) == 12
    assert {entry.split for entry in dataset.entries if entry.path.startswith("val/")} == {"validation"}
    (root / "val.csv").write_text(lines("id,class,camera").replace("cat", "cat,x").replace("dog", "dog,y"))
    with pytest.raises(DatasetError, match=r"Train\.csv, val\.csv differ in columns"):
        inspect(root, label_column="class")


def test_a_table_inside_the_only_folder_is_named(write):
    root = write("images", "images/labels.csv", lines("id,class"))
    with pytest.raises(LayoutError, match=r"contains the table labels\.csv: use --data") as caught:
        inspect(root)
    location = re.search(r"--data (\S+)\.$", str(caught.value), re.MULTILINE).group(1)
    assert inspect(location).classes == ("cat", "dog")


def test_several_tables_are_asked_for_with_locations_that_work(write):
    write(table="one.csv", text=lines("id,class"))
    root = write(table="two.csv", text=lines("id,class").replace("cat", "bird"))
    with pytest.raises(LayoutError, match="2 tables that list images") as caught:
        inspect(root)
    locations = re.findall(r"--data (\S+)", str(caught.value))
    assert [inspect(location).classes for location in locations] == [("cat", "dog"), ("bird", "dog")]


def test_a_table_without_a_header(write, tmp_path):
    rows = "\n".join(f"images/{name}.jpg,{label}" for name, label in LABELS.items())
    with pytest.raises(DatasetError, match=r"not a header, but contains the file images/0000\.jpg\. Write a line"):
        inspect(write(table="manifest.csv", text=rows))
    (tmp_path / "export" / "manifest.csv").rename(tmp_path / "export" / "labels.csv")
    with pytest.raises(DatasetError, match=r"labels\.csv: the first line is not a header"):
        inspect(tmp_path / "export")


def test_a_table_beside_class_folders(class_folders):
    root = class_folders({"cat": 4, "dog": 4})
    names = [f"{kind}/{i}.png" for kind in ("cat", "dog") for i in range(4)]
    (root / "index.csv").write_text("\n".join(["file,label", *(f"{name},{name[:3]}" for name in names)]))
    assert inspect(root).layout == "class_folders"  # the table has the same labels
    (root / "index.csv").write_text(
        "\n".join(["file,color", *(f"{name},{'ab'[i % 2]}" for i, name in enumerate(names))])
    )
    with pytest.raises(LayoutError, match="matches the layouts class_folders, manifest") as caught:
        inspect(root)
    assert [inspect(root, **choice).classes for choice in advice(str(caught.value))] == [("cat", "dog"), ("a", "b")]


def test_a_table_that_does_not_list_images_is_no_manifest(class_folders):
    root = class_folders({"cat": 4, "dog": 4})
    (root / "results.csv").write_text("model,accuracy\nunet,0.5\nresnet,0.7\n")
    (root / "broken.csv").write_bytes(b"\xff\xfe,\n")
    assert inspect(root).layout == "class_folders"
