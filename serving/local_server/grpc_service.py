"""The gRPC interface: PredictionService and ModelService.

Source: TF Serving's apis/{prediction_service,model_service}.proto and
model_servers/{prediction_service_impl,model_service_impl,grpc_status_util}.cc.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import grpc
from google.protobuf import message

from serving import feedback_service, wire
from serving.local_server import grpc_calls, inference, metadata, model_config, monitoring, result_messages, tensors
from serving.local_server.caller import TIMED_OUT, Caller
from serving.local_server.errors import RequestError, invalid_argument
from serving.local_server.models import ModelSource
from serving.local_server.protos import (
    classification_pb2,
    get_model_metadata_pb2,
    get_model_status_pb2,
    inference_pb2,
    model_management_pb2,
    model_pb2,
    model_service_pb2_grpc,
    predict_pb2,
    prediction_service_pb2_grpc,
    regression_pb2,
)
from serving.local_server.request_logging import LoggedCall, RequestLogs, num_bytes
from serving.local_server.servable import Servable
from serving.request_log.content import filler
from serving.request_log.request_ids import REQUEST_ID_KEY


def add_services(
    server: grpc.Server, source: ModelSource, logs: RequestLogs, *, tensor_content: bool
) -> tuple[str, ...]:
    """Registers the services.

    Args:
      server: Not started yet.
      source: The models.
      logs: Their request logs.
      tensor_content: Whether Predict returns raw bytes instead of typed fields.

    Returns:
      The full names of the services.
    """
    prediction = _PredictionService(source, logs, tensor_content)
    prediction_service_pb2_grpc.add_PredictionServiceServicer_to_server(prediction, server)
    model_service_pb2_grpc.add_ModelServiceServicer_to_server(_ModelService(source), server)
    server.add_generic_rpc_handlers((feedback_service.handler(logs.feedback),))
    return "tensorflow.serving.PredictionService", "tensorflow.serving.ModelService"


class _PredictionService(prediction_service_pb2_grpc.PredictionServiceServicer):
    def __init__(self, source: ModelSource, logs: RequestLogs, tensor_content: bool) -> None:
        self._source, self._logs, self._tensor_content = source, logs, tensor_content

    def Predict(
        self, request: predict_pb2.PredictRequest, context: grpc.ServicerContext
    ) -> predict_pb2.PredictResponse:
        """Runs a signature."""
        response = predict_pb2.PredictResponse()

        def fill(servable: Servable, signature: str) -> Callable[[], int]:
            inputs = {alias: tensors.to_numpy(tensor, alias) for alias, tensor in request.inputs.items()}
            outputs = inference.predict(servable, signature, inputs, list(request.output_filter), _caller(context))
            for alias, value in outputs.items():
                tensors.to_proto(value, response.outputs[alias], as_content=self._tensor_content)
            return lambda: num_bytes((*inputs.values(), *outputs.values()))

        return self._run_signature(context, "Predict", request, response, fill)

    def Classify(
        self, request: classification_pb2.ClassificationRequest, context: grpc.ServicerContext
    ) -> classification_pb2.ClassificationResponse:
        """Computes labels and scores of examples."""
        response = classification_pb2.ClassificationResponse()

        def fill(servable: Servable, signature: str) -> Callable[[], int]:
            result_messages.fill_classes(
                response.result, inference.classify(servable, signature, request.input, _caller(context))
            )
            return lambda: int(request.ByteSize())

        return self._run_signature(context, "Classify", request, response, fill)

    def Regress(
        self, request: regression_pb2.RegressionRequest, context: grpc.ServicerContext
    ) -> regression_pb2.RegressionResponse:
        """Computes a number for every example."""
        response = regression_pb2.RegressionResponse()

        def fill(servable: Servable, signature: str) -> Callable[[], int]:
            result_messages.fill_regressions(
                response.result, inference.regress(servable, signature, request.input, _caller(context))
            )
            return lambda: int(request.ByteSize())

        return self._run_signature(context, "Regress", request, response, fill)

    def MultiInference(
        self, request: inference_pb2.MultiInferenceRequest, context: grpc.ServicerContext
    ) -> inference_pb2.MultiInferenceResponse:
        """Runs several signatures of one model on the same examples."""
        name = request.tasks[0].model_spec.name if request.tasks else ""

        def respond() -> inference_pb2.MultiInferenceResponse:
            spec = _spec(request.tasks[0]) if request.tasks else model_pb2.ModelSpec()
            call = self._logged_call(context, spec.name)
            with self._source.use(*_selection(spec)) as servable:
                results = inference.multi_inference(servable, request, _caller(context))
            response = inference_pb2.MultiInferenceResponse()
            for task, result in zip(request.tasks, results, strict=True):
                added = response.results.add()
                added.model_spec.CopyFrom(result_messages.model_spec(servable, task.model_spec.signature_name))
                if task.method_name == inference.CLASSIFY_METHOD:
                    result_messages.fill_classes(added.classification_result, result)
                else:
                    result_messages.fill_regressions(added.regression_result, result)
            if call:
                call.done(request.ByteSize, filler("MultiInference", request, response))
            return response

        return self._counted(context, "MultiInference", name, respond)

    def GetModelMetadata(
        self, request: get_model_metadata_pb2.GetModelMetadataRequest, context: grpc.ServicerContext
    ) -> get_model_metadata_pb2.GetModelMetadataResponse:
        """Returns the signatures of a version."""

        def respond() -> get_model_metadata_pb2.GetModelMetadataResponse:
            spec = _spec(request)
            metadata.check_fields(request.metadata_field)
            with self._source.use(*_selection(spec)) as servable:
                return metadata.response(servable)

        return grpc_calls.respond(context, respond)

    def _run_signature(
        self,
        context: grpc.ServicerContext,
        api: str,
        request: Any,
        response: Any,
        fill: Callable[[Servable, str], Callable[[], int]],
    ) -> Any:
        """Fills the response to a request for one signature of one model; `fill` returns what measures it."""

        def respond() -> Any:
            spec = _spec(request)
            call = self._logged_call(context, spec.name)
            with self._source.use(*_selection(spec)) as servable:
                size = fill(servable, spec.signature_name)
            response.model_spec.CopyFrom(result_messages.model_spec(servable, spec.signature_name))
            if call:
                call.done(size, filler(api, request, response))
            return response

        return self._counted(context, api, request.model_spec.name, respond)

    def _logged_call(self, context: grpc.ServicerContext, model: str) -> LoggedCall | None:
        """Returns the call of a model with a request log; its id is trailing metadata of the response."""
        call = self._logs.begin(model, dict(context.invocation_metadata()).get(REQUEST_ID_KEY))
        if call:
            context.set_trailing_metadata(((REQUEST_ID_KEY, call.request_id),))
        return call

    def _counted(self, context: grpc.ServicerContext, api: str, name: str, compute: Callable[[], Any]) -> Any:
        """Computes a response and counts the request."""
        started = time.perf_counter()

        def respond() -> Any:
            try:
                if not context.is_active():
                    raise RequestError("CANCELLED", "The client has cancelled the request.")
                result = compute()
            except RequestError as error:
                monitoring.count(self._source, name, error.code)
                raise
            except Exception:
                monitoring.count(self._source, name, "INTERNAL")
                raise
            monitoring.count(self._source, name, "OK")
            monitoring.REQUEST_LATENCY.labels(name, api, "GRPC").observe((time.perf_counter() - started) * 1e6)
            return result

        return grpc_calls.respond(context, respond)


class _ModelService(model_service_pb2_grpc.ModelServiceServicer):
    def __init__(self, source: ModelSource) -> None:
        self._source = source

    def GetModelStatus(
        self, request: get_model_status_pb2.GetModelStatusRequest, context: grpc.ServicerContext
    ) -> get_model_status_pb2.GetModelStatusResponse:
        """Returns the state of every version, or of one; ignores labels, as TF Serving does."""

        def respond() -> get_model_status_pb2.GetModelStatusResponse:
            spec = _spec(request)
            if not spec.name:  # an error, as TF Serving's, that lists the models
                names = wire.encode_model_names(self._source.names())
                context.set_trailing_metadata(((wire.MODEL_NAMES_KEY, names),))
            version = spec.version.value if spec.WhichOneof("version_choice") == "version" else None
            response = get_model_status_pb2.GetModelStatusResponse()
            for entry in self._source.status(spec.name, version):
                state = get_model_status_pb2.ModelVersionStatus.State.Value(entry.state)
                status = response.model_version_status.add(version=entry.number, state=state)
                status.status.error_code = _number(entry.error_code)
                status.status.error_message = entry.error_message
            return response

        return grpc_calls.respond(context, respond)

    def HandleReloadConfigRequest(
        self, request: model_management_pb2.ReloadConfigRequest, context: grpc.ServicerContext
    ) -> model_management_pb2.ReloadConfigResponse:
        """Changes the models; returns when the new ones are loaded."""

        def respond() -> model_management_pb2.ReloadConfigResponse:
            if request.config.WhichOneof("config") != "model_config_list":
                raise invalid_argument(
                    "ServerModelConfig type not supported by HandleReloadConfigRequest. "
                    "Only ModelConfigList is currently supported"
                )
            self._source.reload(model_config.from_proto(request.config))
            response = model_management_pb2.ReloadConfigResponse()
            response.status.error_code = 0
            return response

        return grpc_calls.respond(context, respond)


def _number(code: str) -> int:
    return 0 if code == "OK" else int(grpc.StatusCode[code].value[0])


def _spec(request: message.Message) -> model_pb2.ModelSpec:
    if not request.HasField("model_spec"):
        raise invalid_argument("Missing ModelSpec")
    return request.model_spec


def _selection(spec: model_pb2.ModelSpec) -> tuple[str, int | None, str | None]:
    """Returns name, version and label; version 0 is version 0, not the newest."""
    if not spec.name:
        raise invalid_argument("ModelSpec has no name specified.")
    choice = spec.WhichOneof("version_choice")
    return (
        spec.name,
        spec.version.value if choice == "version" else None,
        spec.version_label if choice == "version_label" else None,
    )


def _caller(context: grpc.ServicerContext) -> Caller:
    remaining_s = grpc_calls.remaining_s(context)
    if remaining_s == 0:
        raise RequestError("DEADLINE_EXCEEDED", TIMED_OUT)
    return Caller(remaining_s, context.add_callback)
