"""Tables whose paths do not exist: count, two names, the nearest file and a fix that works."""

import re

import pytest

from components.image_example_gen import missing_files
from components.image_example_gen.dataset import inspect_dataset
from components.image_example_gen.errors import DatasetError
from components.image_example_gen.options import DataOptions

CELLS = {
    "without suffix": (lambda name: name.removesuffix(".png"), "add the suffix of the files: `.png`"),
    "another suffix": (lambda name: name.replace(".png", ".jpg"), "write the suffix of the files: `.png`"),
    "backslashes": (lambda name: name.replace("/", "\\"), "write the paths with forward slashes"),
    "case": (str.upper, "write the names in the same case as the files"),
    "without folder": (lambda name: name.removeprefix("all/"), "begin the paths with `all/`, or set data.path to"),
    "folder above": (lambda name: f"birds/{name}", "remove `birds/` from the paths"),
    "another machine": (lambda name: f"/content/birds/{name}", "remove `/content/birds/` from the paths"),
    "windows": (lambda name: f"D:\\birds\\{name}".replace("/", "\\"), "remove `D:/birds/` from the paths"),
    "other folder": (lambda name: f"old/{name.rpartition('/')[2]}", "write the paths as they are in"),
}


@pytest.fixture
def birds(tmp_path):
    root = tmp_path / "pictures"  # codespell:ignore pictures
    for name in ("wren", "robin"):
        for number in range(4):
            path = root / "all" / name / f"{name}-{number}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(b"x")
    return root


def names(root):
    return [path.relative_to(root).as_posix() for path in sorted(root.rglob("*.png"))]


@pytest.mark.parametrize(("cell", "advice"), CELLS.values(), ids=CELLS)
def test_the_nearest_file_and_the_fix(birds, cell, advice):
    match = missing_files.nearest(str(birds), cell(names(birds)[0]))
    assert match is not None
    assert match.path == names(birds)[0]
    assert advice in match.advice


def test_similar_and_dissimilar_names(birds):
    assert missing_files.nearest(str(birds), "all/robn/robin-1.png").path == "all/robin/robin-1.png"
    assert missing_files.nearest(str(birds), "0481.tif") is None
    assert "no file with a similar name. Set data.path" in missing_files.describe(str(birds), ["0481.tif"])


@pytest.mark.parametrize("kind", ["label", "mask"])
def test_a_manifest_with_paths_that_do_not_exist(birds, kind):
    rows = [f"birds/{name},{name.split('/')[1] if kind == 'label' else 'birds/' + name}" for name in names(birds)]
    (birds / "manifest.csv").write_text("\n".join([f"path,{kind}", *rows]))
    with pytest.raises(DatasetError) as raised:
        inspect_dataset(str(birds), DataOptions())
    message = str(raised.value)
    assert "8 of 8 paths do not exist in" in message
    assert "such as `birds/all/robin/robin-0.png` and `birds/all/robin/robin-1.png`" in message
    assert "Did you mean `all/robin/robin-0.png`? Then remove `birds/` from the paths" in message
    # The advice works.
    prefix = re.search("remove `(.*?)` from the paths", message)[1]
    (birds / "manifest.csv").write_text((birds / "manifest.csv").read_text().replace(prefix, ""))
    options = DataOptions() if kind == "label" else DataOptions(classes=("ground", "bird"))
    assert len(inspect_dataset(str(birds), options).entries) == 8


def test_metadata_with_paths_that_do_not_exist(birds):
    rows = [f"birds/{name.removeprefix('all/')},north" for name in names(birds)]
    (birds / "all" / "metadata.csv").write_text("\n".join(["filename,camera", *rows]))
    with pytest.raises(
        DatasetError, match=r"no row matches.*8 paths, such as `birds/robin.*remove `birds/` from"
    ) as raised:
        inspect_dataset(str(birds / "all"), DataOptions())
    prefix = re.search("remove `(.*?)` from the paths", str(raised.value))[1]
    table = birds / "all" / "metadata.csv"
    table.write_text(table.read_text().replace(prefix, ""))
    assert inspect_dataset(str(birds / "all"), DataOptions()).columns == ("camera",)


def test_a_table_without_rows(birds):
    (birds / "all" / "metadata.csv").write_text("filename,camera\n")
    with pytest.raises(DatasetError, match=r"metadata\.csv has no rows"):
        inspect_dataset(str(birds / "all"), DataOptions())
