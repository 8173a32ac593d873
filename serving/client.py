"""Asks a model server, over gRPC or REST, what is on pictures. Imports no TensorFlow."""

from __future__ import annotations

import base64
from collections.abc import Sequence
from typing import Any, NamedTuple, Protocol

# Larger than any answer of ours; gRPC's own default of 4 MB is not.
_MAX_MESSAGE_BYTES = 256 * 1024 * 1024


class ServerError(Exception):
    """The server refused or could not be reached.

    Attributes:
      code: The gRPC status name, for example "NOT_FOUND", or "HTTP 404".
    """

    def __init__(self, code: str, message: str) -> None:
        """Takes the status name and what the server said."""
        super().__init__(f"{code}: {message}")
        self.code = code


class Label(NamedTuple):
    """A class name and its probability, range [0, 1]."""

    label: str
    score: float


class Prediction(NamedTuple):
    """The answer for one picture.

    Attributes:
      label: The most probable class.
      score: Its probability, range [0, 1].
      top: The most probable classes, best first.
    """

    label: str
    score: float
    top: tuple[Label, ...]


class VersionStatus(NamedTuple):
    """One version of a model: its number and state ("AVAILABLE", "LOADING", ...)."""

    version: int
    state: str


class Client(Protocol):
    """What both protocols offer."""

    def predict(self, images: Sequence[bytes], top_k: int = 1) -> list[Prediction]:
        """Classifies pictures.

        Args:
          images: JPEG or PNG files of any size; nothing is resized here.
          top_k: How many classes to return for each.

        Raises:
          ServerError: If the server refuses, fails, or does not answer in time.
        """

    def status(self) -> list[VersionStatus]:
        """The versions that the server knows, newest first.

        Raises:
          ServerError: If the server does not know the model, or cannot be reached.
        """

    def close(self) -> None:
        """Closes the connection."""


class GrpcClient:
    """Speaks to TF Serving's PredictionService."""

    def __init__(self, address: str, model_name: str, timeout_s: float = 30.0) -> None:
        """Takes what the instance needs.

        Args:
        address: HOST:PORT.
        model_name: As the server knows it.
        timeout_s: Deadline of a call.
        """
        import grpc

        from serving import wire

        self._grpc, self._wire = grpc, wire
        self._model_name, self._timeout_s = model_name, timeout_s
        self._channel = grpc.insecure_channel(
            address,
            options=[
                ("grpc.max_receive_message_length", _MAX_MESSAGE_BYTES),
                ("grpc.max_send_message_length", _MAX_MESSAGE_BYTES),
            ],
        )
        self._predict = self._method(wire.PREDICT_METHOD, wire.PredictResponse)
        self._status = self._method(wire.STATUS_METHOD, wire.GetModelStatusResponse)

    def predict(self, images: Sequence[bytes], top_k: int = 1) -> list[Prediction]:
        """See `Client.predict`."""
        signature, alias, values = _question(images, top_k)
        request = self._wire.PredictRequest()
        request.model_spec.name, request.model_spec.signature_name = self._model_name, signature
        request.inputs.add(key=alias, value=self._wire.string_tensor(values))
        outputs = {entry.key: self._wire.to_numpy(entry.value) for entry in self._call(self._predict, request).outputs}
        return _predictions(outputs, top_k)

    def status(self) -> list[VersionStatus]:
        """See `Client.status`."""
        request = self._wire.GetModelStatusRequest()
        request.model_spec.name = self._model_name
        reply = self._call(self._status, request)
        return [
            VersionStatus(entry.version, self._wire.STATES.get(entry.state, "UNKNOWN"))
            for entry in sorted(reply.model_version_status, key=lambda entry: -entry.version)
        ]

    def close(self) -> None:
        """See `Client.close`."""
        self._channel.close()

    def _method(self, path: str, response: Any) -> Any:
        return self._channel.unary_unary(
            path,
            request_serializer=lambda message: message.SerializeToString(),
            response_deserializer=response.FromString,
        )

    def _call(self, method: Any, request: Any) -> Any:
        try:
            return method(request, timeout=self._timeout_s)
        except self._grpc.RpcError as error:
            raise ServerError(error.code().name, error.details() or "no message") from None


class RestClient:
    """Speaks to TF Serving's REST interface."""

    def __init__(self, url: str, model_name: str, timeout_s: float = 30.0) -> None:
        """Takes what the instance needs.

        Args:
        url: For example http://127.0.0.1:8501.
        model_name: As the server knows it.
        timeout_s: Deadline of a call.
        """
        import httpx

        self._httpx = httpx
        self._model_path = f"/v1/models/{model_name}"
        try:
            self._client = httpx.Client(base_url=url.rstrip("/"), timeout=timeout_s, trust_env=False)
        except httpx.InvalidURL as error:
            raise ServerError("INVALID_ARGUMENT", f"{url}: {error}") from None

    def predict(self, images: Sequence[bytes], top_k: int = 1) -> list[Prediction]:
        """See `Client.predict`."""
        signature, _, values = _question(images, top_k)
        body = {
            "signature_name": signature,
            "instances": [{"b64": base64.b64encode(value).decode("ascii")} for value in values],
        }
        rows = self._call("POST", f"{self._model_path}:predict", body, "predictions")
        outputs = {key: [row[key] for row in rows] for key in (rows[0] if rows and isinstance(rows[0], dict) else ())}
        return _predictions(outputs, top_k)

    def status(self) -> list[VersionStatus]:
        """See `Client.status`."""
        entries = self._call("GET", self._model_path, None, "model_version_status")
        found = [VersionStatus(int(entry["version"]), entry["state"]) for entry in entries]
        return sorted(found, reverse=True)

    def close(self) -> None:
        """See `Client.close`."""
        self._client.close()

    def _call(self, method: str, path: str, body: dict[str, Any] | None, key: str) -> Any:
        try:
            reply = self._client.request(method, path, json=body)
        except (self._httpx.HTTPError, self._httpx.InvalidURL) as error:
            raise ServerError("UNAVAILABLE", f"{self._client.base_url}: {error}") from None
        try:
            answer = reply.json()
        except ValueError:
            raise ServerError(f"HTTP {reply.status_code}", f"not a model server: {reply.text[:200]!r}") from None
        if not isinstance(answer, dict) or (reply.status_code == 200 and key not in answer):
            raise ServerError(f"HTTP {reply.status_code}", f"not a model server: {reply.text[:200]!r}")
        if reply.status_code != 200:
            raise ServerError(f"HTTP {reply.status_code}", answer.get("error", "no message"))
        return answer[key]


def _question(images: Sequence[bytes], top_k: int) -> tuple[str, str, list[bytes]]:
    """Signature, input name and values. `serving_default` names the best class only, `classify` all of them."""
    if top_k <= 1:
        return "serving_default", "image_bytes", list(images)
    from serving import wire

    return "classify", "inputs", [wire.image_example(image) for image in images]


def _predictions(outputs: dict[str, Any], top_k: int) -> list[Prediction]:
    names, scores = ("label", "score") if top_k <= 1 else ("classes", "scores")
    if names not in outputs or scores not in outputs:
        raise ServerError(
            "FAILED_PRECONDITION", f"the answer has no `{names}` and `{scores}`: is it one of our models?"
        )
    predictions = []
    for row_names, row_scores in zip(outputs[names], outputs[scores], strict=True):
        if top_k <= 1:
            row_names, row_scores = [row_names], [row_scores]
        ranked = sorted(zip(row_scores, row_names, strict=True), key=lambda pair: -pair[0])[: max(top_k, 1)]
        top = tuple(Label(_text(name), float(score)) for score, name in ranked)
        predictions.append(Prediction(top[0].label, top[0].score, top))
    return predictions


def _text(value: Any) -> str:
    return value.decode() if isinstance(value, bytes) else str(value)
