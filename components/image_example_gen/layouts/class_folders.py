"""One folder per class: `<class>/<file>`."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable
from typing import TYPE_CHECKING

from components.image_example_gen import files, labels
from components.image_example_gen.errors import DatasetError, LayoutError
from components.image_example_gen.layouts import _metadata
from components.image_example_gen.layouts._entries import NESTED, Entry, Listing, RefusedFile, refuse, refuse_images
from components.image_example_gen.layouts._folder import Folder, is_image_name
from components.image_example_gen.layouts._pairs import masks_beside_images, role_of, splits_of_images
from components.image_example_gen.layouts._spec import Confidence, Evidence, LayoutSpec
from trainer_module.locations import join

if TYPE_CHECKING:
    from components.image_example_gen.options import DataOptions


def _detect(folder: Folder, options: DataOptions) -> Evidence:
    del options
    images = [file.path for file in folder.files if not file.is_folder and is_image_name(file.path)]
    against = [f"images outside of any folder, such as {files.readable(images[0])}"] if images else []
    if folder.split_folders:
        against.append(f"folders named after splits: {', '.join(folder.split_folders)}")
    if not folder.subfolders:
        return Evidence("class_folders", Confidence.NONE, contradicting=("no class folders", *against))
    if splits_of_images(folder):
        against.append(f"folders of the images of splits, without classes: {', '.join(folder.subfolders)}")
        return Evidence("class_folders", Confidence.NONE, contradicting=tuple(against))
    shown = ", ".join(map(files.readable, folder.subfolders[:5])) + (", …" if len(folder.subfolders) > 5 else "")
    return Evidence(
        "class_folders", Confidence.FALLBACK, (f"{len(folder.subfolders)} folders: {shown}",), tuple(against)
    )


def _list_entries(folder: Folder, options: DataOptions) -> Listing:
    listing = list_classes(folder.root, folder.files, recursive=options.recursive)
    if not listing.class_names:
        raise LayoutError(f"{folder.root} has no class folders. Create one folder per class with its images inside.")
    return _metadata.join(listing, folder, options)


def list_classes(root: str, contents: Iterable[files.File], split: str = "", *, recursive: bool = False) -> Listing:
    """Lists the images in class folders. Masks beside their images, `a_mask.png` beside `a.jpg`, are not images.

    Args:
      root: The data folder.
      contents: The files and folders among which the class folders are.
      split: The split of all images; empty if it is drawn.
      recursive: Whether images in folders inside a class folder are used.

    Raises:
      DatasetError: If a folder must not be read, or if its name is not UTF-8.
    """
    entries: list[Entry] = []
    refused: list[RefusedFile] = []
    masks: list[str] = []
    class_names = set()
    contents = list(contents)
    usable = [folder.path for folder in contents if folder.is_folder and not folder.problem]
    listings = files.listings(root, usable, recursive=recursive)
    for folder in contents:
        if not folder.is_folder:
            refused += refuse_images([folder], "not inside a class folder; it is not used")
            continue
        if folder.problem:
            raise DatasetError(f"{join(root, files.readable(folder.path))}: {folder.problem}.")
        name = folder.path.rpartition("/")[2]
        if name != files.readable(name):
            raise DatasetError(f"{root}: the name of the folder {files.readable(name)!r} is not UTF-8. Rename it.")
        class_names.add(name)
        label = labels.of_class(name)
        inside = next(listings)
        mask_stems = masks_beside_images(file.path.rpartition(".")[0] for file in inside if is_image_name(file.path))
        mask_folders = _mask_folders(file.path for file in inside) if recursive else ()
        for file in inside:
            if file.is_folder:
                if file.problem:
                    raise DatasetError(f"{join(root, file.path)}: {file.problem}.")
                refused += [refuse(deeper, deeper.problem or NESTED) for deeper in files.walk(root, file.path)]
            elif mask_stems and is_image_name(file.path) and file.path.rpartition(".")[0] in mask_stems:
                masks.append(files.readable(file.path))
            elif mask_folders and file.path.startswith(mask_folders):
                masks.append(files.readable(file.path))
            elif file.problem:
                refused.append(refuse(file))
            else:
                entries.append(Entry(file.path, file.size, file.changed_ns, label, split=split))
    notes = [f"{len(masks):,} masks beside their images are not used, such as {', '.join(masks[:2])}"] if masks else []
    return Listing(
        labels.CLASS_LABEL, tuple(entries), tuple(refused), class_names=frozenset(class_names), notes=tuple(notes)
    )


def _mask_folders(paths: Iterable[str]) -> tuple[str, ...]:
    """Returns the folders of masks beside folders of images: `cat/masks/` beside `cat/images/`."""
    roles: dict[str, dict[str, list[str]]] = defaultdict(lambda: defaultdict(list))
    for folder in {path.rpartition("/")[0] for path in paths}:
        parent, _, name = folder.rpartition("/")
        roles[parent][role_of(name)].append(f"{folder}/")
    return tuple(folder for by_role in roles.values() if by_role["images"] for folder in by_role["masks"])


LAYOUT = LayoutSpec(
    name="class_folders", interpretation="every folder is a class", detect=_detect, list_entries=_list_entries
)
