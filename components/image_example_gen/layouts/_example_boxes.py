"""Boxes in tf.Examples of another program, with the keys of the TensorFlow Object Detection API."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from components.image_example_gen.boxes import Annotation, Box
from components.image_example_gen.errors import UnusableImageError
from trainer_module import features

_CLASS_IDS = "image/object/class/label"
_KINDS = {"string": "bytes_list", "float32": "float_list", "int64": "int64_list"}
# Coordinates beyond this are pixels and not fractions of a box that exceeds its image.
_LARGEST_FRACTION = 2.0


def annotation_of(feature: Mapping[str, Any], new_names: Mapping[str, str], classes: Sequence[str]) -> Annotation:
    """Reads the boxes of an example; without any, it is a negative.

    Args:
      feature: The features of the example, by key.
      new_names: `data.rename_classes`.
      classes: Names of the ids, from 1, of examples with ids only.

    Raises:
      UnusableImageError: If the lists differ in length or type, if an id has no name, or if coordinates are not
        fractions.
    """
    columns = {key: _values(feature, key) for key in (features.BOX_CLASSES, *features.BOX_CORNERS)}
    columns[features.BOX_CLASSES] = columns[features.BOX_CLASSES] or _names_of_ids(feature, classes)
    count = max(map(len, columns.values()))
    for key in (features.BOX_DIFFICULT, features.BOX_IS_CROWD):
        columns[key] = _values(feature, key) or [0] * count
    for key, values in columns.items():
        if len(values) != count:
            raise UnusableImageError(f"incomplete boxes: {key} has {len(values)} values, other features {count}")
    coordinates = [value for key in features.BOX_CORNERS for value in columns[key]]
    if not all(math.isfinite(value) for value in coordinates):
        raise UnusableImageError("a coordinate is not a number")
    if coordinates and max(map(abs, coordinates)) > _LARGEST_FRACTION:
        largest = max(coordinates, key=abs)
        raise UnusableImageError(f"coordinates are not fractions of the image: {largest:g}")
    try:
        names = [name.decode() for name in columns[features.BOX_CLASSES]]
    except UnicodeDecodeError:
        raise UnusableImageError(f"{features.BOX_CLASSES} is not UTF-8") from None
    ymin, xmin, ymax, xmax = (map(float, columns[key]) for key in features.BOX_CORNERS)
    flags = (map(bool, columns[key]) for key in (features.BOX_DIFFICULT, features.BOX_IS_CROWD))
    boxes = map(Box, xmin, ymin, xmax, ymax, (new_names.get(name, name) for name in names), *flags)
    sides = [_values(feature, key) for key in (features.IMAGE_WIDTH, features.IMAGE_HEIGHT)]
    width, height = (float(side[0]) if len(side) == 1 and 0 < side[0] < 2**31 else 0.0 for side in sides)
    return Annotation(tuple(boxes), width if height else 0.0, height if width else 0.0, is_relative=True)


def _names_of_ids(feature: Mapping[str, Any], classes: Sequence[str]) -> list[bytes]:
    ids = _values(feature, _CLASS_IDS)
    unknown = [number for number in ids if not 0 < number <= len(classes)]
    if unknown:
        raise UnusableImageError(f"an unknown class id: {_CLASS_IDS} has {unknown[0]}; known are 1 to {len(classes)}")
    return [classes[number - 1].encode() for number in ids]


def _values(feature: Mapping[str, Any], key: str) -> Sequence[Any]:
    if key not in feature:
        return []
    kind = _KINDS[features.BOX_DTYPES.get(key, "int64")]
    given = feature[key].WhichOneof("kind")
    if given and given != kind:
        raise UnusableImageError(f"{key} is a {given} instead of a {kind}")
    return list(getattr(feature[key], kind).value)
