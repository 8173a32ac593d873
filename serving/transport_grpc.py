"""The gRPC side of a client: PredictionService.Predict and GetModelMetadata, ModelService.GetModelStatus."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

import grpc

from serving import wire
from serving.answers import Metadata, SignatureSpec, TensorSpec, VersionStatus
from serving.dialogue import Reply, Request
from serving.errors import (
    InternalError,
    InvalidArgumentError,
    NotFoundError,
    ServerError,
    UnavailableError,
    from_code,
    names_not_listed,
)
from serving.options import Options, read_pem

# Larger than any answer of ours; gRPC's own default of 4 MB is not: 32 heat maps of 224 x 224 floats take 6 MB.
MAX_MESSAGE_BYTES = 256 * 1024 * 1024
_CHANNEL_OPTIONS = [
    ("grpc.max_receive_message_length", MAX_MESSAGE_BYTES),
    ("grpc.max_send_message_length", MAX_MESSAGE_BYTES),
    # Model names are trailing metadata; the default of 8 KB ends at some hundred names.
    ("grpc.max_metadata_size", 1024 * 1024),
    # A name that stands for several servers (a headless Service of Kubernetes) is asked by turns; by default gRPC stays
    # with the first one for ever.
    ("grpc.service_config", json.dumps({"loadBalancingConfig": [{"round_robin": {}}]})),
    # Retries are counted and timed in `dialogue`; between them the channel has to try to connect again (gRPC waits a
    # second, then up to two minutes).
    ("grpc.initial_reconnect_backoff_ms", 100),
    ("grpc.max_reconnect_backoff_ms", 5000),
]
_METHODS = {
    "predict": (wire.PREDICT_METHOD, wire.PredictResponse),
    "status": (wire.STATUS_METHOD, wire.GetModelStatusResponse),
    "metadata": (wire.METADATA_METHOD, wire.GetModelMetadataResponse),
    "model_names": (wire.STATUS_METHOD, wire.GetModelStatusResponse),
}


class _Form:
    """What both channels share: where to, the requests as messages, and the replies read."""

    def __init__(self, address: str, model_name: str, options: Options) -> None:
        """Checks address and options.

        Raises:
          ValueError: If they cannot be used, or do not go together.
        """
        if address.startswith(("http://", "https://")):
            raise ValueError(f"{address} is a URL, which REST takes; gRPC takes HOST:PORT.")
        self.address = address
        self.credentials = _credentials(options) if options.wants_tls else None
        options.check_token_is_safe(_host(address), encrypted=options.wants_tls)
        self._options = options
        self._spec = wire.ModelSpec(name=model_name)
        if options.version is not None:
            self._spec.version.SetInParent()  # 0 is a version too, and would not be sent otherwise
            self._spec.version.value = options.version
        elif options.label is not None:
            self._spec.version_label = options.label

    def call_metadata(self) -> tuple[tuple[str, str], ...] | None:
        authorization = self._options.authorization()
        return None if authorization is None else (("authorization", authorization),)

    def message(self, request: Request) -> Any:
        if request.kind == "predict":
            message = wire.PredictRequest(model_spec=self._spec)
            message.model_spec.signature_name = request.signature
            tensor = message.inputs.add(key=request.alias).value
            wire.fill_string_tensor(tensor, request.values)
        elif request.kind == "status":
            message = wire.GetModelStatusRequest(model_spec=self._spec)
        elif request.kind == "model_names":
            message = wire.GetModelStatusRequest(model_spec=wire.ModelSpec())
        else:
            message = wire.GetModelMetadataRequest(model_spec=self._spec, metadata_field=["signature_def"])
        return message

    def read(self, request: Request, reply: Any) -> Any:
        """Reads a response.

        Raises:
          InternalError: If it is not a model server's: no message of this type, an unknown dtype, a wrong shape.
        """
        try:
            return _READERS[request.kind](reply)
        except ServerError:
            raise
        except Exception as error:  # the bytes come from outside: readers raise what numpy and protobuf raise
            raise InternalError("INTERNAL", f"unexpected response: {error}") from error

    def read_error(self, request: Request, error: Exception) -> Any:
        """Raises the error of a call; only the names of the models come with one.

        Raises:
          ServerError: Always, unless the error carries the names that were requested.
        """
        if not isinstance(error, grpc.RpcError):
            # A closed channel or a wrong event loop: grpc has no common class for these.
            raise UnavailableError("UNAVAILABLE", f"{self.address}: {str(error) or type(error).__name__}") from error
        known = from_code(error.code().name, error.details() or "no message")
        if request.kind != "model_names":
            raise known from None
        for key, value in error.trailing_metadata() or ():
            if key == wire.MODEL_NAMES_KEY:
                try:
                    return wire.decode_model_names(value)
                except ValueError as malformed:
                    raise InternalError("INTERNAL", f"unexpected response: {malformed}") from None
        # TF Serving: "Could not find any versions of model".
        raise (names_not_listed() if isinstance(known, NotFoundError | InvalidArgumentError) else known) from None


class GrpcTransport:
    """Sends over one channel, which all threads share."""

    def __init__(self, address: str, model_name: str, options: Options) -> None:
        """Opens the channel; it connects when it is used.

        Args:
          address: HOST:PORT, or any other name that gRPC resolves.
          model_name: As the server knows it.
          options: How to ask.

        Raises:
          ValueError: If address or options cannot be used.
        """
        self._form = form = _Form(address, model_name, options)
        if form.credentials is None:
            self._channel = grpc.insecure_channel(form.address, options=_CHANNEL_OPTIONS)
        else:
            self._channel = grpc.secure_channel(form.address, form.credentials, options=_CHANNEL_OPTIONS)
        self._methods = _methods(self._channel)

    def send(self, request: Request, timeout_s: float) -> Any:
        """Sends a request and reads the reply.

        Raises:
          ServerError: If there is none, or it is an error.
        """
        form = self._form
        message, metadata = form.message(request), form.call_metadata()
        try:
            reply = self._methods[request.kind](message, timeout=timeout_s, metadata=metadata)
        except Exception as error:
            return form.read_error(request, error)
        return form.read(request, reply)

    def close(self) -> None:
        """Closes the channel."""
        self._channel.close()


class AsyncGrpcTransport:
    """Sends over one channel of the event loop that it is first used in."""

    def __init__(self, address: str, model_name: str, options: Options) -> None:
        """Checks address and options; see `GrpcTransport`."""
        self._form = _Form(address, model_name, options)
        self._channel: Any = None
        self._methods: dict[str, Any] = {}

    async def send(self, request: Request, timeout_s: float) -> Any:
        """See `GrpcTransport.send`."""
        form = self._form
        message, metadata = form.message(request), form.call_metadata()
        try:
            if self._channel is None:
                self._open()
            reply = await self._methods[request.kind](message, timeout=timeout_s, metadata=metadata)
        except Exception as error:
            return form.read_error(request, error)
        return form.read(request, reply)

    async def close(self) -> None:
        """Closes the channel."""
        if self._channel is not None:
            await self._channel.close()

    def _open(self) -> None:
        form = self._form
        if form.credentials is None:
            self._channel = grpc.aio.insecure_channel(form.address, options=_CHANNEL_OPTIONS)
        else:
            self._channel = grpc.aio.secure_channel(form.address, form.credentials, options=_CHANNEL_OPTIONS)
        self._methods = _methods(self._channel)


def _methods(channel: Any) -> dict[str, Any]:
    return {
        kind: channel.unary_unary(
            path,
            request_serializer=lambda message: message.SerializeToString(),
            response_deserializer=response.FromString,
        )
        for kind, (path, response) in _METHODS.items()
    }


def _credentials(options: Options) -> Any:
    authorities, key, certificate = (
        None if path is None else read_pem(path) for path in (options.ca_file, options.key_file, options.cert_file)
    )
    return grpc.ssl_channel_credentials(authorities, key, certificate)


def _host(address: str) -> str:
    """The host of HOST:PORT, [HOST]:PORT and the like; "" for a socket of this machine."""
    if address.startswith(("unix:", "unix-abstract:")):
        return ""
    name = address.rsplit("/", 1)[-1]
    return name.rpartition(":")[0].strip("[]") if name.count(":") == 1 or name.startswith("[") else name


def _read_predict(reply: Any) -> Reply:
    outputs = {entry.key: wire.to_numpy(entry.value) for entry in reply.outputs}
    spec = reply.model_spec
    return Reply(outputs, spec.version.value if spec.HasField("version") else None)


def _read_status(reply: Any) -> list[VersionStatus]:
    return [
        VersionStatus(entry.version, wire.STATES.get(entry.state, "UNKNOWN"), entry.status.error_message)
        for entry in reply.model_version_status
    ]


def _read_metadata(reply: Any) -> Metadata:
    (packed,) = (entry.value.value for entry in reply.metadata if entry.key == "signature_def")
    signatures = {
        entry.key: SignatureSpec(_tensor_specs(entry.value.inputs), _tensor_specs(entry.value.outputs))
        for entry in wire.SignatureDefMap.FromString(packed).signature_def
    }
    return Metadata(reply.model_spec.version.value, signatures)


def _tensor_specs(entries: Sequence[Any]) -> dict[str, TensorSpec]:
    specs = {}
    for entry in entries:
        dtype, shape = entry.value.dtype, entry.value.tensor_shape
        sizes = tuple(None if dim.size < 0 else dim.size for dim in shape.dim)
        specs[entry.key] = TensorSpec(
            wire.TYPE_NAMES.get(dtype, f"DataType {dtype}"), None if shape.unknown_rank else sizes
        )
    return specs


def _read_model_names(reply: Any) -> list[str]:
    raise names_not_listed()  # the names come with an error


_READERS = {
    "predict": _read_predict,
    "status": _read_status,
    "metadata": _read_metadata,
    "model_names": _read_model_names,
}
