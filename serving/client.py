"""Asks a model server, over gRPC or REST, what is on pictures. Imports no TensorFlow."""

from __future__ import annotations

import abc
import base64
from collections.abc import Sequence
from typing import Any, NamedTuple

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


class Mask(NamedTuple):
    """A class for every pixel of one picture.

    Attributes:
      png: PNG of class ids, uint8, in the size that the model works in.
      class_pixels: How many pixels each class has, by id.
    """

    png: bytes
    class_pixels: tuple[int, ...]


class VersionStatus(NamedTuple):
    """One version of a model: its number and state ("AVAILABLE", "LOADING", ...)."""

    version: int
    state: str


class Client(abc.ABC):
    """What both protocols offer."""

    @abc.abstractmethod
    def ask(self, signature: str, alias: str, values: Sequence[bytes]) -> dict[str, Any]:
        """Asks one signature that has one input.

        Args:
          signature: Its name.
          alias: The input's name.
          values: One string for each picture.

        Returns:
          Output name → a row for each picture.

        Raises:
          ServerError: If the server refuses, fails, or does not answer in time.
        """

    def predict(self, images: Sequence[bytes], top_k: int = 1) -> list[Prediction]:
        """Classifies pictures.

        Args:
          images: JPEG or PNG files of any size; nothing is resized here.
          top_k: How many classes to return for each.

        Raises:
          ServerError: If the server refuses, fails, or does not answer in time.
        """
        return _predictions(self.ask(*_question(images, top_k)), top_k)

    def segment(self, images: Sequence[bytes]) -> list[Mask]:
        """Finds the class of every pixel.

        Args:
          images: JPEG or PNG files of any size; nothing is resized here.

        Raises:
          ServerError: If the server refuses, fails, or does not answer in time.
        """
        outputs = self.ask("serving_default", "image_bytes", images)
        if "mask_png_bytes" not in outputs or "class_pixels" not in outputs:
            raise ServerError("FAILED_PRECONDITION", "the answer holds no masks: is it a model of masks?")
        return [
            Mask(png, tuple(int(count) for count in counts))
            for png, counts in zip(outputs["mask_png_bytes"], outputs["class_pixels"], strict=True)
        ]

    @abc.abstractmethod
    def status(self) -> list[VersionStatus]:
        """The versions that the server knows, newest first.

        Raises:
          ServerError: If the server does not know the model, or cannot be reached.
        """

    @abc.abstractmethod
    def close(self) -> None:
        """Closes the connection."""


class GrpcClient(Client):
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

    def ask(self, signature: str, alias: str, values: Sequence[bytes]) -> dict[str, Any]:
        """See `Client.ask`."""
        request = self._wire.PredictRequest()
        request.model_spec.name, request.model_spec.signature_name = self._model_name, signature
        request.inputs.add(key=alias, value=self._wire.string_tensor(list(values)))
        return {entry.key: self._wire.to_numpy(entry.value) for entry in self._call(self._predict, request).outputs}

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


class RestClient(Client):
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

    def ask(self, signature: str, alias: str, values: Sequence[bytes]) -> dict[str, Any]:
        """See `Client.ask`; of one input REST does not say the name."""
        del alias
        body = {
            "signature_name": signature,
            "instances": [{"b64": base64.b64encode(value).decode("ascii")} for value in values],
        }
        rows = self._call("POST", f"{self._model_path}:predict", body, "predictions")
        keys = rows[0] if rows and isinstance(rows[0], dict) else ()
        return {key: [_decoded(row[key]) for row in rows] for key in keys}

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


def _decoded(value: Any) -> Any:
    """TF Serving's way to write bytes in JSON, of outputs whose names end in `_bytes`, undone."""
    return base64.b64decode(value["b64"]) if isinstance(value, dict) and set(value) == {"b64"} else value


def _text(value: Any) -> str:
    return value.decode() if isinstance(value, bytes) else str(value)
