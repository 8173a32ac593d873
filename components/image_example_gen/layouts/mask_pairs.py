"""Images and masks in two folders: `images/a.jpg` belongs to `masks/a.png`; split folders may be above or inside.

Both may lie in one folder too, if masks have a suffix: `a.jpg` and `a_mask.png`.
"""

from __future__ import annotations

import itertools
import shlex
from collections.abc import Iterable, Iterator, Sequence
from typing import TYPE_CHECKING

from components.image_example_gen import class_list, color_tables, files, labels
from components.image_example_gen.entries import Entry, LabelFile, RefusedFile
from components.image_example_gen.errors import DatasetError, LayoutError
from components.image_example_gen.external_sort import grouped_by_key
from components.image_example_gen.layouts import _metadata, _pairs
from components.image_example_gen.layouts._entries import Listing, refuse, refuse_images
from components.image_example_gen.layouts._folder import Folder, is_image_name, split_named
from components.image_example_gen.layouts._pairs import FolderPair
from components.image_example_gen.layouts._spec import Confidence, Evidence, LayoutSpec
from components.image_example_gen.stored_entries import collect
from trainer_module import features
from trainer_module.locations import join

if TYPE_CHECKING:
    from components.image_example_gen.options import DataOptions

# The names that the documentation uses, and generated datasets have; `_pairs` has the others.
IMAGES_FOLDER, MASKS_FOLDER = "images", "masks"


def _detect(folder: Folder, options: DataOptions) -> Evidence:
    if options.images_folder and options.masks_folder:
        configured = f"data.images_folder = {options.images_folder}, data.masks_folder = {options.masks_folder}"
        return Evidence("mask_pairs", Confidence.CONFIGURED, (configured,))
    if pairs := _pairs.named_pairs(folder):
        shown = [f"folders `{pair.images}` and `{pair.masks}`" for pair in pairs]
        return Evidence("mask_pairs", Confidence.FOLDER_COMBINATION, tuple(shown))
    pairs, observation = _pairs.pairs_by_suffix(folder)
    if pairs:
        # Images and masks in several folders that may be classes are ambiguous.
        is_clear = pairs[0].split or len(folder.subfolders) < 2 or not folder.subfolders
        confidence = Confidence.FOLDER_COMBINATION if is_clear else Confidence.FALLBACK
        return Evidence("mask_pairs", confidence, (observation,))
    if shared := _pairs.shared_names(folder):
        confidence = Confidence.FOLDER_NAME if shared.in_splits else Confidence.FALLBACK
        settings = (
            f"--set data.images_folder={shlex.quote(shared.images)} --set data.masks_folder={shlex.quote(shared.masks)}"
        )
        return Evidence("mask_pairs", confidence, (shared.observation,), settings=settings)
    names = sorted(folder.names_in_splits | set(folder.subfolders))
    supporting = tuple(f"a folder `{name}`" for name in names if _pairs.role_of(name))
    roles = {_pairs.role_of(name) for name in names}
    missing = [f"no folder `{name}`" for name in (IMAGES_FOLDER, MASKS_FOLDER) if name not in roles]
    against = tuple(missing) or ("no two of them belong together",)
    return Evidence("mask_pairs", Confidence.NONE, supporting, against)


def _folder_pairs(folder: Folder, options: DataOptions) -> list[FolderPair]:
    """Returns the folders of images and masks.

    Raises:
      LayoutError: If there are none.
    """
    images, masks = options.images_folder, options.masks_folder
    if not images or not masks:
        if pairs := _pairs.named_pairs(folder) or _pairs.pairs_by_suffix(folder)[0]:
            return pairs
        raise LayoutError(
            f"{folder.root} has no folders of images and masks with common names, such as {IMAGES_FOLDER} and "
            f"{MASKS_FOLDER}. Set data.images_folder and data.masks_folder."
        )
    if all(files.is_folder(join(folder.root, path)) for path in (images, masks)):
        return [FolderPair(images, masks)]
    pairs = [
        FolderPair(f"{parent}/{images}", f"{parent}/{masks}", split_named(parent))
        for parent in folder.split_folders
        if all(files.is_folder(join(folder.root, f"{parent}/{path}")) for path in (images, masks))
    ]
    if not pairs:
        known = ", ".join(map(files.readable, folder.subfolders[:10])) or "none"
        raise LayoutError(
            f"data.images_folder = {images} and data.masks_folder = {masks} are not both folders in {folder.root}, nor "
            f"in one of its split folders. Folders: {known}."
        )
    return pairs


def _list_entries(folder: Folder, options: DataOptions) -> Listing:
    pairs = _folder_pairs(folder, options)
    notes = _check_other_folders(folder, pairs, options)
    beside = "not inside the folder of images; it is not used"
    refused = [] if any(not pair.images for pair in pairs) else refuse_images(folder.files, beside)

    def entries() -> Iterator[Entry]:
        for pair in pairs:
            for paired, unpaired in _pair(folder.root, pair):
                yield from paired
                refused.extend(unpaired)

    collected = collect(entries())
    listing = Listing(
        labels.MASK_LABEL,
        collected,
        tuple(refused),
        class_list=classes_of_masks(folder, options),
        notes=tuple(notes),
    )
    return _metadata.join(listing, folder, options)


def _check_other_folders(folder: Folder, pairs: Sequence[FolderPair], options: DataOptions) -> list[str]:
    """Returns a note about folders that are not read.

    Raises:
      LayoutError: If they contain images, and the configuration does not name the folders to use.
    """
    folder.split_of()
    used = {path for pair in pairs for path in (pair.images, pair.masks)}
    if "" in used:
        return []
    parents = {"", *(path.rpartition("/")[0] for path in used if path.partition("/")[0] in folder.split_folders)}
    others = [path for parent in sorted(parents) for path in _unused(folder, parent, used)]
    shown = " and ".join(dict.fromkeys((pairs[0].images, pairs[0].masks)))
    beside = [path for path in others if split_named(path) and not pairs[0].split]
    if beside:
        raise LayoutError(
            f"{folder.root} has {shown} and also {', '.join(beside)}: images and masks are both beside and inside of "
            f"{', '.join(beside)}. Keep one arrangement."
        )
    for path in others if options.images_folder is None else ():
        # Pascal VOC's instance masks do not contain class ids.
        if folder.stems(path) and path.lower() != "segmentationobject":
            raise LayoutError(
                f"{join(folder.root, files.readable(path))}: expected {shown}, or split folders with these inside. "
                "Move it elsewhere, or set data.images_folder and data.masks_folder to those that are used."
            )
    return [f"not read: the folders {', '.join(map(files.readable, others))}"] if others else []


def _unused(folder: Folder, parent: str, used: Iterable[str]) -> list[str]:
    """Returns the folders in a folder that neither are nor contain a used one."""
    if parent:
        paths = [f"{parent}/{name}" for name in sorted(folder.names_in(parent)) if folder.names_in(f"{parent}/{name}")]
    else:
        paths = folder.subfolders
    return [path for path in paths if not any(f"{each}/".startswith(f"{path}/") for each in used)]


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


def _pair(root: str, pair: FolderPair) -> Iterator[tuple[list[Entry], list[RefusedFile]]]:
    """Pairs the files of two folders, or of one: a few at a time, whose names differ only by words such as `mask`."""
    of_images = ((_plain(_stem(file.path, pair.images)), (False, file)) for file in _walk(root, pair.images))
    of_masks = ((_plain(_stem(file.path, pair.masks)), (True, file)) for file in _walk(root, pair.masks))
    both = of_images if pair.images == pair.masks else itertools.chain(of_images, of_masks)
    for _, same in grouped_by_key(both):
        images = [file for is_mask, file in same if not is_mask]
        masks = [file for is_mask, file in same if is_mask]
        if pair.images == pair.masks:
            images = [file for file in images if is_image_name(file.path)]
            mask_stems = _pairs.masks_beside_images(_stem(file.path, pair.images) for file in images)
            masks = [file for file in images if _stem(file.path, pair.images) in mask_stems]
            images = [file for file in images if _stem(file.path, pair.images) not in mask_stems]
        yield _pair_files(pair, images, masks)


def _plain(stem: str) -> str:
    """Returns a text that is equal for the stems of files that may belong together."""
    return _pairs.without_roles(_key(stem))


def _pair_files(
    pair: FolderPair, images: Sequence[files.File], masks: Sequence[files.File]
) -> tuple[list[Entry], list[RefusedFile]]:
    """Pairs files by the stems of their paths, then by stems without words such as `mask`."""
    stems = [_stem(image.path, pair.images) for image in images]
    mask_of = _by_key((_key(_stem(mask.path, pair.masks)), mask) for mask in masks)
    exact = set(map(_key, stems)) & mask_of.keys()
    others = ((_pairs.without_role(key, "masks"), mask) for key, mask in mask_of.items() if key not in exact)
    mask_by_name, mask_of = _by_key(others), {key: mask_of[key] for key in exact}
    entries, refused = list[Entry](), list[RefusedFile]()
    for stem, image in zip(stems, images, strict=True):
        key = _key(stem)
        mask = (
            mask_of.pop(key, None) or _pop(mask_by_name, key) or _pop(mask_by_name, _pairs.without_role(key, "images"))
        )
        if mask is None:
            refused.append(refuse(image, f"no mask: {join(pair.masks, stem)}.png does not exist"))
        elif mask.problem:
            refused.append(refuse(image, f"unusable mask: {mask.path}: {mask.problem}"))
        elif image.problem:
            refused.append(refuse(image))
        else:
            label_file = LabelFile(features.MASK_ENCODED, mask.path, mask.size, mask.changed_ns)
            split = pair.split or (split_named(stem.partition("/")[0]) if "/" in stem else "")
            entries.append(Entry(image.path, image.size, image.changed_ns, label_files=(label_file,), split=split))
    unused = (*mask_of.values(), *mask_by_name.values())
    return entries, refused + [refuse(mask, "a mask without an image") for mask in unused]


def _pop(masks: dict[str, files.File], key: str) -> files.File | None:
    return masks.pop(key, None)


def _walk(root: str, folder: str) -> Iterable[files.File]:
    return files.walk(root, folder) if files.is_folder(join(root, folder)) else ()


def _by_key(masks: Iterable[tuple[str, files.File]]) -> dict[str, files.File]:
    by_key: dict[str, files.File] = {}
    for key, mask in masks:
        rival = by_key.get(key)
        by_key[key] = mask._replace(problem=f"{rival.path} belongs to the same image") if rival else mask
    return by_key


def _key(stem: str) -> str:
    """Returns a stem whose first folder, if that is a split, has the split's usual name: `Train/a` → `train/a`."""
    first, slash, rest = stem.partition("/")
    return f"{split_named(first)}/{rest}" if slash and split_named(first) else stem


def _stem(path: str, folder: str) -> str:
    below = path.removeprefix(f"{folder}/") if folder else path
    stem, dot, suffix = below.rpartition(".")
    return stem if dot and "/" not in suffix else below


LAYOUT = LayoutSpec(
    name="mask_pairs",
    interpretation="the files of one folder are masks of the images in the other",
    detect=_detect,
    list_entries=_list_entries,
)
