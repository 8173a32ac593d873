"""CVAT: `annotations.xml` of the format "CVAT for images 1.1"."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from components.image_example_gen import boxes, files
from components.image_example_gen.boxes import Annotation, Box
from components.image_example_gen.entries import RefusedFile
from components.image_example_gen.errors import DatasetError, LayoutError, UnusableImageError
from components.image_example_gen.layouts import _xml
from components.image_example_gen.layouts._boxes import (
    AnnotatedImage,
    ImageIndex,
    folder_split,
    make_listing,
    names_below,
    unlisted,
)
from components.image_example_gen.layouts._entries import Listing, refuse
from components.image_example_gen.layouts._folder import Folder, split_named
from components.image_example_gen.layouts._spec import Confidence, Evidence, LayoutSpec
from components.image_example_gen.spooled_items import kept
from trainer_module.locations import join

if TYPE_CHECKING:
    from components.image_example_gen.options import DataOptions

ANNOTATIONS_FILE = "annotations.xml"
_IMAGE_FOLDERS = ("images", "", "data")
_MOST_HEADS, _HEAD_BYTES = 3, 4096
_POINTS = ("polygon", "polyline")
_OTHER_SHAPES = ("points", "cuboid", "skeleton", "ellipse", "mask")


def _detect(folder: Folder, options: DataOptions) -> Evidence:
    del options
    if paths := _find(folder):
        return Evidence("cvat", Confidence.ANNOTATION_FILE, (f"a file {files.readable(paths[0])} of CVAT",))
    return Evidence("cvat", Confidence.NONE, contradicting=(f"no {ANNOTATIONS_FILE}",))


def _list_entries(folder: Folder, options: DataOptions) -> Listing:
    paths = _find(folder)
    if not paths:
        raise LayoutError(f'{folder.root} has no {ANNOTATIONS_FILE}. Export as "CVAT for images 1.1".')
    index = ImageIndex(folder.root)
    refused: list[RefusedFile] = []

    def annotated() -> Iterator[AnnotatedImage]:
        for path in paths:
            for number, element in enumerate(parse(folder.root, path)):
                name = (element.get("name") or "").strip()
                split = split_named(element.get("subset") or "")
                folders = [f"images/{element.get('subset')}", *_IMAGE_FOLDERS]
                file = index.find(name, folders) if name else None
                if file is None:
                    place = f"{files.readable(path)}, image {number}"
                    refused.append(RefusedFile(name or place, index.why_missing(name) if name else "no name"))
                    continue
                try:
                    annotation, split = to_annotation(element), split or folder_split(file.path)
                    yield AnnotatedImage(file, annotation, split, source=files.readable(path))
                except UnusableImageError as error:
                    refused.append(refuse(file, str(error)))

    listed = kept(annotated())
    return make_listing(folder, options, listed, refused, unlisted(index, listed, refused))


def _find(folder: Folder) -> list[str]:
    """Finds the exports in the data folder or in `annotations`: by their name, or of any name by their first bytes."""
    paths = sorted(path for path in names_below(folder, ("annotations",), 1) if path.lower().endswith(".xml"))
    named = [path for path in paths if path.rpartition("/")[2] == ANNOTATIONS_FILE]
    if named or len(paths) > _MOST_HEADS:
        return named
    return paths if all(_is_export(folder.root, path) for path in paths) else []


def _is_export(root: str, path: str) -> bool:
    try:
        return b"<annotations" in files.read(root, path, _HEAD_BYTES)
    except files.UnreadableFileError:
        return False


def parse(root: str, path: str) -> Iterator[Any]:
    """Reads an export, an image at a time.

    Yields:
      Its `image` elements, each an `xml.etree.ElementTree.Element`.

    Raises:
      DatasetError: If it cannot be read, or is not of this format; at the latest after the last image.
    """
    location = join(root, files.readable(path))
    (file,) = files.describe(root, [path])
    if file.problem:
        raise DatasetError(f"{location}: {file.problem}.")
    has_tracks = False
    try:
        with files.open_binary(join(root, path)) as binary:
            children = _xml.ChildrenOfRoot(binary)
            for element in children:
                if element.tag == "image":
                    yield element
                has_tracks = has_tracks or element.tag == "track"
    except OSError as error:
        raise DatasetError(f"{location}: cannot be read: {error.strerror}.") from None
    except (UnusableImageError, files.UnreadableFileError) as error:
        raise DatasetError(f"{location}: {error}.") from None
    if children.root_tag != "annotations":
        raise DatasetError(f"{location}: its root is <{children.root_tag}>, not <annotations>.")
    if has_tracks:
        raise DatasetError(f'{location} has tracks of a video. Export as "CVAT for images 1.1".')


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
