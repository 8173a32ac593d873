"""The declared messages of TF Serving against the generated ones, byte for byte."""

import numpy as np
import pytest
import tensorflow as tf
from tensorflow_serving.apis import get_model_status_pb2, predict_pb2

from serving import wire


def test_the_generated_messages_read_a_request():
    ours = wire.PredictRequest()
    ours.model_spec.name, ours.model_spec.signature_name = "m", "explain"
    ours.model_spec.version.value = 7
    wire.fill_string_tensor(ours.inputs.add(key="image_bytes").value, [b"one", b"two"])
    ours.output_filter.append("heatmap")
    theirs = predict_pb2.PredictRequest.FromString(ours.SerializeToString())
    assert (theirs.model_spec.name, theirs.model_spec.signature_name) == ("m", "explain")
    assert theirs.model_spec.version.value == 7
    assert list(theirs.output_filter) == ["heatmap"]
    assert tf.make_ndarray(theirs.inputs["image_bytes"]).tolist() == [b"one", b"two"]


@pytest.mark.parametrize(
    "value",
    [
        np.arange(6, dtype=np.float32).reshape(2, 3),
        np.arange(6, dtype=np.float64).reshape(3, 2),
        np.array([1, -2, 3], np.int64),
        np.array([[4]], np.int32),
        np.arange(4, dtype=np.uint8).reshape(2, 2),
        np.array([True, False]),
        np.full([3, 2], 0.25, np.float32),
        np.array([[b"a", b""]], object),
    ],
)
def test_tensors_of_both_forms_are_read(value):
    theirs = predict_pb2.PredictResponse()
    theirs.outputs["raw"].CopyFrom(tf.make_tensor_proto(value))  # tensor_content
    typed = theirs.outputs["typed"]
    typed.CopyFrom(tf.make_tensor_proto(value))
    if value.dtype != object:
        field = wire._NUMPY[typed.dtype][1]
        typed.ClearField("tensor_content")
        typed.ClearField(field)
        getattr(typed, field).extend(value.ravel().tolist())
    ours = wire.PredictResponse.FromString(theirs.SerializeToString())
    values = {entry.key: wire.to_numpy(entry.value) for entry in ours.outputs}
    np.testing.assert_array_equal(values["raw"], value)
    np.testing.assert_array_equal(values["typed"], value)


def test_the_error_of_an_unknown_type_names_it():
    tensor = wire.TensorProto(dtype=8)  # complex64
    with pytest.raises(ValueError, match="DataType 8"):
        wire.to_numpy(tensor)


def test_states_are_those_of_the_generated_enum():
    generated = get_model_status_pb2.ModelVersionStatus.State.items()
    assert wire.STATES == {number: name for name, number in generated}


def test_an_example_is_a_tf_example():
    example = tf.train.Example.FromString(wire.image_example(b"bytes"))
    assert example.features.feature["image/encoded"].bytes_list.value[:] == [b"bytes"]
