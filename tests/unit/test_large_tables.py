"""Tables of large datasets: read again instead of kept, sorted and joined in files, with the results of a small one."""

import csv
import dataclasses
import errno
import gc
import io
import itertools
import json
import operator
import resource
import tracemalloc

import numpy as np
import pytest

from components.image_example_gen import files, stored_entries, tables
from components.image_example_gen.dataset import inspect_dataset
from components.image_example_gen.entries import Entry
from components.image_example_gen.errors import DatasetError
from components.image_example_gen.external_sort import sorted_by_key
from components.image_example_gen.layouts import _columns, _listed_files, _pairs, mask_pairs
from components.image_example_gen.layouts._folder import Folder
from components.image_example_gen.options import DataOptions
from components.image_example_gen.spooled_items import SpooledItems
from components.image_example_gen.stored_entries import StoredEntries


@pytest.fixture
def small_buffers(set_buffers, monkeypatch):
    """Keeps next to nothing in memory."""
    set_buffers(3)
    monkeypatch.setattr(tables, "_BLOCK_BYTES", 5)


def outcome(root, **options):
    """Everything about a dataset, or its error."""
    try:
        dataset = inspect_dataset(str(root), DataOptions(**options))
    except DatasetError as error:
        return str(error)
    values = {field.name: getattr(dataset, field.name) for field in dataclasses.fields(dataset)}
    return values | {"entries": tuple(dataset.entries)}


# --- Any table gives the same dataset ---------------------------------------------------------------------------


def write_table(path, rows):
    """Writes CSV or, by the name, JSON Lines."""
    if path.suffix == ".jsonl":
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
        return
    text = io.StringIO()
    writer = csv.DictWriter(text, list(dict.fromkeys(key for row in rows for key in row)))
    writer.writeheader()
    writer.writerows(rows)
    path.write_text(text.getvalue())


def random_manifest(root, rng):
    """Writes images and a table of them, with some of what tables have: splits, groups, sets, masks, mistakes."""
    num, folders = int(rng.integers(8, 30)), ("a", "b/c")
    masks, sets, stems = rng.random(3) < 0.3
    for folder in folders:
        (root / folder).mkdir(parents=True)
    rows = []
    for number in range(num):
        path = f"{folders[number % 2]}/{rng.integers(10**6):06d}-{number}.png"
        (root / path).write_bytes(b"x" * int(rng.integers(1, 9)))
        row = {"path": path.removesuffix(".png") if stems and rng.random() < 0.5 else path}
        if masks:
            (root / "masks").mkdir(exist_ok=True)
            (root / f"masks/{number}.png").write_bytes(b"m")
            row["mask"] = f"masks/{number}.png"
        row["label"] = "|".join(rng.permutation(["cat", "dog", "emu"])[: int(rng.integers(1, 3)) if sets else 1])
        rows.append(row | {"camera": str(rng.integers(3)), "time": str(number)})
    if rng.random() < 0.5:
        rows = [row | {"group": str(rng.integers(4))} for row in rows]
    if rng.random() < 0.3:
        rows = [row | {"split": rng.choice(["train", "val", "test", ""])} for row in rows]
    if rng.random() < 0.3:  # an image that is listed twice
        rows += [row | {"label": "cat"} for row in rows[:3]]
    for mistake in ({"path": "a/none.png"}, {"path": ""}, {"label": ""}, {"path": "a"}, {"split": "holdout"}):
        if rng.random() < 0.2:
            rows.append(rows[0] | mistake)
    rows = [rows[index] for index in rng.permutation(len(rows))]
    write_table(root / f"manifest.{rng.choice(['csv', 'jsonl'])}", rows)
    return {"labels_per_image": "any"} if sets and not masks else {"classes": ("cat", "dog")} if masks else {}


@pytest.mark.parametrize("seed", range(60))
def test_any_manifest_gives_the_dataset_that_it_gives_in_memory(tmp_path, seed, request):
    options = random_manifest(tmp_path, np.random.default_rng(seed))
    expected = outcome(tmp_path, **options)
    request.getfixturevalue("small_buffers")
    assert outcome(tmp_path, **options) == expected


@pytest.mark.parametrize("seed", range(40))
def test_any_metadata_gives_the_dataset_that_it_gives_in_memory(class_folders, tmp_path, seed, request):
    rng = np.random.default_rng(seed)
    root = class_folders({"cat": 5, "dog": 6, "emu": 4})
    paths = sorted(str(path.relative_to(root)) for path in root.rglob("*.*"))
    chosen = [path for path in paths if rng.random() < 0.8]
    spellings = (str, lambda path: path.replace("/", "\\"), lambda path: f"./{path}")
    rows = [
        {"filename": spellings[rng.integers(3)](path), "camera": str(rng.integers(3)), "scene": str(rng.integers(5))}
        for path in rng.permutation(chosen)
    ]
    if rng.random() < 0.3:
        rows.append({"filename": "cat/none.png", "camera": "9", "scene": "9"})
    if rng.random() < 0.3:
        rows.append(rows[0] | {"camera": str(rng.integers(3))})  # often another value
    write_table(root / "metadata.csv", rows)
    (tmp_path / "corrections.csv").write_text(
        f"filename,label,action\n{paths[0]},dog,relabel\n{paths[1]},,drop\n{paths[2]},cat,keep\n{paths[3]},,\n"
    )
    options = {
        "group_column": "scene" if rng.random() < 0.5 else None,
        "rename_classes": {"cat": "feline"} if rng.random() < 0.3 else {},
        "corrections": str(tmp_path / "corrections.csv") if rng.random() < 0.5 else None,
        "recursive": bool(rng.random() < 0.3),
    }
    expected = outcome(root, **options)
    request.getfixturevalue("small_buffers")
    assert outcome(root, **options) == expected


@pytest.mark.parametrize("seed", range(80))
def test_masks_are_paired_by_groups_of_names_as_all_at_once(tmp_path, seed, request, monkeypatch):
    rng = np.random.default_rng(seed)
    folders = ("images", "masks") if rng.random() < 0.6 else ("", "")
    splits = ("", "train/", "Train/", "val/") if folders[0] and rng.random() < 0.3 else ("",)
    names = ("{}", "{}", "{}", "img_{}", "{}_image", *(("mask_{}", "{}_mask", "{}_mask_image") if folders[0] else ()))
    mask_names = ("{}", "{}", "{}_mask", "mask_{}", "{}_gt", "{}_seg_mask") if folders[0] else ("{}_mask", "{}_gt")
    for folder, words in zip(folders, (names, mask_names), strict=True):
        for number in range(int(rng.integers(6, 20))):
            if rng.random() < 0.8:
                name = rng.choice(words).format(number)
                path = tmp_path / folder / f"{rng.choice(splits)}{name}.{rng.choice(['png', 'jpg'])}"
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_bytes(b"x")
    options = {"layout": "mask_pairs", "classes": ("a", "b")}
    if folders[0]:
        options |= {"images_folder": "images", "masks_folder": "masks"}
    with monkeypatch.context() as patch:
        patch.setattr(mask_pairs, "_plain", lambda stem: "")
        expected = outcome(tmp_path, **options)
    request.getfixturevalue("small_buffers")
    assert outcome(tmp_path, **options) == expected


@pytest.mark.parametrize("image", ["image_mask", "mask-img", "rgb.target", "leftimg8bit-mask"])
def test_images_whose_names_mean_masks_too_have_their_masks(tmp_path, image):
    mask = _pairs.without_role(image, "images")
    for path in (f"images/{image}.jpg", f"masks/{mask}.png", "images/1.jpg", "masks/1.png"):
        (tmp_path / path).parent.mkdir(exist_ok=True)
        (tmp_path / path).write_bytes(b"x")
    dataset = inspect_dataset(str(tmp_path), DataOptions(classes=("a", "b")))
    assert [entry.label_files[0].path for entry in dataset.entries] == ["masks/1.png", f"masks/{mask}.png"]


def test_names_that_become_equal_without_words_of_images_and_masks_are_in_one_group():
    rng = np.random.default_rng(0)
    words = ["1", "x", "", "mask", "Masks", "gt", "image", "IMG", "data", "ground_truth", "gtFine_labelIds", "truth"]
    for _ in range(2000):
        stem = "".join(f"{rng.choice(words)}{rng.choice(['_', '-', ' ', '__', ''])}" for _ in range(rng.integers(1, 5)))
        for role in ("images", "masks"):
            assert _pairs.without_roles(_pairs.without_role(stem, role)) == _pairs.without_roles(stem)
    assert _pairs.without_roles("a_mask/image_7.b_gt") == "a_mask/7_b"


@pytest.mark.parametrize("buffers", ["default", "small"])
def test_every_missing_path_is_counted_once(tmp_path, request, buffers):
    for name in ("a", "b", "c", "d/e"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / f"{name}.png").write_bytes(b"x")
    names = ("a.png", "b.png", "./c.png", "d\\e.png", "c.png", "d/e.png")
    rows = [{"path": name, "label": "cat", "note": note} for note in "12" for name in names]
    rows += [{"path": f"gone/{number}.png", "label": "dog"} for number in (*range(5), *range(5))]
    rows += [{"path": path, "label": "dog"} for path in ("a", "/nowhere/1.png", "b.png", "/nowhere/1.png")]
    write_table(tmp_path / "manifest.csv", rows)
    if buffers == "small":
        request.getfixturevalue("small_buffers")
    with pytest.raises(DatasetError, match=r"6 of 10 paths do not exist in .*, such as `/nowhere/1.png` and `gone/0"):
        inspect_dataset(str(tmp_path), DataOptions())
    write_table(tmp_path / "manifest.csv", [*rows[:12], *rows[20:]])
    notes = inspect_dataset(str(tmp_path), DataOptions(labels_per_image="any")).notes
    assert "manifest.csv: 1 paths were completed: `a` is a.png" in notes


def test_a_name_with_a_backslash_is_not_completed(tmp_path, small_buffers):
    rows = [{"path": f"a\\{number}.png", "label": ("cat", "dog")[number % 2]} for number in range(8)]
    for row in rows:
        (tmp_path / row["path"]).write_bytes(b"x")
    write_table(tmp_path / "manifest.csv", rows)
    dataset = inspect_dataset(str(tmp_path), DataOptions())
    assert not dataset.notes and len(dataset.entries) == 8


def test_entries_of_tables_are_in_files_that_are_deleted_with_them(tmp_path, small_buffers, monkeypatch):
    (tmp_path / "data").mkdir()
    (tmp_path / "temporary").mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "temporary"))
    rows = [{"path": f"{number:02}.png", "label": ("cat", "dog")[number % 2]} for number in range(20)]
    for row in rows:
        (tmp_path / "data" / row["path"]).write_bytes(b"x")
    write_table(tmp_path / "data" / "manifest.csv", rows[::-1])
    dataset = inspect_dataset(str(tmp_path / "data"), DataOptions())
    assert isinstance(dataset.entries, StoredEntries)
    assert [entry.path for entry in dataset.entries] == [row["path"] for row in rows]
    assert len(list((tmp_path / "temporary").iterdir())) == 1  # those of the steps before are gone
    del dataset
    gc.collect()
    assert not list((tmp_path / "temporary").iterdir())


def test_the_number_of_values_of_a_column_is_counted_up_to_a_limit(tmp_path, monkeypatch):
    rows = [{"path": f"{number:03}.png", "label": ("cat", "dog")[number % 2], "time": number} for number in range(120)]
    for row in rows:
        (tmp_path / row["path"]).write_bytes(b"x")
    write_table(tmp_path / "manifest.csv", rows)
    notes = inspect_dataset(str(tmp_path), DataOptions()).notes
    assert "column `time` has 120 values; it is a slice only if evaluation.slices names it" in notes
    for module in ("dataset", "span_listing"):
        monkeypatch.setattr(f"components.image_example_gen.{module}.MOST_COUNTED", 100)
    (note,) = inspect_dataset(str(tmp_path), DataOptions()).notes
    assert note.startswith("column `time` has more than 100 values;")


def test_memory_does_not_grow_with_the_rows(tmp_path, set_buffers):
    set_buffers(500, runs=4, items=10)

    def peak(num):
        root = tmp_path / str(num)
        for folder in range(num // 100):
            (root / f"{folder:03}").mkdir(parents=True)
            for number in range(100):
                (root / f"{folder:03}/{number:03}.png").touch()
        write_table(
            root / "manifest.csv",
            [
                {"path": f"{index // 100:03}/{index % 100:03}.png", "label": ("cat", "dog")[index % 2]}
                for index in range(num)
            ],
        )
        gc.collect()
        tracemalloc.start()
        try:
            assert len(inspect_dataset(str(root), DataOptions()).entries) == num
            return tracemalloc.get_traced_memory()[1]
        finally:
            tracemalloc.stop()

    peak(500)  # imports
    assert peak(8000) < 1.3 * peak(2000)


def test_a_full_disk_is_an_error_that_names_the_folder(tmp_path, monkeypatch, capfd):
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    monkeypatch.setattr(stored_entries, "IMAGES_PER_PARTITION", 100)
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (10_000, hard))
    try:
        for store in (lambda items: SpooledItems(items, 1), lambda items: list(sorted_by_key(items, 5_000))):
            with pytest.raises(OSError, match="File too large") as caught:
                store((str(number), "") for number in range(20_000))
            assert caught.value.filename == str(tmp_path)
            del caught
            gc.collect()
        with pytest.raises(OSError, match="File too large") as caught:
            stored_entries.collect(Entry(str(number)) for number in range(30_000))
        assert caught.value.filename.startswith(f"{tmp_path}/tfx-vision-listing-")
        del caught
        gc.collect()
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert not capfd.readouterr().err and not list(tmp_path.iterdir())


# --- Reading ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("suffix", ["csv", "jsonl"])
def test_rows_of_a_large_file_are_those_of_a_small_one(tmp_path, suffix, request):
    rows = [{"path": f"{number}.png", "note": "two\nlines, quoted"} for number in range(9)]
    if suffix == "jsonl":
        rows[7]["late"] = "a column that no row before has"
    write_table(tmp_path / f"t.{suffix}", rows)
    expected = tables.read(str(tmp_path / f"t.{suffix}"))
    request.getfixturevalue("small_buffers")
    table = tables.read(str(tmp_path / f"t.{suffix}"))
    assert isinstance(expected.rows, list) and not isinstance(table.rows, list)
    assert table.columns == expected.columns and len(table.rows) == 9
    assert list(table.rows) == expected.rows == list(table.rows)
    assert expected.rows[3] in table.rows and tables.Row(99, {}) not in table.rows


def test_a_remote_table_is_read_in_parts(small_buffers, monkeypatch):
    import tensorflow as tf

    monkeypatch.setattr("components.image_example_gen.files._REMOTE_BUFFER", 7)
    tf.io.gfile.makedirs("ram://tables")
    with tf.io.gfile.GFile("ram://tables/t.csv", "wb") as file:
        file.write("path,label\n" + "".join(f"{number}.png,Käse\n" for number in range(20)))
    table = tables.read("ram://tables/t.csv")
    assert [row.values for row in table.rows] == [{"path": f"{number}.png", "label": "Käse"} for number in range(20)]
    with pytest.raises(DatasetError, match=r"ram://tables/none.csv cannot be read"):
        tables.read("ram://tables/none.csv")


def test_the_columns_of_a_large_file_are_searched_together(tmp_path, small_buffers, monkeypatch):
    columns = ["image", *(f"kind{number}" for number in range(8))]
    for number in range(10):
        (tmp_path / f"{number}.png").write_bytes(b"x")
    write_table(tmp_path / "t.csv", [dict.fromkeys(columns, "ab"[n % 2]) | {"image": f"{n}.png"} for n in range(10)])
    table = tables.read(str(tmp_path / "t.csv"))
    passes, parse = [], tables._parse
    monkeypatch.setattr(tables, "_parse", lambda *given: passes.append(given) or parse(*given))
    folder = Folder(str(tmp_path), tuple(files.listing(str(tmp_path))))
    choices = _columns.plausible(table, _listed_files.ListedFiles(folder, "t.csv"), DataOptions())
    assert [choice.label for choice in choices] == columns[1:]
    assert len(passes) <= len(columns) + 2


@pytest.mark.parametrize(
    "content",
    ["path,label\na.png,cat\n", "path,label,other\n" + "a.png,cat,1\n" * 4, "file,label\n" + "a.png,cat\n" * 4],
)
def test_a_large_file_that_changes_meanwhile_is_an_error(tmp_path, small_buffers, content):
    (tmp_path / "t.csv").write_text("path,label\n" + "a.png,cat\n" * 4)
    table = tables.read(str(tmp_path / "t.csv"))
    assert len(list(table.rows)) == 4
    (tmp_path / "t.csv").write_text(content)
    with pytest.raises(DatasetError, match=r"t.csv has changed while it was read\. Run"):
        list(table.rows)
    (tmp_path / "t.csv").unlink()
    with pytest.raises(DatasetError, match=r"t.csv cannot be read: No such file"):
        list(table.rows)


def test_a_file_that_cannot_be_read_to_its_end_is_an_error(monkeypatch):
    class Broken(io.RawIOBase):
        def readable(self):
            return True

        def readinto(self, buffer):
            raise OSError(errno.EIO, "Input/output error")

    monkeypatch.setattr(files, "open_binary", lambda location: io.BufferedReader(Broken()))
    with pytest.raises(DatasetError, match=r"t.csv cannot be read: Input/output error"):
        tables.read("/data/t.csv")


@pytest.mark.parametrize(
    ("line", "reason"),
    [('{"path": "a.png"', "line 1 column 17"), ('{"n": ' + "1" * 5000 + "}", "digits"), ("[" * 100_000, "recursion")],
)
def test_a_line_that_is_not_json_is_an_error(tmp_path, line, reason):
    (tmp_path / "t.jsonl").write_text(f'{{"path": "b.png"}}\n{line}\n{{"path": "c.png"}}\n')
    with pytest.raises(DatasetError, match=f"t.jsonl, line 2: not JSON: .*{reason}"):
        tables.read(str(tmp_path / "t.jsonl"))


@pytest.mark.parametrize("mark", [b"", b"\xef\xbb\xbf"])
@pytest.mark.parametrize("start", ["path,label\na.png,", "path,label\nä.png,", "path,label\n" + "ä" * 40])
@pytest.mark.parametrize("rest", [b"\xe4x\n", b"\xc3"])
def test_the_place_that_is_not_utf8_is_that_in_the_file(tmp_path, small_buffers, mark, start, rest):
    content = mark + start.encode()
    (tmp_path / "t.csv").write_bytes(content + rest)
    with pytest.raises(DatasetError, match=rf"is not CSV in UTF-8 \(byte {len(content)}\)\. Save it"):
        tables.read(str(tmp_path / "t.csv"))


def test_lines_are_counted_after_the_line_that_excel_writes(tmp_path):
    (tmp_path / "t.csv").write_text("sep=;\npath;label\na.png;cat\n")
    assert [row.line for row in tables.read(str(tmp_path / "t.csv")).rows] == [3]


# --- Sorting ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("num", [0, 1, 3, 4, 7, 9, 10, 27, 28, 100, 400])
def test_sorted_runs_are_merged_and_equal_keys_stay_in_order(small_buffers, num):
    rng = np.random.default_rng(num)
    letters = ["", "a", "b\0", "ä", "z/z", "\udcff", "\U0001f600"]  # the last but one is a byte that is not UTF-8
    items = [("".join(rng.choice(letters, 2)), number) for number in range(num)]
    assert list(sorted_by_key(iter(items), 3)) == sorted(items, key=operator.itemgetter(0))


def test_items_are_read_by_several_iterators_at_a_time(small_buffers):
    for most_bytes in (1, 10**6):
        items = SpooledItems(range(11), most_bytes)
        assert list(zip(items, items, strict=True)) == [(number, number) for number in range(11)]
        first, second = iter(items), iter(items)
        assert [next(first) for _ in range(5)] == [0, 1, 2, 3, 4]
        assert list(itertools.islice(second, 3)) == [0, 1, 2] and list(first) == [5, 6, 7, 8, 9, 10]
    assert not list(SpooledItems([]))
