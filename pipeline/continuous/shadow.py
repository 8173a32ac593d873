"""Shadow comparison: what a candidate predicts for the newest logged requests, compared with the served version.

It runs before the push, on requests that are over, so that no client waits for it or sees its responses.
"""

from __future__ import annotations

import collections
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar, Literal, NamedTuple

import numpy as np

from components.stored import Stored, StoredPart
from pipeline.labeling import predictors
from pipeline.labeling.predictors import Predictor
from trainer_module.error_text import first_line
from trainer_module.tasks import Labeling, RawLabel

# Probability of a worse result on feedback although both models are equally good.
SIGNIFICANCE = 0.05
_MOST_CHANGES = 10
_SAME = 1.0 - 1e-9


class ShadowedImage(NamedTuple):
    """A logged image.

    Attributes:
      encoded: Bytes of the file.
      request_id: Of its request; empty if it is not known.
      label: Ground truth that arrived as feedback, as raw example features; None if there is none.
    """

    encoded: bytes
    request_id: str = ""
    label: Mapping[str, Sequence[Any]] | None = None


class Change(StoredPart):
    """Predictions that changed in the same way.

    Attributes:
      served: The prediction of the served version, in words.
      candidate: That of the candidate.
      images: Number of images.
    """

    served: str
    candidate: str
    images: int


class ShadowReason(StoredPart):
    """One reason why a candidate must not be pushed.

    Attributes:
      metric: The compared metric, in words.
      detail: The whole reason in one line.
      value: Value of the metric; None if the reason is not a number that exceeds a bound.
      bound: Its largest allowed value.
    """

    metric: str
    detail: str
    value: float | None = None
    bound: float | None = None


class ShadowReport(Stored):
    """The result of a comparison.

    Attributes:
      candidate: The candidate, in words.
      served: The served version.
      images: Number of compared images.
      agreement: Mean agreement of both predictions, range [0, 1]; None if no image was compared.
      changed: Number of images with another prediction.
      changes: The most frequent changes.
      labelled: Number of images with feedback.
      candidate_quality: Mean agreement of the candidate's predictions with the feedback; None without feedback.
      served_quality: The same of the served version.
      p_value: Of the test that the candidate is worse on the feedback; None without feedback.
      reasons: Why the candidate must not be pushed; empty if it may.
    """

    FILE: ClassVar[str] = "shadow.json"

    format: Literal[1] = 1
    candidate: str
    served: str
    images: int
    agreement: float | None = None
    changed: int = 0
    changes: tuple[Change, ...] = ()
    labelled: int = 0
    candidate_quality: float | None = None
    served_quality: float | None = None
    p_value: float | None = None
    reasons: tuple[ShadowReason, ...] = ()

    @property
    def refused(self) -> bool:
        """Whether the candidate must not be pushed."""
        return bool(self.reasons)

    @property
    def summary(self) -> str:
        """One line."""
        if not self.images:
            return f"no logged prediction could be compared with that of {self.served}"
        text = f"{self.changed:,} of {self.images:,} logged predictions differ from those of {self.served}"
        if self.labelled:
            quality = f"{self.candidate_quality:.3f}, before {self.served_quality:.3f}"
            text += f"; agreement with feedback on {self.labelled:,} images: {quality}"
        return text


class _CandidateFailedError(Exception):
    """The candidate fails on an image."""


def failed(candidate: str, served: str, reason: str) -> ShadowReport:
    """Returns the report about a candidate that cannot predict any image.

    Args:
      candidate: The candidate, in words.
      served: The served version.
      reason: The error.
    """
    return ShadowReport(candidate=candidate, served=served, images=0, reasons=(_failure(reason),))


def compare(
    images: Sequence[ShadowedImage],
    candidate: Predictor,
    served: Predictor,
    labeling: Labeling,
    max_changed: float = 1.0,
) -> ShadowReport:
    """Compares two models on the same images.

    The candidate is refused if it fails, if it is significantly worse on the images with feedback (sign test of the
    images on which both differ, one-sided, 5 %), or if it changes more than `max_changed` of the predictions.

    Args:
      images: At least one.
      candidate: The model that would be pushed.
      served: The served version.
      labeling: The labels of the task.
      max_changed: Largest share of changed predictions. A candidate that was trained because of drift has to change
        some; the default accepts any.

    Reference: Dietterich 1998, https://doi.org/10.1162/089976698300017197, section 3 (McNemar's test; exact for labels
    that are right or wrong).
    """
    agreements, before, after = list[float](), list[float](), list[float]()
    changes: collections.Counter[tuple[str, str]] = collections.Counter()
    encoded, failures = [image.encoded for image in images], list[ShadowReason]()
    try:
        for image, new, old in zip(
            images,
            _candidate_proposals(candidate, labeling, images),
            predictors.proposals(served, labeling, encoded),
            strict=True,
        ):
            agreement = labeling.agreement(new, old)
            agreements.append(agreement)
            if agreement < _SAME:
                changes[_describe(old), _describe(new)] += 1
            if image.label is not None:
                after.append(labeling.agreement(new, image.label))
                before.append(labeling.agreement(old, image.label))
    except _CandidateFailedError as error:
        failures.append(_failure(str(error)))
    p_value = _p_value_of_worse(np.array(before), np.array(after)) if after else None
    report = ShadowReport(
        candidate=candidate.description,
        served=served.description,
        images=len(agreements),
        agreement=float(np.mean(agreements)) if agreements else None,
        changed=sum(changes.values()),
        changes=tuple(
            Change(served=old, candidate=new, images=count)
            for (old, new), count in changes.most_common(_MOST_CHANGES)
            if old or new
        ),
        labelled=len(after),
        candidate_quality=float(np.mean(after)) if after else None,
        served_quality=float(np.mean(before)) if before else None,
        p_value=p_value,
    )
    return report.model_copy(update={"reasons": (*failures, *_reasons(report, max_changed))})


def _candidate_proposals(
    candidate: Predictor, labeling: Labeling, images: Sequence[ShadowedImage]
) -> Iterator[RawLabel]:
    """Predicts labels, one image at a time.

    Raises:
      _CandidateFailedError: If the candidate fails on an image, for whatever reason.
    """
    for image in images:
        try:
            (proposal,) = predictors.proposals(candidate, labeling, [image.encoded])
        except Exception as error:
            raise _CandidateFailedError(
                f"{candidate.description} fails on the image of request {image.request_id or 'unknown'}: "
                f"{first_line(error)}"
            ) from error
        yield proposal


def _failure(detail: str) -> ShadowReason:
    return ShadowReason(metric="failed requests", detail=detail)


def _reasons(report: ShadowReport, max_changed: float) -> Iterator[ShadowReason]:
    if report.p_value is not None and report.p_value < SIGNIFICANCE:
        yield ShadowReason(
            metric="agreement with feedback",
            detail=f"on {report.labelled:,} images with feedback it is significantly worse than {report.served}: "
            f"{report.candidate_quality:.3f} instead of {report.served_quality:.3f} (p = {report.p_value:.2g})",
        )
    if report.changed > max_changed * report.images:
        share = report.changed / report.images
        yield ShadowReason(
            metric="changed predictions",
            detail=f"{share:.1%} of {report.images:,} logged predictions differ from those of {report.served}, allowed "
            f"{max_changed:.1%}",
            value=share,
            bound=max_changed,
        )


def _p_value_of_worse(before: np.ndarray, after: np.ndarray) -> float:
    """Tests whether more images became worse than better."""
    from scipy import stats

    worse, better = int((after < before).sum()), int((after > before).sum())
    return float(stats.binomtest(worse, worse + better, alternative="greater").pvalue) if worse + better else 1.0


def _describe(label: Mapping[str, Sequence[Any]]) -> str:
    from pipeline.labeling.formats.table import describe

    return describe(label)


def newest_images(prefix: Path, model: str, read_label: Callable[[Any], Any], num: int) -> list[ShadowedImage]:
    """Reads the newest different images that a model was asked about, with their feedback; the newest is the last.

    An image that was sent several times counts once, with its last feedback.

    Args:
      prefix: Of the request log.
      model: Name of the model; requests to others are skipped.
      read_label: Feedback → label, as raw example features; ValueError if it is not a label of the task.
      num: Largest number of images.
    """
    from pipeline.labeling.feedback import logged_images

    newest: dict[str, ShadowedImage] = {}
    for image in logged_images(prefix, model, read_label):
        earlier = newest.pop(image.name, None)
        label = earlier.label if earlier is not None and image.label is None else image.label
        newest[image.name] = ShadowedImage(image.encoded, image.request_id, label)
        if len(newest) > num:
            del newest[next(iter(newest))]
    return list(newest.values())
