"""Asks a model server about pictures: over gRPC or REST, with or without asyncio. Imports no TensorFlow.

    with GrpcClient("127.0.0.1:8500", "digits") as client:
        for prediction in client.predict(["three.png", "four.png"], top_k=3).or_raise():
            print(prediction.label, prediction.score, prediction.version)

What is asked, and when again, is in `dialogue`; here it is run.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterable
from types import TracebackType
from typing import Any, Protocol, Self, TypeVar, Unpack

from serving.answers import (
    Answers,
    Embedding,
    Explanation,
    Label,
    Mask,
    Metadata,
    Prediction,
    SignatureSpec,
    TensorSpec,
    VersionStatus,
)
from serving.dialogue import Dialogue, Pause, Request, Steps
from serving.errors import (
    DeadlineExceededError,
    InternalError,
    InvalidArgumentError,
    NotFoundError,
    PermissionDeniedError,
    RequestTooLargeError,
    ResourceExhaustedError,
    ServerError,
    UnauthenticatedError,
    UnavailableError,
    UnimplementedError,
    UnreadablePictureError,
)
from serving.options import OptionKeys, Options
from serving.pictures import Picture

__all__ = [
    "Answers",
    "AsyncClient",
    "AsyncGrpcClient",
    "AsyncRestClient",
    "Client",
    "DeadlineExceededError",
    "Embedding",
    "Explanation",
    "GrpcClient",
    "InternalError",
    "InvalidArgumentError",
    "Label",
    "Mask",
    "Metadata",
    "NotFoundError",
    "OptionKeys",
    "Options",
    "PermissionDeniedError",
    "Picture",
    "Prediction",
    "RequestTooLargeError",
    "ResourceExhaustedError",
    "RestClient",
    "ServerError",
    "SignatureSpec",
    "TensorSpec",
    "UnauthenticatedError",
    "UnavailableError",
    "UnimplementedError",
    "UnreadablePictureError",
    "VersionStatus",
]

Result = TypeVar("Result")


class Transport(Protocol):
    """Sends requests one by one; threads may share it."""

    def send(self, request: Request, timeout_s: float) -> Any:
        """Gives what the request's kind is answered with, or raises ServerError."""

    def close(self) -> None:
        """Closes the connections."""


class AsyncTransport(Protocol):
    """The same for one event loop."""

    async def send(self, request: Request, timeout_s: float) -> Any:
        """See `Transport.send`."""

    async def close(self) -> None:
        """See `Transport.close`."""


class Client:
    """Asks one model. Threads may share a client, and should: it keeps its connections.

    Make a `GrpcClient` or a `RestClient`. A method with `timeout_s` takes the client's own when it is not given.
    """

    def __init__(self, transport: Transport, options: Options) -> None:
        """Takes what sends the requests, and how to ask."""
        self._transport = transport
        self._dialogue = Dialogue(options)

    def predict(
        self, images: Iterable[Picture], top_k: int = 1, *, timeout_s: float | None = None
    ) -> Answers[Prediction]:
        """Classifies pictures.

        A list longer than the batch size is sent in batches. Neither a picture that the model refuses nor one that
        cannot be read spoils the others: its error stands in its place. An error that is no picture's fault is raised,
        unless pictures were answered before it came; then it stands in the places of the rest.

        Args:
          images: Paths, bytes of JPEG or PNG files, PIL images, or arrays uint8 [h, w, 3]; nothing is resized here.
          top_k: How many classes to return for each.
          timeout_s: The longest that the call may take.

        Raises:
          ServerError: If the server refuses, fails, or does not answer in time.
          TypeError: If it is not a list of pictures.
        """
        return self._run(self._dialogue.predict(images, top_k, timeout_s))

    def segment(self, images: Iterable[Picture], *, timeout_s: float | None = None) -> Answers[Mask]:
        """Finds the class of every pixel; arguments and errors as those of `predict`."""
        return self._run(self._dialogue.segment(images, timeout_s))

    def explain(self, images: Iterable[Picture], *, timeout_s: float | None = None) -> Answers[Explanation]:
        """Classifies pictures and shows where the model looked; arguments and errors as those of `predict`."""
        return self._run(self._dialogue.explain(images, timeout_s))

    def embed(self, images: Iterable[Picture], *, timeout_s: float | None = None) -> Answers[Embedding]:
        """Gives the vectors that the model makes of pictures; arguments and errors as those of `predict`."""
        return self._run(self._dialogue.embed(images, timeout_s))

    def status(self, *, timeout_s: float | None = None) -> list[VersionStatus]:
        """The versions that the server knows, newest first; of a client with a `version` that one.

        Raises:
          ServerError: If the server does not know the model, or cannot be reached.
        """
        return self._run(self._dialogue.status(timeout_s))

    def metadata(self, *, timeout_s: float | None = None) -> Metadata:
        """What can be asked of the model: its signatures, and the version that they are of.

        Raises:
          ServerError: If the server has not loaded the model, or cannot be reached.
        """
        return self._run(self._dialogue.metadata(timeout_s))

    def model_names(self, *, timeout_s: float | None = None) -> list[str]:
        """Lists the models that the server is configured to serve.

        TF Serving has no call for this. The local server adds the names to the response of a status request without a
        model name, on both protocols; every other server fails this call. Needs no `model_name`.

        Raises:
          UnimplementedError: If the server does not list its models.
          ServerError: If the server cannot be reached, or another error occurs.
        """
        return self._run(self._dialogue.model_names(timeout_s))

    def wait_until_ready(self, timeout_s: float = 60.0) -> int | None:
        """Waits until the model answers: a version is AVAILABLE, and a small grey picture gets a reply.

        The status alone is not enough: a server behind a proxy, or one that warms up, has it before it answers.

        Returns:
          The version that answered; None where the server does not tell.

        Raises:
          ServerError: If waiting is no use (wrong token, no version can be loaded, ...), or was not long enough.
        """
        return self._run(self._dialogue.wait_until_ready(timeout_s))

    def close(self) -> None:
        """Closes the connections."""
        self._transport.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def _run(self, steps: Steps[Result]) -> Result:
        try:
            step = next(steps)
            while True:
                if isinstance(step, Pause):
                    time.sleep(step.seconds)
                    step = next(steps)
                    continue
                try:
                    reply = self._transport.send(step.request, step.timeout_s)
                except ServerError as error:
                    step = steps.throw(error)
                else:
                    step = steps.send(reply)
        except StopIteration as stop:
            result: Result = stop.value
            return result


class AsyncClient:
    """`Client` for asyncio: the same methods, awaited. One event loop uses it, any number of tasks at once.

    Make an `AsyncGrpcClient` or an `AsyncRestClient`.
    """

    def __init__(self, transport: AsyncTransport, options: Options) -> None:
        """Takes what sends the requests, and how to ask."""
        self._transport = transport
        self._dialogue = Dialogue(options)

    async def predict(
        self, images: Iterable[Picture], top_k: int = 1, *, timeout_s: float | None = None
    ) -> Answers[Prediction]:
        """See `Client.predict`."""
        return await self._run(self._dialogue.predict(images, top_k, timeout_s))

    async def segment(self, images: Iterable[Picture], *, timeout_s: float | None = None) -> Answers[Mask]:
        """See `Client.segment`."""
        return await self._run(self._dialogue.segment(images, timeout_s))

    async def explain(self, images: Iterable[Picture], *, timeout_s: float | None = None) -> Answers[Explanation]:
        """See `Client.explain`."""
        return await self._run(self._dialogue.explain(images, timeout_s))

    async def embed(self, images: Iterable[Picture], *, timeout_s: float | None = None) -> Answers[Embedding]:
        """See `Client.embed`."""
        return await self._run(self._dialogue.embed(images, timeout_s))

    async def status(self, *, timeout_s: float | None = None) -> list[VersionStatus]:
        """See `Client.status`."""
        return await self._run(self._dialogue.status(timeout_s))

    async def metadata(self, *, timeout_s: float | None = None) -> Metadata:
        """See `Client.metadata`."""
        return await self._run(self._dialogue.metadata(timeout_s))

    async def model_names(self, *, timeout_s: float | None = None) -> list[str]:
        """See `Client.model_names`."""
        return await self._run(self._dialogue.model_names(timeout_s))

    async def wait_until_ready(self, timeout_s: float = 60.0) -> int | None:
        """See `Client.wait_until_ready`."""
        return await self._run(self._dialogue.wait_until_ready(timeout_s))

    async def close(self) -> None:
        """Closes the connections."""
        await self._transport.close()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self.close()

    async def _run(self, steps: Steps[Result]) -> Result:
        try:
            step = next(steps)
            while True:
                if isinstance(step, Pause):
                    await asyncio.sleep(step.seconds)
                    step = next(steps)
                    continue
                try:
                    reply = await self._transport.send(step.request, step.timeout_s)
                except ServerError as error:
                    step = steps.throw(error)
                else:
                    step = steps.send(reply)
        except StopIteration as stop:
            result: Result = stop.value
            return result


class GrpcClient(Client):
    """Speaks to TF Serving's PredictionService and ModelService."""

    def __init__(self, address: str, model_name: str = "", **options: Unpack[OptionKeys]) -> None:
        """Opens a channel; it connects when it is used.

        Args:
          address: HOST:PORT.
          model_name: As the server knows it; only `model_names` does without.
          **options: See `Options`.

        Raises:
          ValueError: If address or options cannot be used.
        """
        from serving.transport_grpc import GrpcTransport

        checked = Options(**options)
        super().__init__(GrpcTransport(address, model_name, checked), checked)


class RestClient(Client):
    """Speaks to TF Serving's REST interface."""

    def __init__(self, url: str, model_name: str = "", **options: Unpack[OptionKeys]) -> None:
        """Takes where and how to ask; connects when it is used.

        Args:
          url: For example http://127.0.0.1:8501.
          model_name: As the server knows it; only `model_names` does without.
          **options: See `Options`.

        Raises:
          ValueError: If URL or options cannot be used.
        """
        from serving.transport_rest import RestTransport

        checked = Options(**options)
        super().__init__(RestTransport(url, model_name, checked), checked)


class AsyncGrpcClient(AsyncClient):
    """`GrpcClient` for asyncio."""

    def __init__(self, address: str, model_name: str = "", **options: Unpack[OptionKeys]) -> None:
        """See `GrpcClient`."""
        from serving.transport_grpc import AsyncGrpcTransport

        checked = Options(**options)
        super().__init__(AsyncGrpcTransport(address, model_name, checked), checked)


class AsyncRestClient(AsyncClient):
    """`RestClient` for asyncio."""

    def __init__(self, url: str, model_name: str = "", **options: Unpack[OptionKeys]) -> None:
        """See `RestClient`."""
        from serving.transport_rest import AsyncRestTransport

        checked = Options(**options)
        super().__init__(AsyncRestTransport(url, model_name, checked), checked)
