"""JSON bodies of the REST API, as in TF Serving."""

import base64
import json
import math
from types import SimpleNamespace

import numpy as np
import pytest
import tensorflow as tf

from serving.local_server import json_examples, json_tensor, json_text
from serving.local_server.errors import RequestError


def info(dtype):
    return SimpleNamespace(dtype=dtype.as_datatype_enum)


STRING = {"image_bytes": info(tf.string)}
FLOAT = {"x": info(tf.float32)}
DOUBLE = {"x": info(tf.float64)}
SMALL = {"x": info(tf.uint8)}
LONG = {"x": info(tf.int64)}
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
    tensors, actual = json_tensor.to_tensors(json_text.parse(json.dumps(body).encode()), inputs)
    assert actual == format_
    assert {name: value.tolist() for name, value in tensors.items()} == expected


@pytest.mark.parametrize(
    ("body", "inputs", "message"),
    [
        (b"", STRING, "JSON Parse error: The document is empty"),
        (b"{", STRING, r"JSON Parse error: .* at offset: \d+"),
        (b"\xff", STRING, "JSON Parse error"),
        (b"[" * 100_000, STRING, "JSON Parse error"),
        (b'{"a": 1 "b": 2}', STRING, "Missing a comma or } after an object member. at offset: 8"),
        (b'{"a": [1 2]}', STRING, "Missing a comma or ] after an array element. at offset: 9"),
        (b'{"a" 1}', STRING, "Missing a colon after a name of object member."),
        (b'{"a": "x', STRING, "Missing a closing quotation mark in string."),
        (b'{"instances": ' + b"9" * 5000 + b"}", FLOAT, "Number too big to be stored in double."),
        (b'{"instances": ["\\ud800"]}', STRING, "The surrogate pair in string is invalid."),
        (b'{"instances": [1e400]}', FLOAT, "Number too big to be stored in double."),
        (b'{"instances": [[1, -1e400]]}', DOUBLE, "Number too big to be stored in double."),
        (b'{"instances": 1' + b"0" * 400 + b"}", FLOAT, "to be an list/array"),
        (b'{"inputs": 1' + b"0" * 400 + b"}", FLOAT, "Number too big to be stored in double."),
        (b'{"instances": [1], "unread": {"a": [-1e400]}}', FLOAT, "Number too big to be stored in double."),
        (b'{"instances": [1], "unread": 1' + b"0" * 400 + b"}", FLOAT, "Number too big to be stored in double."),
        (b'{"instances": [Infinit]}', FLOAT, "JSON Parse error: .*at offset: \\d+"),
        (b'{"instances": [{"b64": "eA="}]}', STRING, "Unable to base64 decode"),
        (b'{"instances": [{"b64": "e"}]}', STRING, "Unable to base64 decode"),
        (b'{"instances": [{"b64": "eA.."}, {"b64": "e.A="}]}', STRING, "element: 1 .*Unable to base64 decode"),
        (b'{"instances": [{"b64": "e\xc3\xa4A="}]}', STRING, "Unable to base64 decode"),
        (b'{"inputs": [{"b64": "eA==", "b64": "eA=="}]}', STRING, "not formatted correctly for base64 data"),
        (b'{"instances": [[[1]], [[1, 2]]]}', FLOAT, "Expecting tensor size: 1 but got: 2"),
        (b'{"instances": [[[1, 2]], [[1], [2]]]}', FLOAT, r"Expecting shape \[1,2\] but got: \[2,1\]"),
        (b'{"instances": [[[1], 2]]}', FLOAT, "found at incorrect level: 2 in the JSON DOM. Expected at level: 2"),
        (b'{"instances": [[1, [2]]]}', FLOAT, "Encountered list at unexpected level: 1 expected < 1"),
        (b'{"instances": [{"x": 1, "n": 2}, 3]}', TWO, "Expecting object but got list at item 1 of input list"),
        (b'{"instances": [3, {"x": 1}]}', FLOAT, "Expecting value/list but got object at item 1 of input list"),
        (b'{"instances": [300, 3000000000]}', SMALL, "is not of expected type: uint8"),
        (b'{"instances": [9223372036854775808]}', LONG, "is not of expected type: int64"),
        (b'{"instances": [null]}', FLOAT, "Type: Null is not of expected type: float"),
        (b'{"instances": [{"a": 1, "b64": "eA=="}]}', STRING, "does not have named input: a"),
        (b'{"inputs": [{"a": 1, "b64": "eA=="}]}', STRING, "not formatted correctly for base64 data"),
        (b"[1]", STRING, "Is not object"),
        (b"{}", STRING, "Missing 'inputs' or 'instances' key"),
        (b'{"instances": [1], "inputs": 2}', STRING, "only one of"),
        (b'{"instances": []}', STRING, "No values in 'instances' array"),
        (b'{"instances": 3}', STRING, "to be an list/array"),
        (b'{"instances": [1]}', STRING, "JSON Value: 1 Type: Number is not of expected type: string"),
        (b'{"instances": [{"b64": "!"}]}', STRING, "base64"),
        (b'{"instances": ["a"]}', FLOAT, 'JSON Value: "a" Type: String is not of expected type: float'),
        (b'{"instances": [true]}', FLOAT, "Type: True is not of expected type: float"),
        (b'{"instances": [[1], [2, 3]]}', FLOAT, "Expecting tensor size: 1 but got: 2"),
        (b'{"inputs": [[1], [2, 3]]}', FLOAT, "Encountered list at unexpected size: 2 at level: 1 expected size: 1"),
        (b'{"instances": [[1], 2]}', FLOAT, r"Expecting shape \[1\] but got: \[\]"),
        (b'{"instances": [{"x": 1}]}', TWO, "Failed to process element: 0"),
        (b'{"instances": [{"x": 1, "n": 2, "z": 3}]}', TWO, "element: 0 key: z .*does not have named input: z"),
        (b'{"instances": [{"x": 1, "n": 2.0}]}', TWO, "is not of expected type: int64"),
        (b'{"inputs": {"x": 1}}', TWO, "Missing named input: n in 'inputs' object"),
        (b'{"inputs": 1}', TWO, "multiple input tensors required"),
    ],
)
def test_refusals(body, inputs, message):
    with pytest.raises(RequestError, match=message) as raised:
        json_tensor.to_tensors(json_text.parse(body), inputs)
    assert raised.value.code == "INVALID_ARGUMENT"


def test_bytes_after_the_object_are_ignored_and_nan_is_a_number():
    tensors, _ = json_tensor.to_tensors(json_text.parse(b'{"instances": [NaN, -Infinity]} trailing'), FLOAT)
    assert math.isnan(tensors["x"][0]) and tensors["x"][1] == -math.inf


def test_bytes_of_a_string_that_are_not_utf8_stay_unchanged():
    tensors, _ = json_tensor.to_tensors(json_text.parse(b'{"instances": ["a\xff"]}'), STRING)
    assert tensors["image_bytes"].tolist() == [b"a\xff"]


@pytest.mark.parametrize(
    ("value", "text"),
    [
        ("a" * 1000, '"' + "a" * 1000 + '"'),  # a value ends with the token that exceeds 256 bytes
        ([1, [2.5, None], "é", True], '[1, [2.5, null], "é", true]'),
        ({"a": {"b": []}, "c": {}}, '{\n    "a": {\n        "b": []\n    },\n    "c": {}\n}'),
        ([{"a": 1}], '[{\n        "a": 1\n    }]'),
        (1e39, "1e39"),
        (math.nan, "NaN"),
    ],
)
def test_values_in_messages(value, text):
    assert json_text.shown(value) == text


def test_long_values_in_messages_end_early():
    assert json_text.shown(["a" * 5] * 1000) == "[" + ", ".join(['"aaaaa"'] * 29)
    assert len(json_text.shown("a" * 10**6)) == 10_000
    assert len(json_text.shown(json.loads("[" * 400 + "]" * 400))) == 256


@pytest.mark.parametrize(
    ("text", "inputs", "expected"),
    [
        ("[16777217, 2.5]", FLOAT, [16777216.0, 2.5]),
        ("[1e39, -1e39]", FLOAT, [math.inf, -math.inf]),
        ("[9007199254740993, 1]", DOUBLE, [9007199254740992.0, 1.0]),
        ("[18446744073709551616, 1" + "0" * 300 + "]", DOUBLE, [2.0**64, 1e300]),
        ("[Inf, -Inf, Infinity, -Infinity]", FLOAT, [math.inf, -math.inf, math.inf, -math.inf]),
        ('[Inf, 1], "other": "Inf -NaN \\"Inf"', FLOAT, [math.inf, 1.0]),
        ("[-1e-400, 1e308]", DOUBLE, [-0.0, 1e308]),
    ],
)
def test_numbers_at_the_limits_of_a_type(text, inputs, expected):
    request = json_text.parse(f'{{"instances": {text}}}'.encode())
    tensors, _ = json_tensor.to_tensors(request, inputs)
    assert tensors["x"].tolist() == expected


def test_minus_nan_is_nan():
    tensors, _ = json_tensor.to_tensors(json_text.parse(b'{"inputs": [-NaN, 1]}'), FLOAT)
    assert math.isnan(tensors["x"][0])


def test_the_first_of_repeated_keys_counts():
    request = json_text.parse(
        b'{"inputs": {"x": [1], "x": [2]}, "inputs": 3, "signature_name": "a", "signature_name": 1}'
    )
    tensors, _ = json_tensor.to_tensors(request, FLOAT)
    assert tensors["x"].tolist() == [1.0] and json_tensor.signature_name(request) == "a"
    # In an example it is the last one, as in TF Serving.
    read = json_examples.to_input(json_text.parse(b'{"examples": [{"f": 1, "f": 2.5}]}'))
    assert read.example_list.examples[0].features.feature["f"].float_list.value[:] == [2.5]


@pytest.mark.parametrize("text", ["AP8=", "AP8.", "AP8", "A P\r\n8=\n", " \t\n\v\f\rAP8"])
def test_base64_may_have_white_space_and_other_or_no_padding(text):
    assert json_tensor.from_base64({"b64": text}) == b"\x00\xff"


def test_a_string_alone_is_a_scalar():
    tensors, format_ = json_tensor.to_tensors({"inputs": "ab"}, STRING)
    assert tensors["image_bytes"].shape == () and tensors["image_bytes"].item() == b"ab"
    assert json_tensor.from_tensors({"s": tensors["image_bytes"]}, format_) == b'{"outputs":"ab"}'


def test_large_numbers_in_examples_become_floats():
    read = json_examples.to_input(json_text.parse(b'{"examples": [{"f": [1e39, 100000000000000000000], "i": -Inf}]}'))
    features = read.example_list.examples[0].features.feature
    assert features["f"].float_list.value[:] == [math.inf, float(np.float32(1e20))]
    assert features["i"].float_list.value[:] == [-math.inf]


@pytest.mark.parametrize("dtype", [tf.float16, tf.bfloat16, tf.uint16, tf.complex64])
def test_dtypes_that_json_cannot_represent(dtype):
    with pytest.raises(RequestError, match="Conversion of JSON Value: 1 to type") as raised:
        json_tensor.to_tensors({"inputs": [1]}, {"x": info(dtype)})
    assert raised.value.code == "UNIMPLEMENTED"


@pytest.mark.parametrize(
    ("dtype", "values"),
    [
        (tf.float32, [[0.1, 2], [-3, 1e-30]]),
        (tf.float64, [[0.1, 2]]),
        (tf.int8, [-128, 127]),
        (tf.uint8, [[[255]]]),
        (tf.int16, [-32768]),
        (tf.int32, [2**31 - 1]),
        (tf.int64, [2**63 - 1, -(2**63)]),
        (tf.uint32, [2**32 - 1]),
        (tf.uint64, [2**64 - 1]),
        (tf.bool, [True, False]),
    ],
)
def test_numbers_of_every_dtype_are_read_and_written(dtype, values):
    tensors, format_ = json_tensor.to_tensors({"inputs": values}, {"x": info(dtype)})
    assert tensors["x"].dtype == dtype.as_numpy_dtype
    written = json_tensor.from_tensors(tensors, format_)
    np.testing.assert_array_equal(np.array(json.loads(written)["outputs"], dtype.as_numpy_dtype), tensors["x"])


def encoded(outputs, format_="row"):
    return json_tensor.from_tensors({name: np.asarray(value) for name, value in outputs.items()}, format_)


def test_rows_and_columns():
    outputs = {"score": np.array([1.0, 0.1], np.float32), "label": np.array([b"cat", b"dog"], object)}
    assert json.loads(encoded(outputs)) == {
        "predictions": [{"score": 1.0, "label": "cat"}, {"score": 0.1, "label": "dog"}]
    }
    columns = {"outputs": {"score": [1.0, 0.1], "label": ["cat", "dog"]}}
    assert json.loads(encoded(outputs, "column")) == columns
    assert json.loads(encoded({"score": outputs["score"]})) == {"predictions": [1.0, 0.1]}


def test_whole_floats_have_a_point_and_float32_is_shortest():
    assert encoded({"x": np.array([3, 0.1], np.float32)}) == b'{"predictions":[3.0,0.1]}'
    assert encoded({"x": np.float32(3)}, "column") == b'{"outputs":3.0}'
    assert encoded({"x": np.int64(3)}, "column") == b'{"outputs":3}'


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
def test_nan_and_infinity_are_tokens(dtype):
    text = encoded({"x": np.array([np.nan, np.inf, -np.inf, 0.5], dtype)})
    assert text == b'{"predictions":[NaN,Infinity,-Infinity,0.5]}'


def test_only_outputs_named_bytes_are_binary():
    assert json.loads(encoded({"png_bytes": np.array([b"\x89"], object)})) == {"predictions": [{"b64": "iQ=="}]}


@pytest.mark.parametrize(
    ("outputs", "message"),
    [
        ({"x": np.float32(1)}, "Tensor name: x has no shape information"),
        ({"x": np.zeros(2), "y": np.zeros(3)}, "Tensor name: y has inconsistent batch size: 3 expecting: 2"),
        ({"x": np.zeros(2, np.complex64)}, "Failed to write JSON value for tensor type: complex64"),
    ],
)
def test_outputs_that_are_not_rows(outputs, message):
    with pytest.raises(RequestError, match=message):
        encoded(outputs)


# --- Classify and Regress ---------------------------------------------------------------------------------------


def test_a_number_determines_the_type_of_a_feature():
    request = {"examples": [{"f": [1.0, 2.0], "i": 3, "b": ["x", B64], "t": [True, False]}, {}]}
    first, second = json_examples.to_input(request).example_list.examples
    features = {name: feature for name, feature in first.features.feature.items()}
    assert features["f"].float_list.value[:] == [1.0, 2.0]
    assert features["i"].int64_list.value[:] == [3]
    assert features["b"].bytes_list.value[:] == [b"x", b"\x00\xff"]
    assert features["t"].int64_list.value[:] == [1, 0]
    assert not second.features.feature


def test_a_context_is_separate():
    read = json_examples.to_input({"context": {"c": 1}, "examples": [{"f": 2.0}]}).example_list_with_context
    assert read.context.features.feature["c"].int64_list.value[:] == [1]
    assert len(read.examples) == 1


@pytest.mark.parametrize(
    ("request_", "message"),
    [
        ({}, "key 'examples' is expected and was not found"),
        ({"examples": 1}, "Expecting 'examples' value to be an list/array"),
        ({"examples": []}, "'examples' value is an empty array"),
        ({"examples": [1]}, "Example must be JSON object but got JSON Number"),
        ({"examples": [{"f": None}]}, "Feature: f has element with unexpected JSON type: Null"),
        ({"examples": [{"f": [[1]]}]}, "Feature: f has element with unexpected JSON type: Array"),
        ({"examples": [{"f": {"a": 1}}]}, "Feature: f has element with unexpected JSON type: Object"),
        ({"examples": [{"f": [1, "a"]}]}, "Unexpected element type in feature: f expecting type: int64"),
        ({"examples": [{"f": 2**63}]}, "Feature: f has uint64_t element. Only int64_t is supported."),
        ({"examples": [{"f": 1e999}]}, "Number too big to be stored in double."),
        ({"examples": [{"f": 10**400}]}, "Number too big to be stored in double."),
        ({"examples": [{"f": [1.0, 2**63]}]}, "Unexpected element type in feature: f expecting type: float"),
    ],
)
def test_invalid_examples(request_, message):
    with pytest.raises(RequestError, match=message) as raised:
        json_examples.to_input(request_)
    assert raised.value.code == "INVALID_ARGUMENT"


def test_classes_and_regressions_are_results():
    classes = [[("cat", 0.5), ("dog", float(np.float32(0.1)))], [("", 1.0), ("", float("nan"))]]
    assert json_examples.from_classes(classes) == b'{"results":[[["cat",0.5],["dog",0.1]],[["",1.0],["",NaN]]]}'
    assert json_examples.from_regressions([2.0, float(np.float32(0.1))]) == b'{"results":[2.0,0.1]}'
