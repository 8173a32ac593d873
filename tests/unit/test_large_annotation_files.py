"""Large files of annotations: read in parts, joined and grouped in files, with the results of a small one."""

import gc
import json
import tracemalloc
from xml.sax.saxutils import quoteattr

import numpy as np
import pytest
import tensorflow as tf

from components.image_example_gen import files, tables
from components.image_example_gen.dataset import inspect_dataset, list_folder
from components.image_example_gen.errors import DatasetError
from components.image_example_gen.layouts import _json, _listed_files, _xml, coco, cvat, label_studio
from components.image_example_gen.layouts._folder import Folder
from components.image_example_gen.options import DataOptions
from components.image_example_gen.spooled_items import SpooledItems

NAN = float("nan")
# Values that break a file, an element, or one reader of JSON.
VALUES = [
    None,
    True,
    0,
    -1.5,
    10**30,
    NAN,
    float("inf"),
    "",
    "7",
    "\ud800",
    "]}",
    'a"[',
    "x\\",
    [],
    {},
    [[]],
    [{"a": [1]}],
]


@pytest.fixture
def small_buffers(set_buffers, monkeypatch):
    """Keeps next to nothing in memory."""
    set_buffers(3)
    monkeypatch.setattr(_json, "_MOST_BYTES_IN_MEMORY", 0)
    for module in (_json, _xml):
        monkeypatch.setattr(module, "_BLOCK_BYTES", 7)


def outcome(root, **options):
    """Everything about a dataset, with its order, or its error."""
    result = []
    for function in (list_folder, inspect_dataset):
        try:
            values = vars(function(str(root), DataOptions(**options)))
            result.append({key: set(each) if key == "class_names" else each for key, each in values.items()})
            result[-1]["entries"] = tuple(result[-1]["entries"])
        except DatasetError as error:
            result.append(str(error))
    return result


# --- JSON in parts ----------------------------------------------------------------------------------------------


def read(folder):
    """The value of a file, or its error."""
    try:
        value = _json.read(str(folder), "a.json")
    except DatasetError as error:
        return str(error)
    if isinstance(value, dict):
        return repr({key: list(each) if _json.is_list(each) else each for key, each in value.items()})
    return repr(list(value) if _json.is_list(value) else value)


def damaged(content, rng):
    """Inserts, removes or repeats some bytes."""
    first, last = sorted(rng.integers(0, len(content) + 1, 2).tolist())
    last = min(last, first + 5)
    tokens = (b",", b"]", b"}", b"[", b"{", b'"', b"\\", b"NaN", b"\xff", b" ", b"")
    middle = (content[first:last] * 2, tokens[rng.integers(len(tokens))])[rng.integers(2)]
    return content[:first] + middle + content[last:]


@pytest.mark.parametrize("seed", range(12))
def test_json_in_parts_is_that_at_once(tmp_path, seed, request, monkeypatch):
    rng, contents = np.random.default_rng(seed), []
    for _ in range(40):
        chosen = [VALUES[index] for index in rng.integers(len(VALUES), size=8) if rng.random() < 0.9]
        elements = [{"id": number, "value": value} for number, value in enumerate(chosen)]
        lists = {"images": elements, "info": {"a": [1, {}]}, "empty": [], "n": 1, "mixed": chosen}
        document = (lists, elements, chosen, chosen[:1])[rng.choice(4, p=[0.6, 0.2, 0.1, 0.1])]
        text = json.dumps(document, indent=rng.choice([0, 2]).item() or None, ensure_ascii=bool(rng.random() < 0.8))
        content = text.encode("utf-8", "surrogatepass")
        content = content.replace(b'"empty"', b'"images"') if rng.random() < 0.1 else content
        contents.append(
            b"\xef\xbb\xbf" * (rng.random() < 0.2) + (damaged(content, rng) if rng.random() < 0.4 else content)
        )
    contents += [b"", b" ", b"[", b"{", b"[]", b"{}", b"1", b'"a', b"[1]]", b"[1,]", b"[,1]", b"[{},,{}]", b"[{} {}]"]
    expected = []
    for content in contents:
        (tmp_path / "a.json").write_bytes(content)
        expected.append(read(tmp_path))
    request.getfixturevalue("small_buffers")
    monkeypatch.setattr(_json, "_BLOCK_BYTES", int(rng.integers(1, 60)))
    for content, value in zip(contents, expected, strict=True):
        (tmp_path / "a.json").write_bytes(content)
        assert read(tmp_path) == value


def test_an_element_larger_than_a_block_is_read(tmp_path, small_buffers):
    element = {"text": "x" * 10_000, "points": [[number, {"y": number}] for number in range(3000)]}
    (tmp_path / "a.json").write_text(json.dumps([element, {"deep": [[[[[[[[[[[[[[1]]]]]]]]]]]]]]}][:1] * 3))
    tasks = _json.read(str(tmp_path), "a.json")
    assert isinstance(tasks, _json.LargeList) and list(tasks) == list(tasks) == [element] * 3
    deep = json.loads("[" * 20 + "]" * 20)
    (tmp_path / "a.json").write_text(json.dumps([{"deep": deep}]))
    assert _json.read(str(tmp_path), "a.json") == [{"deep": deep}]  # as a whole


def test_a_large_file_that_changes_or_is_damaged_is_an_error(tmp_path, small_buffers, monkeypatch):
    path = tmp_path / "a.json"
    path.write_text(json.dumps([{"id": number} for number in range(9)]))
    tasks = _json.read(str(tmp_path), "a.json")
    for content in ('[{"id": 1}]', "[]", "x" * 200):
        path.write_text(content)
        with pytest.raises(DatasetError, match=r"a.json has changed while it was read\. Run"):
            list(tasks)
    path.unlink()
    with pytest.raises(DatasetError, match=r"a.json cannot be read: No such file"):
        list(tasks)
    monkeypatch.setattr(_json, "_MOST_BYTES", 40)
    for content, reason in (
        ('[{"id": 1}, {"id": 2} {"id": 3}, {"id": 4}]', "a list is damaged after byte"),
        ('[{"id": 1}, {"id": 2}, {"id": 3}, {"id": 4}', "a list does not end"),
        ('{"id": {"id": {"id": 3}, "b": {"id": 4444444444', "an object or a text does not end"),
    ):
        path.write_text(content)
        with pytest.raises(DatasetError, match=f"a.json is not JSON: {reason}"):
            _json.read(str(tmp_path), "a.json")


def test_a_remote_file_is_read_in_parts(small_buffers, monkeypatch):
    monkeypatch.setattr(files, "_REMOTE_BUFFER", 7)
    tf.io.gfile.makedirs("ram://annotations")
    with tf.io.gfile.GFile("ram://annotations/a.json", "wb") as file:
        file.write(json.dumps({"images": [{"id": number} for number in range(20)], "annotations": [{"id": 1}]}))
    document = _json.read("ram://annotations", "a.json")
    for _ in range(2):
        assert [item["id"] for item in document["images"]] == list(range(20))
        assert list(document["annotations"]) == [{"id": 1}]


# --- Any dataset gives the same result ----------------------------------------------------------------------------


def write_images(root, rng, folders=("images/train", "images/val", "more")):
    """Writes images, of which some have the same name; returns their paths."""
    paths = [
        f"{rng.choice(folders)}/{rng.integers(30):02}.{rng.choice(['jpg', 'png'])}" for _ in range(rng.integers(6, 20))
    ]
    for path in paths:
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        (root / path).write_bytes(b"x" * int(rng.integers(1, 9)))
    return sorted(set(paths))


def spelled(path, rng):
    """A path as an annotation may write it."""
    name = path.rpartition("/")[2]
    return (path, path, path, name, f"/other/{path}", path.replace("/", "\\"), name.upper(), "none.jpg")[
        rng.integers(8)
    ]


def write_coco(root, rng):
    paths = write_images(root, rng)
    for name in ("instances_train.json", "instances_val.json", "instances_test.json")[: rng.integers(1, 4)]:
        own = [path for path in paths if rng.random() < 0.6]
        kind = (int, str, float, lambda number: f"id{number}")[rng.integers(4)]
        images = [
            {"id": kind(n), "file_name": spelled(path, rng), "width": 90, "height": 80} for n, path in enumerate(own)
        ]
        objects = [
            {"id": number, "image_id": kind(rng.integers(len(own) + 1)), "category_id": int(rng.integers(1, 3))}
            | {"bbox": rng.integers(1, 40, 4).tolist(), "segmentation": [[1, 2, 30, 4, 5, 60]], "iscrowd": number % 2}
            for number in range(rng.integers(3 * len(own) + 2))
        ]
        for mistake in (
            {"category_id": 9},
            {"bbox": None},
            {"bbox": [1]},
            {"rotation": 3},
            {"score": NAN},
            {"id": "a"},
        ):
            if rng.random() < 0.2 and objects:
                objects[rng.integers(len(objects))] |= mistake
        if rng.random() < 0.3 and images:
            images += [images[0], {"id": 1}, {"file_name": "a.jpg"}, 3]
        categories = [{"id": 1, "name": "cat"}, {"id": 2, "name": "dog"}]
        content = {"info": {}, "images": images, "annotations": objects, "categories": categories}
        (root / "annotations").mkdir(exist_ok=True)
        order = rng.permutation(list(content))
        (root / "annotations" / name).write_text(json.dumps({key: content[key] for key in order}))


def write_label_studio(root, rng):
    tasks = []
    for number, path in enumerate(write_images(root, rng)):
        value = dict(zip(("x", "y", "width", "height"), rng.integers(1, 50, 4).tolist(), strict=True))
        value |= {"rectanglelabels": [rng.choice(["cat", "dog"])], "rotation": 5 * int(rng.random() < 0.1)}
        results = [{"type": "rectanglelabels", "value": value, "original_width": 90, "original_height": 80}]
        annotations = [{"result": results, "was_cancelled": bool(rng.random() < 0.1)}] * int(rng.integers(3))
        url = f"/data/local-files/?d={path}" if rng.random() < 0.5 else spelled(path, rng)
        tasks += [{"id": number, "data": {"image": url}, "annotations": annotations}] * (1 + (rng.random() < 0.05))
    for number, name in enumerate(("a.json", "b.json")[: rng.integers(1, 3)]):
        (root / name).write_text(json.dumps(tasks[number::2] or tasks))


def write_cvat(root, rng):
    shapes = (
        '<box label="cat" xtl="1" ytl="2" xbr="30.5" ybr="40"><attribute name="difficult">true</attribute></box>',
        '<box label="dog" xtl="1" ytl="2" xbr="9" ybr="8"/><tag label="x"/>',
        '<polygon label="käse" points="1,2;30,4;5,60"/>',
        '<box label="cat" xtl="1"/>',
    )
    elements = [
        f'<image name={quoteattr(spelled(path, rng))} subset="{rng.choice(["", "Train"])}" width="90" height="80">'
        f"{''.join(rng.choice(shapes, rng.integers(3), p=[0.5, 0.3, 0.15, 0.05]))}</image>"
        for path in write_images(root, rng)
    ]
    tags = ["<meta><image/></meta>", *elements, *["<track/>"] * (rng.random() < 0.1)]
    name, encoding = rng.choice(["annotations"] * 9 + ["other"]), rng.choice(["utf-8", "utf-8", "latin-1", "gb2312"])
    text = f'<?xml version="1.0" encoding="{encoding}"?>\n<{name}>{"".join(tags)}</{name}>'
    content = text.encode(encoding, "replace")
    (root / "annotations.xml").write_bytes(damaged(content, rng) if rng.random() < 0.2 else content)


def write_table(root, rng, columns=("xmin", "ymin", "xmax", "ymax")):
    rows, paths = [], write_images(root, rng)
    for number, path in enumerate(paths):
        stem = path.rpartition(".")[0]
        spellings = (path, path, path, stem, stem.rpartition("/")[2], path.replace("/", "\\"), f"./{path}", "none", "")
        cell = spellings[rng.integers(7 if rng.random() < 0.9 else 9)]
        for _ in range(rng.integers(1, 4) if columns else 1):
            corners = dict(zip(columns, map(str, np.sort(rng.integers(1, 40, 4)).tolist()), strict=False))
            rows.append({"path": cell, **corners, "label": rng.choice(["cat", "dog"]), "camera": str(number % 3)})
    if rng.random() < 0.3:
        rows = [row | {"split": "train" if len(row["path"]) % 2 else "val"} for row in rows]
    for mistake in ({"label": ""}, {"camera": "9"}, {"split": "holdout"}, {"xmin": "x"}, dict.fromkeys(columns, "")):
        if rng.random() < 0.1:
            rows[rng.integers(len(rows))] |= mistake
    rows = [rows[index] for index in rng.permutation(len(rows))]
    (root / "manifest.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))


def write_names(root, rng):
    write_table(root, rng, columns=())


@pytest.mark.parametrize("seed", range(30))
@pytest.mark.parametrize("write", [write_coco, write_label_studio, write_cvat, write_table, write_names])
def test_any_dataset_gives_the_result_that_it_gives_in_memory(tmp_path, write, seed, request):
    write(tmp_path, np.random.default_rng(seed))
    expected = outcome(tmp_path)
    request.getfixturevalue("small_buffers")
    assert outcome(tmp_path) == expected


# --- Memory -----------------------------------------------------------------------------------------------------


def coco_images(folder, num):
    content = {"annotations": [{"image_id": n, "category_id": 1, "bbox": [1, 2, 3, 4]} for n in range(num)]}
    content |= {"images": [{"id": n, "file_name": f"{n}.jpg"} for n in range(num)]}
    (folder / "a.json").write_text(json.dumps(content | {"categories": [{"id": 1, "name": "cat"}]}))
    yield
    yield from coco.parse(_json.read(str(folder), "a.json"), "a.json", refused=[], notes=[])


def label_studio_tasks(folder, num):
    tasks = [{"id": n, "data": {"image": f"{n}.jpg"}, "annotations": [{"result": []}]} for n in range(num)]
    (folder / "a.json").write_text(json.dumps(tasks))
    yield
    yield from label_studio.parse(str(folder), "a.json")


def cvat_images(folder, num):
    elements = [f'<image name="{n}.jpg"><box label="cat" xtl="1" ytl="1" xbr="2" ybr="2"/></image>' for n in range(num)]
    (folder / "a.xml").write_text(f"<annotations>{''.join(elements)}</annotations>")
    yield
    yield from cvat.parse(str(folder), "a.xml")


def table_rows(folder, num):
    rows = [tables.Row(n, {"path": f"{n // 100}\\{n}"}) for n in range(num)]
    for n in range(num):
        (folder / f"{n // 100}").mkdir(exist_ok=True)
        (folder / f"{n // 100}/{n}.jpg").touch()
    stored = SpooledItems(rows, 1)
    del rows
    yield
    listed = _listed_files.ListedFiles(Folder(str(folder), ()), "t.csv")
    for batch, known in listed.in_batches(stored, ("path",)):
        yield from (known[row.values["path"]] for row in batch)


@pytest.mark.parametrize("items_of", [coco_images, label_studio_tasks, cvat_images, table_rows])
def test_memory_does_not_grow_with_the_file(tmp_path, items_of, set_buffers, monkeypatch):
    set_buffers(250, runs=4, items=10)
    monkeypatch.setattr(_json, "_MOST_BYTES_IN_MEMORY", 0)
    monkeypatch.setattr(_json, "_BLOCK_BYTES", 2**12)

    monkeypatch.setattr(SpooledItems.__init__, "__defaults__", ((), 1))  # no megabytes in memory

    def peak(num):
        folder = tmp_path / str(num)
        folder.mkdir()
        items = items_of(folder, num)
        next(items)  # has written the file
        gc.collect()
        tracemalloc.start()
        try:
            assert sum(1 for _ in items) == num
            return tracemalloc.get_traced_memory()[1]
        finally:
            tracemalloc.stop()

    peak(300)  # imports
    assert peak(6000) < 1.3 * peak(1500)


def test_items_are_added_while_others_are_read():
    for most_bytes in (1, 10**6):
        items = SpooledItems(range(600), most_bytes)
        reader = iter(items)
        assert [next(reader) for _ in range(3)] == [0, 1, 2]
        items.extend(range(600, 900))
        assert list(reader) == list(range(3, 900)) and list(items) == list(range(900))
