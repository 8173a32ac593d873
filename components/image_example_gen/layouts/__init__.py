"""The folder is the registry: one file per layout, which exports its `LAYOUT`, a `LayoutSpec`."""

from __future__ import annotations

import shlex
from typing import TYPE_CHECKING

from components.image_example_gen import files
from components.image_example_gen.errors import LayoutError
from components.image_example_gen.layouts import _annotations
from components.image_example_gen.layouts._class_folder import ClassFolder as ClassFolder
from components.image_example_gen.layouts._class_folder import ClassFolders as ClassFolders
from components.image_example_gen.layouts._class_folder import MasksBesideImages as MasksBesideImages
from components.image_example_gen.layouts._entries import NESTED as NESTED
from components.image_example_gen.layouts._entries import Listing as Listing
from components.image_example_gen.layouts._folder import Folder as Folder
from components.image_example_gen.layouts._spec import Candidate as Candidate
from components.image_example_gen.layouts._spec import Confidence as Confidence
from components.image_example_gen.layouts._spec import Detection as Detection
from components.image_example_gen.layouts._spec import Evidence as Evidence
from components.image_example_gen.layouts._spec import LayoutSpec as LayoutSpec
from trainer_module.locations import join
from trainer_module.registry import Registry

if TYPE_CHECKING:
    from components.image_example_gen.options import DataOptions


_REGISTRY = Registry(__name__, "layout", LayoutSpec)
names, get = _REGISTRY.names, _REGISTRY.get

# Layouts with label files of their own, which are looked for in the folders of an archive, and the most of these.
_BOX_LAYOUTS = ("coco", "cvat", "label_studio", "voc", "yolo")
_MOST_WRAPPED = 4
_SUFFIXES = (".xml", ".json", ".txt", ".yaml")


def detect(folder: Folder, options: DataOptions) -> Detection:
    """Collects the evidence for every layout, then chooses the one with the most specific evidence.

    Raises:
      LayoutError: If no layout matches, if several match equally well (the message lists the evidence, and the settings
        for each), or if the folder contains annotations of objects that the layout does not read.
    """
    evidence = _evidence(folder, options)
    detection = Detection(evidence[0].layout, evidence)
    equal = [each for each in evidence if each.confidence == evidence[0].confidence]
    annotations = _annotations.describe(folder) if evidence[0].confidence < Confidence.FOLDER_COMBINATION else ""
    if annotations:
        raise LayoutError(
            f"{folder.root}: {annotations}. To train on the images alone, move the annotations elsewhere.{detection}"
        )
    if evidence[0].confidence <= Confidence.FALLBACK and (inner := _datasets_inside(folder, options)):
        shown = ", ".join(f"{files.readable(path)} ({each.layout}: {each.supporting[0]})" for path, each in inner)
        raise LayoutError(
            f"{folder.root} contains the dataset{'s' if len(inner) > 1 else ''} {shown}. Use --data "
            f"{shlex.quote(join(folder.root, inner[0][0]))}{', or another one' if len(inner) > 1 else ''}."
        )
    if not evidence[0].confidence:
        raise LayoutError(f"{folder.root} {_unmatched(folder)}{detection}")
    if len(equal) > 1:
        choices = "".join(
            f"\nIf {get(each.layout).interpretation or each.layout}: "
            f"{each.settings or f'--set data.layout={each.layout}'}"
            for each in equal
        )
        matching = ", ".join(each.layout for each in equal)
        raise LayoutError(
            f"{folder.root} matches the layouts {matching}. Set data.layout.{choices}\nEvidence:{detection}"
        )
    return detection


_ARCHIVE_SUFFIXES = (".zip", ".tar", ".tgz", ".tar.gz", ".tar.bz2", ".tar.xz", ".rar", ".7z")


def _unmatched(folder: Folder) -> str:
    """Returns what a folder that matches no layout is, and what to do."""
    if not folder.files:
        return "is empty. Set data.path to the folder of the images."
    archives = [file.path for file in folder.files if file.path.lower().endswith(_ARCHIVE_SUFFIXES)]
    if archives:
        return f"matches no layout. Unpack {files.readable(archives[0])}, and use the folder with its files."
    return "matches no layout. Rearrange the files, or set data.layout."


def _evidence(folder: Folder, options: DataOptions) -> tuple[Evidence, ...]:
    return tuple(sorted((get(name).detect(folder, options) for name in names()), key=lambda each: -each.confidence))


def _datasets_inside(folder: Folder, options: DataOptions, parent: str = "") -> list[tuple[str, Evidence]]:
    """Finds datasets with boxes in the folders of an archive: their paths and the evidence.

    A folder with images, or with many others, which may be classes, is not searched.
    """
    if options.manifest or len(folder.subfolders) > _MOST_WRAPPED or folder.stems_directly(""):
        return []
    datasets = []
    for name in folder.subfolders:
        path = f"{parent}/{name}" if parent else name
        if folder.stems_directly(name) and not any(each.endswith(_SUFFIXES) for each in folder.names_in(name)):
            continue
        inner = Folder(join(folder.root, name), tuple(files.listing(join(folder.root, name))))
        best = _evidence(inner, options)[0]
        if best.confidence >= Confidence.LABEL_FILES and best.layout in _BOX_LAYOUTS:
            datasets.append((path, best))
        elif not parent:
            datasets += _datasets_inside(inner, options, path)
    return datasets
