"""One folder per class: `<class>/<file>`."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

from components.image_example_gen import files, labels
from components.image_example_gen.errors import DatasetError, LayoutError
from components.image_example_gen.layouts import _metadata
from components.image_example_gen.layouts._entries import Entry, Listing, RefusedFile, refuse, refuse_images
from components.image_example_gen.layouts._folder import Folder, is_image_name
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
    shown = ", ".join(map(files.readable, folder.subfolders[:5])) + (", …" if len(folder.subfolders) > 5 else "")
    return Evidence(
        "class_folders", Confidence.FALLBACK, (f"{len(folder.subfolders)} folders: {shown}",), tuple(against)
    )


def _list_entries(folder: Folder, options: DataOptions) -> Listing:
    listing = list_classes(folder.root, folder.files)
    if not listing.class_names:
        raise LayoutError(f"{folder.root} has no class folders. Create one folder per class with its images inside.")
    return _metadata.join(listing, folder, options)


def list_classes(root: str, contents: Iterable[files.File], split: str = "") -> Listing:
    """Lists the images in class folders.

    Args:
      root: The data folder.
      contents: The files and folders among which the class folders are.
      split: The split of all images; empty if it is drawn.

    Raises:
      DatasetError: If a folder must not be read, or if its name is not UTF-8.
    """
    entries: list[Entry] = []
    refused: list[RefusedFile] = []
    class_names = set()
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
        for file in files.listing(root, folder.path):
            if file.is_folder:
                if file.problem:
                    raise DatasetError(f"{join(root, file.path)}: {file.problem}.")
                nested = "in a folder inside a class folder; it is not used"
                refused += [refuse(deeper, deeper.problem or nested) for deeper in files.walk(root, file.path)]
            elif file.problem:
                refused.append(refuse(file))
            else:
                entries.append(Entry(file.path, file.size, file.changed_ns, label, split=split))
    return Listing(labels.CLASS_LABEL, tuple(entries), tuple(refused), class_names=frozenset(class_names))


LAYOUT = LayoutSpec(name="class_folders", detect=_detect, list_entries=_list_entries)
