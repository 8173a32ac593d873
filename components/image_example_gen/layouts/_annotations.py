"""Annotations of objects that no layout has recognised: never read as classes or as masks."""

from __future__ import annotations

import re

from components.image_example_gen import files
from components.image_example_gen.layouts._folder import Folder, is_image_name
from components.image_example_gen.layouts._pairs import role_of

_SUFFIXES = (".xml", ".txt", ".json")
_FOLDER_NAMES = frozenset(("bbox", "bboxes", "boxes", "xml", "xmls", "yolo", "coco", "voc", "ann"))
_COCO_NAME = re.compile(r".*(annotations?|instances|via_region_data|via_project).*\.json")
_YOLO_LINE = re.compile(r"\s*\d+(\s+-?[\d.]+(e-?\d+)?){4,}\s*")
_VOC_ROOT = re.compile(r"<annotation[\s>]")
_MOST_BYTES = 4096
_LAYOUTS = {"Pascal VOC": "voc", "COCO": "coco", "YOLO": "yolo"}  # words of a kind → the layout that reads it


def describe(folder: Folder) -> str:
    """Describes annotations of objects in a data folder, and how to read them; empty if it has none."""
    path = _find(folder)
    if not path:
        return ""
    kind = _kind(folder.root, path)
    layout = next((layout for words, layout in _LAYOUTS.items() if words in kind), "")
    advice = f"To read them as boxes, use --set data.layout={layout}" if layout else "To use them, export them as COCO"
    return f"{files.readable(path)} looks like {kind}. {advice}"


def _find(folder: Folder) -> str:
    """Returns the first file of annotations, by its place and name; empty if there is none."""
    levels = ["", *(f"{split}/" for split in folder.split_folders)]
    for level in levels:
        names = sorted(folder.names_in(level.rstrip("/")))
        for name in names:
            if _COCO_NAME.fullmatch(name.lower()):
                return f"{level}{name}"
            if name.lower() in _FOLDER_NAMES or role_of(name) == "masks":
                path = _only_annotations(folder, f"{level}{name}")
                if path:
                    return path
    places = ("", *folder.split_folders[:1], *folder.subfolders[:1])  # the data folder, and the first one of images
    return next(filter(None, (_beside_images(folder, place) for place in places)), "")


def _beside_images(folder: Folder, path: str) -> str:
    """Returns the first file of annotations beside most images of a folder; empty if there is none."""
    names = sorted(folder.names_in(path))
    images = {name.rpartition(".")[0] for name in names if is_image_name(name)}
    beside = [name for name in names if name.lower().endswith(_SUFFIXES) and name.rpartition(".")[0] in images]
    if 2 * len(beside) <= len(images):
        return ""
    return f"{path}/{beside[0]}" if path else beside[0]


def yolo_beside_images(folder: Folder) -> str:
    """Returns a label file of YOLO beside the images of the data folder or of a split; empty if there is none.

    Beside the images of classes they are not looked for: there, both labels are possible.
    """
    for place in ("", *folder.split_folders[:1]):
        path = _beside_images(folder, place)
        if path and "YOLO" in _kind(folder.root, path):
            return files.readable(path)
    return ""


def _only_annotations(folder: Folder, path: str) -> str:
    """Returns the first file of a folder (or of a folder in it) that has files of annotations and no images."""
    if folder.stems(path):
        return ""
    names = sorted(folder.names_in(path))
    nested = [f"{path}/{name}" for name in names if not name.lower().endswith(_SUFFIXES)][:3]
    paths = [f"{path}/{name}" for name in names] + [
        f"{deeper}/{name}" for deeper in nested for name in folder.names_in(deeper)
    ]
    return next((each for each in paths if each.lower().endswith(_SUFFIXES)), "")


def _kind(root: str, path: str) -> str:
    try:
        text = files.read(root, path, _MOST_BYTES).decode("utf-8", errors="replace")
    except files.UnreadableFileError:
        text = ""
    if path.lower().endswith(".xml"):
        return "bounding boxes of Pascal VOC (XML)" if _VOC_ROOT.search(text) else "annotations of objects (XML)"
    if path.lower().endswith(".json"):
        if '"shapes"' in text:
            return "annotations of LabelMe (JSON)"
        if '"shape_attributes"' in text:
            return "annotations of VGG Image Annotator (JSON)"
        if '"coordinates"' in text:
            return "annotations of CreateML (JSON)"
        is_coco = any(key in text for key in ('"images"', '"categories"', '"annotations"'))
        return "bounding boxes of COCO (JSON)" if is_coco else "annotations of objects (JSON)"
    lines = [line for line in text.splitlines()[:-1] or text.splitlines() if line.strip()]
    if lines and all(map(_YOLO_LINE.fullmatch, lines)):
        return "bounding boxes of YOLO" if len(lines[0].split()) == 5 else "polygons of YOLO"
    return "annotations of objects (text)"
