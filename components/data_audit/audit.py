"""Audits a dataset: wrong labels, outliers, near duplicates and ambiguous classes. Pure functions."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np

from components.data_audit import label_errors, neighbors, out_of_fold
from components.data_audit.artifact import AmbiguousPair, Audit, AuditSummary, Suspect
from components.data_audit.images import (
    CONFLICTING_DUPLICATE,
    LABEL_ISSUE,
    NEAR_DUPLICATE,
    OUTLIER,
    AuditedImages,
    LabelledImage,
    join_names,
)
from components.data_audit.neighbors import Neighbors
from components.image_example_gen.duplicates import connected

_NEIGHBORS_OF_OUTLIERS = 10
_OUTLIER_SCORE = 0.5
# A prediction that differs less from the label is not reported.
_LEAST_DISAGREEMENT = 0.5
_AGREEING_DUPLICATE = 0.5
_MOST_PAIRS = 10
# The labels of fewer images are not audited: there is nothing to learn from.
_FEWEST_IMAGES = 2 * out_of_fold.NUM_FOLDS


def run(data: AuditedImages) -> Audit:
    """Audits all images."""
    near = neighbors.find(data.embeddings, label_errors.NUM_VOTES)
    pairs, distances = neighbors.duplicate_pairs(near)
    labels = _AuditedLabels()
    if data.classes and len(data.images) >= _FEWEST_IMAGES:
        groups = connected(pairs, len(data.images))
        labels = (_audit_sets if data.has_sets else _audit_classes)(data, near, groups)
    suspects = [
        suspect
        for suspect in (
            *_outliers(data, near),
            *_duplicates(data, pairs, distances),
            *_disagreements(data),
            *labels.suspects,
        )
        if suspect.filename not in data.reviewed
    ]
    suspects.sort(key=lambda suspect: (-suspect.score, suspect.reason != LABEL_ISSUE, suspect.filename))
    summary = AuditSummary(
        images=len(data.images),
        source=data.source,
        reasons=dict(Counter(suspect.reason for suspect in suspects).most_common()),
        agreement=labels.agreement,
        ambiguous=labels.ambiguous,
    )
    return Audit(summary, tuple(suspects))


# === Labels ===


class _AuditedLabels(NamedTuple):
    """The suspicious labels, and what `AuditSummary` contains about labels."""

    suspects: Sequence[Suspect] = ()
    agreement: float | None = None
    ambiguous: tuple[AmbiguousPair, ...] = ()


def _audit_classes(data: AuditedImages, near: Neighbors, groups: np.ndarray) -> _AuditedLabels:
    labels = data.memberships().argmax(axis=1)
    folds = out_of_fold.assign_folds(labels, groups)
    assessed = label_errors.assess(out_of_fold.compress(data.embeddings), labels, len(data.classes), near, folds)
    suspects = [
        _suspect(data.images[index], LABEL_ISSUE, assessed.suspicion[index], data.classes[assessed.proposed[index]])
        for index in np.flatnonzero(assessed.is_issue).tolist()
    ]
    ambiguous = _ambiguous(labels[assessed.is_issue], assessed.proposed[assessed.is_issue], labels, data.classes)
    return _AuditedLabels(suspects, assessed.agreement, ambiguous)


def _ambiguous(
    given: np.ndarray, proposed: np.ndarray, labels: np.ndarray, classes: Sequence[str]
) -> tuple[AmbiguousPair, ...]:
    """Returns the pairs of classes that are confused in both directions, by their share of the images of both.

    Args:
      given: Class ids of the suspicious labels.
      proposed: The classes that are proposed instead.
      labels: Class ids of all images.
      classes: Class names.
    """
    confused, counts = Counter(zip(given.tolist(), proposed.tolist(), strict=True)), Counter(labels.tolist())
    pairs = [
        AmbiguousPair(
            classes=(classes[first], classes[second]),
            images=confused[first, second] + confused[second, first],
            share=(confused[first, second] + confused[second, first]) / (counts[first] + counts[second]),
        )
        for first, second in confused
        if first < second and confused[second, first]
    ]
    return tuple(sorted(pairs, key=lambda pair: (-pair.share, pair.classes))[:_MOST_PAIRS])


def _audit_sets(data: AuditedImages, near: Neighbors, groups: np.ndarray) -> _AuditedLabels:
    """Assesses for every class whether images have it, as two classes."""
    members, features = data.memberships(), out_of_fold.compress(data.embeddings)
    is_issue, suspicion = np.zeros(members.shape, bool), np.zeros(members.shape)
    agreements = list[float]()
    for class_id in range(len(data.classes)):
        labels = members[:, class_id].astype(np.int64)
        if min(labels.sum(), len(labels) - labels.sum()) < out_of_fold.NUM_FOLDS:
            continue
        assessed = label_errors.assess(features, labels, 2, near, out_of_fold.assign_folds(labels, groups))
        is_issue[:, class_id], suspicion[:, class_id] = assessed.is_issue, assessed.suspicion
        agreements.append(assessed.agreement)
    names = np.array(data.classes, object)
    suspects = [
        _suspect(
            data.images[index],
            LABEL_ISSUE,
            suspicion[index][is_issue[index]].max(),
            join_names(names[members[index] ^ is_issue[index]]),
        )
        for index in np.flatnonzero(is_issue.any(axis=1)).tolist()
    ]
    return _AuditedLabels(suspects, float(np.mean(agreements)) if agreements else None)


# === Images ===


def _outliers(data: AuditedImages, near: Neighbors) -> Iterator[Suspect]:
    nearest = Neighbors(near.indices[:, :_NEIGHBORS_OF_OUTLIERS], near.distances[:, :_NEIGHBORS_OF_OUTLIERS])
    scores = neighbors.outliers(nearest)
    for index in np.flatnonzero(scores > _OUTLIER_SCORE).tolist():
        yield _suspect(data.images[index], OUTLIER, scores[index])


def _duplicates(data: AuditedImages, pairs: np.ndarray, distances: np.ndarray) -> Iterator[Suspect]:
    """Reports images that look like another one: both if their labels differ, otherwise all but the first."""
    worst: dict[tuple[int, str], float] = {}
    for pair, distance in zip(pairs.tolist(), distances.tolist(), strict=True):
        first, second = data.images[pair[0]], data.images[pair[1]]
        conflict = set(first.classes) != set(second.classes)
        reason = CONFLICTING_DUPLICATE if conflict else NEAR_DUPLICATE
        # Without a conflict it is not a sign of a wrong label.
        score = max(0.0, 1.0 - distance) * (1.0 if conflict else _AGREEING_DUPLICATE)
        for index in pair if conflict else pair[1:]:
            worst[index, reason] = max(score, worst.get((index, reason), 0.0))
    for (index, reason), score in worst.items():
        yield _suspect(data.images[index], reason, score)


def _disagreements(data: AuditedImages) -> Iterator[Suspect]:
    for image in data.images:
        difference = data.disagreements.get(image.filename)
        if difference and difference.score >= _LEAST_DISAGREEMENT:
            yield _suspect(image, difference.error_type, difference.score)


def _suspect(image: LabelledImage, reason: str, score: float, proposed: str = "") -> Suspect:
    return Suspect(
        filename=image.filename,
        label=join_names(image.classes),
        reason=reason,
        score=round(float(score), 4),
        proposed_label=proposed,
    )
