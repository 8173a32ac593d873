"""Pascal VOC: one XML file per image, in `Annotations` or beside the image; `ImageSets/Main` names the splits."""

from __future__ import annotations

import itertools
import math
from collections.abc import Container, Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from components.image_example_gen import files
from components.image_example_gen.boxes import Annotation, Box
from components.image_example_gen.entries import RefusedFile
from components.image_example_gen.errors import DatasetError, LayoutError, UnusableImageError
from components.image_example_gen.external_sort import grouped_by_key
from components.image_example_gen.layouts import _xml
from components.image_example_gen.layouts._boxes import (
    MOST_BYTES_PER_IMAGE,
    AnnotatedImage,
    ImageIndex,
    Names,
    folder_split,
    make_listing,
    names_below,
    stem_of,
)
from components.image_example_gen.layouts._entries import Listing, refuse
from components.image_example_gen.layouts._folder import Folder, split_named
from components.image_example_gen.layouts._spec import Confidence, Evidence, LayoutSpec
from components.image_example_gen.spooled_items import kept
from components.image_example_gen.stored_mapping import collect_mapping
from trainer_module.error_text import first_line
from trainer_module.locations import join

if TYPE_CHECKING:
    from components.image_example_gen.options import DataOptions

# Names in lower case. An annotation and its image have the same path apart from these folders and the extension.
_ANNOTATION_FOLDERS = ("annotations", "annotation", "xmls", "xml", "labels")
_IMAGE_FOLDERS = ("jpegimages", "images", "image")
_SETS = "ImageSets/Main"
_BOTH = "trainval"  # a set whose images the dataset assigns to no split
# Masks of VOC's segmentation task have the names of its images.
_SEGMENTATION = "SegmentationClass"
_OTHER_TASKS = (f"{_SEGMENTATION}/", "SegmentationObject/")
_CVAT_FILE = "annotations.xml"


def _detect(folder: Folder, options: DataOptions) -> Evidence:
    del options
    paths = [path for path in names_below(folder, (*_ANNOTATION_FOLDERS, *_IMAGE_FOLDERS)) if _is_annotation(path)]
    if not paths:
        return Evidence("voc", Confidence.NONE, contradicting=("no XML file per image",))
    supporting = (f"XML files such as {files.readable(min(paths))}",)
    if _SEGMENTATION in folder.subfolders:
        # The dataset of Pascal VOC has both; which of them is wanted, only the user knows.
        return Evidence("voc", Confidence.FOLDER_COMBINATION, supporting, (f"a folder `{_SEGMENTATION}` with masks",))
    return Evidence("voc", Confidence.LABEL_FILES, supporting)


def _is_annotation(path: str) -> bool:
    return path.lower().endswith(".xml") and path.rpartition("/")[2] != _CVAT_FILE


def _list_entries(folder: Folder, options: DataOptions) -> Listing:
    index = ImageIndex(folder.root)
    if not any(map(_is_annotation, index.files)):
        raise LayoutError(f"{folder.root} has no XML files. Export the annotations as Pascal VOC.")
    lists = [path for path in index.files if _is_in_sets(path)]
    known = _stems(index) if lists else {}
    sets = _read_sets(folder.root, index, lists, known)
    unread, refused = list[RefusedFile](), list[RefusedFile]()
    read = kept(_read_documents(folder.root, index, unread, refused))
    refused = [*unread, *refused]
    from_zero = _counts_from_zero(document.raw for document in read)
    unlisted = Names()

    def annotate() -> Iterator[AnnotatedImage]:
        for document in read:
            split = sets.get(stem_of(document.file.path)) if sets else folder_split(document.image.path)
            if split is None:
                unlisted.add(document.image.path)
            elif "," in split:
                refused.append(refuse(document.image, f"in several lists of ImageSets: {split}"))
            else:
                yield AnnotatedImage(document.image, to_annotation(document.raw, from_zero), split)

    annotated = kept(annotate())
    used = (files.readable(document.image.path) for document in read)
    seen = collect_mapping((path, None) for path in itertools.chain(used, (file.path for file in refused)))
    for file in _images(index):
        if files.readable(file.path) not in seen:
            if sets and stem_of(file.path) not in sets:
                unlisted.add(file.path)
            else:
                refused.append(refuse(file, "no annotation; for a negative write an XML file without objects"))
    missing = (files.readable(stem) for stem in sets if stem not in known)
    refused += [RefusedFile(name, "listed in ImageSets, but there is no such image") for name in missing]
    notes = unlisted.note(f"images are in no list of {_SETS} and are not used")
    if from_zero:
        notes.append("coordinates begin at 0 and not at 1 as in Pascal VOC; they are read as such")
    return make_listing(folder, options, annotated, refused, notes)


class RawObject(NamedTuple):
    """One `object` element.

    Attributes:
      corners: xmin, ymin, xmax, ymax as written, pixels.
      name: Class name.
      difficult: Whether it is marked as difficult.
    """

    corners: tuple[float, float, float, float]
    name: str
    difficult: bool


class RawAnnotation(NamedTuple):
    """One XML file.

    Attributes:
      filename: Name of the image as written; may be empty.
      width: Pixels; 0 if unknown.
      height: Pixels; 0 if unknown.
      objects: The objects.
    """

    filename: str
    width: float
    height: float
    objects: tuple[RawObject, ...]


class _Document(NamedTuple):
    """An XML file that could be read, and its image."""

    file: files.File
    image: files.File
    raw: RawAnnotation


def _images(index: ImageIndex) -> Iterator[files.File]:
    return (file for path, file in index.images.items() if not path.startswith(_OTHER_TASKS))


def _documents(index: ImageIndex) -> Iterator[files.File]:
    return (file for path, file in index.files.items() if _is_annotation(path))


def _stems(index: ImageIndex) -> Mapping[str, None]:
    return collect_mapping((stem_of(file.path), None) for file in itertools.chain(_images(index), _documents(index)))


def _read_documents(
    root: str, index: ImageIndex, unread: list[RefusedFile], refused: list[RefusedFile]
) -> Iterator[_Document]:
    """Reads the XML files, and finds their images.

    Args:
      root: The data folder.
      index: All files.
      unread: Takes the XML files that are not read.
      refused: Takes those without a usable annotation or image.
    """

    def selected() -> Iterator[files.File]:
        for file in _documents(index):
            if problem := file.problem or ("larger than 10 MB" if file.size > MOST_BYTES_PER_IMAGE else ""):
                unread.append(refuse(file, problem))
            else:
                yield file

    image_of = collect_mapping((_key(file.path), file) for file in _images(index))
    usable, again = itertools.tee(selected())
    for file, content in zip(usable, files.read_all(root, (file.path for file in again)), strict=True):
        image = image_of.get(_key(file.path)) or index.with_stem(stem_of(file.path))
        try:
            if isinstance(content, files.UnreadableFileError):
                raise UnusableImageError(str(content))
            raw = parse(content)
            image = image or index.find(raw.filename)
            if image is None:
                refused.append(refuse(file, "an annotation without an image"))
            else:
                yield _Document(file, image, raw)
        except UnusableImageError as error:
            refused.append(refuse(image or file, f"unusable annotation: {files.readable(file.path)}: {error}"))


def _key(path: str) -> str:
    folders = [name for name in path.split("/")[:-1] if name.lower() not in (*_ANNOTATION_FOLDERS, *_IMAGE_FOLDERS)]
    return "/".join((*folders, stem_of(path)))


def _read_sets(root: str, index: ImageIndex, lists: Iterable[str], known: Container[str]) -> Mapping[str, str]:
    """Reads the lists of images: stem → split, empty for `trainval` only; several splits are joined by commas.

    Lists of single classes, `cat_train.txt`, are read only without a list of all images.
    """
    names = {path: path.rpartition("/")[2].removesuffix(".txt") for path in lists}
    kinds = {path: name for path, name in names.items() if split_named(name) or name == _BOTH}
    kinds = kinds or {path: name.rpartition("_")[2] for path, name in names.items() if "_" in name}

    def listed() -> Iterator[tuple[str, str]]:
        for path, kind in kinds.items():
            if not (split_named(kind) or kind == _BOTH):
                continue
            try:
                if problem := index.files[path].problem:
                    raise files.UnreadableFileError(problem)
                for line in map(str.strip, files.lines(root, path)):
                    if line:
                        yield _listed_stem(line, known), split_named(kind)
            except (files.UnreadableFileError, UnicodeDecodeError) as error:
                raise DatasetError(f"{join(root, path)} cannot be read: {first_line(error)}") from None

    return collect_mapping((stem, ", ".join(sorted({*splits} - {""}))) for stem, splits in grouped_by_key(listed()))


def _is_in_sets(path: str) -> bool:
    return path.rpartition("/")[0] == _SETS and path.endswith(".txt")


def _listed_stem(line: str, known: Container[str]) -> str:
    """Returns the stem in a line; lists of a class have a number behind it: 1, -1, or 0 for difficult objects."""
    stem = _without_image(line)
    first, _, last = line.rpartition(" ")
    return stem if stem in known or not first or last not in ("1", "-1", "0") else _without_image(first.strip())


def _without_image(name: str) -> str:
    """`a.b` is a stem, `JPEGImages/a.b.jpg` names its image."""
    name = name.rpartition("/")[2]
    return stem_of(name) if name.lower().endswith((".jpg", ".jpeg", ".png")) else name


def parse(encoded: bytes) -> RawAnnotation:
    """Reads an XML file.

    Missing `size`, `filename` and `difficult` are allowed: nothing depends on them alone.

    Raises:
      UnusableImageError: If it is not such a file, or if an object has no name or no box.
    """
    root = _xml.parse(encoded)
    if root.tag != "annotation":
        raise UnusableImageError(f"its root is <{root.tag}>, not <annotation>")
    objects = tuple(_object(element, number) for number, element in enumerate(root.findall("object"), start=1))
    size = root.find("size")
    width, height = (_size(size, tag) for tag in ("width", "height"))
    known = width > 0 and height > 0
    return RawAnnotation(
        (root.findtext("filename") or "").strip(), width if known else 0.0, height if known else 0.0, objects
    )


def _size(element: Any, tag: str) -> float:
    """Returns a side of the annotated image; 0 if it is missing or not a number, as some programs write it."""
    try:
        value = float(element.findtext(tag)) if element is not None else 0.0
    except (TypeError, ValueError):
        return 0.0
    return value if math.isfinite(value) else 0.0


def _object(element: Any, number: int) -> RawObject:
    name = (element.findtext("name") or "").strip()
    if not name:
        raise UnusableImageError(f"an object without a name: object {number}")
    if element.find("robndbox") is not None:
        raise UnusableImageError(f"a rotated box: object {number} (`{name}`) has <robndbox>; export upright boxes")
    box = element.find("bndbox")
    if box is None:
        raise UnusableImageError(f"an object without a box: object {number} (`{name}`) has no <bndbox>")
    corners = []
    for tag in ("xmin", "ymin", "xmax", "ymax"):
        text = box.findtext(tag)
        try:
            value = float(text)
        except (TypeError, ValueError):
            value = math.nan
        if not math.isfinite(value):
            written = "is missing" if text is None else f"is `{text[:20]}`"
            raise UnusableImageError(f"an incomplete box: <{tag}> of object {number} (`{name}`) {written}")
        corners.append(value)
    difficult = (element.findtext("difficult") or "").strip().lower() in ("1", "true")
    return RawObject((corners[0], corners[1], corners[2], corners[3]), name, difficult)


def _counts_from_zero(annotations: Iterable[RawAnnotation]) -> bool:
    """Whether more boxes begin at 0 than at 1: many programs write coordinates of pixel corners instead of pixels."""
    at_zero = at_one = 0
    for annotation in annotations:
        for item in annotation.objects:
            at_zero += min(item.corners) == 0
            at_one += 1 in item.corners[:2]
    return at_zero > at_one


def to_annotation(raw: RawAnnotation, from_zero: bool) -> Annotation:
    """Converts pixel numbers to coordinates: pixel 1 begins at 0, and the last pixel of a box belongs to it.

    A box whose sides have the same number is a click and not one pixel wide: it has no area.

    Args:
      raw: The file.
      from_zero: Whether the numbers are coordinates of pixel corners already.

    Reference: Everingham et al. 2012, The PASCAL VOC2012 Development Kit, section 4.2 (the top left pixel is (1, 1)).
    """
    return Annotation(
        tuple(Box(*_coordinates(item.corners, from_zero), item.name, item.difficult) for item in raw.objects),
        raw.width,
        raw.height,
    )


def _coordinates(corners: Sequence[float], from_zero: bool) -> tuple[float, float, float, float]:
    xmin, ymin, xmax, ymax = corners
    if from_zero:
        return xmin, ymin, xmax, ymax
    left, right = _interval(xmin, xmax)
    top, bottom = _interval(ymin, ymax)
    return left, top, right, bottom


def _interval(first: float, last: float) -> tuple[float, float]:
    """Moves the smaller of two pixel numbers; swapped ones stay swapped."""
    if first == last:
        return first - 1, first - 1
    return (first - 1, last) if first < last else (first, last - 1)


LAYOUT = LayoutSpec(
    name="voc",
    interpretation="every image has an XML file with its boxes",
    detect=_detect,
    list_entries=_list_entries,
)
