"""What a killed training needs in order to go on after its last finished epoch."""

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
    """Everything that an epoch leaves behind.

    Attributes:
      state: What JSON can hold.
      arrays: Lists of arrays, by name.
    """

    state: dict[str, Any]
    arrays: dict[str, list[np.ndarray]]


class CheckpointFile:
    """One file that always holds a whole checkpoint: a new one replaces the old one when it is complete.

    Attributes:
      is_written: Whether this process writes it.
    """

    def __init__(self, path: str | None, key: str, *, is_written: bool = True) -> None:
        """Opens nothing yet.

        Args:
          path: Local, or of any file system of TensorFlow; None keeps nothing.
          key: Says what is trained on what. A checkpoint of another key is not read.
          is_written: False where another process writes it, and this one only reads.
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
        """The checkpoint; None where there is none of this key, or none that can be read."""
        if self._path is None or not tf.io.gfile.exists(self._path):
            return None
        with tf.io.gfile.GFile(self._path, "rb") as file:
            content = file.read()
        try:
            with np.load(io.BytesIO(content), allow_pickle=False) as saved:
                found = json.loads(saved[_STATE].tobytes())
                if found["key"] != self._key:
                    return None
                arrays = {name: [saved[f"{name}/{i}"] for i in range(count)] for name, count in found["counts"].items()}
        except Exception as error:  # whatever a damaged archive makes zipfile, NumPy or JSON raise
            logging.getLogger(__name__).warning("Training begins anew: %s cannot be read (%s).", self._path, error)
            return None
        return Checkpoint(found[_STATE], arrays)

    def delete(self) -> None:
        """Removes the file, if there is one."""
        if self._path is not None and self.is_written and tf.io.gfile.exists(self._path):
            tf.io.gfile.remove(self._path)
