"""Reads tensors from a file of PyTorch's first format, without PyTorch and without running code from the file.

The format is a sequence of pickles - magic number, version, system information, the object, the keys of its storages -
followed by the number of elements (int64) and their bytes for every key. A pickle may name any Python function for the
reader to call; this reader knows only an ordered dictionary and two stand-ins that are defined below.

Reference: `torch/serialization.py`, `_legacy_save` and `_legacy_load`, https://github.com/pytorch/pytorch.
"""

from __future__ import annotations

import collections
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

import numpy as np

_MAGIC_NUMBER = 0x1950A86A20F9469CFC6C
_VERSION = 1001


class _Storage(NamedTuple):
    key: str
    dtype: np.dtype[Any]
    length: int


class _View(NamedTuple):
    storage: _Storage
    offset: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]


def _rebuild(storage: _Storage, offset: int, shape: tuple[int, ...], strides: tuple[int, ...], *_: object) -> _View:
    return _View(storage, offset, tuple(shape), tuple(strides))


# Stand-ins for the classes of storages: the type of their elements.
_STORAGES = {"FloatStorage": np.dtype("<f4"), "LongStorage": np.dtype("<i8")}
_KNOWN: dict[tuple[str, str], Any] = {
    ("collections", "OrderedDict"): collections.OrderedDict,
    ("torch._utils", "_rebuild_tensor_v2"): _rebuild,
} | {("torch", name): dtype for name, dtype in _STORAGES.items()}


class _Unpickler(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        try:
            return _KNOWN[module, name]
        except KeyError:
            raise pickle.UnpicklingError(f"The file calls {module}.{name}, which weights do not need.") from None

    def persistent_load(self, pid: Any) -> _Storage:
        kind, dtype, key, _, count, view = pid
        if kind != "storage" or view is not None or not isinstance(dtype, np.dtype):
            raise pickle.UnpicklingError(f"The file refers to something that is not a storage: {kind!r}.")
        return _Storage(str(key), dtype, int(count))


def read(path: str | Path) -> dict[str, np.ndarray]:
    """Reads a dictionary of tensors.

    Args:
      path: A file written by PyTorch before 1.6, or by a later version without zip.

    Returns:
      float32 or int64 arrays by name.

    Raises:
      pickle.UnpicklingError: If the file has another format, or contains anything but tensors.
    """
    with open(path, "rb") as file:
        if _load(file) != _MAGIC_NUMBER or _load(file) != _VERSION:
            raise pickle.UnpicklingError(f"{path} is not a file of PyTorch's first format.")
        _load(file)  # information about the machine that wrote it
        views = _load(file)
        keys = _load(file)
        if not isinstance(views, dict) or not all(isinstance(view, _View) for view in views.values()):
            raise pickle.UnpicklingError(f"{path} does not contain a dictionary of tensors.")
        storages = {view.storage.key: view.storage for view in views.values()}
        values = {key: _elements(file, storages[key]) for key in keys if key in storages}
        if len(values) != len(storages) or len(values) != len(keys):
            raise pickle.UnpicklingError(f"{path} does not contain all tensors that it names.")
    return {name: _array(view, values[view.storage.key]) for name, view in views.items()}


def _load(file: BinaryIO) -> Any:
    load: Callable[[], Any] = _Unpickler(file).load
    return load()


def _elements(file: BinaryIO, storage: _Storage) -> np.ndarray:
    count = int.from_bytes(file.read(8), "little", signed=True)
    content = file.read(count * storage.dtype.itemsize) if count == storage.length else b""
    if count != storage.length or len(content) != count * storage.dtype.itemsize:
        raise pickle.UnpicklingError(f"Storage {storage.key} is truncated.")
    return np.frombuffer(content, storage.dtype)


def _array(view: _View, values: np.ndarray) -> np.ndarray:
    last = view.offset + sum((size - 1) * stride for size, stride in zip(view.shape, view.strides, strict=True))
    if min((view.offset, *view.shape, *view.strides)) < 0 or last >= len(values):
        raise pickle.UnpicklingError("A tensor exceeds its storage.")
    strides = [stride * values.itemsize for stride in view.strides]
    # A copy: nothing outside the checked bounds can be reached from it.
    return np.lib.stride_tricks.as_strided(values[view.offset :], view.shape, strides).copy()
