"""The label of an image for object detection: float32 [max_objects, 6] (`transform.max_objects`).

The columns are ymin, xmin, ymax, xmax (relative to the upright image, range [0, 1]), the class id and what the object
counts for. Objects come first, then padding.
"""

from __future__ import annotations

NUM_COLUMNS = 6
MAX_OBJECTS = 500  # default of `transform.max_objects`

# Instead of a class id.
PADDING, UNKNOWN_CLASS = -1, -2

# What an object counts for: difficult objects and crowds need not be detected.
OBJECT, DIFFICULT, CROWD = 0, 1, 2
