"""A SavedModel in a session of TensorFlow's C API, as TF Serving loads it: no Python objects, no `import tensorflow`.

The library is the one in TensorFlow's wheel. The Python package above it would take ten seconds to import, and most of
the memory of a small server.

Source: tensorflow/c/{c_api,tf_tensor,tf_tstring,tf_status,tf_buffer}.h, cc/saved_model/loader.cc.
"""

from __future__ import annotations

import contextlib
import ctypes
import threading
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from serving.local_server import c_library, custom_operations, dtypes
from serving.local_server.errors import RequestError, from_number, invalid_argument
from serving.local_server.protos import config_pb2, meta_graph_pb2
from trainer_module import locations

_VARIABLES_INDEX = "variables/variables.index"
_STRING_BYTES = 24  # sizeof(TF_TString)


class _Buffer(ctypes.Structure):
    """TF_Buffer."""

    _fields_ = (("data", ctypes.c_void_p), ("length", ctypes.c_size_t), ("deallocator", ctypes.c_void_p))


class _Output(ctypes.Structure):
    """TF_Output: an operation, and the position of one of its outputs."""

    _fields_ = (("operation", ctypes.c_void_p), ("index", ctypes.c_int))


@contextlib.contextmanager
def _status() -> Iterator[Any]:
    """Provides a TF_Status.

    Raises:
      RequestError: After the block, if the status is an error.
    """
    library = c_library.load()
    status = library.TF_NewStatus()
    try:
        yield status
        if code := library.TF_GetCode(status):
            raise from_number(code, library.TF_Message(status).decode("utf-8", "replace"))
    finally:
        library.TF_DeleteStatus(status)


class Session:
    """A loaded SavedModel; thread-safe.

    Attributes:
      meta_graph: The MetaGraphDef without its graph; contains the signatures.
    """

    def __init__(self, export_dir: str, tags: Sequence[str], config: config_pb2.ConfigProto) -> None:
        """Loads the model.

        Args:
          export_dir: Folder with `saved_model.pb` and `variables/`.
          tags: Tags of the meta graph to load.
          config: Options of the session.

        Raises:
          RequestError: If the model cannot be loaded.
        """
        library = c_library.load()
        self._outputs: dict[str, _Output] = {}
        self._lock = threading.Lock()
        self._graph = library.TF_NewGraph()
        # Some operations of tensorflow_text have no shape function. TF Serving does not require any.
        library.TF_SetRequireShapeInferenceFns(self._graph, False)
        self._session = None
        buffer, options = library.TF_NewBuffer(), library.TF_NewSessionOptions()
        names = (ctypes.c_char_p * len(tags))(*(tag.encode() for tag in tags))
        text = config.SerializeToString()
        try:
            with _status() as status:
                library.TF_SetConfig(options, text, len(text), status)

            def load() -> None:
                with _status() as status:
                    self._session = library.TF_LoadSessionFromSavedModel(
                        options, None, export_dir.encode(), names, len(names), self._graph, buffer, status
                    )

            custom_operations.loading(load, _load_library)
            loaded = _Buffer.from_address(buffer)
            self.meta_graph = _without_graph(ctypes.string_at(loaded.data, loaded.length))
            # The loader only logs this, and every request would fail.
            index = locations.join(export_dir, _VARIABLES_INDEX)
            if self.meta_graph.HasField("saver_def") and not locations.file_system(index).exists(index):
                raise RequestError("NOT_FOUND", f"{index} is missing")
        except BaseException:
            self.close()
            raise
        finally:
            library.TF_DeleteBuffer(buffer)
            library.TF_DeleteSessionOptions(options)
            _trim()

    def run(
        self, feeds: Mapping[str, np.ndarray], fetches: Sequence[str], timeout_s: float | None = None
    ) -> list[np.ndarray]:
        """Runs the graph.

        Args:
          feeds: Arrays by tensor name; strings as object arrays of bytes. The graph checks their shapes.
          fetches: Names of tensors.
          timeout_s: When to stop the run; None does not limit it.

        Returns:
          One array per fetch; strings as object arrays of bytes.

        Raises:
          RequestError: With the graph's code and message.
        """
        library = c_library.load()
        inputs = (_Output * len(feeds))(*map(self._output, feeds))
        outputs = (_Output * len(fetches))(*map(self._output, fetches))
        values, results = (ctypes.c_void_p * len(feeds))(), (ctypes.c_void_p * len(fetches))()
        options = None
        if timeout_s is not None:
            text = config_pb2.RunOptions(timeout_in_ms=max(int(timeout_s * 1000), 1)).SerializeToString()
            options = library.TF_NewBufferFromString(text, len(text))
        try:
            for index, value in enumerate(feeds.values()):
                values[index] = _to_tensor(value)
            with _status() as status:
                library.TF_SessionRun(
                    self._session, options, inputs, values, len(feeds), outputs, results, len(fetches), None, 0, None,
                    status,
                )  # fmt: skip
            return [_to_array(result) for result in results]
        finally:
            for tensor in (*values, *results):
                if tensor:
                    library.TF_DeleteTensor(tensor)
            if options:
                library.TF_DeleteBuffer(options)

    def close(self) -> None:
        """Frees the session, its variables and the graph."""
        library = c_library.load()
        with self._lock:
            session, self._session = self._session, None
            graph, self._graph = self._graph, None
        status = library.TF_NewStatus()
        if session:
            library.TF_CloseSession(session, status)
            library.TF_DeleteSession(session, status)
        if graph:
            library.TF_DeleteGraph(graph)
        library.TF_DeleteStatus(status)
        _trim()

    def _output(self, tensor_name: str) -> _Output:
        """Finds a tensor of the graph by its name, such as `StatefulPartitionedCall:0`."""
        output = self._outputs.get(tensor_name)
        if output is None:
            library = c_library.load()
            operation, _, index = tensor_name.partition(":")
            pointer = library.TF_GraphOperationByName(self._graph, operation.encode())
            position = int(index) if index.isdigit() else 0
            if not pointer or position >= library.TF_OperationNumOutputs(pointer):
                raise invalid_argument(
                    f"Tensor {tensor_name}, specified in either feed_devices or fetch_devices was not found in the "
                    "Graph"
                )
            output = self._outputs[tensor_name] = _Output(pointer, position)
        return output


def _without_graph(text: bytes) -> meta_graph_pb2.MetaGraphDef:
    """Parses a MetaGraphDef without its graph, which the session has already.

    A message frees the memory of a cleared field only together with its own; hence the second one.
    """
    parsed = meta_graph_pb2.MetaGraphDef.FromString(text)
    parsed.ClearField("graph_def")
    return meta_graph_pb2.MetaGraphDef.FromString(parsed.SerializeToString())


def _trim() -> None:
    """Returns the memory that loading or unloading has freed to the operating system; the C library keeps it."""
    with contextlib.suppress(AttributeError):  # another library than glibc
        ctypes.CDLL(None).malloc_trim(0)


def _load_library(path: Path) -> None:
    with _status() as status:
        c_library.load().TF_LoadLibrary(str(path).encode(), status)


def _to_tensor(value: np.ndarray) -> Any:
    """Copies an array into a new TF_Tensor.

    Raises:
      RequestError: INVALID_ARGUMENT, if it contains something else than numbers or bytes.
    """
    library = c_library.load()
    try:
        data_type = dtypes.of_array(value)
    except KeyError:
        raise invalid_argument(f"Arrays of {value.dtype} cannot be fed") from None
    dims = (ctypes.c_int64 * value.ndim)(*value.shape)
    if data_type is dtypes.STRING:
        tensor = library.TF_AllocateTensor(data_type.number, dims, value.ndim, value.size * _STRING_BYTES)
        data = library.TF_TensorData(tensor)
        for index, item in enumerate(value.ravel().tolist()):
            address = (data or 0) + index * _STRING_BYTES
            library.TF_StringInit(address)
            library.TF_StringCopy(address, item, len(item))
        return tensor
    value = np.ascontiguousarray(value)
    tensor = library.TF_AllocateTensor(data_type.number, dims, len(dims), value.nbytes)
    if value.nbytes:
        ctypes.memmove(library.TF_TensorData(tensor), value.ctypes.data, value.nbytes)
    return tensor


def _to_array(tensor: Any) -> np.ndarray:
    """Copies a TF_Tensor into a new array.

    Raises:
      RequestError: UNIMPLEMENTED, for a data type without numpy type.
    """
    library = c_library.load()
    data_type = dtypes.of_number(library.TF_TensorType(tensor))
    shape = [library.TF_Dim(tensor, axis) for axis in range(library.TF_NumDims(tensor))]
    data = library.TF_TensorData(tensor)
    array = np.empty(shape, data_type.numpy)
    if data_type is dtypes.STRING:
        flat = array.reshape(-1)
        for index in range(array.size):
            address = data + index * _STRING_BYTES
            flat[index] = ctypes.string_at(library.TF_StringGetDataPointer(address), library.TF_StringGetSize(address))
    elif array.nbytes:
        ctypes.memmove(array.ctypes.data, data, array.nbytes)
    return array
