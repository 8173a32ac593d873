"""What is asked of a server and in which order, without any input or output.

Every method is a generator: it yields what is to be sent or how long to wait, and is sent what came back. So there is
one definition of batches, retries and deadlines for gRPC and REST, with and without asyncio (the "sans I/O" pattern:
https://sans-io.readthedocs.io); `client` runs it.
"""

from __future__ import annotations

import itertools
import random
import time
from collections.abc import Callable, Generator, Iterable, Sequence
from typing import Any, Literal, NamedTuple, TypeAlias, TypeVar

from serving import answers, pictures, wire
from serving.errors import (
    DeadlineExceededError,
    InternalError,
    InvalidArgumentError,
    NotFoundError,
    RequestTooLargeError,
    ResourceExhaustedError,
    ServerError,
    UnavailableError,
    UnreadablePictureError,
)
from serving.options import Options
from trainer_module import features

Item = TypeVar("Item")

# Pauses between two tries: the first one's longest, doubled every time, and the longest of all.
_FIRST_PAUSE_S, _LONGEST_PAUSE_S = 0.1, 5.0
_READY_PAUSE_S = 0.5
# An address behind which nothing answers must not use up all the time in one try; there may be another one soon.
_READY_TRY_S = 10.0
# A batch is sent when it holds so much, however few pictures that are: far below any limit of a message.
_BATCH_BYTES = 32 * 1024 * 1024
_RETRIED = (UnavailableError, ResourceExhaustedError)
# What a server says that is about to be ready.
_NOT_YET = (*_RETRIED, NotFoundError)

# A grey PNG of 8 x 8 pixels: a model that refuses it refuses the question, not the picture.
PROBE = bytes.fromhex(
    "89504e470d0a1a0a0000000d4948445200000008000000080800000000e164e1570000000e494441"
    "5478da6368800206ca18008084200110e86a170000000049454e44ae426082"
)


class Request(NamedTuple):
    """One request, in no protocol's form yet.

    Attributes:
      kind: Which call.
      signature: Of `predict`: the signature's name.
      alias: Of `predict`: the name of its input.
      values: Of `predict`: one string for each picture.
      only_output: Of `predict`: what the output is called if there is but one, since REST leaves that name out.
    """

    kind: Literal["predict", "status", "metadata", "model_names"]
    signature: str = ""
    alias: str = ""
    values: Sequence[bytes] = ()
    only_output: str = ""


class Reply(NamedTuple):
    """The reply to `predict`.

    Attributes:
      outputs: Output name → a row for each picture.
      version: That answered; None if the protocol does not tell.
    """

    outputs: dict[str, Any]
    version: int | None


class Send(NamedTuple):
    """A step: send this, and wait no longer."""

    request: Request
    timeout_s: float


class Pause(NamedTuple):
    """A step: do nothing for so long."""

    seconds: float


Result = TypeVar("Result")
Steps: TypeAlias = Generator[Send | Pause, Any, Result]


class _Question(NamedTuple):
    """How pictures are put to a signature, and its outputs read."""

    signature: str
    alias: str
    only_output: str
    to_value: Callable[[bytes], bytes]
    read: Callable[[dict[str, Any], int | None], list[Any]]

    def about(self, contents: Iterable[bytes]) -> Request:
        values = [self.to_value(content) for content in contents]
        return Request("predict", self.signature, self.alias, values, self.only_output)


def _as_it_is(content: bytes) -> bytes:
    return content


_LABEL = _Question(features.SERVING_DEFAULT, "image_bytes", "", _as_it_is, answers.predictions)
_MASK = _Question(features.SERVING_DEFAULT, "image_bytes", "", _as_it_is, answers.masks)
_EXPLAIN = _Question(features.EXPLAIN, "image_bytes", "", _as_it_is, answers.explanations)
_EMBED = _Question(features.EMBED, "image_bytes", "embedding", _as_it_is, answers.embeddings)
# Whatever task it is of, every model answers this.
_PROBE = _Question(features.SERVING_DEFAULT, "image_bytes", "", _as_it_is, lambda outputs, version: [])


class _Deadline:
    def __init__(self, timeout_s: float) -> None:
        self._timeout_s = timeout_s
        self._end = time.monotonic() + timeout_s

    def remaining_s(self) -> float:
        return self._end - time.monotonic()

    def check(self) -> float:
        """What is left, seconds, above 0.

        Raises:
          DeadlineExceededError: If nothing is.
        """
        if (remaining_s := self.remaining_s()) <= 0:
            raise DeadlineExceededError("DEADLINE_EXCEEDED", f"no answer within {self._timeout_s:g} s")
        return remaining_s


class Dialogue:
    """The questions of one client."""

    def __init__(self, options: Options) -> None:
        """Takes how to ask."""
        self._options = options

    def predict(
        self, images: Iterable[pictures.Picture], top_k: int, timeout_s: float | None
    ) -> Steps[answers.Answers[answers.Prediction]]:
        """See `client.Client.predict`. `serving_default` names the best class only, `classify` all of them."""
        if top_k < 1:
            raise ValueError(f"top_k: {top_k} is below 1.")
        if top_k == 1:
            return self._ask(_LABEL, images, timeout_s)

        def read(outputs: dict[str, Any], version: int | None) -> list[answers.Prediction]:
            return answers.ranked(outputs, version, top_k)

        question = _Question(features.CLASSIFY, "inputs", "", wire.image_example, read)
        return self._ask(question, images, timeout_s)

    def segment(
        self, images: Iterable[pictures.Picture], timeout_s: float | None
    ) -> Steps[answers.Answers[answers.Mask]]:
        """See `client.Client.segment`."""
        return self._ask(_MASK, images, timeout_s)

    def explain(
        self, images: Iterable[pictures.Picture], timeout_s: float | None
    ) -> Steps[answers.Answers[answers.Explanation]]:
        """See `client.Client.explain`."""
        return self._ask(_EXPLAIN, images, timeout_s)

    def embed(
        self, images: Iterable[pictures.Picture], timeout_s: float | None
    ) -> Steps[answers.Answers[answers.Embedding]]:
        """See `client.Client.embed`."""
        return self._ask(_EMBED, images, timeout_s)

    def status(self, timeout_s: float | None) -> Steps[list[answers.VersionStatus]]:
        """See `client.Client.status`."""
        found = yield from self._reply(Request("status"), self._deadline(timeout_s))
        return sorted(found, reverse=True)

    def metadata(self, timeout_s: float | None) -> Steps[answers.Metadata]:
        """See `client.Client.metadata`."""
        found: answers.Metadata = yield from self._reply(Request("metadata"), self._deadline(timeout_s))
        return found

    def model_names(self, timeout_s: float | None) -> Steps[list[str]]:
        """See `client.Client.model_names`."""
        names: list[str] = yield from self._reply(Request("model_names"), self._deadline(timeout_s))
        return names

    def wait_until_ready(self, timeout_s: float) -> Steps[int | None]:
        """See `client.Client.wait_until_ready`."""
        deadline = _Deadline(timeout_s)
        why: ServerError | None = None
        while True:
            try:
                # Retries would only get in the way of the pauses here.
                timeout_of_try_s = min(deadline.check(), _READY_TRY_S)
                found = sorted((yield Send(Request("status"), timeout_of_try_s)), reverse=True)
                _refuse_failed(found)
                if any(entry.state == "AVAILABLE" for entry in found):
                    reply: Reply = yield Send(_PROBE.about([PROBE]), deadline.check())
                    return reply.version
                states = ", ".join(f"{entry.version} {entry.state}" for entry in found) or "no version"
                why = NotFoundError("NOT_FOUND", f"no version is available yet ({states})")
            except DeadlineExceededError as error:
                why = why or error  # what was said before the time was over tells more
            except _NOT_YET as error:
                why = error
            except InvalidArgumentError as error:
                # A label is known only once its version is available.
                if self._options.label is None or "version label" not in error.message:
                    raise
                why = error
            pause_s = _READY_PAUSE_S * random.uniform(0.5, 1.0)
            if pause_s >= deadline.remaining_s():
                message = f"not ready after {timeout_s:g} s; the last answer: {why}"
                raise DeadlineExceededError("DEADLINE_EXCEEDED", message) from why
            yield Pause(pause_s)

    def _deadline(self, timeout_s: float | None) -> _Deadline:
        return _Deadline(self._options.timeout_s if timeout_s is None else timeout_s)

    def _ask(
        self, question: _Question, images: Iterable[pictures.Picture], timeout_s: float | None
    ) -> Steps[answers.Answers[Any]]:
        """Asks batch by batch; pictures are read when their batch is due, so that memory holds one batch of them."""
        several = pictures.as_list(images)
        found: list[Any] = [None] * len(several)
        batches = _Batches(question, self._deadline(timeout_s), found, self._reply)
        for batch in self._batches(several, found):
            try:
                yield from batches.ask(batch)
            except ServerError as error:
                # Not a picture's fault. What was answered is not thrown away; what was not asked any more says why.
                if all(entry is None or isinstance(entry, ServerError) for entry in found):
                    raise
                found = [error if entry is None else entry for entry in found]
                break
        return answers.Answers(found)

    def _batches(self, images: list[pictures.Picture], found: list[Any]) -> Iterable[list[tuple[int, bytes]]]:
        """Pictures with their places; those that cannot be read have their error in `found` at once."""
        batch: list[tuple[int, bytes]] = []
        size = 0
        for index, image in enumerate(images):
            try:
                content = pictures.encoded(image)
            except UnreadablePictureError as error:
                found[index] = error
                continue
            if batch and (len(batch) == self._options.batch_size or size + len(content) > _BATCH_BYTES):
                yield batch
                batch, size = [], 0
            batch.append((index, content))
            size += len(content)
        if batch:
            yield batch

    def _reply(self, request: Request, deadline: _Deadline) -> Steps[Any]:
        """Sends a request, again and again where that can help."""
        refused: ServerError | None = None
        for attempt in itertools.count():
            try:
                return (yield Send(request, deadline.check()))
            except DeadlineExceededError as error:
                # What the server said to the try before is worth more than that the time was up on this one.
                raise refused or error from None
            except _RETRIED as error:
                refused = error
                # Jitter, so that many clients that were refused at once do not come back at once.
                pause_s = random.uniform(0.5, 1.0) * min(_FIRST_PAUSE_S * 2**attempt, _LONGEST_PAUSE_S)
                if attempt >= self._options.retries or pause_s >= deadline.remaining_s():
                    raise error
            yield Pause(pause_s)


class _Batches:
    """Asks about the batches of one call; one that is refused is halved until the picture at fault is alone."""

    def __init__(
        self,
        question: _Question,
        deadline: _Deadline,
        found: list[Any],
        reply: Callable[[Request, _Deadline], Steps[Any]],
    ) -> None:
        self._question = question
        self._deadline = deadline
        self._found = found
        self._reply = reply
        self._question_is_sound = False

    def ask(self, batch: list[tuple[int, bytes]], sure: bool = False) -> Steps[None]:
        """Fills in the answers, or errors, of one batch; `sure` is that its one picture was refused before."""
        request = self._question.about(content for _, content in batch)
        try:
            reply: Reply = yield from self._reply(request, self._deadline)
        except RequestTooLargeError as error:
            yield from self._halve(batch, error)
            return
        except InvalidArgumentError as error:
            if sure:
                self._found[batch[0][0]] = error
                return
            yield from self._check_question(error)
            if len(batch) > 1:
                yield from self._halve(batch, error)
            else:
                # A server that joins the requests of several clients into a batch refuses all of them for one picture.
                yield from self.ask(batch, sure=True)
            return
        self._question_is_sound = True
        try:
            read = self._question.read(reply.outputs, reply.version)
        except ServerError:
            raise
        except Exception as error:  # the outputs come from outside: ragged rows, a column too short, text for a number
            raise InternalError("INTERNAL", f"unexpected outputs: {error}") from error
        if len(read) != len(batch):
            raise InternalError("INTERNAL", f"{len(read)} answers to {len(batch)} pictures")
        for (index, _), answer in zip(batch, read, strict=True):
            self._found[index] = answer

    def _halve(self, batch: list[tuple[int, bytes]], error: ServerError) -> Steps[None]:
        if len(batch) == 1:
            self._found[batch[0][0]] = error
            return
        middle = len(batch) // 2
        yield from self.ask(batch[:middle])
        yield from self.ask(batch[middle:])

    def _check_question(self, error: ServerError) -> Steps[None]:
        """Raises the error if a sound picture is refused too: an unknown label or signature is no picture's fault."""
        if self._question_is_sound:
            return
        try:
            yield from self._reply(self._question.about([PROBE]), self._deadline)
        except InvalidArgumentError:
            raise error from None
        self._question_is_sound = True


def _refuse_failed(found: Sequence[answers.VersionStatus]) -> None:
    """Raises if there is nothing to wait for: no version that is there or coming, and one that could not be loaded."""
    if any(entry.state in ("START", "LOADING", "AVAILABLE") for entry in found):
        return
    for entry in found:
        if entry.state == "END" and entry.error:
            message = f"version {entry.version} cannot be loaded: {entry.error}"
            raise InternalError("INTERNAL", message)
