"""Ground truth that clients sent for logged images, as confirmed labels."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

from pipeline.labeling.candidates import REQUEST_LOG, from_log_records
from pipeline.labeling.confirmed import ConfirmedImage, Label


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


def logged_images(prefix: Path, model: str, read_label: Callable[[Any], Label]) -> Iterator[LoggedImage]:
    """Reads the images that a model was asked about, with their feedback, in the order of their arrival.

    Args:
      prefix: Of the request log, which may contain requests to several models.
      model: Name of the model.
      read_label: Feedback → label; ValueError, with a clause, if it is not a label of the task.
    """
    for record, index, candidate in from_log_records(prefix):
        if record.model != model:
            continue
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
