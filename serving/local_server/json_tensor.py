"""JSON bodies of REST's Predict ↔ tensors.

Source: TF Serving's util/json_tensor.cc and its REST documentation.
"""

from __future__ import annotations

import base64
import binascii
import json
from collections.abc import Mapping
from typing import Any

import numpy as np
import orjson

from serving.local_server import dtypes
from serving.local_server.dtypes import DataType
from serving.local_server.errors import RequestError, invalid_argument
from serving.local_server.json_text import as_double, is_base64, shown, type_name

ROW, COLUMN = "row", "column"
# C++ reads them as int32, and they wrap around.
_SMALL_INTEGERS = (dtypes.INT8, dtypes.INT16, dtypes.UINT8)
_INTEGERS = (*_SMALL_INTEGERS, dtypes.INT32, dtypes.INT64, dtypes.UINT32, dtypes.UINT64)
_FLOATS = (dtypes.FLOAT, dtypes.DOUBLE)
_NUMBERS = (*_INTEGERS, *_FLOATS)
_WHITE_SPACE, _PADDING = b" \t\n\v\f\r", bytes.maketrans(b".", b"=")


def signature_name(request: dict[str, Any]) -> str:
    """Returns the signature of a request; empty if it has none.

    Raises:
      RequestError: INVALID_ARGUMENT, if it is not a string.
    """
    name = request.get("signature_name", "")
    if not isinstance(name, str):
        raise invalid_argument(
            f"JSON Value: {shown(request)} not formatted correctly. 'signature_name' key must be a string value."
        )
    return name


def to_tensors(request: dict[str, Any], inputs: Mapping[str, Any]) -> tuple[dict[str, np.ndarray], str]:
    """Reads `instances` (row format) or `inputs` (column format).

    Args:
      request: The parsed body.
      inputs: TensorInfo of every input of the signature.

    Returns:
      One array per input, and the format, which is also that of the response.
    """
    if "instances" in request and "inputs" in request:
        raise invalid_argument(
            f"JSON Value: {shown(request)} Not formatted correctly expecting only one of 'inputs' or 'instances' "
            "keys to exist "
        )
    if "instances" in request:
        return _from_rows(request, inputs), ROW
    if "inputs" in request:
        return _from_columns(request["inputs"], inputs), COLUMN
    raise invalid_argument("Missing 'inputs' or 'instances' key")


def from_tensors(outputs: Mapping[str, np.ndarray], format_: str) -> bytes:
    """Writes the response: `predictions` (row format) or `outputs` (column format).

    Raises:
      RequestError: INVALID_ARGUMENT, if the outputs have no common first dimension for rows, or a dtype that JSON
        cannot represent.
    """
    if format_ == COLUMN:
        columns = {name: to_json(name, value) for name, value in outputs.items()}
        return dumps({"outputs": next(iter(columns.values())) if len(columns) == 1 else columns})
    size = None
    for name, value in outputs.items():
        if not value.ndim:
            raise invalid_argument(f"Tensor name: {name} has no shape information ")
        if size not in (None, len(value)):
            raise invalid_argument(f"Tensor name: {name} has inconsistent batch size: {len(value)} expecting: {size}")
        size = len(value)
    columns = {name: to_json(name, value) for name, value in outputs.items()}
    if len(columns) == 1:
        return dumps({"predictions": next(iter(columns.values()))})
    rows = zip(*columns.values(), strict=True)
    return dumps({"predictions": [dict(zip(columns, row, strict=True)) for row in rows]})


def dumps_indented(value: Any) -> bytes:
    """Writes JSON as protobuf's `MessageToJsonString` does with white space."""
    return json.dumps(value, indent=1, ensure_ascii=False).encode("utf-8", "replace") + b"\n"


def dumps(value: Any) -> bytes:
    """Writes JSON; arrays of numbers are allowed, but arrays with NaN or infinity must be converted to lists first."""
    return orjson.dumps(value, option=orjson.OPT_SERIALIZE_NUMPY)


def _from_rows(request: dict[str, Any], inputs: Mapping[str, Any]) -> dict[str, np.ndarray]:
    instances = request["instances"]
    if not isinstance(instances, list):
        raise invalid_argument(f"JSON Value: {shown(request)} Expecting 'instances' to be an list/array")
    if not instances:
        raise invalid_argument(f"JSON Value: {shown(request)} No values in 'instances' array")
    if not isinstance(instances[0], dict) and len(inputs) > 1:
        raise invalid_argument(
            "instances is a plain list, but expecting list of objects as multiple input tensors required "
            "as per tensorinfo_map"
        )
    named = _is_object(instances[0])
    for index, instance in enumerate(instances):
        if named != _is_object(instance):
            expected, actual = ("object", "list") if named else ("value/list", "object")
            raise invalid_argument(f"Expecting {expected} but got {actual} at item {index} of input list")
    if not named:
        name = next(iter(inputs))
        return {name: _rows_to_array(instances, inputs[name], "")}
    for index, instance in enumerate(instances):
        for key in instance:
            if key not in inputs:
                raise invalid_argument(
                    f"Failed to process element: {index} key: {key} of 'instances' list. "
                    f"Error: INVALID_ARGUMENT: JSON object: does not have named input: {key}"
                )
        if len(instance) != len(inputs):
            raise invalid_argument(
                f"Failed to process element: {index} of 'instances' list. JSON object: {shown(instance)} "
                f"keys must be equal to: {','.join(sorted(inputs))}"
            )
    return {
        name: _rows_to_array([instance[name] for instance in instances], info, f"key: {name} ")
        for name, info in inputs.items()
    }


def _from_columns(value: Any, inputs: Mapping[str, Any]) -> dict[str, np.ndarray]:
    if _is_object(value):
        for name in inputs:
            if name not in value:
                raise invalid_argument(f"Missing named input: {name} in 'inputs' object.")
        return {name: _to_array(value[name], dtypes.of_number(info.dtype)) for name, info in inputs.items()}
    if len(inputs) > 1:
        raise invalid_argument(
            "inputs is a plain value/list, but expecting an object as multiple input tensors required "
            "as per tensorinfo_map"
        )
    ((name, info),) = inputs.items()
    return {name: _to_array(value, dtypes.of_number(info.dtype))}


def _rows_to_array(rows: list[Any], info: Any, where: str) -> np.ndarray:
    """Converts all rows to one array; an error names the row."""
    dtype = dtypes.of_number(info.dtype)
    if (numbers := _numbers(rows, dtype)) is not None:
        return numbers
    arrays: list[np.ndarray] = []
    for index, row in enumerate(rows):
        try:
            arrays.append(_to_array(row, dtype))
            if arrays[-1].shape != arrays[0].shape:
                first, this = (f"[{','.join(map(str, array.shape))}]" for array in (arrays[0], arrays[-1]))
                if arrays[-1].size != arrays[0].size:
                    message = f"Expecting tensor size: {arrays[0].size} but got: {arrays[-1].size}"
                else:
                    message = f"Expecting shape {first} but got: {this}"
                raise invalid_argument(message)
        except RequestError as error:
            raise RequestError(
                error.code,
                f"Failed to process element: {index} {where}of 'instances' list. Error: {error.code}: {error.message}",
            ) from None
    return np.stack(arrays)


def _to_array(value: Any, dtype: DataType) -> np.ndarray:
    if (array := _numbers(value, dtype)) is not None:
        return array
    shape = _shape(value)
    flat: list[Any] = []
    _flatten(value, shape, 0, dtype, flat)
    array = np.empty(len(flat), dtype.numpy)
    with np.errstate(over="ignore"):  # a double beyond the range of float becomes infinite
        array[:] = flat
    return array.reshape(shape)


def _numbers(value: Any, dtype: DataType) -> np.ndarray | None:
    """Converts a list of valid numbers at once; returns None if it needs a detailed check."""
    if not isinstance(value, list) or dtype not in _NUMBERS:
        return None
    try:
        array = np.array(value)
    except (ValueError, OverflowError):
        return None
    # numpy converts booleans among numbers to numbers, so they need a check of their own.
    if array.dtype.kind not in ("iu" if dtype in _INTEGERS else "iuf") or _holds_booleans(value):
        return None
    if dtype in _FLOATS:
        if array.dtype.kind == "f" and np.isinf(array).any():
            return None
        with np.errstate(over="ignore"):
            return array.astype(np.float64).astype(dtype.numpy)
    limits = np.iinfo(dtype.numpy)
    if array.size and (int(array.min()) < limits.min or int(array.max()) > limits.max):
        return None
    return array.astype(dtype.numpy)


def _holds_booleans(value: list[Any]) -> bool:
    return any(_holds_booleans(item) if isinstance(item, list) else isinstance(item, bool) for item in value)


def _shape(value: Any) -> list[int]:
    shape: list[int] = []
    while isinstance(value, list):
        shape.append(len(value))
        if len(shape) > dtypes.MAX_DIMENSIONS:
            raise invalid_argument("JSON array has too many dimensions")
        if not value:
            break
        value = value[0]
    return shape


def _flatten(value: Any, shape: list[int], level: int, dtype: DataType, flat: list[Any]) -> None:
    if not isinstance(value, list):
        if level != len(shape):
            raise invalid_argument(
                f"JSON Value: {shown(value)} found at incorrect level: {level + 1} in the JSON DOM. "
                f"Expected at level: {len(shape)}"
            )
        flat.append(_scalar(value, dtype))
        return
    if level >= len(shape):
        raise invalid_argument(f"Encountered list at unexpected level: {level} expected < {len(shape)}")
    if len(value) != shape[level]:
        raise invalid_argument(
            f"Encountered list at unexpected size: {len(value)} at level: {level} expected size: {shape[level]}"
        )
    for item in value:
        _flatten(item, shape, level + 1, dtype, flat)


def _scalar(value: Any, dtype: DataType) -> Any:
    number = isinstance(value, int | float) and not isinstance(value, bool)
    double = as_double(value) if number else None
    if dtype is dtypes.STRING:
        if isinstance(value, str):
            return to_bytes(value)
        if isinstance(value, dict):
            return from_base64(value)
    elif isinstance(value, dict):
        pass
    elif dtype is dtypes.BOOL:
        if isinstance(value, bool):
            return value
    elif dtype in _FLOATS:
        if number:
            return double
    elif dtype in _INTEGERS:
        limits = np.iinfo(np.int32 if dtype in _SMALL_INTEGERS else dtype.numpy)
        if number and isinstance(value, int) and limits.min <= value <= limits.max:
            return int(np.array(value).astype(dtype.numpy))
    else:
        raise RequestError("UNIMPLEMENTED", f"Conversion of JSON Value: {shown(value)} to type: {dtype.name}")
    raise invalid_argument(f"JSON Value: {shown(value)} Type: {type_name(value)} is not of expected type: {dtype.name}")


def to_bytes(value: str) -> bytes:
    """Returns the bytes of a JSON string as in the request.

    Raises:
      RequestError: INVALID_ARGUMENT, for half a surrogate pair.
    """
    try:
        return value.encode("utf-8", "surrogateescape")
    except UnicodeEncodeError:
        raise invalid_argument("JSON Parse error: The surrogate pair in string is invalid. at offset: 0") from None


def from_base64(value: Any) -> bytes:
    """Decodes `{"b64": "..."}`."""
    if not is_base64(value):
        raise invalid_argument(f"JSON Value: {shown(value)} not formatted correctly for base64 data")
    try:
        # White space is ignored; the padding may be missing, or consist of dots.
        text = value["b64"].encode("ascii").translate(_PADDING, _WHITE_SPACE)
        return base64.b64decode(text if b"=" in text else text + b"=" * (-len(text) % 4), validate=True)
    except (binascii.Error, ValueError):
        raise invalid_argument("Unable to base64 decode") from None


def _is_object(value: Any) -> bool:
    return isinstance(value, dict) and not is_base64(value)


def to_json(name: str, value: np.ndarray) -> Any:
    """Converts a tensor for `dumps`; bytes become `{"b64": ...}` if the name ends in `_bytes`."""
    if value.dtype == object:
        binary = name.endswith("_bytes")
        return _map(value.tolist(), lambda item: _string(item, binary))
    if value.dtype.kind == "f":
        if value.dtype == np.float16:
            value = value.astype(np.float32)
        if not np.isfinite(value).all():
            return _map(value.tolist(), lambda item: _decimal(value.dtype.type(item)))
    elif value.dtype.kind not in "iub":
        type_ = dtypes.of_array(value).name
        raise invalid_argument(f"Failed to write JSON value for tensor type: {type_}")
    # orjson writes the shortest decimal of a float32, and requires contiguous arrays.
    return np.ascontiguousarray(value) if value.ndim else value.item() if value.dtype.kind != "f" else _decimal(value)


def _decimal(value: Any) -> orjson.Fragment:
    """Formats one number; NaN and the infinities are tokens outside the JSON standard."""
    if np.isfinite(value):
        return orjson.Fragment(orjson.dumps(np.asarray([value]), option=orjson.OPT_SERIALIZE_NUMPY)[1:-1])
    return orjson.Fragment(b"NaN" if np.isnan(value) else b"Infinity" if value > 0 else b"-Infinity")


def _string(item: bytes | str, binary: bool) -> Any:
    data = item if isinstance(item, bytes) else item.encode()
    return {"b64": base64.b64encode(data).decode("ascii")} if binary else data.decode("utf-8", "replace")


def _map(value: Any, function: Any) -> Any:
    return [_map(item, function) for item in value] if isinstance(value, list) else function(value)
