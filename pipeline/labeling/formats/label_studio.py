"""Label Studio: a JSON file of tasks with predictions, and its JSON export with annotations.

Source: https://labelstud.io/guide/task_format, https://labelstud.io/guide/predictions (pre-annotations), and the tags
Choices, RectangleLabels, BrushLabels and PolygonLabels of https://labelstud.io/tags.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any
from xml.sax.saxutils import quoteattr

import numpy as np

from components.image_example_gen.errors import UnusableImageError
from components.image_example_gen.layouts import label_studio as layout
from pipeline.labeling.confirmed import Label
from pipeline.labeling.formats import _brush, _regions
from pipeline.labeling.formats._regions import Region
from pipeline.labeling.formats._spec import Annotated, Annotations, LabelFormat, LabelProject, ProposedImage
from trainer_module import features

TASKS_FILE, CONFIG_FILE = "label_studio_tasks.json", "label_studio_config.xml"
# Where Label Studio serves files from its document root (LABEL_STUDIO_LOCAL_FILES_DOCUMENT_ROOT).
_LOCAL_FILES = "/data/local-files/?d="
_FROM, _TO = "label", "image"
_CORNERS = (features.BOX_XMIN, features.BOX_YMIN, features.BOX_XMAX, features.BOX_YMAX)


# === Export ===


def _export(folder: Path, images: Sequence[ProposedImage], project: LabelProject) -> None:
    tasks = [_task(folder, image, project) for image in images]
    (folder / TASKS_FILE).write_text(json.dumps(tasks, ensure_ascii=False, indent=1), encoding="utf-8")
    (folder / CONFIG_FILE).write_text(labeling_config(project), encoding="utf-8")


def labeling_config(project: LabelProject) -> str:
    """Returns the labelling interface of a project, for its settings."""
    tag, entry, attributes = "Choices", "Choice", ' choice="multiple"' if project.has_sets else ' choice="single"'
    if project.has_boxes:
        tag, entry, attributes = "RectangleLabels", "Label", ""
    elif project.has_masks:
        tag, entry, attributes = "BrushLabels", "Label", ""
    entries = "".join(
        f"    <{entry} value={quoteattr(name)}{_background(project, number)}/>\n"
        for number, name in enumerate(project.classes)
    )
    return (
        f'<View>\n  <Image name="{_TO}" value="$image" zoom="true"/>\n'
        f'  <{tag} name="{_FROM}" toName="{_TO}"{attributes}>\n{entries}  </{tag}>\n</View>\n'
    )


def _background(project: LabelProject, number: int) -> str:
    if not project.colors:
        return ""
    red, green, blue = project.colors[number]
    return f' background="#{red:02x}{green:02x}{blue:02x}"'


def _task(folder: Path, image: ProposedImage, project: LabelProject) -> dict[str, Any]:
    task: dict[str, Any] = {"data": {"image": f"{_LOCAL_FILES}{folder.absolute().name}/{image.path}"}}
    if image.proposal is not None:
        results = _results(image, image.proposal, project)
        score = round(1.0 - image.uncertainty, 4)
        task["predictions"] = [{"model_version": project.model, "score": score, "result": results}]
    return task


def _results(image: ProposedImage, proposal: Label, project: LabelProject) -> list[dict[str, Any]]:
    if project.has_boxes:
        kind, values = "rectanglelabels", _rectangles(proposal)
    elif project.has_masks:
        kind, values = "brushlabels", _brushes(proposal, project)
    else:
        names = list(proposal[features.CLASS_TEXT])
        kind, values = "choices", [{"choices": names}] if names else []
    size = {"original_width": image.width, "original_height": image.height, "image_rotation": 0}
    return [
        {"id": f"proposal-{number}", "type": kind, "from_name": _FROM, "to_name": _TO, **size, "value": value}
        for number, value in enumerate(values, start=1)
    ]


def _rectangles(label: Label) -> list[dict[str, Any]]:
    """Converts fractions to percentages."""
    corners = np.array([label[key] for key in _CORNERS], float).reshape(4, -1).T.tolist()
    return [
        {
            **{"x": 100.0 * xmin, "y": 100.0 * ymin, "width": 100.0 * (xmax - xmin), "height": 100.0 * (ymax - ymin)},
            **{"rotation": 0, "rectanglelabels": [name]},
        }
        for (xmin, ymin, xmax, ymax), name in zip(corners, label[features.BOX_CLASSES], strict=True)
    ]


def _brushes(label: Label, project: LabelProject) -> list[dict[str, Any]]:
    return [
        {"format": "rle", "rle": _brush.encode(region.inside), "brushlabels": [region.name]}
        for region in _regions.mask_regions(label, project)
    ]


# === Import ===


def _is_one(name: str, head: bytes) -> bool:
    return name.lower().endswith(".json") and layout.is_export(head)


def _read(path: Path, project: LabelProject) -> Annotations:
    images, skipped = list[Annotated](), list[tuple[str, str]]()
    resolved = path.resolve()
    for number, task in enumerate(layout.parse(str(resolved.parent), resolved.name), start=1):
        name = layout.image_name(task) or f"task {number}"
        try:
            if not isinstance(task, dict) or "annotations" not in task:
                raise UnusableImageError("no list of annotations; export as JSON, not JSON-MIN")
            results, _ = layout.last_results(task)
            if results is None:
                raise UnusableImageError("no submitted annotation")
            images.append(Annotated(name, _label(results, project)))
        except UnusableImageError as error:
            skipped.append((name, str(error)))
    return Annotations(tuple(images), tuple(skipped))


def _label(results: Sequence[Any], project: LabelProject) -> Label:
    if project.has_boxes:
        annotation = layout.to_annotation(results)
        if not annotation.width and annotation.boxes:
            raise UnusableImageError("regions without one size of the image (original_width, original_height)")
        return _regions.box_label(annotation, int(annotation.width) or 1, int(annotation.height) or 1)
    if project.has_masks:
        return _mask(results, project)
    names = [str(name) for value in _values(results) for name in value.get("choices", ())]
    return _regions.class_label(names, project)


def _values(results: Sequence[Any]) -> list[Mapping[str, Any]]:
    values = [result.get("value") for result in results if isinstance(result, dict)]
    return [value for value in values if isinstance(value, dict)]


def _mask(results: Sequence[Any], project: LabelProject) -> Label:
    regions, sizes = list[Region](), set[tuple[int, int]]()
    for number, result in enumerate(results, start=1):
        value = result.get("value") if isinstance(result, dict) else None
        if not isinstance(value, dict) or not {"rle", "points", "x"} & value.keys():
            continue
        if result.get("image_rotation") or value.get("rotation"):
            raise UnusableImageError("a rotated region; label without rotation")
        try:
            width, height = int(result["original_width"]), int(result["original_height"])
        except (KeyError, TypeError, ValueError):
            raise UnusableImageError(f"region {number} has no size of its image") from None
        sizes.add((width, height))
        keys = ("brushlabels", "polygonlabels", "rectanglelabels", "labels")
        names = [str(name) for key in keys for name in value.get(key) or ()]
        if len(names) != 1:
            raise UnusableImageError(f"region {number} has {len(names)} classes instead of one")
        regions.append(Region(names[0], _inside(value, width, height, number)))
    if len(sizes) != 1:
        raise UnusableImageError("no regions" if not sizes else "regions of different sizes of the image")
    ((width, height),) = sizes
    return _regions.mask_label(regions, width, height, project)


def _inside(value: Mapping[str, Any], width: int, height: int, number: int) -> np.ndarray:
    """Returns the pixels of a brush, a polygon or a box; coordinates are percentages."""
    try:
        if "rle" in value:
            return _brush.decode(value["rle"], height, width)
        if "points" in value:
            points = [(float(x) * width / 100.0, float(y) * height / 100.0) for x, y in value["points"]]
            return _regions.polygon(points, width, height)
        x, y, w, h = (float(value[key]) for key in ("x", "y", "width", "height"))
        corners = (x * width, y * height, (x + w) * width, (y + h) * height)
        return _regions.rectangle([corner / 100.0 for corner in corners], width, height)
    except (KeyError, TypeError, ValueError):
        raise UnusableImageError(f"region {number} is incomplete") from None


FORMAT = LabelFormat(
    name="label_studio",
    description="the JSON export of Label Studio",
    is_one=_is_one,
    files=(TASKS_FILE, CONFIG_FILE),
    export=_export,
    read=_read,
)
