"""Images and masks in two folders: `images/a.jpg` belongs to `masks/a.png`; split folders may be above or inside."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

from components.image_example_gen import class_list, files, labels
from components.image_example_gen.errors import LayoutError
from components.image_example_gen.layouts import _metadata
from components.image_example_gen.layouts._entries import Entry, LabelFile, Listing, RefusedFile, refuse, refuse_images
from components.image_example_gen.layouts._folder import Folder, split_named
from components.image_example_gen.layouts._spec import Confidence, Evidence, LayoutSpec
from trainer_module import features
from trainer_module.locations import join

if TYPE_CHECKING:
    from components.image_example_gen.options import DataOptions

IMAGES_FOLDER, MASKS_FOLDER = "images", "masks"


def _detect(folder: Folder, options: DataOptions) -> Evidence:
    del options
    names = folder.names_in_splits | set(folder.subfolders)
    supporting = [f"a folder `{name}`" for name in (IMAGES_FOLDER, MASKS_FOLDER) if name in names]
    missing = [f"no folder `{name}`" for name in (IMAGES_FOLDER, MASKS_FOLDER) if name not in names]
    confidence = Confidence.NONE if missing else Confidence.FOLDER_COMBINATION
    return Evidence("mask_pairs", confidence, tuple(supporting), tuple(missing))


def _list_entries(folder: Folder, options: DataOptions) -> Listing:
    split_of = folder.split_of()
    if split_of and {IMAGES_FOLDER, MASKS_FOLDER} & set(folder.subfolders):
        raise LayoutError(
            f"{folder.root} has {IMAGES_FOLDER} and {MASKS_FOLDER} both beside and inside of {', '.join(split_of)}. "
            "Keep one arrangement."
        )
    for name in folder.subfolders:
        if name not in {IMAGES_FOLDER, MASKS_FOLDER, *split_of}:
            raise LayoutError(
                f"{join(folder.root, files.readable(name))}: expected {IMAGES_FOLDER} and {MASKS_FOLDER}, or split "
                "folders with these inside. Move it elsewhere."
            )
    entries: list[Entry] = []
    refused = refuse_images(folder.files, f"not inside {IMAGES_FOLDER}; it is not used")
    for split_folder in split_of or ("",):
        paired, unpaired = _pair(folder.root, split_folder)
        entries += paired
        refused += unpaired
    listing = Listing(labels.MASK_LABEL, tuple(entries), tuple(refused), class_list=classes_of_masks(folder, options))
    return _metadata.join(listing, folder, options)


def classes_of_masks(folder: Folder, options: DataOptions) -> class_list.ClassList:
    """Reads the names of the class ids, unless the configuration has them or there are none."""
    location = folder.find(class_list.CLASSES_FILE) if options.classes is None else None
    return class_list.read(location) if location else class_list.ClassList()


def _pair(root: str, split_folder: str) -> tuple[list[Entry], list[RefusedFile]]:
    """Pairs the images and masks of one split folder, or of the data folder if the name is empty."""
    images_folder, masks_folder = (
        f"{split_folder}/{name}" if split_folder else name for name in (IMAGES_FOLDER, MASKS_FOLDER)
    )
    mask_of, entries, refused = _by_stem(_walk(root, masks_folder), masks_folder), list[Entry](), list[RefusedFile]()
    for image in _walk(root, images_folder):
        stem = _stem(image.path, images_folder)
        mask = mask_of.pop(stem, None)
        if mask is None:
            refused.append(refuse(image, f"no mask: {masks_folder}/{stem}.png does not exist"))
        elif mask.problem:
            refused.append(refuse(image, f"unusable mask: {mask.path}: {mask.problem}"))
        elif image.problem:
            refused.append(refuse(image))
        else:
            first_folder = stem.partition("/")[0] if "/" in stem else ""
            label_file = LabelFile(features.MASK_ENCODED, mask.path, mask.size, mask.changed_ns)
            split = split_named(split_folder or first_folder)
            entries.append(Entry(image.path, image.size, image.changed_ns, label_files=(label_file,), split=split))
    return entries, refused + [refuse(mask, "a mask without an image") for mask in mask_of.values()]


def _walk(root: str, folder: str) -> Iterable[files.File]:
    return files.walk(root, folder) if files.is_folder(join(root, folder)) else ()


def _by_stem(masks: Iterable[files.File], folder: str) -> dict[str, files.File]:
    by_stem: dict[str, files.File] = {}
    for mask in masks:
        stem = _stem(mask.path, folder)
        rival = by_stem.get(stem)
        by_stem[stem] = mask._replace(problem=f"{rival.path} belongs to the same image") if rival else mask
    return by_stem


def _stem(path: str, folder: str) -> str:
    below = path.removeprefix(f"{folder}/")
    stem, dot, suffix = below.rpartition(".")
    return stem if dot and "/" not in suffix else below


LAYOUT = LayoutSpec(name="mask_pairs", detect=_detect, list_entries=_list_entries)
