"""CVAT: `annotations.xml` of the format "CVAT for images 1.1"."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

from components.image_example_gen import boxes, files
from components.image_example_gen.boxes import Annotation, Box
from components.image_example_gen.errors import DatasetError, LayoutError, UnusableImageError
from components.image_example_gen.layouts import _xml
from components.image_example_gen.layouts._boxes import (
    AnnotatedImage,
    ImageIndex,
    counted,
    folder_split,
    make_listing,
)
from components.image_example_gen.layouts._entries import Listing, RefusedFile, refuse
from components.image_example_gen.layouts._folder import Folder, split_named
from components.image_example_gen.layouts._spec import Confidence, Evidence, LayoutSpec
from trainer_module.locations import join

if TYPE_CHECKING:
    from components.image_example_gen.options import DataOptions

ANNOTATIONS_FILE = "annotations.xml"
_IMAGE_FOLDERS = ("images", "", "data")
_MOST_BYTES = 2**28
_POINTS = ("polygon", "polyline")
_OTHER_SHAPES = ("points", "cuboid", "skeleton", "ellipse", "mask")


def _detect(folder: Folder, options: DataOptions) -> Evidence:
    del options
    if any(file.path == ANNOTATIONS_FILE and not file.is_folder for file in folder.files):
        return Evidence("cvat", Confidence.ANNOTATION_FILE, (f"a file {ANNOTATIONS_FILE}",))
    return Evidence("cvat", Confidence.NONE, contradicting=(f"no {ANNOTATIONS_FILE}",))


def _list_entries(folder: Folder, options: DataOptions) -> Listing:
    location = folder.find(ANNOTATIONS_FILE)
    if location is None:
        raise LayoutError(f'{folder.root} has no {ANNOTATIONS_FILE}. Export as "CVAT for images 1.1".')
    root = _parse(folder.root, next(file for file in folder.files if file.path == ANNOTATIONS_FILE))
    index = ImageIndex(folder.root)
    annotated: list[AnnotatedImage] = []
    refused: list[RefusedFile] = []
    for number, element in enumerate(root.findall("image")):
        name = (element.get("name") or "").strip()
        split = split_named(element.get("subset") or "")
        folders = [f"images/{element.get('subset')}", *_IMAGE_FOLDERS]
        file = index.find(name, folders) if name else None
        if file is None:
            place = f"{ANNOTATIONS_FILE}, image {number}"
            refused.append(RefusedFile(name or place, "the file does not exist" if name else "no name"))
            continue
        try:
            annotated.append(AnnotatedImage(file, to_annotation(element), split or folder_split(file.path)))
        except UnusableImageError as error:
            refused.append(refuse(file, str(error)))
    seen = {image.file.path for image in annotated} | {file.path for file in refused}
    unlisted = [path for path in index.images if path not in seen and files.readable(path) not in seen]
    notes = counted("images are not listed in the annotations and are not used", unlisted)
    return make_listing(folder, options, annotated, refused, notes)


def _parse(root: str, file: files.File) -> Any:
    location = join(root, file.path)
    if file.size > _MOST_BYTES:
        raise DatasetError(f"{location} is larger than 256 MB. Export as COCO.")
    try:
        document = _xml.parse(files.read(root, file.path))
    except (UnusableImageError, files.UnreadableFileError) as error:
        raise DatasetError(f"{location}: {error}.") from None
    if document.tag != "annotations":
        raise DatasetError(f"{location}: its root is <{document.tag}>, not <annotations>.")
    if document.find("track") is not None:
        raise DatasetError(f'{location} has tracks of a video. Export as "CVAT for images 1.1".')
    return document


def to_annotation(image: Any) -> Annotation:
    """Converts one `image` element; tags about the whole image are ignored.

    Raises:
      UnusableImageError: If a shape is rotated, is neither a box nor a polygon, has no label, or is incomplete.
    """
    objects: list[Box] = []
    corrections: list[str] = []
    for number, shape in enumerate(image, start=1):
        if shape.tag != "box" and shape.tag not in (*_POINTS, *_OTHER_SHAPES):
            continue
        name = (shape.get("label") or "").strip()
        place = f"shape {number} (`{name}`)"
        if not name:
            raise UnusableImageError(f"a shape without a label: shape {number}")
        if _number(shape.get("rotation") or "0", place):
            raise UnusableImageError(f"a rotated box: {place} ({shape.get('rotation')}°); export upright boxes")
        if shape.tag in _OTHER_SHAPES:
            raise UnusableImageError(f"not a box: {place} is of type {shape.tag}")
        if shape.tag == "box":
            corners = [_number(shape.get(key), place) for key in ("xtl", "ytl", "xbr", "ybr")]
        else:
            points = [point.split(",") for point in (shape.get("points") or "").split(";")]
            if any(len(point) != 2 for point in points):
                raise UnusableImageError(f"an incomplete polygon: {place}")
            xs, ys = ([_number(point[axis], place) for point in points] for axis in range(2))
            corners = [min(xs), min(ys), max(xs), max(ys)]
            corrections.append(boxes.POLYGON)
        objects.append(Box(corners[0], corners[1], corners[2], corners[3], name, _is_difficult(shape)))
    width, height = (_side(image.get(key)) for key in ("width", "height"))
    return Annotation(
        tuple(objects), width if height else 0.0, height if width else 0.0, corrections=tuple(corrections)
    )


def _is_difficult(shape: Any) -> bool:
    return any(
        attribute.get("name") == "difficult" and (attribute.text or "").strip().lower() in ("1", "true")
        for attribute in shape.findall("attribute")
    )


def _number(text: str | None, place: str) -> float:
    try:
        value = float(text or "")
    except ValueError:
        value = math.nan
    if not math.isfinite(value):
        raise UnusableImageError(f"an incomplete box: {place} has a coordinate that is missing or not a number")
    return value


def _side(text: str | None) -> float:
    try:
        value = float(text or 0)
    except ValueError:
        return 0.0
    return value if math.isfinite(value) and value > 0 else 0.0


LAYOUT = LayoutSpec(
    name="cvat",
    interpretation="annotations.xml lists the images and their boxes",
    detect=_detect,
    list_entries=_list_entries,
)
