"""TensorFlow's data types, without TensorFlow: number, C++ name, numpy type.

Source: TensorFlow's core/framework/{types.proto,types.cc}.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import ml_dtypes
import numpy as np

from serving.local_server.errors import RequestError

# TensorFlow supports no more dimensions.
MAX_DIMENSIONS = 254


@dataclass(frozen=True, eq=False)
class DataType:
    """One data type; each exists once, and is compared by identity.

    Attributes:
      number: In the enum `tensorflow.DataType`.
      name: In messages of TensorFlow's C++ code: float, not float32.
      numpy: The numpy type; strings are objects of class bytes.
      field: The field of a TensorProto with the values.
    """

    number: int
    name: str
    numpy: np.dtype[Any]
    field: str


_TYPES = tuple(
    DataType(number, name, np.dtype(numpy), field)
    for number, name, numpy, field in (
        (1, "float", np.float32, "float_val"),
        (2, "double", np.float64, "double_val"),
        (3, "int32", np.int32, "int_val"),
        (4, "uint8", np.uint8, "int_val"),
        (5, "int16", np.int16, "int_val"),
        (6, "int8", np.int8, "int_val"),
        (7, "string", np.object_, "string_val"),
        (8, "complex64", np.complex64, "scomplex_val"),
        (9, "int64", np.int64, "int64_val"),
        (10, "bool", np.bool_, "bool_val"),
        (14, "bfloat16", ml_dtypes.bfloat16, "half_val"),
        (17, "uint16", np.uint16, "int_val"),
        (18, "complex128", np.complex128, "dcomplex_val"),
        (19, "half", np.float16, "half_val"),
        (22, "uint32", np.uint32, "uint32_val"),
        (23, "uint64", np.uint64, "uint64_val"),
    )
)
(FLOAT, DOUBLE, INT32, UINT8, INT16, INT8, STRING) = _TYPES[:7]
INT64, BOOL = _TYPES[8:10]
UINT32, UINT64 = _TYPES[14:]

_BY_NUMBER = {data_type.number: data_type for data_type in _TYPES}
_BY_NUMPY = {data_type.numpy: data_type for data_type in _TYPES}


def of_number(number: int) -> DataType:
    """Returns the type of a TensorProto or TensorInfo.

    Raises:
      RequestError: UNIMPLEMENTED, if this server does not support it: quantized types, resources, variants.
    """
    if number not in _BY_NUMBER:
        raise RequestError("UNIMPLEMENTED", f"Tensors of DataType {number} are not supported")
    return _BY_NUMBER[number]


def of_array(array: np.ndarray) -> DataType:
    """Returns the type of an array.

    Raises:
      KeyError: If TensorFlow has no such type.
    """
    return _BY_NUMPY[array.dtype]
