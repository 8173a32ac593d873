"""Checkpoints from which an interrupted training resumes after its last finished epoch."""

from __future__ import annotations

import io
import json
import logging
import os
from dataclasses import dataclass
from typing import Any

import numpy as np
import tensorflow as tf

_STATE = "state"


@dataclass(frozen=True)
class Checkpoint:
    """The state of a training after an epoch.

    Attributes:
      state: JSON-serializable values.
      arrays: Lists of arrays, by name.
    """

    state: dict[str, Any]
    arrays: dict[str, list[np.ndarray]]


class CheckpointFile:
    """One file with the latest checkpoint; a new one replaces it only when it is completely written.

    Attributes:
      is_written: Whether this process writes it.
    """

    def __init__(self, path: str | None, key: str, *, is_written: bool = True) -> None:
        """Stores the arguments; opens no file.

        Args:
          path: On any file system of TensorFlow; None stores nothing.
          key: Identifies the training and its data. A checkpoint with another key is ignored.
          is_written: False if another process writes the file and this one only reads it.
        """
        self._path, self._key = path, key
        self.is_written = is_written and path is not None

    def write(self, checkpoint: Checkpoint) -> None:
        """Replaces the file."""
        if self._path is None or not self.is_written:
            return
        buffer = io.BytesIO()
        counts = {name: len(arrays) for name, arrays in checkpoint.arrays.items()}
        named = {f"{name}/{i}": array for name, arrays in checkpoint.arrays.items() for i, array in enumerate(arrays)}
        text = json.dumps({"key": self._key, "counts": counts, _STATE: checkpoint.state})
        np.savez(buffer, allow_pickle=False, **{_STATE: np.frombuffer(text.encode(), np.uint8)}, **named)
        tf.io.gfile.makedirs(os.path.dirname(self._path))
        partial = f"{self._path}.partial"
        with tf.io.gfile.GFile(partial, "wb") as file:
            file.write(buffer.getvalue())
        tf.io.gfile.rename(partial, self._path, overwrite=True)

    def read(self) -> Checkpoint | None:
        """Returns the checkpoint; None if there is none with this key, or it is unreadable."""
        if self._path is None or not tf.io.gfile.exists(self._path):
            return None
        with tf.io.gfile.GFile(self._path, "rb") as file:
            content = file.read()
        try:
            with np.load(io.BytesIO(content), allow_pickle=False) as saved:
                header = json.loads(saved[_STATE].tobytes())
                if header["key"] != self._key:
                    return None
                arrays = {
                    name: [saved[f"{name}/{i}"] for i in range(count)] for name, count in header["counts"].items()
                }
        except Exception as error:  # anything that zipfile, NumPy or JSON raise for a damaged archive
            logging.getLogger(__name__).warning(
                "Cannot read the checkpoint %s (%s). Training starts from the beginning.", self._path, error
            )
            return None
        return Checkpoint(header[_STATE], arrays)

    def delete(self) -> None:
        """Deletes the file, if it exists."""
        if self._path is not None and self.is_written and tf.io.gfile.exists(self._path):
            tf.io.gfile.remove(self._path)
