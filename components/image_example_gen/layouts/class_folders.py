"""One folder per class: `<class>/<file>`."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING

from components.image_example_gen import files, labels
from components.image_example_gen.entries import Entry, RefusedFile
from components.image_example_gen.errors import DatasetError, LayoutError
from components.image_example_gen.layouts import _metadata
from components.image_example_gen.layouts._class_folder import (
    ClassFolder,
    ClassFolderBlock,
    ClassFolders,
    MasksBesideImages,
)
from components.image_example_gen.layouts._entries import NESTED, Listing, refuse, refuse_images
from components.image_example_gen.layouts._folder import Folder, is_image_name
from components.image_example_gen.layouts._pairs import masks_beside_images, role_of, splits_of_images
from components.image_example_gen.layouts._spec import Confidence, Evidence, LayoutSpec
from components.image_example_gen.stored_entries import collect
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


def _class_folders(folder: Folder, options: DataOptions) -> ClassFolders:
    del options
    among = class_folders_among(folder.root, folder.files)
    if not among.folders:
        raise LayoutError(f"{folder.root} has no class folders. Create one folder per class with its images inside.")
    return among


def _list_entries(folder: Folder, options: DataOptions) -> Listing:
    listing = list_classes(folder.root, _class_folders(folder, options), recursive=options.recursive)
    return _metadata.join(listing, folder, options)


def class_folders_among(root: str, contents: Iterable[files.File], split: str = "") -> ClassFolders:
    """Returns the class folders among files and folders, in the order of their files' paths, and the images outside.

    Args:
      root: The data folder.
      contents: The files and folders.
      split: The split of all images; empty if it is drawn.

    Raises:
      DatasetError: If a folder must not be read, or if its name is not UTF-8.
    """
    folders: list[ClassFolder] = []
    refused: list[RefusedFile] = []
    for folder in contents:
        if not folder.is_folder:
            refused += refuse_images([folder], "not inside a class folder; it is not used")
            continue
        if folder.problem:
            raise DatasetError(f"{join(root, files.readable(folder.path))}: {folder.problem}.")
        name = folder.path.rpartition("/")[2]
        if name != files.readable(name):
            raise DatasetError(f"{root}: the name of the folder {files.readable(name)!r} is not UTF-8. Rename it.")
        folders.append(ClassFolder(folder.path, split))
    return ClassFolders(tuple(sorted(folders, key=lambda folder: f"{folder.path}/")), tuple(refused))


def list_classes(root: str, among: ClassFolders, *, recursive: bool = False) -> Listing:
    """Lists the images in class folders. Masks beside their images, `a_mask.png` beside `a.jpg`, are not images.

    Args:
      root: The data folder.
      among: The class folders.
      recursive: Whether images in folders inside a class folder are used.

    Raises:
      DatasetError: If a folder must not be read.
    """
    refused = list(among.refused)
    masks = MasksBesideImages()

    def entries() -> Iterator[Entry]:
        for inside in list_folders(root, among.folders, recursive=recursive):
            for block in inside:
                yield from block.entries
                refused.extend(block.refused)
                masks.add(block)

    names = frozenset(folder.name for folder in among.folders)
    collected = collect(entries())
    return Listing(labels.CLASS_LABEL, collected, tuple(refused), class_names=names, notes=masks.notes())


def list_folders(
    root: str, folders: Iterable[ClassFolder], *, recursive: bool = False
) -> Iterator[Iterator[ClassFolderBlock]]:
    """Lists class folders, several at a time: for each, in order, its files in blocks."""
    folders = list(folders)
    if recursive:
        listings = files.listings(root, [folder.path for folder in folders], recursive=True)
        for folder, inside in zip(folders, listings, strict=True):
            paths = [file.path for file in inside]
            yield _sort_files(folder, root, [inside], paths, _mask_folders(paths))
    else:
        among = files.ahead(lambda folder: files.contents(root, folder.path), folders, files.num_threads(root))
        for folder, contents in zip(folders, among, strict=True):
            yield _sort_files(folder, root, files.blocks(contents), map(contents.path, contents.names))


def _sort_files(
    folder: ClassFolder,
    root: str,
    described: Iterable[list[files.File]],
    paths: Iterable[str],
    mask_folders: tuple[str, ...] = (),
) -> Iterator[ClassFolderBlock]:
    """Sorts the files of a class folder, block by block: images, their masks, and files that are not used.

    Args:
      folder: The class folder.
      root: The data folder.
      described: The files, in blocks; folders among them are not read.
      paths: Of all files.
      mask_folders: Folders of masks beside folders of images.
    """
    label = labels.of_class(folder.name)
    mask_stems = masks_beside_images(path.rpartition(".")[0] for path in paths if is_image_name(path))
    for some in described:
        block = ClassFolderBlock(folder)
        for file in some:
            if file.is_folder:
                if file.problem:
                    raise DatasetError(f"{join(root, file.path)}: {file.problem}.")
                block.refused.extend(refuse(deeper, deeper.problem or NESTED) for deeper in files.walk(root, file.path))
            elif mask_stems and is_image_name(file.path) and file.path.rpartition(".")[0] in mask_stems:
                block.masks.append(files.readable(file.path))
            elif mask_folders and file.path.startswith(mask_folders):
                block.masks.append(files.readable(file.path))
            elif file.problem:
                block.refused.append(refuse(file))
            else:
                block.entries.append(Entry(file.path, file.size, file.changed_ns, label, split=folder.split))
        yield block


def _mask_folders(paths: Iterable[str]) -> tuple[str, ...]:
    """Returns the folders of masks beside folders of images: `cat/masks/` beside `cat/images/`."""
    roles: dict[str, dict[str, list[str]]] = defaultdict(lambda: defaultdict(list))
    for folder in {path.rpartition("/")[0] for path in paths}:
        parent, _, name = folder.rpartition("/")
        roles[parent][role_of(name)].append(f"{folder}/")
    return tuple(folder for by_role in roles.values() if by_role["images"] for folder in by_role["masks"])


LAYOUT = LayoutSpec(
    name="class_folders",
    interpretation="every folder is a class",
    detect=_detect,
    list_entries=_list_entries,
    class_folders=_class_folders,
)
