"""The listing of class folders, one after another and in memory: what ImageExampleGen did before it listed in parallel.

The reference of `components.image_example_gen.layouts.class_folders`, in its own words: a folder is read from the disk
by `pathlib`, and only types and messages are shared.
"""

from __future__ import annotations

import os
import stat
from collections import defaultdict
from collections.abc import Iterable, Iterator
from pathlib import Path

from components.image_example_gen import labels
from components.image_example_gen.entries import Entry, RefusedFile
from components.image_example_gen.files import File, readable
from components.image_example_gen.layouts import NESTED, ClassFolders, Listing
from components.image_example_gen.layouts._folder import is_image_name
from components.image_example_gen.layouts._pairs import masks_beside_images, role_of

_OUTSIDE = "it leads out of the data folder; such links and paths are not followed"
_LINKED = "a linked folder; its files are not read"
_IGNORED = ("thumbs.db", "desktop.ini", "__macosx", "__pycache__")


def list_classes(root: str, among: ClassFolders, *, recursive: bool = False) -> Listing:
    """Lists the images in class folders."""
    entries: list[Entry] = []
    refused: list[RefusedFile] = []
    notes: list[str] = []
    for parent in dict.fromkeys(folder.path.rpartition("/")[0] for folder in among.folders):
        masks: list[str] = []
        for folder in among.folders:
            if folder.path.rpartition("/")[0] != parent:
                continue
            label = labels.of_class(folder.path.rpartition("/")[2])
            inside = list(_walk(root, folder.path) if recursive else _listing(root, folder.path))
            stems = masks_beside_images(file.path.rpartition(".")[0] for file in inside if is_image_name(file.path))
            mask_folders = _mask_folders(file.path for file in inside) if recursive else ()
            for file in inside:
                is_mask = is_image_name(file.path) and file.path.rpartition(".")[0] in stems
                if file.is_folder:
                    deeper = _walk(root, file.path)
                    refused += [RefusedFile(readable(each.path), each.problem or NESTED) for each in deeper]
                elif is_mask or (mask_folders and file.path.startswith(mask_folders)):
                    masks.append(readable(file.path))
                elif file.problem:
                    refused.append(RefusedFile(readable(file.path), file.problem))
                else:
                    entries.append(Entry(file.path, file.size, file.changed_ns, label, split=folder.split))
        if masks:
            notes.append(f"{len(masks):,} masks beside their images are not used, such as {', '.join(masks[:2])}")
    names = frozenset(folder.path.rpartition("/")[2] for folder in among.folders)
    return Listing(
        labels.CLASS_LABEL, tuple(entries), (*refused, *among.refused), class_names=names, notes=tuple(notes)
    )


def _listing(root: str, folder: str) -> Iterator[File]:
    for path in sorted(Path(root, folder).iterdir(), key=lambda path: path.name):
        if not path.name.startswith(".") and path.name.lower() not in _IGNORED:
            yield _describe(root, f"{folder}/{path.name}")


def _walk(root: str, folder: str) -> Iterator[File]:
    for file in _listing(root, folder):
        if not file.is_folder:
            yield file
        elif file.problem or Path(root, file.path).is_symlink():
            yield file._replace(is_folder=False, problem=file.problem or _LINKED)
        else:
            yield from _walk(root, file.path)


def _describe(root: str, path: str) -> File:
    location = Path(root, path)
    if location.is_symlink() and not location.resolve().is_relative_to(Path(root).resolve()):
        return File(path, is_folder=location.is_dir(), problem=_OUTSIDE)
    if not location.exists():
        return File(path, problem="a link to a file that does not exist")
    if location.is_dir():
        return File(path, is_folder=True)
    status = os.stat(location)
    if not stat.S_ISREG(status.st_mode):
        return File(path, problem="neither a file nor a folder")
    return File(path, status.st_size, max(status.st_mtime_ns, status.st_ctime_ns))


def _mask_folders(paths: Iterable[str]) -> tuple[str, ...]:
    roles: dict[str, dict[str, list[str]]] = defaultdict(lambda: defaultdict(list))
    for folder in {path.rpartition("/")[0] for path in paths}:
        parent, _, name = folder.rpartition("/")
        roles[parent][role_of(name)].append(f"{folder}/")
    return tuple(folder for by_role in roles.values() if by_role["images"] for folder in by_role["masks"])
