"""TF Serving's gRPC messages, without TensorFlow.

The generated modules of `tensorflow-serving-api` import TensorFlow, ten seconds that a client has no use for. What a
client needs of the messages is declared here instead, field by field under TF Serving's own names and numbers, in a
descriptor pool of its own, so that both can live in one process.

Source of names and numbers: tensorflow_serving/apis/{model,predict,get_model_status,get_model_metadata}.proto and
tensorflow/core/framework/{tensor,tensor_shape,types}.proto, tensorflow/core/example/{example,feature}.proto,
tensorflow/core/protobuf/meta_graph.proto.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from google.protobuf import descriptor_pb2, descriptor_pool, message_factory

from trainer_module import features

_FIELD = descriptor_pb2.FieldDescriptorProto
_OPTIONAL, _REPEATED = _FIELD.LABEL_OPTIONAL, _FIELD.LABEL_REPEATED

# tensorflow.DataType
DT_FLOAT, DT_DOUBLE, DT_INT32, DT_UINT8, DT_STRING, DT_INT64, DT_BOOL = 1, 2, 3, 4, 7, 9, 10

PREDICT_METHOD = "/tensorflow.serving.PredictionService/Predict"
METADATA_METHOD = "/tensorflow.serving.PredictionService/GetModelMetadata"
STATUS_METHOD = "/tensorflow.serving.ModelService/GetModelStatus"

# The states of tensorflow.serving.ModelVersionStatus.
STATES = {0: "UNKNOWN", 10: "START", 20: "LOADING", 30: "AVAILABLE", 40: "UNLOADING", 50: "END"}

# The names of tensorflow.DataType, as JSON has them.
TYPE_NAMES = {
    DT_FLOAT: "DT_FLOAT",
    DT_DOUBLE: "DT_DOUBLE",
    DT_INT32: "DT_INT32",
    DT_UINT8: "DT_UINT8",
    DT_STRING: "DT_STRING",
    DT_INT64: "DT_INT64",
    DT_BOOL: "DT_BOOL",
}

# Message → field → (number, type, repeated). A type that is a string names a message.
_MESSAGES: dict[str, dict[str, tuple[int, int | str, bool]]] = {
    "Int64Value": {"value": (1, _FIELD.TYPE_INT64, False)},
    "ModelSpec": {
        "name": (1, _FIELD.TYPE_STRING, False),
        "version": (2, "Int64Value", False),
        "version_label": (4, _FIELD.TYPE_STRING, False),
        "signature_name": (3, _FIELD.TYPE_STRING, False),
    },
    "Dim": {"size": (1, _FIELD.TYPE_INT64, False), "name": (2, _FIELD.TYPE_STRING, False)},
    "TensorShapeProto": {"dim": (2, "Dim", True), "unknown_rank": (3, _FIELD.TYPE_BOOL, False)},
    "TensorProto": {
        "dtype": (1, _FIELD.TYPE_INT32, False),
        "tensor_shape": (2, "TensorShapeProto", False),
        "tensor_content": (4, _FIELD.TYPE_BYTES, False),
        "float_val": (5, _FIELD.TYPE_FLOAT, True),
        "double_val": (6, _FIELD.TYPE_DOUBLE, True),
        "int_val": (7, _FIELD.TYPE_INT32, True),
        "string_val": (8, _FIELD.TYPE_BYTES, True),
        "int64_val": (10, _FIELD.TYPE_INT64, True),
        "bool_val": (11, _FIELD.TYPE_BOOL, True),
    },
    # A map<string, TensorProto> is, on the wire, a repeated message of key and value.
    "TensorEntry": {"key": (1, _FIELD.TYPE_STRING, False), "value": (2, "TensorProto", False)},
    "PredictRequest": {
        "model_spec": (1, "ModelSpec", False),
        "inputs": (2, "TensorEntry", True),
        "output_filter": (3, _FIELD.TYPE_STRING, True),
    },
    "PredictResponse": {"outputs": (1, "TensorEntry", True), "model_spec": (2, "ModelSpec", False)},
    # tf.Example with features of bytes only; maps as above.
    "BytesList": {"value": (1, _FIELD.TYPE_BYTES, True)},
    "Feature": {"bytes_list": (1, "BytesList", False)},
    "FeatureEntry": {"key": (1, _FIELD.TYPE_STRING, False), "value": (2, "Feature", False)},
    "Features": {"feature": (1, "FeatureEntry", True)},
    "Example": {"features": (1, "Features", False)},
    "GetModelStatusRequest": {"model_spec": (1, "ModelSpec", False)},
    "StatusProto": {"error_code": (1, _FIELD.TYPE_INT32, False), "error_message": (2, _FIELD.TYPE_STRING, False)},
    "ModelVersionStatus": {
        "version": (1, _FIELD.TYPE_INT64, False),
        "state": (2, _FIELD.TYPE_INT32, False),
        "status": (3, "StatusProto", False),
    },
    "GetModelStatusResponse": {"model_version_status": (1, "ModelVersionStatus", True)},
    "GetModelMetadataRequest": {"model_spec": (1, "ModelSpec", False), "metadata_field": (2, _FIELD.TYPE_STRING, True)},
    # google.protobuf.Any
    "AnyMessage": {"type_url": (1, _FIELD.TYPE_STRING, False), "value": (2, _FIELD.TYPE_BYTES, False)},
    "MetadataEntry": {"key": (1, _FIELD.TYPE_STRING, False), "value": (2, "AnyMessage", False)},
    "GetModelMetadataResponse": {"model_spec": (1, "ModelSpec", False), "metadata": (2, "MetadataEntry", True)},
    "TensorInfo": {"dtype": (2, _FIELD.TYPE_INT32, False), "tensor_shape": (3, "TensorShapeProto", False)},
    "TensorInfoEntry": {"key": (1, _FIELD.TYPE_STRING, False), "value": (2, "TensorInfo", False)},
    "SignatureDef": {
        "inputs": (1, "TensorInfoEntry", True),
        "outputs": (2, "TensorInfoEntry", True),
        "method_name": (3, _FIELD.TYPE_STRING, False),
    },
    "SignatureDefEntry": {"key": (1, _FIELD.TYPE_STRING, False), "value": (2, "SignatureDef", False)},
    "SignatureDefMap": {"signature_def": (1, "SignatureDefEntry", True)},
}


def _build() -> dict[str, Any]:
    package = "tfx_vision.wire"
    file = descriptor_pb2.FileDescriptorProto(name="tfx_vision/wire.proto", package=package, syntax="proto3")
    for message_name, fields in _MESSAGES.items():
        message = file.message_type.add(name=message_name)
        for field_name, (number, kind, repeated) in fields.items():
            field = message.field.add(name=field_name, number=number, label=_REPEATED if repeated else _OPTIONAL)
            if isinstance(kind, str):
                field.type = _FIELD.TYPE_MESSAGE
                field.type_name = f".{package}.{kind}"
            else:
                field.type = kind
    pool = descriptor_pool.DescriptorPool()
    pool.Add(file)
    return {
        name: message_factory.GetMessageClass(pool.FindMessageTypeByName(f"{package}.{name}")) for name in _MESSAGES
    }


_CLASSES = _build()
ModelSpec = _CLASSES["ModelSpec"]
TensorProto = _CLASSES["TensorProto"]
PredictRequest = _CLASSES["PredictRequest"]
PredictResponse = _CLASSES["PredictResponse"]
GetModelStatusRequest = _CLASSES["GetModelStatusRequest"]
GetModelStatusResponse = _CLASSES["GetModelStatusResponse"]
GetModelMetadataRequest = _CLASSES["GetModelMetadataRequest"]
GetModelMetadataResponse = _CLASSES["GetModelMetadataResponse"]
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


def string_tensor(values: Sequence[bytes]) -> Any:
    """Makes a TensorProto, string [N]."""
    tensor = TensorProto()
    fill_string_tensor(tensor, values)
    return tensor


def fill_string_tensor(tensor: Any, values: Sequence[bytes]) -> None:
    """Makes an empty TensorProto a string [N]; where it already has its place in a request, nothing is copied."""
    tensor.dtype = DT_STRING
    tensor.string_val.extend(values)
    tensor.tensor_shape.dim.add(size=len(values))


def image_example(image: bytes) -> bytes:
    """Serialises a tf.Example that holds one encoded picture, as `ImageExampleGen` names it."""
    example = _CLASSES["Example"]()
    entry = example.features.feature.add(key=features.IMAGE_ENCODED)
    entry.value.bytes_list.value.append(image)
    serialized: bytes = example.SerializeToString()
    return serialized


def to_numpy(tensor: Any) -> np.ndarray:
    """Reads a TensorProto, typed values or raw content alike; strings become an object array of bytes.

    Raises:
      ValueError: If the type is not one that our signatures answer with.
    """
    shape = [dim.size for dim in tensor.tensor_shape.dim]
    if tensor.dtype == DT_STRING:
        return np.array(list(tensor.string_val), dtype=object).reshape(shape)
    if tensor.dtype not in _NUMPY:
        raise ValueError(f"The server answered with a tensor of DataType {tensor.dtype}, which is not supported.")
    dtype, field = _NUMPY[tensor.dtype]
    if tensor.tensor_content:
        return np.frombuffer(tensor.tensor_content, dtype=np.dtype(dtype).newbyteorder("<")).reshape(shape)
    values = np.array(getattr(tensor, field), dtype=dtype)
    # One value stands for as many as the shape says; that is how TensorProto shortens constants.
    return np.full(shape, values[0], dtype) if values.size == 1 else values.reshape(shape)
