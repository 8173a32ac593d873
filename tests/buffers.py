"""Small buffers for parts of a dataset, so that a small dataset is read, sorted and kept as a large one is."""

from __future__ import annotations

import pytest

from components.image_example_gen import (
    external_sort,
    listing_tasks,
    span_listing,
    spooled_items,
    stored_entries,
    stored_mapping,
    tables,
)
from components.image_example_gen.layouts import _boxes, _listed_files


def set_buffers(monkeypatch: pytest.MonkeyPatch, num: int, *, runs: int = 3, items: int = 2) -> None:
    """Keeps only a few items in memory.

    Args:
      monkeypatch: Restores the buffers after the test.
      num: Number of images; blocks and rows are half as many.
      runs: Number of sorted runs that are merged at once.
      items: Number of items that are written at once.
    """
    for module in (_boxes, _listed_files, external_sort, listing_tasks, spooled_items, stored_entries, stored_mapping):
        monkeypatch.setattr(module, "IMAGES_PER_PARTITION", num)
    half = -(-num // 2)
    for module in (listing_tasks, span_listing, stored_entries):
        monkeypatch.setattr(module, "ENTRIES_PER_BLOCK", half)
    monkeypatch.setattr(_listed_files, "_ROWS_PER_BATCH", half)
    monkeypatch.setattr(tables, "_MOST_ROWS", half)
    monkeypatch.setattr(external_sort, "_MOST_RUNS", runs)
    monkeypatch.setattr(spooled_items, "_ITEMS_PER_BATCH", items)
