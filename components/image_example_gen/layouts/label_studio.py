"""Label Studio: a JSON export with one object per task."""

from __future__ import annotations

import re
import urllib.parse
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from components.image_example_gen import boxes, files
from components.image_example_gen.boxes import Annotation, Box
from components.image_example_gen.entries import RefusedFile
from components.image_example_gen.errors import DatasetError, LayoutError, UnusableImageError
from components.image_example_gen.layouts import _json
from components.image_example_gen.layouts._boxes import (
    AnnotatedImage,
    ImageIndex,
    Names,
    counted,
    folder_split,
    make_listing,
    split_of,
    unlisted,
)
from components.image_example_gen.layouts._entries import Listing, refuse
from components.image_example_gen.layouts._folder import Folder, is_image_name
from components.image_example_gen.layouts._spec import Confidence, Evidence, LayoutSpec
from components.image_example_gen.spooled_items import SpooledItems, kept
from trainer_module.locations import join

if TYPE_CHECKING:
    from components.image_example_gen.options import DataOptions

_IMAGE_FOLDERS = ("images", "", "data", "upload")
# Label Studio writes this before the names of uploaded files.
_UPLOAD_PREFIX = re.compile(r"^[0-9a-f]{8}-")
_LABELS = "labels"


def _detect(folder: Folder, options: DataOptions) -> Evidence:
    del options
    paths = _json.find(folder, _json.LABEL_STUDIO)
    if not paths:
        return Evidence("label_studio", Confidence.NONE, contradicting=("no JSON export of Label Studio",))
    return Evidence("label_studio", Confidence.ANNOTATION_FILE, (f"Label Studio's {files.readable(paths[0])}",))


def _list_entries(folder: Folder, options: DataOptions) -> Listing:
    paths = _json.find(folder, _json.LABEL_STUDIO)
    if not paths:
        raise LayoutError(f"{folder.root} has no JSON export of Label Studio.")
    index = ImageIndex(folder.root)
    refused: list[RefusedFile] = []
    unlabelled, several = SpooledItems[str](), Names()

    def annotated() -> Iterator[AnnotatedImage]:
        for path in paths:
            for number, item in enumerate(parse(folder.root, path)):
                place = f"{path.rpartition('/')[2]}, task {number + 1}"
                name = image_name(item)
                file = find_image(index, name, _IMAGE_FOLDERS)
                if not name or file is None:
                    reason = index.why_missing(name) if name else "the task names no image"
                    refused.append(RefusedFile(files.readable(name or place), reason))
                    continue
                results, count = last_results(item)
                if count > 1:
                    several.add(file.path)
                if results is None:
                    unlabelled.extend([file.path])
                    continue
                try:
                    split = split_of(path) or folder_split(file.path)
                    yield AnnotatedImage(file, to_annotation(results), split, source=files.readable(path))
                except UnusableImageError as error:
                    refused.append(refuse(file, str(error)))

    listed = kept(annotated())
    notes = counted("tasks have no submitted annotation and are not used", unlabelled)
    notes += several.note("tasks have several annotations, of which the last is used")
    notes += unlisted(index, listed, refused, unlabelled)
    return make_listing(folder, options, listed, refused, notes)


def parse(root: str, path: str) -> Iterable[Any]:
    """Reads the tasks of an export; those of a large one are read again for every iteration.

    Raises:
      DatasetError: If it cannot be read, is not JSON, or is not a list.
    """
    document = _json.read(root, path)
    if not _json.is_list(document):
        raise DatasetError(f"{join(root, files.readable(path))} is not a list of tasks. Export as JSON.")
    tasks: Iterable[Any] = document
    return tasks


def is_export(head: bytes) -> bool:
    """Whether a file is a JSON export, from its first bytes."""
    return _json.kind_of(head) == _json.LABEL_STUDIO


def find_image(index: ImageIndex, name: str, folders: Sequence[str]) -> files.File | None:
    """Finds an image by its name, or without what Label Studio writes before the names of uploaded files."""
    folder, slash, last = name.rpartition("/")
    return index.find(name, folders) or index.find(f"{folder}{slash}{_UPLOAD_PREFIX.sub('', last)}", folders)


def image_name(item: Any) -> str:
    """Returns the path of a task's image: the end of a URL, without the address and the folder of uploads."""
    data = item.get("data", item) if isinstance(item, dict) else {}
    values = [value for value in data.values() if isinstance(value, str)] if isinstance(data, dict) else []
    for value in values:
        parts = urllib.parse.urlsplit(value.replace("\\", "/").replace("#", "%23")) if len(value) < 5000 else None
        if parts is None:
            continue
        # Local files are served as `/data/local-files/?d=folder/name.jpg`.
        local = urllib.parse.parse_qs(parts.query).get("d", [""])[0]
        path = urllib.parse.unquote(local or parts.path)
        if is_image_name(path):
            return path.removeprefix("/data/upload/").lstrip("/")
    return ""


def last_results(item: Mapping[str, Any]) -> tuple[list[Any] | None, int]:
    """Returns the regions of a task's last submitted annotation, or None, and the number of annotations."""
    if "annotations" not in item and "completions" not in item:
        label = item.get("label")  # JSON-MIN has the values of the regions only
        return ([{"value": value} for value in label] if isinstance(label, list) else None), int(label is not None)
    listed = item.get("annotations", item.get("completions"))
    submitted = [
        entry
        for entry in (listed if isinstance(listed, list) else [])
        if isinstance(entry, dict) and not entry.get("was_cancelled") and isinstance(entry.get("result"), list)
    ]
    return (submitted[-1]["result"] if submitted else None), len(submitted)


class _Region(NamedTuple):
    """One region: corners in percent of the image, and its class names."""

    corners: tuple[float, float, float, float]
    names: Sequence[str]
    is_box: bool


def to_annotation(results: Iterable[Any]) -> Annotation:
    """Converts the regions of one annotation.

    Args:
      results: Elements of `result`; coordinates are percentages of the image as the browser shows it, upright.

    Raises:
      UnusableImageError: If a region is rotated, has no label, or is neither a box nor a polygon.
    """
    objects: list[Box] = []
    corrections: list[str] = []
    sizes = set()
    for number, result in enumerate(results, start=1):
        value = result.get("value") if isinstance(result, dict) else None
        if not isinstance(value, dict):
            raise UnusableImageError(f"a region without a value: region {number}")
        kind = str(result.get("type", "rectanglelabels"))
        if not {"x", "points", "rle", "format"} & value.keys():
            continue  # a choice or a text about the whole image
        if result.get("image_rotation"):
            raise UnusableImageError("the image was rotated in Label Studio; export it without rotation")
        region = _region(value, kind, number)
        if not region.names:
            if kind in ("rectangle", "polygon"):
                continue  # the region itself; its labels are a result of their own
            raise UnusableImageError(f"a region without a label: region {number}")
        objects += [Box(*region.corners, name) for name in region.names]
        corrections += [] if region.is_box else [boxes.POLYGON]
        sizes.add(tuple(result.get(key, value.get(key, 0)) for key in ("original_width", "original_height")))
    sizes.discard((0, 0))
    size = sizes.pop() if len(sizes) == 1 else (0, 0)
    width, height = (float(side) if isinstance(side, int | float) and 0 < side < 1e9 else 0.0 for side in size)
    fractions = tuple(box._replace(**{key: getattr(box, key) / 100 for key in Box._fields[:4]}) for box in objects)
    return Annotation(
        fractions, width if height else 0.0, height if width else 0.0, is_relative=True, corrections=tuple(corrections)
    )


def _region(value: Mapping[str, Any], kind: str, number: int) -> _Region:
    names: list[str] = []
    for key, labels in value.items():
        if key.endswith(_LABELS) and isinstance(labels, list):
            names += [str(label).strip() for label in labels]
    if rotation := value.get("rotation"):
        raise UnusableImageError(f"a rotated box: region {number} ({str(rotation)[:6]}°); label upright boxes")
    points = value.get("points")
    if isinstance(points, list) and len(points) > 2 and all(isinstance(p, list) and len(p) == 2 for p in points):
        if all(_is_number(coordinate) for point in points for coordinate in point):
            xs, ys = zip(*points, strict=True)
            return _Region((min(xs), min(ys), max(xs), max(ys)), names, is_box=False)
    sides = [value.get(key) for key in ("x", "y", "width", "height")]
    if not all(map(_is_number, sides)):
        raise UnusableImageError(f"not a box: region {number} is of type {kind[:40]}")
    x, y, width, height = (float(side) for side in sides if side is not None)
    return _Region((x, y, x + width, y + height), names, is_box=True)


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and abs(value) < 1e12


LAYOUT = LayoutSpec(
    name="label_studio",
    interpretation="a JSON export of Label Studio lists the images and their boxes",
    detect=_detect,
    list_entries=_list_entries,
)
