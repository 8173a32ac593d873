"""The images whose labels should be reviewed: DataAudit's result as sentences, tables and cards."""

from __future__ import annotations

import io
from dataclasses import dataclass

from PIL import Image

from components.data_audit.artifact import SUSPECTS_FILE, Audit, Suspect, by_image
from components.data_audit.thumbnails import NUM_THUMBNAILS
from components.model_report import images
from components.model_report.images import EmbeddedImage
from components.model_report.tables import Cell, Column, Table, count


@dataclass(frozen=True)
class SuspectCard:
    """A suspicious image on the page; without the image if the audit did not store it."""

    suspect: Suspect
    image: EmbeddedImage | None


@dataclass(frozen=True)
class LabelAudit:
    """The section of the audit.

    Attributes:
      sentence: Number of images and agreement.
      reasons: Images by reason, or None.
      ambiguous: Pairs of classes, or None.
      cards: The most suspicious images.
      table: Name of the file with all suspects.
    """

    sentence: str
    reasons: Table | None
    ambiguous: Table | None
    cards: list[SuspectCard]
    table: str = SUSPECTS_FILE


def summarize(audit: Audit | None) -> LabelAudit | None:
    """Describes an audit; None if DataAudit did not run."""
    if audit is None:
        return None
    summary = audit.summary
    sentence = f"{summary.images:,} images were audited with {summary.source}."
    if summary.agreement is not None:
        sentence += f" A classifier that has not seen the image agrees with {summary.agreement:.1%} of the labels."
    return LabelAudit(
        sentence=sentence,
        reasons=_reasons(summary.reasons) if summary.reasons else None,
        ambiguous=_ambiguous(audit) if summary.ambiguous else None,
        cards=[_card(suspect, audit) for suspect in by_image(audit.suspects)[:NUM_THUMBNAILS]],
    )


def _reasons(reasons: dict[str, int]) -> Table:
    rows = [[Cell(reason), count(number)] for reason, number in reasons.items()]
    return Table("Suspicious images by reason", [Column("Reason"), Column("Images", numeric=True)], rows)


def _ambiguous(audit: Audit) -> Table:
    rows = [
        [Cell(" and ".join(pair.classes)), count(pair.images), Cell(f"{pair.share:.1%}", pair.share)]
        for pair in audit.summary.ambiguous
    ]
    columns = [Column("Classes"), Column("Images", numeric=True), Column("Share", numeric=True)]
    return Table("Ambiguous classes: images of one for which the other is proposed", columns, rows)


def _card(suspect: Suspect, audit: Audit) -> SuspectCard:
    encoded = audit.thumbnails.get(suspect.filename)
    if encoded is None:
        return SuspectCard(suspect, None)
    with Image.open(io.BytesIO(encoded)) as image:
        return SuspectCard(suspect, images.embed_photo(image, f"{suspect.filename}, label {suspect.label or 'none'}"))
