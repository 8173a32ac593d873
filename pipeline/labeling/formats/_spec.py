"""The record of a labelling program's format: what is exported for it, and how its annotations are read."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from components.image_example_gen import labels
from components.image_example_gen.class_list import Color
from pipeline.labeling.confirmed import Label


class LabelProject(NamedTuple):
    """Images, classes and proposals to label.

    Attributes:
      label_features: Raw example features of the label that every example of the dataset has.
      classes: Class names; of masks in the order of the ids.
      fill_id: With masks: the id of pixels that no region covers; None if every pixel must be covered.
      model: The model of the proposals, such as `digits, version 3`; empty without proposals.
      colors: Of the classes, for the programs that show them; empty for theirs.
    """

    label_features: tuple[str, ...]
    classes: tuple[str, ...]
    fill_id: int | None = None
    model: str = ""
    colors: tuple[Color, ...] = ()

    @property
    def has_boxes(self) -> bool:
        """Whether a label consists of boxes."""
        return labels.has_boxes(self.label_features)

    @property
    def has_masks(self) -> bool:
        """Whether a label is a mask."""
        return labels.has_class_ids(self.label_features)

    @property
    def has_sets(self) -> bool:
        """Whether an image may have any number of classes."""
        return labels.has_sets(self.label_features)


class ProposedImage(NamedTuple):
    """An image to label, and what the model proposes.

    Attributes:
      path: Of the file, relative to the folder of the export.
      width: Of the upright image, pixels.
      height: Of the upright image, pixels.
      proposal: What the model predicts; None without a proposal.
      uncertainty: Of the prediction, range [0, 1].
      novelty: How different the image is from the training data, range [0, 1).
      reason: Why it was chosen.
      request_id: Of the request that contained it; empty if there is none.
      source: Where the image comes from: a path, or the request log.
    """

    path: str
    width: int
    height: int
    proposal: Label | None = None
    uncertainty: float = 0.0
    novelty: float = 0.0
    reason: str = ""
    request_id: str = ""
    source: str = ""


class Annotated(NamedTuple):
    """An image that a person has labelled.

    Attributes:
      name: As the file of the program names the image.
      label: The label.
    """

    name: str
    label: Label


class Annotations(NamedTuple):
    """The content of a file with annotations.

    Attributes:
      images: Those with a label that a person has given or confirmed.
      skipped: Names of the others, and why they are not used.
    """

    images: tuple[Annotated, ...]
    skipped: tuple[tuple[str, str], ...] = ()


@dataclass(frozen=True, kw_only=True)
class LabelFormat:
    """How images are sent to a labelling program, and how annotations come back.

    Attributes:
      name: Name of the module.
      description: The files that are read, as a clause.
      is_one: (file name, first bytes) → whether it is a file with annotations in this format.
      files: Names of the files that `export` writes.
      export: (folder, images, project) → writes the files of the program into the folder, with the proposals as
        pre-annotations.
      read: (path, project) → the annotations of people. Predictions are never among them. Raises DatasetError if the
        file is damaged.
      has_labels_of: Label features of a dataset → whether the files can contain its labels.
    """

    name: str
    description: str
    is_one: Callable[[str, bytes], bool]
    files: tuple[str, ...]
    export: Callable[[Path, Sequence[ProposedImage], LabelProject], None]
    read: Callable[[Path, LabelProject], Annotations]
    has_labels_of: Callable[[Collection[str]], bool] = lambda label_features: True
