"""JSON bodies of REST's Classify and Regress ↔ tf.Examples.

Source: TF Serving's util/json_tensor.cc.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from serving.local_server.errors import invalid_argument
from serving.local_server.inference import Classes
from serving.local_server.json_tensor import dumps, from_base64, to_bytes, to_json
from serving.local_server.json_text import RepeatedKeys, as_double, is_base64, shown, type_name
from serving.local_server.protos import example_pb2, feature_pb2, input_pb2

_INT64 = (-(2**63), 2**63 - 1)
_LARGEST_UINT64 = 2**64 - 1


def to_input(request: dict[str, Any]) -> input_pb2.Input:
    """Reads `examples` and their shared `context`."""
    result = input_pb2.Input()
    examples = result.example_list
    if "context" in request:
        examples = result.example_list_with_context
        _fill(request["context"], examples.context)
    if "examples" not in request:
        raise invalid_argument(
            f"JSON Value: {shown(request)} When method is classify, key 'examples' is expected and was not found"
        )
    if not isinstance(request["examples"], list):
        raise invalid_argument(f"JSON Value: {shown(request)} Expecting 'examples' value to be an list/array")
    if not request["examples"]:
        raise invalid_argument(f"JSON Value: {shown(request)} 'examples' value is an empty array")
    for value in request["examples"]:
        _fill(value, examples.examples.add())
    return result


def from_classes(classes: Classes) -> bytes:
    """Writes the response of Classify: (label, score) pairs under `results`, which TF Serving's docs call `result`."""
    rows = []
    for row in classes:
        scores = to_json("", np.array([score for _, score in row], np.float32)[:, None])
        rows.append([[label, score[0]] for (label, _), score in zip(row, scores, strict=True)])
    return dumps({"results": rows})


def from_regressions(values: list[float]) -> bytes:
    """Writes the response of Regress."""
    return dumps({"results": to_json("", np.array(values, np.float32))})


def _fill(value: Any, example: example_pb2.Example) -> None:
    if not isinstance(value, dict):
        raise invalid_argument(f"Example must be JSON object but got JSON {type_name(value)}")
    # Of a repeated key the last value counts, unlike everywhere else.
    for name, content in (value.last if isinstance(value, RepeatedKeys) else value).items():
        to_bytes(name)
        feature = example.features.feature[name]
        for item in content if isinstance(content, list) else [content]:
            _add(item, name, feature)


def _add(value: Any, name: str, feature: feature_pb2.Feature) -> None:
    """Adds one value; the first value determines the type of all."""
    if isinstance(value, bool):
        _list_of(feature, "int64_list", name).append(int(value))
    elif isinstance(value, str):
        _list_of(feature, "bytes_list", name).append(to_bytes(value))
    elif is_base64(value):
        _list_of(feature, "bytes_list", name).append(from_base64(value))
    elif isinstance(value, int) and _INT64[0] <= value <= _LARGEST_UINT64:
        values = _list_of(feature, "int64_list", name)
        if value > _INT64[1]:
            raise invalid_argument(f"Feature: {name} has uint64_t element. Only int64_t is supported.")
        values.append(value)
    elif isinstance(value, int | float):  # larger integers are doubles
        double = as_double(value)
        _list_of(feature, "float_list", name).append(_as_float(double))
    else:
        raise invalid_argument(f"Feature: {name} has element with unexpected JSON type: {type_name(value)}")


def _list_of(feature: feature_pb2.Feature, kind: str, name: str) -> Any:
    current = feature.WhichOneof("kind")
    if current not in (None, kind):
        expected = current.removesuffix("_list")
        raise invalid_argument(f"Unexpected element type in feature: {name} expecting type: {expected}")
    return getattr(feature, kind).value


def _as_float(value: float) -> float:
    """Returns the nearest float; protobuf's Python runtime refuses some doubles beyond its range."""
    with np.errstate(over="ignore"):
        return float(np.float32(value))
