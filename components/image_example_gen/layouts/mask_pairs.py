"""Images and masks in two folders: `images/a.jpg` belongs to `masks/a.png`; split folders may be above or inside."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

from components.image_example_gen import class_list, color_tables, files, labels
from components.image_example_gen.errors import DatasetError, LayoutError
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
    """Reads the names, and the colours if there are any, of the class ids.

    `data.mask_colors` has precedence over `classes.txt`. `data.classes` has too, but does not replace its colours.

    Raises:
      DatasetError: If two of them contradict each other.
    """
    location = folder.find(class_list.CLASSES_FILE)
    if options.mask_colors:
        table = color_tables.get(options.mask_colors)
        names, source = options.classes, "data.classes"
        if names is None and location:
            names, source = class_list.read(location).names, location
        if names is not None and names != table.names:
            raise DatasetError(
                f'data.mask_colors = "{options.mask_colors}" names the classes itself ({", ".join(table.names[:3])}, '
                f"… {len(table.names)} in all), and {source} has other ones. Remove one of them."
            )
        return table
    if location is None:
        return class_list.NO_CLASS_LIST
    if options.classes is None:
        return class_list.read(location)
    return _colors_of(location, options.classes)


def _colors_of(location: str, classes: tuple[str, ...]) -> class_list.ClassList:
    """Reads the colours of classes that the configuration names; the names in the file do not count without colours."""
    try:
        listed = class_list.read(location)
    except DatasetError:
        return class_list.NO_CLASS_LIST
    if not listed.colors:
        return class_list.NO_CLASS_LIST
    if listed.names != classes:
        raise DatasetError(f"{location} has colours of other classes than data.classes. Remove one of them.")
    return listed


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
