"""A thousand mutated VOC, COCO and YOLO files: every image is used or refused with a reason, and nothing crashes."""

import copy
import json
import re
import subprocess
import sys

import numpy as np
import pytest

from components.image_example_gen.boxes import Annotation, normalize
from components.image_example_gen.dataset import inspect_dataset
from components.image_example_gen.errors import DatasetError, UnusableImageError
from components.image_example_gen.layouts import _json, coco
from components.image_example_gen.options import DataOptions

SIZE = {"height": 80, "width": 100}
TOKENS = [
    b"nan",
    b"-1",
    b"1e309",
    b"9" * 40,
    b"",
    b"0x10",
    b"\xef\xbc\x91",
    b"\xff",
    b"\0",
    b"<",
    b"&amp;",
    b"]]>",
    b"1.5",
]
VALUES = [None, True, -1, 0, 1e308, 10**30, "", "7", "nan", [], {}, [[]], [1, 2], {"id": 1}, "\ud800", float("nan")]
VOC = (
    b"<annotation><filename>a.jpg</filename><size><width>100</width><height>80</height></size>"
    b"<object><name>cat</name><difficult>0</difficult><bndbox><xmin>11</xmin><ymin>21</ymin><xmax>50</xmax>"
    b"<ymax>60</ymax></bndbox></object><object><name>dog</name><bndbox><xmin>1</xmin><ymin>1</ymin><xmax>100</xmax>"
    b"<ymax>80</ymax></bndbox></object></annotation>"
)
YOLO = b"0 0.3 0.5 0.4 0.5\n1 0.5 0.5 1 1\n0 0.1 0.1 0.5 0.1 0.5 0.9\n"
COCO = {
    "info": {"year": 2026},
    "images": [{"id": number, "file_name": f"{number}.jpg", "width": 100, "height": 80} for number in range(3)],
    "annotations": [
        {"id": number, "image_id": number % 3, "category_id": 1 + number % 2, "bbox": [10, 20, 40, 40], "iscrowd": 0}
        for number in range(6)
    ],
    "categories": [{"id": 1, "name": "cat"}, {"id": 2, "name": "dog"}],
}


def mutate(content: bytes, rng: np.random.Generator) -> bytes:
    """Damages a file at one place, or at several."""
    for _ in range(rng.choice([1, 1, 1, 1, 2, 3])):
        first, last = sorted(rng.integers(0, len(content) + 1, 2).tolist())
        last = min(last, first + 12)
        part = content[first:last]
        match rng.integers(6):
            case 0:  # truncated
                content = content[:last]
            case 1:  # a part is missing
                content = content[:first] + content[last:]
            case 2:  # a part is repeated
                content = content[:last] + part + content[last:]
            case 3:  # bytes have changed
                content = content[:first] + rng.bytes(min(3, last - first)) + content[min(last, first + 3) :]
            case 4:  # a value has changed
                content = content[:first] + TOKENS[rng.integers(len(TOKENS))] + content[first + 2 :]
            case 5:  # parts are exchanged
                content = content[:first] + content[last : last + 9] + part + content[last + 9 :]
    return content


def mutate_xml(content: bytes, rng: np.random.Generator) -> bytes:
    """Replaces, removes or repeats one or two elements, so that the document stays XML."""
    for _ in range(rng.integers(1, 3)):
        elements = list(re.finditer(rb"<(\w+)>([^<]*)</\1>", content))
        element = elements[rng.integers(len(elements))]
        name, token = element[1], TOKENS[rng.integers(len(TOKENS))]
        values = (token, b"%d" % rng.integers(-9, 120))
        new = (b"", element[0] * 2, *(b"<%s>%s</%s>" % (name, value, name) for value in values))
        content = content[: element.start()] + new[rng.integers(4)] + content[element.end() :]
    return content


def mutate_value(value, rng):
    """Replaces, removes or repeats a random part of a JSON value."""
    value = copy.deepcopy(value)
    for _ in range(rng.integers(1, 4)):
        node = value
        while True:
            keys = list(node) if isinstance(node, dict) else list(range(len(node)))
            if not keys:
                break
            key = keys[rng.integers(len(keys))]
            if isinstance(node[key], dict | list) and node[key] and rng.random() < 0.85:
                node = node[key]
                continue
            match rng.integers(3):
                case 0:
                    del node[key]
                case 1 if isinstance(node, list):
                    node.append(copy.deepcopy(node[key]))
                case _:
                    node[key] = VALUES[rng.integers(len(VALUES))]
            break
    return value


def check(dataset, paths):
    """Every image is used or refused; boxes of used ones are normalised or refused. Returns the numbers of both."""
    refused = {file.path: file.reason for file in dataset.refused}
    used = {entry.path: Annotation.from_label(dict(entry.label)) for entry in dataset.entries}
    assert all(refused.values())
    assert {path for path in paths if path not in used} <= refused.keys()
    for path, annotation in used.items():
        try:
            for box in normalize(annotation, **SIZE).boxes:
                assert 0 <= box.xmin < box.xmax <= 1 and 0 <= box.ymin < box.ymax <= 1 and box.name.strip()
        except UnusableImageError as error:
            refused[path] = str(error)
    return len(paths) - len(refused), len(refused)


@pytest.mark.parametrize(
    ("original", "label", "image", "others"),
    [
        (VOC, "Annotations/{}.xml", "JPEGImages/{}.jpg", {}),
        (YOLO, "labels/{}.txt", "images/{}.jpg", {"obj.names": "cat\ndog"}),
    ],
    ids=["VOC", "YOLO"],
)
def test_mutated_label_files(tmp_path, rng, original, label, image, others):
    count = 334
    for number in range(count + 2):
        damage = mutate_xml if original is VOC and number % 3 else mutate
        content = original if number < 2 else damage(original, rng)
        for name, data in ((label, content), (image, b"x")):
            path = tmp_path / name.format(number)
            path.parent.mkdir(exist_ok=True)
            path.write_bytes(data)
    for name, text in others.items():
        (tmp_path / name).write_text(text)
    dataset = inspect_dataset(str(tmp_path), DataOptions(classes=["cat", "dog"]))
    used, refused = check(dataset, [image.format(number) for number in range(count + 2)])
    assert used > 30 and refused > 30


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("data.yaml", b"train: images\nval: images\nnc: 2\nnames:\n  0: cat\n  1: dog\n"),
        ("data.yaml", b"nc: 2\nnames: ['cat', 'dog']\n"),
        ("classes.txt", b"cat\ndog\n"),
    ],
)
def test_mutated_names_of_classes(tmp_path, rng, name, content):
    for number in range(2):
        for folder, data in (("images/{}.jpg", b"x"), ("labels/{}.txt", YOLO)):
            path = tmp_path / folder.format(number)
            path.parent.mkdir(exist_ok=True)
            path.write_bytes(data)
    used = unreadable = 0
    for _ in range(120):
        (tmp_path / name).write_bytes(mutate(content, rng))
        try:
            dataset = inspect_dataset(str(tmp_path), DataOptions())
        except DatasetError as error:
            assert str(tmp_path) in str(error)
            unreadable += 1
        else:
            used += check(dataset, ["images/0.jpg", "images/1.jpg"])[0]
    assert used > 15 and unreadable > 10


def test_mutated_coco_files(tmp_path, rng):
    names = [f"{number}.jpg" for number in range(3)]
    for name in names:
        (tmp_path / name).write_bytes(b"x")
    used = refused = unreadable = 0
    for number in range(334):
        text = json.dumps(mutate_value(COCO, rng)).encode() if number % 2 else mutate(json.dumps(COCO).encode(), rng)
        (tmp_path / "instances.json").write_bytes(text)
        try:
            document = _json.read(str(tmp_path), "instances.json")
            images = list(coco.parse(document, "instances.json", refused=[], notes=[]))
        except DatasetError as error:
            assert "instances.json" in str(error)
            unreadable += 1
            continue
        for image in images:
            refused += bool(image.problem)
            if not image.problem:
                try:
                    used += bool(normalize(image.annotation, **SIZE))
                except UnusableImageError as error:
                    refused += bool(str(error))
        # The whole way, which also finds files and classes.
        try:
            inspect_dataset(str(tmp_path), DataOptions(layout="coco", classes=["cat", "dog"]))
        except DatasetError as error:
            assert str(error)
    assert used > 200 and refused > 30 and unreadable > 30


def test_label_files_are_read_without_tensorflow():
    code = "import sys; from components.image_example_gen.layouts import coco, cvat, label_studio, voc, yolo; "
    code += "from components.image_example_gen import boxes; assert 'tensorflow' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)
