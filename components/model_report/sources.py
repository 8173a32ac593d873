"""What the nodes of a run left, read and parsed: all that the report is made from."""

from __future__ import annotations

import datetime
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from components.evaluator.artifact import EvaluationResult, GateReport
from components.image_example_gen.artifact import DuplicateGroup, QuarantinedFile, Summary
from components.model_report.masks import Comparison
from components.model_report.pictures import Picture


@dataclass(frozen=True)
class Explained:
    """A decision with its Grad-CAM.

    Attributes:
      filename: As in the data.
      truth: Its class.
      predicted: The class that the model chose.
      score: Its probability.
      picture: As the model saw it.
      overlay: With the heat map.
      empty: Whether nothing speaks for the chosen class.
    """

    filename: str
    truth: str
    predicted: str
    score: float
    picture: Picture
    overlay: Picture
    empty: bool = False


@dataclass(frozen=True)
class Sizes:
    """Sides of the pictures of a split, before resizing, pixels: smallest, median, largest."""

    split: str
    widths: tuple[float, float, float]
    heights: tuple[float, float, float]
    formats: dict[str, int]


@dataclass(frozen=True)
class Push:
    """Where a model was pushed."""

    version: str
    destination: str


@dataclass(frozen=True)
class Sources:
    """What the nodes of a run left, read and parsed.

    Attributes:
      name: Of the served model.
      evaluation: Figures.
      gates: What the Evaluator's rules said.
      blessed: The Evaluator's verdict, as Pusher reads it.
      checks: ServingValidator's: name, passed, detail.
      servable: ServingValidator's verdict, as Pusher reads it.
      pushed: None if nothing was.
      baseline: What the model was compared with, in words; empty where nothing was there.
      history: Rows of `history.csv`.
      tuned: What Tuner found: name of the field → value.
      trials: Rows of `trials.csv`, if Tuner ran.
      data: ImageExampleGen's summary.
      sizes: Of the pictures, split by split.
      quarantined: The first quarantined files.
      duplicates: The first groups of duplicates.
      drift: ExampleValidator's comparisons: `previous_span` and `found`; of the splits `skew`, None where it was not
        looked for.
      explained: Whether GradCam has run.
      unfaithful: What GradCam's gate has against the explanations, a line each.
      mistakes: The most confident wrong decisions, the most confident first.
      right: The most confident right ones.
      scale: Colours of the heat maps as CSS says them, from no evidence to most.
      comparisons: Of masks: the pictures with the lowest pixel accuracy, the lowest first.
      legend: Of masks: class → colour as CSS says it.
      lineage: What the model was made from: name → value.
      versions: Of packages: name → version.
      configuration: The whole, as TOML.
      created: When the report is made.
    """

    name: str
    evaluation: EvaluationResult
    gates: GateReport
    blessed: bool
    checks: list[dict[str, Any]]
    servable: bool
    pushed: Push | None
    baseline: str
    history: list[dict[str, str]]
    data: Summary
    configuration: str
    created: datetime.datetime
    tuned: dict[str, Any] = field(default_factory=dict)
    trials: list[dict[str, str]] | None = None
    sizes: list[Sizes] = field(default_factory=list)
    quarantined: Sequence[QuarantinedFile] = ()
    duplicates: Sequence[DuplicateGroup] = ()
    drift: dict[str, Any] = field(default_factory=dict)
    explained: bool = False
    unfaithful: list[str] = field(default_factory=list)
    mistakes: list[Explained] = field(default_factory=list)
    right: list[Explained] = field(default_factory=list)
    scale: list[str] = field(default_factory=list)
    comparisons: list[Comparison] = field(default_factory=list)
    legend: list[tuple[str, str]] = field(default_factory=list)
    lineage: list[tuple[str, str]] = field(default_factory=list)
    versions: list[tuple[str, str]] = field(default_factory=list)
