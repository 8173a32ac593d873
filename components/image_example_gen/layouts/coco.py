"""COCO: a JSON file with `images`, `annotations` and `categories`, or one per split, also with Roboflow's names."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable, Iterator, Mapping
from typing import TYPE_CHECKING, Any, NamedTuple

from components.image_example_gen import boxes, files
from components.image_example_gen.boxes import Annotation, Box
from components.image_example_gen.entries import RefusedFile
from components.image_example_gen.errors import DatasetError, LayoutError
from components.image_example_gen.external_sort import grouped_by_key
from components.image_example_gen.layouts import _json
from components.image_example_gen.layouts._boxes import (
    AnnotatedImage,
    ImageIndex,
    counted,
    folder_split,
    make_listing,
    split_of,
    unlisted,
)
from components.image_example_gen.layouts._entries import Listing, refuse
from components.image_example_gen.layouts._folder import Folder
from components.image_example_gen.layouts._spec import Confidence, Evidence, LayoutSpec
from components.image_example_gen.spooled_items import SpooledItems, kept
from trainer_module.locations import join

if TYPE_CHECKING:
    from components.image_example_gen.options import DataOptions

_INSTANCES = "instances"  # beside these, COCO publishes files of captions and keypoints
_IMAGE_FOLDERS = ("", "images", "data", "JPEGImages")
_MOST_EXCEEDING = 0.3  # share of the boxes that may exceed their images


def _detect(folder: Folder, options: DataOptions) -> Evidence:
    del options
    paths = _json.find(folder, _json.COCO)
    if not paths:
        others = [f"a JSON file {files.readable(path)}" for path in _json.candidates(folder)[:1]]
        return Evidence("coco", Confidence.NONE, tuple(others), ("no JSON file in COCO's format",))
    return Evidence("coco", Confidence.ANNOTATION_FILE, (f"a COCO file {files.readable(paths[0])}",))


def _list_entries(folder: Folder, options: DataOptions) -> Listing:
    candidates = _json.find(folder, _json.COCO) or _json.candidates(folder)
    if not candidates:
        raise LayoutError(f"{folder.root} has no JSON file in COCO's format (with `images` and `annotations`).")
    instances = [path for path in candidates if path.rpartition("/")[2].startswith(_INSTANCES)] or candidates
    paths = [path for path in instances if split_of(path)] or instances
    notes = counted("annotation files are not used", set(candidates) - set(paths))
    index = ImageIndex(folder.root)
    refused: list[RefusedFile] = []

    def annotated() -> Iterator[AnnotatedImage]:
        for path in paths:
            own_split = split_of(path)
            parent = path.rpartition("/")[0]
            folders = [parent, f"{parent}/images" if parent else "images", *_IMAGE_FOLDERS]
            if own_split:
                folders += sorted({image.rpartition("/")[0] for image in index.images if split_of(image) == own_split})
            document = _json.read(folder.root, path)
            for image in parse(document, join(folder.root, files.readable(path)), refused, notes):
                file = index.find(image.name, folders)
                if file is None:
                    reason = image.problem or index.why_missing(image.name)
                    refused.append(RefusedFile(files.readable(image.name), reason))
                elif image.problem:
                    refused.append(refuse(file, image.problem))
                else:
                    split = own_split or folder_split(file.path)
                    yield AnnotatedImage(file, image.annotation, split, source=files.readable(path))

    listed = kept(annotated())
    notes += unlisted(index, listed, refused)
    return make_listing(folder, options, listed, refused, notes)


class ListedImage(NamedTuple):
    """One element of `images`, with its annotations.

    Attributes:
      name: Its `file_name`.
      annotation: Its boxes.
      problem: Why it cannot be used; empty if it may be.
    """

    name: str
    annotation: Annotation
    problem: str = ""


def parse(document: Any, location: str, refused: list[RefusedFile], notes: list[str]) -> Iterator[ListedImage]:
    """Reads the content of a file; images and annotations are joined outside of memory.

    Identifiers are only names: they may begin at 0 or 1, have gaps, and be written as strings.

    Args:
      document: The JSON value, from `_json.read`.
      location: Of the file, for messages.
      refused: Takes the elements of `images` without a name, before the first image.
      notes: Takes what users should know, after the last image.

    Raises:
      DatasetError: If it is not in COCO's format, or if coordinates are fractions.
    """
    if not isinstance(document, dict):
        raise DatasetError(f"{location} is not in COCO's format: it is not an object with `images` and `annotations`.")
    for key in ("images", "annotations", "categories"):
        if not _json.is_list(document.get(key)):
            raise DatasetError(f"{location} is not in COCO's format: it has no list `{key}`.")
    names = _category_names(document["categories"], location)
    name = location.rpartition("/")[2]
    lost, coordinates = SpooledItems[str](), _Coordinates(location)

    # Plain tuples: named ones take several times as long on their way to a file and back.
    def images() -> Iterator[tuple[str, tuple[Any, ...]]]:
        for number, item in enumerate(document["images"]):
            file_name = item.get("file_name") if isinstance(item, dict) else None
            if not isinstance(file_name, str) or not file_name.strip():
                refused.append(RefusedFile(f"{name}, images[{number}]", "no file_name"))
                file_name = ""
            if isinstance(item, dict):
                identifier = _identifier(item.get("id"))
                sides = (_side(item.get(key)) for key in ("width", "height"))
                yield _key(identifier), (_Image, number, file_name.strip(), identifier, *sides)

    def objects() -> Iterator[tuple[str, tuple[Any, ...]]]:
        for number, item in enumerate(document["annotations"]):
            if isinstance(item, dict):
                yield _key(_identifier(item.get("image_id"))), (_Object, *_object(item, number, names))
            else:
                lost.extend([str(number)])

    def joined() -> Iterator[tuple[str, ListedImage]]:
        for _, same in grouped_by_key(itertools.chain(images(), objects())):
            images_of_id = [_Image._make(values) for kind, *values in same if kind is _Image]
            own = [_Object._make(values) for kind, *values in same if kind is _Object]
            if not images_of_id:
                lost.extend(item.place for item in own)
            for image in images_of_id:
                if image.name:
                    yield f"{image.number:012}", _listed(image, own, len(images_of_id))

    for _, (image,) in grouped_by_key(joined()):  # in the order of the file
        coordinates.add(image.annotation)
        yield image
    notes += counted(f"annotations in {name} belong to no listed image and are not used, such as", lost)
    coordinates.refuse()


class _Image(NamedTuple):
    """One element of `images`.

    Attributes:
      number: Its index.
      name: Its `file_name`; empty if it has none.
      identifier: From `_identifier`.
      width: Pixels; 0 if unknown.
      height: Pixels; 0 if unknown.
    """

    number: int
    name: str
    identifier: Any
    width: float
    height: float


class _Object(NamedTuple):
    """One element of `annotations`.

    Attributes:
      place: Its `id`, or its index.
      problem: Why it cannot be used; empty if it may be.
      box: The values of its `Box`; none if there is a problem.
      is_polygon: Whether the box is that of a polygon.
    """

    place: str
    problem: str
    box: tuple[Any, ...] = ()
    is_polygon: bool = False


def _listed(image: _Image, objects: Iterable[_Object], times: int) -> ListedImage:
    """Adds the objects of an image; `times` is the number of images that have its identifier."""
    problem = _problem(image.identifier, times) or next((each.problem for each in objects if each.problem), "")
    if problem:
        return ListedImage(image.name, Annotation(), problem)
    known = image.width > 0 and image.height > 0
    corrections = tuple(boxes.POLYGON for each in objects if each.is_polygon)
    annotation = Annotation(
        tuple(Box._make(each.box) for each in objects),
        image.width if known else 0.0,
        image.height if known else 0.0,
        corrections=corrections,
    )
    return ListedImage(image.name, annotation)


def _identifier(value: Any) -> Any:
    """Returns a value that is equal for equal identifiers: `7`, `7.0` and `"7"` are; None if it is not one."""
    if isinstance(value, str):
        return int(value) if value.isdecimal() and len(value) < 19 else value
    return value if isinstance(value, int | float) and not isinstance(value, bool) else None


def _category_names(categories: Iterable[Any], location: str) -> dict[Any, str]:
    names: dict[Any, str] = {}
    for number, item in enumerate(categories):
        identifier = _identifier(item.get("id")) if isinstance(item, dict) else None
        name = item.get("name") if isinstance(item, dict) else None
        if identifier is None or not isinstance(name, str | int) or not str(name).strip():
            raise DatasetError(f"{location}: categories[{number}] has no `id` or no `name`.")
        if names.setdefault(identifier, str(name).strip()) != str(name).strip():
            raise DatasetError(f"{location}: categories `{names[identifier]}` and `{name}` have the same id.")
    return names


def _key(identifier: Any) -> str:
    """Returns a text that is equal for equal identifiers, and for nothing else."""
    if isinstance(identifier, str):
        return f"`{identifier}"
    if isinstance(identifier, float) and identifier.is_integer():
        return str(int(identifier))
    return str(identifier)


def _problem(identifier: Any, times: int) -> str:
    if identifier is None:
        return "no id in the annotations"
    return f"an ambiguous id: {times} images have the id {identifier}" if times > 1 else ""


def _object(item: Mapping[str, Any], number: int, names: Mapping[Any, str]) -> _Object:
    """Reads one element of `annotations`."""
    identifier = str(item.get("id", number))
    place = f"annotation {identifier}"
    category = item.get("category_id")
    name = names.get(_identifier(category))
    if name is None:
        problem = f"an unknown category: {place} has category_id {_short(category)}, which `categories` does not list"
        return _Object(identifier, problem)
    attributes = item.get("attributes")
    rotation = item.get("rotation") or (attributes.get("rotation") if isinstance(attributes, dict) else 0)
    box = item.get("bbox")
    if rotation or (isinstance(box, list) and len(box) == 5):
        return _Object(identifier, f"a rotated box: {place} (`{name}`); export upright boxes")
    corners = _corners(item)
    if corners is None:
        return _Object(identifier, f"an incomplete box: {place} (`{name}`) has bbox {_short(box)}")
    flags = bool(item.get("difficult")), bool(item.get("iscrowd"))
    return _Object(identifier, "", (*corners, name, *flags), is_polygon=not box)


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:60]}…"


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and abs(value) < 1e12


def _corners(item: Mapping[str, Any]) -> tuple[float, float, float, float] | None:
    """Returns xmin, ymin, xmax, ymax, pixels; if `bbox` is missing, of the segmentation."""
    box = item.get("bbox")
    if isinstance(box, list) and len(box) == 4 and all(map(_is_number, box)):
        return float(box[0]), float(box[1]), float(box[0] + box[2]), float(box[1] + box[3])
    return None if box else _corners_of_polygons(item.get("segmentation"))


def _corners_of_polygons(polygons: Any) -> tuple[float, float, float, float] | None:
    if not isinstance(polygons, list) or not polygons or not all(isinstance(points, list) for points in polygons):
        return None
    values = [value for points in polygons for value in points]
    if not values or any(len(points) % 2 for points in polygons) or not all(map(_is_number, values)):
        return None
    xs = [float(value) for points in polygons for value in points[::2]]
    ys = [float(value) for points in polygons for value in points[1::2]]
    return min(xs), min(ys), max(xs), max(ys)


def _side(value: Any) -> float:
    return float(value) if _is_number(value) and math.isfinite(value) else 0.0


class _Coordinates:
    """Numbers of boxes by their coordinates, which show whether these are in COCO's form."""

    def __init__(self, location: str) -> None:
        """Takes the location of the file, for messages."""
        self._location = location
        self._num_boxes, self._num_fractions = 0, 0
        # Of images whose size is known.
        self._num_sized, self._num_exceeding, self._num_corners = 0, 0, 0

    def add(self, annotation: Annotation) -> None:
        """Counts the boxes of an image."""
        for box in annotation.boxes:
            self._num_boxes += 1
            self._num_fractions += all(abs(value) <= 1.0 for value in box[:4])
            if annotation.width:
                self._num_sized += 1
                self._num_exceeding += box.xmax > annotation.width or box.ymax > annotation.height
                # `width` and `height` of the annotation were read as the second corner.
                self._num_corners += box.xmax >= 2 * box.xmin and box.ymax >= 2 * box.ymin

    def refuse(self) -> None:
        """Refuses a file in another form.

        Raises:
          DatasetError: If coordinates can only be fractions: as pixels, no box would have an area. Or if boxes can only
            be corners: none ends left of or above its begin, and many exceed their image.
        """
        if self._num_boxes and self._num_fractions == self._num_boxes:
            raise DatasetError(
                f"{self._location}: all coordinates are between 0 and 1, but COCO's are pixels. Multiply them by the "
                "width and the height of the image."
            )
        if self._num_corners == self._num_sized and self._num_exceeding > self._num_sized * _MOST_EXCEEDING:
            raise DatasetError(
                f"{self._location}: {self._num_exceeding:,} of {self._num_sized:,} boxes exceed their images, and all "
                "look like corners (xmin, ymin, xmax, ymax). COCO's bbox is xmin, ymin, width, height: subtract xmin "
                "and ymin."
            )


LAYOUT = LayoutSpec(
    name="coco",
    interpretation="a COCO file lists the images and their boxes",
    detect=_detect,
    list_entries=_list_entries,
)
