"""One folder per split, with one folder per class inside: `train/<class>/<file>`."""

from __future__ import annotations

from typing import TYPE_CHECKING

from components.image_example_gen import files
from components.image_example_gen.errors import LayoutError
from components.image_example_gen.layouts import _metadata
from components.image_example_gen.layouts._class_folder import ClassFolder, ClassFolders
from components.image_example_gen.layouts._entries import Listing, refuse_images
from components.image_example_gen.layouts._folder import Folder, known_split_names
from components.image_example_gen.layouts._pairs import masks_of_split
from components.image_example_gen.layouts._spec import Confidence, Evidence, LayoutSpec
from components.image_example_gen.layouts.class_folders import class_folders_among, list_classes
from trainer_module import features
from trainer_module.locations import join

if TYPE_CHECKING:
    from components.image_example_gen.options import DataOptions


def _detect(folder: Folder, options: DataOptions) -> Evidence:
    del options
    if not folder.split_folders:
        return Evidence(
            "split_folders", Confidence.NONE, contradicting=(f"no folder is named {', '.join(features.SPLITS)}",)
        )
    others = sorted(set(folder.subfolders) - set(folder.split_folders))
    return Evidence(
        "split_folders",
        Confidence.FOLDER_NAME,
        (f"folders named after splits: {', '.join(folder.split_folders)}",),
        (f"other folders: {', '.join(map(files.readable, others[:5]))}",) if others else (),
    )


def _class_folders(folder: Folder, options: DataOptions) -> ClassFolders:
    del options
    split_of = folder.split_of()
    others = sorted(set(folder.subfolders) - split_of.keys())
    if not split_of:
        present = f": it has {', '.join(map(files.readable, others[:5]))}" if others else ""
        raise LayoutError(
            f"{folder.root} has no split folder{present}. Names of split folders: {known_split_names()}. Rename the "
            "folders, or remove data.layout."
        )
    if others:
        settings = masks_of_split(folder, split_of, others)
        if settings:
            raise LayoutError(
                f"{folder.root} has split folders ({', '.join(split_of)}) and other folders ({', '.join(others)}), and "
                f"their files have equal names. If these are images and masks, use {settings}. If every folder is a "
                "class, use --set data.layout=class_folders."
            )
        raise LayoutError(
            f"{folder.root} has split folders ({', '.join(split_of)}) and other folders ({', '.join(others)}). "
            f"Use either one folder per class, or only {', '.join(features.SPLITS)} with class folders inside. If "
            'these are class names, set data.layout = "class_folders".'
        )
    folders: list[ClassFolder] = []
    refused = refuse_images(folder.files, "not inside a class folder; it is not used")
    for name, split in split_of.items():
        among = class_folders_among(folder.root, files.listing(folder.root, name), split)
        if not among.folders:
            raise LayoutError(f"{join(folder.root, name)} has no class folders. Add them, or remove this split folder.")
        folders += among.folders
        refused += among.refused
    return ClassFolders(tuple(folders), tuple(refused))


def _list_entries(folder: Folder, options: DataOptions) -> Listing:
    listing = list_classes(folder.root, _class_folders(folder, options), recursive=options.recursive)
    return _metadata.join(listing, folder, options)


LAYOUT = LayoutSpec(
    name="split_folders",
    interpretation="every folder in a split folder is a class",
    detect=_detect,
    list_entries=_list_entries,
    class_folders=_class_folders,
)
