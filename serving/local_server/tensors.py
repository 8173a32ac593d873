"""TensorProto ↔ numpy arrays, as in TF Serving."""

from __future__ import annotations

import math

import numpy as np
import tensorflow as tf
from tensorflow.core.framework import tensor_pb2

from serving.local_server.errors import invalid_argument

# numpy type → TensorProto's field of typed values.
_TYPED_FIELDS = {
    np.dtype(np.float32): "float_val",
    np.dtype(np.float64): "double_val",
    np.dtype(np.int8): "int_val",
    np.dtype(np.int16): "int_val",
    np.dtype(np.int32): "int_val",
    np.dtype(np.uint8): "int_val",
    np.dtype(np.uint16): "int_val",
    np.dtype(np.uint32): "uint32_val",
    np.dtype(np.int64): "int64_val",
    np.dtype(np.uint64): "uint64_val",
    np.dtype(np.bool_): "bool_val",
}
# Their values are stored as the integers of their bits.
_HALF_TYPES = (np.dtype(np.float16), np.dtype(tf.bfloat16.as_numpy_dtype))
_VALUE_FIELDS = ("string_val", *sorted({*_TYPED_FIELDS.values(), "half_val", "scomplex_val", "dcomplex_val"}))
_MAX_REPEATED = 2**20


def to_numpy(tensor: tensor_pb2.TensorProto) -> np.ndarray:
    """Reads a tensor of a request; strings become an object array of bytes.

    Raises:
      RequestError: INVALID_ARGUMENT, if shape, dtype and values contradict each other.
    """
    shape = [dim.size for dim in tensor.tensor_shape.dim]
    if tensor.dtype == tf.string.as_datatype_enum and len(shape) == 1 == len(tensor.string_val) == shape[0]:
        single = np.empty(1, dtype=object)
        single[0] = tensor.string_val[0]
        return single
    # One value may be repeated, but not more often than a request could contain: a shape costs the sender nothing.
    num_values = max(len(getattr(tensor, field)) for field in _VALUE_FIELDS)
    size = math.prod(shape)
    if min(shape, default=0) < 0 or (not tensor.tensor_content and size > max(num_values, _MAX_REPEATED)):
        raise invalid_argument(f"tensor parsing error: shape {shape} for {num_values} values")
    try:
        array = np.asarray(tf.make_ndarray(tensor))
    except (TypeError, ValueError, IndexError, OverflowError, KeyError) as error:
        raise invalid_argument(f"tensor parsing error: {error}") from None
    if array.size != size:
        raise invalid_argument(f"tensor parsing error: shape {shape} for {array.size} values")
    return array


def to_proto(value: np.ndarray, tensor: tensor_pb2.TensorProto, *, as_content: bool = False) -> None:
    """Writes a tensor of a response.

    Args:
      value: An output of the model.
      tensor: An empty message.
      as_content: Write raw bytes instead of typed fields (`float_val`, ...), which are TF Serving's default.
    """
    value = np.asarray(value)
    if value.dtype == object or value.dtype.kind in "SU":
        tensor.dtype = tf.string.as_datatype_enum
        tensor.string_val.extend(item if isinstance(item, bytes) else str(item).encode() for item in value.ravel())
    else:
        tensor.dtype = tf.dtypes.as_dtype(value.dtype).as_datatype_enum
        if as_content:
            tensor.tensor_content = value.tobytes()
        elif value.dtype in _TYPED_FIELDS:
            getattr(tensor, _TYPED_FIELDS[value.dtype]).extend(value.ravel().tolist())
        elif value.dtype in _HALF_TYPES:
            tensor.half_val.extend(value.ravel().view(np.uint16).tolist())
        else:
            # Complex numbers are pairs of real and imaginary part.
            single = value.dtype == np.complex64
            pairs = value.ravel().view(np.float32 if single else np.float64).tolist()
            (tensor.scomplex_val if single else tensor.dcomplex_val).extend(pairs)
    for size in value.shape:
        tensor.tensor_shape.dim.add(size=size)
