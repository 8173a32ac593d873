"""Loads a SavedModel as TF Serving does: a session and its signatures, without Python objects."""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import tensorflow as tf


class SessionModel:
    """Loads a SavedModel with the session loader and runs its signatures; thread-safe.

    `tf.saved_model.load` is not a substitute: it restores Python objects and does not notice variables that a session
    cannot find.
    """

    def __init__(self, export_dir: str) -> None:
        """Loads the model.

        Args:
          export_dir: Folder with `saved_model.pb` and `variables/`.

        Raises:
          Exception: Any error of the loader for an incomplete export; the errors have no common class.
        """
        self._session = tf.compat.v1.Session(graph=tf.Graph())
        self._callables: dict[tuple[str, tuple[str, ...]], Callable[..., Any]] = {}
        self._lock = threading.Lock()
        try:
            with self._session.graph.as_default():
                meta_graph = tf.compat.v1.saved_model.loader.load(self._session, [tf.saved_model.SERVING], export_dir)
        except Exception:
            self._session.close()
            raise
        # The initializer of a SavedModel is stored as a signature too, but cannot be called.
        self.signatures = {
            name: definition
            for name, definition in meta_graph.signature_def.items()
            if not name.startswith("__saved_model")
        }

    def run(
        self, signature: str, inputs: Mapping[str, np.ndarray], outputs: Sequence[str] | None = None
    ) -> dict[str, np.ndarray]:
        """Runs one signature.

        Args:
          signature: Name of the signature.
          inputs: One array per input; strings as an object array of bytes.
          outputs: Names of the requested outputs; all if absent.

        Returns:
          One array per requested output.

        Raises:
          KeyError: If the signature, an input or an output is unknown.
          tf.errors.OpError: If the graph rejects the values.
        """
        definition = self.signatures[signature]
        aliases = tuple(definition.inputs)
        requested = tuple(definition.outputs) if outputs is None else tuple(outputs)
        key = (signature, requested)
        with self._lock:
            if key not in self._callables:
                self._callables[key] = self._session.make_callable(
                    [definition.outputs[name].name for name in requested],
                    [definition.inputs[alias].name for alias in aliases],
                )
        values = self._callables[key](*(inputs[alias] for alias in aliases))
        return dict(zip(requested, values, strict=True))

    def run_on(
        self, signature: str, values: Sequence[bytes], outputs: Sequence[str] | None = None
    ) -> dict[str, np.ndarray]:
        """Runs a signature whose only input is string [N]; see `run`."""
        (alias,) = self.signatures[signature].inputs
        return self.run(signature, {alias: np.array(list(values), dtype=object)}, outputs)

    def close(self) -> None:
        """Frees the session and its variables."""
        self._session.close()
