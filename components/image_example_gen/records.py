"""Records of usable images as columns: in the files of the first pass, and in the division."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import Any

import numpy as np

from components.image_example_gen.columns import Columns, digests, objects
from components.image_example_gen.splits import SPLIT_CODES, Record

# Kinds of anchors. A group sorts before any content: in a unit with both, the group decides. So adding images changes
# the split of no other image, unless it connects two groups.
GROUP, CONTENT = 0, 1
# In the column `hash`: an image without structure.
NO_HASH = -1


def columns_of(records: Sequence[Record]) -> Columns:
    """Converts records.

    Returns:
      `path`, `classes`, `label_digest`, `pixels` and `boxes` as in `Record`; `split`, a code; `sha256`, uint64 [n, 4];
      `hash`, int64, or `NO_HASH`; and the anchor of each image, which is its group, or else its content: `anchor_kind`,
      and `anchor`, uint64 [n, 4].
    """
    size = len(records)
    shared: dict[Any, Any] = {}

    def each_once(values: Sequence[Any]) -> np.ndarray:
        return objects((shared.setdefault(value, value) for value in values), size)

    sha256 = digests([record.sha256 for record in records])
    anchor, anchor_kind = sha256, np.full(size, CONTENT, np.uint8)
    names = {record.group for record in records if record.group}
    if names:
        digest_of = {name: hashlib.sha256(b"group\0" + name.encode()).hexdigest() for name in names}
        rows = [row for row, record in enumerate(records) if record.group]
        anchor = sha256.copy()
        anchor[rows] = digests([digest_of[records[row].group] for row in rows])
        anchor_kind[rows] = GROUP
    hashes = (NO_HASH if record.perceptual_hash is None else record.perceptual_hash for record in records)
    return Columns(
        path=objects((record.path for record in records), size),
        classes=each_once([record.classes for record in records]),
        split=np.fromiter((SPLIT_CODES[record.split] for record in records), np.uint8, size),
        sha256=sha256,
        label_digest=each_once([record.label_digest for record in records]),
        hash=np.fromiter(hashes, np.int64, size),
        pixels=each_once([record.pixels for record in records]),
        boxes=each_once([record.boxes for record in records]),
        anchor_kind=anchor_kind,
        anchor=anchor,
    )
