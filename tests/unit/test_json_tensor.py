"""JSON bodies of the REST interface, as TF Serving reads and writes them."""

import base64
import json
import math
from types import SimpleNamespace

import numpy as np
import pytest
import tensorflow as tf

from serving.local_server import json_tensor
from serving.local_server.errors import RequestError


def info(dtype):
    return SimpleNamespace(dtype=dtype.as_datatype_enum)


STRING = {"image_bytes": info(tf.string)}
FLOAT = {"x": info(tf.float32)}
TWO = {"x": info(tf.float32), "n": info(tf.int64)}
B64 = {"b64": base64.b64encode(b"\x00\xff").decode()}


@pytest.mark.parametrize(
    ("body", "inputs", "expected", "format_"),
    [
        ({"instances": [B64, "text"]}, STRING, {"image_bytes": [b"\x00\xff", b"text"]}, "row"),
        ({"instances": [{"image_bytes": B64}]}, STRING, {"image_bytes": [b"\x00\xff"]}, "row"),
        ({"inputs": [B64]}, STRING, {"image_bytes": [b"\x00\xff"]}, "column"),
        ({"inputs": {"image_bytes": [B64], "extra": 1}}, STRING, {"image_bytes": [b"\x00\xff"]}, "column"),
        ({"inputs": B64}, STRING, {"image_bytes": b"\x00\xff"}, "column"),
        ({"instances": [[1, 2.5], [3, 4]]}, FLOAT, {"x": [[1.0, 2.5], [3.0, 4.0]]}, "row"),
        ({"instances": [{"x": 1, "n": 2}, {"n": 4, "x": 3.5}]}, TWO, {"x": [1.0, 3.5], "n": [2, 4]}, "row"),
        ({"inputs": {"x": [1.0], "n": [[2, 3]]}}, TWO, {"x": [1.0], "n": [[2, 3]]}, "column"),
    ],
)
def test_requests(body, inputs, expected, format_):
    tensors, found = json_tensor.to_tensors(json_tensor.parse(json.dumps(body).encode()), inputs)
    assert found == format_
    assert {name: value.tolist() for name, value in tensors.items()} == expected


@pytest.mark.parametrize(
    ("body", "inputs", "message"),
    [
        (b"", STRING, "JSON Parse error: The document is empty"),
        (b"{", STRING, r"JSON Parse error: .* at offset: \d+"),
        (b"\xff", STRING, "JSON Parse error"),
        (b"[" * 100_000, STRING, "JSON Parse error"),
        (b"[1]", STRING, "is not object"),
        (b"{}", STRING, "Missing 'inputs' or 'instances' key"),
        (b'{"instances": [1], "inputs": 2}', STRING, "only one of"),
        (b'{"instances": []}', STRING, "at least one element"),
        (b'{"instances": 3}', STRING, "to be an array"),
        (b'{"instances": [1]}', STRING, "JSON Value: 1 Type: Number is not of expected type: string"),
        (b'{"instances": [{"b64": "!"}]}', STRING, "base64"),
        (b'{"instances": ["a"]}', FLOAT, 'JSON Value: "a" Type: String is not of expected type: float'),
        (b'{"instances": [true]}', FLOAT, "Type: True is not of expected type: float"),
        (b'{"instances": [[1], [2, 3]]}', FLOAT, "Encountered list at unexpected size"),
        (b'{"instances": [[1], 2]}', FLOAT, "Encountered list at unexpected size"),
        (b'{"instances": [{"x": 1}]}', TWO, "Failed to process element: 0"),
        (b'{"instances": [{"x": 1, "n": 2, "z": 3}]}', TWO, "element: 0 key: z .*does not have named input: z"),
        (b'{"instances": [{"x": 1, "n": 2.0}]}', TWO, "is not of expected type: int64"),
        (b'{"inputs": {"x": 1}}', TWO, "Missing named input: n in 'inputs' object"),
        (b'{"inputs": 1}', TWO, "multiple input tensors required"),
    ],
)
def test_refusals(body, inputs, message):
    with pytest.raises(RequestError, match=message) as raised:
        json_tensor.to_tensors(json_tensor.parse(body), inputs)
    assert raised.value.code == "INVALID_ARGUMENT"


def test_bytes_after_the_object_are_ignored_and_nan_is_a_number():
    tensors, _ = json_tensor.to_tensors(json_tensor.parse(b'{"instances": [NaN, -Infinity]} trailing'), FLOAT)
    assert math.isnan(tensors["x"][0]) and tensors["x"][1] == -math.inf


def test_rows_and_columns():
    outputs = {"score": np.array([1.0, 0.1], np.float32), "label": np.array([b"cat", b"dog"], object)}
    assert json_tensor.from_tensors(outputs, "row") == {
        "predictions": [{"score": 1.0, "label": "cat"}, {"score": 0.1, "label": "dog"}]
    }
    assert json_tensor.from_tensors(outputs, "column") == {"outputs": {"score": [1.0, 0.1], "label": ["cat", "dog"]}}
    assert json_tensor.from_tensors({"score": outputs["score"]}, "row") == {"predictions": [1.0, 0.1]}


def test_only_outputs_named_bytes_are_binary():
    outputs = {"png_bytes": np.array([b"\x89"], object)}
    assert json_tensor.from_tensors(outputs, "row") == {"predictions": [{"b64": "iQ=="}]}


@pytest.mark.parametrize("outputs", [{"x": np.float32(1)}, {"x": np.zeros(2), "y": np.zeros(3)}])
def test_outputs_without_a_common_batch_have_no_rows(outputs):
    with pytest.raises(RequestError, match="batch dimension"):
        json_tensor.from_tensors({name: np.asarray(value) for name, value in outputs.items()}, "row")
