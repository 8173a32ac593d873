"""The label of an image for object detection: float32 [max_objects, 6] (`transform.max_objects`).

The columns are ymin, xmin, ymax, xmax (relative to the upright image, range [0, 1]), the class id and what the object
counts for. Objects come first, then padding.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from trainer_module import features

if TYPE_CHECKING:
    import numpy as np

NUM_COLUMNS = 6
MAX_OBJECTS = 500  # default of `transform.max_objects`

# Instead of a class id.
PADDING, UNKNOWN_CLASS = -1, -2

# What an object counts for: difficult objects and crowds need not be detected.
OBJECT, DIFFICULT, CROWD = 0, 1, 2


def pack(label: Mapping[str, Sequence[Any]], classes: Sequence[str], unknown: int = UNKNOWN_CLASS) -> np.ndarray:
    """Packs the objects of an image, without padding.

    Args:
      label: Raw example features of the label and their values; without flags, all objects count.
      classes: Class names; the index is the id.
      unknown: The id of all other classes.

    Returns:
      float32 [M, 6].
    """
    import numpy as np

    ids = {name: class_id for class_id, name in enumerate(classes)}
    names = label[features.BOX_CLASSES]
    boxes = np.zeros((len(names), NUM_COLUMNS), np.float32)
    for column, key in enumerate(features.BOX_CORNERS):
        boxes[:, column] = label[key]
    boxes[:, 4] = [ids.get(name, unknown) for name in names]
    for key, kind in ((features.BOX_DIFFICULT, DIFFICULT), (features.BOX_IS_CROWD, CROWD)):
        flags = label.get(key, ())
        if len(flags) == len(names):
            boxes[np.asarray(flags, bool), 5] = kind
    return boxes
