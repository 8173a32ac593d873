"""Class names: renamed, kept in the configured order, refused if they look like one class or like several labels."""

import re
import shlex
import unicodedata

import pytest

from components.image_example_gen.dataset import inspect_dataset
from components.image_example_gen.errors import DatasetError
from components.image_example_gen.options import DataOptions
from pipeline.config import loading

NFC, NFD = "café", unicodedata.normalize("NFD", "café")


def inspect(root, **options):
    return inspect_dataset(str(root), DataOptions(**options))


@pytest.fixture
def write_folders(tmp_path):
    """Writes class folders of files that are not read."""

    def make(*names, count=2):
        for name in names:
            folder = tmp_path / "images" / name
            folder.mkdir(parents=True, exist_ok=True)
            for index in range(count):
                (folder / f"{name.encode().hex()}{index}.png").write_bytes(b"x")
        return tmp_path / "images"

    return make


@pytest.fixture
def write_manifest(tmp_path):
    """Writes a manifest of two files per label."""

    def make(*labels):
        root = tmp_path / "listed"
        root.mkdir(exist_ok=True)
        rows = ["path,label"]
        for index, label in enumerate([*labels, *labels]):
            (root / f"{index}.png").write_bytes(b"x")
            rows.append(f'{index}.png,"{label}"')
        (root / "manifest.csv").write_text("\n".join(rows))
        return root

    return make


def advice(message):
    """The values of the `--set` arguments in a message, as a shell and the configuration would read them."""
    settings = []
    for argument in re.findall(r"--set (data\.\w+='(?:[^']|'\"'\"')*')", message):
        (word,) = shlex.split(argument)
        key, value = loading._parsed(word, lambda message: None)
        settings.append((key.removeprefix("data."), value))
    return settings


SAME = [
    (("Cat", "cat"), "case"),
    (("CAT", "Cat", "cat"), "case"),
    (("cat ", "cat"), "whitespace"),
    (("hot dog", "hotdog"), "whitespace"),
    (("hot\N{NO-BREAK SPACE}dog", "hot dog"), "whitespace"),
    ((NFC, NFD), "Unicode normalization"),
    (("hot_dog", "Hot dog"), "case, whitespace, separators or Unicode normalization"),
    (("\N{FULLWIDTH LATIN SMALL LETTER C}at", "cat"), "case, whitespace, separators or Unicode normalization"),
]


@pytest.mark.parametrize(("names", "difference"), SAME)
def test_names_of_one_class_are_refused_with_advice_that_works(write_folders, names, difference):
    root = write_folders(*names, "dog")
    with pytest.raises(DatasetError, match=f"differ only by {difference}") as caught:
        inspect(root)
    for name in names:  # the count and two files of each
        hexed = name.encode().hex()
        assert re.search(rf"\(2 images, such as [^)]*/{hexed}\d.png, [^)]*/{hexed}\d.png\)", str(caught.value))
    merge, keep = advice(str(caught.value))
    assert merge[0] == "rename_classes" and keep[0] == "classes"
    merged = inspect(root, **dict([merge]))
    assert len(merged.classes) == 2 and len(merged.entries) == 2 * (len(names) + 1)
    assert inspect(root, **dict([keep])).classes == tuple(sorted([*names, "dog"]))


def test_the_most_frequent_spelling_is_proposed(write_folders):
    write_folders("cat", "dog")
    root = write_folders("Cat", count=5)
    with pytest.raises(DatasetError) as caught:
        inspect(root)
    assert advice(str(caught.value))[0] == ("rename_classes", {"cat": "Cat"})


def test_names_that_differ_by_more_are_accepted(write_folders):
    names = ("1", "-1", "10", "1-0x", "c", "c++", "tench, Tinca tinca", "crane", "Pepper,_bell___healthy")
    assert set(inspect(write_folders(*names, "Pepper,_bell___spot")).classes) == {*names, "Pepper,_bell___spot"}


COMBINED = ["cat,dog", "cat|dog", "cat;dog", "cat, dog", "dog, Cat", "cat_dog", "cat and dog", "cat & dog", "dog+cat"]


@pytest.mark.parametrize("name", COMBINED)
@pytest.mark.parametrize("source", ["folders", "manifest"])
def test_several_labels_in_one_name_are_refused_with_advice_that_works(write_folders, write_manifest, source, name):
    root = (write_folders if source == "folders" else write_manifest)("cat", "dog", name)
    with pytest.raises(DatasetError, match="look like several labels") as caught:
        inspect(root)
    assert f"`{name}` (2 images, such as " in str(caught.value)
    merge, keep, separate = advice(str(caught.value))
    assert inspect(root, **dict([merge])).classes == ("cat", "dog")
    assert inspect(root, **dict([keep])).classes == tuple(sorted(["cat", "dog", name]))
    assert "--set task.name=multi_label --set data.label_separator" in str(caught.value)
    if name != "dog, Cat":  # after the separation, `Cat` and `cat` are names of one class
        separated = inspect(root, **dict([separate]))
        assert separated.classes == ("cat", "dog") and ("cat", "dog") in {e.classes for e in separated.entries}


@pytest.mark.parametrize("names", [("cat|dog", "cat"), ("cat|dog", "dog|bird", "bird|cat")])
def test_several_labels_whose_parts_are_not_all_classes(write_manifest, names):
    with pytest.raises(DatasetError, match=r"`cat\|dog` \(2 images, such as 0.png, \d.png\)"):
        inspect(write_manifest(*names))


def test_configured_classes_keep_their_order(write_folders):
    root = write_folders("a", "b", "c")
    assert inspect(root).classes == ("a", "b", "c")
    assert inspect(root, classes=["c", "a", "b"]).classes == ("c", "a", "b")


def test_configured_classes_that_differ_are_refused_with_advice_that_works(write_folders):
    root = write_folders("cat", "dog", "bird")
    with pytest.raises(DatasetError, match=r"lacks `bird` \(2 images, such as bird/.*\): add the name") as caught:
        inspect(root, classes=["dog", "cat"])
    assert inspect(root, **dict(advice(str(caught.value)))).classes == ("bird", "cat", "dog")
    with pytest.raises(DatasetError, match=r"no class `cats`. Did you mean `cat`"):
        inspect(root, classes=["dog", "cats", "bird"])


def test_renamed_classes(write_folders, tmp_path):
    root = write_folders("kitten", "cat", "dog")
    dataset = inspect(root, rename_classes={"kitten": "cat"})
    assert dataset.classes == ("cat", "dog")
    assert {entry.classes for entry in dataset.entries if entry.path.startswith("kitten")} == {("cat",)}
    assert dataset.fingerprint != inspect(root).fingerprint
    with pytest.raises(DatasetError, match=r"no class `kiten`\. Did you mean `kitten`"):
        inspect(root, rename_classes={"kiten": "cat"})
    for name in ("images/a.png", "masks/a.png"):
        (tmp_path / "street" / name).parent.mkdir(parents=True)
        (tmp_path / "street" / name).write_bytes(b"x")
    with pytest.raises(DatasetError, match=r"the masks of .* contain ids"):
        inspect(tmp_path / "street", rename_classes={"road": "street"}, classes=["road", "car"])


def test_a_byte_order_mark_before_toml(tmp_path):
    path = tmp_path / "config.toml"
    path.write_text('[data]\nrename_classes = {"Cat" = "cat"}\n', encoding="utf-8-sig")
    assert loading.load(str(path), needs_data=False).data.rename_classes == {"Cat": "cat"}
    assert loading.load(str(path), needs_data=False).data.options().rename_classes == {"Cat": "cat"}
