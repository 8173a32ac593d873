"""JSON files that list a dataset: which program wrote them, from their first bytes, and their content within limits."""

from __future__ import annotations

import json
import re
from typing import Any

import orjson

from components.image_example_gen import files
from components.image_example_gen.errors import DatasetError
from components.image_example_gen.layouts._boxes import names_below
from components.image_example_gen.layouts._folder import Folder
from trainer_module.error_text import first_line
from trainer_module.locations import join

COCO, LABEL_STUDIO = "COCO", "Label Studio"
ANNOTATION_FOLDERS = ("annotations", "annotation", "labels")

_MOST_BYTES = 2**30  # COCO's own train split is 450 MB
_HEAD_BYTES = 2**16
_COCO_KEYS = rb"images|annotations|categories|info|licenses|videos|type"
_COCO_START = re.compile(rb'\{\s*"(' + _COCO_KEYS + rb')"\s*:')
_COCO_LISTS = re.compile(rb'"(images|annotations|categories)"\s*:\s*\[')
_CREATEML = re.compile(rb'"coordinates"\s*:\s*\{')
_OTHER_FILES = ("notes.json",)  # Label Studio writes it beside YOLO labels


def find(folder: Folder, kind: str) -> list[str]:
    """Finds the JSON files of a program in the data folder and in folders of annotations or splits, by their heads."""
    return [path for path in candidates(folder) if kind_of(_head(folder.root, path)) == kind]


def candidates(folder: Folder) -> list[str]:
    """Returns the JSON files in the data folder and in folders of annotations or splits."""
    return sorted(
        path
        for path in names_below(folder, ANNOTATION_FOLDERS)
        if path.lower().endswith(".json") and path.rpartition("/")[2] not in _OTHER_FILES
    )


def _head(root: str, path: str) -> bytes:
    try:
        return files.read(root, path, _HEAD_BYTES)
    except files.UnreadableFileError:
        return b""


def kind_of(head: bytes) -> str:
    """Returns the program that wrote a file, from its first bytes; empty if it is none of those that are read."""
    start = head.removeprefix(b"\xef\xbb\xbf").lstrip()
    if _COCO_START.match(start) or (start.startswith(b"{") and len(set(_COCO_LISTS.findall(start))) > 1):
        return COCO
    if not re.match(rb"\[\s*\{", start) or _CREATEML.search(start):
        return ""
    return LABEL_STUDIO if re.search(rb'"(annotations|completions|annotator|data|rectanglelabels)"\s*:', start) else ""


def read(root: str, path: str) -> Any:
    """Reads a file.

    Raises:
      DatasetError: If it cannot be read, is larger than 1 GB, is not JSON, or is nested too deeply.
    """
    location = join(root, files.readable(path))
    (file,) = files.describe(root, [path])
    if file.problem:
        raise DatasetError(f"{location}: {file.problem}.")
    if file.size > _MOST_BYTES:
        raise DatasetError(f"{location} is larger than 1 GB. Divide it by splits.")
    try:
        content = files.read(root, path).removeprefix(b"\xef\xbb\xbf")
    except files.UnreadableFileError as error:
        raise DatasetError(f"{location} {error}") from None
    try:
        return orjson.loads(content)
    except orjson.JSONDecodeError as error:
        try:
            return json.loads(content)  # Python programs write NaN, which is not JSON
        except (ValueError, RecursionError):
            raise DatasetError(f"{location} is not JSON: {first_line(error)}") from None
