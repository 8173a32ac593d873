"""The gRPC interface: PredictionService.Predict and ModelService.GetModelStatus.

Source: TF Serving's apis/prediction_service.proto and apis/model_service.proto.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import grpc
import numpy as np
import tensorflow as tf
from google.protobuf import message
from tensorflow.core.framework import tensor_pb2
from tensorflow_serving.apis import (
    get_model_status_pb2,
    model_pb2,
    model_service_pb2_grpc,
    predict_pb2,
    prediction_service_pb2_grpc,
)

from serving.local_server import servables
from serving.local_server.errors import RequestError
from trainer_module.features import SERVING_DEFAULT

# model_servers/grpc_status_util.cc
_LONGEST_MESSAGE = 1024
# numpy kind and size → TensorProto's field of typed values.
_TYPED_FIELDS = {
    np.dtype(np.float32): "float_val",
    np.dtype(np.float64): "double_val",
    np.dtype(np.int32): "int_val",
    np.dtype(np.uint8): "int_val",
    np.dtype(np.int64): "int64_val",
    np.dtype(np.bool_): "bool_val",
}
_VALUE_FIELDS = ("string_val", *sorted({*_TYPED_FIELDS.values(), "half_val", "uint32_val", "uint64_val"}))
_MOST_REPEATED = 2**20


def add_services(server: grpc.Server, source: servables.ModelSource) -> None:
    """Registers both services for one model."""
    prediction_service_pb2_grpc.add_PredictionServiceServicer_to_server(_PredictionService(source), server)
    model_service_pb2_grpc.add_ModelServiceServicer_to_server(_ModelService(source), server)


class _PredictionService(prediction_service_pb2_grpc.PredictionServiceServicer):
    def __init__(self, source: servables.ModelSource) -> None:
        self._source = source

    def Predict(
        self, request: predict_pb2.PredictRequest, context: grpc.ServicerContext
    ) -> predict_pb2.PredictResponse:
        """Runs a signature."""
        return _answer(context, lambda: self._predict(request))

    def _predict(self, request: predict_pb2.PredictRequest) -> predict_pb2.PredictResponse:
        version, model = _find(self._source, request)
        signature = request.model_spec.signature_name or SERVING_DEFAULT
        inputs = {alias: _to_numpy(tensor) for alias, tensor in request.inputs.items()}
        outputs = servables.predict(model, signature, inputs, list(request.output_filter))
        response = predict_pb2.PredictResponse()
        response.model_spec.name = request.model_spec.name
        response.model_spec.version.value = version
        response.model_spec.signature_name = signature
        for name, value in outputs.items():
            response.outputs[name].CopyFrom(_to_proto(value))
        return response


class _ModelService(model_service_pb2_grpc.ModelServiceServicer):
    def __init__(self, source: servables.ModelSource) -> None:
        self._source = source

    def GetModelStatus(
        self, request: get_model_status_pb2.GetModelStatusRequest, context: grpc.ServicerContext
    ) -> get_model_status_pb2.GetModelStatusResponse:
        """Tells the state of every version, or of one; labels are ignored, as TF Serving does."""
        return _answer(context, lambda: self._status(request))

    def _status(
        self, request: get_model_status_pb2.GetModelStatusRequest
    ) -> get_model_status_pb2.GetModelStatusResponse:
        spec = _spec(request)
        version = spec.version.value if spec.WhichOneof("version_choice") == "version" else None
        response = get_model_status_pb2.GetModelStatusResponse()
        for entry in self._source.status(spec.name, version):
            state = get_model_status_pb2.ModelVersionStatus.State.Value(entry.state)
            status = response.model_version_status.add(version=entry.number, state=state)
            status.status.error_code = 0 if entry.error_code == "OK" else _code(entry.error_code).value[0]
            status.status.error_message = entry.error_message
        return response


def _answer(context: grpc.ServicerContext, compute: Callable[[], Any]) -> Any:
    try:
        return compute()
    except RequestError as error:
        text = error.message
        if len(text) > _LONGEST_MESSAGE:
            text = text[:_LONGEST_MESSAGE] + "...TRUNCATED"
        context.abort(_code(error.code), text)


def _code(name: str) -> grpc.StatusCode:
    return grpc.StatusCode[name]


def _spec(request: message.Message) -> model_pb2.ModelSpec:
    if not request.HasField("model_spec"):
        raise RequestError("INVALID_ARGUMENT", "Missing ModelSpec")
    spec = request.model_spec
    if not spec.name:
        raise RequestError("INVALID_ARGUMENT", "ModelSpec has no name specified.")
    return spec


def _find(source: servables.ModelSource, request: message.Message) -> tuple[int, Any]:
    spec = _spec(request)
    choice = spec.WhichOneof("version_choice")
    return source.find(
        spec.name,
        spec.version.value if choice == "version" else None,
        spec.version_label if choice == "version_label" else None,
    )


def _to_numpy(tensor: tensor_pb2.TensorProto) -> np.ndarray:
    shape = [dim.size for dim in tensor.tensor_shape.dim]
    given = max((len(getattr(tensor, field)) for field in _VALUE_FIELDS), default=0)
    # One value may stand for many, but not for more than a request could hold: a shape costs the sender nothing.
    if min(shape, default=0) < 0 or (not tensor.tensor_content and math.prod(shape) > max(given, _MOST_REPEATED)):
        raise RequestError("INVALID_ARGUMENT", f"tensor parsing error: shape {shape} for {given} values")
    try:
        array: np.ndarray = tf.make_ndarray(tensor)
    except (TypeError, ValueError) as error:
        raise RequestError("INVALID_ARGUMENT", f"tensor parsing error: {error}") from None
    return array


def _to_proto(value: np.ndarray) -> tensor_pb2.TensorProto:
    """Typed fields (`float_val`, ...), not raw content: TF Serving's default, which other clients read."""
    if value.dtype == object:
        tensor = tensor_pb2.TensorProto(dtype=tf.string.as_datatype_enum)
        tensor.string_val.extend(item if isinstance(item, bytes) else item.encode() for item in value.ravel())
    elif value.dtype in _TYPED_FIELDS:
        tensor = tensor_pb2.TensorProto(dtype=tf.dtypes.as_dtype(value.dtype).as_datatype_enum)
        getattr(tensor, _TYPED_FIELDS[value.dtype]).extend(value.ravel().tolist())
    else:
        tensor = tf.make_tensor_proto(value)
        return tensor
    for size in value.shape:
        tensor.tensor_shape.dim.add(size=size)
    return tensor
