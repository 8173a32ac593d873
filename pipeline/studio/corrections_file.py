"""Writes `data.corrections` from the decisions of the journal (docs/label-errors.md)."""

from __future__ import annotations

import csv
import io
import os
from collections.abc import Iterable
from pathlib import Path

from components.data_audit.artifact import COLUMNS
from components.image_example_gen import corrections
from pipeline.studio.journal import Decision
from trainer_module import locations

_EARLIER = "earlier corrections"


def to_csv(decisions: Iterable[Decision], earlier: str | None = None) -> str:
    """Returns the table: that of `tfx-vision audit`, with the column `action`.

    Args:
      decisions: Those about images of the dataset.
      earlier: A table whose decisions stay valid unless there is a new one about the image.

    Raises:
      DatasetError: If the earlier table cannot be used.
    """
    by_name = {decision.filename: decision for decision in decisions if decision.source == "dataset"}
    buffer = io.StringIO(newline="")
    writer = csv.writer(buffer, lineterminator="\n")
    writer.writerow([*COLUMNS, corrections.ACTION_COLUMN])
    for name, before in (corrections.read(earlier) if earlier else {}).items():
        if name not in by_name:
            writer.writerow([name, "", _EARLIER, "", before.label, before.action])
    for name, decision in by_name.items():
        score = f"{decision.score:.4f}" if decision.reason else ""
        writer.writerow([name, decision.label, decision.reason, score, decision.new_label, decision.action])
    return buffer.getvalue()


def write(path: Path, text: str) -> None:
    """Replaces a file so that a reader sees the old or the new content, also after a crash."""
    temporary = path.with_suffix(".tmp")
    with open(temporary, "w", encoding="utf-8") as file:
        file.write(text)
    locations.sync(str(temporary))
    os.replace(temporary, path)
    locations.sync(str(path.parent))
