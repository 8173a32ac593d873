"""The requests of a client and their order, without input or output.

Every method is a generator: it yields the next request or pause and receives the response. So batching, retries and
deadlines have one definition for gRPC and REST, with and without asyncio (the "sans I/O" pattern:
https://sans-io.readthedocs.io); `client` runs the generators.
"""

from __future__ import annotations

import itertools
import json
import random
import time
from collections.abc import Callable, Generator, Iterable, Sequence
from typing import Any, Literal, NamedTuple, TypeAlias, TypeVar

from serving import image_encoding, responses, wire
from serving.client_options import ClientOptions
from serving.errors import (
    DeadlineExceededError,
    InternalError,
    InvalidArgumentError,
    NotFoundError,
    RequestTooLargeError,
    ResourceExhaustedError,
    ServerError,
    UnavailableError,
    UnreadableImageError,
)
from serving.image_encoding import ImageInput
from serving.request_log import request_ids
from serving.responses import Responses
from trainer_module import features

# Upper bounds of the pause between two attempts: of the first pause, which doubles with every attempt, and of all.
_FIRST_PAUSE_S, _LONGEST_PAUSE_S = 0.1, 5.0
_READY_PAUSE_S = 0.5
# An address that does not respond must not use up the whole timeout in one attempt: a server may start meanwhile.
_READY_ATTEMPT_S = 10.0
# A batch is sent when it reaches this size, however few images that are; far below every message limit.
_BATCH_BYTES = 32 * 1024 * 1024
_RETRIED = (UnavailableError, ResourceExhaustedError)
# Errors of a server that may become ready.
_NOT_YET = (*_RETRIED, NotFoundError)

# A grey PNG of 8 x 8 pixels: a model that refuses it refuses the request, not the image.
PROBE = bytes.fromhex(
    "89504e470d0a1a0a0000000d4948445200000008000000080800000000e164e1570000000e494441"
    "5478da6368800206ca18008084200110e86a170000000049454e44ae426082"
)


class Request(NamedTuple):
    """One request, independent of the protocol.

    Attributes:
      kind: Which call.
      signature: For `predict`: name of the signature.
      input_name: For `predict`: name of its input.
      values: For `predict`: one string per image.
      only_output: For `predict`: name of the output if there is only one, since REST omits that name.
      request_id: For `predict` and `feedback`.
      label: For `feedback`: the ground truth as JSON.
    """

    kind: Literal["predict", "status", "metadata", "model_names", "feedback"]
    signature: str = ""
    input_name: str = ""
    values: Sequence[bytes] = ()
    only_output: str = ""
    request_id: str = ""
    label: str = ""


class PredictResponse(NamedTuple):
    """The response to `predict`.

    Attributes:
      outputs: Output name → one row per image.
      version: Model version; None if the protocol does not report it.
      request_id: The server's id of the request; "" if it does not report one.
    """

    outputs: dict[str, Any]
    version: int | None
    request_id: str = ""


class Send(NamedTuple):
    """A step: send this request, with this timeout."""

    request: Request
    timeout_s: float


class Pause(NamedTuple):
    """A step: wait."""

    seconds: float


Result = TypeVar("Result")
Flow: TypeAlias = Generator[Send | Pause, Any, Result]


class _SignatureCall(NamedTuple):
    """How images are sent to a signature, and how its outputs are read."""

    signature: str
    input_name: str
    read: Callable[[dict[str, Any], int | None], list[Any]]
    only_output: str = ""
    encode: Callable[[bytes], bytes] = bytes
    is_logged: bool = True

    def request(self, contents: Iterable[bytes]) -> Request:
        values = [self.encode(content) for content in contents]
        request_id = request_ids.new() if self.is_logged else request_ids.new_probe()
        return Request("predict", self.signature, self.input_name, values, self.only_output, request_id)

    def probe(self) -> Request:
        """Returns a request whose image is valid; it is not logged."""
        return self.request([PROBE])._replace(request_id=request_ids.new_probe())


_PREDICT = _SignatureCall(features.SERVING_DEFAULT, "image_bytes", responses.predictions)
_SEGMENT = _SignatureCall(features.SERVING_DEFAULT, "image_bytes", responses.masks)
_DETECT = _SignatureCall(features.SERVING_DEFAULT, "image_bytes", responses.detections)
_EXPLAIN = _SignatureCall(features.EXPLAIN, "image_bytes", responses.explanations)
_EXPLAIN_LABELS, _EXPLAIN_DETECTIONS = (
    _SignatureCall(signature, "image_bytes", responses.explanation_sets)
    for signature in (features.EXPLAIN_LABELS, features.EXPLAIN_DETECTIONS)
)
_EMBED = _SignatureCall(features.EMBED, "image_bytes", responses.embeddings, only_output="embedding")
# Models of every task have this signature.
_PROBE = _SignatureCall(features.SERVING_DEFAULT, "image_bytes", lambda outputs, version: [])


class _Deadline:
    def __init__(self, timeout_s: float) -> None:
        self._timeout_s = timeout_s
        self._end = time.monotonic() + timeout_s

    def remaining_s(self) -> float:
        return self._end - time.monotonic()

    def check(self) -> float:
        """Returns the remaining time, seconds, above 0.

        Raises:
          DeadlineExceededError: If none is left.
        """
        if (remaining_s := self.remaining_s()) <= 0:
            raise DeadlineExceededError("DEADLINE_EXCEEDED", f"no response within {self._timeout_s:g} s")
        return remaining_s


class RequestFlows:
    """The calls of one client."""

    def __init__(self, options: ClientOptions) -> None:
        """Takes the client's options."""
        self._options = options

    def predict(
        self, images: Iterable[ImageInput], top_k: int, timeout_s: float | None
    ) -> Flow[Responses[responses.Prediction]]:
        """See `client.Client.predict`. `serving_default` returns the best class only, `classify` all of them."""
        if top_k < 1:
            raise ValueError(f"top_k: {top_k} is below 1.")
        if top_k == 1:
            return self._call(_PREDICT, images, timeout_s)

        def read(outputs: dict[str, Any], version: int | None) -> list[responses.Prediction]:
            return responses.top_predictions(outputs, version, top_k)

        call = _SignatureCall(features.CLASSIFY, "inputs", read, encode=wire.image_example)
        return self._call(call, images, timeout_s)

    def segment(self, images: Iterable[ImageInput], timeout_s: float | None) -> Flow[Responses[responses.Mask]]:
        """See `client.Client.segment`."""
        return self._call(_SEGMENT, images, timeout_s)

    def detect(self, images: Iterable[ImageInput], timeout_s: float | None) -> Flow[Responses[responses.Detections]]:
        """See `client.Client.detect`."""
        return self._call(_DETECT, images, timeout_s)

    def explain(self, images: Iterable[ImageInput], timeout_s: float | None) -> Flow[Responses[responses.Explanation]]:
        """See `client.Client.explain`."""
        return self._call(_EXPLAIN, images, timeout_s)

    def explain_labels(
        self, images: Iterable[ImageInput], timeout_s: float | None
    ) -> Flow[Responses[tuple[responses.Explanation, ...]]]:
        """See `client.Client.explain_labels`."""
        return self._call(_EXPLAIN_LABELS, images, timeout_s)

    def explain_detections(
        self, images: Iterable[ImageInput], timeout_s: float | None
    ) -> Flow[Responses[tuple[responses.Explanation, ...]]]:
        """See `client.Client.explain_detections`."""
        return self._call(_EXPLAIN_DETECTIONS, images, timeout_s)

    def embed(self, images: Iterable[ImageInput], timeout_s: float | None) -> Flow[Responses[responses.Embedding]]:
        """See `client.Client.embed`."""
        return self._call(_EMBED, images, timeout_s)

    def outputs(
        self, signature: str, images: Iterable[ImageInput], timeout_s: float | None
    ) -> Flow[Responses[responses.RawOutputs]]:
        """See `client.Client.outputs`."""
        only = "embedding" if signature == features.EMBED else ""
        call = _SignatureCall(signature, "image_bytes", responses.raw_outputs, only, is_logged=False)
        return self._call(call, images, timeout_s)

    def status(self, timeout_s: float | None) -> Flow[list[responses.VersionStatus]]:
        """See `client.Client.status`."""
        versions = yield from self._send(Request("status"), self._deadline(timeout_s))
        return sorted(versions, reverse=True)

    def metadata(self, timeout_s: float | None) -> Flow[responses.ModelMetadata]:
        """See `client.Client.metadata`."""
        metadata: responses.ModelMetadata = yield from self._send(Request("metadata"), self._deadline(timeout_s))
        return metadata

    def model_names(self, timeout_s: float | None) -> Flow[list[str]]:
        """See `client.Client.model_names`."""
        names: list[str] = yield from self._send(Request("model_names"), self._deadline(timeout_s))
        return names

    def feedback(self, request_id: str, label: Any, timeout_s: float | None) -> Flow[None]:
        """See `client.Client.feedback`."""
        request_ids.split(request_id)
        try:
            text = json.dumps(label, allow_nan=False)
        except (TypeError, ValueError) as error:
            raise ValueError(f"label: {error}. Use strings, numbers, lists and dictionaries.") from None
        yield from self._send(Request("feedback", request_id=request_id, label=text), self._deadline(timeout_s))

    def wait_until_ready(self, timeout_s: float) -> Flow[int | None]:
        """See `client.Client.wait_until_ready`."""
        deadline = _Deadline(timeout_s)
        last_error: ServerError | None = None
        while True:
            try:
                # No retries within an attempt: this loop retries already.
                attempt_s = min(deadline.check(), _READY_ATTEMPT_S)
                versions = sorted((yield Send(Request("status"), attempt_s)), reverse=True)
                _refuse_failed(versions)
                if any(entry.state == "AVAILABLE" for entry in versions):
                    response: PredictResponse = yield Send(_PROBE.probe(), deadline.check())
                    return response.version
                states = ", ".join(f"{entry.version} {entry.state}" for entry in versions) or "no version"
                last_error = NotFoundError("NOT_FOUND", f"no version is available yet ({states})")
            except DeadlineExceededError as error:
                last_error = last_error or error  # an error from before the timeout says more
            except _NOT_YET as error:
                last_error = error
            except InvalidArgumentError as error:
                # A label is known only once its version is available.
                if self._options.label is None or "version label" not in error.message:
                    raise
                last_error = error
            pause_s = _READY_PAUSE_S * random.uniform(0.5, 1.0)
            if pause_s >= deadline.remaining_s():
                message = f"not ready after {timeout_s:g} s; last error: {last_error}"
                raise DeadlineExceededError("DEADLINE_EXCEEDED", message) from last_error
            yield Pause(pause_s)

    def _deadline(self, timeout_s: float | None) -> _Deadline:
        return _Deadline(self._options.timeout_s if timeout_s is None else timeout_s)

    def _call(
        self, call: _SignatureCall, images: Iterable[ImageInput], timeout_s: float | None
    ) -> Flow[Responses[Any]]:
        """Sends batch after batch; images are read when their batch is due, so memory holds one batch of them."""
        inputs = image_encoding.as_list(images)
        results: list[Any] = [None] * len(inputs)
        sender = _BatchSender(call, self._deadline(timeout_s), results, self._send)
        for batch in self._batches(inputs, results):
            try:
                yield from sender.send(batch)
            except ServerError as error:
                # The error is not of a single image. Keep the results so far; the other images get this error.
                if all(result is None or isinstance(result, ServerError) for result in results):
                    raise
                results = [error if result is None else result for result in results]
                break
        return Responses(results)

    def _batches(self, inputs: list[ImageInput], results: list[Any]) -> Iterable[list[tuple[int, bytes]]]:
        """Yields batches of (index, content); an unreadable image gets its error in `results` at once."""
        batch: list[tuple[int, bytes]] = []
        size = 0
        for index, image in enumerate(inputs):
            try:
                content = image_encoding.encode(image)
            except UnreadableImageError as error:
                results[index] = error
                continue
            if batch and (len(batch) == self._options.batch_size or size + len(content) > _BATCH_BYTES):
                yield batch
                batch, size = [], 0
            batch.append((index, content))
            size += len(content)
        if batch:
            yield batch

    def _send(self, request: Request, deadline: _Deadline) -> Flow[Any]:
        """Sends a request, with retries where they can help."""
        last_error: ServerError | None = None
        for attempt in itertools.count():
            try:
                return (yield Send(request, deadline.check()))
            except DeadlineExceededError as error:
                # The server's error in an earlier attempt says more than the timeout of this one.
                raise last_error or error from None
            except _RETRIED as error:
                last_error = error
                # Jitter, so that clients that were refused at the same time do not all retry at the same time.
                pause_s = random.uniform(0.5, 1.0) * min(_FIRST_PAUSE_S * 2**attempt, _LONGEST_PAUSE_S)
                if attempt >= self._options.retries or pause_s >= deadline.remaining_s():
                    raise error
            yield Pause(pause_s)


class _BatchSender:
    """Sends the batches of one call; a refused batch is halved until the invalid image is alone."""

    def __init__(
        self,
        call: _SignatureCall,
        deadline: _Deadline,
        results: list[Any],
        send: Callable[[Request, _Deadline], Flow[Any]],
    ) -> None:
        self._call = call
        self._deadline = deadline
        self._results = results
        self._send = send
        self._call_is_valid = False

    def send(self, batch: list[tuple[int, bytes]], confirm: bool = False) -> Flow[None]:
        """Fills in the results, or errors, of one batch; `confirm`: its only image was refused once before."""
        request = self._call.request(content for _, content in batch)
        try:
            response: PredictResponse = yield from self._send(request, self._deadline)
        except RequestTooLargeError as error:
            yield from self._halve(batch, error)
            return
        except InvalidArgumentError as error:
            if confirm:
                self._results[batch[0][0]] = error
                return
            yield from self._check_call(error)
            if len(batch) > 1:
                yield from self._halve(batch, error)
            else:
                # A server that batches requests of several clients refuses all of them for one invalid image.
                yield from self.send(batch, confirm=True)
            return
        self._call_is_valid = True
        try:
            results = self._call.read(response.outputs, response.version)
        except ServerError:
            raise
        except (
            Exception
        ) as error:  # outputs come from outside: ragged rows, columns of unequal length, text for a number
            raise InternalError("INTERNAL", f"unexpected outputs: {error}") from error
        if len(results) != len(batch):
            raise InternalError("INTERNAL", f"{len(results)} results for {len(batch)} images")
        request_id = response.request_id or request.request_id
        for position, ((index, _), result) in enumerate(zip(batch, results, strict=True)):
            image_id = request_ids.of_image(request_id, position, len(batch))
            self._results[index] = responses.with_request_id(result, image_id)

    def _halve(self, batch: list[tuple[int, bytes]], error: ServerError) -> Flow[None]:
        if len(batch) == 1:
            self._results[batch[0][0]] = error
            return
        middle = len(batch) // 2
        yield from self.send(batch[:middle])
        yield from self.send(batch[middle:])

    def _check_call(self, error: ServerError) -> Flow[None]:
        """Raises the error if a valid image is refused too: then the cause is, for example, the label or signature."""
        if self._call_is_valid:
            return
        try:
            yield from self._send(self._call.probe(), self._deadline)
        except InvalidArgumentError:
            raise error from None
        self._call_is_valid = True


def _refuse_failed(versions: Sequence[responses.VersionStatus]) -> None:
    """Raises if waiting is pointless: no version is available or coming, and one failed to load."""
    if any(entry.state in ("START", "LOADING", "AVAILABLE") for entry in versions):
        return
    for entry in versions:
        if entry.state == "END" and entry.error:
            raise InternalError("INTERNAL", f"version {entry.version} failed to load: {entry.error}")
