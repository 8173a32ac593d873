"""Records the metrics of every epoch: as a CSV table, and as curves for TensorBoard."""

from __future__ import annotations

import csv
import os
from typing import Any

import keras
import tensorflow as tf

from trainer_module import features

PHASE, SECONDS, LEARNING_RATE, DATA_WAIT = "phase", "seconds", "learning_rate", "data_wait"
_VALIDATION_PREFIX = "val_"

Row = dict[str, Any]


class History:
    """One row per epoch, written as soon as the epoch ends.

    Attributes:
      rows: `phase` (text), `seconds`, `learning_rate` at the epoch's end, `data_wait` (share of the training time in
        which a step waited for its images, range [0, 1]; absent if not measured) and the metrics of the train split
        and, with the prefix `val_`, of the validation split.
    """

    def __init__(self, run_dir: str, rows: list[Row] | None = None) -> None:
        """Args: folder of `history.csv` and of TensorBoard's `train/` and `validation/`; rows of an interrupted run."""
        self._path = os.path.join(run_dir, features.HISTORY_FILE)
        self._writers = {
            split: tf.summary.create_file_writer(os.path.join(run_dir, split))
            for split in (features.TRAIN, features.VALIDATION)
        }
        self.rows: list[Row] = []
        tf.io.gfile.makedirs(run_dir)
        for row in rows or []:
            self._add(row)
        self._write_table()

    def append(self, row: Row) -> None:
        """Adds an epoch; the numbering continues from phase to phase."""
        self._add(row)
        self._write_table()

    def lowest_val_loss(self, phases: set[str]) -> float:
        """Returns the lowest validation loss of some phases; infinity if they have no epochs."""
        return min((row["val_loss"] for row in self.rows if row[PHASE] in phases), default=float("inf"))

    def to_keras(self) -> keras.callbacks.History:
        """Returns the history as Keras does: one value per epoch for every column."""
        history = keras.callbacks.History()
        history.epoch = list(range(len(self.rows)))
        history.history = {name: [row.get(name) for row in self.rows] for name in self._columns()}
        return history

    def close(self) -> None:
        """Closes TensorBoard's files."""
        for writer in self._writers.values():
            writer.close()

    def _add(self, row: Row) -> None:
        for name, value in row.items():
            if name == PHASE:
                continue
            split = features.VALIDATION if name.startswith(_VALIDATION_PREFIX) else features.TRAIN
            with self._writers[split].as_default():
                tf.summary.scalar(name.removeprefix(_VALIDATION_PREFIX), value, step=len(self.rows))
        for writer in self._writers.values():
            writer.flush()
        self.rows.append(row)

    def _columns(self) -> list[str]:
        return list(dict.fromkeys(name for row in self.rows for name in row))

    def _write_table(self) -> None:
        with tf.io.gfile.GFile(self._path, "w") as file:
            table = csv.DictWriter(file, ["epoch", *self._columns()], lineterminator="\n")
            table.writeheader()
            table.writerows({"epoch": epoch, **row} for epoch, row in enumerate(self.rows))
