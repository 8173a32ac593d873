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
_METADATA = b"signature_defs_metadata"


class Interpreters:
    """A loaded TFLite model; thread-safe: every thread in `run` has an interpreter of its own.

    Attributes:
      meta_graph: The SignatureDefs of the model: those of TF Serving's metadata or of TensorFlow Lite; without these
        `serving_default`, whose inputs and outputs have the names of their tensors.
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
        for name, definition in (_stored_signatures(content) or _signatures(first)).items():
            self.meta_graph.signature_def[name].CopyFrom(definition)
            for infos, positions in ((definition.inputs, self._inputs), (definition.outputs, self._outputs)):
                for info in infos.values():
                    _position(info.name, positions)
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


def _stored_signatures(content: bytes) -> dict[str, meta_graph_pb2.SignatureDef]:
    """Returns the SignatureDefs that a model contains as metadata for TF Serving.

    Source: tensorflow/lite/tools/signature/signature_def_util.cc. TensorFlow has no Python interface for them.

    Raises:
      RequestError: INVALID_ARGUMENT, if they are damaged.
    """
    from flatbuffers import flexbuffers
    from tensorflow.lite.python import schema_py_generated as schema

    model = schema.Model.GetRootAs(content)
    for index in range(model.MetadataLength()):
        entry = model.Metadata(index)
        if entry.Name() == _METADATA:
            try:
                signatures = flexbuffers.GetRoot(model.Buffers(entry.Buffer()).DataAsNumpy().tobytes()).AsMap
                return {
                    name.AsKey: meta_graph_pb2.SignatureDef.FromString(value.AsStringBytes)
                    for name, value in zip(signatures.Keys, signatures.Values, strict=True)
                }
            except Exception as error:  # the packages raise many classes
                raise invalid_argument(f"Invalid SignatureDefs found in TfLite model: {error}") from None
    return {}


def _signatures(interpreter: Any) -> dict[str, meta_graph_pb2.SignatureDef]:
    """Returns the signatures of TensorFlow Lite."""
    inputs, outputs = interpreter.get_input_details(), interpreter.get_output_details()
    by_position = {entry["index"]: entry for entry in (*inputs, *outputs)}

    def named(details: Mapping[str, Any]) -> dict[str, Any]:
        return {alias: by_position.get(entry["index"], entry) for alias, entry in details.items()}

    signatures = {}
    for name in interpreter.get_signature_list():
        runner = interpreter.get_signature_runner(name)
        signatures[name] = _definition(named(runner.get_input_details()), named(runner.get_output_details()))
    # As in TF Serving, the names of tensors lose their `:0`.
    by_name = ({entry["name"].partition(":")[0]: entry for entry in entries} for entries in (inputs, outputs))
    return signatures or {SERVING_DEFAULT: _definition(*by_name)}


def _definition(inputs: Mapping[str, Any], outputs: Mapping[str, Any]) -> meta_graph_pb2.SignatureDef:
    """Makes a signature of inputs and outputs: alias → details of the tensor."""
    definition = meta_graph_pb2.SignatureDef(method_name=_PREDICT)
    for entries, infos in ((inputs, definition.inputs), (outputs, definition.outputs)):
        for alias, entry in entries.items():
            _fill(infos[alias], entry)
    return definition


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
