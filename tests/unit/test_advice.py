"""Follows the advice of every error of ImageExampleGen and of the configuration: the next step must work.

A row is an input, the error, and what a reader of the error does next. `test_every_error_is_in_the_table` compares the
table with the source: whoever adds an error adds a row.
"""

from __future__ import annotations

import ast
import io
import itertools
import json
import os
import re
import sys
import tempfile
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tensorflow as tf
from PIL import Image
from pydantic import ValidationError

from components.image_example_gen import division, layouts, limits, probe, shards
from components.image_example_gen.artifact import SplitCounts
from components.image_example_gen.dataset import inspect_dataset
from components.image_example_gen.entries import RefusedFile
from components.image_example_gen.errors import DatasetError
from components.image_example_gen.exchange import LocalExchange
from components.image_example_gen.layouts import label_studio
from components.image_example_gen.options import DataOptions, ExampleGenOptions
from components.image_example_gen.records import columns_of
from components.image_example_gen.shards import WorkFolder
from components.image_example_gen.splits import Record
from pipeline.config import loading
from pipeline.config.messages import ConfigError
from trainer_module import features

ROOT = Path(__file__).parents[2]
SOURCES = ("components/image_example_gen", "pipeline/config")

# Errors without a row, by file and function (all errors of the file if the function is empty), and why.
EXEMPT = {
    ("components/image_example_gen/artifact.py", ""): "artifacts of another version: tested in test_quarantine",
    ("components/image_example_gen/executor.py", ""): "compiled pipelines and defects: component tests",
    ("components/image_example_gen/division.py", ""): "defects",
    ("components/image_example_gen/connected_components.py", ""): "defects",
    ("components/image_example_gen/files.py", ""): "reasons of the file system",
    ("components/image_example_gen/object_store.py", ""): "reasons of the store: test_listing",
    ("components/image_example_gen/pixel_checks.py", ""): "needs all pixels: component tests of masks",
    ("components/image_example_gen/layouts/__init__.py", "detect"): "equal evidence needs other layouts: test_layouts",
    (
        "components/image_example_gen/layouts/_json.py",
        "",
    ): "reasons of the file system; large files that are damaged or change: test_large_annotation_files",
    (
        "components/image_example_gen/layouts/coco.py",
        "parse",
    ): "detection finds only objects; the others are in the table",
    (
        "components/image_example_gen/layouts/cvat.py",
        "parse",
    ): "reasons of the file system; the others are in the table",
    ("components/image_example_gen/tables.py", "__iter__"): "a table that changes while it is read: test_large_tables",
    ("components/image_example_gen/table_parts.py", ""): "a table that changes while it is read: test_table_parts",
    ("components/image_example_gen/stored_mapping.py", ""): "a full disk, and a key that a mapping does not have",
    ("components/image_example_gen/stored_entries.py", ""): "an index beyond the end of a sequence: defects",
    ("components/image_example_gen/spans.py", "next_span"): "the span that is written next: test_spans",
    ("components/image_example_gen/spans.py", "text"): "as next_span, which it is in",
    ("pipeline/config/loading.py", "from_toml"): "not a file of the user: test_config",
    ("components/image_example_gen/dataset.py", "inspect_dataset"): "passes on the reason of the file system",
}

# Reasons of single files, which go to quarantine: test_reasons, test_mask and the tests of the layouts.
OF_FILES = ("UnusableImageError", "files.UnreadableFileError", "yaml.YAMLError")

_COUNTER = itertools.count()


def image(width: int = 8, height: int = 8, gray: int | None = None) -> bytes:
    """Encodes an image that differs from all others, or a mask of one value."""
    buffer = io.BytesIO()
    number = next(_COUNTER)
    if gray is None:
        Image.new("RGB", (width, height), (number % 256, number // 256 % 256, 90)).save(buffer, "PNG")
    else:
        Image.fromarray(np.full((height, width), gray, np.uint8)).save(buffer, "PNG")
    return buffer.getvalue()


@dataclass(frozen=True)
class Link:
    """A symbolic link."""

    target: str


# Path → text, bytes, a link, None to delete it; or a number of images in a folder of that path.
Files = Mapping[str, "int | str | bytes | Link | None"]


@dataclass(frozen=True)
class Row:
    """An input that causes an error, and the input after a reader has followed the advice.

    Attributes:
      name: Name of the case.
      files: The data folder.
      message: Regular expression that the error contains.
      fix: Changes of the data folder.
      options: `[data]`.
      fixed: `[data]` afterwards; as before if it is None.
      data: The location, relative to the data folder.
      fixed_data: The location afterwards.
      then: Regular expression of the next error; none if it is empty.
      read: Whether the first images are read too.
    """

    name: str
    files: Files
    message: str
    fix: Files = field(default_factory=dict)
    options: dict[str, Any] = field(default_factory=dict)
    fixed: dict[str, Any] | None = None
    data: str = ""
    fixed_data: str | None = None
    then: str = ""
    read: bool = False


def write(root: Path, files: Files) -> None:
    for name, content in files.items():
        path = root / os.fsdecode(name.encode("latin-1")) if "\xff" in name else root / name
        if content is None:
            if path.is_dir() and not path.is_symlink():
                for inside in sorted(path.rglob("*"), reverse=True):
                    inside.rmdir() if inside.is_dir() else inside.unlink()
                path.rmdir()
            else:
                path.unlink()
            continue
        (path if isinstance(content, int) else path.parent).mkdir(parents=True, exist_ok=True)
        if isinstance(content, int):
            for number in range(content):
                (path / f"{number}.png").write_bytes(image())
        elif isinstance(content, Link):
            path.symlink_to(content.target)
        elif isinstance(content, bytes):
            path.write_bytes(content)
        else:
            path.write_text(content, encoding="utf-8")


def attempt(root: Path, data: str, options: dict[str, Any], read: bool) -> None:
    parsed = DataOptions(**{key: str(root / value) if key in PATHS else value for key, value in options.items()})
    dataset = inspect_dataset(f"{root}/{data}".rstrip("/"), parsed)
    if read:
        layouts_options = ExampleGenOptions(
            data=parsed, classes=dataset.classes, columns=dataset.columns, label_features=dataset.label_features
        )
        list(layouts.get(dataset.layout).read(dataset.root, dataset.entries, layouts_options))
        probe.refuse_unusable(dataset, layouts_options)


PATHS = ("manifest", "metadata_csv", "corrections")
TWO: Files = {"a": 3, "b": 3}
SPLIT: Files = {"train/a": 3, "train/b": 3}
MASKS: Files = {
    **{f"images/{number}.png": image() for number in range(3)},
    **{f"masks/{number}.png": image(gray=number % 2) for number in range(3)},
}
NAMES: Files = {"classes.txt": "ground\nobject\n"}


def table(*rows: str) -> str:
    return "\n".join([*rows, ""])


def corrected(name: str, message: str, rows: Sequence[str], fixed: Sequence[str], **files: Any) -> Row:
    """A row of a table of corrections before and after following the advice."""
    fix = {"fixed.csv": table(*fixed)}
    return Row(name, {**(files or TWO), "fixed.csv": table(*rows)}, message, fix, {"corrections": "fixed.csv"})


def metadata(*rows: str) -> Files:
    return {**TWO, "metadata.csv": table(*rows)}


def manifest(*rows: str, name: str = "manifest.csv") -> Files:
    return {"raw": 4, name: table(*rows)}


def encoded_records(examples: Iterable[tf.train.Example]) -> bytes:
    """Encodes a TFRecord file."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "examples"
        with tf.io.TFRecordWriter(str(path)) as writer:
            for example in examples:
                writer.write(example.SerializeToString())
        return path.read_bytes()


def records(*examples: dict[str, bytes]) -> bytes:
    """Encodes examples with one value per feature."""
    made = []
    for values in examples:
        made.append(tf.train.Example())
        for key, value in values.items():
            made[-1].features.feature[key].bytes_list.value.append(value)
    return encoded_records(made)


def rows_of(classes: str, *extra: str, header: str = "path,label") -> list[str]:
    return [header, *(f"raw/{number}.png,{name}{extra[0] if extra else ''}" for number, name in enumerate(classes))]


RECORDS = records(*({features.IMAGE_ENCODED: image(), features.CLASS_TEXT: name} for name in (b"a", b"b", b"a", b"b")))
IN_RECORDS = {"classes": ("a", "b")}
COLORED = table("ground 0 0 0", "object 255 0 0")

ROWS = [
    # === The folder ===
    Row("missing folder", TWO, r"does not exist\. Set data\.path", data="nowhere", fixed_data=""),
    Row("no layout", {"notes.txt": "x"}, r"matches no layout\. Rearrange", TWO),
    Row(
        "no folders",
        {"x.png": image()},
        "has no class folders. Create one folder per class",
        {"x.png": None, **TWO},
        {"layout": "class_folders"},
    ),
    Row("linked class", {**TWO, "c": Link("/")}, "leads out of the data folder", {"c": None}),
    Row("linked class in a split", {**SPLIT, "train/c": Link("/")}, "leads out", {"train/c": None}),
    Row("linked folder in a class", {**TWO, "a/c": Link("/")}, "leads out", {"a/c": None}),
    Row("linked table", {**TWO, "metadata.csv": Link("/etc/passwd")}, "leads out", {"metadata.csv": None}),
    Row("name of a class", {**TWO, "\xff": 3}, r"is not UTF-8\. Rename it", {"\xff": None, "c": 3}),
    Row(
        "another layout's setting",
        {**TWO, "m.csv": "path,label\n"},
        'cannot be used with data.layout = "class_folders"',
        options={"layout": "class_folders", "manifest": "m.csv"},
        fixed={"layout": "class_folders"},
    ),
    Row("no usable files", {"images": 0, "masks": 0}, "has no usable files", {**MASKS, **NAMES}),
    Row("single class", {"a": 3}, "has a single class", {"b": 3}),
    Row("empty class", {**TWO, "c": 0}, r"no images of class `c`", {"c": None}),
    Row("one image", {**TWO, "c": 1}, "only one image of class `c`", {"c": 4}),
    Row("no train split", {"validation/a": 2, "validation/b": 2}, "no `train` among them", SPLIT),
    Row(
        "class without training images",
        {**SPLIT, "test/a": 2, "test/b": 2, "test/c": 2},
        "no images of class `c` are in the split `train`",
        {"train/c": 3},
    ),
    Row(
        "same split twice",
        {**SPLIT, "val/a": 2, "val/b": 2, "validation/a": 2, "validation/b": 2},
        "are the same split",
        {"val": None},
    ),
    Row("splits and other folders", {**SPLIT, "dogs": 2}, "split folders .* and other folders", {"dogs": None}),
    Row("a split without classes", {**SPLIT, "test": 2}, "has no class folders. Add them, or remove", {"test": None}),
    Row(
        "no split folder",
        TWO,
        "has no split folder: it has a, b.*remove data.layout",
        options={"layout": "split_folders"},
        fixed={},
    ),
    Row("nested images", {"a/x": 3, "b/y": 3}, "Use --set data.recursive=true", fixed={"recursive": True}),
    # === Class names ===
    Row(
        "renamed masks",
        {**MASKS, **NAMES},
        "Rename the class where its id is named",
        options={"rename_classes": {"x": "y"}},
        fixed={},
    ),
    Row(
        "unknown old name",
        TWO,
        "has no class `aa`",
        options={"rename_classes": {"aa": "c"}},
        fixed={"rename_classes": {"a": "c"}},
    ),
    Row(
        "names that look alike",
        {"Cat": 3, "cat": 3, "dog": 3},
        "data.rename_classes",
        fixed={"rename_classes": {"Cat": "cat"}},
    ),
    Row("several labels", {"cat": 3, "dog": 3, "cat,dog": 3}, "cat,dog", {"cat,dog": None}),
    Row(
        "other classes",
        TWO,
        "data.classes and the classes of the dataset differ",
        options={"classes": ("a", "c")},
        fixed={},
    ),
    # === Masks ===
    Row("no names of ids", MASKS, "Set data.classes", fixed={"classes": ("ground", "object")}),
    Row("no list of names", MASKS, "or write classes.txt into the folder", NAMES),
    Row("masks in two arrangements", {**MASKS, **NAMES, "train/images": 2}, "Keep one arrangement", {"train": None}),
    Row("folder beside masks", {**MASKS, **NAMES, "extra": 2}, "Move it elsewhere", {"extra": None}),
    Row(
        "values without masks",
        TWO,
        r"data\.mask_values is set, but .* has no masks\. Remove it",
        options={"mask_values": (0, 255)},
        fixed={},
    ),
    Row(
        "number of values",
        {**MASKS, **NAMES},
        "3 values for 2 classes",
        options={"mask_values": (0, 1, 2)},
        fixed={"mask_values": (0, 1)},
    ),
    Row(
        "values and colours",
        {**MASKS, "classes.txt": COLORED},
        "exclude each other. Remove one",
        options={"mask_values": (0, 1)},
        fixed={},
    ),
    Row(
        "published table",
        {**MASKS, **NAMES},
        "names the classes itself.*Remove one of them",
        {"classes.txt": None},
        {"mask_colors": "pascal_voc"},
    ),
    Row(
        "colours of other classes",
        {**MASKS, "classes.txt": COLORED},
        "colours of other classes than data.classes",
        options={"classes": ("x", "y")},
        fixed={},
    ),
    Row("list that is not UTF-8", {**MASKS, "classes.txt": b"K\xe4se\nbrot\n"}, "classes.txt cannot be read", NAMES),
    Row(
        "ignored id",
        {**MASKS, "classes.txt": "ground\nobject\n1 ignored\n"},
        "set data.ignore_id",
        NAMES,
        fixed={"ignore_id": 1},
    ),
    Row("empty name", {**MASKS, "classes.txt": "ground\n\nobject\n"}, "line 2: no name", NAMES),
    Row("duplicate name", {**MASKS, "classes.txt": "ground\nground\n"}, "line 2: duplicate class ground", NAMES),
    Row(
        "not a colour",
        {**MASKS, "classes.txt": "ground 0 0 0\nobject 300 0 0\n"},
        "is not a colour",
        {"classes.txt": COLORED},
    ),
    Row(
        "same colour",
        {**MASKS, "classes.txt": "ground 0 0 0\nobject 0 0 0\n"},
        "has the same colour",
        {"classes.txt": COLORED},
    ),
    Row(
        "same name",
        {**MASKS, "classes.txt": "ground 0 0 0\nground 1 0 0\n"},
        "duplicate class ground",
        {"classes.txt": COLORED},
    ),
    Row(
        "missing colour",
        {**MASKS, "classes.txt": "ground 0 0 0\nobject\n"},
        "line 2: no colour.*or none",
        {"classes.txt": COLORED},
    ),
    Row(
        "ignored id of colours",
        {**MASKS, "classes.txt": f"{COLORED}1 ignored\n"},
        "ignored id must be above",
        {"classes.txt": f"{COLORED}255 ignored\n"},
    ),
    Row(
        "folders of other names",
        {path.replace("images", "x").replace("masks", "y"): content for path, content in MASKS.items()} | NAMES,
        "Set data.images_folder and data.masks_folder",
        options={"layout": "mask_pairs"},
        fixed={"images_folder": "x", "masks_folder": "y"},
    ),
    Row(
        "folders that do not exist",
        {**MASKS, **NAMES},
        r"are not both folders in .* Folders: images, masks",
        options={"layout": "mask_pairs", "images_folder": "x", "masks_folder": "y"},
        fixed={"layout": "mask_pairs", "images_folder": "images", "masks_folder": "masks"},
    ),
    Row(
        "one of the folders",
        {**MASKS, **NAMES},
        "images_folder and masks_folder must be set together",
        options={"images_folder": "images"},
        fixed={"images_folder": "images", "masks_folder": "masks"},
    ),
    Row(
        "masks beside split folders",
        {path.replace("images", "train").replace("masks", "train_y"): content for path, content in MASKS.items()}
        | NAMES,
        "If these are images and masks, use .*--set data.images_folder=train --set data.masks_folder=train_y",
        options={"layout": "split_folders"},
        fixed={"layout": "mask_pairs", "images_folder": "train", "masks_folder": "train_y"},
    ),
    # === Metadata ===
    Row(
        "group column",
        metadata("filename,site", "a/0.png,x"),
        "no column `patient`",
        options={"group_column": "patient"},
        fixed={"group_column": "site"},
    ),
    Row(
        "no metadata file",
        TWO,
        r"data\.metadata_csv: .* does not exist",
        {"other.csv": "filename,x\na/0.png,1\n"},
        {"metadata_csv": "other.csv"},
    ),
    Row(
        "two rows",
        metadata("filename,x", "a/0.png,1", "a/0.png,2"),
        "line 3: duplicate row",
        {"metadata.csv": "filename,x\na/0.png,1\n"},
    ),
    Row(
        "no corrections",
        TWO,
        r"data\.corrections: .*fixed\.csv does not exist",
        {"fixed.csv": "filename,action\na/0.png,drop\n"},
        {"corrections": "fixed.csv"},
    ),
    corrected(
        "no action", "Add it, and write `relabel`", ["filename,label", "a/0.png,b"], ["filename,action", "a/0.png,keep"]
    ),
    corrected("unknown action", "Actions: `rel", ["filename,action", "a/0.png,x"], ["filename,action", "a/0.png,drop"]),
    corrected(
        "no new labels",
        "has no column `label` with the new labels",
        ["filename,action", "a/0.png,relabel"],
        ["filename,action,label", "a/0.png,relabel,b"],
    ),
    corrected(
        "empty new label",
        "`relabel` requires a class",
        ["filename,action,label", "a/0.png,relabel,"],
        ["filename,action,label", "a/0.png,drop,"],
    ),
    corrected(
        "unknown new label",
        "unknown class `c`. Classes: a, b",
        ["filename,action,label", "a/0.png,relabel,c"],
        ["filename,action,label", "a/0.png,relabel,b"],
    ),
    corrected(
        "contradicting corrections",
        "lines 2 and 3 contradict each other about a/0.png. Remove one",
        ["filename,action", "a/0.png,drop", "a/0.png,keep"],
        ["filename,action", "a/0.png,drop"],
    ),
    corrected(
        "corrections of other files",
        "matches an image.*Did you mean `a/0.png`",
        ["filename,action", "images/a/0.png,drop"],
        ["filename,action", "a/0.png,drop"],
    ),
    corrected(
        "relabelled masks",
        "Use `drop`, or edit",
        ["filename,action,label", "images/0.png,relabel,object"],
        ["filename,action,label", "images/0.png,drop,"],
        **MASKS,
        **NAMES,
    ),
    Row("no rows", metadata("filename,x"), "has no rows. Add them, or remove the file", {"metadata.csv": None}),
    Row(
        "no row matches",
        metadata("filename,x", "images/a/0.png,1"),
        r"Did you mean `a/0\.png`\? Then remove `images/`",
        {"metadata.csv": "filename,x\na/0.png,1\n"},
    ),
    Row(
        "column span",
        {"day-1/a": 3, "day-1/b": 3, "day-1/metadata.csv": "filename,span\na/0.png,1\n"},
        "reserved for the number of the span. Rename it",
        {"day-1/metadata.csv": "filename,old_span\na/0.png,1\n"},
        data="day-{SPAN}",
    ),
    # === Tables ===
    Row(
        "not UTF-8",
        {**TWO, "metadata.csv": b"filename,x\na/0.png,K\xe4se\n"},
        "is not CSV in UTF-8 .* Save it in UTF-8",
        {"metadata.csv": "filename,x\na/0.png,Käse\n"},
    ),
    Row(
        "a table in UTF-16 beside its images",
        {"images": 6, "labels.csv": "file,label\n0.png,a\n".encode("utf-16")},
        "is not CSV in UTF-8 .* iconv -f UTF-16 -t UTF-8",
        {"labels.csv": "file,label\n" + "".join(f"{i}.png,{'ab'[i % 2]}\n" for i in range(6))},
    ),
    Row(
        "paths of another machine",
        {
            "images": 6,
            "labels.csv": "".join(["file,label\n"] + [f"C:\\me\\images\\{i}.png,{'ab'[i % 2]}\n" for i in range(6)]),
        },
        "6 of 6 paths do not exist .*remove `C:/me/` from the paths",
        {"labels.csv": "".join(["file,label\n"] + [f"images\\{i}.png,{'ab'[i % 2]}\n" for i in range(6)])},
    ),
    Row(
        "images of another dataset",
        {"images": 6, "labels.csv": "".join(["file,label\n"] + [f"other_{i}.png,{'ab'[i % 2]}\n" for i in range(6)])},
        "labels.csv: 6 of 6 paths do not exist",
        {"labels.csv": "".join(["file,label\n"] + [f"{i}.png,{'ab'[i % 2]}\n" for i in range(6)])},
    ),
    Row(
        "an empty folder",
        {"empty": 0, "photos/a": 3, "photos/b": 3},
        "empty is empty. Set data.path to the folder of the images",
        data="empty",
        fixed_data="photos",
    ),
    Row(
        "an archive",
        {"data.zip": b"PK\x03\x04"},
        "Unpack data.zip, and use the folder with its files",
        {"data/a": 3, "data/b": 3},
        fixed_data="data",
    ),
    Row(
        "no filename column",
        metadata("file,x", "a/0.png,1"),
        "has no column `filename`",
        {"metadata.csv": "filename,x\na/0.png,1\n"},
    ),
    Row(
        "reserved column",
        metadata("filename,brightness", "a/0.png,1"),
        "name of a built-in slice. Rename it",
        {"metadata.csv": "filename,light\na/0.png,1\n"},
    ),
    Row(
        "comma in a value",
        metadata("filename,x", "a/0.png,black, white"),
        "Put a value that contains a comma in quotes",
        {"metadata.csv": 'filename,x\na/0.png,"black, white"\n'},
    ),
    Row(
        "huge field",
        metadata("filename,x", f'a/0.png,"{"y" * 200_000}"'),
        "cannot be read as CSV",
        {"metadata.csv": "filename,x\na/0.png,y\n"},
    ),
    Row(
        "NUL",
        manifest('{"path": "raw/0.png", "label": "a\\u0000"}', name="manifest.jsonl"),
        "contains characters that no",
        {"manifest.jsonl": "\n".join(f'{{"path": "raw/{i}.png", "label": "{name}"}}' for i, name in enumerate("abab"))},
    ),
    Row(
        "not JSON",
        manifest('{"path": "raw/0.png",', name="manifest.jsonl"),
        "line 1: not JSON",
        {"manifest.jsonl": "\n".join(f'{{"path": "raw/{i}.png", "label": "{name}"}}' for i, name in enumerate("abab"))},
    ),
    Row(
        "nested JSON",
        manifest('{"path": ["raw/0.png"]}', name="manifest.jsonl"),
        "expected an object of plain values",
        {"manifest.jsonl": "\n".join(f'{{"path": "raw/{i}.png", "label": "{name}"}}' for i, name in enumerate("abab"))},
    ),
    # === Sets of classes ===
    Row(
        "separator of responses",
        manifest("path,labels", "raw/0.png,a|b;c", "raw/1.png,a|b;c", "raw/2.png,c", "raw/3.png,"),
        r"class names contain `\|`.*--set data.rename_classes",
        options={"label_separator": ";"},
        fixed={"label_separator": ";", "rename_classes": {"a|b": "a b"}},
    ),
    Row(
        "labels from boxes that do not exist",
        TWO,
        r"has one class per image\. Remove it",
        options={"labels_from": "boxes"},
        fixed={},
    ),
    Row(
        "neither 0 nor 1",
        manifest("path,cat,dog", "raw/0.png,1,-1", "raw/1.png,2,0"),
        "has no usable files.*\n.*column dog is `-1`; expected 1 or 0",
        manifest("path,cat,dog", "raw/0.png,1,1", "raw/1.png,1,0", "raw/2.png,0,1"),
        {"label_columns": ("cat", "dog")},
    ),
    # === Manifests ===
    Row(
        "no label",
        manifest("path,camera", "raw/0.png,x"),
        "neither a column `label` nor a column `mask`",
        {"manifest.csv": table(*rows_of("abab"))},
    ),
    Row(
        "group column of a manifest",
        manifest(*rows_of("abab", ",x", header="path,label,site")),
        "has no column `patient`",
        options={"group_column": "patient"},
        fixed={"group_column": "site"},
    ),
    Row(
        "unknown split",
        manifest(*rows_of("abab", ",holdout", header="path,label,split")),
        "Names of splits: ",
        {"manifest.csv": table(*rows_of("abab", ",train", header="path,label,split"))},
    ),
    Row(
        "no manifest",
        {"raw": 4, "tables/list.csv": table(*rows_of("abab"))},
        "Name the file in data.manifest",
        options={"layout": "manifest"},
        fixed={"layout": "manifest", "manifest": "tables/list.csv"},
    ),
    Row(
        "two tables",
        {"raw": 4, "one.csv": table(*rows_of("abab")), "two.csv": table(*rows_of("bbaa"))},
        r"2 tables that list images\. Choose one:\s+--data .*one\.csv",
        options={"layout": "manifest"},
        fixed_data="one.csv",
    ),
    Row(
        "tables of splits",
        {
            "raw": 4,
            "train.csv": table(*rows_of("abab")),
            "test.csv": table(*rows_of("abab", ",x", header="path,label,camera")),
        },
        r"differ in columns\. Give them the same, or choose one with --data",
        options={"layout": "manifest"},
        fixed_data="train.csv",
    ),
    Row(
        "several columns of labels",
        manifest(
            "path,color,shape", *(f"raw/{number}.png,{'ab'[number % 2]},{'cd'[number // 2]}" for number in range(4))
        ),
        "--set data.path_column=path --set data.label_column=color",
        fixed={"path_column": "path", "label_column": "color"},
    ),
    Row(
        "no column of paths",
        manifest("file,label", "x/0,a", "x/1,b"),
        r"Set data\.path_column",
        fixed={"path_column": "file"},
        then="2 of 2 paths do not exist",
    ),
    Row(
        "no header",
        manifest(*rows_of("abab")[1:]),
        r"Write a line of column names above it, for example path,label\.",
        {"manifest.csv": table(*rows_of("abab", header="path,label"))},
    ),
    Row(
        "unknown column",
        manifest(*rows_of("abab", header="image,class")),
        r"has no column `imge`\. Did you mean `image`",
        options={"path_column": "imge"},
        fixed={"path_column": "image"},
    ),
    Row(
        "paths that do not exist",
        manifest("path,label", "images/raw/0.png,a", "images/raw/1.png,b"),
        r"2 of 2 paths do not exist.*Did you mean `raw/0\.png`\? Then remove `images/`",
        {"manifest.csv": table(*rows_of("abab"))},
    ),
    # === TFRecords ===
    Row(
        "folder beside TFRecords", {"x.tfrecord": RECORDS, "extra": 1}, "Move it elsewhere", {"extra": None}, IN_RECORDS
    ),
    Row(
        "not a TFRecord",
        {"x.tfrecord": b"no records, but a text of some length"},
        "is not a TFRecord file",
        {"x.tfrecord": RECORDS},
        IN_RECORDS,
    ),
    Row(
        "group feature",
        {"x.tfrecord": RECORDS},
        "has no feature slice/patient",
        options={**IN_RECORDS, "group_column": "patient"},
        fixed=IN_RECORDS,
    ),
    Row(
        "damaged TFRecord",
        {"x.tfrecord": RECORDS[:-20]},
        "is damaged after example 3.*Write it again, or remove it",
        {"x.tfrecord": RECORDS},
        IN_RECORDS,
        read=True,
    ),
    Row(
        "no usable image",
        {"a/0.png": b"", "a/1.png": b"", "b/0.png": b"", "b/1.png": b""},
        "All of the 4 files.*[\\s\\S]*Fix the files",
        {f"{name}/{number}.png": image() for name in "ab" for number in range(2)},
        read=True,
    ),
    # === Spans ===
    Row(
        "no folder of spans",
        {"day-1/a": 3, "day-1/b": 3},
        "the folder .* does not exist",
        data="days/day-{SPAN}",
        fixed_data="day-{SPAN}",
    ),
    Row(
        "incomplete date",
        {"2026-05/a": 3, "2026-05/b": 3, "2026-05-01/a": 3, "2026-05-01/b": 3},
        "needs {SPAN}, or all of",
        data="{YYYY}-{MM}",
        fixed_data="{YYYY}-{MM}-{DD}",
    ),
    Row(
        "same span",
        {"day-1/a": 3, "day-1/b": 3, "day-01/a": 3, "day-01/b": 3},
        "Rename one",
        {"day-01": None},
        data="day-{SPAN}",
    ),
    Row("no span", TWO, "no folder matches", {"day-1/a": 3, "day-1/b": 3}, data="day-{SPAN}"),
    Row(
        "unknown span",
        {"day-1/a": 3, "day-1/b": 3},
        r"no such span.*newest spans in .* are 1\.",
        options={"spans": "7"},
        fixed={"spans": "1"},
        data="day-{SPAN}",
    ),
    Row(
        "linked span", {"day-1/a": 3, "day-1/b": 3, "day-2": Link("/")}, "leads out", {"day-2": None}, data="day-{SPAN}"
    ),
    Row(
        "spans of two kinds of labels",
        {"day-1/a": 3, "day-1/b": 3, **{f"day-2/{path}": content for path, content in MASKS.items()}},
        "differ in layout or labels.*Set data.spans to one of them",
        options={"spans": "1-2"},
        fixed={"spans": "1"},
        data="day-{SPAN}",
    ),
    Row(
        "spans of two lists",
        {
            **{f"day-{day}/{path}": content for day in (1, 2) for path, content in MASKS.items()},
            "day-1/classes.txt": "ground\nobject\n",
            "day-2/classes.txt": "object\nground\n",
        },
        "not the same in all spans. Set data.classes",
        options={"spans": "1-2"},
        fixed={"spans": "1-2", "classes": ("ground", "object")},
        data="day-{SPAN}",
    ),
    # === Settings of the dataset ===
    Row(
        "sum of splits",
        TWO,
        "must add up to 1",
        options={"splits": {"train": 0.9}},
        fixed={"splits": {"train": 0.9, "validation": 0.05, "test": 0.05}},
    ),
    Row(
        "unknown layout",
        TWO,
        r"Did you mean `class_folders`\?",
        options={"layout": "class_folder"},
        fixed={"layout": "class_folders"},
    ),
    Row(
        "broken group pattern",
        TWO,
        "not a regular expression",
        options={"group_pattern": "("},
        fixed={"group_pattern": "([^_]+)_"},
    ),
    Row(
        "group pattern without group",
        TWO,
        r"for example `\(\[\^_\]\+\)_`",
        options={"group_pattern": "x"},
        fixed={"group_pattern": "([^_]+)_"},
    ),
    Row("broken split pattern", TWO, "not a regular expression", options={"split_pattern": "("}, fixed={}),
    Row(
        "split pattern without groups",
        TWO,
        "needs groups that are named after splits",
        options={"split_pattern": "x"},
        fixed={"split_pattern": "(?P<test>seq3_)|(?P<validation>seq2_)"},
    ),
    Row("class twice", TWO, "names a class twice", options={"classes": ("a", "a")}, fixed={"classes": ("a", "b")}),
    Row(
        "value twice",
        {**MASKS, **NAMES},
        "contains a value twice",
        options={"mask_values": (0, 0)},
        fixed={"mask_values": (0, 1)},
    ),
    Row(
        "colours and values",
        MASKS,
        "exclude each other",
        options={"mask_colors": "camvid", "mask_values": (0, 1)},
        fixed={"mask_colors": "camvid"},
    ),
    Row(
        "colours and source",
        MASKS,
        'requires mask_source = "auto"',
        options={"mask_colors": "camvid", "mask_source": "alpha"},
        fixed={"mask_colors": "camvid"},
    ),
    Row(
        "two sources of groups",
        TWO,
        "exclude each other",
        options={"group_column": "x", "group_pattern": "(x)"},
        fixed={"group_pattern": "(x)"},
    ),
]


# === Boxes ===

IMAGES: Files = {f"images/{number}.png": image() for number in range(3)}
YOLO: Files = {**IMAGES, **{f"labels/{number}.txt": "0 0.5 0.5 0.2 0.2\n1 0.3 0.3 0.1 0.1\n" for number in range(3)}}
AB: Files = {"classes.txt": "a\nb\n"}


def coco(**changes: Any) -> Files:
    """Writes a dataset of COCO; a value of None removes a list."""
    boxes = [
        {"id": 2 * number + kind, "image_id": number, "category_id": kind, "bbox": [1, 1, 4, 4]}
        for number in range(3)
        for kind in range(2)
    ]
    document = {
        "images": [{"id": number, "file_name": f"{number}.png", "width": 8, "height": 8} for number in range(3)],
        "annotations": boxes,
        "categories": [{"id": 0, "name": "a"}, {"id": 1, "name": "b"}],
    } | changes
    return {**IMAGES, "boxes.json": json.dumps({key: value for key, value in document.items() if value is not None})}


def annotations_of(text: str) -> Files:
    return {**IMAGES, "annotations.xml": text}


BOXES = "".join(f'<box label="{name}" xtl="1" ytl="1" xbr="5" ybr="5"/>' for name in "ab")
CVAT = annotations_of(
    "<annotations>"
    + "".join(f'<image name="{number}.png" width="8" height="8">{BOXES}</image>' for number in range(3))
    + "</annotations>"
)
OBJECTS = "".join(
    f"<object><name>{name}</name><bndbox><xmin>1</xmin><ymin>1</ymin><xmax>5</xmax><ymax>5</ymax></bndbox></object>"
    for name in "ab"
)
VOC: Files = {
    **{f"JPEGImages/{number}.png": image() for number in range(3)},
    **{
        f"Annotations/{number}.xml": f"<annotation><filename>{number}.png</filename>{OBJECTS}</annotation>"
        for number in range(3)
    },
}
REGIONS = [
    {"type": "rectanglelabels", "value": {"x": 1, "y": 1, "width": 50, "height": 50, "rectanglelabels": [name]}}
    for name in "ab"
]
TASKS: Files = {
    **IMAGES,
    "project.json": json.dumps(
        [{"data": {"image": f"images/{number}.png"}, "annotations": [{"result": REGIONS}]} for number in range(3)]
    ),
}


def box_records() -> bytes:
    """Encodes three examples, each with a box of the class id 1 and one of 2."""
    examples = [tf.train.Example() for _ in range(3)]
    for example in examples:
        feature = example.features.feature
        feature[features.IMAGE_ENCODED].bytes_list.value.append(image())
        for key, value in zip(features.BOX_CORNERS, (0.1, 0.1, 0.9, 0.9), strict=True):
            feature[key].float_list.value.extend([value, value])
        feature["image/object/class/label"].int64_list.value.extend([1, 2])
    return encoded_records(examples)


CORNERS = "path,label,xmin,ymin,xmax,ymax"


def box_table(header: str, extra: str) -> Files:
    rows = [f"raw/{number}.png,{name},1,1,5,5{extra}" for number in range(4) for name in "ab"]
    return manifest(header, *rows)


LABEL_MAP = "item { id: 1 name: 'a' } item { id: 2 name: 'b' }"
BOX_RECORDS: Files = {"x.tfrecord": box_records()}
ROWS += [
    Row("no label map", BOX_RECORDS, r"Set data\.classes", {"x_label_map.pbtxt": LABEL_MAP}),
    Row(
        "two label maps",
        {**BOX_RECORDS, "x.pbtxt": LABEL_MAP, "y.pbtxt": LABEL_MAP.replace("'a'", "'c'")},
        r"differ\. Set data\.classes",
        fixed={"classes": ("a", "b")},
    ),
    Row(
        "ids of a label map",
        {**BOX_RECORDS, "x.pbtxt": LABEL_MAP.replace("2", "3")},
        r"Set data\.classes",
        fixed={"classes": ("a", "b")},
    ),
    # The link itself is removed: writing would change its target.
    Row(
        "linked label map",
        {**BOX_RECORDS, "x.pbtxt": Link("/etc/hostname")},
        "cannot be read: it leads out",
        {"x.pbtxt": None},
        fixed={"classes": ("a", "b")},
    ),
    Row("no names of YOLO", YOLO, "Write one name per line into classes.txt", AB),
    Row("no names of YOLO, set", YOLO, r"or set data\.classes", fixed={"classes": ("a", "b")}),
    Row("no label files", {**IMAGES, **AB}, r"images/a\.jpg needs labels/a\.txt", YOLO, {"layout": "yolo"}),
    Row(
        "two lists of names",
        {**YOLO, "data.yaml": "names: [a, b]\n", "more.yaml": "names: [b, a]\n"},
        "differ. Keep one of these files",
        {"more.yaml": None},
    ),
    Row(
        "names that are not a list",
        {**YOLO, "data.yaml": "names: 5\n"},
        "is not a list",
        {"data.yaml": "names: [a, b]\n"},
    ),
    Row("no name", {**YOLO, "data.yaml": "names: [a, [b]]\n"}, "is not a name", {"data.yaml": "names: [a, b]\n"}),
    Row("line without a name", {**YOLO, "classes.txt": "a\n\nb\n"}, "a line without a name", AB),
    Row("names that are not UTF-8", {**YOLO, "classes.txt": b"K\xe4se\nb\n"}, "cannot be read", AB),
    Row("not YAML", {**YOLO, "data.yaml": "names: [a\n"}, "cannot be read as YAML", {"data.yaml": "names: [a, b]\n"}),
    Row("large YAML", {**YOLO, **AB, "data.yaml": "x" * 300_000}, "larger than 256 KB", {"data.yaml": None}),
    Row("linked YAML", {**YOLO, **AB, "data.yaml": Link("/etc/hostname")}, "leads out", {"data.yaml": None}),
    Row("no COCO file", IMAGES, "no JSON file in COCO's format", coco(), {"layout": "coco"}),
    Row("no annotations", coco(categories=None), "has no list `categories`", coco()),
    Row(
        "no object",
        {**IMAGES, "boxes.json": '[{"images": 1, "annotations": 2}]'},
        "COCO's format",
        coco(),
        {"layout": "coco"},
    ),
    Row("category without name", coco(categories=[{"id": 0}]), "has no `id` or no `name`", coco()),
    Row("same id", coco(categories=[{"id": 0, "name": "a"}, {"id": 0, "name": "b"}]), "have the same id", coco()),
    Row(
        "fractions",
        coco(annotations=[{"id": i, "image_id": i, "category_id": 0, "bbox": [0.1, 0.1, 0.5, 0.5]} for i in range(3)]),
        "Multiply them by the width and the height",
        coco(),
    ),
    Row(
        "corners",
        coco(annotations=[{"id": i, "image_id": i, "category_id": 0, "bbox": [3, 3, 7, 7]} for i in range(3)]),
        "all look like corners.*subtract xmin and ymin",
        coco(),
    ),
    Row("no boxes", coco(annotations=[]), "none of them has a box", coco()),
    Row(
        "not JSON",
        {**IMAGES, "boxes.json": '{"images": [], "annotations": ['},
        "is not JSON",
        coco(),
        {"layout": "coco"},
    ),
    Row(
        "reserved slice",
        {**coco(), "metadata.csv": "filename,object_count\nimages/0.png,1\n"},
        "name of a built-in slice. Rename it",
        {"metadata.csv": "filename,objects\nimages/0.png,1\n"},
    ),
    Row(
        "versions of annotations",
        {**coco(), "old.json": coco()["boxes.json"]},
        "list the same images.*Keep one of these files",
        {"old.json": None},
    ),
    Row(
        "boxes without corners",
        {
            **IMAGES,
            "boxes.csv": table("image,x,y,w,h,label", *(f"{i}.png,1,1,4,4,{c}" for i in range(3) for c in "ab")),
        },
        "write their corners into the columns xmin, ymin, xmax, ymax",
        {"boxes.csv": table(CORNERS, *(f"images/{i}.png,{c},1,1,5,5" for i in range(3) for c in "ab"))},
    ),
    Row(
        "dataset in an archive",
        {f"archive/top/{path}": content for path, content in VOC.items()},
        "Use --data .*archive/top",
        fixed_data="archive/top",
    ),
    Row("no CVAT file", IMAGES, 'Export as "CVAT for images 1.1"', CVAT, {"layout": "cvat"}),
    Row("another root", annotations_of("<images/>"), "its root is <images>", CVAT, {"layout": "cvat"}),
    Row("tracks", annotations_of("<annotations><track/></annotations>"), 'Export as "CVAT for images 1.1"', CVAT),
    Row("not XML", annotations_of("<annotations>"), "not XML", CVAT, {"layout": "cvat"}),
    Row("no tasks", IMAGES, "no JSON export of Label Studio", TASKS, {"layout": "label_studio"}),
    Row("no XML files", {"JPEGImages": 3}, "Export the annotations as Pascal VOC", VOC, {"layout": "voc"}),
    Row(
        "lists of a split",
        {**VOC, "ImageSets/Main/train.txt": b"\xe4\n"},
        "cannot be read",
        {"ImageSets/Main/train.txt": "0\n1\n2\n"},
    ),
    Row(
        "boxes without labels",
        box_table(CORNERS.replace("label", "xyz"), ""),
        r"Set data\.label_column",
        options={"label_column": "xmin"},
        fixed={"label_column": "xyz"},
    ),
    Row(
        "unknown split of boxes",
        box_table(f"{CORNERS},split", ",holdout"),
        "Names of splits",
        {"manifest.csv": box_table(f"{CORNERS},split", ",train")["manifest.csv"]},
    ),
]


# === Errors that need no files: the fault, and the same call after the advice ===


def _records(**counts: int) -> list[Record]:
    return [
        Record(f"{name}/{number}.png", (name,), "", "", f"{next(_COUNTER):064x}", name, None)
        for name, count in counts.items()
        for number in range(count)
    ]


def _grouped(groups: int) -> list[Record]:
    return [record._replace(group=str(number % groups)) for number, record in enumerate(_records(a=40, b=40))]


def _mixed(more: int, name: str = "") -> list[Record]:
    """Two classes in three groups each, one of them common; and more groups of the second class."""
    groups = {"a": ["0", "1", "2"], "b": ["0", "3", "4", *(str(5 + number) for number in range(more))]}
    return [
        record._replace(group=f"{name}{group}")
        for class_name, members in groups.items()
        for group in members
        for record in _records(**{class_name: 2})
    ]


def _unlucky() -> str:
    """Finds names of groups with which the class `b` is not in all splits."""

    def is_unlucky(name: str) -> bool:
        try:
            _divide(_mixed(0, name), group_column="x")
        except DatasetError:
            return True
        return False

    return next(name for name in map(str, range(100)) if is_unlucky(f"{name}-")) + "-"


def _divide(records_: list[Record], **options: Any) -> None:
    with tempfile.TemporaryDirectory() as location:
        folder = WorkFolder(location)
        folder.store(shards.RECORDS, 0, columns_of(records_))
        division.divide(folder, [len(records_)], DataOptions(**options), (), LocalExchange(), per_partition=100)


def _counts(train: dict[str, int], validation: dict[str, int]) -> None:
    counts = {
        name: SplitCounts(examples=sum(classes.values()), classes=classes)
        for name, classes in (("train", train), ("validation", validation))
    }
    limits.refuse_untrainable(counts, ("a", "b"))


def _bad(number: int, max_bad_fraction: float) -> None:
    limits.refuse_bad_files([RefusedFile(f"{i}.png", "empty file") for i in range(number)], 100, max_bad_fraction)


def _load(*overrides: str, preset: str = "digits") -> None:
    loading.load(preset, overrides=overrides, warn=lambda message: None)


def _search(*overrides: str) -> None:
    _load("tuner.enabled=true", *overrides)


SIX = "model.blocks=[[1],[1],[1],[1],[1],[1]]"
DATAFLOW = (
    "beam.runner=dataflow",
    "data.source=folder",
    "data.path=gs://b/birds",
    "pipeline.artifacts=gs://b/runs",
    "beam.dataflow.project=birds-1",
    "beam.dataflow.region=europe-west1",
    "beam.dataflow.image=i",
    "beam.dataflow.temp_location=gs://b/tmp",
)


def _parse_tasks(text: str) -> None:
    """Reads a file as an export of Label Studio; detection of the layout passes on only lists."""
    with tempfile.TemporaryDirectory() as folder:
        Path(folder, "export.json").write_text(text)
        label_studio.parse(folder, "export.json")


CALLS: list[tuple[str, Callable[[], None], str, Callable[[], None]]] = [
    (
        "two sources of labels",
        lambda: _load("data.label_column=a", 'data.label_columns=["b", "c"]'),
        "label_column and label_columns exclude each other",
        lambda: _load('data.label_columns=["b", "c"]'),
    ),
    (
        "a window and a bit depth",
        lambda: _load("data.window=[100, 900]", "data.bit_depth=12"),
        r"exclude each other: bit_depth = 12 is the window \[0, 4095\]; remove one of them",
        lambda: _load("data.window=[100, 900]"),
    ),
    (
        "a window without values",
        lambda: _load("data.window=[900, 100]"),
        "the first value must be smaller than the second",
        lambda: _load("data.window=[100, 900]"),
    ),
    (
        "one label with a separator",
        lambda: _load("data.labels_per_image=one", "data.label_separator=;"),
        'label_separator requires labels_per_image = "any"; remove one of them',
        lambda: _load("data.label_separator=;"),
    ),
    (
        "one label from boxes",
        lambda: _load("data.labels_per_image=one", "data.labels_from=boxes"),
        'labels_from = "boxes" requires labels_per_image = "any"; remove one of them',
        lambda: _load("data.labels_from=boxes"),
    ),
    (
        "few images",
        lambda: _divide(_records(a=2, b=20)),
        r"--set data\.splits\.test=0 --set data\.splits\.train=0\.85",
        lambda: _divide(_records(a=2, b=20), splits={"test": 0.0, "train": 0.85}),
    ),
    (
        "few images, more added",
        lambda: _divide(_records(a=1, b=20)),
        "Add more, remove the class",
        lambda: _divide(_records(a=9, b=20)),
    ),
    (
        "few groups",
        lambda: _divide(_grouped(2), group_column="x"),
        "groups of images to divide.*Add more",
        lambda: _divide(_grouped(40), group_column="x"),
    ),
    (
        "groups of another class",
        lambda: _divide(_mixed(0, _unlucky()), group_column="x"),
        "Add images of other groups",
        lambda: _divide(_mixed(30, _unlucky()), group_column="x"),
    ),
    (
        "untrained class",
        lambda: _counts({"a": 3}, {"a": 1}),
        "Add images of it",
        lambda: _counts({"a": 3, "b": 3}, {"a": 1}),
    ),
    (
        "empty split",
        lambda: _counts({"a": 3, "b": 3}, {}),
        "Add images, or give the split a folder",
        lambda: _counts({"a": 3, "b": 3}, {"a": 1, "b": 1}),
    ),
    ("some bad files", lambda: _bad(7, 0.01), r"--set data\.max_bad_fraction=0\.07", lambda: _bad(7, 0.07)),
    ("many bad files", lambda: _bad(90, 0.01), r"Fix or remove them\.$", lambda: _bad(0, 0.01)),
    # === Configuration ===
    (
        "section",
        lambda: _load("training.epochs.x=3"),
        "must be a section, not a value",
        lambda: _load("training.epochs=3"),
    ),
    ("key", lambda: _load("training.epoch=3"), "Did you mean `epochs`", lambda: _load("training.epochs=3")),
    ("preset", lambda: _load(preset="digit"), "Did you mean `digits`", _load),
    ("override", lambda: _load("epochs=5"), r"for example training\.epochs=5", lambda: _load("training.epochs=5")),
    (
        "artifacts",
        lambda: _load("pipeline.artifacts=gs://"),
        "use gs://bucket/folder",
        lambda: _load("pipeline.artifacts=gs://bucket/folder"),
    ),
    (
        "image size",
        lambda: _load(SIX),
        "requires at least 32: increase it",
        lambda: _load(SIX, "transform.image_size=32"),
    ),
    ("no data", lambda: _load(preset="images"), "or give --data DIR", lambda: _load("data.path=x", preset="images")),
    (
        "bucket",
        lambda: _load(*DATAFLOW, "data.path=/birds"),
        r"reads only gs://, and data\.path is",
        lambda: _load(*DATAFLOW),
    ),
    (
        "artifacts of Dataflow",
        lambda: _load(*(item for item in DATAFLOW if "artifacts" not in item)),
        r"requires pipeline\.artifacts, a gs:// folder",
        lambda: _load(*DATAFLOW),
    ),
    (
        "generated data",
        lambda: _load("beam.runner=dataflow", *DATAFLOW[3:]),
        r"set data\.path to a gs:// folder",
        lambda: _load(*DATAFLOW),
    ),
    (
        "search on several machines",
        lambda: _load("tuner.enabled=true", "training.distribution=multi_worker"),
        "Search first",
        lambda: _load("training.distribution=multi_worker"),
    ),
    (
        "unknown setting",
        lambda: _search("tuner.space={'training.learning_rat'={min=0.1,max=1}}"),
        r"Did you mean `training\.learning_rate`",
        lambda: _search("tuner.space={'training.learning_rate'={min=0.1,max=1}}"),
    ),
    (
        "short trials",
        lambda: _search("tuner.epochs=2", "training.schedule=cosine", "training.warmup_epochs=2"),
        "leaves too few epochs",
        lambda: _search("tuner.epochs=20", "training.schedule=cosine", "training.warmup_epochs=2"),
    ),
    (
        "an export without tasks",
        lambda: _parse_tasks('{"tasks": []}'),
        r"export\.json is not a list of tasks\. Export as JSON",
        lambda: _parse_tasks("[]"),
    ),
]
TOML = [
    ("not TOML", "[training\nepochs = 3", "is not valid TOML", '[training]\nepochs = 3\n[data]\npath = "x"\n'),
    (
        "old and new key",
        '[training]\nlabel_smoothing = 0.1\n[task]\nlabel_smoothing = 0.2\n[data]\npath = "x"\n',
        r"Remove `training\.label_smoothing`",
        '[task]\nlabel_smoothing = 0.2\n[data]\npath = "x"\n',
    ),
    (
        "old and new key of a search",
        '[tuner]\nenabled = true\n[tuner.space]\n"training.label_smoothing" = {min = 0.0, max = 0.1}\n'
        '"task.label_smoothing" = {min = 0.0, max = 0.1}\n[data]\npath = "x"\n',
        r"Remove `training\.label_smoothing`",
        '[tuner]\nenabled = true\nobjective = "val_accuracy"\n[tuner.space]\n'
        '"task.label_smoothing" = {min = 0.0, max = 0.1}\n[data]\npath = "x"\n',
    ),
]


# === Running the table ===

_REACHED: set[tuple[str, int]] = set()


def _trace(frame: Any, event: str, argument: Any) -> Any:
    """Records lines that raise, in the modules under test; pydantic drops the traceback of an error."""
    name = frame.f_code.co_filename
    if not name.startswith(str(ROOT)) or not any(f"/{source}/" in name for source in SOURCES):
        return None
    if event == "exception":
        _REACHED.add((os.path.relpath(name, ROOT), frame.f_lineno))
    return _trace


def fails(call: Callable[[], None]) -> str:
    """Returns the error of a call; empty if there is none."""
    previous = sys.gettrace()
    sys.settrace(_trace)
    try:
        call()
    except (DatasetError, ConfigError, ValidationError) as error:
        return str(error)
    finally:
        sys.settrace(previous)
    return ""


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row.name)
def test_the_advice_of_a_dataset_error_works(row, tmp_path):
    write(tmp_path, row.files)
    message = fails(lambda: attempt(tmp_path, row.data, row.options, row.read))
    assert re.search(row.message, message), message
    write(tmp_path, row.fix)
    data = row.data if row.fixed_data is None else row.fixed_data
    options = row.options if row.fixed is None else row.fixed
    after = fails(lambda: attempt(tmp_path, data, options, row.read))
    assert re.search(row.then, after) if row.then else not after, after


@pytest.mark.parametrize(("fault", "message", "fixed"), [call[1:] for call in CALLS], ids=[call[0] for call in CALLS])
def test_the_advice_of_a_setting_works(fault, message, fixed):
    error = fails(fault)
    assert re.search(message, error), error
    assert fails(fixed) == ""


@pytest.mark.parametrize(("text", "message", "fixed"), [row[1:] for row in TOML], ids=[row[0] for row in TOML])
def test_the_advice_for_a_file_works(text, message, fixed, tmp_path):
    path = tmp_path / "own.toml"
    path.write_text(text)
    error = fails(lambda: _load(preset=str(path)))
    assert re.search(message, error), error
    path.write_text(fixed)
    assert fails(lambda: _load(preset=str(path))) == ""


def raise_statements() -> dict[tuple[str, int, int], tuple[str, str]]:
    """Every `raise` with an error of its own: (file, first line, last line) → function and source."""
    statements = {}
    for source in SOURCES:
        for path in sorted((ROOT / source).rglob("*.py")):
            tree = ast.parse(path.read_text())
            for function in ast.walk(tree):
                if isinstance(function, ast.FunctionDef):
                    for node in ast.walk(function):
                        if isinstance(node, ast.Raise) and isinstance(node.exc, ast.Call):
                            key = (str(path.relative_to(ROOT)), node.lineno, node.end_lineno or node.lineno)
                            statements[key] = (function.name, ast.unparse(node.exc))
    return statements


def test_every_error_is_in_the_table(request):
    selected = {item.name for item in request.session.items if item.path == request.path}
    if len(selected) < len(ROWS) + len(CALLS) + len(TOML):
        pytest.skip("only a part of the table has run")
    missing = [
        f"{file}:{first} in {function}: {text[:160]}"
        for (file, first, last), (function, text) in raise_statements().items()
        if not text.startswith(OF_FILES)
        and (file, "") not in EXEMPT
        and (file, function) not in EXEMPT
        and not any((file, line) in _REACHED for line in range(first, last + 1))
    ]
    assert not missing, "add a row to ROWS, CALLS or TOML for:\n" + "\n".join(missing)
