"""Functions that the layouts with boxes share: they find the images of annotations and list annotated images."""

from __future__ import annotations

import itertools
import re
import urllib.parse
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, NamedTuple

from components.image_example_gen import boxes, files, labels, tables
from components.image_example_gen.boxes import Annotation
from components.image_example_gen.entries import Entry, RefusedFile
from components.image_example_gen.errors import DatasetError, LayoutError
from components.image_example_gen.layouts import _metadata
from components.image_example_gen.layouts._entries import Listing, refuse
from components.image_example_gen.layouts._folder import Folder, is_image_name, split_named
from components.image_example_gen.stored_entries import collect

if TYPE_CHECKING:
    from components.image_example_gen.options import DataOptions

# An annotation of one image is small; this bounds the memory and time that a file of another kind can cost.
MOST_BYTES_PER_IMAGE = 10 * 2**20
_MOST_NAMES = 2
# Folders of any name inside folders of annotations that are looked into to detect a layout.
_MOST_FOLDERS = 10


class AnnotatedImage(NamedTuple):
    """An image file and its boxes.

    Attributes:
      file: The image file.
      annotation: Its boxes, not yet checked against the image.
      split: The split that the dataset assigns; empty if the split is drawn.
      group: As in `Entry`.
      slices: As in `Entry`.
      source: Name of the file that lists the image, if one file lists many.
    """

    file: files.File
    annotation: Annotation
    split: str = ""
    group: str = ""
    slices: tuple[str, ...] = ()
    source: str = ""


class ImageIndex:
    """All files below the data folder, and their images by path and by name."""

    def __init__(self, root: str) -> None:
        """Lists the files."""
        self.files = {file.path: file for file in files.walk(root, "")}
        self.images = {path: file for path, file in self.files.items() if is_image_name(path)}
        self._by_name: dict[str, list[files.File]] = defaultdict(list)
        self._by_stem: dict[str, list[files.File]] = defaultdict(list)
        self._by_lower_name: dict[str, list[files.File]] = defaultdict(list)
        for path, file in self.images.items():
            name = path.rpartition("/")[2]
            self._by_name[name].append(file)
            self._by_stem[stem_of(name)].append(file)
            self._by_lower_name[name.lower()].append(file)

    def find(self, name: str, folders: Iterable[str] = ()) -> files.File | None:
        """Finds the image that an annotation names.

        Args:
          name: Path, URL or file name; it may begin with a folder of another machine.
          folders: Where to look first.

        Returns:
          The file below one of the folders with this path, or the only file with this name, in any case; None if there
          is none.
        """
        spellings = _spellings(name)
        for spelling in spellings:
            for folder in folders:
                if file := self.images.get(f"{folder}/{spelling}" if folder else spelling):
                    return file
        for spelling in spellings:
            last = spelling.rpartition("/")[2]
            same = self._by_name.get(last) or self._by_lower_name.get(last.lower(), [])
            if len(same) == 1:
                return same[0]
        return None

    def why_missing(self, name: str) -> str:
        """Explains why `find` returns no file: there is none, or one with another suffix, or several."""
        last = _spellings(name)[-1].rpartition("/")[2]
        if len(same := self._by_lower_name.get(last.lower(), [])) > 1:
            return f"{len(same)} files have this name: {files.readable(same[0].path)}, {files.readable(same[1].path)}"
        other = self.with_stem(stem_of(last))
        return f"{files.MISSING}, but `{files.readable(other.path)}` does" if other else files.MISSING

    def with_stem(self, stem: str) -> files.File | None:
        """Returns the only image with this name without its extension, or None."""
        same = self._by_stem.get(stem, [])
        return same[0] if len(same) == 1 else None


def _spellings(name: str) -> list[str]:
    """Returns the path of a URL, or a name as it is written and without percent-encoding."""
    name = name.replace("\\", "/").removeprefix("./")
    if "://" in name:
        return [urllib.parse.unquote(re.split(r"[?#]", name.partition("://")[2])[0])]
    return [name, urllib.parse.unquote(name)] if "%" in name else [name]


def stem_of(name: str) -> str:
    """Returns a file name without its folder and its extension."""
    name = name.rpartition("/")[2]
    stem, dot, _ = name.rpartition(".")
    return stem if dot else name


def split_of(path: str) -> str:
    """Returns the split that a folder or the name of a path means; empty if none or several do.

    `annotations/instances_train2017.json` → `train`.
    """
    words = re.split(r"[^a-z]+", path.lower())
    splits = set(filter(None, map(split_named, words)))
    return splits.pop() if len(splits) == 1 else ""


def folder_split(path: str) -> str:
    """Returns the split of the first folder in a path that is named after one; empty if there is none."""
    return next(filter(None, map(split_named, path.split("/")[:-1])), "")


def names_below(folder: Folder, wanted: Sequence[str], depth: int = 2) -> Iterator[str]:
    """Yields the paths of files and folders in the data folder and some of its folders.

    These are the folders that are named after splits or `wanted`, and the first ones inside the latter.

    Args:
      folder: The data folder.
      wanted: Names in lower case.
      depth: Levels of folders.
    """
    level: Iterable[str] = (file.path for file in folder.files)
    for _ in range(depth + 1):
        inside, deeper = list[str](), list[str]()
        for path in level:
            yield path
            names = path.lower().split("/")
            if names[-1] in wanted or ("." not in path and split_of(names[-1] + "/")):
                inside.append(path)
            elif len(names) > 1 and names[-2] in wanted and "." not in path and len(deeper) < _MOST_FOLDERS:
                deeper.append(path)
        level = _paths_in(folder.root, [*inside, *deeper])


def _paths_in(root: str, folders: Iterable[str]) -> Iterator[str]:
    return (f"{path}/{name}" for path in folders for name in files.names(root, path))


def counted(text: str, names: Iterable[str]) -> list[str]:
    """Returns a note about files: their number, the text, and the first two names; none without files."""
    ordered = sorted(map(files.readable, names))
    if not ordered:
        return []
    shown = ", ".join(ordered[:_MOST_NAMES]) + (", …" if len(ordered) > _MOST_NAMES else "")
    return [f"{len(ordered):,} {text}: {shown}"]


def unlisted(
    index: ImageIndex, annotated: Iterable[AnnotatedImage], refused: Iterable[RefusedFile], others: Iterable[str] = ()
) -> list[str]:
    """Returns a note about the images that no annotation lists.

    Args:
      index: All images.
      annotated: Those that are used.
      refused: Those that are not.
      others: Paths of images that another note counts.
    """
    seen = {image.file.path for image in annotated} | {file.path for file in refused} | set(others)
    paths = [path for path in index.images if path not in seen and files.readable(path) not in seen]
    return counted("images are not listed in the annotations and are not used", paths)


def make_listing(
    folder: Folder,
    options: DataOptions,
    annotated: Iterable[AnnotatedImage],
    refused: Iterable[RefusedFile] = (),
    notes: Iterable[str] = (),
    columns: Sequence[str] | None = None,
) -> Listing:
    """Lists annotated images.

    Boxes of classes that `data.classes` does not name are removed, and counted.

    Args:
      folder: The data folder.
      options: `[data]`.
      annotated: The images; one that occurs twice is refused.
      refused: The files that are not used.
      notes: What users should know.
      columns: Names of the images' slices; if None, slices and groups come from `metadata.csv`.

    Raises:
      LayoutError: If there are images, but none has a box.
      DatasetError: If two files list the same images, or if a column has the name of a built-in slice.
    """
    images, refused = list(annotated), list(refused)
    sources: dict[str, list[str]] = defaultdict(list)
    for image in images:
        sources[image.file.path].append(image.source)
    _refuse_versions(folder.root, sources)
    names: set[str] = set()

    def listed() -> Iterator[Entry]:
        for image in images:
            problem = image.file.problem or ("a folder" if image.file.is_folder else "")
            if len(own := sources[image.file.path]) > 1:
                shown = ", ".join(filter(None, dict.fromkeys(own)))
                problem = f"annotated {len(own)} times" + (f": in {shown}" if shown else "")
            annotation = of_classes(image.annotation, options)
            if not problem and not all(map(_is_name, {box.name for box in annotation.boxes})):
                problem = "a class name that is empty, or contains characters that no label may have"
            if problem:
                refused.append(refuse(image.file, problem))
                continue
            names.update(box.name for box in annotation.boxes)
            label = annotation.to_label()
            yield Entry(*image.file[:3], label=label, split=image.split, group=image.group, slices=image.slices)

    entries = collect(listed())
    if entries and not names:
        raise LayoutError(f"{folder.root}: {len(entries):,} images are annotated, but none of them has a box.")
    listing = Listing(
        labels.BOX_LABEL,
        entries,
        tuple(dict.fromkeys(refused)),
        tuple(columns or ()),
        frozenset(names),
        notes=tuple(notes),
    )
    if columns is None:
        listing = _metadata.join(listing, folder, options)
    if reserved := set(listing.columns) & set(labels.built_in_slices(labels.BOX_LABEL)):
        raise DatasetError(f"{folder.root}: column `{min(reserved)}` has the name of a built-in slice. Rename it.")
    return listing


def _refuse_versions(root: str, sources: Mapping[str, Sequence[str]]) -> None:
    """Refuses two files of which one lists all images of the other: they are versions of the same annotations."""
    images = Counter(source for own in sources.values() for source in set(own))
    shared = Counter(pair for own in sources.values() for pair in itertools.combinations(sorted(set(own)), 2))
    for (first, second), num in shared.items():
        if num == min(images[first], images[second]):
            path = next(path for path, own in sources.items() if {first, second} <= set(own))
            raise DatasetError(
                f"{root}: {first} and {second} list the same images ({num:,}, such as {files.readable(path)}). Keep "
                "one of these files."
            )


def of_classes(annotation: Annotation, options: DataOptions) -> Annotation:
    """Removes the boxes of classes that `data.classes` does not name, and records each as a correction."""
    if options.classes is None:
        return annotation
    renamed = options.rename_classes
    kept = tuple(box for box in annotation.boxes if renamed.get(box.name, box.name) in options.classes)
    removed = itertools.repeat(boxes.OTHER_CLASS, len(annotation.boxes) - len(kept))
    return annotation._replace(boxes=kept, corrections=(*annotation.corrections, *removed))


def _is_name(name: str) -> bool:
    return bool(name.strip()) and tables.is_printable(name)
