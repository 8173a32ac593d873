"""Ground truth that clients sent for logged images, as confirmed labels."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator
from pathlib import Path
from typing import Any, NamedTuple

from pipeline.labeling.candidates import REQUEST_LOG, from_log_records
from pipeline.labeling.confirmed import ConfirmedImage, Label
from serving.request_log.files import JSON_LINES, TFRECORD, published


class LoggedImage(NamedTuple):
    """An image of a request.

    Attributes:
      name: A name for it.
      encoded: Bytes of the file.
      request_id: Of the request; with the index of the image, if it contained several.
      label: Its last feedback; None without any, or if it is not a label of the task.
      time: When the feedback arrived, or else the request, seconds since 1970.
      problem: Why the feedback is not a label; empty if it is, or if there is none.
    """

    name: str
    encoded: bytes
    request_id: str
    label: Label | None
    time: float
    problem: str = ""


def logged_images(
    prefix: Path, model: str, read_label: Callable[[Any], Label], skip: Collection[Path] = ()
) -> Iterator[LoggedImage]:
    """Reads the images that a model was asked about, with their feedback, in the order of their arrival.

    Args:
      prefix: Of the request log, which may contain requests to several models.
      model: Name of the model.
      read_label: Feedback → label; ValueError, with a clause, if it is not a label of the task.
      skip: Files of requests that are not read.
    """
    for record, index, candidate in from_log_records(prefix, model, skip=skip):
        label: Label | None = None
        problem, time = "", record.time
        for feedback in record.feedback:
            if feedback.index != index:
                continue
            time = feedback.time
            try:
                label, problem = read_label(feedback.label), ""
            except ValueError as error:
                label, problem = None, str(error)
        yield LoggedImage(candidate.filename, candidate.encoded, candidate.request_id, label, time, problem)


class LabelledRequests(NamedTuple):
    """The images of a log with feedback.

    Attributes:
      images: Those whose feedback is a label, each file once; later feedback replaces earlier.
      problems: Request ids whose feedback is not, and why.
    """

    images: tuple[ConfirmedImage, ...]
    problems: tuple[tuple[str, str], ...] = ()


def confirmed(prefix: Path, model: str, read_label: Callable[[Any], Label]) -> LabelledRequests:
    """Reads all images with feedback as confirmed images; see `logged_images` for the arguments."""
    by_digest: dict[str, ConfirmedImage] = {}
    problems = []
    for image in logged_images(prefix, model, read_label):
        if image.problem:
            problems.append((image.request_id, image.problem))
        if image.label is None:
            continue
        known = ConfirmedImage(
            image.name, image.encoded, image.label, "feedback", source=REQUEST_LOG, request_id=image.request_id
        )
        by_digest[known.sha256] = known
    return LabelledRequests(tuple(by_digest.values()), tuple(problems))


class NewFeedback:
    """Reads the images of a log with feedback when there may be new ones.

    A file of a log never changes. Feedback may belong to a request of any age, so a new file of feedback requires the
    whole log; without one, only new files of requests are searched for images whose feedback came first.
    """

    def __init__(self, prefix: Path, model: str, read_label: Callable[[Any], Label]) -> None:
        """Takes the arguments of `confirmed`."""
        self._prefix, self._model, self._read_label = prefix, model, read_label
        # Files that were read; None before the first call.
        self._requests: frozenset[Path] | None = None
        self._feedback = frozenset[Path]()

    def read(self) -> LabelledRequests | None:
        """Returns all images with feedback; None if there is none that the last call has not read."""
        earlier, known = self._requests, self._feedback
        self._requests = frozenset(published(self._prefix, TFRECORD))
        self._feedback = frozenset(published(self._prefix, JSON_LINES))
        if earlier is not None and self._feedback <= known:
            if self._requests <= earlier or not self._has_labels_except(earlier):
                return None
        return confirmed(self._prefix, self._model, self._read_label)

    def _has_labels_except(self, skip: Collection[Path]) -> bool:
        images = logged_images(self._prefix, self._model, self._read_label, skip)
        return any(image.label is not None for image in images)
