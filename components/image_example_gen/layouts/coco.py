"""COCO: a JSON file with `images`, `annotations` and `categories`, or one per split, also with Roboflow's names."""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from components.image_example_gen import boxes, files
from components.image_example_gen.boxes import Annotation, Box
from components.image_example_gen.entries import RefusedFile
from components.image_example_gen.errors import DatasetError, LayoutError
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
    annotated: list[AnnotatedImage] = []
    refused: list[RefusedFile] = []
    for path in paths:
        content = parse(_json.read(folder.root, path), join(folder.root, files.readable(path)))
        notes += content.notes
        refused += content.refused
        own_split = split_of(path)
        parent = path.rpartition("/")[0]
        folders = [parent, f"{parent}/images" if parent else "images", *_IMAGE_FOLDERS]
        folders += sorted({image.rpartition("/")[0] for image in index.images if split_of(image) == own_split != ""})
        for image in content.images:
            file = index.find(image.name, folders)
            if file is None:
                refused.append(RefusedFile(files.readable(image.name), image.problem or index.why_missing(image.name)))
            elif image.problem:
                refused.append(refuse(file, image.problem))
            else:
                split = own_split or folder_split(file.path)
                annotated.append(AnnotatedImage(file, image.annotation, split, source=files.readable(path)))
    notes += unlisted(index, annotated, refused)
    return make_listing(folder, options, annotated, refused, notes)


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


class Content(NamedTuple):
    """The contents of one file.

    Attributes:
      images: The images.
      refused: Elements of `images` without a name.
      notes: What users should know.
    """

    images: tuple[ListedImage, ...]
    refused: tuple[RefusedFile, ...]
    notes: tuple[str, ...]


def parse(document: Any, location: str) -> Content:
    """Reads the content of a file.

    Identifiers are only names: they may begin at 0 or 1, have gaps, and be written as strings.

    Args:
      document: The JSON value.
      location: Of the file, for messages.

    Raises:
      DatasetError: If it is not in COCO's format, or if coordinates are fractions.
    """
    if not isinstance(document, dict):
        raise DatasetError(f"{location} is not in COCO's format: it is not an object with `images` and `annotations`.")
    for key in ("images", "annotations", "categories"):
        if not isinstance(document.get(key), list):
            raise DatasetError(f"{location} is not in COCO's format: it has no list `{key}`.")
    names = _category_names(document["categories"], location)
    name = location.rpartition("/")[2]
    by_image: dict[Any, list[tuple[int, Mapping[str, Any]]]] = defaultdict(list)
    lost: list[str] = []
    for number, item in enumerate(document["annotations"]):
        if isinstance(item, dict):
            by_image[_identifier(item.get("image_id"))].append((number, item))
        else:
            lost.append(str(number))
    images, refused = [], []
    times = Counter(_identifier(item.get("id")) for item in document["images"] if isinstance(item, dict))
    for number, item in enumerate(document["images"]):
        file_name = item.get("file_name") if isinstance(item, dict) else None
        if not isinstance(file_name, str) or not file_name.strip():
            refused.append(RefusedFile(f"{name}, images[{number}]", "no file_name"))
            continue
        identifier = _identifier(item.get("id"))
        own = by_image.get(identifier, [])
        problem = _problem(identifier, times) or _first_problem(own, names)
        annotation = Annotation() if problem else _annotation(item, own, names)
        images.append(ListedImage(file_name.strip(), annotation, problem))
    strangers = [item for identifier, items in by_image.items() if identifier not in times for item in items]
    lost += [str(item.get("id", number)) for number, item in strangers]
    notes = counted(f"annotations in {name} belong to no listed image and are not used, such as", lost)
    _refuse_fractions(images, location)
    _refuse_corners(images, location)
    return Content(tuple(images), tuple(refused), tuple(notes))


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


def _problem(identifier: Any, times: Mapping[Any, int]) -> str:
    if identifier is None:
        return "no id in the annotations"
    return f"an ambiguous id: {times[identifier]} images have the id {identifier}" if times[identifier] > 1 else ""


def _first_problem(items: Sequence[tuple[int, Mapping[str, Any]]], names: Mapping[Any, str]) -> str:
    for number, item in items:
        place = f"annotation {item.get('id', number)}"
        category = item.get("category_id")
        if _identifier(category) not in names:
            return f"an unknown category: {place} has category_id {_short(category)}, which `categories` does not list"
        attributes = item.get("attributes")
        rotation = item.get("rotation") or (attributes.get("rotation") if isinstance(attributes, dict) else 0)
        box = item.get("bbox")
        if rotation or (isinstance(box, list) and len(box) == 5):
            return f"a rotated box: {place} (`{names[_identifier(category)]}`); export upright boxes"
        if _corners(item) is None:
            return f"an incomplete box: {place} (`{names[_identifier(category)]}`) has bbox {_short(box)}"
    return ""


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


def _annotation(
    image: Mapping[str, Any], items: Iterable[tuple[int, Mapping[str, Any]]], names: Mapping[Any, str]
) -> Annotation:
    objects, corrections = [], []
    for _, item in items:
        corners = _corners(item)
        assert corners
        if not item.get("bbox"):
            corrections.append(boxes.POLYGON)
        name = names[_identifier(item.get("category_id"))]
        objects.append(Box(*corners, name, bool(item.get("difficult")), bool(item.get("iscrowd"))))
    width, height = (_side(image.get(key)) for key in ("width", "height"))
    known = width > 0 and height > 0
    return Annotation(tuple(objects), width if known else 0.0, height if known else 0.0, corrections=tuple(corrections))


def _side(value: Any) -> float:
    return float(value) if _is_number(value) and math.isfinite(value) else 0.0


def _refuse_fractions(images: Iterable[ListedImage], location: str) -> None:
    """Refuses coordinates that can only be fractions: as pixels, no box would have an area."""
    all_boxes = [box for image in images for box in image.annotation.boxes]
    if all_boxes and all(abs(value) <= 1.0 for box in all_boxes for value in box[:4]):
        raise DatasetError(
            f"{location}: all coordinates are between 0 and 1, but COCO's are pixels. Multiply them by the width and "
            "the height of the image."
        )


def _refuse_corners(images: Iterable[ListedImage], location: str) -> None:
    """Refuses boxes that can only be corners: none ends left of or above its begin, and many exceed their image."""
    parsed = [(box, image.annotation) for image in images for box in image.annotation.boxes if image.annotation.width]
    exceeding = sum(box.xmax > image.width or box.ymax > image.height for box, image in parsed)
    # `width` and `height` of the annotation were read as the second corner.
    are_corners = all(box.xmax >= 2 * box.xmin and box.ymax >= 2 * box.ymin for box, _ in parsed)
    if are_corners and exceeding > len(parsed) * _MOST_EXCEEDING:
        raise DatasetError(
            f"{location}: {exceeding:,} of {len(parsed):,} boxes exceed their images, and all look like corners (xmin, "
            "ymin, xmax, ymax). COCO's bbox is xmin, ymin, width, height: subtract xmin and ymin."
        )


LAYOUT = LayoutSpec(
    name="coco",
    interpretation="a COCO file lists the images and their boxes",
    detect=_detect,
    list_entries=_list_entries,
)
