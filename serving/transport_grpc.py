"""The gRPC transport of a client: Predict, GetModelMetadata and GetModelStatus of TF Serving, and feedback."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

import grpc

from serving import wire
from serving.client_options import ClientOptions, read_pem
from serving.errors import (
    InternalError,
    InvalidArgumentError,
    NotFoundError,
    ServerError,
    UnavailableError,
    UnimplementedError,
    feedback_not_accepted,
    from_code,
    names_not_listed,
)
from serving.request_flow import PredictResponse, Request
from serving.request_log.request_ids import REQUEST_ID_KEY
from serving.responses import ModelMetadata, SignatureSpec, TensorSpec, VersionStatus

# Above every response of our signatures; gRPC's default of 4 MB is not: 32 heat maps of 224 x 224 floats are 6 MB.
MAX_MESSAGE_BYTES = 256 * 1024 * 1024
_CHANNEL_OPTIONS = [
    ("grpc.max_receive_message_length", MAX_MESSAGE_BYTES),
    ("grpc.max_send_message_length", MAX_MESSAGE_BYTES),
    # Model names are trailing metadata; the default of 8 KB limits them to some hundreds.
    ("grpc.max_metadata_size", 1024 * 1024),
    # If a name resolves to several servers (a headless Service of Kubernetes), use them in turn; by default gRPC always
    # uses the first one.
    ("grpc.service_config", json.dumps({"loadBalancingConfig": [{"round_robin": {}}]})),
    # `request_flow` counts and times the retries; the channel has to reconnect between them (by default gRPC waits a
    # second, then up to two minutes).
    ("grpc.initial_reconnect_backoff_ms", 100),
    ("grpc.max_reconnect_backoff_ms", 5000),
]
_METHODS = {
    "predict": (wire.PREDICT_METHOD, wire.PredictResponse),
    "status": (wire.STATUS_METHOD, wire.GetModelStatusResponse),
    "metadata": (wire.METADATA_METHOD, wire.GetModelMetadataResponse),
    "model_names": (wire.STATUS_METHOD, wire.GetModelStatusResponse),
    "feedback": (wire.FEEDBACK_METHOD, wire.FeedbackResponse),
}


class _GrpcCodec:
    """Shared by both transports: address and credentials, encodes requests, reads responses and errors."""

    def __init__(self, address: str, model_name: str, options: ClientOptions) -> None:
        """Checks address and options.

        Raises:
          ValueError: If one is invalid, or they contradict each other.
        """
        if address.startswith(("http://", "https://")):
            raise ValueError(f"{address} is a URL; gRPC requires HOST:PORT.")
        self._address = address
        self._credentials = _credentials(options) if options.wants_tls else None
        options.check_token_is_safe(_host(address), encrypted=options.wants_tls)
        self._options = options
        self._spec = wire.ModelSpec(name=model_name)
        if options.version is not None:
            self._spec.version.SetInParent()  # version 0 would not be sent otherwise
            self._spec.version.value = options.version
        elif options.label is not None:
            self._spec.version_label = options.label

    def channel(self, api: Any) -> Any:
        """Opens a channel of `grpc` or `grpc.aio`."""
        if self._credentials is None:
            return api.insecure_channel(self._address, options=_CHANNEL_OPTIONS)
        return api.secure_channel(self._address, self._credentials, options=_CHANNEL_OPTIONS)

    def call_metadata(self, request: Request) -> list[tuple[str, str]]:
        authorization = self._options.authorization()
        metadata = [] if authorization is None else [("authorization", authorization)]
        return [*metadata, (REQUEST_ID_KEY, request.request_id)] if request.kind == "predict" else metadata

    def message(self, request: Request) -> Any:
        if request.kind == "predict":
            message = wire.PredictRequest(model_spec=self._spec)
            message.model_spec.signature_name = request.signature
            tensor = message.inputs.add(key=request.input_name).value
            wire.fill_string_tensor(tensor, request.values)
        elif request.kind == "status":
            message = wire.GetModelStatusRequest(model_spec=self._spec)
        elif request.kind == "feedback":
            message = wire.FeedbackRequest(model_spec=self._spec, request_id=request.request_id, label=request.label)
        elif request.kind == "model_names":
            message = wire.GetModelStatusRequest(model_spec=wire.ModelSpec())
        else:
            message = wire.GetModelMetadataRequest(model_spec=self._spec, metadata_field=["signature_def"])
        return message

    def read(self, request: Request, response: Any, trailing: Any = ()) -> Any:
        """Reads a response, and the request id in its trailing metadata.

        Raises:
          InternalError: If it is not from a model server: another message type, an unknown dtype, a wrong shape.
        """
        try:
            result = _READERS[request.kind](response)
            request_id = dict(trailing or ()).get(REQUEST_ID_KEY, "")
            return result._replace(request_id=request_id) if request.kind == "predict" else result
        except ServerError:
            raise
        except Exception as error:  # the message comes from outside: numpy and protobuf raise many classes
            raise InternalError("INTERNAL", f"unexpected response: {error}") from error

    def read_error(self, request: Request, error: Exception) -> Any:
        """Raises the error of a call, unless it contains the requested names of the models.

        Raises:
          ServerError: In every other case.
        """
        if not isinstance(error, grpc.RpcError):
            # A closed channel or another event loop: grpc has no common class for these.
            raise UnavailableError("UNAVAILABLE", f"{self._address}: {str(error) or type(error).__name__}") from error
        code = error.code()
        server_error = from_code(code.name if code else "UNKNOWN", error.details() or "no message")
        if request.kind == "model_names":
            names = dict(error.trailing_metadata() or ()).get(wire.MODEL_NAMES_KEY)
            if names is not None:
                return self.read(request, names)
            # TF Serving: NOT_FOUND, "Could not find any versions of model".
            if isinstance(server_error, NotFoundError | InvalidArgumentError):
                raise names_not_listed() from None
        if request.kind == "feedback" and isinstance(server_error, UnimplementedError):
            raise feedback_not_accepted() from None
        raise server_error from None


class GrpcTransport:
    """Sends over one channel, which all threads share."""

    def __init__(self, address: str, model_name: str, options: ClientOptions) -> None:
        """Opens the channel; it connects at the first request; see `client.GrpcClient`."""
        self._codec = _GrpcCodec(address, model_name, options)
        self._channel = self._codec.channel(grpc)
        self._methods = _methods(self._channel)

    def send(self, request: Request, timeout_s: float) -> Any:
        """Sends a request and reads the response.

        Raises:
          ServerError: If there is no response, or it is an error.
        """
        codec = self._codec
        message, metadata = codec.message(request), codec.call_metadata(request)
        try:
            response, call = self._methods[request.kind].with_call(message, timeout=timeout_s, metadata=metadata)
        except Exception as error:
            return codec.read_error(request, error)
        return codec.read(request, response, call.trailing_metadata())

    def close(self) -> None:
        """Closes the channel."""
        self._channel.close()


class AsyncGrpcTransport:
    """Sends over one channel of the event loop of the first request."""

    def __init__(self, address: str, model_name: str, options: ClientOptions) -> None:
        """Checks the options; see `GrpcTransport`."""
        self._codec = _GrpcCodec(address, model_name, options)
        self._channel: Any = None
        self._methods: dict[str, Any] = {}

    async def send(self, request: Request, timeout_s: float) -> Any:
        """See `GrpcTransport.send`."""
        codec = self._codec
        message, metadata = codec.message(request), codec.call_metadata(request)
        try:
            if self._channel is None:
                self._channel = codec.channel(grpc.aio)
                self._methods = _methods(self._channel)
            call = self._methods[request.kind](message, timeout=timeout_s, metadata=metadata)
            response, trailing = await call, await call.trailing_metadata()
        except Exception as error:
            return codec.read_error(request, error)
        return codec.read(request, response, trailing)

    async def close(self) -> None:
        """Closes the channel."""
        if self._channel is not None:
            await self._channel.close()


def _methods(channel: Any) -> dict[str, Any]:
    return {
        kind: channel.unary_unary(
            path,
            request_serializer=lambda message: message.SerializeToString(),
            response_deserializer=response.FromString,
        )
        for kind, (path, response) in _METHODS.items()
    }


def _credentials(options: ClientOptions) -> Any:
    authorities, key, certificate = (
        None if path is None else read_pem(path) for path in (options.ca_file, options.key_file, options.cert_file)
    )
    return grpc.ssl_channel_credentials(authorities, key, certificate)


def _host(address: str) -> str:
    """Returns the host of HOST:PORT, [HOST]:PORT and similar addresses; "" for a UNIX socket."""
    if address.startswith(("unix:", "unix-abstract:")):
        return ""
    name = address.rsplit("/", 1)[-1]
    return name.rpartition(":")[0].strip("[]") if name.count(":") == 1 or name.startswith("[") else name


def _read_predict(response: Any) -> PredictResponse:
    outputs = {entry.key: wire.to_numpy(entry.value) for entry in response.outputs}
    spec = response.model_spec
    return PredictResponse(outputs, spec.version.value if spec.HasField("version") else None)


def _read_status(response: Any) -> list[VersionStatus]:
    return [
        VersionStatus(entry.version, wire.STATES.get(entry.state, "UNKNOWN"), entry.status.error_message)
        for entry in response.model_version_status
    ]


def _read_metadata(response: Any) -> ModelMetadata:
    (packed,) = (entry.value.value for entry in response.metadata if entry.key == "signature_def")
    signatures = {
        entry.key: SignatureSpec(_tensor_specs(entry.value.inputs), _tensor_specs(entry.value.outputs))
        for entry in wire.SignatureDefMap.FromString(packed).signature_def
    }
    return ModelMetadata(response.model_spec.version.value, signatures)


def _tensor_specs(entries: Sequence[Any]) -> dict[str, TensorSpec]:
    specs = {}
    for entry in entries:
        dtype, shape = entry.value.dtype, entry.value.tensor_shape
        sizes = tuple(None if dim.size < 0 else dim.size for dim in shape.dim)
        specs[entry.key] = TensorSpec(
            wire.TYPE_NAMES.get(dtype, f"DataType {dtype}"), None if shape.unknown_rank else sizes
        )
    return specs


def _read_model_names(value: Any) -> list[str]:
    if not isinstance(value, str):  # a response instead of an error
        raise names_not_listed()
    return wire.decode_model_names(value)


_READERS: dict[str, Any] = {
    "predict": _read_predict,
    "status": _read_status,
    "metadata": _read_metadata,
    "model_names": _read_model_names,
    "feedback": lambda response: None,
}
