"""Large tables are listed in parts of whole rows, with the results of the whole table."""

import csv
import dataclasses
import io
import json
import pickle

import numpy as np
import pytest

from components.image_example_gen import listing_tasks, span_listing, table_parts, tables
from components.image_example_gen.dataset import inspect_dataset
from components.image_example_gen.errors import DatasetError
from components.image_example_gen.layouts import manifest
from components.image_example_gen.listing_tasks import ListingPlace
from components.image_example_gen.options import DataOptions
from components.image_example_gen.shards import WorkFolder
from components.image_example_gen.table_parts import IndivisibleTableError


@pytest.fixture
def engine_of(tmp_path, many_tasks):
    """Returns no engine, or one with several tasks."""
    (tmp_path / "work").mkdir()
    place = ListingPlace(many_tasks(), WorkFolder(str(tmp_path / "work")))
    return lambda has_engine: (lambda: place) if has_engine else None


@pytest.fixture
def listed_in_parts(monkeypatch):
    """The numbers of parts that were listed; 1 for a whole table."""
    monkeypatch.setattr(table_parts, "_PART_BYTES", 150)
    monkeypatch.setattr(listing_tasks, "_MOST_IN_PROCESS", 5)
    numbers, list_parts = [], span_listing.list_parts

    def counting(parts, *others):
        numbers.append(len(parts))
        return list_parts(parts, *others)

    monkeypatch.setattr(span_listing, "list_parts", counting)
    return numbers


# --- Rows -------------------------------------------------------------------------------------------------------


def random_text(rng, delimiter, end):
    """Writes CSV with line ends, quotes and delimiters in its values, and empty lines."""
    text = io.StringIO(newline="")
    quoting = csv.QUOTE_ALL if rng.random() < 0.3 else csv.QUOTE_MINIMAL
    writer = csv.writer(text, delimiter=delimiter, lineterminator=end, quoting=quoting)
    writer.writerow(["path", "label", "a note"])
    values = ["", "x", "cow, brown", 'the "ox"', "two\nlines", "three\r\nor\rmore", "Kuh; braun", "ä€"]
    for number in range(int(rng.integers(1, 60))):
        writer.writerow([f"{number}.png", *rng.choice(values, 2)])
        if rng.random() < 0.1:
            text.write(end)
    return (f"sep={delimiter}{end}" if rng.random() < 0.2 and delimiter != "\t" else "") + text.getvalue()


@pytest.mark.parametrize("seed", range(60))
def test_the_rows_of_all_parts_are_those_of_the_table(tmp_path, monkeypatch, seed):
    rng = np.random.default_rng(seed)
    text = random_text(rng, *(rng.choice(choices) for choices in ([",", ";", "\t"], ["\n", "\r\n"])))
    path = tmp_path / "table.csv"
    path.write_bytes(text.encode("utf-8-sig" if rng.random() < 0.3 else "utf-8"))
    whole = tables.read(str(path))
    monkeypatch.setattr(table_parts, "_PART_BYTES", int(rng.integers(60, 400)))
    parts = table_parts.divide(str(path))
    in_parts = [tables.read(str(path), part=part) for part in parts]
    assert [row for part in in_parts for row in part.rows] == list(whole.rows)
    assert {part.columns for part in in_parts} == {whole.columns}
    assert len(parts) > 1 or path.stat().st_size < 800


def test_the_rows_of_a_large_part_are_read_again(tmp_path, monkeypatch):
    path = tmp_path / "table.csv"
    path.write_text("path,label\n" + "".join(f"{number:04}.png,cat\n" for number in range(100)))
    monkeypatch.setattr(table_parts, "_PART_BYTES", 500)
    monkeypatch.setattr(tables, "_MOST_ROWS", 3)
    second = tables.read(str(path), part=table_parts.divide(str(path))[1])
    assert list(second.rows) == list(second.rows) and len(second.rows) == len(list(second.rows)) > 3
    first = next(iter(second.rows))
    assert first.values["path"] == f"{first.line - 2:04}.png"  # after the header


def test_json_lines_are_cut_at_line_feeds_only(tmp_path, monkeypatch):
    path = tmp_path / "table.jsonl"
    rows = [{"path": f"{number}.png", "label": '"\u2028"'} for number in range(40)]
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\r\n" for row in rows), newline="")
    monkeypatch.setattr(table_parts, "_PART_BYTES", 100)
    parts = table_parts.divide(str(path))
    assert len(parts) > 5
    read = [row for part in parts for row in tables.read(str(path), part=part).rows]
    assert read == list(tables.read(str(path)).rows) and [row.line for row in read] == list(range(1, 41))


@pytest.mark.parametrize("size", range(100, 160))
def test_no_part_is_empty(tmp_path, monkeypatch, size):
    (tmp_path / "table.jsonl").write_text('{"path": "1.png", "label": "cat"}\n' * 13)
    monkeypatch.setattr(table_parts, "_PART_BYTES", size)
    parts = table_parts.divide(str(tmp_path / "table.jsonl"))
    assert all(part.start < part.end for part in parts) and parts[-1].end == 13 * 34


def test_the_first_rows_have_all_columns(tmp_path, monkeypatch):
    rows = [{"path": f"{number}.png", "label": "cat"} for number in range(60)]
    write_table(tmp_path / "table.csv", rows)
    (tmp_path / "table.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    for name, num_rows in (("table.csv", 0), ("table.jsonl", 3)):
        location = str(tmp_path / name)
        with monkeypatch.context() as patch:
            patch.setattr(table_parts, "_PART_BYTES", 120)
            table = tables.read(location, part=table_parts.first_rows(location))
        assert table.columns == ("path", "label") and len(table.rows) == num_rows
        assert table_parts.first_rows(location) is None  # a small table


def test_a_part_of_a_file_that_has_changed_is_not_read(tmp_path):
    path = tmp_path / "table.csv"
    path.write_text("path,label\n1.png,cat\n")
    (part,) = table_parts.divide(str(path))
    path.write_text("path,label\n1.png,cat\n2.png,dog\n")
    with pytest.raises(DatasetError, match=r"table\.csv has changed while it was read\. Run the command again\."):
        tables.read(str(path), part=part)


@pytest.mark.parametrize("stray", ['a "large" cat', '"cat" or dog', 'cat"', 'a 5" cat\n2.png,"an ox\n3.png,of 6"'])
def test_quotes_that_do_not_enclose_a_value_never_change_rows(tmp_path, monkeypatch, stray):
    path = tmp_path / "table.csv"
    lines = [f'{number}.png,"a cow,\nbrown"' for number in range(20)]
    path.write_text("\n".join(["path,label", *lines[:7], f"x.png,{stray}", *lines[7:]]) + "\n")
    whole = tables.read(str(path))
    for size in range(40, 200, 7):
        monkeypatch.setattr(table_parts, "_PART_BYTES", size)
        try:
            parts = [tables.read(str(path), part=part) for part in table_parts.divide(str(path))]
        except IndivisibleTableError:
            continue
        assert [row for part in parts for row in part.rows] == list(whole.rows)


@pytest.mark.parametrize(
    "content",
    [
        "",
        "path,label",
        "path,label\r1.png,cat\r" * 20,
        '"path,label\n' + "1.png,cat\n" * 30,
        "path,label\r1.png,cat\n" * 9,
    ],
    ids=["empty", "header", "carriage returns", "open quote", "mixed"],
)
def test_tables_without_known_line_ends_are_not_cut(tmp_path, monkeypatch, content):
    path = tmp_path / "table.csv"
    path.write_text(content, newline="")
    monkeypatch.setattr(table_parts, "_PART_BYTES", 50)
    assert len(table_parts.divide(str(path))) <= 1


# --- Datasets ---------------------------------------------------------------------------------------------------


def outcome(root, engine, **options):
    """Everything about a dataset but the order of its entries and its fingerprint; or its error."""
    try:
        dataset = inspect_dataset(str(root), DataOptions(**options), engine)
    except DatasetError as error:
        return str(error)
    values = {field.name: getattr(dataset, field.name) for field in dataclasses.fields(dataset)}
    del values["fingerprint"]
    return values | {"entries": sorted(dataset.entries)}


def write_images(root, names):
    """Writes files of different sizes."""
    for number, name in enumerate(names):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(b"x" * (number % 7 + 1))


def rows_of(num, **columns):
    """Lines of a table, with the columns `path` and `label`."""
    names = ["cat", "dog", "cow, brown"]
    return [
        {"path": f"images/{number}.png", "label": names[number % 3]}
        | {key: value(number) for key, value in columns.items()}
        for number in range(num)
    ]


def write_table(path, rows):
    """Writes CSV."""
    text = io.StringIO()
    writer = csv.DictWriter(text, list(rows[0]))
    writer.writeheader()
    writer.writerows(rows)
    path.write_text(text.getvalue())


COLUMNS = {"split": lambda number: ["train", "test", ""][number // 3 % 3], "site": lambda number: f"site {number % 4}"}


@pytest.mark.parametrize("engine", [False, True])
@pytest.mark.parametrize(
    ("columns", "changed", "options"),
    [
        ({}, {}, {}),
        (COLUMNS, {}, {"rename_classes": {"dog": "cat"}, "group_pattern": r"/(\d)"}),
        (COLUMNS, {7: {"path": "none.png"}, 30: {"label": ""}, 31: {"path": ""}, 55: {"path": "images"}}, {}),
        ({}, {number: {"path": f"{number}"} for number in (3, 4, 40, 80)}, {}),
        ({}, {3: {"path": "images\\3.png"}, 50: {"path": "./images/50.png"}}, {}),
        ({}, {5: {"label": "cat|dog"}}, {"labels_per_image": "any"}),
        ({}, {9: {"path": "images/8.png"}, 89: {"path": "images/8.png", "label": "dog"}}, {}),
    ],
    ids=["plain", "columns", "mistakes", "incomplete paths", "spellings", "sets", "twice"],
)
def test_parts_give_the_dataset_of_the_whole_table(
    tmp_path, listed_in_parts, engine_of, engine, columns, changed, options
):
    write_images(tmp_path / "data", [row["path"] for row in rows_of(90)])
    rows = [row | changed.get(number, {}) for number, row in enumerate(rows_of(90, **columns))]
    write_table(tmp_path / "data" / "manifest.csv", rows)
    in_parts = outcome(tmp_path / "data", engine_of(engine), **options)
    assert listed_in_parts.pop() > 5 and not listed_in_parts
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(table_parts, "_PART_BYTES", 2**20)
        assert outcome(tmp_path / "data", None, **options) == in_parts
    assert listed_in_parts == [1] and not isinstance(in_parts, str)


def test_a_table_outside_of_the_data_folder_is_listed_by_this_process(tmp_path, listed_in_parts):
    write_images(tmp_path / "data", [row["path"] for row in rows_of(60)])
    write_table(tmp_path / "manifest.csv", rows_of(60))
    assert len(outcome(tmp_path / "data", None, manifest=str(tmp_path / "manifest.csv"))["entries"]) == 60
    assert listed_in_parts == [1]


def test_tasks_do_not_contain_the_names_of_files(tmp_path, listed_in_parts, engine_of):
    write_images(tmp_path / "data", [f"{number}.png" for number in range(2000)])
    write_table(tmp_path / "data" / "manifest.csv", [row | {"path": row["path"][7:]} for row in rows_of(2000)])
    place, sizes = engine_of(True)(), []

    class MeasuredTasks:
        def run(self, tasks, mapper, num_partitions, reducer):
            sizes.append(len(pickle.dumps(reducer)))
            return place.exchange.run(tasks, mapper, num_partitions, reducer)

    dataset = inspect_dataset(str(tmp_path / "data"), DataOptions(), lambda: place._replace(exchange=MeasuredTasks()))
    assert len(dataset.entries) == 2000 and listed_in_parts.pop() > 5
    assert len(sizes) == 1 and sizes[0] < 1000


def test_masks_are_listed_in_parts(tmp_path, listed_in_parts):
    rows = [row | {"mask": f"masks/{number}.png"} for number, row in enumerate(rows_of(60))]
    write_images(tmp_path, [row[key] for row in rows for key in ("path", "mask")])
    (tmp_path / "masks" / "9.png").unlink()
    write_table(tmp_path / "manifest.csv", rows)
    in_parts = outcome(tmp_path, None, classes=["a", "b"])
    assert listed_in_parts.pop() > 5
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(table_parts, "_PART_BYTES", 2**20)
        assert outcome(tmp_path, None, classes=["a", "b"]) == in_parts
    assert [file.path for file in in_parts["refused"]] == ["images/9.png"]


def test_the_fingerprint_does_not_depend_on_where_parts_are_listed(tmp_path, listed_in_parts, engine_of):
    write_images(tmp_path / "data", [row["path"] for row in rows_of(90)])
    rows = rows_of(90)
    write_table(tmp_path / "data" / "manifest.csv", rows)
    first, second = (inspect_dataset(str(tmp_path / "data"), DataOptions(), engine_of(each)) for each in (False, True))
    assert first.fingerprint == second.fingerprint
    rows[80]["label"] = "dog"
    write_table(tmp_path / "data" / "manifest.csv", rows)
    assert inspect_dataset(str(tmp_path / "data"), DataOptions()).fingerprint != first.fingerprint


@pytest.mark.parametrize("engine", [False, True])
@pytest.mark.parametrize(
    ("name", "rows", "message"),
    [
        ("manifest.csv", rows_of(60), "60 of 60 paths do not exist"),
        (
            "manifest.csv",
            [
                row | {"path": f"images/{number % 9}.png" if number % 3 else "none/x.png"}
                for number, row in enumerate(rows_of(60))
            ],
            None,
        ),
        (
            "manifest.jsonl",
            [row | ({"site": "a"} if number > 50 else {}) for number, row in enumerate(rows_of(60))],
            None,
        ),
        (
            "manifest.csv",
            [row | {"set": "train" if number < 50 else "north"} for number, row in enumerate(rows_of(60))],
            None,
        ),
    ],
    ids=["no file exists", "many do not", "columns at the end", "values decide"],
)
def test_other_tables_are_listed_as_a_whole(
    tmp_path, listed_in_parts, engine_of, monkeypatch, engine, name, rows, message
):
    monkeypatch.setattr(manifest, "_MOST_SET_ASIDE", 2)
    if message is None:
        write_images(tmp_path / "data", [row["path"] for row in rows if row["path"].startswith("images")])
    (tmp_path / "data").mkdir(exist_ok=True)
    if name.endswith("csv"):
        write_table(tmp_path / "data" / name, rows)
    else:
        (tmp_path / "data" / name).write_text("".join(json.dumps(row) + "\n" for row in rows))
    result = outcome(tmp_path / "data", engine_of(engine))
    assert listed_in_parts[-1] == 1
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(table_parts, "_PART_BYTES", 2**20)
        assert outcome(tmp_path / "data", None) == result
    assert message in result if message else isinstance(result, dict)


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("manifest.csv", {"group_column": "patient"}, "has no column `patient`"),
        ("all.csv", {"manifest": "all.csv"}, "write their corners into"),
        ("manifest.csv", {"split_pattern": "(?P<test>x)", "label_column": "lable"}, "has no column `lable`"),
    ],
)
def test_errors_of_columns_are_those_of_the_whole_table(tmp_path, listed_in_parts, name, options, message):
    write_images(tmp_path, [row["path"] for row in rows_of(60)])
    boxes = (
        {key: lambda number: "0.5" for key in ("x_center", "y_center", "width", "height")} if name == "all.csv" else {}
    )
    write_table(tmp_path / name, rows_of(60, **boxes))
    options = {key: str(tmp_path / value) if key == "manifest" else value for key, value in options.items()}
    assert message in outcome(tmp_path, None, **options)
    assert listed_in_parts == [1]


def test_rows_without_complete_paths_are_limited(tmp_path, listed_in_parts, monkeypatch):
    monkeypatch.setattr(span_listing, "_MOST_UNRESOLVED", 3)
    write_images(tmp_path, [row["path"] for row in rows_of(90)])
    rows = [row | ({"path": str(number)} if number % 20 == 5 else {}) for number, row in enumerate(rows_of(90))]
    write_table(tmp_path / "manifest.csv", rows)
    assert len(inspect_dataset(str(tmp_path), DataOptions()).entries) == 90
    assert listed_in_parts[0] > 5 and listed_in_parts[1:] == [1]
