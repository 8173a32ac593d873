"""TensorProtos of requests, read as TensorFlow's own parser reads them."""

import numpy as np
import pytest
import tensorflow as tf
from tensorflow.core.framework import tensor_pb2

from serving.local_server import tensors
from serving.local_server.errors import RequestError


def message(dtype, shape, content=b"", **fields):
    tensor = tensor_pb2.TensorProto(dtype=dtype.as_datatype_enum, tensor_content=content, **fields)
    for size in shape:
        tensor.tensor_shape.dim.add(size=size)
    return tensor


def expected(tensor):
    """Reads the message with TensorFlow's C++ parser."""
    raw = tf.constant(tensor.SerializeToString())
    return tf.io.parse_tensor(raw, tf.dtypes.as_dtype(tensor.dtype)).numpy()


@pytest.mark.parametrize(
    "tensor",
    [
        message(tf.float32, [2], float_val=[1, 2, 3, 4]),  # too many values are ignored
        message(tf.float32, [2, 2], float_val=[1, 2]),  # the last one is repeated
        message(tf.float64, [3]),  # no value means zeros
        message(tf.uint8, [4], int_val=[300, -1, 255, 256]),  # integers wrap around
        message(tf.int8, [3], int_val=[128, -129, 5]),
        message(tf.int16, [2], int_val=[40_000, -40_000]),
        message(tf.uint16, [2], int_val=[70_000, -1]),
        message(tf.int32, [], int_val=[7]),
        message(tf.uint32, [1], uint32_val=[2**32 - 1]),
        message(tf.int64, [2], int64_val=[-(2**63), 5]),
        message(tf.uint64, [1], uint64_val=[2**64 - 1]),
        message(tf.bool, [3], bool_val=[True, False]),
        message(tf.bool, [2], b"\1\0"),
        message(tf.float16, [2], half_val=[15360, 70_000]),
        message(tf.bfloat16, [2], half_val=[16256]),
        message(tf.complex64, [2], scomplex_val=[1, 2, 3, 4, 5]),
        message(tf.complex128, [2], dcomplex_val=[1, 2]),
        message(tf.string, [3], string_val=[b"a", b"\xff\0"]),
        message(tf.string, [1], string_val=[b"a", b"b"]),
        message(tf.string, [2]),
        message(tf.float32, [0, 3]),
        message(tf.float32, [2], np.float32([1.5, 2]).tobytes()),
        message(tf.int64, [], np.int64(-3).tobytes()),
        message(tf.float32, [1], np.float32(2).tobytes(), float_val=[1]),  # the content has precedence
    ],
)
def test_values_are_those_of_tensorflow(tensor):
    actual, wanted = tensors.to_numpy(tensor, "x"), np.asarray(expected(tensor))
    if actual.dtype == object:
        assert actual.ravel().tolist() == np.asarray(wanted, object).ravel().tolist()
    else:
        assert actual.dtype == wanted.dtype
        np.testing.assert_array_equal(actual, wanted)
    assert actual.shape == wanted.shape


def test_strings_in_the_content():
    long = b"x" * 300
    tensor = message(tf.string, [3], b"\x01\x00\xac\x02" + b"a" + long)
    assert tensors.to_numpy(tensor, "x").tolist() == [b"a", b"", long]


@pytest.mark.parametrize(
    "tensor",
    [
        message(tf.float32, [-1], float_val=[1]),
        message(tf.float32, [10**12], float_val=[1]),
        message(tf.float32, [2], b"123"),
        message(tf.string, [2], b"\x01"),
        message(tf.string, [1], b"\x05ab"),
        message(tf.string, [1], b"\xff" * 12),
        message(tf.float32, [1] * 255),
        tensor_pb2.TensorProto(dtype=0),
        tensor_pb2.TensorProto(dtype=20),  # a resource
        tensor_pb2.TensorProto(dtype=1, tensor_shape={"unknown_rank": True}),
    ],
)
def test_contradictions_are_refused(tensor):
    with pytest.raises(RequestError) as raised:
        tensors.to_numpy(tensor, "name")
    assert (raised.value.code, raised.value.message) == ("INVALID_ARGUMENT", "tensor parsing error: name")


@pytest.mark.parametrize("as_content", [False, True])
@pytest.mark.parametrize(
    "value",
    [
        np.float32([[1, 2]]), np.float64(3), np.int8([-1]), np.uint8([255]), np.int16([3]), np.uint16([65535]),
        np.int32([]), np.int64([2**62]), np.uint32([2**32 - 1]), np.uint64([2**64 - 1]), np.bool_([True, False]),
        np.float16([1.5]), np.complex64([1 + 2j]), np.complex128([1j]), np.array([b"a\0", b""], object),
        tf.constant([1.5], tf.bfloat16).numpy(),
    ],
)  # fmt: skip
def test_every_type_is_written(value, as_content):
    value = np.asarray(value)
    tensor = tensor_pb2.TensorProto()
    tensors.to_proto(value, tensor, as_content=as_content)
    assert bool(tensor.tensor_content) == (as_content and value.dtype != object and value.size > 0)
    np.testing.assert_array_equal(tf.make_ndarray(tensor), value)
    np.testing.assert_array_equal(tensors.to_numpy(tensor, "x"), value)
