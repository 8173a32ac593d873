"""TensorProto ↔ numpy arrays, as in TensorFlow.

Source: TensorFlow's core/framework/tensor.cc (`Tensor::FromProto`), and core/lib/strings or tsl's coding of strings.
"""

from __future__ import annotations

import math

import numpy as np

from serving.local_server import dtypes
from serving.local_server.errors import RequestError, invalid_argument
from serving.local_server.protos import tensor_pb2

_COMPLEX_TYPES = {"complex64": np.float32, "complex128": np.float64}
_MAX_REPEATED = 2**20


def to_numpy(tensor: tensor_pb2.TensorProto, alias: str) -> np.ndarray:
    """Reads a tensor of a request; strings become an object array of bytes.

    As in TensorFlow's parser, surplus values are ignored, the last value is repeated if there are too few, no value
    means zeros, and integers wrap around in a narrow type.

    Args:
      tensor: The message.
      alias: Name of the input, for the error.

    Raises:
      RequestError: INVALID_ARGUMENT, if shape, dtype and values contradict each other.
    """
    error = invalid_argument(f"tensor parsing error: {alias}")
    shape = [dim.size for dim in tensor.tensor_shape.dim]
    try:
        data_type = dtypes.of_number(tensor.dtype)
    except RequestError:
        raise error from None
    if tensor.tensor_shape.unknown_rank or min(shape, default=0) < 0 or len(shape) > dtypes.MAX_DIMENSIONS:
        raise error
    size = math.prod(shape)
    if tensor.tensor_content:
        values = _from_content(tensor.tensor_content, data_type, size)
    else:
        values = _from_fields(tensor, data_type, size)
    if values is None:
        raise error
    return values.reshape(shape)


def _from_content(content: bytes, data_type: dtypes.DataType, size: int) -> np.ndarray | None:
    if data_type is dtypes.STRING:
        return _strings(content, size)
    if len(content) != size * data_type.numpy.itemsize:
        return None
    values = np.frombuffer(content, np.uint8 if data_type is dtypes.BOOL else data_type.numpy)
    # A byte above 1 is not a bool to numpy.
    return values != 0 if data_type is dtypes.BOOL else values


def _from_fields(tensor: tensor_pb2.TensorProto, data_type: dtypes.DataType, size: int) -> np.ndarray | None:
    field = getattr(tensor, data_type.field)
    # One value may be repeated, but not more often than a request could contain: a shape costs the sender nothing.
    if size > max(len(field), _MAX_REPEATED):
        return None
    if data_type is dtypes.STRING:
        strings = np.empty(size, dtype=object)
        given = list(field[:size]) or [b""]
        strings[:] = given + given[-1:] * (size - len(given)) if size else []
        return strings
    if data_type.name in _COMPLEX_TYPES:
        parts = np.array(field, _COMPLEX_TYPES[data_type.name])
        values = parts[: len(parts) // 2 * 2].view(data_type.numpy)
    elif data_type.field == "half_val":
        values = np.array(field, np.int64).astype(np.uint16).view(data_type.numpy)
    elif data_type.field == "int_val":
        values = np.array(field, np.int64).astype(data_type.numpy)
    else:
        values = np.array(field, data_type.numpy)
    if len(values) >= size:
        return values[:size]
    return np.concatenate([values, np.full(size - len(values), values[-1] if len(values) else 0, data_type.numpy)])


def _strings(content: bytes, size: int) -> np.ndarray | None:
    """Reads the lengths of all strings, as varints, and then the strings."""
    lengths, at = [], 0
    for _ in range(min(size, len(content) + 1)):
        length = shift = 0
        while True:
            if at >= len(content) or shift > 28:
                return None
            length |= (content[at] & 0x7F) << shift
            shift += 7
            at += 1
            if not content[at - 1] & 0x80:
                break
        lengths.append(length)
    if len(lengths) != size or at + sum(lengths) != len(content):
        return None
    values = np.empty(size, dtype=object)
    for index, length in enumerate(lengths):
        values[index] = content[at : at + length]
        at += length
    return values


def to_proto(value: np.ndarray, tensor: tensor_pb2.TensorProto, *, as_content: bool = False) -> None:
    """Writes a tensor of a response.

    Args:
      value: An output of the model; strings as objects of class bytes.
      tensor: An empty message.
      as_content: Write raw bytes instead of typed fields (`float_val`, ...), which are TF Serving's default.
    """
    data_type = dtypes.of_array(value)
    tensor.dtype = data_type.number
    field, flat = getattr(tensor, data_type.field), value.ravel()
    if as_content and data_type is not dtypes.STRING:
        tensor.tensor_content = value.tobytes()
    else:
        if data_type.field == "half_val":  # stored as the integers of their bits
            flat = flat.view(np.uint16)
        elif data_type.name in _COMPLEX_TYPES:  # pairs of real and imaginary part
            flat = flat.view(_COMPLEX_TYPES[data_type.name])
        field.extend(flat.tolist())
    for size in value.shape:
        tensor.tensor_shape.dim.add(size=size)
