"""TF Serving's gRPC messages, without TensorFlow.

The generated modules of `tensorflow-serving-api` import TensorFlow, which takes ten seconds. This module declares the
fields that a client needs instead, with TF Serving's names and numbers, in a separate descriptor pool, so that both can
be used in one process.

Source of names and numbers: tensorflow_serving/apis/{model,predict,get_model_status,get_model_metadata}.proto and
tensorflow/core/framework/{tensor,tensor_shape,types}.proto, tensorflow/core/example/{example,feature}.proto,
tensorflow/core/protobuf/meta_graph.proto.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

import numpy as np
from google.protobuf import descriptor_pb2

from serving import message_classes
from trainer_module import features

_FIELD = descriptor_pb2.FieldDescriptorProto

# tensorflow.DataType, and its names as in JSON.
DT_FLOAT, DT_DOUBLE, DT_INT32, DT_UINT8, DT_STRING, DT_INT64, DT_BOOL = _DATA_TYPES = (1, 2, 3, 4, 7, 9, 10)
_TYPE_NAMES = ("DT_FLOAT", "DT_DOUBLE", "DT_INT32", "DT_UINT8", "DT_STRING", "DT_INT64", "DT_BOOL")
TYPE_NAMES = dict(zip(_DATA_TYPES, _TYPE_NAMES, strict=True))

PREDICT_METHOD = "/tensorflow.serving.PredictionService/Predict"
METADATA_METHOD = "/tensorflow.serving.PredictionService/GetModelMetadata"
STATUS_METHOD = "/tensorflow.serving.ModelService/GetModelStatus"

# Of the local server and the gateway; `label` is JSON.
FEEDBACK_METHOD = "/tfx_vision.FeedbackService/Feedback"

# TF Serving has no call that lists its models; GetModelStatus without a name and `GET /v1/models` are errors. The local
# server adds this key to those errors (gRPC trailing metadata, HTTP header) and leaves their code and body unchanged.
MODEL_NAMES_KEY = "model-names"

# The states of tensorflow.serving.ModelVersionStatus.
STATES = {0: "UNKNOWN", 10: "START", 20: "LOADING", 30: "AVAILABLE", 40: "UNLOADING", 50: "END"}

_MESSAGES: message_classes.Messages = {
    "Int64Value": {"value": (1, _FIELD.TYPE_INT64)},
    "ModelSpec": {
        "name": (1, _FIELD.TYPE_STRING),
        "version": (2, "Int64Value"),
        "version_label": (4, _FIELD.TYPE_STRING),
        "signature_name": (3, _FIELD.TYPE_STRING),
    },
    "Dim": {"size": (1, _FIELD.TYPE_INT64), "name": (2, _FIELD.TYPE_STRING)},
    "TensorShapeProto": {"*dim": (2, "Dim"), "unknown_rank": (3, _FIELD.TYPE_BOOL)},
    "TensorProto": {
        "dtype": (1, _FIELD.TYPE_INT32),
        "tensor_shape": (2, "TensorShapeProto"),
        "tensor_content": (4, _FIELD.TYPE_BYTES),
        "*float_val": (5, _FIELD.TYPE_FLOAT),
        "*double_val": (6, _FIELD.TYPE_DOUBLE),
        "*int_val": (7, _FIELD.TYPE_INT32),
        "*string_val": (8, _FIELD.TYPE_BYTES),
        "*int64_val": (10, _FIELD.TYPE_INT64),
        "*bool_val": (11, _FIELD.TYPE_BOOL),
    },
    # A map<string, TensorProto> is, on the wire, a repeated message of key and value.
    "TensorEntry": {"key": (1, _FIELD.TYPE_STRING), "value": (2, "TensorProto")},
    "PredictRequest": {
        "model_spec": (1, "ModelSpec"),
        "*inputs": (2, "TensorEntry"),
        "*output_filter": (3, _FIELD.TYPE_STRING),
    },
    "PredictResponse": {"*outputs": (1, "TensorEntry"), "model_spec": (2, "ModelSpec")},
    # tf.Example with features of bytes only; maps as above.
    "BytesList": {"*value": (1, _FIELD.TYPE_BYTES)},
    "Feature": {"bytes_list": (1, "BytesList")},
    "FeatureEntry": {"key": (1, _FIELD.TYPE_STRING), "value": (2, "Feature")},
    "Features": {"*feature": (1, "FeatureEntry")},
    "Example": {"features": (1, "Features")},
    "GetModelStatusRequest": {"model_spec": (1, "ModelSpec")},
    "StatusProto": {"error_code": (1, _FIELD.TYPE_INT32), "error_message": (2, _FIELD.TYPE_STRING)},
    "ModelVersionStatus": {
        "version": (1, _FIELD.TYPE_INT64),
        "state": (2, _FIELD.TYPE_INT32),
        "status": (3, "StatusProto"),
    },
    "GetModelStatusResponse": {"*model_version_status": (1, "ModelVersionStatus")},
    "GetModelMetadataRequest": {"model_spec": (1, "ModelSpec"), "*metadata_field": (2, _FIELD.TYPE_STRING)},
    # google.protobuf.Any
    "AnyMessage": {"type_url": (1, _FIELD.TYPE_STRING), "value": (2, _FIELD.TYPE_BYTES)},
    "MetadataEntry": {"key": (1, _FIELD.TYPE_STRING), "value": (2, "AnyMessage")},
    "GetModelMetadataResponse": {"model_spec": (1, "ModelSpec"), "*metadata": (2, "MetadataEntry")},
    "TensorInfo": {"dtype": (2, _FIELD.TYPE_INT32), "tensor_shape": (3, "TensorShapeProto")},
    "TensorInfoEntry": {"key": (1, _FIELD.TYPE_STRING), "value": (2, "TensorInfo")},
    "SignatureDef": {
        "*inputs": (1, "TensorInfoEntry"),
        "*outputs": (2, "TensorInfoEntry"),
        "method_name": (3, _FIELD.TYPE_STRING),
    },
    "SignatureDefEntry": {"key": (1, _FIELD.TYPE_STRING), "value": (2, "SignatureDef")},
    "SignatureDefMap": {"*signature_def": (1, "SignatureDefEntry")},
    "FeedbackRequest": {
        "model_spec": (1, "ModelSpec"),
        "request_id": (2, _FIELD.TYPE_STRING),
        "label": (3, _FIELD.TYPE_STRING),
    },
    "FeedbackResponse": {},
}

_CLASSES = message_classes.build("tfx_vision.wire", _MESSAGES)
ModelSpec = _CLASSES["ModelSpec"]
TensorProto = _CLASSES["TensorProto"]
PredictRequest = _CLASSES["PredictRequest"]
PredictResponse = _CLASSES["PredictResponse"]
GetModelStatusRequest = _CLASSES["GetModelStatusRequest"]
GetModelStatusResponse = _CLASSES["GetModelStatusResponse"]
GetModelMetadataRequest = _CLASSES["GetModelMetadataRequest"]
GetModelMetadataResponse = _CLASSES["GetModelMetadataResponse"]
FeedbackRequest = _CLASSES["FeedbackRequest"]
FeedbackResponse = _CLASSES["FeedbackResponse"]
SignatureDefMap = _CLASSES["SignatureDefMap"]

# DataType → numpy type, TensorProto field of typed values.
_NUMPY: dict[int, tuple[Any, str]] = {
    DT_FLOAT: (np.float32, "float_val"),
    DT_DOUBLE: (np.float64, "double_val"),
    DT_INT32: (np.int32, "int_val"),
    DT_UINT8: (np.uint8, "int_val"),
    DT_INT64: (np.int64, "int64_val"),
    DT_BOOL: (np.bool_, "bool_val"),
}


def encode_model_names(names: Sequence[str]) -> str:
    """Returns the value of `MODEL_NAMES_KEY`: a JSON array in ASCII."""
    return json.dumps(names)


def decode_model_names(value: str) -> list[str]:
    """Reads the value of `MODEL_NAMES_KEY`.

    Raises:
      ValueError: If it is not a JSON array of strings.
    """
    names = json.loads(value)
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        raise ValueError(f"{MODEL_NAMES_KEY} is not a JSON array of strings: {value[:200]!r}.")
    return names


def fill_string_tensor(tensor: Any, values: Sequence[bytes]) -> None:
    """Fills an empty TensorProto with string [N]; within a request this avoids a copy."""
    tensor.dtype = DT_STRING
    tensor.string_val.extend(values)
    tensor.tensor_shape.dim.add(size=len(values))


def image_example(image: bytes) -> bytes:
    """Serializes a tf.Example of one encoded image, with the feature key of `ImageExampleGen`."""
    example = _CLASSES["Example"]()
    entry = example.features.feature.add(key=features.IMAGE_ENCODED)
    entry.value.bytes_list.value.append(image)
    serialized: bytes = example.SerializeToString()
    return serialized


def to_numpy(tensor: Any) -> np.ndarray:
    """Reads a TensorProto, with typed values or raw content; strings become an object array of bytes.

    Raises:
      ValueError: If no signature of this project has this dtype.
    """
    shape = [dim.size for dim in tensor.tensor_shape.dim]
    if tensor.dtype == DT_STRING:
        return np.array(list(tensor.string_val), dtype=object).reshape(shape)
    if tensor.dtype not in _NUMPY:
        raise ValueError(f"The response contains a tensor of DataType {tensor.dtype}, which is not supported.")
    dtype, field = _NUMPY[tensor.dtype]
    if tensor.tensor_content:
        return np.frombuffer(tensor.tensor_content, dtype=np.dtype(dtype).newbyteorder("<")).reshape(shape)
    values = np.array(getattr(tensor, field), dtype=dtype)
    # TensorProto shortens constants: one value for all elements of the shape.
    return np.full(shape, values[0], dtype) if values.size == 1 else values.reshape(shape)
