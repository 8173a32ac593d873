"""Annotations of large datasets: found, read and kept in files, with the results of a small one."""

import dataclasses
import gc
import json
import resource
import tracemalloc

import numpy as np
import pytest

from components.image_example_gen import files
from components.image_example_gen.dataset import list_folder
from components.image_example_gen.errors import DatasetError
from components.image_example_gen.layouts._boxes import ImageIndex
from components.image_example_gen.options import DataOptions
from components.image_example_gen.spooled_items import SpooledItems, kept
from components.image_example_gen.stored_mapping import collect_mapping


def write(root, path, content=b"x"):
    """Writes a file below the data folder."""
    (root / path).parent.mkdir(parents=True, exist_ok=True)
    (root / path).write_bytes(content if isinstance(content, bytes) else content.encode())


def listed(root, **options):
    """The listing of a dataset, or its error."""
    try:
        listing = list_folder(str(root), DataOptions(**options))
    except DatasetError as error:
        return str(error)
    return dataclasses.replace(listing, entries=tuple(listing.entries))


def splits_of(rng, names):
    """Random lines of lists, one list for each split."""
    chosen = {split: [name for name in names if rng.random() < 0.6] for split in ("train", "val", "test")}
    if rng.random() < 0.2:
        chosen = {split: list(names) for split in chosen}  # so that all splits are drawn
    return {split: "\n".join(rng.permutation([*own, "gone"])) for split, own in chosen.items() if rng.random() < 0.8}


# --- Any annotations give the same dataset ----------------------------------------------------------------------


def random_yolo(root, rng):
    """Writes images and label files, with some of what datasets have: negatives, lists of splits, mistakes."""
    images, labels = [("images", "labels"), ("images/train", "labels/train"), ("d", "d"), ("", "")][rng.integers(4)]
    num_values = [4, 4, 6, 8][rng.integers(4)]
    paths = []
    for number in rng.integers(12, size=int(rng.integers(4, 20))):
        name = f"{rng.choice(['a', 'B'])}{number}"
        paths.append(f"{images}/{name}.{rng.choice(['jpg', 'png', 'JPG'])}".lstrip("/"))
        write(root, paths[-1])
        lines = [
            " ".join(map(str, [rng.integers(3 if rng.random() < 0.05 else 2), *np.round(rng.random(num_values), 2)]))
            for _ in range(rng.integers(3))
        ]
        label = name.swapcase() if rng.random() < 0.1 else name
        if rng.random() < 0.85:
            write(
                root, f"{labels}/{label}.txt".lstrip("/"), "\n".join(lines) + ("\n0 1" if rng.random() < 0.05 else "")
            )
    if rng.random() < 0.3:
        write(root, "labels/alone.txt", "0 0.5 0.5 0.5 0.5")
    write(root, "data.yaml", "names: [cat, dog]\n" + ("train: images/train\n" if rng.random() < 0.2 else ""))
    if rng.random() < 0.5:
        for split, text in splits_of(rng, paths).items():
            write(root, f"{split}.txt", text)


def random_voc(root, rng):
    """Writes images and XML files, with some of what datasets have: other names, lists of splits, mistakes."""
    stems = [f"{rng.choice(['a', 'B'])}{number}" for number in rng.integers(12, size=int(rng.integers(4, 20)))]
    for stem in stems:
        folder = rng.choice(["JPEGImages", "JPEGImages", "JPEGImages/train", "other", "SegmentationClass"])
        write(root, f"{folder}/{stem}.{rng.choice(['jpg', 'png', 'JPG'])}")
        filename = rng.choice([f"{stem}.jpg", f"{stem.swapcase()}.JPG", "none.jpg", f"{rng.choice(stems)}.png"])
        box = "".join(f"<{tag}>{rng.integers(9)}</{tag}>" for tag in ("xmin", "ymin", "xmax", "ymax"))
        objects = f"<object><name>{rng.choice(['cat', 'dog'])}</name><bndbox>{box}</bndbox></object>"
        content = f"<annotation><filename>{filename}</filename>{objects * rng.integers(3)}</annotation>"
        if rng.random() < 0.9:
            name = f"x{stem}" if rng.random() < 0.2 else stem
            write(root, f"Annotations/{name}.xml", content[: 20 if rng.random() < 0.05 else None])
    if rng.random() < 0.5:
        for split, text in splits_of(rng, stems).items():
            write(root, f"ImageSets/Main/{split}.txt", text.replace("\n", " 1\n" if rng.random() < 0.3 else "\n"))


def random_coco(root, rng):
    """Writes images and one or two JSON files, which name them in several ways; some images are in both files."""
    paths = [
        f"{rng.choice(['images', 'images/train', 'data', 'x'])}/{rng.choice(['a', 'B'])}{number}.jpg"
        for number in rng.integers(12, size=int(rng.integers(4, 20)))
    ]
    for path in paths:
        write(root, path)
    for name in ("a.json", "b.json")[: rng.integers(1, 3)]:
        images, annotations = [], []
        for number, path in enumerate(rng.choice(paths, len(paths) // 2 + 1, replace=False)):
            spellings = (path, path.rpartition("/")[2], path.upper(), path.replace("/", "\\"), "none.jpg")
            images.append({"id": number, "file_name": spellings[min(rng.integers(8), 4) if rng.random() < 0.5 else 0]})
            annotations.append({"image_id": number, "category_id": 1, "bbox": [1, 2, int(rng.integers(1, 9)), 3]})
        categories = [{"id": 1, "name": "cat"}]
        write(root, name, json.dumps({"images": images, "annotations": annotations, "categories": categories}))


@pytest.mark.parametrize("seed", range(60))
@pytest.mark.parametrize("layout", ["yolo", "voc", "coco"])
def test_any_annotations_give_the_dataset_that_they_give_in_memory(tmp_path, layout, seed, set_buffers):
    rng = np.random.default_rng(seed)
    {"yolo": random_yolo, "voc": random_voc, "coco": random_coco}[layout](tmp_path, rng)
    if rng.random() < 0.2:
        paths = sorted(path.relative_to(tmp_path) for path in tmp_path.rglob("*.jpg"))
        write(tmp_path, "metadata.csv", "filename,camera\n" + "".join(f"{path},{len(paths)}\n" for path in paths))
    expected = listed(tmp_path, layout=layout)
    set_buffers(3)
    assert listed(tmp_path, layout=layout) == expected


def test_versions_of_the_same_annotations_are_counted_by_images(tmp_path, set_buffers):
    for number in range(9):
        write(tmp_path, f"{number}.jpg")
    for name, numbers in (("a.json", [*range(8), 0]), ("b.json", [3, 4, 4])):
        content = {
            "images": [{"id": index, "file_name": f"{number}.jpg"} for index, number in enumerate(numbers)],
            "annotations": [{"image_id": 0, "category_id": 1, "bbox": [1, 2, 3, 4]}],
            "categories": [{"id": 1, "name": "cat"}],
        }
        write(tmp_path, name, json.dumps(content))
    expected = listed(tmp_path, layout="coco")
    assert "a.json and b.json list the same images (2, such as 3.jpg)" in expected
    set_buffers(2)
    assert listed(tmp_path, layout="coco") == expected


@pytest.mark.parametrize("layout", ["yolo", "voc"])
def test_memory_does_not_grow_with_the_annotations(tmp_path, layout, set_buffers):
    set_buffers(200)

    def peak(num):
        root = tmp_path / str(num)
        for number in range(num):
            name = f"{number // 100:03}/{number % 100:03}"
            write(root, f"{'images' if layout == 'yolo' else 'JPEGImages'}/{name}.jpg")
            if layout == "yolo":
                write(root, f"labels/{name}.txt", "0 0.5 0.5 0.5 0.5")
            else:
                box = "<bndbox><xmin>1</xmin><ymin>1</ymin><xmax>3</xmax><ymax>3</ymax></bndbox>"
                write(
                    root, f"Annotations/{name}.xml", f"<annotation><object><name>cat</name>{box}</object></annotation>"
                )
        lines = [f"{number // 100:03}/{number % 100:03}" for number in range(num)]
        if layout == "yolo":
            write(root, "data.yaml", "names: [cat]")
            write(root, "train.txt", "\n".join(f"images/{line}.jpg" for line in lines))
        else:
            write(root, "ImageSets/Main/train.txt", "\n".join(sorted({line[4:] for line in lines})))
        gc.collect()
        tracemalloc.start()
        try:
            assert len(list_folder(str(root), DataOptions(layout=layout)).entries) == num
            return tracemalloc.get_traced_memory()[1]
        finally:
            tracemalloc.stop()

    peak(300)  # imports
    assert peak(3000) < 1.3 * peak(750)


# --- Images -----------------------------------------------------------------------------------------------------


def test_images_of_the_same_name_are_counted(tmp_path, set_buffers):
    for path in ("a/1.jpg", "b/1.jpg", "b/1.JPG", "c/1.png", "c/2.jpg", "d/3.PNG", "notes.txt", "4.jpg", "4.jpg.txt"):
        write(tmp_path, path)
    for _ in range(2):
        index = ImageIndex(str(tmp_path))
        assert list(index.files) == [file.path for file in files.walk(str(tmp_path), "")]
        assert list(index.images) == [path for path in index.files if not path.endswith("txt")]
        assert index.find("x/1.jpg") is None and index.find("a/1.jpg", [""]).path == "a/1.jpg"
        assert index.why_missing("1.jpg") == "3 files have this name: a/1.jpg, b/1.JPG"
        assert index.find("1.JPG").path == "b/1.JPG" and index.find("3.png").path == "d/3.PNG"
        assert index.find("1.jpg", ["d", "b"]).path == "b/1.jpg"
        assert index.with_stem("1") is None and index.with_stem("2").path == "c/2.jpg"
        assert index.why_missing("2.png") == "the file does not exist, but `c/2.jpg` does"
        set_buffers(2)


# --- Mappings, items and lines ----------------------------------------------------------------------------------


@pytest.mark.parametrize("num", [0, 1, 3, 4, 40, 400])
def test_a_mapping_in_a_file_is_a_dictionary(set_buffers, num):
    set_buffers(3)
    rng = np.random.default_rng(num)
    letters = ["", "a", "b\0", "ä", "z/z", "\udcff", "\ud800", "\U0001f600"]
    items = [("".join(rng.choice(letters, 4)), (number, None)) for number in range(num)]
    mapping, expected = collect_mapping(iter(items)), dict(items)
    assert isinstance(mapping, dict) == (len(expected) <= 3)
    assert len(mapping) == len(expected) and bool(mapping) == bool(expected)
    assert list(mapping) == list(expected) and list(mapping.items()) == list(expected.items())
    assert [(key, mapping[key]) for key in mapping] == list(expected.items())  # reads while it is read
    assert "none" not in mapping and mapping.get("none", 5) == 5


def test_a_mapping_is_deleted_with_its_file(tmp_path, set_buffers, monkeypatch):
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    set_buffers(3)
    mapping = collect_mapping((str(number), number) for number in range(9))
    assert len(list(tmp_path.iterdir())) == 1
    del mapping
    gc.collect()
    assert not list(tmp_path.iterdir())


def test_an_error_of_the_items_or_of_the_disk_is_that_of_the_mapping(tmp_path, set_buffers, monkeypatch):
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    set_buffers(3)
    with pytest.raises(DatasetError, match="broken"):
        collect_mapping(broken_items())
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (10_000, hard))
    try:
        with pytest.raises(OSError, match="disk") as caught:
            collect_mapping((f"{number:0100}", number) for number in range(90_000))
        assert caught.value.filename.startswith(f"{tmp_path}/")
        del caught
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    gc.collect()
    assert not list(tmp_path.iterdir())


def broken_items():
    """Yields more than is in memory, then fails."""
    yield from ((str(number), number) for number in range(9))
    raise DatasetError("broken")


def test_items_of_an_iterator_are_kept(set_buffers):
    set_buffers(3)
    few, many = kept(iter(range(3))), kept(iter(range(9)))
    assert isinstance(few, list) and isinstance(many, SpooledItems)
    assert [list(items) for items in (few, few, many, many)] == [[0, 1, 2]] * 2 + [list(range(9))] * 2
    assert kept(few) is few and kept(many) is many


@pytest.mark.parametrize("text", ["", "\n", "a\r\nb", "\ufeffa\n\ufeffb\n", "a\x0bb\x85c\u2028d\r\re\n\n", "ä"])
def test_lines_are_those_of_the_whole_text(tmp_path, text):
    write(tmp_path, "a.txt", text)
    assert list(files.lines(str(tmp_path), "a.txt")) == text.removeprefix("\ufeff").splitlines()


@pytest.mark.parametrize("content", [b"a\n\xe4b\n", b"\xef\xbb\xbfa\nb\xc3", b"\xff"])
def test_lines_that_are_not_utf8_are_replaced_or_an_error_at_their_position(tmp_path, content):
    write(tmp_path, "a.txt", content)
    lines = files.lines(str(tmp_path), "a.txt", errors="replace")
    assert list(lines) == content.decode("utf-8-sig", errors="replace").splitlines()
    with pytest.raises(UnicodeDecodeError) as expected:
        content.decode("utf-8-sig")
    with pytest.raises(UnicodeDecodeError) as caught:
        list(files.lines(str(tmp_path), "a.txt"))
    assert str(caught.value) == str(expected.value)
    with pytest.raises(files.UnreadableFileError, match="cannot be read: No such file"):
        list(files.lines(str(tmp_path), "none.txt"))
