"""A SavedModel as TF Serving sees it: a session and its signatures, no Python objects."""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import tensorflow as tf


class SessionModel:
    """Loads a SavedModel with the session loader and runs its signatures; safe to use from several threads.

    `tf.saved_model.load` is no substitute: it restores Python objects and so does not see variables that a session
    cannot find.
    """

    def __init__(self, export_dir: str) -> None:
        """Loads the model.

        Args:
          export_dir: Folder with `saved_model.pb` and `variables/`.

        Raises:
          Exception: Whatever the loader raises for an export that is not whole; the errors have no common class.
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
        # The initialiser of a SavedModel is stored as a signature too; it is not one that can be asked.
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
          signature: Its name.
          inputs: An array for every input; strings as an object array of bytes.
          outputs: Names of the wanted outputs; all when absent.

        Returns:
          An array for every wanted output.

        Raises:
          KeyError: If the signature, an input or an output is not known.
          tf.errors.OpError: If the graph refuses the values.
        """
        definition = self.signatures[signature]
        aliases = tuple(definition.inputs)
        wanted = tuple(definition.outputs) if outputs is None else tuple(outputs)
        key = (signature, wanted)
        with self._lock:
            if key not in self._callables:
                self._callables[key] = self._session.make_callable(
                    [definition.outputs[name].name for name in wanted],
                    [definition.inputs[alias].name for alias in aliases],
                )
        values = self._callables[key](*(inputs[alias] for alias in aliases))
        return dict(zip(wanted, values, strict=True))

    def run_on(self, signature: str, values: Sequence[bytes]) -> dict[str, np.ndarray]:
        """Runs a signature whose only input is string [N]."""
        (alias,) = self.signatures[signature].inputs
        return self.run(signature, {alias: np.array(list(values), dtype=object)})

    def close(self) -> None:
        """Frees the session and its variables."""
        self._session.close()
