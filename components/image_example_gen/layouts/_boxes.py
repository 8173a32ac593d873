"""Functions that the layouts with boxes share: they find the images of annotations and list annotated images."""

from __future__ import annotations

import functools
import itertools
import operator
import re
import urllib.parse
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, NamedTuple

from components.image_example_gen import boxes, files, labels, tables
from components.image_example_gen.boxes import Annotation
from components.image_example_gen.entries import Entry, RefusedFile
from components.image_example_gen.errors import DatasetError, LayoutError
from components.image_example_gen.exchange import IMAGES_PER_PARTITION
from components.image_example_gen.external_sort import grouped_by_key, sorted_by_key
from components.image_example_gen.layouts import _metadata
from components.image_example_gen.layouts._entries import Listing, refuse
from components.image_example_gen.layouts._folder import Folder, is_image_name, split_named
from components.image_example_gen.spooled_items import kept
from components.image_example_gen.stored_entries import collect
from components.image_example_gen.stored_mapping import collect_mapping

if TYPE_CHECKING:
    from components.image_example_gen.options import DataOptions

# An annotation of one image is small; this bounds the memory and time that a file of another kind can cost.
MOST_BYTES_PER_IMAGE = 10 * 2**20
_MOST_NAMES = 2
_KEY = operator.itemgetter(0)
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


class _Same(NamedTuple):
    """Images with the same name: their number, and the first two."""

    number: int
    first: tuple[files.File, ...]


class ImageIndex:
    """All files below the data folder, and their images by path and by name; those of a large one are not in memory.

    Attributes:
      files: All files by path, in the order of the paths.
      images: Those that look like images.
    """

    def __init__(self, root: str) -> None:
        """Lists the files."""
        self.files = collect_mapping((file.path, file) for file in files.walk(root, ""))
        self.images = collect_mapping(item for item in self.files.items() if is_image_name(item[0]))

    @functools.cached_property
    def _by_name(self) -> Mapping[str, _Same]:
        return self._by(_name)

    @functools.cached_property
    def _by_lower_name(self) -> Mapping[str, _Same]:
        return self._by(lambda path: _name(path).lower())

    @functools.cached_property
    def _by_stem(self) -> Mapping[str, _Same]:
        return self._by(stem_of)

    def _by(self, key_of: Callable[[str], str]) -> Mapping[str, _Same]:
        """Groups the images by what a function makes of their paths."""
        pairs = sorted_by_key(((key_of(path), file) for path, file in self.images.items()), IMAGES_PER_PARTITION)
        return collect_mapping((key, _same(file for _, file in same)) for key, same in itertools.groupby(pairs, _KEY))

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
            last = _name(spelling)
            same = self._by_name.get(last) or self._by_lower_name.get(last.lower())
            if same and same.number == 1:
                return same.first[0]
        return None

    def why_missing(self, name: str) -> str:
        """Explains why `find` returns no file: there is none, or one with another suffix, or several."""
        last = _name(_spellings(name)[-1])
        if (same := self._by_lower_name.get(last.lower())) and same.number > 1:
            shown = ", ".join(files.readable(file.path) for file in same.first)
            return f"{same.number} files have this name: {shown}"
        other = self.with_stem(stem_of(last))
        return f"{files.MISSING}, but `{files.readable(other.path)}` does" if other else files.MISSING

    def with_stem(self, stem: str) -> files.File | None:
        """Returns the only image with this name without its extension, or None."""
        same = self._by_stem.get(stem)
        return same.first[0] if same and same.number == 1 else None


def _same(images: Iterator[files.File]) -> _Same:
    first = tuple(itertools.islice(images, 2))
    return _Same(len(first) + sum(1 for _ in images), first)


def _name(path: str) -> str:
    return path.rpartition("/")[2]


def _spellings(name: str) -> list[str]:
    """Returns the path of a URL, or a name as it is written and without percent-encoding."""
    name = name.replace("\\", "/").removeprefix("./")
    if "://" in name:
        return [urllib.parse.unquote(re.split(r"[?#]", name.partition("://")[2])[0])]
    return [name, urllib.parse.unquote(name)] if "%" in name else [name]


def stem_of(name: str) -> str:
    """Returns a file name without its folder and its extension."""
    name = _name(name)
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

    These are the folders that are named after splits or `wanted`, and the first ones inside each of the latter.

    Args:
      folder: The data folder.
      wanted: Names in lower case.
      depth: Levels of folders.
    """
    level: Iterable[str] = (file.path for file in folder.files)
    for _ in range(depth + 1):
        inside, deeper = list[str](), list[str]()
        num_inside = Counter[str]()
        for path in level:
            yield path
            parent, _, name = path.lower().rpartition("/")
            if name in wanted or ("." not in path and split_of(f"{name}/")):
                inside.append(path)
            elif parent.rpartition("/")[2] in wanted and "." not in path and num_inside[parent] < _MOST_FOLDERS:
                num_inside[parent] += 1
                deeper.append(path)
        level = _paths_in(folder.root, [*inside, *deeper])


def _paths_in(root: str, folders: Iterable[str]) -> Iterator[str]:
    return (f"{path}/{name}" for path in folders for name in files.names(root, path))


class Names:
    """The number of files that a note is about, and the first of their names."""

    def __init__(self) -> None:
        """Begins without files."""
        self._number, self._first = 0, list[str]()

    def add(self, name: str) -> None:
        """Adds a file."""
        self._number += 1
        self._first = sorted((*self._first, files.readable(name)))[:_MOST_NAMES]

    def note(self, text: str) -> list[str]:
        """Returns a note: the number, the text, and the first two names; none without files."""
        shown = ", ".join(self._first) + (", …" if self._number > _MOST_NAMES else "")
        return [f"{self._number:,} {text}: {shown}"] if self._number else []


def counted(text: str, names: Iterable[str]) -> list[str]:
    """Returns a note about files; see `Names`."""
    counter = Names()
    for name in names:
        counter.add(name)
    return counter.note(text)


def unlisted(
    index: ImageIndex, annotated: Iterable[AnnotatedImage], refused: Iterable[RefusedFile], others: Iterable[str] = ()
) -> list[str]:
    """Returns a note about the images that no annotation lists.

    Args:
      index: All images.
      annotated: Those that are used; read once.
      refused: Those that are not.
      others: Paths of images that another note counts.
    """
    listed = itertools.chain((image.file.path for image in annotated), (file.path for file in refused), others)
    seen = collect_mapping((path, None) for path in listed)
    paths = (path for path in index.images if path not in seen and files.readable(path) not in seen)
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
      annotated: The images; one that occurs twice is refused. Those of an iterator are read once.
      refused: The files that are not used.
      notes: What users should know.
      columns: Names of the images' slices; if None, slices and groups come from `metadata.csv`.

    Raises:
      LayoutError: If there are images, but none has a box.
      DatasetError: If two files list the same images, or if a column has the name of a built-in slice.
    """
    images, refused = kept(annotated), list(refused)
    repeated = _sources_of_repeated(images)
    _refuse_versions(folder.root, images, repeated)
    names: set[str] = set()

    def listed() -> Iterator[Entry]:
        for image in images:
            problem = image.file.problem or ("a folder" if image.file.is_folder else "")
            if own := repeated.get(image.file.path):
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


def _sources_of_repeated(images: Iterable[AnnotatedImage]) -> dict[str, list[str]]:
    """Returns the sources of every image that occurs several times, in the order of their first ones."""
    pairs = ((image.file.path, (number, image.source)) for number, image in enumerate(images))
    repeated = sorted((same, path) for path, same in grouped_by_key(pairs) if len(same) > 1)
    return {path: [source for _, source in same] for same, path in repeated}


def _refuse_versions(root: str, images: Iterable[AnnotatedImage], repeated: Mapping[str, Sequence[str]]) -> None:
    """Refuses two files of which one lists all images of the other: they are versions of the same annotations."""
    shared = Counter(pair for own in repeated.values() for pair in itertools.combinations(sorted(set(own)), 2))
    if not shared:
        return
    in_source = Counter(image.source for image in images)
    for own in repeated.values():
        in_source.subtract(Counter(own) - Counter(set(own)))
    for (first, second), num in shared.items():
        if num == min(in_source[first], in_source[second]):
            path = next(path for path, own in repeated.items() if {first, second} <= set(own))
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
