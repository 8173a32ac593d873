"""Clients of a model server, over gRPC or REST, with or without asyncio. Imports no TensorFlow.

    with GrpcClient("127.0.0.1:8500", "digits") as client:
        for prediction in client.predict(["three.png", "four.png"], top_k=3).or_raise():
            print(prediction.label, prediction.score, prediction.version)

`request_flow` defines the requests and retries; the clients here run them.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterable
from types import TracebackType
from typing import Any, Protocol, Self, TypeVar, Unpack

from serving.client_options import ClientOptionKeys as ClientOptionKeys
from serving.client_options import ClientOptions as ClientOptions
from serving.errors import DeadlineExceededError as DeadlineExceededError
from serving.errors import InternalError as InternalError
from serving.errors import InvalidArgumentError as InvalidArgumentError
from serving.errors import NotFoundError as NotFoundError
from serving.errors import PermissionDeniedError as PermissionDeniedError
from serving.errors import RequestTooLargeError as RequestTooLargeError
from serving.errors import ResourceExhaustedError as ResourceExhaustedError
from serving.errors import ServerError as ServerError
from serving.errors import UnauthenticatedError as UnauthenticatedError
from serving.errors import UnavailableError as UnavailableError
from serving.errors import UnimplementedError as UnimplementedError
from serving.errors import UnreadableImageError as UnreadableImageError
from serving.image_encoding import ImageInput as ImageInput
from serving.request_flow import Flow, Pause, Request, RequestFlows
from serving.responses import DetectedObject as DetectedObject
from serving.responses import Detections as Detections
from serving.responses import Embedding as Embedding
from serving.responses import Explanation as Explanation
from serving.responses import Mask as Mask
from serving.responses import ModelMetadata as ModelMetadata
from serving.responses import Prediction as Prediction
from serving.responses import RawOutputs as RawOutputs
from serving.responses import Responses as Responses
from serving.responses import ScoredLabel as ScoredLabel
from serving.responses import SignatureSpec as SignatureSpec
from serving.responses import TensorSpec as TensorSpec
from serving.responses import VersionStatus as VersionStatus

Result = TypeVar("Result")


class Transport(Protocol):
    """Sends single requests; threads may share it."""

    def send(self, request: Request, timeout_s: float) -> Any:
        """Returns the response, whose type depends on the request's kind, or raises ServerError."""

    def close(self) -> None:
        """Closes the connections."""


class AsyncTransport(Protocol):
    """`Transport` for one event loop."""

    async def send(self, request: Request, timeout_s: float) -> Any:
        """See `Transport.send`."""

    async def close(self) -> None:
        """See `Transport.close`."""


class Client:
    """A client of one model. Threads can share a client, and should: it reuses its connections.

    Create a `GrpcClient` or a `RestClient`. `timeout_s` of a method defaults to the client's own.
    """

    def __init__(self, transport: Transport, options: ClientOptions) -> None:
        """Takes the transport and the options."""
        self._transport = transport
        self._flows = RequestFlows(options)

    def predict(
        self, images: Iterable[ImageInput], top_k: int = 1, *, timeout_s: float | None = None
    ) -> Responses[Prediction]:
        """Classifies images.

        A list longer than the batch size is sent in batches. An image that cannot be read, or that the model refuses,
        does not affect the others: its entry is its error. An error that is not of a single image is raised, unless
        there are results already; then it is the entry of every remaining image.

        Args:
          images: Paths, bytes of JPEG or PNG files, PIL images, or arrays uint8 [h, w, 3]; nothing is resized here.
          top_k: How many classes to return per image.
          timeout_s: Deadline of the call.

        Raises:
          ServerError: If the server refuses, fails, or does not respond in time.
          TypeError: If it is not a list of images.
        """
        return self._run(self._flows.predict(images, top_k, timeout_s))

    def segment(self, images: Iterable[ImageInput], *, timeout_s: float | None = None) -> Responses[Mask]:
        """Predicts the class of every pixel; arguments and errors as for `predict`."""
        return self._run(self._flows.segment(images, timeout_s))

    def detect(self, images: Iterable[ImageInput], *, timeout_s: float | None = None) -> Responses[Detections]:
        """Finds objects, with a model that has the outputs of the TF Object Detection API; otherwise as `predict`."""
        return self._run(self._flows.detect(images, timeout_s))

    def explain(self, images: Iterable[ImageInput], *, timeout_s: float | None = None) -> Responses[Explanation]:
        """Classifies images and explains the predictions (Grad-CAM); arguments and errors as for `predict`."""
        return self._run(self._flows.explain(images, timeout_s))

    def explain_labels(
        self, images: Iterable[ImageInput], *, timeout_s: float | None = None
    ) -> Responses[tuple[Explanation, ...]]:
        """Explains every predicted class of a multi-label model, the most probable first; otherwise as `explain`."""
        return self._run(self._flows.explain_labels(images, timeout_s))

    def explain_detections(
        self, images: Iterable[ImageInput], *, timeout_s: float | None = None
    ) -> Responses[tuple[Explanation, ...]]:
        """Explains every detection that counts as an object, the best first; otherwise as `explain`."""
        return self._run(self._flows.explain_detections(images, timeout_s))

    def embed(self, images: Iterable[ImageInput], *, timeout_s: float | None = None) -> Responses[Embedding]:
        """Computes the embeddings of images; arguments and errors as for `predict`."""
        return self._run(self._flows.embed(images, timeout_s))

    def outputs(
        self, signature: str, images: Iterable[ImageInput], *, timeout_s: float | None = None
    ) -> Responses[RawOutputs]:
        """Computes all outputs of a signature with the input `image_bytes`; otherwise as `predict`.

        The requests are not logged: this is for programs that examine a model, not for its users.
        """
        return self._run(self._flows.outputs(signature, images, timeout_s))

    def status(self, *, timeout_s: float | None = None) -> list[VersionStatus]:
        """Returns the status of all versions, newest first; only of the client's `version` if it has one.

        Raises:
          ServerError: If the server does not know the model, or cannot be reached.
        """
        return self._run(self._flows.status(timeout_s))

    def metadata(self, *, timeout_s: float | None = None) -> ModelMetadata:
        """Returns the model's signatures and their version.

        Raises:
          ServerError: If the server has not loaded the model, or cannot be reached.
        """
        return self._run(self._flows.metadata(timeout_s))

    def model_names(self, *, timeout_s: float | None = None) -> list[str]:
        """Lists the models that the server is configured to serve.

        TF Serving has no call for this. The local server adds the names to the response of a status request without a
        model name, on both protocols; every other server fails this call. Needs no `model_name`.

        Raises:
          UnimplementedError: If the server does not list its models.
          ServerError: If the server cannot be reached, or another error occurs.
        """
        return self._run(self._flows.model_names(timeout_s))

    def feedback(self, request_id: str, label: Any, *, timeout_s: float | None = None) -> None:
        """Stores the ground truth of a prediction next to the request log; a later call corrects an earlier one.

        Args:
          request_id: Of the prediction: its `request_id`.
          label: The class name; a list of names for several classes; or any JSON value, for example of boxes.
          timeout_s: Deadline of the call.

        Raises:
          UnimplementedError: If the server has no request log, as TF Serving.
          ServerError: If the server refuses it, or cannot be reached.
          ValueError: If the id is not a request id, or the label not a JSON value.
        """
        self._run(self._flows.feedback(request_id, label, timeout_s))

    def wait_until_ready(self, timeout_s: float = 60.0) -> int | None:
        """Waits until a version is AVAILABLE and responds to a small grey image.

        The status alone is not enough: a server that warms up, or is behind a proxy, reports it before it responds.

        Returns:
          The version that responded; None if the server does not report it.

        Raises:
          ServerError: If waiting is pointless (wrong token, no version can be loaded, ...), or the time is over.
        """
        return self._run(self._flows.wait_until_ready(timeout_s))

    def close(self) -> None:
        """Closes the connections."""
        self._transport.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def _run(self, flow: Flow[Result]) -> Result:
        try:
            step = next(flow)
            while True:
                if isinstance(step, Pause):
                    time.sleep(step.seconds)
                    step = next(flow)
                    continue
                try:
                    response = self._transport.send(step.request, step.timeout_s)
                except ServerError as error:
                    step = flow.throw(error)
                else:
                    step = flow.send(response)
        except StopIteration as stop:
            result: Result = stop.value
            return result


class AsyncClient:
    """`Client` for asyncio: the same methods, awaited. For one event loop and any number of tasks.

    Create an `AsyncGrpcClient` or an `AsyncRestClient`.
    """

    def __init__(self, transport: AsyncTransport, options: ClientOptions) -> None:
        """Takes the transport and the options."""
        self._transport = transport
        self._flows = RequestFlows(options)

    async def predict(
        self, images: Iterable[ImageInput], top_k: int = 1, *, timeout_s: float | None = None
    ) -> Responses[Prediction]:
        """See `Client.predict`."""
        return await self._run(self._flows.predict(images, top_k, timeout_s))

    async def segment(self, images: Iterable[ImageInput], *, timeout_s: float | None = None) -> Responses[Mask]:
        """See `Client.segment`."""
        return await self._run(self._flows.segment(images, timeout_s))

    async def detect(self, images: Iterable[ImageInput], *, timeout_s: float | None = None) -> Responses[Detections]:
        """See `Client.detect`."""
        return await self._run(self._flows.detect(images, timeout_s))

    async def explain(self, images: Iterable[ImageInput], *, timeout_s: float | None = None) -> Responses[Explanation]:
        """See `Client.explain`."""
        return await self._run(self._flows.explain(images, timeout_s))

    async def explain_labels(
        self, images: Iterable[ImageInput], *, timeout_s: float | None = None
    ) -> Responses[tuple[Explanation, ...]]:
        """See `Client.explain_labels`."""
        return await self._run(self._flows.explain_labels(images, timeout_s))

    async def explain_detections(
        self, images: Iterable[ImageInput], *, timeout_s: float | None = None
    ) -> Responses[tuple[Explanation, ...]]:
        """See `Client.explain_detections`."""
        return await self._run(self._flows.explain_detections(images, timeout_s))

    async def embed(self, images: Iterable[ImageInput], *, timeout_s: float | None = None) -> Responses[Embedding]:
        """See `Client.embed`."""
        return await self._run(self._flows.embed(images, timeout_s))

    async def outputs(
        self, signature: str, images: Iterable[ImageInput], *, timeout_s: float | None = None
    ) -> Responses[RawOutputs]:
        """See `Client.outputs`."""
        return await self._run(self._flows.outputs(signature, images, timeout_s))

    async def status(self, *, timeout_s: float | None = None) -> list[VersionStatus]:
        """See `Client.status`."""
        return await self._run(self._flows.status(timeout_s))

    async def metadata(self, *, timeout_s: float | None = None) -> ModelMetadata:
        """See `Client.metadata`."""
        return await self._run(self._flows.metadata(timeout_s))

    async def model_names(self, *, timeout_s: float | None = None) -> list[str]:
        """See `Client.model_names`."""
        return await self._run(self._flows.model_names(timeout_s))

    async def feedback(self, request_id: str, label: Any, *, timeout_s: float | None = None) -> None:
        """See `Client.feedback`."""
        await self._run(self._flows.feedback(request_id, label, timeout_s))

    async def wait_until_ready(self, timeout_s: float = 60.0) -> int | None:
        """See `Client.wait_until_ready`."""
        return await self._run(self._flows.wait_until_ready(timeout_s))

    async def close(self) -> None:
        """Closes the connections."""
        await self._transport.close()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self.close()

    async def _run(self, flow: Flow[Result]) -> Result:
        try:
            step = next(flow)
            while True:
                if isinstance(step, Pause):
                    await asyncio.sleep(step.seconds)
                    step = next(flow)
                    continue
                try:
                    response = await self._transport.send(step.request, step.timeout_s)
                except ServerError as error:
                    step = flow.throw(error)
                else:
                    step = flow.send(response)
        except StopIteration as stop:
            result: Result = stop.value
            return result


class GrpcClient(Client):
    """A client of TF Serving's PredictionService and ModelService."""

    def __init__(self, address: str, model_name: str = "", **options: Unpack[ClientOptionKeys]) -> None:
        """Opens a channel; it connects at the first call.

        Args:
          address: HOST:PORT.
          model_name: Name on the server; only `model_names` works without.
          **options: See `ClientOptions`.

        Raises:
          ValueError: If the address or an option is invalid.
        """
        from serving.transport_grpc import GrpcTransport

        checked = ClientOptions(**options)
        super().__init__(GrpcTransport(address, model_name, checked), checked)


class RestClient(Client):
    """A client of TF Serving's REST API."""

    def __init__(self, url: str, model_name: str = "", **options: Unpack[ClientOptionKeys]) -> None:
        """Checks the options; connects at the first call.

        Args:
          url: For example http://127.0.0.1:8501.
          model_name: Name on the server; only `model_names` works without.
          **options: See `ClientOptions`.

        Raises:
          ValueError: If the URL or an option is invalid.
        """
        from serving.transport_rest import RestTransport

        checked = ClientOptions(**options)
        super().__init__(RestTransport(url, model_name, checked), checked)


class AsyncGrpcClient(AsyncClient):
    """`GrpcClient` for asyncio."""

    def __init__(self, address: str, model_name: str = "", **options: Unpack[ClientOptionKeys]) -> None:
        """See `GrpcClient`."""
        from serving.transport_grpc import AsyncGrpcTransport

        checked = ClientOptions(**options)
        super().__init__(AsyncGrpcTransport(address, model_name, checked), checked)


class AsyncRestClient(AsyncClient):
    """`RestClient` for asyncio."""

    def __init__(self, url: str, model_name: str = "", **options: Unpack[ClientOptionKeys]) -> None:
        """See `RestClient`."""
        from serving.transport_rest import AsyncRestTransport

        checked = ClientOptions(**options)
        super().__init__(AsyncRestTransport(url, model_name, checked), checked)
