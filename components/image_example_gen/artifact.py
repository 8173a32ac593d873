"""The quarantine artifact (unusable files, duplicates, corrections, counts) and the class names of examples."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import ClassVar, Literal, Self, TypeVar

from pydantic import Field, ValidationError

from components.stored import IncompatibleArtifactError, Stored, StoredPart
from trainer_module import locations
from trainer_module.model_input import Window

QUARANTINE_FILE = "quarantine.jsonl"
DUPLICATES_FILE = "duplicates.jsonl"
CORRECTIONS_FILE = "corrections.jsonl"

Kind = Literal["exact", "near"]
Action = Literal["relabel", "drop", "keep"]
_Part = TypeVar("_Part", bound=StoredPart)


class QuarantinedFile(StoredPart):
    """A file, or an example of a TFRecord file, that is not used, and the reason."""

    path: str
    reason: str


class DuplicateImage(StoredPart):
    """One image of a group of duplicates.

    Attributes:
      path: Relative to the data folder.
      classes: Its class names; empty if the label has none.
      split: Its split; empty if it is quarantined.
    """

    path: str
    classes: tuple[str, ...]
    split: str


class DuplicateGroup(StoredPart):
    """Images with the same bytes (`exact`), or with perceptual hashes that differ in few bits (`near`)."""

    kind: Kind
    images: tuple[DuplicateImage, ...]


class Correction(StoredPart):
    """An image that `data.corrections` decides about.

    Attributes:
      path: Relative to the data folder.
      action: `relabel`; `drop` removes it; `keep` confirms its label, so that an audit does not list it again.
      before: Its class names in the dataset; empty if the label has none.
      after: Those that are used.
    """

    path: str
    action: Action
    before: tuple[str, ...]
    after: tuple[str, ...]


class DuplicateCounts(StoredPart):
    """Number of duplicates of one kind.

    Attributes:
      groups: Groups of duplicates.
      duplicates: Images beyond the first of each group.
      leaking_groups: Groups whose images are in several splits.
    """

    groups: int
    duplicates: int
    leaking_groups: int


class SplitCounts(StoredPart):
    """Number of examples in a split.

    Attributes:
      examples: All of them.
      classes: Examples with the class, by class name; of masks, those with at least one pixel of it.
      pixels: Pixels of the class, by class name; empty if labels are not masks.
    """

    examples: int
    classes: dict[str, int]
    pixels: dict[str, int] = Field(default_factory=dict)


class ClassNames(Stored):
    """The class names of examples, beside their splits.

    Parameters of nodes do not contain them: Kubernetes limits the size of a run, and with it of all parameters.

    Attributes:
      names: Class names in the order of their ids.
    """

    FILE: ClassVar[str] = "classes.json"

    format: Literal[1] = 1
    names: tuple[str, ...]


class Summary(Stored):
    """The counts.

    Attributes:
      examples: Number of examples.
      quarantined: Number of quarantined files.
      reasons: Number of quarantined files by reason, without its details; the most frequent first.
      splits: Number of examples per split.
      duplicates: Number of duplicates by kind.
      span: Number of the newest span; 0 without spans.
      version: Version of that span.
      window: Values of 16-bit images that are read as black and white; None if there are none.
      warnings: What users should know about the images, one sentence each, with a count and file names.
      corrections: Number of images by action of `data.corrections`.
    """

    FILE: ClassVar[str] = "summary.json"

    format: Literal[1] = 1
    examples: int
    quarantined: int
    reasons: dict[str, int]
    splits: dict[str, SplitCounts]
    duplicates: dict[Kind, DuplicateCounts]
    span: int = 0
    version: int = 0
    window: Window | None = None
    warnings: tuple[str, ...] = ()
    corrections: dict[Action, int] = Field(default_factory=dict)

    @property
    def bit_depth(self) -> int | None:
        """Number of bits that 16-bit images are read with; None if there are none, or their window is another."""
        return self.window.bit_depth if self.window else None


@dataclass(frozen=True)
class Quarantine:
    """All files of the artifact.

    Attributes:
      summary: The counts.
      files: The quarantined files, by path.
      duplicates: The groups of duplicates.
      corrections: The corrected images, by path.
    """

    summary: Summary
    files: tuple[QuarantinedFile, ...] = ()
    duplicates: tuple[DuplicateGroup, ...] = ()
    corrections: tuple[Correction, ...] = ()

    @classmethod
    def read(cls, uri: str, most_lines: int | None = None) -> Self:
        """Reads the artifact.

        Args:
          uri: Its folder, local or remote.
          most_lines: Largest number of quarantined files, of groups and of corrections to read; all by default.

        Raises:
          OSError: If a file cannot be read.
          IncompatibleArtifactError: If another version of tfx-vision wrote it.
        """
        summary = Summary.read(uri)
        files = _read_lines(QuarantinedFile, locations.join(uri, QUARANTINE_FILE), most_lines)
        duplicates = _read_lines(DuplicateGroup, locations.join(uri, DUPLICATES_FILE), most_lines)
        # Artifacts of earlier releases have no such file.
        corrections = _read_lines(Correction, locations.join(uri, CORRECTIONS_FILE), most_lines)
        return cls(summary, tuple(files), tuple(duplicates), tuple(corrections) if summary.corrections else ())

    def write(self, uri: str, more_duplicates: Iterable[DuplicateGroup] = ()) -> None:
        """Writes the artifact.

        Args:
          uri: Its folder, local or remote.
          more_duplicates: Further groups of duplicates; those of a large dataset are never in memory together.

        Raises:
          OSError: If it cannot be written.
        """
        locations.file_system(uri).makedirs(uri)
        _write_lines(locations.join(uri, QUARANTINE_FILE), self.files)
        _write_lines(locations.join(uri, DUPLICATES_FILE), itertools.chain(self.duplicates, more_duplicates))
        _write_lines(locations.join(uri, CORRECTIONS_FILE), self.corrections)
        self.summary.write(uri)


def _read_lines(kind: type[_Part], location: str, most: int | None) -> Iterator[_Part]:
    with locations.os_errors(location), locations.file_system(location).GFile(location, "rb") as file:
        for number, line in enumerate(itertools.islice(file, most), start=1):
            try:
                yield kind.model_validate_json(line)
            except ValidationError as error:
                raise IncompatibleArtifactError(f"{location}, line {number}, cannot be read: {error}") from None


def _write_lines(location: str, lines: Iterable[StoredPart]) -> None:
    with locations.os_errors(location), locations.file_system(location).GFile(location, "wb") as file:
        file.write(b"")  # without any write, no file would be created
        for line in lines:
            file.write(line.model_dump_json().encode() + b"\n")
