"""Selects the most informative predictions of every class and slice."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Mapping, Sequence

import numpy as np

from components.grad_cam.artifact import (
    CLASS_GROUP_PREFIX,
    CONFIDENT_RIGHT,
    CONFIDENT_WRONG,
    UNCERTAIN,
    SelectionReason,
)
from components.grad_cam.predictions import PredictionId, SourceImage
from trainer_module.options import ExplanationOptions
from trainer_module.tasks import PredictionOutcomes

# (group, criterion), as in `SelectionReason`.
Key = tuple[str, str]
# (rank value, higher is selected first; file name; prediction)
Candidate = tuple[float, str, PredictionId]
# File name → prediction → why it was selected.
Selection = Mapping[str, Mapping[PredictionId, Sequence[SelectionReason]]]


def numbers(options: ExplanationOptions) -> dict[str, int]:
    """The number of predictions to select from every group, by criterion."""
    return {
        CONFIDENT_RIGHT: options.most_confident_right,
        CONFIDENT_WRONG: options.most_confident_wrong,
        UNCERTAIN: options.least_certain,
    }


def candidates(
    sources: Sequence[SourceImage],
    prediction_ids: Sequence[PredictionId],
    outcomes: PredictionOutcomes,
    classes: Sequence[str],
) -> Iterator[tuple[Key, Candidate]]:
    """Yields every prediction of a batch as a candidate of its class and its slices.

    Args:
      sources: The images of M predictions.
      prediction_ids: Their explained classes and instances.
      outcomes: The outcomes of the predictions.
      classes: Class names.
    """
    for i in np.flatnonzero(outcomes.exists).tolist():
        source, listed = sources[i], int(outcomes.listed_ids[i])
        confident = CONFIDENT_RIGHT if outcomes.correct[i] else CONFIDENT_WRONG
        own_class = [CLASS_GROUP_PREFIX + classes[listed]] if listed >= 0 else []
        for group in (*own_class, *source.slices):
            name = (source.filename, prediction_ids[i])
            yield (group, confident), (float(outcomes.confidence[i]), *name)
            yield (group, UNCERTAIN), (-float(outcomes.margin[i]), *name)


def measuring_order(sha256: str, prediction_ids: Iterable[PredictionId]) -> list[PredictionId]:
    """Orders the predictions of an image as they are measured: by the hash of image and prediction."""
    return sorted(prediction_ids, key=lambda each: hashlib.sha256(f"{sha256} {each}".encode()).digest())


def by_filename(best: Iterable[tuple[Key, Sequence[Candidate]]]) -> Selection:
    """Turns the best candidates of every group, best first, into a table of files."""
    selection: dict[str, dict[PredictionId, list[SelectionReason]]] = {}
    for (group, criterion), ranked in sorted(best):
        for rank, (_, filename, prediction_id) in enumerate(ranked, start=1):
            reason = SelectionReason(group=group, criterion=criterion, rank=rank)
            selection.setdefault(filename, {}).setdefault(prediction_id, []).append(reason)
    return selection
