"""A TFLite model (`model.tflite`) behind the interface of a session, for `--prefer_tflite_model`.

Source: TF Serving's servables/tensorflow/tflite_session.cc. Imports TensorFlow when the first model is loaded.
"""

from __future__ import annotations

import os
import threading
import warnings
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from serving.local_server import dtypes
from serving.local_server.errors import RequestError, invalid_argument
from serving.local_server.protos import meta_graph_pb2
from trainer_module.features import SERVING_DEFAULT

_PREDICT = "tensorflow/serving/predict"


class Interpreters:
    """A loaded TFLite model; thread-safe: every thread in `run` has an interpreter of its own.

    Attributes:
      meta_graph: The SignatureDefs of the model; without these `serving_default`, whose inputs and outputs have
        the names of their tensors.
    """

    def __init__(self, content: bytes, num_threads: int = 0) -> None:
        """Loads the model.

        Args:
          content: Of the file.
          num_threads: Threads of an interpreter; 0 lets TensorFlow choose.

        Raises:
          RequestError: INVALID_ARGUMENT, if it is not a TFLite model.
        """
        self._content, self._num_threads = content, num_threads or None
        self._free: list[Any] = []
        self._lock = threading.Lock()
        first = self._new()
        # Name of a tensor → its position in the model.
        self._inputs = {entry["name"]: entry["index"] for entry in first.get_input_details()}
        self._outputs = {entry["name"]: entry["index"] for entry in first.get_output_details()}
        self.meta_graph = meta_graph_pb2.MetaGraphDef()
        for name, (inputs, outputs) in _signatures(first).items():
            definition = self.meta_graph.signature_def[name]
            definition.method_name = _PREDICT
            for entries, infos in ((inputs, definition.inputs), (outputs, definition.outputs)):
                for alias, entry in entries.items():
                    _fill(infos[alias], entry)
        self._free.append(first)

    def run(
        self, feeds: Mapping[str, np.ndarray], fetches: Sequence[str], timeout_s: float | None = None
    ) -> list[np.ndarray]:
        """Runs the model; see `session.Session.run`. A run cannot be stopped at its deadline."""
        inputs = [(_position(name, self._inputs), value) for name, value in feeds.items()]
        outputs = [_position(name, self._outputs) for name in fetches]
        with self._lock:
            interpreter = self._free.pop() if self._free else None
        interpreter = interpreter or self._new()
        try:
            for position, value in inputs:
                interpreter.resize_tensor_input(position, value.shape)
            interpreter.allocate_tensors()
            for position, value in inputs:
                interpreter.set_tensor(position, value)
            interpreter.invoke()
            values = [_array(interpreter.get_tensor(position)) for position in outputs]
        except (ValueError, RuntimeError) as error:  # of the interpreter, whose state is unknown then
            raise invalid_argument(str(error)) from None
        with self._lock:
            self._free.append(interpreter)
        return values

    def close(self) -> None:
        """Frees the interpreters."""
        with self._lock:
            self._free.clear()

    def _new(self) -> Any:
        import tensorflow as tf

        threads = self._num_threads or os.cpu_count()
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # of its removal, in favour of another package
                interpreter = tf.lite.Interpreter(model_content=self._content, num_threads=threads)
            interpreter.allocate_tensors()
        except (ValueError, RuntimeError) as error:
            raise invalid_argument(f"model.tflite cannot be loaded: {error}") from None
        return interpreter


def _signatures(interpreter: Any) -> dict[str, tuple[dict[str, Any], dict[str, Any]]]:
    """Returns the inputs and outputs of every signature: alias → details of the tensor."""
    inputs, outputs = interpreter.get_input_details(), interpreter.get_output_details()
    by_position = {entry["index"]: entry for entry in (*inputs, *outputs)}
    signatures = {}

    def named(details: Mapping[str, Any]) -> dict[str, Any]:
        return {alias: by_position.get(entry["index"], entry) for alias, entry in details.items()}

    for name in interpreter.get_signature_list():
        runner = interpreter.get_signature_runner(name)
        signatures[name] = (named(runner.get_input_details()), named(runner.get_output_details()))
    if not signatures:
        signatures[SERVING_DEFAULT] = ({e["name"]: e for e in inputs}, {e["name"]: e for e in outputs})
    return signatures


def _fill(info: Any, entry: Mapping[str, Any]) -> None:
    dtype = np.dtype(entry["dtype"])
    info.name = entry["name"]
    info.dtype = (dtypes.STRING if dtype.kind in "SUO" else dtypes.of_array(np.empty(0, dtype))).number
    for size in entry["shape_signature"] if len(entry["shape_signature"]) else entry["shape"]:
        info.tensor_shape.dim.add(size=int(size))


def _position(name: str, positions: Mapping[str, int]) -> int:
    """Finds a tensor; early converters removed the `:0` of its name."""
    for candidate in (name, name.partition(":")[0]):
        if candidate in positions:
            return positions[candidate]
    raise RequestError("INTERNAL", f"Unknown tensor '{name}'.")


def _array(value: np.ndarray) -> np.ndarray:
    """Returns a copy; strings as an object array of bytes."""
    value = np.array(value)
    return value.astype(object) if value.dtype.kind in "SU" else value
