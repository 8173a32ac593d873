"""CVAT: `annotations.xml` of "CVAT for images 1.1", with pre-annotations and after labelling.

CVAT does not distinguish predictions from annotations: what is uploaded comes back with the source `file` or `auto`,
and what a person has drawn or changed with `manual` or `semi-auto`. An image is confirmed if it has the tag `reviewed`,
or if all of its shapes and tags are by a person.

Source: https://docs.cvat.ai/docs/manual/advanced/xml_format; CVAT, cvat/apps/dataset_manager/formats/cvat.py.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import numpy as np

from components.image_example_gen.errors import DatasetError, UnusableImageError
from components.image_example_gen.layouts import cvat as layout
from pipeline.labeling.confirmed import Label
from pipeline.labeling.formats import _regions
from pipeline.labeling.formats._regions import Region
from pipeline.labeling.formats._spec import Annotated, Annotations, LabelFormat, LabelProject, ProposedImage
from trainer_module import features

ANNOTATIONS_FILE, LABELS_FILE = "cvat_annotations.xml", "cvat_labels.json"
# Tag by which a person confirms an image.
_REVIEWED = "reviewed"
_CORNERS = {
    "xtl": features.BOX_XMIN,
    "ytl": features.BOX_YMIN,
    "xbr": features.BOX_XMAX,
    "ybr": features.BOX_YMAX,
}
_BY_A_PERSON = ("manual", "semi-auto")
_SHAPES = ("box", "polygon", "mask")


# === Export ===


def _export(folder: Path, images: Sequence[ProposedImage], project: LabelProject) -> None:
    if _REVIEWED in project.classes:
        raise DatasetError(
            f"The class `{_REVIEWED}` has the name of the tag by which images are confirmed in CVAT. Rename it "
            "(data.rename_classes), or label with another program."
        )
    root = ElementTree.Element("annotations")
    ElementTree.SubElement(root, "version").text = "1.1"
    task = ElementTree.SubElement(ElementTree.SubElement(root, "meta"), "task")
    described = ElementTree.SubElement(task, "labels")
    label_specs = _label_specs(project)
    for spec in label_specs:
        label = ElementTree.SubElement(described, "label")
        ElementTree.SubElement(label, "name").text = spec["name"]
        ElementTree.SubElement(label, "type").text = spec["type"]
        ElementTree.SubElement(label, "attributes")
    for number, image in enumerate(images):
        size = {"width": str(image.width), "height": str(image.height)}
        element = ElementTree.SubElement(
            root, "image", {"id": str(number), "name": image.path.rpartition("/")[2], **size}
        )
        _add_proposal(element, image, project)
    ElementTree.indent(root)
    ElementTree.ElementTree(root).write(folder / ANNOTATIONS_FILE, encoding="utf-8", xml_declaration=True)
    (folder / LABELS_FILE).write_text(json.dumps(label_specs, ensure_ascii=False, indent=1), encoding="utf-8")


def _label_specs(project: LabelProject) -> list[dict[str, Any]]:
    """Returns the labels of a project as CVAT's constructor takes them in its field "Raw"."""
    kind = "rectangle" if project.has_boxes else "mask" if project.has_masks else "tag"
    specs: list[dict[str, Any]] = [{"name": name, "type": kind, "attributes": []} for name in project.classes]
    for spec, (red, green, blue) in zip(specs, project.colors, strict=False):
        spec["color"] = f"#{red:02x}{green:02x}{blue:02x}"
    return [*specs, {"name": _REVIEWED, "type": "tag", "attributes": []}]


def _add_proposal(element: ElementTree.Element, image: ProposedImage, project: LabelProject) -> None:
    if image.proposal is None:
        return
    shape = {"source": "auto", "occluded": "0", "z_order": "0"}
    if project.has_boxes:
        sides = {"xtl": image.width, "ytl": image.height, "xbr": image.width, "ybr": image.height}
        for number, name in enumerate(image.proposal[features.BOX_CLASSES]):
            corners = {
                key: f"{float(image.proposal[feature][number]) * sides[key]:.2f}" for key, feature in _CORNERS.items()
            }
            ElementTree.SubElement(element, "box", {"label": str(name), **shape, **corners})
    elif project.has_masks:
        for region in _regions.mask_regions(image.proposal, project):
            ElementTree.SubElement(element, "mask", {"label": region.name, **shape, **encode_mask(region.inside)})
    else:
        for name in image.proposal[features.CLASS_TEXT]:
            ElementTree.SubElement(element, "tag", {"label": str(name), "source": "auto"})


def encode_mask(inside: np.ndarray) -> dict[str, str]:
    """Encodes pixels as the attributes of a `mask`.

    Args:
      inside: bool [height, width], at least one True.

    Returns:
      left, top, width and height of the smallest box around the pixels, and rle: lengths of runs row by row inside it,
      alternately outside and inside, beginning with outside.
    """
    rows, columns = np.flatnonzero(inside.any(axis=1)), np.flatnonzero(inside.any(axis=0))
    top, left = int(rows[0]), int(columns[0])
    part = inside[top : rows[-1] + 1, left : columns[-1] + 1]
    flat = part.ravel()
    edges = np.flatnonzero(np.diff(flat)) + 1
    lengths = np.diff([0, *edges.tolist(), flat.size]).tolist()
    runs = [0, *lengths] if flat[0] else lengths
    height, width = part.shape
    return {
        "rle": ", ".join(map(str, runs)),
        "left": str(left),
        "top": str(top),
        "width": str(width),
        "height": str(height),
    }


def decode_mask(element: Any, width: int, height: int) -> np.ndarray:
    """Decodes a `mask` of an image with this width and height: bool [height, width].

    Raises:
      UnusableImageError: If it is damaged, or exceeds the image.
    """
    try:
        left, top, mask_width, mask_height = (
            int(float(element.get(key))) for key in ("left", "top", "width", "height")
        )
        runs = [int(run) for run in element.get("rle").split(",")]
    except (AttributeError, TypeError, ValueError):
        raise UnusableImageError("a damaged mask") from None
    inside = _regions.empty(width, height)
    fits = 0 <= left < left + mask_width <= width and 0 <= top < top + mask_height <= height
    if not fits or min(runs) < 0 or sum(runs) != mask_width * mask_height:
        raise UnusableImageError("a mask that does not fit the image")
    flat = np.repeat(np.arange(len(runs)) % 2 == 1, runs)
    inside[top : top + mask_height, left : left + mask_width] = flat.reshape(mask_height, mask_width)
    return inside


# === Import ===


def _is_one(name: str, head: bytes) -> bool:
    return name.lower().endswith(".xml") and b"<annotations" in head


def _read(path: Path, project: LabelProject) -> Annotations:
    images, skipped = list[Annotated](), list[tuple[str, str]]()
    for number, element in enumerate(layout.parse(str(path.absolute().parent), path.name)):
        name = (element.get("name") or "").strip() or f"image {number}"
        try:
            _refuse_unconfirmed(element)
            images.append(Annotated(name, _label(element, project)))
        except UnusableImageError as error:
            skipped.append((name, str(error)))
    return Annotations(tuple(images), tuple(skipped))


def _refuse_unconfirmed(image: Any) -> None:
    if any(tag.get("label") == _REVIEWED for tag in image.findall("tag")):
        return
    sources = {entry.get("source", "") for entry in image if entry.get("label")}
    if not sources:
        raise UnusableImageError(f"not labelled; add the tag `{_REVIEWED}` if nothing is to be labelled")
    if not sources <= set(_BY_A_PERSON):
        raise UnusableImageError(f"contains proposals that nobody has confirmed; add the tag `{_REVIEWED}`")


def _label(image: Any, project: LabelProject) -> Label:
    width, height = (_side(image, key) for key in ("width", "height"))
    if project.has_boxes:
        return _regions.box_label(layout.to_annotation(image), width, height)
    if project.has_masks:
        shapes = sorted(
            (entry for entry in image if entry.tag in _SHAPES), key=lambda entry: int(entry.get("z_order") or 0)
        )
        regions = [Region(entry.get("label", ""), _inside(entry, width, height)) for entry in shapes]
        return _regions.mask_label(regions, width, height, project)
    names = [tag.get("label", "") for tag in image.findall("tag") if tag.get("label") != _REVIEWED]
    return _regions.class_label(names, project)


def _side(image: Any, key: str) -> int:
    try:
        return int(image.get(key))
    except (TypeError, ValueError):
        raise UnusableImageError(f"no {key} of the image") from None


def _inside(shape: Any, width: int, height: int) -> np.ndarray:
    if shape.tag == "mask":
        return decode_mask(shape, width, height)
    try:
        if float(shape.get("rotation") or 0):
            raise UnusableImageError("a rotated box; label upright boxes")
        if shape.tag == "polygon":
            points = [tuple(map(float, point.split(","))) for point in shape.get("points").split(";")]
            return _regions.polygon([(x, y) for x, y in points], width, height)
        return _regions.rectangle([float(shape.get(key)) for key in _CORNERS], width, height)
    except (AttributeError, TypeError, ValueError):
        raise UnusableImageError(f"an incomplete {shape.tag}") from None


FORMAT = LabelFormat(
    name="cvat",
    description='annotations.xml of the export "CVAT for images 1.1"',
    is_one=_is_one,
    files=(ANNOTATIONS_FILE, LABELS_FILE),
    export=_export,
    read=_read,
)
