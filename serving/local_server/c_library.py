"""The library with TensorFlow's C API in TensorFlow's wheel, loaded without `import tensorflow`.

Source: tensorflow/c/{c_api,tf_tensor,tf_tstring,tf_status,tf_buffer}.h.
"""

from __future__ import annotations

import ctypes
import functools
import importlib.util
import mmap
import os
import types
from collections.abc import Iterator
from pathlib import Path
from typing import Any

_LIBRARIES = ("libtensorflow_framework.so.2", "libtensorflow_cc.so.2")  # the second one needs the first one
_P, _SIZE, _INT = ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int
# Function → (type of the result, types of the arguments).
_FUNCTIONS: dict[str, tuple[Any, list[Any]]] = {
    "TF_NewStatus": (_P, []),
    "TF_DeleteStatus": (None, [_P]),
    "TF_GetCode": (_INT, [_P]),
    "TF_Message": (ctypes.c_char_p, [_P]),
    "TF_NewBufferFromString": (_P, [ctypes.c_char_p, _SIZE]),
    "TF_NewBuffer": (_P, []),
    "TF_DeleteBuffer": (None, [_P]),
    "TF_NewGraph": (_P, []),
    "TF_DeleteGraph": (None, [_P]),
    "TF_SetRequireShapeInferenceFns": (None, [_P, ctypes.c_bool]),
    "TF_GraphOperationByName": (_P, [_P, ctypes.c_char_p]),
    "TF_OperationNumOutputs": (_INT, [_P]),
    "TF_NewSessionOptions": (_P, []),
    "TF_SetConfig": (None, [_P, ctypes.c_char_p, _SIZE, _P]),
    "TF_DeleteSessionOptions": (None, [_P]),
    "TF_LoadSessionFromSavedModel": (_P, [_P, _P, ctypes.c_char_p, _P, _INT, _P, _P, _P]),
    "TF_CloseSession": (None, [_P, _P]),
    "TF_DeleteSession": (None, [_P, _P]),
    "TF_SessionRun": (None, [_P, _P, _P, _P, _INT, _P, _P, _INT, _P, _INT, _P, _P]),
    "TF_LoadLibrary": (_P, [ctypes.c_char_p, _P]),
    "TF_AllocateTensor": (_P, [_INT, _P, _INT, _SIZE]),
    "TF_DeleteTensor": (None, [_P]),
    "TF_TensorType": (_INT, [_P]),
    "TF_NumDims": (_INT, [_P]),
    "TF_Dim": (ctypes.c_int64, [_P, _INT]),
    "TF_TensorByteSize": (_SIZE, [_P]),
    "TF_TensorData": (_P, [_P]),
    "TF_StringInit": (None, [_P]),
    "TF_StringCopy": (None, [_P, ctypes.c_char_p, _SIZE]),
    "TF_StringGetDataPointer": (_P, [_P]),
    "TF_StringGetSize": (_SIZE, [_P]),
}

# They run graphs, read files or free much memory: other threads continue meanwhile.
_SLOW = {
    "TF_LoadSessionFromSavedModel", "TF_SessionRun", "TF_CloseSession", "TF_DeleteSession", "TF_DeleteGraph",
    "TF_LoadLibrary",
}  # fmt: skip


def folder() -> Path:
    """Returns the folder of the package `tensorflow`."""
    spec = importlib.util.find_spec("tensorflow")
    return Path(next(iter(spec.submodule_search_locations or ())) if spec else "")


@functools.cache
def load() -> Any:
    """Loads the library; takes a second, and 400 MB of memory for this second.

    A process that calls it before other imports needs no more memory than that.
    """
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "1")
    for name in _LIBRARIES:
        library = ctypes.CDLL(str(folder() / name))
        _release_pages(name)
    # Giving up the interpreter's lock and waiting for it takes longer than most functions do.
    quick = ctypes.PyDLL(str(folder() / name))
    functions = types.SimpleNamespace()
    for name, (result, arguments) in _FUNCTIONS.items():
        function = getattr(library if name in _SLOW else quick, name)
        function.restype, function.argtypes = result, arguments
        setattr(functions, name, function)
    return functions


def _release_pages(library_name: str) -> None:
    """Returns the memory of a library's code and constants, of which the loader touches most, to the operating system.

    What is needed again is mapped again from the file.
    """
    madvise = ctypes.CDLL(None).madvise
    madvise.argtypes = [_P, _SIZE, _INT]
    for start, end in _unmodified_mappings(library_name):
        madvise(start, end - start, mmap.MADV_DONTNEED)


def _unmodified_mappings(library_name: str) -> Iterator[tuple[int, int]]:
    """Yields start and end of the mappings of a library whose pages all equal the file: relocation changes the others.

    Source: proc_pid_smaps(5).
    """
    span = ""
    for line in Path("/proc/self/smaps").read_text().splitlines():
        first, *rest = line.split()
        if not first.endswith(":"):
            span = first if line.endswith(f"/{library_name}") else ""
        elif span and first == "Anonymous:" and rest[0] == "0":
            start, end = span.split("-")
            yield int(start, 16), int(end, 16)
