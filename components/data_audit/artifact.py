"""The audit artifact: suspicious images with their reasons, and counts."""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import ClassVar, Literal, Self

from pydantic import ConfigDict, Field

from components.stored import IncompatibleArtifactError, Stored, StoredPart
from trainer_module import locations

SUSPECTS_FILE = "suspects.csv"
THUMBNAILS_FILE = "thumbnails.json"
COLUMNS = ("filename", "label", "reason", "score", "proposed_label")


class Suspect(StoredPart):
    """An image that a person should review, and why. An image may have several reasons.

    Attributes:
      filename: Relative to the data folder.
      label: Its label, in words.
      reason: The kind of suspicion.
      score: Range [0, 1], higher is more suspicious.
      proposed_label: The more probable label; empty if there is no proposal.
    """

    filename: str
    label: str
    reason: str
    score: float
    proposed_label: str = ""


def by_image(suspects: Sequence[Suspect]) -> list[Suspect]:
    """Joins the suspects of an image to one, the most suspicious first: all reasons, highest score, first proposal."""
    images: dict[str, Suspect] = {}
    for each in sorted(suspects, key=lambda suspect: -suspect.score):
        known = images.setdefault(each.filename, each)
        changes = {"proposed_label": known.proposed_label or each.proposed_label}
        if each.reason not in known.reason:
            changes["reason"] = f"{known.reason}, {each.reason}"
        images[each.filename] = known.model_copy(update=changes)
    return list(images.values())


class AmbiguousPair(StoredPart):
    """Two classes whose images are confused in both directions.

    Attributes:
      classes: Their names.
      images: Number of images of one class for which the other is proposed.
      share: The same, as a share of the images of both.
    """

    classes: tuple[str, str]
    images: int
    share: float


class AuditSummary(Stored):
    """The counts of an audit.

    Attributes:
      images: Number of images that were audited.
      source: What the embeddings or predictions come from, in words.
      reasons: Number of suspects by reason.
      agreement: Share of the labels that the out-of-fold classifier predicts; None if there were too few images.
      ambiguous: Pairs of classes, the most confused first.
    """

    FILE: ClassVar[str] = "audit.json"

    format: Literal[1] = 1
    images: int
    source: str
    reasons: dict[str, int] = Field(default_factory=dict)
    agreement: float | None = None
    ambiguous: tuple[AmbiguousPair, ...] = ()


@dataclass(frozen=True)
class Audit:
    """All files of the artifact.

    Attributes:
      summary: The counts and estimates.
      suspects: The suspicious images, the most suspicious first.
      thumbnails: PNG files of some of them, by file name.
    """

    summary: AuditSummary
    suspects: tuple[Suspect, ...] = ()
    thumbnails: Mapping[str, bytes] = field(default_factory=dict)

    def with_thumbnails(self, thumbnails: Mapping[str, bytes]) -> Self:
        """Returns the audit with small images of suspects, by file name."""
        return replace(self, thumbnails=thumbnails)

    @classmethod
    def read(cls, uri: str) -> Self:
        """Reads the artifact.

        Args:
          uri: Its folder, local or remote.

        Raises:
          OSError: If a file cannot be read.
          IncompatibleArtifactError: If another version of tfx-vision wrote it.
        """
        summary, location = AuditSummary.read(uri), locations.join(uri, SUSPECTS_FILE)
        rows = list(csv.DictReader(io.StringIO(locations.read(location).decode(), newline="")))
        try:
            return cls(summary, tuple(Suspect.model_validate(row) for row in rows), _Thumbnails.read(uri).images)
        except ValueError as error:
            raise IncompatibleArtifactError(f"{location} cannot be read: {error}") from None

    def write(self, uri: str) -> None:
        """Writes the artifact.

        Raises:
          OSError: If it cannot be written.
        """
        locations.file_system(uri).makedirs(uri)
        locations.write(locations.join(uri, SUSPECTS_FILE), to_csv(self.suspects).encode())
        _Thumbnails(images=dict(self.thumbnails)).write(uri)
        self.summary.write(uri)


class _Thumbnails(Stored):
    """PNG files by file name of the image."""

    model_config = ConfigDict(ser_json_bytes="base64", val_json_bytes="base64")

    FILE: ClassVar[str] = THUMBNAILS_FILE

    format: Literal[1] = 1
    images: dict[str, bytes]


def to_csv(suspects: Sequence[Suspect]) -> str:
    """Returns the table of suspects: a header, and a row per image and reason."""
    buffer = io.StringIO(newline="")
    writer = csv.writer(buffer, lineterminator="\n")
    writer.writerow(COLUMNS)
    for each in suspects:
        writer.writerow([each.filename, each.label, each.reason, f"{each.score:.4f}", each.proposed_label])
    return buffer.getvalue()
