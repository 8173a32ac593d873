"""JSON bodies of the REST interface ↔ tensors.

Source: TF Serving's util/json_tensor.cc, which its REST documentation describes.
"""

from __future__ import annotations

import base64
import binascii
import json
from collections.abc import Mapping
from typing import Any

import numpy as np
import tensorflow as tf

from serving.local_server.errors import RequestError
from serving.local_server.servables import data_type_name

ROW, COLUMN = "row", "column"
# Values inside error messages are cut at this length.
_SHOWN = 256
# A request that nests deeper is refused before Python's own recursion limit is near.
_MOST_DIMENSIONS = 254


def parse(body: bytes) -> dict[str, Any]:
    """Reads the JSON object of a request; what follows it is ignored, NaN and Infinity are numbers.

    Raises:
      RequestError: INVALID_ARGUMENT.
    """
    try:
        text = body.decode("utf-8").lstrip()
    except UnicodeDecodeError as error:
        raise RequestError(
            "INVALID_ARGUMENT", f"JSON Parse error: Invalid encoding in string. at offset: {error.start}"
        ) from None
    if not text:
        raise RequestError("INVALID_ARGUMENT", "JSON Parse error: The document is empty")
    try:
        value, _ = json.JSONDecoder().raw_decode(text)
    except json.JSONDecodeError as error:
        raise RequestError("INVALID_ARGUMENT", f"JSON Parse error: {error.msg} at offset: {error.pos}") from None
    except RecursionError:
        raise RequestError("INVALID_ARGUMENT", "JSON Parse error: nested too deeply at offset: 0") from None
    if not isinstance(value, dict):
        raise RequestError("INVALID_ARGUMENT", f"JSON Value: {_shown(value)} is not object")
    return value


def signature_name(request: dict[str, Any], default: str) -> str:
    """The signature that a request asks for.

    Raises:
      RequestError: INVALID_ARGUMENT, if it is not a string.
    """
    name = request.get("signature_name", default)
    if not isinstance(name, str):
        raise RequestError("INVALID_ARGUMENT", "'signature_name' key must be a string value.")
    return name or default


def to_tensors(request: dict[str, Any], inputs: Mapping[str, Any]) -> tuple[dict[str, np.ndarray], str]:
    """Reads `instances` (row format) or `inputs` (column format).

    Args:
      request: The parsed body.
      inputs: TensorInfo of every input of the signature.

    Returns:
      An array for every input, and the format (the answer has the same).

    Raises:
      RequestError: INVALID_ARGUMENT, as TF Serving words it.
    """
    if "instances" in request and "inputs" in request:
        raise RequestError(
            "INVALID_ARGUMENT", "Not formatted correctly expecting only one of 'inputs' or 'instances' keys to exist"
        )
    if "instances" in request:
        return _from_rows(request["instances"], inputs), ROW
    if "inputs" in request:
        return _from_columns(request["inputs"], inputs), COLUMN
    raise RequestError("INVALID_ARGUMENT", "Missing 'inputs' or 'instances' key")


def from_tensors(outputs: Mapping[str, np.ndarray], format_: str) -> dict[str, Any]:
    """Builds the answer: `predictions` (row format) or `outputs` (column format).

    Raises:
      RequestError: INVALID_ARGUMENT, if the outputs have no common first dimension for rows.
    """
    if format_ == COLUMN:
        columns = {name: _to_json(name, value) for name, value in outputs.items()}
        return {"outputs": next(iter(columns.values())) if len(columns) == 1 else columns}
    sizes = {value.shape[0] if value.ndim else None for value in outputs.values()}
    if len(sizes) != 1 or None in sizes:
        raise RequestError(
            "INVALID_ARGUMENT", "Cannot convert output tensors to rows: they do not share a batch dimension"
        )
    columns = {name: _to_json(name, value) for name, value in outputs.items()}
    if len(columns) == 1:
        return {"predictions": next(iter(columns.values()))}
    rows = zip(*columns.values(), strict=True)
    return {"predictions": [dict(zip(columns, row, strict=True)) for row in rows]}


def _from_rows(instances: Any, inputs: Mapping[str, Any]) -> dict[str, np.ndarray]:
    if not isinstance(instances, list) or not instances:
        raise RequestError("INVALID_ARGUMENT", "Expecting 'instances' value to be an array with at least one element")
    named = isinstance(instances[0], dict) and not _is_base64(instances[0])
    if not named:
        if len(inputs) != 1:
            raise RequestError(
                "INVALID_ARGUMENT",
                "instances is a plain list, but expecting list of objects as multiple input tensors required "
                "as per tensorinfo_map",
            )
        ((name, info),) = inputs.items()
        return {name: _to_array(instances, info)}
    for index, instance in enumerate(instances):
        if not isinstance(instance, dict):
            raise RequestError("INVALID_ARGUMENT", f"Expecting object at index: {index} of 'instances' list.")
        for key in instance:
            if key not in inputs:
                raise RequestError(
                    "INVALID_ARGUMENT",
                    f"Failed to process element: {index} key: {key} of 'instances' list. "
                    f"Error: INVALID_ARGUMENT: JSON object: does not have named input: {key}",
                )
        missing = [name for name in inputs if name not in instance]
        if missing:
            raise RequestError(
                "INVALID_ARGUMENT",
                f"Failed to process element: {index} of 'instances' list. JSON object keys must be equal to: "
                f"{','.join(sorted(inputs))}",
            )
    return {name: _to_array([instance[name] for instance in instances], info) for name, info in inputs.items()}


def _from_columns(value: Any, inputs: Mapping[str, Any]) -> dict[str, np.ndarray]:
    if isinstance(value, dict) and not _is_base64(value):
        for name in inputs:
            if name not in value:
                raise RequestError("INVALID_ARGUMENT", f"Missing named input: {name} in 'inputs' object.")
        return {name: _to_array(value[name], info) for name, info in inputs.items()}
    if len(inputs) != 1:
        raise RequestError(
            "INVALID_ARGUMENT",
            "inputs is a plain value/list, but expecting an object as multiple input tensors required "
            "as per tensorinfo_map",
        )
    ((name, info),) = inputs.items()
    return {name: _to_array(value, info)}


def _to_array(value: Any, info: Any) -> np.ndarray:
    dtype = tf.dtypes.as_dtype(info.dtype)
    shape = _shape(value)
    flat: list[Any] = []
    _flatten(value, shape, 0, dtype, flat)
    if dtype == tf.string:
        array = np.empty(len(flat), dtype=object)
        array[:] = flat
        return array.reshape(shape)
    try:
        return np.array(flat, dtype=dtype.as_numpy_dtype).reshape(shape)
    except OverflowError:
        raise RequestError("INVALID_ARGUMENT", f"JSON Value is out of range of type: {data_type_name(dtype)}") from None


def _shape(value: Any) -> list[int]:
    shape: list[int] = []
    while isinstance(value, list):
        shape.append(len(value))
        if len(shape) > _MOST_DIMENSIONS:
            raise RequestError("INVALID_ARGUMENT", "JSON array has too many dimensions")
        if not value:
            break
        value = value[0]
    return shape


def _flatten(value: Any, shape: list[int], depth: int, dtype: Any, flat: list[Any]) -> None:
    if depth == len(shape):
        flat.append(_scalar(value, dtype))
        return
    if not isinstance(value, list) or len(value) != shape[depth]:
        size = len(value) if isinstance(value, list) else 0
        raise RequestError(
            "INVALID_ARGUMENT",
            f"Encountered list at unexpected size: {size} at level: {depth} expected size: {shape[depth]}",
        )
    for item in value:
        _flatten(item, shape, depth + 1, dtype, flat)


def _scalar(value: Any, dtype: Any) -> Any:
    if dtype == tf.string:
        if isinstance(value, str):
            return value.encode()
        if _is_base64(value):
            try:
                return base64.b64decode(value["b64"], validate=True)
            except binascii.Error:
                raise RequestError("INVALID_ARGUMENT", "Unable to base64 decode") from None
    elif dtype == tf.bool:
        if isinstance(value, bool):
            return value
    elif dtype.is_floating:
        if isinstance(value, int | float) and not isinstance(value, bool):
            return value
    elif dtype.is_integer:
        if isinstance(value, int) and not isinstance(value, bool):
            return value
    else:
        raise RequestError("UNIMPLEMENTED", f"Conversion of JSON to type {data_type_name(dtype)} is not supported")
    raise RequestError(
        "INVALID_ARGUMENT",
        f"JSON Value: {_shown(value)} Type: {_json_type(value)} is not of expected type: {data_type_name(dtype)}",
    )


def _to_json(name: str, value: np.ndarray) -> Any:
    if value.dtype == object:
        binary = name.endswith("_bytes")
        return _map(value.tolist(), lambda item: _string(item, binary))
    if value.dtype == np.float32:
        # The shortest decimal that is this float32, not the sixteen digits of its double.
        return _map(value.tolist(), lambda item: float(str(np.float32(item))))
    return value.tolist()


def _string(item: bytes | str, binary: bool) -> Any:
    data = item if isinstance(item, bytes) else item.encode()
    return {"b64": base64.b64encode(data).decode("ascii")} if binary else data.decode("utf-8", "replace")


def _map(value: Any, function: Any) -> Any:
    return [_map(item, function) for item in value] if isinstance(value, list) else function(value)


def _is_base64(value: Any) -> bool:
    return isinstance(value, dict) and set(value) == {"b64"} and isinstance(value["b64"], str)


def _json_type(value: Any) -> str:
    if isinstance(value, bool) or value is None:
        return {True: "True", False: "False", None: "Null"}[value]
    return {str: "String", int: "Number", float: "Number", list: "Array", dict: "Object"}[type(value)]


def _shown(value: Any) -> str:
    text = json.dumps(value)
    return text if len(text) <= _SHOWN else text[:_SHOWN] + "...TRUNCATED"
